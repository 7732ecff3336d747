package local

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"

	"slipway/engine"
)

// stepName is how BuildKit calls a step: "[linux/arm64 stage 2/4] RUN make".
var stepName = regexp.MustCompile(`^\[(?:([^\]]*?) )? ?(\d+)/(\d+)\] (.*)$`)

// list gives the steps of the Dockerfile that were begun, stage by stage and in
// their order.
func (l *buildLog) list() []engine.BuildStep {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []engine.BuildStep
	var of []digest.Digest
	for _, s := range l.order {
		m := stepName.FindStringSubmatch(s.name)
		if s.hidden || m == nil || s.vertex.Started == nil {
			continue
		}
		step := engine.BuildStep{Stage: m[1], Text: string(l.mask.Line([]byte(m[4]))), Cached: s.vertex.Cached, Done: s.vertex.Completed != nil && s.vertex.Error == ""}
		step.Index, _ = strconv.Atoi(m[2])
		step.Of, _ = strconv.Atoi(m[3])
		all, of = append(all, step), append(of, s.vertex.Digest)
	}
	place := map[digest.Digest]int{}
	for i, d := range of {
		place[d] = i
	}
	for i, d := range of {
		all[i].After = l.after(d, place)
	}
	return inOrder(all)
}

// inOrder sorts steps: a stage comes after those that it takes something of, as
// far as that can be (one step may be of several stages).
func inOrder(all []engine.BuildStep) []engine.BuildStep {
	var stages []string
	for _, s := range all {
		if !slices.Contains(stages, s.Stage) {
			stages = append(stages, s.Stage)
		}
	}
	rank := map[string]int{}
	for len(stages) > 0 {
		next := max(0, slices.IndexFunc(stages, func(name string) bool {
			return !slices.ContainsFunc(all, func(s engine.BuildStep) bool {
				return s.Stage == name && slices.ContainsFunc(s.After, func(i int) bool {
					_, before := rank[all[i].Stage]
					return all[i].Stage != name && !before
				})
			})
		}))
		rank[stages[next]] = len(rank)
		stages = slices.Delete(stages, next, next+1)
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(rank[all[a].Stage], rank[all[b].Stage]), cmp.Compare(all[a].Index, all[b].Index))
	})
	out := make([]engine.BuildStep, len(all))
	for at, i := range order {
		out[at] = all[i]
		out[at].After = nil
		for _, before := range all[i].After {
			out[at].After = append(out[at].After, slices.Index(order, before))
		}
		slices.Sort(out[at].After)
	}
	return out
}

// after gives the places of the steps whose results a step takes.
func (l *buildLog) after(step digest.Digest, place map[digest.Digest]int) (before []int) {
	seen := map[digest.Digest]bool{}
	var look func(digest.Digest)
	look = func(d digest.Digest) {
		s := l.steps[d]
		if s == nil {
			return
		}
		for _, in := range s.vertex.Inputs {
			if seen[in] {
				continue
			}
			seen[in] = true
			if at, ok := place[in]; ok {
				before = append(before, at)
				continue
			}
			look(in)
		}
	}
	look(step)
	return before
}

// takes tells what an instruction copies: files of the context, by patterns, or
// those of another stage or image.
func takes(text string) (patterns []string, from string) {
	r, err := parser.Parse(strings.NewReader(text))
	if err != nil || len(r.AST.Children) != 1 {
		return nil, ""
	}
	cmd, err := instructions.ParseInstruction(r.AST.Children[0])
	if err != nil {
		return nil, ""
	}
	switch c := cmd.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			return nil, c.From
		}
		return c.SourcePaths, ""
	case *instructions.AddCommand:
		for _, s := range c.SourcePaths {
			if strings.Contains(s, "://") || strings.HasPrefix(s, "git@") {
				return nil, s
			}
		}
		return c.SourcePaths, ""
	}
	return nil, ""
}

// taken tells whether one of the patterns of a COPY takes a file of the context.
func taken(patterns []string, file string) bool {
	parts := strings.Split(file, "/")
	for _, p := range patterns {
		p = strings.TrimPrefix(path.Clean("/"+p), "/")
		if p == "" {
			return true
		}
		n := strings.Count(p, "/") + 1
		if n > len(parts) {
			continue
		}
		if ok, err := path.Match(p, strings.Join(parts[:n], "/")); ok && err == nil {
			return true
		}
	}
	return false
}

// arguments are the names that a Dockerfile declares.
func arguments(text []byte) (names []string) {
	r, err := parser.Parse(strings.NewReader(string(text)))
	if err != nil {
		return nil
	}
	stages, meta, err := instructions.Parse(r.AST, linter.New(&linter.Config{SkipAll: true}))
	if err != nil {
		return nil
	}
	note := func(a instructions.ArgCommand) {
		for _, k := range a.Args {
			if !slices.Contains(names, k.Key) {
				names = append(names, k.Key)
			}
		}
	}
	for _, a := range meta {
		note(a)
	}
	for _, s := range stages {
		for _, c := range s.Commands {
			if a, ok := c.(*instructions.ArgCommand); ok {
				note(*a)
			}
		}
	}
	return names
}

// steps tells of the steps of a build what the cache had, and of those that copy
// files which of them were written since the context was read before.
func (b *building) steps() []engine.BuildStep {
	all := b.log.list()
	for i, s := range all {
		if s.Cached {
			continue
		}
		patterns, from := takes(s.Text)
		all[i].From, all[i].Copies = from, from != "" || len(patterns) > 0
		if len(patterns) == 0 || b.written == nil {
			continue
		}
		for _, file := range b.written.list() {
			if taken(patterns, file) {
				all[i].Written = append(all[i].Written, file)
			}
		}
	}
	return all
}
