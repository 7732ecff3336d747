package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/cli"
)

// lanes is how many servers are killed at the same time; most of a scenario is
// waiting.
const lanes = 3

// numbered is how many lines the action of the scenario prints, and how fast.
const (
	numbered = 60
	pace     = "20ms"
)

// story is one pass through the scenario, in a project of its own.
type story struct {
	*job
	host  string
	steps []step
}

func (s *server) story(name string) *story {
	return &story{
		job: s.job(name, build(),
			run("Count", fmt.Sprintf("/probe lines %d %s /buddy/%s/begun", numbered, pace, name)),
			run("Look", "/probe cat /buddy/"+name+"/begun")),
		host: name + ".localhost",
	}
}

// tell goes through the scenario. Two things happen at once: a push is built
// and run, and a service is hosted, changed, and gives way to another.
func (y *story) tell(ctx context.Context) error {
	dockerfile := "FROM slipway.local/default/steady:latest\nCOPY name /name\nRUN [\"/probe\", \"lines\", \"10\", \"10ms\"]\n"
	if err := y.commit(ctx, map[string]string{"Dockerfile": dockerfile, "name": y.name}); err != nil {
		return err
	}
	if err := y.makeProject(ctx); err != nil {
		return err
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return y.execute(both) })
	g.Go(func() error { return y.serve(both) })
	if err := g.Wait(); err != nil {
		return err
	}
	// Nothing was started twice, however often it was asked for.
	err := keep(ctx, "executions", time.Minute, func(ctx context.Context) error {
		l, err := y.executions(ctx)
		if err == nil && len(l) != 1 {
			err = wrong("one push made executions %v", l)
		}
		return err
	})
	if err != nil {
		return err
	}
	return keep(ctx, "delete the project", time.Minute, func(ctx context.Context) error {
		err := y.s.Do(ctx, "DELETE", y.path(), nil, nil)
		if cli.IsStatus(err, http.StatusNotFound) {
			return nil
		}
		return err
	})
}

// execute pushes and looks at what becomes of it.
func (y *story) execute(ctx context.Context) error {
	if err := y.makePipeline(ctx); err != nil {
		return err
	}
	if err := y.push(ctx); err != nil {
		return err
	}
	e, err := y.finish(ctx)
	if err != nil {
		return err
	}
	if e.Status != "SUCCESSFUL" || len(e.Steps) != 3 {
		return fmt.Errorf("the execution is %s", e)
	}
	y.steps = e.Steps
	return keep(ctx, "logs", time.Minute, func(ctx context.Context) error { return y.checkLogs(ctx, e) })
}

// wrong is a finding that no patience mends; keep ends at it.
func wrong(format string, a ...any) error { return &cli.Refused{Message: fmt.Sprintf(format, a...)} }

func (y *story) checkLogs(ctx context.Context, e execution) error {
	var logs [3][]string
	for i, st := range e.Steps {
		if st.Status != "SUCCESSFUL" {
			return wrong("action %s is %s", st.Action.Name, st.Status)
		}
		var err error
		if logs[i], err = y.log(ctx, e.ID, st); err != nil {
			return err
		}
	}
	if err := checkBuild(logs[0]); err != nil {
		return wrong("the build's log: %v:\n%s", err, strings.Join(logs[0], "\n"))
	}
	begin, err := counted(logs[1], numbered, true)
	if err != nil {
		return wrong("the log of the run: %v:\n%s", err, strings.Join(logs[1], "\n"))
	}
	// The file says how often the program was started, whatever the log says.
	if len(logs[2]) != 1 || logs[2][0] != begin {
		return wrong("the action was started by %v, its log is of %s", logs[2], begin)
	}
	return nil
}

// checkBuild checks the log of a build whose one step prints ten lines. A build
// that a kill interrupted begins again, which the log says; what it had said
// stays.
func checkBuild(l []string) error {
	var parts [][]string
	from := 0
	for i, s := range l {
		if s == "the server was restarted: the build begins again, with what the cache has" {
			parts = append(parts, l[from:i])
			from = i + 1
		}
	}
	parts = append(parts, l[from:])
	if n := strings.Count(strings.Join(l, "\n"), "Checked out"); n != 1 || !strings.HasPrefix(l[0], "Checked out") {
		return fmt.Errorf("it tells %d times of the checkout", n)
	}
	ran := false
	for i, p := range parts {
		whole := slices.Contains(p, "end")
		switch begin, err := counted(p, -1, whole); {
		case begin == "":
		case err != nil:
			return err
		default: // a kill may come after the step and before the cache knows it
			ran = ran || whole
		}
		if n := strings.Count(strings.Join(p, "\n"), "image sha256:"); n > 1 || i == len(parts)-1 && n != 1 {
			return fmt.Errorf("it tells %d times of the image", n)
		}
	}
	if !ran {
		return errors.New("the step was not done")
	}
	return nil
}

// serve hosts, changes and removes services.
func (y *story) serve(ctx context.Context) error {
	volumes := map[string]any{"data": map[string]any{"name": "data"}}
	declare := func(method, query string, services map[string]any) error {
		return keep(ctx, "declare", time.Minute, func(ctx context.Context) error {
			return y.s.Do(ctx, method, y.stackPath()+query, map[string]any{"services": services, "volumes": volumes}, nil)
		})
	}
	first := map[string]any{"web": hosted("1", "data:/data")}
	if err := declare("PUT", "", first); err != nil {
		return err
	}
	one, err := y.running(ctx, "web")
	if err != nil {
		return err
	}
	if err := y.route(ctx, y.host, "web"); err != nil {
		return err
	}
	a, err := y.s.answers(ctx, y.host, http.StatusOK, "1")
	if err != nil {
		return err
	}
	// Said again, nothing changes; a change waits for the recreate.
	if err := declare("PUT", "", first); err != nil {
		return err
	}
	second := map[string]any{"web": hosted("2", "data:/data")}
	if err := declare("PATCH", "", second); err != nil {
		return err
	}
	if v, err := y.service(ctx, "web"); err == nil && (v.ID != one.ID || !v.RequiresRecreate) {
		return fmt.Errorf("after a change the service is %+v", v)
	}
	b, err := y.s.answers(ctx, y.host, http.StatusOK, "1")
	if err != nil {
		return err
	}
	if a.Boot != b.Boot {
		return fmt.Errorf("the service was started again before it was recreated: %v, %v", a, b)
	}
	err = keep(ctx, "recreate", time.Minute, func(ctx context.Context) error {
		v, err := y.service(ctx, "web")
		if err != nil || !v.RequiresRecreate {
			return err
		}
		return y.s.Do(ctx, "POST", y.stackPath()+"/services/"+one.ID+"/actions/recreate", nil, nil)
	})
	if err != nil {
		return err
	}
	if b, err = y.s.answers(ctx, y.host, http.StatusOK, "2"); err != nil {
		return err
	}
	if len(b.Boots) != 2 || b.Boots[0] != a.Boot || b.Boots[1] != b.Boot {
		return fmt.Errorf("two starts are in the volume as %v; %s was first, %s is there", b.Boots, a.Boot, b.Boot)
	}
	if _, err := y.running(ctx, "web"); err != nil {
		return err
	}
	// Another service takes the volume.
	if err := declare("PUT", "", map[string]any{"aux": hosted("3", "data:/data")}); err != nil {
		return err
	}
	if _, err := y.running(ctx, "aux"); err != nil {
		return err
	}
	if _, err := y.s.answers(ctx, y.host, http.StatusServiceUnavailable, ""); err != nil {
		return err
	}
	if err := y.route(ctx, y.host, "aux"); err != nil {
		return err
	}
	if b, err = y.s.answers(ctx, y.host, http.StatusOK, "3"); err != nil {
		return err
	}
	if len(b.Boots) != 3 {
		return fmt.Errorf("three starts are in the volume as %v", b.Boots)
	}
	return keep(ctx, "stack", time.Minute, func(ctx context.Context) error {
		l, err := y.services(ctx)
		if err == nil && (len(l) != 1 || l[0].ServiceName != "aux" || l[0].Status != "running") {
			err = fmt.Errorf("it has %+v", l)
		}
		return err
	})
}

// place is one of those that crash.At marks, and the how-manieth time.
type place struct {
	name  string
	nth   int
	start bool // counted from the start of the server
}

func (p place) String() string { return fmt.Sprintf("%s#%d", p.name, p.nth) }

// reached reads how often each place was come to.
func reached(t *testing.T, file string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		count[strings.TrimSpace(line)]++
	}
	return count
}

// places makes a list of kills: each place at the first time it comes in the
// scenario, and at the first time it comes at a start.
func places(atStart, all map[string]int) (l []place) {
	for name, n := range all {
		if n > atStart[name] {
			l = append(l, place{name, 1, false})
		}
		if atStart[name] > 0 {
			l = append(l, place{name, 1, true})
		}
	}
	slices.SortFunc(l, func(a, b place) int { return strings.Compare(a.String(), b.String()) })
	return l
}

// lane is a server to be killed again and again, with a service that must not
// notice.
type lane struct {
	*server
	steady *job
	p      *prober
	want   map[string]int // what is on the host when nothing is going on
	where  string         // the file that says where the server is to be killed
	env    []string       // of the server
}

// newLane starts a server that has warm what stays warm.
func newLane(t *testing.T, env ...string) *lane {
	t.Helper()
	l := &lane{server: newServer(t)}
	l.where = filepath.Join(l.dir, "crash")
	l.env = append([]string{"SLIPWAY_CRASH=@" + l.where}, env...)
	var err error
	if l.steady, err = l.hostSteady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.p = l.probe(t, "steady.localhost")
	t.Cleanup(l.p.end)
	l.p.more(5)
	if err := l.story("warm").tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.terminate()
	l.start(l.env)
	l.p.more(10)
	l.want = l.quiet(t)
	return l
}

// kill is one that is to be done; with luck involved its place may not be
// reached.
type kill struct {
	place
	story string // its name
	luck  bool
}

// planned makes the kills of a number of rounds: in the first each place at its
// first time, then any time, in any order.
func planned(atStart, all map[string]int, rounds int) (l []kill) {
	only := os.Getenv("SLIPWAY_CRASH_ONLY")
	for round := range rounds {
		from := len(l)
		for _, k := range places(atStart, all) {
			if !strings.HasPrefix(k.String(), only) {
				continue
			}
			if round > 0 && !k.start {
				k.nth = 1 + rand.IntN(all[k.name]-atStart[k.name])
			}
			l = append(l, kill{k, fmt.Sprintf("p%d", len(l)), round > 0})
		}
		if these := l[from:]; round > 0 {
			rand.Shuffle(len(these), func(i, j int) { these[i], these[j] = these[j], these[i] })
		}
	}
	return l
}

// TestCrash kills the server at every place at which its state has just
// changed.
func TestCrash(t *testing.T) {
	rounds := 1
	if os.Getenv("SLIPWAY_LONG") != "" {
		rounds = 20
	}
	atStart, all := scout(t)
	kills := planned(atStart, all, rounds)
	next := make(chan kill, len(kills))
	for _, k := range kills {
		next <- k
	}
	close(next)
	for n := range lanes {
		t.Run(fmt.Sprint("lane ", n), func(t *testing.T) {
			t.Parallel()
			l := newLane(t)
			for k := range next {
				t.Run(k.String(), func(t *testing.T) {
					l.t = t
					l.killAt(t, k)
				})
			}
			l.t = t
			l.end()
			l.start(nil)
			l.checkSteady(t, l.steady)
		})
	}
}

// scout goes once through the scenario without a kill, to see which places
// there are.
func scout(t *testing.T) (atStart, all map[string]int) {
	list := filepath.Join(t.TempDir(), "places")
	t.Run("no kill", func(t *testing.T) {
		l := newLane(t, "SLIPWAY_CRASH_LIST="+list)
		atStart = reached(t, list)
		begun := time.Now()
		if err := l.story("whole").tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("the scenario takes %s", time.Since(begun).Round(time.Millisecond))
		until(t, time.Minute, "the deleted project is gone from the host", func() error { return l.settled(l.want) })
		all = reached(t, list)
		t.Logf("%d kills at %d places; settled: %v", len(places(atStart, all)), len(all), l.want)
	})
	if t.Failed() {
		t.FailNow()
	}
	return atStart, all
}

// killAt has the server killed at a place within a story, and looks at what the
// next one makes of it.
func (s *lane) killAt(t *testing.T, k kill) {
	begun := time.Now()
	mark := len(s.said())
	write := func(text string) {
		if err := os.WriteFile(s.where+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.where+".new", s.where); err != nil {
			t.Fatal(err)
		}
	}
	y := s.story(k.story)
	defer func() {
		if t.Failed() {
			t.Logf("the server said:\n%s", tail(s.said()[mark:], 60))
			write("")
			if !s.runs() {
				s.start(s.env)
			}
			_ = s.Do(context.Background(), "DELETE", y.path(), nil, nil) // the next is not to stumble over it
		}
		for _, b := range s.p.failures() {
			t.Errorf("the hosted service was interrupted: %s", b)
		}
	}()
	switch {
	case k.start:
		s.end()
		write(k.String())
		s.launch(s.env)
	case !s.runs():
		write("")
		s.start(s.env)
		fallthrough
	default:
		write(k.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan error, 1)
	go func() { told <- y.tell(ctx) }()
	select {
	case <-s.gone:
	case err := <-told:
		if !k.luck || err != nil {
			t.Errorf("the place was not reached: %v", err)
		}
		s.kill()
		told <- err
	}
	if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the server ended by itself: %v", s.cmd.ProcessState)
	}
	write("")
	died := time.Now()
	s.p.more(10) // it answers while no server is there
	if k.luck {
		pause(time.Duration(rand.IntN(1500)) * time.Millisecond)
	}
	down := time.Since(died)
	s.start(s.env)
	if err := <-told; err != nil {
		t.Errorf("the story: %v", err)
	}
	ended := time.Since(begun)
	cancel()
	until(t, 30*time.Second, "everything has settled", func() error { return s.settled(s.want) })
	s.nothingPending(t)
	t.Logf("killed %s after the start, down for %s, told after %s, all over after %s", died.Sub(begun).Round(time.Millisecond), down.Round(time.Millisecond),
		ended.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
}

// pause is part of a scenario, not a wait for something.
func pause(d time.Duration) { <-time.After(d) }

// nothingPending looks at all executions there are.
func (s *server) nothingPending(t *testing.T) {
	t.Helper()
	var l struct{ Projects []struct{ Name string } }
	s.must("GET", "/workspaces/default/projects", nil, &l)
	for _, p := range l.Projects {
		j := s.job(p.Name)
		if err := j.makePipeline(t.Context()); err != nil {
			t.Error(err)
			continue
		}
		ns, err := j.executions(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, n := range ns {
			if e, err := j.execution(t.Context(), n); err != nil || !over(e.Status) {
				t.Errorf("execution %s/%d: %s, %v", p.Name, n, e, err)
			}
		}
	}
}

// checkSteady looks at the service that ran all the time.
func (s *server) checkSteady(t *testing.T, j *job) {
	t.Helper()
	v, err := j.running(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	var text string
	s.must("GET", j.stackPath()+"/services/"+v.ID+"/logs", nil, &text)
	l := strings.Split(text, "\n")
	if _, err := counted(l, -1, false); err != nil {
		t.Errorf("the log of the steady service: %v", err)
	}
	t.Logf("the log of the steady service has %d lines", len(l))
}
