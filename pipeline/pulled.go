package pipeline

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// Pull requests come from a push to the own repository, and later from forges: one
// way for all of them.

// pullWords are what an event of pull requests may ask for, in the vendor's words.
func pullWords() []string {
	return []string{
		"assigned", "unassigned", "labeled", "unlabeled", source.PullOpened, "edited", source.PullClosed, source.PullReopens, source.PullPushed,
		"converted_to_draft", "locked", "unlocked", "enqueued", "dequeued", "milestoned", "demilestoned", "ready_for_review", "review_requested",
		"review_request_removed", "auto_merge_enabled", "auto_merge_disabled",
	}
}

// validatePulls notes what is wrong with an event of pull requests.
func (e EventRule) validatePulls(at string, inv *project.Invalid) {
	for i, word := range e.Events {
		oneOf(inv, at+".events."+strconv.Itoa(i), word, pullWords()...)
	}
	for i, b := range e.Branches {
		notLonger(inv, textMax, at+".branches."+strconv.Itoa(i), b)
	}
	if len(e.Refs) > 0 {
		inv.Add(at+".refs", "conflict", "go with PUSH, CREATE_REF and DELETE_REF: a PULL_REQUEST has branches, those that it goes to")
	}
}

// Pulled starts what asks for something that has happened to a pull request, in the
// caller's transaction, as Triggered does for a push.
func (p *Pipelines) Pulled(tx *db.Tx, pr project.ID, pull source.Pull) (started []ExecutionID, err error) {
	if pull.Fork() && !p.cfg.Forks {
		slog.Info("a pull request of a fork starts nothing by itself", "room", "pipeline", "project", string(pr), "ref", pull.Ref)
		return nil, nil
	}
	if _, err := project.Load(tx, pr); err != nil {
		return nil, err
	}
	list, err := loadPipelines(tx, pr)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(list, p.reads) {
		if err := readLater(tx, pr, 0, asked{Push: source.Push{Ref: pull.Ref, Old: pull.Old, New: pull.New, User: pull.User}, Pull: &pull}); err != nil {
			return nil, err
		}
	}
	for _, pl := range list {
		if p.reads(pl) || pl.Disabled || !pl.wantsPull(pull) {
			continue
		}
		x, err := p.startPull(tx, pl, pull)
		if err != nil {
			return nil, err
		}
		started = append(started, x.ID)
	}
	return started, nil
}

// startPull starts a pipeline for a pull request.
func (p *Pipelines) startPull(tx *db.Tx, pl Pipeline, pull source.Pull) (Execution, error) {
	in := Start{
		Mode: ByPull, Revision: pull.New, PullRequest: strings.TrimPrefix(pull.Ref, "refs/"), Head: pull.Head, Base: pull.Base, Fork: pull.Fork(),
	}
	if none(pull.New) {
		in.Revision = pull.Old
	}
	if pl.CommentRequired {
		in.Comment = fmt.Sprintf("pull request %s: %s", pull.Number, pull.What)
	}
	// Its text is looked up by the runner: nothing slow in here.
	x, err := p.StartIn(tx, pull.User, pl.ID, in, &source.Commit{Revision: in.Revision}, nil)
	if err != nil {
		return x, fmt.Errorf("start pipeline %d by a pull request: %w", pl.ID, err)
	}
	return x, nil
}

// wantsPull tells whether what has happened to a pull request starts the pipeline. Its
// refs narrow that if they name pull requests.
func (p Pipeline) wantsPull(pull source.Pull) bool {
	if p.On == "CLICK" || none(pull.New) && none(pull.Old) {
		return false
	}
	var of []string
	for _, r := range p.Refs {
		if strings.HasPrefix(r, "refs/pull/") {
			of = append(of, r)
		}
	}
	if len(of) > 0 && !matchRefs(of, pull.Ref) {
		return false
	}
	closed := pull.What == source.PullClosed
	pushed := pull.What == source.PullOpened || pull.What == source.PullPushed || pull.What == source.PullReopens
	for _, e := range p.Events {
		var is bool
		switch e.Type {
		case EventPullRequest:
			is = e.wantsPull(pull.What) && (len(e.Branches) == 0 || matchRefs(e.Branches, "refs/heads/"+pull.Base))
		case EventPush:
			is = pushed && matchRefs(e.refsOf(p), pull.Ref)
		case EventCreateRef:
			is = pull.What == source.PullOpened && matchRefs(e.refsOf(p), pull.Ref)
		case EventDeleteRef:
			is = closed && matchRefs(e.refsOf(p), pull.Ref)
		}
		if is {
			return true
		}
	}
	return pushed && p.On == "EVENT" && len(p.Events) == 0 && matchRefs(p.Refs, pull.Ref)
}

// wantsPull tells whether an event asks for what has happened; without words it asks
// for new commits.
func (e EventRule) wantsPull(what string) bool {
	if len(e.Events) == 0 {
		return slices.Contains([]string{source.PullOpened, source.PullReopens, source.PullPushed}, what)
	}
	return slices.Contains(e.Events, what)
}

// untrusted tells whether the execution has what strangers wrote, and nobody has said
// that it may run: it gets no secrets.
func (x Execution) untrusted() bool { return x.Mode == ByPull && x.Fork }

// apart tells whether nothing is left of the execution for later ones: it has files
// of its own.
func (x Execution) apart() bool { return x.local() || x.untrusted() }

// withheld are words for the log of who misses them.
const withheld = "hidden values, integrations, logins and the files of the pipeline are not given to this run: it is of a pull request that is of no branch of this repository"
