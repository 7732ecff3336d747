package native

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
)

// executionPath is the path of an execution in the dialect.
const executionPath = projectPath + "/pipelines/{pipeline}/executions/{number}"

// account is what became of an execution and of each of its actions, and why.
type account struct {
	ID         string          `json:"id"`
	Pipeline   int64           `json:"pipeline"`
	Number     int64           `json:"number"`
	Status     pipeline.Status `json:"status"`
	Created    any             `json:"created"`
	Queued     any             `json:"queued"`
	Started    any             `json:"started"`
	Finished   any             `json:"finished"`
	Conditions *conditions     `json:"conditions"`
	Waits      []wait          `json:"waits"`
	Rerun      *rerunOf        `json:"rerun"`
	Actions    []stepAccount   `json:"actions"`
}

type stepAccount struct {
	ID         string          `json:"action_execution_id"`
	Execution  string          `json:"execution"`
	Action     int64           `json:"action"`
	Name       string          `json:"name"`
	Status     pipeline.Status `json:"status"`
	Why        why             `json:"why"`
	Conditions *conditions     `json:"conditions"`
	Waits      []wait          `json:"waits"`
	Started    any             `json:"started"`
	Finished   any             `json:"finished"`
	Error      any             `json:"error"`
	Snapshot   *snapshot       `json:"snapshot"`
	Tries      []try           `json:"tries"`
}

// rerunOf says where an execution has begun that goes on from another one.
type rerunOf struct {
	Of   int64 `json:"of"`
	From any   `json:"from"`
}

// snapshot tells whether an execution can be begun with an action.
type snapshot struct {
	Kept  bool `json:"kept"`
	Until any  `json:"until"`
	Why   any  `json:"why"`
}

// fromSnapshot is nil as long as an action has not begun.
func fromSnapshot(x pipeline.Execution, s pipeline.ActionExecution) *snapshot {
	switch {
	case s.Carried:
		return &snapshot{Why: fmt.Sprintf("it was run in execution %d", x.Rerun.Of)}
	case s.Snapshot == "" && s.Unkept == "":
		return nil
	}
	return &snapshot{Kept: s.Snapshot != "", Until: api.Time(x.SnapshotsEnd()), Why: text(s.Unkept)}
}

type why struct {
	Reason string `json:"reason"`
	Text   string `json:"text"`
}

// conditions are trigger conditions and whether they were met.
type conditions struct {
	At    any       `json:"at"`
	Met   bool      `json:"met"`
	Error any       `json:"error"`
	Each  []outcome `json:"each"`
}

type outcome struct {
	Kind string `json:"trigger_condition"`
	Met  bool   `json:"met"`
	Why  string `json:"why"`
}

type wait struct {
	For     string  `json:"for"`
	Since   any     `json:"since"`
	Until   any     `json:"until"`
	Seconds float64 `json:"seconds"`
}

type try struct {
	Attempt  int             `json:"attempt"`
	Try      int             `json:"try"`
	Round    int             `json:"round"`
	Status   pipeline.Status `json:"status"`
	Waits    []wait          `json:"waits"`
	Started  any             `json:"started"`
	Finished any             `json:"finished"`
	Seconds  float64         `json:"seconds"`
	Reason   any             `json:"reason"`
	Code     any             `json:"exit_code"`
	Signal   any             `json:"signal"`
	Error    any             `json:"error"`
	Memory   any             `json:"memory_peak"`
	CPU      any             `json:"cpu_seconds"`
	Build    *built          `json:"build"`
}

// built is what a build took from the cache, and what not.
type built struct {
	Steps   int         `json:"steps"`
	Cached  int         `json:"cached"`
	NoCache bool        `json:"no_cache"`
	List    []builtStep `json:"list"`
	Miss    *miss       `json:"first_miss"`
}

type builtStep struct {
	Stage  any    `json:"stage"`
	Index  int    `json:"index"`
	Of     int    `json:"of"`
	Text   string `json:"instruction"`
	Cached bool   `json:"cached"`
	Done   bool   `json:"done"`
}

// miss is the first step that was not in the cache, and what had changed.
type miss struct {
	Step   string `json:"step"`
	Reason string `json:"reason"`
	Text   string `json:"text"`
}

func fromBuilt(b *pipeline.Built) *built {
	if b == nil {
		return nil
	}
	out := &built{NoCache: b.NoCache, List: []builtStep{}}
	for _, s := range b.Steps {
		if s.Counts() {
			out.Steps++
			if s.Cached {
				out.Cached++
			}
		}
		out.List = append(out.List, builtStep{text(s.Stage), s.Index, s.Of, s.Text, s.Cached, s.Done})
	}
	if b.Miss != nil {
		out.Miss = &miss{b.Miss.Step, b.Miss.Changed, b.Miss.Text}
	}
	return out
}

// text is a text, or null for none.
func text[T ~string](s T) any {
	if s == "" {
		return nil
	}
	return s
}

// lasted is how long something took, or takes by now, in seconds.
func lasted(from, to time.Time) float64 {
	if to.IsZero() {
		to = time.Now()
	}
	return float64(max(0, to.Sub(from)).Round(time.Millisecond).Milliseconds()) / 1000
}

func fromVerdict(v *pipeline.Verdict) *conditions {
	if v == nil {
		return nil
	}
	c := &conditions{At: api.Time(v.At), Met: v.Met, Error: text(v.Error), Each: []outcome{}}
	for _, o := range v.Each {
		c.Each = append(c.Each, outcome{o.Kind, o.Met, o.Why})
	}
	return c
}

func fromWaits(all []pipeline.Wait) []wait {
	l := []wait{}
	for _, w := range all {
		l = append(l, wait{w.For, api.Time(w.Since), api.Time(w.Until), lasted(w.Since, w.Until)})
	}
	return l
}

func fromTry(t pipeline.Try) try {
	out := try{
		Attempt: t.Attempt, Try: t.Try, Round: t.Round, Status: t.Status, Waits: fromWaits(t.Waits), Started: api.Time(t.Started),
		Finished: api.Time(t.Finished), Seconds: lasted(t.Started, t.Finished), Reason: text(t.Reason), Error: text(t.Error),
		Build: fromBuilt(t.Build),
	}
	if t.Code >= 0 && !t.Finished.IsZero() {
		out.Code = t.Code
	}
	if t.Memory > 0 {
		out.Memory = t.Memory
	}
	if t.CPU > 0 {
		out.CPU = (time.Duration(t.CPU) * time.Microsecond).Seconds()
	}
	if t.Signal > 0 {
		out.Signal = t.Signal
	}
	return out
}

func fromStep(x pipeline.Execution, s pipeline.StepAccount) stepAccount {
	a := stepAccount{
		ID: s.ID, Execution: string(x.ID), Action: int64(s.Action.ID), Name: s.Action.Name, Status: s.Shown(), Why: why{s.Why.Word, s.Why.Text},
		Conditions: fromVerdict(s.Verdict), Waits: fromWaits(s.Waits), Started: api.Time(s.Started), Finished: api.Time(s.Finished),
		Error: text(s.Error), Snapshot: fromSnapshot(x, s.ActionExecution), Tries: []try{},
	}
	for _, t := range s.Tries {
		a.Tries = append(a.Tries, fromTry(t))
	}
	return a
}

// execution finds the execution of a path.
func (h *Handlers) execution(r *http.Request, by access.Actor) (pipeline.Execution, error) {
	pr, err := h.project(r, by)
	if err != nil {
		return pipeline.Execution{}, err
	}
	gone := fmt.Errorf("execution %s of pipeline %s: %w", r.PathValue("number"), r.PathValue("pipeline"), errdefs.ErrNotFound)
	id, err := strconv.ParseInt(r.PathValue("pipeline"), 10, 64)
	if err != nil {
		return pipeline.Execution{}, gone
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		return pipeline.Execution{}, gone
	}
	x, err := h.Pipelines.Numbered(r.Context(), by, pipeline.ID(id), number)
	if err == nil && x.Project != pr.ID {
		err = gone
	}
	return x, err
}

func (h *Handlers) account(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	x, err := h.execution(r, by)
	if err != nil {
		return err
	}
	return h.tell(w, r, by, http.StatusOK, x.ID)
}

// tell gives the account of an execution.
func (h *Handlers) tell(w http.ResponseWriter, r *http.Request, by access.Actor, status int, id pipeline.ExecutionID) error {
	a, err := h.Pipelines.Account(r.Context(), by, id)
	if err != nil {
		return err
	}
	out := account{
		ID: string(a.ID), Pipeline: int64(a.Pipeline), Number: a.Number, Status: a.Shown(), Created: api.Time(a.Created), Queued: api.Time(a.Queued),
		Started: api.Time(a.Started), Finished: api.Time(a.Finished), Conditions: fromVerdict(a.Verdict), Waits: fromWaits(a.Waits),
		Actions: []stepAccount{},
	}
	for _, s := range a.Steps {
		out.Actions = append(out.Actions, fromStep(a.Execution, s))
		if a.Rerun != nil && a.Rerun.From == s.Index {
			out.Rerun = &rerunOf{a.Rerun.Of, s.ID}
		}
	}
	if a.Rerun != nil && out.Rerun == nil { // an action that is not seen
		out.Rerun = &rerunOf{Of: a.Rerun.Of}
	}
	return api.JSON(w, status, out)
}

func (h *Handlers) stepAccount(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	s, x, err := h.Pipelines.StepAccount(r.Context(), by, r.PathValue("step"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromStep(x.Execution, s))
}
