package pipeline

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"slipway/db"
	"slipway/engine"
)

// Built is what a build took from the cache and what not.
type Built struct {
	NoCache bool              `json:"no_cache,omitempty"`
	Steps   []BuiltStep       `json:"steps"`
	Args    map[string]string `json:"args,omitempty"` // sums of the arguments that the Dockerfile declares
	Text    string            `json:"text,omitempty"` // digest of the Dockerfile
	Miss    *Miss             `json:"miss,omitempty"` // the first; nil: the cache had all
}

// BuiltStep is a step of a Dockerfile that was begun.
type BuiltStep struct {
	Stage  string `json:"stage,omitempty"`
	Index  int    `json:"index"` // in its stage, from 1
	Of     int    `json:"of"`
	Text   string `json:"text"` // the instruction, cut off
	Sum    string `json:"sum"`  // of all of it
	Cached bool   `json:"cached,omitempty"`
	Done   bool   `json:"done,omitempty"`
}

// Miss is a step that the cache did not have, and what is another than in the
// build of the action before.
type Miss struct {
	Step    string `json:"step"`
	Changed string `json:"changed"`
	Text    string `json:"text"`
}

// What changed.
const (
	MissNoCache     = "NO_CACHE"     // the cache was not to be used
	MissFirst       = "FIRST_BUILD"  // there was no build before
	MissNotReached  = "NOT_REACHED"  // the build before did not come to the step
	MissBase        = "BASE_IMAGE"   // the image that the stage begins with
	MissInstruction = "INSTRUCTION"  // the step, or one before it
	MissFiles       = "FILES"        // what the step copies
	MissArgument    = "ARGUMENT"     // build arguments
	MissGone        = "NOT_IN_CACHE" // nothing that is known: the result is not kept any more
)

// stepTextMax is how much of an instruction is kept, writtenMax how many files
// are named.
const (
	stepTextMax = 300
	writtenMax  = 10
)

func (s BuiltStep) base() bool { return beginsStage(s.Text) }

func beginsStage(instruction string) bool { return strings.HasPrefix(instruction, "FROM ") }

// Counts tells whether it is among the steps that the cache can have: the begin
// of a stage is not.
func (s BuiltStep) Counts() bool { return s.Done && !s.base() }

// name is what a step is called: "build 2/4 RUN make".
func (s BuiltStep) name() string {
	return strings.TrimSpace(fmt.Sprintf("%s %d/%d %s", s.Stage, s.Index, s.Of, s.Text))
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:8])
}

// builtOf is what a build tells of its steps; nil if it had none.
func builtOf(spec engine.BuildSpec, r engine.BuildResult) *Built {
	if len(r.List) == 0 {
		return nil
	}
	b := &Built{NoCache: spec.NoCache, Args: map[string]string{}, Text: r.Text}
	for _, s := range r.List {
		text := s.Text
		if runes := []rune(text); len(runes) > stepTextMax {
			text = string(runes[:stepTextMax]) + "…"
		}
		b.Steps = append(b.Steps, BuiltStep{Stage: s.Stage, Index: s.Index, Of: s.Of, Text: text, Sum: sum(s.Text), Cached: s.Cached, Done: s.Done})
	}
	for _, name := range r.Args {
		if value, ok := spec.Args[name]; ok {
			b.Args[name] = sum(value)
		}
	}
	return b
}

// firstMiss is the place of the first step that was done though all that it takes
// was there; -1 if the cache had all.
func firstMiss(list []engine.BuildStep) int {
	base := func(s engine.BuildStep) bool { return beginsStage(s.Text) }
	for i, s := range list {
		if !s.Cached && !base(s) && !slices.ContainsFunc(s.After, func(a int) bool { return !list[a].Cached && !base(list[a]) }) {
			return i
		}
	}
	return -1
}

// upTo gives the places of a step and of all that it stands on, in their order.
func upTo(list []engine.BuildStep, step int) []int {
	all := []int{step}
	for n := 0; n < len(all); n++ {
		for _, a := range list[all[n]].After {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	slices.Sort(all)
	return all
}

// missed tells of the first step that the cache did not have what is another than
// in the build before; nil if it had all. before is nil if there was none.
func missed(now, before *Built, list []engine.BuildStep) *Miss {
	i := firstMiss(list)
	if i < 0 {
		return nil
	}
	step := now.Steps[i]
	m := func(changed, format string, a ...any) *Miss {
		return &Miss{step.name(), changed, fmt.Sprintf(format, a...)}
	}
	switch {
	case now.NoCache:
		return m(MissNoCache, "the build does not use the cache")
	case before == nil:
		return m(MissFirst, "no build of this action is known before this one")
	}
	for _, n := range upTo(list, i) {
		s := now.Steps[n]
		was, ok := before.at(s)
		switch {
		case ok && was.Sum == s.Sum:
		case s.base() && slices.ContainsFunc(before.Steps, func(o BuiltStep) bool { return o.Sum == s.Sum }): // stages share it
		case s.base() && ok:
			return m(MissBase, "a stage begins with another image: %s, before %s", s.Text, was.Text)
		case s.base():
			return m(MissBase, "a stage begins with another image: %s", s.Text)
		case ok && now.Text != "" && now.Text == before.Text && len(now.otherArgs(before)) > 0: // the text is as they make it
			return m(MissArgument, "build arguments are other ones: %s", strings.Join(now.otherArgs(before), ", "))
		case ok && n == i:
			return m(MissInstruction, "the instruction is another one: before it was %s", was.Text)
		case ok:
			return m(MissInstruction, "an instruction before it is another one: %s, before %s", s.Text, was.Text)
		case before.cameShort(s):
			return m(MissNotReached, "the build before did not come to this step")
		default:
			return m(MissInstruction, "the instruction is new: %s", s.Text)
		}
	}
	if was, _ := before.at(step); !was.Done {
		return m(MissNotReached, "in the build before this step was not done")
	}
	if l := list[i]; l.Copies {
		return m(MissFiles, "%s", filesText(l))
	}
	if args := now.otherArgs(before); len(args) > 0 {
		return m(MissArgument, "build arguments are other ones: %s", strings.Join(args, ", "))
	}
	return m(MissGone, "nothing that is known of it changed: its result is not in the cache any more")
}

// filesText says which files a step copies that changed.
func filesText(s engine.BuildStep) string {
	switch n := len(s.Written); {
	case s.From != "":
		return "what it copies from " + s.From + " changed, or its result is not in the cache any more"
	case n == 0:
		return "the files that it copies changed, or its result is not in the cache any more"
	case n > writtenMax:
		return fmt.Sprintf("the files that it copies changed; written since the build before are %s and %d more", strings.Join(s.Written[:writtenMax], ", "), n-writtenMax)
	}
	return "the files that it copies changed; written since the build before: " + strings.Join(s.Written, ", ")
}

// otherArgs are the arguments that have another value than in the build before.
func (b *Built) otherArgs(before *Built) (names []string) {
	for name, value := range b.Args {
		if before.Args[name] != value {
			names = append(names, name)
		}
	}
	for name := range before.Args {
		if _, ok := b.Args[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// at is the step of a build at the place of another's.
func (b *Built) at(s BuiltStep) (BuiltStep, bool) {
	i := slices.IndexFunc(b.Steps, func(o BuiltStep) bool { return o.Stage == s.Stage && o.Index == s.Index })
	if i < 0 {
		return BuiltStep{}, false
	}
	return b.Steps[i], true
}

// cameShort tells whether a build has a step at that place that it did not come to.
func (b *Built) cameShort(s BuiltStep) bool {
	ended := slices.ContainsFunc(b.Steps, func(o BuiltStep) bool { return !o.Done })
	return ended && !slices.ContainsFunc(b.Steps, func(o BuiltStep) bool { return o.Stage == s.Stage && o.Of < s.Index })
}

// cached tells what the cache had of a build, and of what it had not why, if that
// can be found out: a build does not fail for it.
func (h *handling) cached(ctx context.Context, s ActionExecution, spec engine.BuildSpec, r engine.BuildResult) *Built {
	now := builtOf(spec, r)
	if now == nil || firstMiss(r.List) < 0 {
		return now
	}
	before, err := h.builtBefore(ctx, s)
	if err != nil {
		h.log.Warn("why the cache had not all of a build is not known", "step", s.Index, "error", err)
		return now
	}
	now.Miss = missed(now, before, r.List)
	return now
}

// builtBefore is what the last build of an action before a try tells of its
// steps; nil if there was none in its last 20 runs.
func (h *handling) builtBefore(ctx context.Context, s ActionExecution) (*Built, error) {
	var ending []byte
	err := h.p.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT t.ending FROM (SELECT id FROM action_executions WHERE action = ? AND started IS NOT NULL ORDER BY started DESC LIMIT 20) s
			JOIN action_tries t ON t.id = s.id WHERE t.ending LIKE '%"build":{%' ORDER BY t.started DESC LIMIT 1`, s.Action.ID).Scan(&ending)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var e Ending
	err = json.Unmarshal(ending, &e)
	return e.Build, err
}
