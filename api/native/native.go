// Package native is the dialect of our own: only what the other three cannot
// say. docs/native.md lists its routes.
package native

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/event"
	"slipway/image"
	"slipway/logs"
	"slipway/pipeline"
	"slipway/project"
)

// Prefix is where the dialect is mounted.
const Prefix = "/slipway/v1"

// Server says what a client must know of the server.
type Server struct {
	Version      string `json:"version"`
	PublicURL    string `json:"public_url"`
	IngressHTTP  string `json:"ingress_http"`
	IngressHTTPS string `json:"ingress_https"`
	Domain       string `json:"domain"`
}

// Handlers holds the front doors that the dialect speaks to.
type Handlers struct {
	Server    Server
	Access    *access.Access
	Projects  *project.Projects
	Images    *image.Images
	Events    *event.Outbox
	Pipelines *pipeline.Pipelines
	Reruns    *pipeline.Reruns
	Code      Code
	Check     func(context.Context) error
	// Going is closed when the server is to end: who waits for events waits no
	// longer.
	Going <-chan struct{}
}

// Dialect is the dialect as a value.
func (h *Handlers) Dialect() api.Dialect {
	return api.Dialect{
		Name: "native", Prefixes: []string{Prefix, hooksPrefix}, Fail: fail, Secret: hooksPrefix + "/",
		Table: map[string]api.Handler{
			"GET " + projectPath + "/hooks":                     h.listHooks,
			"POST " + hooksPrefix + "/{code}":                   h.startByHook,
			"GET " + projectPath + "/pipelines:export":          h.exportAll,
			"POST " + projectPath + "/pipelines:import":         h.importAll,
			"GET " + projectPath + "/pipelines/{pipeline}/yaml": h.exportOne,
			"GET " + executionPath:                              h.account,
			"POST " + localPath:                                 h.runLocal,
			"POST " + executionPath + "/rerun":                  h.rerun,
			"GET " + Prefix + "/actions/{step}":                 h.stepAccount,
			"GET " + Prefix + "/server":                         h.server,
			"POST " + Prefix + "/images:load":                   h.loadImages,
			"GET " + Prefix + "/events":                         h.tailEvents,
			"GET " + Prefix + "/logs/actions/{action}":          h.actionLog,
			"POST " + Prefix + "/server:check":                  h.check,

			"GET " + Prefix + "/oauth2/applications":                  h.listApps,
			"POST " + Prefix + "/oauth2/applications":                 h.createApp,
			"DELETE " + Prefix + "/oauth2/applications/{application}": h.deleteApp,

			"POST " + Prefix + "/workspaces/{workspace}/members/{member}/tokens": h.memberToken,
		},
		Open:   map[string]bool{"POST " + hooksPrefix + "/{code}": true},
		Stream: map[string]bool{"POST " + Prefix + "/images:load": true, "GET " + Prefix + "/events": true},
	}
}

// body is the shape of an error.
type body struct {
	Errors []fault `json:"errors"`
}

type fault struct {
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
}

func fail(w http.ResponseWriter, _ *http.Request, status int, err error) {
	var b body
	if bad, ok := project.AsInvalid(err); ok {
		for _, f := range bad.Fields {
			b.Errors = append(b.Errors, fault{strings.TrimPrefix(f.Path+": "+f.Message, ": "), f.Path})
		}
	} else if status >= 500 && !errdefs.IsResourceExhausted(err) {
		b.Errors = []fault{{Message: "internal error; the server's log has it under the request id"}}
	} else {
		b.Errors = []fault{{Message: api.Text(err)}}
	}
	_ = api.JSON(w, status, b)
}

func (h *Handlers) server(w http.ResponseWriter, _ *http.Request, _ access.Actor) error {
	return api.JSON(w, http.StatusOK, h.Server)
}

type tag struct {
	Name   string `json:"name"`
	Tag    string `json:"tag"`
	Digest string `json:"digest"`
}

// loadImages stores an archive under any name, for one workspace.
func (h *Handlers) loadImages(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := r.URL.Query()
	for k := range q {
		if k != "name" && k != "workspace" && k != "access_token" {
			return &project.Invalid{Fields: []project.Field{{Path: k, Kind: "unknown", Message: "there is no such parameter; there are name and workspace"}}}
		}
	}
	domain := q.Get("workspace")
	if domain == "" {
		l, err := h.Projects.Workspaces(r.Context(), by)
		if err != nil {
			return err
		}
		if len(l) != 1 {
			return &project.Invalid{Fields: []project.Field{{Path: "workspace", Kind: "required", Message: fmt.Sprintf("the token is good for %d workspaces; say which", len(l))}}}
		}
		domain = l[0].Domain
	}
	ws, err := h.Projects.Workspace(r.Context(), by, domain)
	if err != nil {
		return err
	}
	loaded, err := h.Images.Load(r.Context(), by, ws.ID, q.Get("name"), r.Body)
	if err != nil {
		return err
	}
	out := struct {
		Images []tag `json:"images"`
	}{[]tag{}}
	for _, t := range loaded {
		out.Images = append(out.Images, tag{t.Repository, t.Tag, t.Digest})
	}
	return api.JSON(w, http.StatusCreated, out)
}

var errGoing = errors.New("the server ends")

// tailEvents sends what happens as server-sent events; Last-Event-ID or after
// says where to go on, and without either it begins now.
func (h *Handlers) tailEvents(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.ExecutionInfo); err != nil {
		return err
	}
	after := int64(-1)
	for _, s := range []string{r.URL.Query().Get("after"), r.Header.Get("Last-Event-ID")} {
		if s == "" {
			continue
		}
		var err error
		if after, err = strconv.ParseInt(s, 10, 64); err != nil || after < 0 {
			return &project.Invalid{Fields: []project.Field{{Path: "after", Kind: "format", Message: "must be the number of an event"}}}
		}
	}
	f := event.Filter{Project: r.URL.Query().Get("project"), Subject: r.URL.Query().Get("subject")}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-h.Going:
			cancel(errGoing)
		case <-ctx.Done():
		}
	}()
	err := h.Events.Tail(ctx, by, after, f, func(e event.Event) error {
		if may, err := h.Pipelines.MayHear(ctx, by, e); err != nil || !may {
			return err
		}
		_ = rc.SetWriteDeadline(time.Now().Add(30 * time.Second))
		j, err := json.Marshal(map[string]any{"seq": e.Seq, "at": api.Time(e.At), "kind": e.Kind, "project": e.Project, "subject": e.Subject, "data": e.Data})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Kind, j); err != nil {
			return err
		}
		return rc.Flush()
	})
	if ctx.Err() != nil {
		return nil // whoever listened has gone, or we go
	}
	return err
}

// actionLog gives the whole log of an action as text.
func (h *Handlers) actionLog(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	b := bufio.NewWriterSize(w, 64<<10)
	err := h.Pipelines.StreamLog(r.Context(), by, r.PathValue("action"), func(lines []logs.Line) error {
		for _, l := range lines {
			if _, err := b.WriteString(l.Text); err != nil {
				return err
			}
			if err := b.WriteByte('\n'); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, b.Flush())
}

// check looks at the stores of the running server; only who may do everything,
// and everywhere, may ask for that much work.
func (h *Handlers) check(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.WorkspacesManage); err != nil {
		return err
	}
	if len(by.Token.Workspaces) > 0 {
		return fmt.Errorf("the token is good for some workspaces only, and the server is that of all: %w", errdefs.ErrPermissionDenied)
	}
	if err := h.Check(r.Context()); err != nil {
		return &project.Invalid{Fields: []project.Field{{Path: "server", Kind: "format", Message: err.Error()}}}
	}
	return api.JSON(w, http.StatusOK, map[string]string{"status": "whole"})
}

// memberToken makes a token of a member, for the workspace alone.
func (h *Handlers) memberToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	user, err := strconv.ParseInt(r.PathValue("member"), 10, 64)
	if err != nil {
		return fmt.Errorf("member %q: %w", r.PathValue("member"), errdefs.ErrNotFound)
	}
	var b struct {
		Name      string         `json:"name"`
		Scopes    []access.Scope `json:"scopes"`
		ExpiresAt time.Time      `json:"expires_at"`
	}
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	t, secret, err := h.Access.MemberToken(r.Context(), by, ws.ID, user, access.NewToken{Name: b.Name, Scopes: b.Scopes, Expires: b.ExpiresAt})
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, map[string]any{"id": t.ID, "name": t.Name, "scopes": t.Scopes, "token": secret})
}
