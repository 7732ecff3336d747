package source

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

const (
	maxAsking  = 64 << 20 // bytes of what a fetch says it wants and has
	maxRefused = 1 << 20  // of a body that was refused, which are read all the same
)

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
	local           string // commit of a working tree that is to be pushed, or ""
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
	if rest, ok := strings.CutPrefix(path, "local/"); ok {
		if a.local, path, _ = strings.Cut(rest, "/"); !isHash(a.local) {
			return a, &refusal{http.StatusNotFound, "a working tree is called by its commit"}
		}
	}
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
	if a.local != "" && a.command != "receive-pack" {
		return a, &refusal{http.StatusForbidden, "a working tree is pushed to be run, and cannot be fetched"}
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
	err = by.MayIn(p.Workspace, string(p.ID), scope)
	if err == nil && a.local != "" { // it is pushed for nothing else
		err = by.MayIn(p.Workspace, string(p.ID), access.ExecutionRun)
	}
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
	case a.command == "receive-pack" && a.local == "":
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
	case a.local != "":
		return s.serveLocal(w, r, p.ID, dir, a)
	case a.advertise:
		return s.advertise(w, r, p, a.command, dir, version)
	case a.command == "upload-pack":
		return s.upload(w, r, dir, version)
	}
	return s.receive(w, r, p, dir, by.User.ID)
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

// pulls lets a process take pull requests: refs as forges show them, with what is
// said of them by options of the push.
func (c call) pulls(allowed bool) call {
	if allowed {
		c.config = append(c.config, "transfer.hideRefs=!"+pulls, "receive.advertisePushOptions=true")
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

func (s *Sources) advertise(w http.ResponseWriter, r *http.Request, of project.Project, command, dir, version string) error {
	receives := command == "receive-pack"
	if receives {
		version = ""
	}
	return s.tellRefs(w, r, command, s.serving(command, dir, version).pulls(receives && of.PullRequests))
}

// tellRefs shows what a git process that talks with a client has.
func (s *Sources) tellRefs(w http.ResponseWriter, r *http.Request, command string, c call) error {
	c.args = append([]string{c.args[0], "--http-backend-info-refs"}, c.args[1:]...)
	out, err := s.git.run(r.Context(), c)
	if err != nil {
		return err
	}
	answer(w, command+"-advertisement")
	if !slices.ContainsFunc(c.env, func(e string) bool { return strings.Contains(e, "version=2") }) {
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
		return &unzipped{io.MultiReader(z, &rest{r: in})}, nil
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
		return 0, &refusal{http.StatusBadRequest, "the body goes on behind the end of gzip"}
	}
	return 0, err
}

// unzipped tells a body that is no whole gzip.
type unzipped struct{ r io.Reader }

func (u *unzipped) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	var corrupt flate.CorruptInputError
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &corrupt) {
		err = &refusal{http.StatusBadRequest, "the body is no whole gzip: " + err.Error()}
	}
	return n, err
}

// malformed are git's words for what a client has sent.
var malformed = regexp.MustCompile(`(?i)protocol error|bad line length|hung up unexpectedly|early EOF|unknown (capability|object format)|(invalid|no) command|expected (flush|to get)|unexpected (line|flush|argument)|bad (pack )?header`)

// ended is the answer to a request that git did not do. As long as nothing was
// sent it says what is wrong with the body; later on, or if the fault is ours,
// the answer is cut off, which is what git's clients understand.
func (s *Sources) ended(w http.ResponseWriter, r *http.Request, sent int64, err error) error {
	var no *refusal
	var g *gitError
	switch {
	case sent > 0:
		return gone(err)
	case errors.As(err, &no):
	case errors.As(err, &g) && malformed.MatchString(g.text):
		no = &refusal{http.StatusBadRequest, "the body is not what git sends: " + g.text}
	default:
		return gone(err)
	}
	// A client listens when it has sent everything; and where a body was not
	// read to its end, the server cannot read the next request.
	w.Header().Set("Connection", "close")
	_, _ = io.Copy(io.Discard, io.LimitReader(&patient{r.Body, http.NewResponseController(w), s.idle}, maxRefused))
	return no
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
	n  int64 // bytes that were sent
}

func (f *flusher) Write(b []byte) (int, error) {
	_ = f.rc.SetWriteDeadline(time.Now().Add(5 * time.Minute))
	n, err := f.w.Write(b)
	f.n += int64(n)
	if err == nil {
		_ = f.rc.Flush()
	}
	return n, err
}

// upload answers a fetch.
func (s *Sources) upload(w http.ResponseWriter, r *http.Request, dir, version string) error {
	return s.converse(w, r, s.serving("upload-pack", dir, version), maxAsking, "a fetch may ask for no more than 64 MiB")
}

// converse lets git answer a request of at most so many bytes; more is refused
// in these words.
func (s *Sources) converse(w http.ResponseWriter, r *http.Request, c call, most int64, more string) error {
	in, err := s.body(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	kind := c.args[0]
	c.args = append([]string{kind, "--stateless-rpc"}, c.args[1:]...)
	cmd := s.git.command(ctx, c)
	var errs tail
	cmd.Stderr = &errs
	out := &flusher{w: w, rc: rc}
	cmd.Stdout = out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answer(w, kind+"-result")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("git %s: %w", kind, err)
	}
	n, copied := io.Copy(stdin, io.LimitReader(in, most))
	_ = stdin.Close()
	switch {
	case n == most:
		cancel(&refusal{http.StatusRequestEntityTooLarge, more})
	case copied != nil && !isPipe(copied):
		cancel(fmt.Errorf("the request was cut off: %w", copied))
	}
	if err := cmd.Wait(); err != nil {
		err = c.failed(ctx, err, errs.String())
		slog.Info("git "+kind+" ended early", "room", "source", "path", r.URL.Path, "error", err)
		return s.ended(w, r, out.n, err)
	}
	return nil
}
