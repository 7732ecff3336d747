package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// worldOf reads "A:STATUS B@ON_FAILURE:STATUS C!" into an execution: @ names the
// stage, ! ignores errors, - is disabled, no status is INITIAL.
func worldOf(status Status, text string) Execution {
	x := Execution{Status: status, Started: noon}
	for i, w := range strings.Fields(text) {
		name, st, ok := strings.Cut(w, ":")
		if !ok {
			st = "INITIAL"
		}
		s := ActionExecution{Index: i, Status: Status(st)}
		s.Action.ID = ActionID(i + 1)
		name, s.Action.IgnoreErrors = strings.CutSuffix(name, "!")
		name, s.Action.Disabled = strings.CutSuffix(name, "-")
		name, stage, _ := strings.Cut(name, "@")
		s.Action.When = When(stage)
		if stage == "FIRST" {
			s.Action.When, s.Action.FirstFailureOnly = OnFailure, true
		}
		s.Action.Name = name
		x.Steps = append(x.Steps, s)
	}
	return x
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		status   Status
		previous Status
		steps    string
		want     Decision
	}{
		{"nothing to do", InProgress, "", "", Decision{Status: Successful}},
		{"the first", InProgress, "", "A B", Decision{Start: [][]int{{0}}}},
		{"the second", InProgress, "", "A:SUCCESSFUL B", Decision{Start: [][]int{{1}}}},
		{"one is under way", InProgress, "", "A:INPROGRESS B", Decision{}},
		{"a disabled one", InProgress, "", "A- B", Decision{Start: [][]int{{1}}, Skip: []int{0}}},
		{"all went well", InProgress, "", "A:SUCCESSFUL B:SUCCESSFUL", Decision{Status: Successful}},
		{"a failure ends the chain", InProgress, "", "A:FAILED B C", Decision{Drop: []int{1, 2}, Status: Failed}},
		{"an ignored failure does not", InProgress, "", "A!:FAILED B", Decision{Start: [][]int{{1}}}},
		{"an ignored failure is a success", InProgress, "", "A!:FAILED B:SUCCESSFUL", Decision{Status: Successful}},
		{"on failure", InProgress, "", "F@ON_FAILURE A:FAILED B", Decision{Drop: []int{2}, Start: [][]int{{0}}}},
		{"on failure is done", InProgress, "", "F@ON_FAILURE:SUCCESSFUL A:FAILED", Decision{Status: Failed}},
		{"on failure failed", InProgress, "", "F@ON_FAILURE:FAILED G@ON_FAILURE A:FAILED", Decision{Start: [][]int{{1}}}},
		{"no failure", InProgress, "", "A:SUCCESSFUL F@ON_FAILURE", Decision{Drop: []int{1}, Status: Successful}},
		{"first failure", InProgress, Successful, "A:FAILED F@FIRST", Decision{Start: [][]int{{1}}}},
		{"second failure", InProgress, Failed, "A:FAILED F@FIRST", Decision{Drop: []int{1}, Status: Failed}},
		{"on success", InProgress, "", "S@ON_SUCCESS A:SUCCESSFUL F@ON_FAILURE", Decision{Start: [][]int{{0}}}},
		{"on success failed", InProgress, "", "S@ON_SUCCESS:FAILED A:SUCCESSFUL F@ON_FAILURE", Decision{Start: [][]int{{2}}}},
		{"on success after failure", InProgress, "", "A:FAILED S@ON_SUCCESS", Decision{Drop: []int{1}, Status: Failed}},
		{"back to success", InProgress, Failed, "A:SUCCESSFUL B@ON_BACK_TO_SUCCESS", Decision{Start: [][]int{{1}}}},
		{"still success", InProgress, Successful, "A:SUCCESSFUL B@ON_BACK_TO_SUCCESS", Decision{Drop: []int{1}, Status: Successful}},
		{"warning", InProgress, "", "A!:FAILED W@ON_WARNING", Decision{Start: [][]int{{1}}}},
		{"no warning", InProgress, "", "A:SUCCESSFUL W@ON_WARNING", Decision{Drop: []int{1}, Status: Successful}},
		{"nobody approves", InProgress, "", "A:SUCCESSFUL W@ON_WAIT_FOR_APPROVE", Decision{Drop: []int{1}, Status: Successful}},
		{"cancelled", Terminating, "", "A:TERMINATED B F@ON_FAILURE T@ON_TERMINATE", Decision{Drop: []int{1, 2}, Start: [][]int{{3}}}},
		{"cancelled and done", Terminating, "", "A:TERMINATED T@ON_TERMINATE:SUCCESSFUL", Decision{Status: Terminated}},
		{"waits to be admitted", Enqueued, "", "A", Decision{}},
		{"ended", Failed, "", "A", Decision{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := worldOf(c.status, c.steps)
			x.Previous = c.previous
			if diff := cmp.Diff(c.want, Next(x, noon)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNextWaits(t *testing.T) {
	t.Parallel()
	x := worldOf(InProgress, "A:ENQUEUED B")
	x.Steps[0].NotBefore = noon.Add(time.Minute)
	if d := Next(x, noon); len(d.Start) > 0 || !d.Again.Equal(noon.Add(time.Minute)) {
		t.Errorf("before the time: %+v", d)
	}
	if d := Next(x, noon.Add(time.Minute)); fmt.Sprint(d.Start) != "[[0]]" {
		t.Errorf("at the time: %+v", d)
	}
	x = worldOf(InProgress, "A B C")
	x.Only = []ActionID{2}
	if d := Next(x, noon); fmt.Sprint(d.Start) != "[[1]]" || !slices.Equal(d.Skip, []int{0}) {
		t.Errorf("only the second: %+v", d)
	}
	x = worldOf(Terminating, "A T@ON_TERMINATE")
	x.Started = time.Time{}
	if d := Next(x, noon); d.Status != Terminated || len(d.Start) > 0 {
		t.Errorf("cancelled in the queue: %+v", d)
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	s := ActionExecution{Status: InProgress, Action: Action{Retries: 1, RetryInterval: time.Second}}
	s = Settle(s, Result{Status: Failed, Code: 3, Error: "x"}, noon)
	if s.Status != Enqueued || !s.NotBefore.Equal(noon.Add(time.Second)) || s.Tries != 1 {
		t.Errorf("first failure: %+v", s)
	}
	if f := Settle(s, Result{Status: Failed, Final: true}, noon); f.Status != Failed {
		t.Errorf("final failure: %+v", f)
	}
	if s = Settle(s, Result{Status: Failed, Code: 4}, noon); s.Status != Failed || s.Code != 4 || s.Finished.IsZero() {
		t.Errorf("second failure: %+v", s)
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	x := Again(worldOf(Failed, "A:SUCCESSFUL W!:FAILED B:FAILED C:NOT_EXECUTED D-:SKIPPED F@ON_FAILURE:SUCCESSFUL"))
	var got []Status
	for _, s := range x.Steps {
		got = append(got, s.Status)
	}
	want := []Status{Successful, Failed, Initial, Initial, Skipped, Initial}
	if diff := cmp.Diff(want, got); diff != "" || x.Status != Enqueued {
		t.Error(x.Status, diff)
	}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	for _, c := range []struct {
		name        string
		queue       []Waiting
		running     []Running
		limits      Limits
		start, skip string
	}{
		{"free", []Waiting{{ID: "a", Pipeline: 1, Units: []Slots{{Runs: 1}}}}, nil, Limits{1, 1}, "a", ""},
		{"full", []Waiting{{ID: "a", Pipeline: 1, Units: []Slots{{Runs: 1}}}}, []Running{{"z", 9, Slots{Runs: 1}, false}}, Limits{1, 1}, "", ""},
		{"another class", []Waiting{{ID: "a", Pipeline: 1, Units: []Slots{{Runs: 1}}}}, []Running{{"z", 9, Slots{Builds: 1}, false}}, Limits{1, 1}, "a", ""},
		{"no limit", []Waiting{{ID: "a", Pipeline: 1, Units: []Slots{{Runs: 1}}}}, []Running{{"z", 9, Slots{Runs: 1}, false}}, Limits{}, "a", ""},
		{"one after the other", []Waiting{{ID: "a", Pipeline: 1}}, []Running{{"z", 1, Slots{Runs: 1}, false}}, Limits{}, "", ""},
		{"concurrent", []Waiting{{ID: "a", Pipeline: 1, Concurrent: true}}, []Running{{"z", 1, Slots{}, true}}, Limits{}, "a", ""},
		{"concurrent, beside one that is not", []Waiting{{ID: "a", Pipeline: 1, Concurrent: true}}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", ""},
		{"not concurrent, beside one that is", []Waiting{{ID: "a", Pipeline: 1}}, []Running{{"z", 1, Slots{}, true}}, Limits{}, "", ""},
		{"concurrent, after one that is not", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1)}, {ID: "b", Pipeline: 1, Queued: at(2), Concurrent: true}, {ID: "c", Pipeline: 2, Queued: at(3), Concurrent: true},
		}, []Running{{"z", 1, Slots{}, true}}, Limits{}, "c", ""},
		{"concurrent ones are not replaced", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1), Concurrent: true}, {ID: "b", Pipeline: 1, Queued: at(2), Concurrent: true},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", ""},
		{"the newest stays", []Waiting{
			{ID: "a", Pipeline: 1, Number: 1, Queued: at(1)}, {ID: "b", Pipeline: 1, Number: 2, Queued: at(2)}, {ID: "c", Pipeline: 1, Number: 3, Queued: at(3)},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", "{a 3} {b 3}"},
		{"only of the same ref", []Waiting{
			{ID: "a", Pipeline: 1, Number: 1, Queued: at(1), Ref: "main"},
			{ID: "b", Pipeline: 1, Number: 2, Queued: at(2), Ref: "dev"},
			{ID: "c", Pipeline: 1, Number: 3, Queued: at(3), Ref: "main"},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", "{a 3}"},
		{"the runs of one start", []Waiting{
			{ID: "a", Pipeline: 1, Number: 1, Queued: at(1), Start: "a"}, {ID: "b", Pipeline: 1, Number: 2, Queued: at(1), Start: "a"},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", ""},
		{"the runs of a newer start", []Waiting{
			{ID: "a", Pipeline: 1, Number: 1, Queued: at(1), Start: "a"},
			{ID: "b", Pipeline: 1, Number: 2, Queued: at(1), Start: "a"},
			{ID: "c", Pipeline: 1, Number: 3, Queued: at(2), Start: "c"},
			{ID: "d", Pipeline: 1, Number: 4, Queued: at(2), Start: "c"},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", "{a 4} {b 4}"},
		{"none is replaced", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1), NoSkip: true}, {ID: "b", Pipeline: 1, Queued: at(2), NoSkip: true},
		}, []Running{{"z", 1, Slots{}, false}}, Limits{}, "", ""},
		{"the oldest starts", []Waiting{
			{ID: "b", Pipeline: 1, Queued: at(2)}, {ID: "a", Pipeline: 1, Queued: at(1)},
		}, nil, Limits{}, "a", ""},
		{"a newer one of higher priority", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1), Priority: Low},
			{ID: "b", Pipeline: 2, Queued: at(2), Priority: High, Units: []Slots{{Runs: 1}}},
			{ID: "c", Pipeline: 3, Queued: at(0), Units: []Slots{{Runs: 1}}},
		}, nil, Limits{Runs: 1}, "b a", ""},
		{"who has begun comes first", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1), Units: []Slots{{Runs: 1}}, Priority: High}, {ID: "b", Pipeline: 2, Queued: at(2), Units: []Slots{{Runs: 1}}, Begun: true},
		}, nil, Limits{Runs: 1}, "b", ""},
		{"who has begun is not replaced", []Waiting{
			{ID: "a", Pipeline: 1, Queued: at(1), Units: []Slots{{Runs: 1}}, Begun: true}, {ID: "b", Pipeline: 1, Queued: at(2), Units: []Slots{{Runs: 1}}},
		}, []Running{{"z", 9, Slots{Runs: 1}, false}}, Limits{Runs: 1}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := Admit(c.queue, c.running, c.limits)
			join := func(l any) string { return strings.Trim(fmt.Sprint(l), "[]") }
			if join(a.Start) != c.start || join(a.Skip) != c.skip {
				t.Errorf("start %v, skip %v; want %q, %q", a.Start, a.Skip, c.start, c.skip)
			}
		})
	}
}
