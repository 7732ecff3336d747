package source

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

const maxAsking = 64 << 20 // bytes of what a fetch says it wants and has

// Handler serves /git/<workspace>/<project>.git; authenticate finds the actor
// of a request, or writes the refusal and gives ok false. Whoever comes without
// a token is the zero Actor and may read public projects.
func (s *Sources) Handler(authenticate func(http.ResponseWriter, *http.Request) (by access.Actor, ok bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// For the refusal that authenticate may write.
		w.Header().Set("WWW-Authenticate", `Basic realm="slipway", charset="UTF-8"`)
		by, ok := authenticate(w, r)
		if !ok {
			return
		}
		w.Header().Del("WWW-Authenticate")
		if err := s.serve(w, r, by); err != nil {
			refuse(w, r, err)
		}
	})
}

// refusal is an answer that git shows to its user.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		switch {
		case errdefs.IsNotFound(err):
			no = &refusal{http.StatusNotFound, "no such repository"}
		case errdefs.IsPermissionDenied(err):
			no = &refusal{http.StatusForbidden, err.Error()}
		case errdefs.IsUnavailable(err), errdefs.IsFailedPrecondition(err):
			no = &refusal{http.StatusBadGateway, err.Error()}
		default:
			slog.Error("git request failed", "room", "source", "path", r.URL.Path, "error", err)
			no = &refusal{http.StatusInternalServerError, "the server could not do this; its log says why"}
		}
	}
	if no.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="slipway", charset="UTF-8"`)
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	w.WriteHeader(no.status)
	_, _ = io.WriteString(w, no.text+"\n")
}

// asked is what a request wants.
type asked struct {
	workspace, name string
	command         string // upload-pack or receive-pack
	advertise       bool
}

func parse(r *http.Request) (asked, error) {
	path, ok := strings.CutPrefix(r.URL.Path, "/git/")
	if !ok {
		return asked{}, &refusal{http.StatusNotFound, "no such page"}
	}
	workspace, path, _ := strings.Cut(path, "/")
	repo, path, _ := strings.Cut(path, "/")
	name, ok := strings.CutSuffix(repo, ".git")
	if workspace == "" || !ok || name == "" {
		return asked{}, &refusal{http.StatusNotFound, "no such repository; its URL is /git/<workspace>/<project>.git"}
	}
	a := asked{workspace: workspace, name: name}
	switch {
	case path == "info/refs" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		a.advertise = true
		a.command, ok = strings.CutPrefix(r.URL.Query().Get("service"), "git-")
		if !ok {
			return a, &refusal{http.StatusForbidden, "only smart HTTP is served: git 1.6.6 or newer is needed"}
		}
	case r.Method == http.MethodPost:
		if a.command, ok = strings.CutPrefix(path, "git-"); !ok {
			return a, &refusal{http.StatusNotFound, "no such page"}
		}
		if want := "application/x-git-" + a.command + "-request"; r.Header.Get("Content-Type") != want {
			return a, &refusal{http.StatusUnsupportedMediaType, "the body is to be " + want}
		}
	default:
		return a, &refusal{http.StatusNotFound, "a repository is read with: git clone"}
	}
	if a.command != "upload-pack" && a.command != "receive-pack" {
		return a, &refusal{http.StatusForbidden, "service not enabled: git-" + a.command}
	}
	return a, nil
}

// find gives the project if the actor may do with it what it asks.
func (s *Sources) find(ctx context.Context, by access.Actor, a asked) (project.Project, error) {
	write := a.command == "receive-pack"
	p, err := s.projects.Find(ctx, access.System(access.User{}), a.workspace, a.name)
	if err != nil && !errdefs.IsNotFound(err) {
		return p, err
	}
	found := err == nil
	switch {
	case found && p.Public && !write:
		return p, nil
	case !by.Known():
		// A stranger is told the same of what is and of what is not.
		return p, &refusal{http.StatusUnauthorized, "a token is needed, as the password of any user name"}
	case !found:
		return p, err
	}
	scope := access.RepositoryRead
	if write {
		scope = access.RepositoryWrite
	}
	err = by.May(p.Workspace, scope)
	if errdefs.IsNotFound(err) && p.Public {
		return p, &refusal{http.StatusForbidden, "this repository is public to read, and you may not push to it"}
	}
	return p, err
}

func (s *Sources) serve(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	a, err := parse(r)
	if err != nil {
		return err
	}
	p, err := s.find(r.Context(), by, a)
	if err != nil {
		return err
	}
	if a.command == "receive-pack" && s.cfg.Room != nil {
		if err := s.cfg.Room(); err != nil {
			return &refusal{http.StatusInsufficientStorage, err.Error()}
		}
	}
	remote, _, err := s.loadRemote(r.Context(), p.ID)
	if err != nil {
		return err
	}
	var dir string
	switch {
	case remote == nil:
		dir, err = s.own(p.ID)
	case a.command == "receive-pack":
		return &refusal{http.StatusForbidden, "this project mirrors " + redact(remote.URL) + ": push there"}
	default:
		dir, err = s.wholeMirror(r.Context(), p.ID, remote, a.advertise)
	}
	if err != nil {
		return err
	}
	version := r.Header.Get("Git-Protocol")
	if len(version) > 128 || strings.Trim(version, "abcdefghijklmnopqrstuvwxyz0123456789=:-") != "" {
		version = ""
	}
	switch {
	case a.advertise:
		return s.advertise(w, r, a.command, dir, version)
	case a.command == "upload-pack":
		return s.upload(w, r, dir, version)
	}
	return s.receive(w, r, p.ID, dir, by.User.ID)
}

// serving holds for git processes that talk with a client.
func (s *Sources) serving(command, dir, version string, args ...string) call {
	c := call{
		args: append(append([]string{command}, args...), dir),
		config: []string{
			"transfer.fsckObjects=true",
			// Wrong in histories that are old and loved; harmless.
			"receive.fsck.zeroPaddedFilemode=ignore", "receive.fsck.badTimezone=ignore", "receive.fsck.missingSpaceBeforeDate=ignore",
			"receive.denyDeletes=false", "receive.denyNonFastForwards=false", "receive.denyDeleteCurrent=ignore",
			"receive.autogc=false", "receive.updateServerInfo=false", "receive.advertisePushOptions=false",
			"receive.unpackLimit=1", fmt.Sprintf("receive.maxInputSize=%d", s.cfg.MaxPush),
			// Branches and tags, and nothing else, may be pushed and are shown.
			"transfer.hideRefs=refs/", "transfer.hideRefs=!refs/heads/", "transfer.hideRefs=!refs/tags/",
			"uploadpack.allowFilter=true", "uploadpack.keepAlive=5", "receive.keepAlive=5",
		},
	}
	if version != "" {
		c.env = []string{"GIT_PROTOCOL=" + version}
	}
	return c
}

func answer(w http.ResponseWriter, kind string) {
	h := w.Header()
	h.Set("Content-Type", "application/x-git-"+kind)
	h.Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	h.Set("Expires", "Fri, 01 Jan 1980 00:00:00 GMT")
	h.Set("Pragma", "no-cache")
}

func (s *Sources) advertise(w http.ResponseWriter, r *http.Request, command, dir, version string) error {
	if command == "receive-pack" {
		version = ""
	}
	out, err := s.git.run(r.Context(), s.serving(command, dir, version, "--http-backend-info-refs"))
	if err != nil {
		return err
	}
	answer(w, command+"-advertisement")
	if !strings.Contains(version, "version=2") {
		line := "# service=git-" + command + "\n"
		_, _ = fmt.Fprintf(w, "%04x%s0000", len(line)+4, line)
	}
	_, err = w.Write(out)
	return gone(err)
}

// gone is the error of a client that went away: nobody is left to be told.
func gone(err error) error {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// body opens what the client sends; each read may take as long as idle.
func (s *Sources) body(w http.ResponseWriter, r *http.Request) (io.Reader, error) {
	in := io.Reader(&patient{r.Body, http.NewResponseController(w), s.idle})
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		return in, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, &refusal{http.StatusBadRequest, "the body is not gzip: " + err.Error()}
		}
		return io.MultiReader(z, &rest{r: in}), nil
	}
	return nil, &refusal{http.StatusUnsupportedMediaType, "the body is to be plain or gzip"}
}

// rest reads what should be the end: a body that is answered while it is sent
// must have been read to its end when the answer is done, and gzip stops a
// little earlier.
type rest struct{ r io.Reader }

func (e *rest) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if n > 0 {
		return 0, errors.New("the body goes on behind the end of gzip")
	}
	return 0, err
}

type patient struct {
	r    io.Reader
	rc   *http.ResponseController
	idle time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(p.idle)) // a recorder in a test has none
	n, err := p.r.Read(b)
	if err != nil {
		// The server goes on reading, to see the client go; that has no end.
		_ = p.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// flusher sends on at once what git says, so that progress is seen.
type flusher struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f *flusher) Write(b []byte) (int, error) {
	_ = f.rc.SetWriteDeadline(time.Now().Add(5 * time.Minute))
	n, err := f.w.Write(b)
	if err == nil {
		_ = f.rc.Flush()
	}
	return n, err
}

// upload answers a fetch.
func (s *Sources) upload(w http.ResponseWriter, r *http.Request, dir, version string) error {
	in, err := s.body(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	c := s.serving("upload-pack", dir, version, "--stateless-rpc")
	cmd := s.git.command(ctx, c)
	var errs tail
	cmd.Stderr = &errs
	cmd.Stdout = &flusher{w, rc}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answer(w, "upload-pack-result")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("git upload-pack: %w", err)
	}
	n, copied := io.Copy(stdin, io.LimitReader(in, maxAsking))
	_ = stdin.Close()
	if n == maxAsking || copied != nil && !errors.Is(copied, os.ErrClosed) && !isPipe(copied) {
		cancel(errors.New("the request was cut off"))
	}
	if err := cmd.Wait(); err != nil {
		slog.Info("git upload-pack ended early", "room", "source", "repository", dir, "error", c.failed(ctx, err, errs.String()))
		return gone(err) // the answer has begun; cutting it off is what git understands
	}
	return nil
}
