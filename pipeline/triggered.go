package pipeline

import (
	"fmt"
	"strings"

	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// Triggered starts what a moved ref asks for, in the caller's transaction, and
// says what it started at once: of pipelines whose definitions are in files these
// are read first, by the Runner. A pipeline that cannot start now (disabled) is left out;
// a project that is gone is errdefs.ErrNotFound. What a deleted ref starts runs
// at the commit that the ref was last at.
func (p *Pipelines) Triggered(tx *db.Tx, pr project.ID, push source.Push) ([]ExecutionID, error) {
	if _, err := project.Load(tx, pr); err != nil {
		return nil, err
	}
	list, err := loadPipelines(tx, pr)
	if err != nil {
		return nil, err
	}
	if err := p.readFor(tx, pr, list, push); err != nil {
		return nil, err
	}
	var started []ExecutionID
	for _, pl := range list {
		if p.reads(pl) || pl.Disabled || !pl.wants(push) {
			continue
		}
		x, err := p.startPush(tx, pl, push)
		if err != nil {
			return nil, err
		}
		started = append(started, x.ID)
	}
	return started, nil
}

// startPush starts a pipeline by a push.
func (p *Pipelines) startPush(tx *db.Tx, pl Pipeline, push source.Push) (Execution, error) {
	in := Start{Mode: ByPush, Revision: push.New}
	if none(push.New) {
		in.Revision = push.Old
	}
	if name, ok := strings.CutPrefix(push.Ref, "refs/tags/"); ok {
		in.Tag = name
	} else {
		in.Branch = strings.TrimPrefix(push.Ref, "refs/heads/")
	}
	if pl.CommentRequired {
		in.Comment = "push of " + push.Ref
	}
	// Its text is looked up by the runner: nothing slow in here.
	x, err := p.StartIn(tx, push.User, pl.ID, in, &source.Commit{Revision: in.Revision}, nil)
	if err != nil {
		return x, fmt.Errorf("start pipeline %d by a push: %w", pl.ID, err)
	}
	return x, nil
}

// none tells whether a hash stands for nothing: of a ref before it was made, or
// after it was deleted.
func none(hash string) bool { return strings.Trim(hash, "0") == "" }

// wants tells whether a moved ref starts the pipeline.
func (p Pipeline) wants(push source.Push) bool {
	gone := none(push.New)
	if p.On == "CLICK" || gone && none(push.Old) {
		return false
	}
	for _, e := range p.Events {
		var is bool
		switch e.Type {
		case EventPush:
			is = !gone
		case EventCreateRef:
			is = !gone && none(push.Old)
		case EventDeleteRef:
			is = gone
		}
		refs := e.refsOf(p)
		if is && (len(refs) == 0 || matchRefs(refs, push.Ref)) {
			return true
		}
	}
	return !gone && p.On == "EVENT" && len(p.Events) == 0 && matchRefs(p.Refs, push.Ref)
}

// refsOf are the refs that an event is about: its own, or else those of its pipeline.
// Without any it is about every branch and tag, though about no pull request, whose
// commits may be a stranger's.
func (e EventRule) refsOf(p Pipeline) []string {
	if len(e.Refs) > 0 {
		return e.Refs
	}
	return p.Refs
}

// matchRefs tells whether a ref is among patterns, in which * stands for any
// text; a pattern without refs/ means a branch.
func matchRefs(patterns []string, ref string) bool {
	for _, pt := range patterns {
		if !strings.HasPrefix(pt, "refs/") {
			pt = "refs/heads/" + pt
		}
		if glob(pt, ref) {
			return true
		}
	}
	return false
}

func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
