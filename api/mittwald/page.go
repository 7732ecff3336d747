package mittwald

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"slipway/api"
	"slipway/project"
)

// query reads the parameters of a list, and keeps all that is wrong with them.
type query struct {
	r   *http.Request
	bad project.Invalid
}

func (q *query) number(name string, def int) (n int, given bool) {
	n, err := api.Number(q.r, name, def, 0)
	if bad, ok := project.AsInvalid(err); ok {
		q.bad.Fields = append(q.bad.Fields, bad.Fields...)
	}
	return n, q.r.URL.Query().Get(name) != ""
}

func (q *query) oneOf(name, def string, words ...string) string {
	v := q.r.URL.Query().Get(name)
	if v == "" {
		return def
	}
	if !slices.Contains(words, v) {
		q.bad.Add(name, "enum", "must be one of "+strings.Join(words, ", "))
	}
	return v
}

// flag reads a boolean; nil if it is not there.
func (q *query) flag(name string) *bool {
	v := q.r.URL.Query().Get(name)
	if v == "" {
		return nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		q.bad.Add(name, "type", "must be true or false")
	}
	return &b
}

// page writes a part of a list: limit, skip and page of the query; skip wins
// over page, and a limit of 0 is none.
func page[T any](w http.ResponseWriter, q *query, limit int, all []T) error {
	limit, _ = q.number("limit", limit)
	skip, skips := q.number("skip", 0)
	at, pages := q.number("page", 1)
	if err := q.bad.Err(); err != nil {
		return err
	}
	if pages && !skips {
		skip = max(at-1, 0) * limit
	}
	if limit > 0 {
		at = skip/limit + 1
	} else {
		at = 1
	}
	h := w.Header()
	h.Set("X-Pagination-Limit", strconv.Itoa(limit))
	h.Set("X-Pagination-Skip", strconv.Itoa(skip))
	h.Set("X-Pagination-Page", strconv.Itoa(at))
	h.Set("X-Pagination-TotalCount", strconv.Itoa(len(all)))
	part := api.Slice(all, skip, limit)
	if part == nil {
		part = []T{}
	}
	return api.JSON(w, http.StatusOK, part)
}

// finds tells whether one of the texts has the search term in it.
func finds(term string, in ...string) bool {
	return slices.ContainsFunc(in, func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(term)) })
}
