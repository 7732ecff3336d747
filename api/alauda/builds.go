package alauda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/logs"
	"slipway/pipeline"
	"slipway/project"
)

// pageSize is how many builds a page has.
const pageSize = 20

// letters are the states in the dialect's words. Clients know S, F and D as
// ends; anything else is under way.
var letters = map[pipeline.Status]string{
	pipeline.Initial: "W", pipeline.Enqueued: "W", pipeline.InProgress: "I", pipeline.Terminating: "I",
	pipeline.Successful: "S", pipeline.Failed: "F", pipeline.Terminated: "D", pipeline.Skipped: "D", pipeline.NotExecuted: "D",
}

// step is how far a build is, 1 to 50.
func step(x pipeline.Execution) int {
	b := buildOf(x)
	switch {
	case x.Status == pipeline.Successful:
		return 50
	case x.Started.IsZero():
		return 1
	case b != nil && b.Status == pipeline.Successful:
		return 40
	case b != nil && !b.Started.IsZero():
		return 20
	}
	return 5
}

// buildOf is the step that builds the image, nil if people took it away.
func buildOf(x pipeline.Execution) *pipeline.ActionExecution {
	for i, s := range x.Steps {
		if s.Action.Build != nil && s.Action.Build.Archive {
			return &x.Steps[i]
		}
	}
	return nil
}

func (h *Handlers) startBuild(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	var b startBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	bad := &project.Invalid{}
	if b.Namespace == "" {
		ws, err := h.namespace(r, by, "")
		if err != nil {
			return err
		}
		b.Namespace = ws.Domain
	}
	if b.RepoName == "" {
		bad.Add("repo_name", "required", "is required")
	}
	if b.CodeRepoPath != nil && *b.CodeRepoPath != "" {
		bad.Add("code_repo_path", "unsupported", "uploads are built by `slipway build`")
	}
	if err := bad.Err(); err != nil {
		return err
	}
	p, err := h.find(r, by, b.Namespace, b.RepoName)
	if err != nil {
		return err
	}
	pls, err := h.tagPipelines(r.Context(), by, p.ID)
	if err != nil {
		return err
	}
	var pl *pipeline.Pipeline
	for i := range pls {
		if k := tagOf(pls[i]); k.Tag == b.Tag || b.Tag == "" && len(pls) == 1 {
			pl = &pls[i]
		}
	}
	switch {
	case pl == nil && b.Tag == "" && len(pls) > 0:
		bad.Add("tag", "required", "is required: the repository has more than one")
		return bad.Err()
	case pl == nil:
		bad.Add("tag", "unknown", fmt.Sprintf("%q is no tag of the build configuration of %s/%s", b.Tag, p.Domain, p.Name))
		return bad.Err()
	}
	k := tagOf(*pl)
	s := pipeline.Start{Branch: k.Ref}
	if k.RefType == "tag" {
		s = pipeline.Start{Tag: k.Ref}
	}
	if b.CodeCommitID != nil {
		s.Revision = *b.CodeCommitID
	}
	x, err := h.Pipelines.Start(r.Context(), by, pl.ID, s)
	if err != nil {
		return paths(err, func(at string) string {
			switch {
			case at == "to_revision.revision" && s.Revision != "":
				return "code_commit_id"
			case at == "branch.name", at == "tag.name", at == "to_revision.revision":
				return "tag"
			}
			return at
		})
	}
	return h.answerBuild(w, r, p, x, http.StatusCreated)
}

// namespace is the workspace that a request means: the one named, or the
// token's only one, or the first of its user.
func (h *Handlers) namespace(r *http.Request, by access.Actor, name string) (project.Workspace, error) {
	if name != "" {
		return h.Projects.Workspace(r.Context(), by, name)
	}
	l, err := h.Projects.Workspaces(r.Context(), by)
	if err != nil {
		return project.Workspace{}, err
	}
	if len(l) == 0 {
		return project.Workspace{}, fmt.Errorf("a namespace: %w", errdefs.ErrNotFound)
	}
	return l[0], nil
}

// owned finds an execution that is a build, with its project.
func (h *Handlers) owned(r *http.Request, by access.Actor) (pipeline.Execution, project.Project, error) {
	id := r.PathValue("build")
	x, err := h.Pipelines.Execution(r.Context(), by, pipeline.ExecutionID(id))
	if err == nil && x.Frozen.Attrs[key] == nil {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return x, project.Project{}, fmt.Errorf("build %s: %w", id, err)
	}
	p, err := h.Projects.Get(r.Context(), by, string(x.Project))
	return x, p, err
}

func (h *Handlers) getBuild(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	x, p, err := h.owned(r, by)
	if err != nil {
		return err
	}
	return h.answerBuild(w, r, p, x, http.StatusOK)
}

func (h *Handlers) answerBuild(w http.ResponseWriter, r *http.Request, p project.Project, x pipeline.Execution, status int) error {
	b, err := h.build(r.Context(), p, x, h.username(r, x.By))
	if err != nil {
		return err
	}
	return api.JSON(w, status, b)
}

// build maps an execution.
func (h *Handlers) build(ctx context.Context, p project.Project, x pipeline.Execution, username string) (buildJSON, error) {
	k := tagOf(x.Frozen)
	c := k.Config
	b := buildJSON{
		BuildID: string(x.ID), CreatedAt: api.Time(x.Created), StartedAt: api.Time(x.Started), EndedAt: api.Time(x.Finished),
		CodeRepoClient: c.Client, CodeRepoPath: c.Path, CodeRepoType: k.RefType, CodeRepoTypeValue: k.Ref, CreatedBy: username, Detail: detail(x),
		DockerRepoPath: p.Domain + "/" + p.Name, DockerRepoTag: k.Tag, DockerfileLocation: k.Dockerfile, Status: letters[x.Status],
		AutoCreated: x.Mode != pipeline.Manual, StepAt: step(x), BuildNode: c.BuildNode, BuildContextPath: k.Context, BuildCacheEnabled: k.Cache,
		CodeRepoHTTPURL: c.url(""), IsRemovable: !x.Status.Ended(),
	}
	f := forges[c.Client]
	b.CodeRepoBranchURL = c.url(f.branch + (&url.URL{Path: k.Ref}).EscapedPath())
	version := x.Version()
	if x.Commit != nil {
		b.CodeHeadCommit = &x.Commit.Revision
		b.CodeCommitHTTPURL = c.url(f.commit + x.Commit.Revision)
	}
	switch {
	case k.VersionTagging == 1:
		b.DockerRepoVersionTag = &version
	case k.VersionTagging == 2 && x.Commit != nil:
		b.DockerRepoVersionTag = &x.Commit.Revision
	}
	if s := buildOf(x); s != nil && s.Digest != "" && s.Status == pipeline.Successful {
		id, err := h.Images.ConfigID(ctx, s.Digest)
		if err != nil && !errdefs.IsNotFound(err) { // it may have been removed since
			return b, err
		}
		if len(id) >= 12 {
			id = id[:12]
			b.ImageID = &id
		}
	}
	return b, nil
}

// detail tells the story of a build, line by line.
func detail(x pipeline.Execution) string {
	s := "build request was created.\n"
	for _, st := range x.Steps {
		if st.Error != "" {
			s += st.Action.Name + ": " + st.Error + "\n"
		}
	}
	return s
}

func (h *Handlers) listBuilds(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	page, err := api.Number(r, "page", 1, 1)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	ws, err := h.namespace(r, by, q.Get("namespace"))
	if err != nil {
		return err
	}
	f := pipeline.Search{Workspace: ws.ID, Dialect: key, Offset: (page - 1) * pageSize, Limit: pageSize}
	if repo := q.Get("repo_name"); repo != "" {
		p, err := h.find(r, by, ws.Domain, repo)
		if err != nil {
			return err
		}
		f.Project = p.ID
	}
	l, total, err := h.Pipelines.Search(r.Context(), by, f)
	if err != nil {
		return err
	}
	if page > 1 && (page-1)*pageSize >= total {
		return fmt.Errorf("page %d of %d: %w", page, max(1, api.Pages(total, pageSize)), errdefs.ErrNotFound)
	}
	out := struct {
		Count    int         `json:"count"`
		Next     *string     `json:"next"`
		Previous *string     `json:"previous"`
		Results  []buildJSON `json:"results"`
	}{Count: total, Results: []buildJSON{}}
	if page*pageSize < total {
		out.Next = h.page(q, page+1)
	}
	if page > 1 {
		out.Previous = h.page(q, page-1)
	}
	names, projects := map[int64]string{}, map[project.ID]project.Project{}
	for _, x := range l {
		p, ok := projects[x.Project]
		if !ok {
			if p, err = h.Projects.Get(r.Context(), by, string(x.Project)); err != nil {
				return err
			}
			projects[x.Project] = p
		}
		if _, ok := names[x.By]; !ok {
			names[x.By] = h.username(r, x.By)
		}
		b, err := h.build(r.Context(), p, x, names[x.By])
		if err != nil {
			return err
		}
		out.Results = append(out.Results, b)
	}
	return api.JSON(w, http.StatusOK, out)
}

// page is the address of another page with the filters kept.
func (h *Handlers) page(q url.Values, n int) *string {
	keep := url.Values{}
	for _, k := range []string{"namespace", "repo_name"} {
		if q.Has(k) {
			keep.Set(k, q.Get(k))
		}
	}
	keep.Set("page", strconv.Itoa(n))
	s := h.PublicURL + "/v1/builds?" + keep.Encode()
	return &s
}

// getLogs gives the lines of all actions of a build, oldest first.
func (h *Handlers) getLogs(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	from, err := unixTime(r, "start_time")
	to, toErr := unixTime(r, "end_time")
	if err = both(err, toErr); err != nil {
		return err
	}
	x, _, err := h.owned(r, by)
	if err != nil {
		return err
	}
	out := &logWriter{w: w, from: from, to: to}
	out.add(opening(x)...)
	for _, s := range x.Steps {
		if s.Started.IsZero() {
			continue
		}
		told := s.Error == "" || s.Finished.IsZero()
		err := h.Pipelines.StreamLog(r.Context(), by, s.ID, func(lines []logs.Line) error {
			for _, l := range lines {
				level := "INFO"
				if s.Error != "" && l.Text == s.Error {
					level, told = "ERROR", true
				}
				out.add(logJSON{strings.TrimRight(l.Text, "\r"), level, l.Time.Unix()})
			}
			return out.err
		})
		if out.err != nil { // whoever has gone needs no answer
			return nil
		}
		if err != nil {
			return err
		}
		if !told {
			out.add(logJSON{s.Error, "ERROR", s.Finished.Unix()})
		}
	}
	out.end()
	return nil
}

// logWriter writes the lines of a time as a JSON list, as they come: a log may
// be larger than what should be in memory.
type logWriter struct {
	w        http.ResponseWriter
	from, to int64 // to below 0: no end
	buf      []byte
	begun    bool
	err      error
}

func (o *logWriter) add(lines ...logJSON) {
	for _, l := range lines {
		if l.Time < o.from || o.to >= 0 && l.Time > o.to {
			continue
		}
		b, err := json.Marshal(l)
		if err != nil {
			o.err = err
			return
		}
		sep := byte(',')
		if !o.begun && len(o.buf) == 0 {
			sep = '['
		}
		if o.buf = append(append(o.buf, sep), b...); len(o.buf) >= 64<<10 {
			o.flush()
		}
	}
}

func (o *logWriter) flush() {
	if !o.begun {
		o.w.Header().Set("Content-Type", "application/json")
		o.begun = true
	}
	if o.err == nil {
		_, o.err = o.w.Write(o.buf)
	}
	o.buf = o.buf[:0]
}

func (o *logWriter) end() {
	if !o.begun && len(o.buf) == 0 {
		o.buf = append(o.buf, '[')
	}
	o.buf = append(o.buf, ']', '\n')
	o.flush()
}

// opening are the lines of ours before those of the build: what clients wait
// for, and what is to be built from where.
func opening(x pipeline.Execution) []logJSON {
	if x.Started.IsZero() {
		return nil
	}
	k := tagOf(x.Frozen)
	at := x.Started.Unix()
	l := []logJSON{
		{"starting to build", "INFO", at},
		{fmt.Sprintf("cloning code source from repo %s on %s:%s", k.Config.Path, k.RefType, k.Ref), "INFO", at},
	}
	if s := buildOf(x); s != nil {
		l = append(l, logJSON{fmt.Sprintf("Dockerfile path: /%s. Build context path: /%s", s.Action.Build.Dockerfile, s.Action.Build.Context), "INFO", at})
	}
	return append(l, logJSON{fmt.Sprintf("build node %s is mapped to no pool of builders: the default one is used", k.Config.BuildNode), "INFO", at})
}

// both puts the bad fields of two errors into one.
func both(a, b error) error {
	x, ok := project.AsInvalid(a)
	y, also := project.AsInvalid(b)
	switch {
	case !ok:
		return errors.Join(a, b)
	case !also:
		return a
	}
	return &project.Invalid{Fields: append(slices.Clone(x.Fields), y.Fields...)}
}
