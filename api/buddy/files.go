package buddy

import (
	"encoding/base64"
	"net/http"
	"path"
	"strings"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
)

// fromFile is something in the file system of a pipeline; inside says that it is
// one of many, whose content is not shown.
func fromFile(at place, f pipeline.File, inside bool) object {
	var encoding, size, content, target any
	kind := "FILE"
	switch {
	case f.Dir:
		kind = "DIR"
	case f.Link:
		kind = "SYMLINK"
		target = orNull(f.Target)
	default:
		size = f.Size
		if !inside && f.Data != nil {
			encoding, content = "base64", base64.StdEncoding.EncodeToString(f.Data)
		} else if !inside {
			encoding = "none"
		}
	}
	return object{
		{"url", at.url("/files/contents/%s", escaped(f.Path))},
		{"html_url", at.page("/files/%s", escaped(f.Path))},
		{"content_type", kind},
		{"encoding", encoding},
		{"size", size},
		{"name", strings.ToValidUTF8(path.Base(f.Path), "\uFFFD")},
		{"path", strings.ToValidUTF8(f.Path, "\uFFFD")},
		{"content", content},
		{"target", target},
	}
}

func (h *handlers) getFile(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	f, err := h.Files.Get(r.Context(), by, p.ID, r.PathValue("path"))
	if err != nil {
		return err
	}
	if !f.Dir {
		return api.JSON(w, http.StatusOK, fromFile(at, f, false))
	}
	list := []object{}
	for _, e := range f.Entries {
		list = append(list, fromFile(at, e, true))
	}
	below := ""
	if f.Path != "" {
		below = "/" + escaped(f.Path)
	}
	return api.JSON(w, http.StatusOK, object{
		{"url", at.url("/files/contents%s", below)}, {"html_url", at.page("/files%s", below)}, {"contents", list},
	})
}

// putFile writes a file; a new one has its path in the body.
func (h *handlers) putFile(w http.ResponseWriter, r *http.Request, by access.Actor, isNew bool) error {
	p, _, _, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	var b fileBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	var inv project.Invalid
	name, status := r.PathValue("path"), http.StatusOK
	if isNew {
		status = http.StatusCreated
		if name = b.Path.V; strings.Trim(name, "/") == "" {
			inv.Add("path", "required", "is required")
		}
	}
	data := b.data(&inv)
	if err := inv.Err(); err != nil {
		return err
	}
	if err := h.Files.Put(r.Context(), by, p.ID, name, data, isNew); err != nil {
		return err
	}
	return api.JSON(w, status, object{{"state", "OK"}, {"message", nil}, {"code", nil}})
}

func (h *handlers) addFile(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.putFile(w, r, by, true)
}

func (h *handlers) updateFile(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	return h.putFile(w, r, by, false)
}

func (h *handlers) deleteFile(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, _, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	if err := h.Files.Delete(r.Context(), by, p.ID, r.PathValue("path")); err != nil {
		return err
	}
	return noContent(w)
}

func (h *handlers) searchFiles(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	ask := r.URL.Query()
	text := ask.Get("content_filter")
	found, err := h.Files.Search(r.Context(), by, p.ID, ask.Get("path_filter"), text)
	if err != nil {
		return err
	}
	list := []object{}
	for _, m := range found {
		o := object{{"path", m.Path}}
		if text != "" {
			lines := []object{}
			for _, l := range m.Lines {
				lines = append(lines, object{{"line_number", l.Number}, {"line_text", l.Text}})
			}
			o = o.with("matched_lines", lines)
		}
		list = append(list, o)
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/files/search")}, {"html_url", at.page("/files")}, {"files", list}})
}
