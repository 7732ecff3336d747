package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/logs"
	"slipway/secret"
	"slipway/source"
)

// values gathers the variables of a step, narrower ones winning.
func (h *handling) values(ctx context.Context, s ActionExecution) (*values, error) {
	x, v := h.x, newValues()
	v.fixed, v.passing = h.fixed, x.untrusted()
	if err := h.environment(ctx); err != nil {
		return nil, err
	}
	a, err := h.about(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, d := range defaults(x, s, a) {
		v.set(d[0], d[1], false)
	}
	stored, err := h.p.secrets.Effective(ctx, secret.Scope{
		Workspace: x.Workspace, Project: x.Project, Environment: x.Environment, Pipeline: int64(x.Pipeline), Action: int64(s.Action.ID),
	})
	if err != nil {
		return nil, fmt.Errorf("read the variables: %w", err)
	}
	for _, t := range x.givers(s) {
		err := h.shown(ctx, plain(t.Outputs), "action_outputs", outputRow(t.ID), t.ID, v.pass)
		if err != nil {
			return nil, err
		}
	}
	if x.untrusted() {
		stored = slices.DeleteFunc(stored, func(w secret.Variable) bool { return w.Encrypted || w.Type == secret.SSHKey || w.Type == secret.GPGKey })
	}
	narrow := func(w secret.Variable) bool { return w.Scope.Action != 0 }
	for _, w := range stored {
		if !narrow(w) {
			v.stored(w)
		}
	}
	err = h.inline(ctx, v, inlined{
		vs: x.Frozen.Variables, tier: tierPipeline, table: "pipelines", row: x.Pipeline.row(), key: int64(x.Pipeline), own: x.own && x.Frozen.VariablesByYAML,
		now: func(tx *db.Tx) ([]Variable, error) { pl, err := loadPipeline(tx, x.Pipeline); return pl.Variables, err },
	})
	if err != nil {
		return nil, err
	}
	err = h.shown(ctx, x.Variables, "executions", x.ID.row(), x.ID, func(w Variable) { v.inline(w, tierRun) })
	if err != nil {
		return nil, err
	}
	for _, w := range stored {
		if narrow(w) && !x.answers(s, w.Key) {
			v.stored(w)
		}
	}
	own := slices.DeleteFunc(slices.Clone(s.Action.Variables), func(w Variable) bool { return x.answers(s, w.Key) })
	err = h.inline(ctx, v, inlined{
		vs: own, tier: tierInline, table: "actions", row: s.Action.ID.row(), key: int64(s.Action.ID), own: x.own,
		now: func(tx *db.Tx) ([]Variable, error) {
			a, err := loadAction(tx, x.Pipeline, s.Action.ID)
			return a.Variables, err
		},
	})
	if err != nil || x.Rerun == nil {
		return v, err
	}
	return v, h.shown(ctx, x.edited(), "executions", x.ID.row(), x.ID, v.edit)
}

// inlined are variables in a pipeline or an action, as they were when the execution
// was started.
type inlined struct {
	vs         []Variable
	tier       tier
	table, row string // where they are now, and their hidden values
	key        int64
	own        bool                             // the hidden values are the execution's own
	now        func(*db.Tx) ([]Variable, error) // as they are now
}

// inline gives such variables to v; settable ones with the values that earlier runs
// have left since.
func (h *handling) inline(ctx context.Context, v *values, in inlined) error {
	if len(in.vs) == 0 {
		return nil
	}
	var now []Variable
	var hidden, own map[string]string
	err := h.p.db.Read(ctx, func(tx *db.Tx) (err error) {
		if slices.ContainsFunc(in.vs, func(w Variable) bool { return w.Settable }) {
			if now, err = in.now(tx); ifThere(err) != nil {
				return err
			}
		}
		if hidden, err = h.vault(tx, in.row, in.table, in.key, false); err == nil && in.own {
			own, err = h.vault(tx, in.row, in.table, in.key, true)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, w := range in.vs {
		from := hidden
		anew := in.own && w.Encrypted && w.First == "" // each file says its value
		if n, since := settableNow(w, now); since && !anew {
			w = n
		} else if in.own {
			from = own
		}
		if w.Secret() && h.x.untrusted() {
			continue
		}
		if w, err = w.open(from); err != nil {
			return err
		}
		v.inline(w, in.tier)
	}
	return nil
}

// vault gives the hidden values of a row, or what the execution has of them itself.
func (h *handling) vault(tx *db.Tx, row, table string, key int64, own bool) (map[string]string, error) {
	return h.p.hiddenOf(tx, h.x, table, row, key, own)
}

// hiddenOf is vault for an execution.
func (p *Pipelines) hiddenOf(tx *db.Tx, x Execution, table, row string, key any, own bool) (map[string]string, error) {
	if !own {
		return p.unseal(tx, table, row, key)
	}
	all, err := p.unseal(tx, "executions", x.ID.row(), x.ID)
	hidden := map[string]string{}
	for k, value := range all {
		if name, ok := strings.CutPrefix(k, row+"/"); ok {
			hidden[name] = value
		}
	}
	return hidden, err
}

// open gives a variable with its value.
func (w Variable) open(hidden map[string]string) (Variable, error) {
	if w.Value != secret.Encrypted {
		return w, nil
	}
	value, ok := hidden["variables."+w.Key]
	if !ok {
		return w, fatal("the value of the variable %s is gone: it was changed after the execution started", w.Key)
	}
	w.Value = value
	return w, nil
}

// environment finds out whether the environment is still there that the execution
// names.
func (h *handling) environment(ctx context.Context) error {
	x := h.x
	if x.Environment == "" {
		return nil
	}
	err := h.p.db.Read(ctx, func(tx *db.Tx) error {
		_, err := secret.EnvironmentFor(tx, x.Workspace, x.Project, x.Environment)
		return err
	})
	if errdefs.IsNotFound(err) {
		return fatal("the environment that the execution was started with is gone, and its variables with it")
	}
	return err
}

// shown calls give with variables whose hidden values it has opened; they are
// sealed in a row of a table.
func (h *handling) shown(ctx context.Context, vs []Variable, table, row string, key any, give func(Variable)) error {
	if len(vs) == 0 {
		return nil
	}
	var hidden map[string]string
	err := h.p.db.Read(ctx, func(tx *db.Tx) (err error) { hidden, err = h.p.unseal(tx, table, row, key); return err })
	if err != nil {
		return err
	}
	for _, w := range vs {
		if w, err = w.open(hidden); err != nil {
			return err
		}
		give(w)
	}
	return nil
}

// user is who has an id; nobody for 0, and for who is gone.
func (h *handling) user(ctx context.Context, id int64) (access.User, error) {
	if id == 0 {
		return access.User{}, nil
	}
	u, err := h.p.access.User(ctx, id)
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return u, err
}

// about gathers what the default variables tell.
func (h *handling) about(ctx context.Context, s ActionExecution) (about, error) {
	x := h.x
	user, err := h.user(ctx, x.By)
	if err != nil {
		return about{}, fmt.Errorf("find who started the execution: %w", err)
	}
	approver, err := h.user(ctx, x.approver())
	if err != nil {
		return about{}, fmt.Errorf("find who approved the action: %w", err)
	}
	a := about{
		Domain: h.project.Domain, Project: h.project.Name, InvokerName: user.Called(), Email: user.Email, Approver: approver.Called(),
		URL: fmt.Sprintf("%s/ui/%s/%s/pipelines/%d/executions/%d", h.p.cfg.PublicURL, h.project.Domain, h.project.Name, x.Pipeline, x.Number),
	}
	for _, t := range x.Steps[:s.Index] {
		if t.Digest != "" && t.Status == Successful {
			a.LastBuild = t
		}
	}
	changed := h.changed.Load()
	if changed == nil { // it is the same for all actions
		l, err := h.changes(ctx)
		if err != nil {
			return about{}, err
		}
		changed = &l
		h.changed.Store(changed)
	}
	a.Changes, a.Commits = changed.files, changed.commits
	a.FailedLog, err = h.failedLog(ctx, s)
	return a, err
}

// news is what the commit of a run brings.
type news struct {
	files   source.Changelog
	commits []source.Commit // newest first
}

// maxCommits is how many of the commits of a run its actions are told.
const maxCommits = 100

// changes are those since the commit that the start names, or else the one of
// the last successful run before, of the same branch or tag if the pipeline's
// git_changeset_base says so; what has none, or lost it by a force-push, has none.
func (h *handling) changes(ctx context.Context) (n news, err error) {
	x := h.x
	if x.Commit == nil {
		return n, nil
	}
	var from string
	switch base := x.Frozen.GitChangesetBase; {
	case x.From != nil:
		from = x.From.Revision
	case x.sinceBase():
		from, err = h.p.sources.MergeBase(ctx, x.Project, x.Base, x.Commit.Revision)
	default:
		from, err = h.p.lastSuccess(ctx, x, base == matchingRef || base == ofPull)
	}
	if err != nil || from == "" || from == x.Commit.Revision {
		return n, err
	}
	n.files, err = h.p.sources.Changes(ctx, x.Project, from, x.Commit.Revision)
	if errdefs.IsNotFound(err) {
		return news{}, nil
	}
	if err == nil {
		n.commits, err = h.p.sources.Between(ctx, x.Project, from, x.Commit.Revision, x.Frozen.CloneDepth, maxCommits)
	}
	return n, err
}

// failedLog is the end of the log of the first action that failed in a run.
func (h *handling) failedLog(ctx context.Context, s ActionExecution) (string, error) {
	for _, t := range h.x.Steps {
		if t.ID == s.ID || t.Status != Failed {
			continue
		}
		l, _, err := h.p.logs.Read(ctx, h.p.logs.Action(string(h.x.ID), t.ID), logs.Query{Tail: failedLines})
		if err != nil {
			return "", fmt.Errorf("read the log of the action that failed: %w", err)
		}
		var b strings.Builder
		for _, line := range l {
			b.WriteString(line.Text + "\n")
		}
		text := b.String()
		return strings.ToValidUTF8(text[max(0, len(text)-maxDefault):], ""), nil
	}
	return "", nil
}

// failedLines is how many lines a default variable has of a log at most.
const failedLines = 500
