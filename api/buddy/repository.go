package buddy

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/source"
)

// contentLimit is how large a body with a file of 64 MiB can be.
const contentLimit = 64<<20/3*4 + 1<<20

// fileBody is what is said of a file that is written.
type fileBody struct {
	Path    api.Opt[string] `json:"path"`
	Content api.Opt[string] `json:"content"`
	Message api.Opt[string] `json:"message"`
	Branch  api.Opt[string] `json:"branch"`
}

// data gives the content; what is no base64 is noted.
func (b fileBody) data(inv *project.Invalid) []byte {
	if !b.Content.Set || b.Content.Null {
		inv.Add("content", "required", "is required")
		return nil
	}
	text := strings.NewReplacer("\n", "", "\r", "").Replace(b.Content.V)
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		if data, err := enc.Strict().DecodeString(text); err == nil {
			return append([]byte{}, data...) // never nil: an empty file is one
		}
	}
	inv.Add("content", "format", "is no base64")
	return nil
}

// escaped is a path as part of a link.
func escaped(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// contentURL is the link to something at a revision, "" being the one that is
// there now.
func contentURL(at place, revision, p string) (link, page string) {
	if p != "" {
		p = "/" + escaped(p)
	}
	if revision == "" {
		return at.url("/repository/contents%s", p), at.page("/repository/content%s", p)
	}
	q := url.QueryEscape(revision)
	return at.url("/repository/contents%s?revision=%s", p, q), at.page("/repository/content%s?revision=%s", p, q)
}

// fromContent is a file, or something in a folder, of which the content is not
// shown.
func fromContent(at place, revision string, c source.Content, inside bool) object {
	link, page := contentURL(at, revision, c.Path)
	var encoding, size, content, target any
	kind := "FILE"
	switch {
	case c.Module:
		kind = "SUB_MODULE"
	case c.Dir:
		kind = "DIR"
	case c.Link:
		kind = "SYMLINK"
		if !inside {
			target = strings.ToValidUTF8(string(c.Data), "\uFFFD")
		}
	default:
		size = c.Size
		if !inside {
			encoding, content = "base64", base64.StdEncoding.EncodeToString(c.Data)
		}
	}
	return object{
		{"url", link},
		{"html_url", page},
		{"content_type", kind},
		{"encoding", encoding},
		{"size", size},
		{"name", path.Base(c.Path)},
		{"path", c.Path},
		{"content", content},
		{"target", target},
	}
}

func (h *handlers) getContent(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	revision := r.URL.Query().Get("revision")
	c, err := h.Sources.Read(r.Context(), by, p.ID, revision, r.PathValue("path"))
	if err != nil {
		return err
	}
	if !c.Dir || c.Module {
		return api.JSON(w, http.StatusOK, fromContent(at, revision, c, false))
	}
	list := []object{}
	for _, e := range c.Entries {
		list = append(list, fromContent(at, revision, e, true))
	}
	link, page := contentURL(at, revision, c.Path)
	return api.JSON(w, http.StatusOK, object{{"url", link}, {"html_url", page}, {"contents", list}})
}

// editFile answers a change of a file.
func (h *handlers) editFile(w http.ResponseWriter, r *http.Request, by access.Actor, expect source.Expect, remove bool) error {
	p, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	var b fileBody
	if !remove || r.ContentLength != 0 { // nothing needs to be said of what is removed
		if err := api.Decode(w, r, &b); err != nil {
			return err
		}
	}
	e := source.Edit{Branch: b.Branch.V, Path: r.PathValue("path"), Message: b.Message.V, Expect: expect}
	var inv project.Invalid
	if expect == source.NoFile {
		if e.Path = b.Path.V; strings.Trim(e.Path, "/") == "" {
			inv.Add("path", "required", "is required")
		}
	}
	if !remove {
		e.Data = b.data(&inv)
	}
	if err := inv.Err(); err != nil {
		return err
	}
	c, err := h.Sources.Edit(r.Context(), by, p.ID, e)
	if err != nil {
		return err
	}
	if remove {
		return noContent(w)
	}
	clean := strings.TrimPrefix(path.Clean("/"+e.Path), "/")
	content := fromContent(at, c.Revision, source.Content{Path: clean, Size: int64(len(e.Data)), Data: e.Data}, false)
	status := http.StatusOK
	if expect == source.NoFile {
		status = http.StatusCreated
	}
	return api.JSON(w, status, object{{"content", content}, {"commit", h.fromCommit(at, &c)}})
}

func (h *handlers) createContent(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.editFile(w, r, by, source.NoFile, false)
}

func (h *handlers) updateContent(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.editFile(w, r, by, source.AFile, false)
}

func (h *handlers) deleteContent(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.editFile(w, r, by, source.AFile, true)
}

// refs gives those of a project that begin with a prefix, without it.
func (h *handlers) refs(r *http.Request, by access.Actor, prefix string) ([]source.Ref, project.Project, place, error) {
	p, at, err := h.project(r, by)
	if err != nil {
		return nil, p, at, err
	}
	all, err := h.Sources.Refs(r.Context(), by, p.ID)
	var l []source.Ref
	for _, ref := range all {
		if name, ok := strings.CutPrefix(ref.Name, prefix); ok {
			ref.Name = name
			l = append(l, ref)
		}
	}
	return l, p, at, err
}

func fromRef(at place, kind string, ref source.Ref) object {
	o := object{
		{"url", at.url("/repository/%s/%s", kind, escaped(ref.Name))},
		{"html_url", at.page("/%s/%s", kind, escaped(ref.Name))},
		{"name", ref.Name},
	}
	if kind == "branches" {
		o = o.with("default", ref.Default)
	}
	return o
}

// listRefs answers a list of branches or tags.
func (h *handlers) listRefs(w http.ResponseWriter, r *http.Request, by access.Actor, kind, prefix string) error {
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all, _, at, err := h.refs(r, by, prefix)
	if err != nil {
		return err
	}
	list := []object{}
	for _, ref := range sorted(all, q, func(r source.Ref) string { return r.Name }, func(source.Ref) int64 { return 0 }) {
		list = append(list, fromRef(at, kind, ref))
	}
	return api.JSON(w, http.StatusOK, object{
		{"url", at.url("/repository/%s", kind)}, {"html_url", at.page("/%s", kind)}, {kind, list},
	})
}

// getRef answers one of them, with its commit.
func (h *handlers) getRef(w http.ResponseWriter, r *http.Request, by access.Actor, kind, prefix string) error {
	all, p, at, err := h.refs(r, by, prefix)
	if err != nil {
		return err
	}
	name := r.PathValue("ref")
	for _, ref := range all {
		if ref.Name != name {
			continue
		}
		c, err := h.Sources.Resolve(r.Context(), p.ID, "", prefix+name)
		if err != nil {
			return err
		}
		return api.JSON(w, http.StatusOK, fromRef(at, kind, ref).with("commit", h.fromCommit(at, c)))
	}
	word := strings.TrimSuffix(strings.TrimSuffix(kind, "s"), "e")
	return errdefs.ErrNotFound.WithMessage(word + " " + name + " does not exist")
}

func (h *handlers) listBranches(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.listRefs(w, r, by, "branches", "refs/heads/")
}

func (h *handlers) getBranch(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.getRef(w, r, by, "branches", "refs/heads/")
}

// createBranch makes a branch at a commit; without one, where the default branch
// is.
func (h *handlers) createBranch(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	name, revision := "", ""
	d := &decoder{}
	d.member(b, "name", func(raw json.RawMessage) { name = d.str(raw) })
	d.member(b, "commit", func(raw json.RawMessage) {
		d.member(d.object(raw), "revision", func(raw json.RawMessage) { revision = d.str(raw) })
	})
	ignored(w, others(b, "name commit url html_url default"))
	if name == "" && len(d.inv.Fields) == 0 {
		d.inv.Add("name", "required", "is required")
	}
	if err := d.inv.Err(); err != nil {
		return err
	}
	err = h.Sources.CreateBranch(r.Context(), by, p.ID, name, revision)
	if errdefs.IsNotFound(err) && by.MayIn(p.Workspace, string(p.ID), access.RepositoryWrite) == nil {
		d.inv.Add("commit.revision", "unknown", api.Text(err))
		err = d.inv.Err()
	}
	if err != nil {
		return err
	}
	c, err := h.Sources.Resolve(r.Context(), p.ID, name, "HEAD")
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromRef(at, "branches", source.Ref{Name: name}).with("commit", h.fromCommit(at, c)))
}

func (h *handlers) deleteBranch(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, err := h.project(r, by)
	if err != nil {
		return err
	}
	if err := h.Sources.DeleteBranch(r.Context(), by, p.ID, r.PathValue("ref")); err != nil {
		return err
	}
	return noContent(w)
}

func (h *handlers) listTags(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.listRefs(w, r, by, "tags", "refs/tags/")
}

func (h *handlers) getTag(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.getRef(w, r, by, "tags", "refs/tags/")
}

func (h *handlers) listCommits(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	ask := r.URL.Query()
	all, err := h.Sources.Commits(r.Context(), by, p.ID, ask.Get("revision"), ask.Get("path"), (q.page-1)*q.size, q.size)
	if err != nil {
		return err
	}
	list := []any{}
	for i := range all {
		list = append(list, h.fromCommit(at, &all[i]))
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/repository/commits")}, {"html_url", at.page("/commits")}, {"commits", list}})
}

func (h *handlers) getCommit(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	d, err := h.Sources.Detail(r.Context(), by, p.ID, r.PathValue("revision"))
	if err != nil {
		return err
	}
	files, parents := []object{}, []object{}
	for _, f := range d.Files {
		status := map[byte]string{'A': "ADDED", 'C': "ADDED", 'D': "DELETED", 'R': "REPLACED"}[f.Status]
		files = append(files, object{
			{"file_name", f.Path},
			{"status", or(status, "MODIFIED")},
			{"additions", f.Added},
			{"deletions", f.Removed},
			{"total", f.Added + f.Removed},
			{"patch", orNull(f.Patch)},
		})
	}
	for _, hash := range d.Parents {
		parents = append(parents, object{{"url", at.url("/repository/commits/%s", hash)}, {"revision", hash}})
	}
	o, _ := h.fromCommit(at, &d.Commit).(object)
	link, _ := contentURL(at, d.Revision, "")
	return api.JSON(w, http.StatusOK, append(o, object{
		{"short_revision", d.Revision[:7]},
		{"stats", object{{"additions", d.Added}, {"deletions", d.Removed}, {"total", d.Added + d.Removed}}},
		{"files", files},
		{"content_url", link},
		{"parents", parents},
	}...))
}
