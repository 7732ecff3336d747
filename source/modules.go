package source

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// module is what .gitmodules says of a submodule.
type module struct {
	Path string
	Name string
	URL  string // as it is written there
	Skip bool   // update = none
}

// maxModules bounds a .gitmodules.
const maxModules = 1 << 20

// modules reads what the commit says of its submodules, in the order of its paths:
// each must have a place to come from. Without Spec.Modules, or without any, there
// are none.
func (c *checkout) modules(ctx context.Context) ([]module, error) {
	links := c.index.links()
	if c.spec.Modules == nil || len(links) == 0 {
		return nil, nil
	}
	if c.was.Revision == c.spec.Revision && len(c.was.Modules) == len(links) {
		return c.was.Modules, nil
	}
	known, err := c.readModules(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]module, 0, len(links))
	for _, e := range links {
		m, ok := known[e.path]
		switch {
		case !ok:
			return nil, noModule("submodule %s: .gitmodules does not say where it comes from", c.below(e.path))
		case m.URL == "" && !m.Skip:
			return nil, noModule("submodule %s: .gitmodules gives it no url", c.below(e.path))
		}
		list = append(list, m)
	}
	return list, nil
}

func noModule(format string, a ...any) error {
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(format, a...))
}

// readModules reads .gitmodules, by path. Git itself does, from the commit.
func (c *checkout) readModules(ctx context.Context) (map[string]module, error) {
	name := c.below(".gitmodules")
	i, ok := c.index.find(".gitmodules")
	if !ok || c.index.entries[i].mode != modeFile && c.index.entries[i].mode != modeProgram {
		return nil, noModule("the commit has submodules, and %s is no file", name)
	}
	blob := c.index.entries[i].hex()
	if _, err := c.s.git.objects(ctx, c.repo, maxModules, blob); errors.Is(err, errTooBig) {
		return nil, noModule("%s is larger than %d bytes", name, maxModules)
	} else if err != nil {
		return nil, err
	}
	out, err := c.s.git.run(ctx, call{repo: c.repo, args: []string{"config", "--blob=" + blob, "--no-includes", "--null", "--list"}})
	var g *gitError
	if errors.As(err, &g) {
		return nil, noModule("%s cannot be read: %s", name, g.text)
	}
	if err != nil {
		return nil, err
	}
	return parseModules(string(out))
}

// parseModules reads what git config lists of a .gitmodules. As for git, of two
// entries the later holds, a name that is none makes an entry none, and a command
// in it is an error.
func parseModules(list string) (map[string]module, error) {
	byName := map[string]*module{}
	var names []string
	for line := range strings.SplitSeq(list, "\x00") {
		key, value, _ := strings.Cut(line, "\n")
		rest, ok := strings.CutPrefix(key, "submodule.")
		i := strings.LastIndexByte(rest, '.')
		if !ok || i < 0 || !goodModule(rest[:i]) {
			continue
		}
		m := byName[rest[:i]]
		if m == nil {
			m = &module{Name: rest[:i]}
			byName[m.Name] = m
			names = append(names, m.Name)
		}
		switch rest[i+1:] {
		case "path":
			m.Path = strings.TrimSuffix(value, "/")
		case "url":
			m.URL = value
		case "update":
			if strings.HasPrefix(value, "!") {
				return nil, noModule("submodule %q: .gitmodules says update = !, a command, which is not run", m.Name)
			}
			m.Skip = value == "none"
		}
	}
	byPath := map[string]module{}
	for _, name := range names {
		if m := byName[name]; m.Path != "" {
			byPath[m.Path] = *m
		}
	}
	return byPath, nil
}

// goodModule tells whether a text may be the name of a submodule: git makes paths
// of them.
func goodModule(name string) bool {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return false
	}
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == ".." {
			return false
		}
	}
	return true
}

// activeModules is what the config of a repository says of its submodules, so
// that git in a container takes them for what they are.
func activeModules(list []module) string {
	var b strings.Builder
	for _, m := range list {
		if !m.Skip {
			fmt.Fprintf(&b, "[submodule %s]\n\tactive = true\n", quoteConfig(m.Name))
		}
	}
	return b.String()
}

// relativeURL gives what a URL of a .gitmodules means in a repository that has a
// URL itself, as git does: each ../ takes a part off that.
func relativeURL(base, text string) (string, error) {
	if !strings.HasPrefix(text, "./") && !strings.HasPrefix(text, "../") {
		return text, nil
	}
	rest, between := text, "/"
	base = strings.TrimRight(base, "/")
	for {
		if less, ok := strings.CutPrefix(rest, "./"); ok {
			rest = less
			continue
		}
		less, ok := strings.CutPrefix(rest, "../")
		if !ok {
			break
		}
		rest = less
		i := strings.LastIndexByte(base, '/')
		if i < 0 {
			i, between = strings.LastIndexByte(base, ':'), ":"
		}
		if i < 0 {
			return "", noModule("its url %s leads out of %s", redact(text), redact(base))
		}
		base = base[:i]
	}
	return strings.TrimRight(base+between+rest, "/"), nil
}

var ownPath = regexp.MustCompile(`^/git/([^/]+)/([^/]+?)(?:\.git)?/*$`)

// ownURL gives the workspace and the name of a project of this server of which a
// URL is the repository's.
func (s *Sources) ownURL(text string) (workspace, name string, ok bool) {
	p, u, err := parseURL(text)
	if err != nil || u == nil {
		return "", "", false
	}
	q, _, err := parseURL(s.cfg.Public + "/git")
	if err != nil || p.scheme != q.scheme || !strings.EqualFold(p.host, q.host) || p.port != q.port {
		return "", "", false
	}
	m := ownPath.FindStringSubmatch(u.Path)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}
