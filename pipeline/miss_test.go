package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"slipway/engine"
)

// stepsOf makes steps of lines "[stage] k/n TEXT", each on the one before it in its
// stage; those with + were cached, those with ! failed.
func stepsOf(lines ...string) (all []engine.BuildStep) {
	last := map[string]int{}
	for i, l := range lines {
		s := engine.BuildStep{Done: true}
		if l, s.Cached = strings.CutPrefix(l, "+"); s.Cached {
			s.Copies = false
		}
		var bad bool
		if l, bad = strings.CutPrefix(l, "!"); bad {
			s.Done = false
		}
		if rest, ok := strings.CutPrefix(l, "["); ok {
			s.Stage, l, _ = strings.Cut(rest, "] ")
		}
		place, text, _ := strings.Cut(l, " ")
		_, _ = fmt.Sscanf(place, "%d/%d", &s.Index, &s.Of)
		s.Text = text
		s.Copies = !s.Cached && strings.HasPrefix(text, "COPY ")
		if n, ok := last[s.Stage]; ok {
			s.After = []int{n}
		}
		if from, ok := strings.CutPrefix(text, "COPY --from="); ok {
			s.From, _, _ = strings.Cut(from, " ")
			s.After = append(s.After, last[s.From])
		}
		last[s.Stage] = i
		all = append(all, s)
	}
	return all
}

func TestMissed(t *testing.T) {
	t.Parallel()
	was := []string{"[a] 1/2 FROM x@1", "[a] 2/2 RUN make", "1/4 FROM y@1", "2/4 COPY --from=a /m /m", "3/4 COPY page /page", "4/4 RUN check"}
	long := "RUN " + strings.Repeat("x", stepTextMax)
	for _, c := range []struct {
		name             string
		before, now      []string
		argBefore, arg   string
		step, changed, s string
		more             func(*engine.BuildSpec, []engine.BuildStep)
	}{
		{"nothing", was, []string{"[a] 1/2 FROM x@1", "+[a] 2/2 RUN make", "1/4 FROM y@1", "+2/4 COPY --from=a /m /m", "+3/4 COPY page /page", "+4/4 RUN check"}, "", "", "", "", "", nil},
		{"no build before", nil, was, "", "", "a 2/2 RUN make", MissFirst, "", nil},
		{"no cache", was, was, "", "", "a 2/2 RUN make", MissNoCache, "", func(s *engine.BuildSpec, _ []engine.BuildStep) { s.NoCache = true }},
		{
			"an instruction", was,
			[]string{"[a] 1/2 FROM x@1", "+[a] 2/2 RUN make", "1/4 FROM y@1", "+2/4 COPY --from=a /m /m", "3/4 COPY pages /page", "4/4 RUN check"},
			"", "",
			"3/4 COPY pages /page", MissInstruction, "COPY page /page", nil,
		},
		{
			"one before it", was,
			[]string{"[a] 1/2 FROM x@1", "+[a] 2/2 RUN make all", "1/4 FROM y@1", "2/4 COPY --from=a /m /m", "3/4 COPY page /page", "4/4 RUN check"},
			"", "",
			"2/4 COPY --from=a /m /m", MissInstruction, "RUN make all, before RUN make", nil,
		},
		{"one more", was, []string{"1/5 FROM y@1", "+2/5 COPY --from=a /m /m", "+3/5 COPY page /page", "+4/5 RUN check", "5/5 RUN more"}, "", "", "5/5 RUN more", MissInstruction, "is new", nil},
		{"the base", was, []string{"[a] 1/2 FROM x@1", "+[a] 2/2 RUN make", "1/4 FROM y@2", "2/4 COPY --from=a /m /m"}, "", "", "2/4 COPY --from=a /m /m", MissBase, "FROM y@2, before FROM y@1", nil},
		{"a base that stages share", []string{"[a] 1/2 FROM x@1", "[a] 2/2 RUN make", "2/3 RUN one", "3/3 RUN two"}, []string{"1/3 FROM x@1", "+2/3 RUN one", "3/3 RUN 2"}, "", "", "3/3 RUN 2", MissInstruction, "RUN two", nil},
		{
			"files", was,
			[]string{"1/4 FROM y@1", "+2/4 COPY --from=a /m /m", "3/4 COPY page /page", "4/4 RUN check"},
			"", "", "3/4 COPY page /page", MissFiles, "page/a, page/b",
			func(_ *engine.BuildSpec, l []engine.BuildStep) { l[2].Written = []string{"page/a", "page/b"} },
		},
		{
			"many files", was,
			[]string{"1/4 FROM y@1", "+2/4 COPY --from=a /m /m", "3/4 COPY page /page"},
			"", "", "3/4 COPY page /page", MissFiles, "f, f and 5 more",
			func(_ *engine.BuildSpec, l []engine.BuildStep) {
				l[2].Written = strings.Fields(strings.Repeat("f ", 15))
			},
		},
		{"files that nobody has seen", was, []string{"1/4 FROM y@1", "+2/4 COPY --from=a /m /m", "3/4 COPY page /page"}, "", "", "3/4 COPY page /page", MissFiles, "or its result is not in the cache", nil},
		{"files of a stage", was, []string{"[a] 1/2 FROM x@1", "+[a] 2/2 RUN make", "1/4 FROM y@1", "2/4 COPY --from=a /m /m"}, "", "", "2/4 COPY --from=a /m /m", MissFiles, "from a", nil},
		{"an argument", was, []string{"[a] 1/2 FROM x@1", "[a] 2/2 RUN make"}, "1", "2", "a 2/2 RUN make", MissArgument, "A", nil},
		{"one that is no more", was, []string{"[a] 1/2 FROM x@1", "[a] 2/2 RUN make"}, "1", "", "a 2/2 RUN make", MissArgument, "A", nil},
		{"an argument in an instruction", []string{"1/2 FROM y@1", "2/2 RUN make 1"}, []string{"1/2 FROM y@1", "2/2 RUN make 2"}, "1", "2", "2/2 RUN make 2", MissArgument, "A", nil},
		{"another instruction with it", []string{"1/2 FROM y@1", "2/2 RUN make 1"}, []string{"1/2 FROM y@1", "2/2 RUN cmake 2"}, "1", "2", "2/2 RUN cmake 2", MissInstruction, "RUN make 1", nil},
		{"gone", was, []string{"[a] 1/2 FROM x@1", "[a] 2/2 RUN make"}, "1", "1", "a 2/2 RUN make", MissGone, "", nil},
		{"it failed before", []string{"1/3 FROM y@1", "!2/3 RUN a"}, []string{"1/3 FROM y@1", "2/3 RUN a", "3/3 RUN b"}, "", "", "2/3 RUN a", MissNotReached, "was not done", nil},
		{"one before it failed", []string{"1/3 FROM y@1", "!2/3 RUN a"}, []string{"1/3 FROM y@1", "+2/3 RUN a", "3/3 RUN b"}, "", "", "3/3 RUN b", MissNotReached, "did not come", nil},
		{"long ones", []string{"1/2 FROM y@1", "2/2 " + long + "1"}, []string{"1/2 FROM y@1", "2/2 " + long + "2"}, "", "", "2/2 " + long[:stepTextMax] + "…", MissInstruction, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			built := func(lines []string, arg string) (*Built, []engine.BuildStep) {
				spec, list := engine.BuildSpec{Args: map[string]string{"B": arg}}, stepsOf(lines...)
				if arg != "" {
					spec.Args["A"] = arg
				}
				if c.more != nil && &lines[0] == &c.now[0] {
					c.more(&spec, list)
				}
				// The file is the same one if all that differs is what the argument is.
				text := strings.NewReplacer("make 1", "make $A", "make 2", "make $A").Replace(strings.Join(lines, " "))
				return builtOf(spec, engine.BuildResult{List: list, Args: []string{"A"}, Text: strings.ReplaceAll(text, "cmake", "c")}), list
			}
			var before *Built
			if c.before != nil {
				before, _ = built(c.before, c.argBefore)
				before.NoCache = false
			}
			now, list := built(c.now, c.arg)
			m := missed(now, before, list)
			if m == nil {
				m = &Miss{}
			}
			if m.Step != c.step || m.Changed != c.changed || !strings.Contains(m.Text, c.s) {
				t.Errorf("%+v, want %s of %s with %q", m, c.changed, c.step, c.s)
			}
		})
	}
}

// A build tells what the cache had, and why it had not the rest, compared with the
// one before.
func TestBuildAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM busybox\nRUN echo made > /made\nCOPY page /page\n")
	w.commit("page", "1")
	p := w.pipeline(Pipeline{}, Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile"}})
	last := func() Try {
		t.Helper()
		x := w.wait(w.start(p, Start{}))
		tries := w.account(x).Steps[0].Tries
		if len(tries) != 1 || tries[0].Build == nil {
			t.Fatalf("%s: %+v", w.words(x), tries)
		}
		return tries[0]
	}
	first := last()
	if m := first.Build.Miss; m == nil || m.Changed != MissFirst || m.Step != "2/3 RUN echo made > /made" || first.CPU == 0 {
		t.Errorf("the first: %+v, %d µs", m, first.CPU)
	}
	if again := last(); again.Build.Miss != nil || len(again.Build.Steps) != 3 || !again.Build.Steps[1].Cached || !again.Build.Steps[2].Cached {
		t.Errorf("again: %+v", again.Build)
	}
	w.commit("page", "2")
	if m := last().Build.Miss; m == nil || m.Changed != MissFiles || m.Step != "3/3 COPY page /page" {
		t.Errorf("another page: %+v", m)
	}
	w.commit("Dockerfile", "FROM busybox\nRUN echo more > /made\nCOPY page /page\n")
	if m := last().Build.Miss; m == nil || m.Changed != MissInstruction || !strings.Contains(m.Text, "RUN echo made > /made") {
		t.Errorf("another instruction: %+v", m)
	}
	w.commit("Dockerfile", "FROM busybox\nRUN exit 3\n")
	if bad := last(); bad.Reason != EndBuild || bad.Build.Miss == nil || bad.Build.Steps[1].Done {
		t.Errorf("one that fails: %+v", bad)
	}
}
