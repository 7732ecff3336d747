// Package buddy is the dialect of Buddy's REST API: its route table and the
// mapping between its JSON and the core. It knows the words of three ages of
// the vendor's pages (2022 to 2026) and answers in those of the newest.
//
// What of a pipeline and an action is obeyed, stored only, or ignored is in
// docs/buddy.md, which a test holds to the tables of this package.
package buddy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/event"
	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// Rooms are the front doors that the dialect speaks to.
type Rooms struct {
	Access    *access.Access
	Projects  *project.Projects
	Secrets   *secret.Secrets
	Sources   *source.Sources
	Pipelines *pipeline.Pipelines
	Files     *pipeline.Files
	Hooks     *event.Hooks
}

type handlers struct {
	Rooms
	base string // public URL without a slash at its end
}

// New makes the dialect; publicURL is how others reach the server.
func New(publicURL string, r Rooms) api.Dialect {
	h := &handlers{r, strings.TrimSuffix(publicURL, "/")}
	return api.Dialect{
		Name:     Name,
		Prefixes: []string{"/workspaces", "/user", "/api", "/apiworkspaces", "/oauth2"},
		Rewrite:  rewrite,
		Token:    func(r *http.Request) string { return r.URL.Query().Get("access_token") },
		Fail:     fail,
		Before:   before,
		Known:    known,
		Table:    h.table(),
		Limits: map[string]int64{
			"POST " + atProject + "/repository/contents":          contentLimit,
			"PUT " + atProject + "/repository/contents/{path...}": contentLimit,
			"POST " + atPipeline + "/files":                       contentLimit,
			"PUT " + atPipeline + "/files/{path...}":              contentLimit,
		},
	}
}

// Where things are.
const (
	atUser      = "/user"
	atWorkspace = "/workspaces/{workspace}"
	atProject   = atWorkspace + "/projects/{project}"
	atPipeline  = atProject + "/pipelines/{pipeline}"
)

// rewrite knows the aliases: everything is served below /api too, where
// self-hosted installations have it, and one call of the vendor's SDK leaves
// out a slash.
func rewrite(path string) string {
	if rest, ok := strings.CutPrefix(path, "/apiworkspaces"); ok && (rest == "" || rest[0] == '/') {
		return "/workspaces" + rest
	}
	if rest, ok := strings.CutPrefix(path, "/api/"); ok {
		return "/" + rest
	}
	return path
}

// table puts the parts of the dialect together.
func (h *handlers) table() map[string]api.Handler {
	t := map[string]api.Handler{}
	for _, part := range []map[string]api.Handler{
		h.account(), h.keys(), h.emails(), h.tokens(), h.places(), h.work(), h.repository(), h.files(),
		h.members(), h.groups(), h.groupMembers(), h.permissionSets(), h.memberTeam().routes(h), h.groupTeam().routes(h),
		h.variables(), h.environments(), h.integrations(), h.webhooks(),
	} {
		maps.Copy(t, part)
	}
	return t
}

// account is of the user itself.
func (h *handlers) account() map[string]api.Handler {
	return map[string]api.Handler{
		"GET " + atUser:            h.getUser,
		"PATCH " + atUser:          h.renameUser,
		"GET " + atUser + "/token": h.getOwnToken,
	}
}

// places are workspaces and projects.
func (h *handlers) places() map[string]api.Handler {
	const w, p = atWorkspace, atProject
	return map[string]api.Handler{
		"GET /workspaces":         h.listWorkspaces,
		"POST /workspaces":        h.createWorkspace,
		"GET " + w:                h.getWorkspace,
		"PATCH " + w:              h.renameWorkspace,
		"DELETE " + w:             h.deleteWorkspace,
		"GET " + w + "/projects":  h.listProjects,
		"POST " + w + "/projects": h.createProject,
		"GET " + p:                h.getProject,
		"PATCH " + p:              h.updateProject,
		"DELETE " + p:             h.deleteProject,
	}
}

// work is pipelines, their actions and their executions.
func (h *handlers) work() map[string]api.Handler {
	const p, l = atProject, atPipeline
	return map[string]api.Handler{
		"GET " + p + "/pipelines":                                    h.listPipelines,
		"POST " + p + "/pipelines":                                   h.createPipeline,
		"GET " + l:                                                   h.getPipeline,
		"PATCH " + l:                                                 h.updatePipeline,
		"DELETE " + l:                                                h.deletePipeline,
		"GET " + l + "/actions":                                      h.listActions,
		"POST " + l + "/actions":                                     h.createAction,
		"GET " + l + "/actions/{action}":                             h.getAction,
		"PATCH " + l + "/actions/{action}":                           h.updateAction,
		"DELETE " + l + "/actions/{action}":                          h.deleteAction,
		"GET " + l + "/executions":                                   h.listExecutions,
		"POST " + l + "/executions":                                  h.startExecution,
		"GET " + l + "/executions/{number}":                          h.getExecution,
		"PATCH " + l + "/executions/{number}":                        h.operate,
		"GET " + l + "/executions/{number}/action_executions/{step}": h.getStep,
		"GET " + l + "/executions/{number}/action_executions/{step}/logs": h.getLogs,
		"GET " + l + "/executions/{number}/action/{action}":               h.getStepOfAction,
	}
}

// repository is what is in a project's git repository.
func (h *handlers) repository() map[string]api.Handler {
	const at = atProject + "/repository"
	return map[string]api.Handler{
		"GET " + at + "/contents":              h.getContent,
		"POST " + at + "/contents":             h.createContent,
		"GET " + at + "/contents/{path...}":    h.getContent,
		"PUT " + at + "/contents/{path...}":    h.updateContent,
		"DELETE " + at + "/contents/{path...}": h.deleteContent,
		"GET " + at + "/branches":              h.listBranches,
		"POST " + at + "/branches":             h.createBranch,
		"GET " + at + "/branches/{ref...}":     h.getBranch,
		"DELETE " + at + "/branches/{ref...}":  h.deleteBranch,
		"GET " + at + "/tags":                  h.listTags,
		"GET " + at + "/tags/{ref...}":         h.getTag,
		"GET " + at + "/commits":               h.listCommits,
		"GET " + at + "/commits/{revision...}": h.getCommit,
	}
}

// files are those of a pipeline.
func (h *handlers) files() map[string]api.Handler {
	const at = atPipeline + "/files"
	return map[string]api.Handler{
		"POST " + at:                        h.addFile,
		"GET " + at + "/search":             h.searchFiles,
		"GET " + at + "/contents":           h.getFile,
		"GET " + at + "/contents/{path...}": h.getFile,
		"PUT " + at + "/{path...}":          h.updateFile,
		"DELETE " + at + "/{path...}":       h.deleteFile,
	}
}

// before sets the limits that clients wait for when they are low: to strangers,
// who have none, far away, and reset in the future.
func before(w http.ResponseWriter, _ *http.Request) {
	limits(w.Header(), api.Quota{Limit: 100000, Remaining: 99999, Reset: time.Now().Add(time.Minute)})
}

// limits writes what is left to a token. The reset is in the next second at the
// soonest: clients wait for one that has passed until the end of days.
func limits(h http.Header, q api.Quota) {
	h.Set("X-Rate-Limit-Limit", strconv.Itoa(q.Limit))
	h.Set("X-Rate-Limit-Remaining", strconv.Itoa(q.Remaining))
	h.Set("X-Rate-Limit-Reset", strconv.FormatInt(q.Reset.Unix()+1, 10))
}

// known tells a client what is left to its token, and which scopes that has and
// which the route takes. The names of the headers are the vendor's.
func known(h http.Header, pattern string, by access.Actor, q api.Quota) {
	limits(h, q)
	h.Set("X-0Auth-Scopes", joined(by.Token.Scopes))
	h.Set("X-Accepted-0Auth-Scopes", joined(accepted(pattern)))
}

func joined(l []access.Scope) string {
	var b strings.Builder
	for i, s := range l {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(s))
	}
	return b.String()
}

// fail answers an error: {"errors":[{"message":...}]}, one for each bad field.
// A name that is taken and a full disk are 400: clients of this API repeat
// every 5xx five times. A key with another start than before, a mirror that would
// be written to and files that a run uses are 409.
func fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	switch {
	case errors.Is(err, pipeline.ErrKeyUsed), errors.Is(err, pipeline.ErrRunning), errors.Is(err, source.ErrReadOnly):
	case status == http.StatusConflict, status == http.StatusPreconditionFailed, status == http.StatusInsufficientStorage:
		status = http.StatusBadRequest
	}
	type message struct {
		Message string `json:"message"`
	}
	var l []message
	if inv, ok := project.AsInvalid(err); ok {
		for _, f := range inv.Fields {
			if f.Path == "" {
				l = append(l, message{f.Message})
				continue
			}
			l = append(l, message{f.Path + ": " + f.Message})
		}
	}
	if len(l) == 0 {
		text := http.StatusText(status)
		switch {
		case status >= 500:
			text = "Internal error; its cause is in the server's log under the request id " + api.ID(r)
		case status == http.StatusUnauthorized:
			text = "Wrong authentication data"
		case err != nil:
			text = api.Text(err)
		}
		l = []message{{text}}
	}
	_ = api.JSON(w, status, map[string]any{"errors": l})
}

// place is where an object lies, for its links; what lies in no workspace is the
// user's own.
type place struct {
	base, workspace, project string
	pipeline                 pipeline.ID
}

func (p place) path() string {
	if p.workspace == "" {
		return atUser
	}
	s := "/workspaces/" + p.workspace
	if p.project != "" {
		s += "/projects/" + p.project
	}
	if p.pipeline != 0 {
		s += "/pipelines/" + strconv.FormatInt(int64(p.pipeline), 10)
	}
	return s
}

// url is the link of the API to something below the place.
func (p place) url(format string, a ...any) string {
	return p.base + p.path() + fmt.Sprintf(format, a...)
}

// page is the link to its page of the console.
func (p place) page(format string, a ...any) string {
	s := p.base + "/ui/" + cmp.Or(p.workspace, "user")
	if p.project != "" {
		s += "/" + p.project
	}
	if p.pipeline != 0 {
		s += "/pipelines/" + strconv.FormatInt(int64(p.pipeline), 10)
	}
	return s + fmt.Sprintf(format, a...)
}

func (p place) in(id pipeline.ID) place { p.pipeline = id; return p }

// listQuery is what all lists are asked with.
type listQuery struct {
	page, size int
	by         string
	down       bool
}

func readQuery(r *http.Request) (listQuery, error) {
	q := listQuery{by: "id"}
	var inv project.Invalid
	number := func(name string, def, least, most int) int {
		n, err := api.Number(r, name, def, least)
		if i, ok := project.AsInvalid(err); ok {
			inv.Fields = append(inv.Fields, i.Fields...)
		}
		return min(n, most)
	}
	q.page, q.size = number("page", 1, 1, 1<<30), number("per_page", 20, 1, 1000)
	switch by := r.URL.Query().Get("sort_by"); by {
	case "":
	case "name", "id":
		q.by = by
	default:
		inv.Add("sort_by", "enum", "must be one of name, id")
	}
	switch strings.ToUpper(r.URL.Query().Get("sort_direction")) {
	case "", "ASC":
	case "DESC":
		q.down = true
	default:
		inv.Add("sort_direction", "enum", "must be one of ASC, DESC")
	}
	return q, inv.Err()
}

// readWhole is readQuery for a list of so many that clients ask for once: without
// a page it is whole.
func readWhole(r *http.Request, n int) (listQuery, error) {
	q, err := readQuery(r)
	if v := r.URL.Query(); v.Get("page") == "" && v.Get("per_page") == "" {
		q.size = max(q.size, n)
	}
	return q, err
}

func compareFold(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }

// number reads an id of the path; what is none does not exist.
func number(r *http.Request, name string) (int64, error) {
	n, err := strconv.ParseInt(r.PathValue(name), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s %q: %w", name, r.PathValue(name), errdefs.ErrNotFound)
	}
	return n, nil
}

// decode reads the members of a body.
func decode(w http.ResponseWriter, r *http.Request) (body, error) {
	b := body{}
	if err := api.Decode(w, r, &b); err != nil {
		return nil, err
	}
	if b == nil {
		return body{}, nil
	}
	return b, nil
}

// ignored lists members that nobody reads.
func ignored(w http.ResponseWriter, names []string) {
	if len(names) > 0 {
		w.Header().Set(api.IgnoredHeader, strings.Join(names, ", "))
	}
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
