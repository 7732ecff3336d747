package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

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

// spot is a place, the scenario that comes to it, and how often.
type spot struct {
	place
	tell  func(*story, context.Context) error
	times int
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
	from   *elsewhere
}

// newLane starts a server that has warm what stays warm.
func newLane(t *testing.T, env ...string) *lane {
	t.Helper()
	l := &lane{server: newServer(t)}
	l.from = newElsewhere(t, l.dir)
	l.where = filepath.Join(l.dir, "crash")
	l.env = append([]string{"SLIPWAY_CRASH=@" + l.where}, env...)
	var err error
	if l.steady, err = l.hostSteady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.p = l.probe(t, "steady.localhost")
	t.Cleanup(l.p.end)
	l.p.more(5)
	for i, tell := range scenarios {
		if err := tell(l.story(fmt.Sprint("warm", i)), t.Context()); err != nil {
			t.Fatal(err)
		}
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
	spot
	story string // its name
	luck  bool
}

// planned makes the kills of a number of rounds: in the first each place at its
// first time, then any time, in any order.
func planned(spots []spot, rounds int) (l []kill) {
	only := os.Getenv("SLIPWAY_CRASH_ONLY")
	for round := range rounds {
		from := len(l)
		for _, k := range spots {
			if !strings.HasPrefix(k.String(), only) {
				continue
			}
			if round > 0 && !k.start {
				k.nth = 1 + rand.IntN(k.times)
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
	kills := planned(scout(t), rounds)
	next := make(chan kill, len(kills))
	for _, k := range kills {
		next <- k
	}
	close(next)
	for n := range max(2, runtime.GOMAXPROCS(0)) { // most of a scenario is waiting; -parallel bounds it
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

// scout goes once through the scenarios without a kill, to see which places
// there are: each in the first that comes to it, and at a start.
func scout(t *testing.T) (spots []spot) {
	list := filepath.Join(t.TempDir(), "places")
	t.Run("no kill", func(t *testing.T) {
		l := newLane(t, "SLIPWAY_CRASH_LIST="+list)
		known := reached(t, list)
		for name := range known {
			spots = append(spots, spot{place{name, 1, true}, scenarios[0], 1})
		}
		for i, tell := range scenarios {
			begun := time.Now()
			if err := tell(l.story(fmt.Sprint("whole", i)), t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("scenario %d takes %s", i, time.Since(begun).Round(time.Millisecond))
			until(t, time.Minute, "the deleted project is gone from the host", func() error { return l.settled(l.want) })
			now := reached(t, list)
			for name, n := range now {
				if !slices.ContainsFunc(spots, func(k spot) bool { return k.name == name && !k.start }) && n > known[name] {
					spots = append(spots, spot{place{name, 1, false}, tell, n - known[name]})
				}
			}
			known = now
		}
		slices.SortFunc(spots, func(a, b spot) int { return strings.Compare(a.String(), b.String()) })
		t.Logf("%d kills at %d places; settled: %v", len(spots), len(known), l.want)
		allPlaces(t, known)
	})
	if t.Failed() {
		t.FailNow()
	}
	return spots
}

// killedBy are the places that the scenarios do not come to, and the tests that
// kill there.
var killedBy = map[string]string{
	"access: the first user is made":        "TestStartKilled",
	"secret: the master key is made":        "TestStartKilled",
	"ingress: process started":              "TestStartKilled",
	"db: the new schema is written":         "TestStartKilled and TestKilled of db",
	"db: the new schema is in place":        "TestStartKilled and TestKilled of db",
	"db: a migration is applied":            "TestStartKilled and TestKilled of db",
	"image: upload begun":                   "TestKilledRegistry of image",
	"image: blob stored":                    "TestKilledRegistry of image",
	"image: manifest stored":                "TestKilledRegistry of image",
	"image: manifest pushed":                "TestKilledRegistry of image",
	"logs: segment is closed":               "TestCrash of logs",
	"logs: compressed segment is written":   "TestCrash of logs",
	"logs: compressed segment has its name": "TestCrash of logs",
	"logs: plain segment is removed":        "TestCrash of logs",
	"logs: old segment is dropped":          "TestCrash of logs",
	"image: tagged":                         "nobody: no route leads there",
	"image: untagged":                       "nobody: no route leads there",
	"pipeline: started by the clock":        "TestKilledClock of trigger",
	"trigger: a pull request is handled":    "TestKilledPullRequest of trigger",
	"pipeline: snapshots are not named":     "nobody: the next look drops what is not named, TestRerunAfterRestart of pipeline",
	"project: a workspace is deleted":       "nobody: one transaction, after which its projects end as those deleted alone do",
	"source: a file is committed":           "TestKilledWhileWriting of source",
	"source: a branch is made or removed":   "TestKilledWhileWriting of source",
	"source: a submodule is fetched":        "TestServerKilledDuringSubmodules of source",
	"source: a submodule is checked out":    "TestServerKilledDuringSubmodules of source",
	"source: files of a submodule are gone": "TestServerKilledDuringSubmodules of source",
	"event: a request to a webhook is kept": "TestSenderKilled of event",
	"stack: images asked for again":         "TestKilledUpdate of stack",
	"stack: new images applied":             "TestKilledUpdate of stack",
	"access: a token is changed":            "nobody: one transaction, and nothing follows from it",
	"stack: deleted stack emptied":          "nobody: it comes a week after the end of its project",
	"source: a repository is removed":       "nobody: it comes a week after the end of its project",
}

// allPlaces looks whether a kill is done at every place of the source.
func allPlaces(t *testing.T, known map[string]int) {
	t.Helper()
	at := regexp.MustCompile(`crash\.At\("([^"]+)"( \+)?`)
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range at.FindAllStringSubmatch(string(b), -1) {
			isReached := known[m[1]] > 0
			if m[2] != "" { // the name goes on with a value
				for name := range known {
					isReached = isReached || strings.HasPrefix(name, m[1])
				}
			}
			if by, ok := killedBy[m[1]]; ok == isReached {
				t.Errorf("%s: %q is reached: %v, and killed by %q", file, m[1], isReached, by)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
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
	go func() { told <- k.tell(y, ctx) }()
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
