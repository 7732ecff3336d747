package buddy

import (
	"context"
	"net/http"
	"regexp"

	"slipway/access"
	"slipway/api"
	"slipway/project"
)

// noun is what a user, a workspace or a project has many of. Its five routes are alike:
// what is its own is said here.
type noun[T any] struct {
	path  string // of the list, below its place: "/groups"
	name  string // of one in a path: "group"
	key   string // of the list in an answer: "groups"
	words string // the members of a body that are known
	text  bool   // what a path names it by is no number
	whole bool   // a list that is asked for without a page has all

	list   func(ask) ([]T, error)
	create func(ask, body) (T, error)
	get    func(ask) (T, error)       // nil: it has no such route
	update func(ask, body) (T, error) // nil: nor has it this one
	remove func(ask) error

	// What a list is sorted by.
	title func(T) string
	id    func(T) int64
	// from gives what writes one of them, alone or in a list.
	from func(q ask, alone bool) (func(T) (object, error), error)
}

// ask is a request for something of a workspace, or of a project in it.
type ask struct {
	r  *http.Request
	by access.Actor
	ws project.Workspace // of a project only its id
	pr project.Project
	at place
	n  map[string]int64 // the numbers in the path, by their names
}

func (q ask) ctx() context.Context { return q.r.Context() }

// plain is from for what is written by itself, and the same everywhere.
func plain[T any](write func(place, T) object) func(ask, bool) (func(T) (object, error), error) {
	return func(q ask, _ bool) (func(T) (object, error), error) {
		return func(v T) (object, error) { return write(q.at, v), nil }, nil
	}
}

var inPath = regexp.MustCompile(`{([a-z]+)}`)

// routes are those of a noun, of the user itself, in a workspace or a project (atUser,
// atWorkspace, atProject).
func routes[T any](h *handlers, in string, n noun[T]) map[string]api.Handler {
	list, one := in+n.path, in+n.path+"/{"+n.name+"}"
	t := map[string]api.Handler{
		"GET " + list: n.asked(h, in, n.path, n.answerList),
		"POST " + list: n.asked(h, in, n.path, func(w http.ResponseWriter, q ask) error {
			return n.said(w, q, http.StatusCreated, n.create)
		}),
		"DELETE " + one: n.asked(h, in, one, func(w http.ResponseWriter, q ask) error {
			if err := n.remove(q); err != nil {
				return err
			}
			return noContent(w)
		}),
	}
	if n.get != nil {
		t["GET "+one] = n.asked(h, in, one, func(w http.ResponseWriter, q ask) error {
			v, err := n.get(q)
			return n.answer(w, q, http.StatusOK, v, err)
		})
	}
	if n.update != nil {
		t["PATCH "+one] = n.asked(h, in, one, func(w http.ResponseWriter, q ask) error {
			return n.said(w, q, http.StatusOK, n.update)
		})
	}
	return t
}

// asked finds what the path of a request names before f answers it.
func (n noun[T]) asked(h *handlers, in, path string, f func(http.ResponseWriter, ask) error) api.Handler {
	var numbers []string
	for _, m := range inPath.FindAllStringSubmatch(path, -1) {
		if name := m[1]; name != "workspace" && name != "project" && !n.text {
			numbers = append(numbers, name)
		}
	}
	return func(w http.ResponseWriter, r *http.Request, by access.Actor) (err error) {
		q := ask{r: r, by: by, n: map[string]int64{}}
		switch in {
		case atUser:
			q.at.base = h.base
		case atProject:
			q.pr, q.at, err = h.project(r, by)
			q.ws.ID = q.pr.Workspace
		default:
			q.ws, q.at, err = h.workspace(r, by)
		}
		for _, name := range numbers {
			if err == nil {
				q.n[name], err = number(r, name)
			}
		}
		if err != nil {
			return err
		}
		return f(w, q)
	}
}

// said answers a request with a body.
func (n noun[T]) said(w http.ResponseWriter, q ask, status int, f func(ask, body) (T, error)) error {
	b, err := decode(w, q.r)
	if err != nil {
		return err
	}
	ignored(w, others(b, n.words+" id url html_url"))
	v, err := f(q, b)
	return n.answer(w, q, status, v, err)
}

func (n noun[T]) answer(w http.ResponseWriter, q ask, status int, v T, err error) error {
	if err != nil {
		return err
	}
	write, err := n.from(q, true)
	if err != nil {
		return err
	}
	o, err := write(v)
	if err != nil {
		return err
	}
	return api.JSON(w, status, o)
}

// answerList answers a page: the first twenty unless it is said otherwise.
func (n noun[T]) answerList(w http.ResponseWriter, q ask) error {
	page, err := readQuery(q.r)
	if err != nil {
		return err
	}
	all, err := n.list(q)
	if err != nil {
		return err
	}
	if n.whole {
		if page, err = readWhole(q.r, len(all)); err != nil {
			return err
		}
	}
	write, err := n.from(q, false)
	if err != nil {
		return err
	}
	l := []object{}
	for _, v := range sorted(all, page, n.title, n.id) {
		o, err := write(v)
		if err != nil {
			return err
		}
		l = append(l, o)
	}
	path := inPath.ReplaceAllStringFunc(n.path, func(name string) string { return q.r.PathValue(name[1 : len(name)-1]) })
	return api.JSON(w, http.StatusOK, object{{"url", q.at.url("%s", path)}, {"html_url", q.at.page("%s", path)}, {n.key, l}})
}
