package pipeline

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/engine"
	"slipway/secret"
	"slipway/source"
)

// tier is how narrow the place is that a variable is of.
type tier int

const (
	tierNone     tier = iota // of nobody: a default
	tierStored               // of workspace, project or pipeline, by itself
	tierPipeline             // of the pipeline, in it
	tierRun                  // of the execution
	tierAction               // of the action, by itself
	tierInline               // of the action, in it
)

// holder is what a variable was when it got its value.
type holder struct {
	tier    tier
	forever bool // settable, for later runs too
	run     bool // settable, for the run alone
	secret  bool
}

func (h holder) settable() bool { return h.forever || h.run }

// values are the variables of one step, narrowest last.
type values struct {
	byKey   map[string]string
	order   []string
	secret  map[string]bool // keys whose value is one, or has one in it
	mask    [][]byte
	files   []engine.File
	holders map[string]holder
	passed  map[string]bool   // keys with a value from an earlier step, which wider places do not change
	fixed   map[string]string // what the round of a loop says of its variables
	passing bool              // nothing that is exported lasts longer than the run
}

func newValues() *values {
	return &values{byKey: map[string]string{}, secret: map[string]bool{}, holders: map[string]holder{}, passed: map[string]bool{}}
}

// give sets the value that a place has for a key. hide masks it, secret tells
// that there is a secret in it.
func (v *values) give(key, value string, hide, secret bool, h holder) {
	if h.secret = hide; v.passing {
		h.run, h.forever = h.run || h.forever, false
	}
	v.holders[key] = h
	if v.passed[key] && h.tier < tierAction {
		if hide { // what was passed on stays as secret as its variable
			v.secret[key] = true
			v.hide(v.byKey[key])
			v.hide(value)
		}
		return
	}
	v.set(key, value, hide)
	v.secret[key] = secret
}

func (v *values) set(key, value string, hide bool) {
	if round, ok := v.fixed[key]; ok {
		value = round
	}
	if _, ok := v.byKey[key]; !ok {
		v.order = append(v.order, key)
	}
	v.byKey[key], v.secret[key] = value, hide
	if hide {
		v.hide(value)
	}
}

// hide has a value masked in the log; its lines too when it has several, as
// keys do.
func (v *values) hide(value string) {
	value = strings.TrimRight(value, "\r\n")
	if len(value) < 3 {
		return
	}
	v.mask = append(v.mask, []byte(value))
	if lines := strings.Split(value, "\n"); len(lines) > 1 {
		for _, l := range lines {
			if l = strings.TrimSpace(l); len(l) >= 8 && !strings.HasPrefix(l, "-----") {
				v.mask = append(v.mask, []byte(l))
			}
		}
	}
}

// file puts a FILE or key variable into the container, and its path into the
// environment.
func (v *values) file(key, value, place, at, mode string, hide bool) {
	if place != secret.Container || at == "" { // no container has it
		return
	}
	if hide {
		v.hide(value)
	}
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil || m == 0 || m > 0o777 {
		m = 0o600
	}
	at = path.Clean("/" + strings.TrimPrefix(at, "~/"))
	v.files = slices.DeleteFunc(v.files, func(f engine.File) bool { return f.Path == at })
	v.files = append(v.files, engine.File{Path: at, Mode: uint32(m), Content: []byte(value)})
	v.set(key, at, false)
	v.holders[key] = holder{}
}

func (v *values) stored(s secret.Variable) {
	t := tierStored
	if s.Scope.Action != 0 {
		t = tierAction
	}
	if s.Type == "" || s.Type == secret.Var {
		v.give(s.Key, s.Value, s.Encrypted, s.Encrypted, holder{tier: t, forever: s.Settable && !s.RunOnlySettable, run: s.RunOnlySettable})
		return
	}
	v.file(s.Key, keyText(s.Type, s.Value), s.FilePlace, s.FilePath, s.FileMode, s.Encrypted)
}

func (v *values) inline(w Variable, t tier) {
	has := false
	if !w.Secret() { // a secret is what it is
		has, w.Value = v.secretIn(w.Value) != "", v.expand(w.Value)
	}
	if w.isVar() {
		h := holder{tier: t, forever: w.Settable && !w.RunOnlySettable, run: w.RunOnlySettable}
		if t == tierRun {
			h.run, h.forever = h.run || h.forever, false
		}
		v.give(w.Key, w.Value, w.Encrypted, w.Encrypted || has, h)
		return
	}
	v.file(w.Key, keyText(w.Type, w.Value), w.FilePlace, w.FilePath, w.FileMode, w.Secret())
}

// edit gives a variable of a rerun, which holds whatever others say.
func (v *values) edit(w Variable) {
	delete(v.passed, w.Key)
	v.inline(w, tierRun)
}

// pass sets what an earlier step has exported, before any place gives a value.
func (v *values) pass(w Variable) {
	v.set(w.Key, w.Value, w.Encrypted)
	v.passed[w.Key] = true
}

// keyText ends the text of a key with a line end, without which programs refuse
// it.
func keyText(typ, value string) string {
	if (typ == secret.SSHKey || typ == secret.GPGKey) && value != "" && !strings.HasSuffix(value, "\n") {
		value += "\n"
	}
	return value
}

// env lists them as KEY=value, in the order in which they came up.
func (v *values) env() []string {
	out := make([]string, 0, len(v.order))
	for _, k := range v.order {
		out = append(out, k+"="+v.byKey[k])
	}
	return out
}

func (v *values) expand(s string) string { return expand(s, v.byKey) }

// secretIn is a secret variable that s would have in it, "" if there is none.
func (v *values) secretIn(s string) string {
	for _, k := range v.order {
		if v.secret[k] && expand(s, map[string]string{k: ""}) != s {
			return k
		}
	}
	return ""
}

// expand replaces $NAME and ${NAME} by known values; an unknown one stays as
// it is.
func expand(s string, vars map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '$' {
			b.WriteByte(s[i])
			i++
			continue
		}
		name, n := variableAt(s[i:])
		if value, ok := vars[name]; ok && n > 0 {
			b.WriteString(value)
		} else {
			n = max(n, 1)
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// variableAt reads $NAME or ${NAME} at the beginning of s and gives how long
// it is; 0 if there is none.
func variableAt(s string) (name string, n int) {
	rest := s[1:]
	braces := strings.HasPrefix(rest, "{")
	if braces {
		rest = rest[1:]
	}
	l := 0
	for l < len(rest) && (rest[l] == '_' || rest[l] >= 'a' && rest[l] <= 'z' || rest[l] >= 'A' && rest[l] <= 'Z' ||
		l > 0 && rest[l] >= '0' && rest[l] <= '9') {
		l++
	}
	switch {
	case l == 0:
		return "", 0
	case !braces:
		return rest[:l], 1 + l
	case l < len(rest) && rest[l] == '}':
		return rest[:l], 3 + l
	}
	return "", 0
}

// about is what the default variables tell beside the execution itself.
type about struct {
	Domain, Project    string // names of workspace and project
	WorkspaceNumber    int64
	InvokerName, Email string
	Approver           string // name
	URL                string // page of the execution
	LastBuild          ActionExecution
	Changes            source.Changelog // since the last successful run, or since what the start says
	Commits            []source.Commit  // that have made them, newest first
	FailedLog          string           // the end of the log of the first action that failed
	Now                time.Time
}

// maxChangelog is how long each of the variables that tell of changes may be, in bytes: a
// program cannot be started with a longer one than secret.MaxWord.
const maxChangelog = 64 << 10

// joined puts texts together, as many of the first as there is room for.
func joined(l []string, by string) string {
	n := 0
	for i, t := range l {
		if n += len(t) + len(by); n > maxChangelog {
			l = l[:i]
			break
		}
	}
	return strings.Join(l, by)
}

// changelog lists commits, a line for each: "[e5e13f8] subject | author | date".
func changelog(all []source.Commit) string {
	var l []string
	for _, c := range all {
		l = append(l, fmt.Sprintf("[%s] %s | %s | %s", short(c.Revision), c.Subject, c.Author.Name, c.CommitDate.UTC().Format("2006-01-02T15:04:05")))
	}
	return joined(l, "\n")
}

// defaults are the variables every step has: two generations of one vendor's
// words, and our own.
func defaults(x Execution, s ActionExecution, a about) [][2]string {
	var revision, subject string
	if x.Commit != nil {
		revision, subject = x.Commit.Revision, x.Commit.Subject
	}
	number := strconv.FormatInt(x.Number, 10)
	refType, refName, ref := x.ref()
	event := x.event()
	out := [][2]string{
		{"BUDDY", "true"},
		{"CI", "true"},
		{"BUDDY_WORKSPACE_ID", a.Domain},
		{"BUDDY_WORKSPACE_DOMAIN", a.Domain},
		{"BUDDY_PROJECT_NAME", a.Project},
		{"BUDDY_PROJECT_NAME_ID", a.Project},
		{"BUDDY_REPO_SLUG", a.Domain + "/" + a.Project},
		{"BUDDY_PIPELINE_ID", fmt.Sprint(x.Pipeline)},
		{"BUDDY_PIPELINE_NAME", x.Frozen.Name},
		{"BUDDY_ACTION_ID", fmt.Sprint(s.Action.ID)},
		{"BUDDY_ACTION_NAME", s.Action.Name},
		{"BUDDY_ACTION_RUN_HASH", s.ID},
		{"BUDDY_RUN_ID", number},
		{"BUDDY_RUN_HASH", string(x.ID)},
		{"BUDDY_RUN_URL", a.URL},
		{"BUDDY_RUN_COMMIT", revision},
		{"BUDDY_RUN_COMMIT_SHORT", short(revision)},
		{"BUDDY_RUN_COMMIT_SUBJECT", subject},
		{"BUDDY_RUN_BRANCH", x.Branch},
		{"BUDDY_RUN_TAG", x.Tag},
		{"BUDDY_RUN_REF_TYPE", refType},
		{"BUDDY_RUN_REF_NAME", refName},
		{"BUDDY_RUN_PR_NO", prNumber(x.PullRequest)},
		{"BUDDY_RUN_PR_HEAD_BRANCH", x.Head},
		{"BUDDY_RUN_PR_BASE_BRANCH", x.Base},
		{"BUDDY_APPROVING_ACTOR", a.Approver},
		{"BUDDY_FAILED_ACTION_LOGS", a.FailedLog},
		{"BUDDY_RUN_COMMENT", x.Comment},
		{"BUDDY_TRIGGERING_ACTOR_ID", strconv.FormatInt(x.By, 10)},
		{"BUDDY_TRIGGERING_ACTOR", a.InvokerName},
		{"BUDDY_EXECUTION_ID", number},
		{"BUDDY_EXECUTION_URL", a.URL},
		{"BUDDY_EXECUTION_BRANCH", x.Branch},
		{"BUDDY_EXECUTION_TAG", x.Tag},
		{"BUDDY_EXECUTION_REVISION", revision},
		{"BUDDY_EXECUTION_REVISION_SHORT", short(revision)},
		{"BUDDY_EXECUTION_REVISION_SUBJECT", subject},
		{"BUDDY_EXECUTION_REVISION_MESSAGE", message(x)},
		{"BUDDY_EXECUTION_REF", ref},
		{"BUDDY_EXECUTION_COMMENT", x.Comment},
		{"BUDDY_EXECUTION_CLEAR_CACHE", strconv.FormatBool(x.ClearCache)},
		{"BUDDY_EXECUTION_EVENT_TYPE", event},
		{"BUDDY_EXECUTION_PULL_REQUEST_ID", prNumber(x.PullRequest)},
		{"BUDDY_EXECUTION_PULL_REQUEST_HEAD_BRANCH", x.Head},
		{"BUDDY_EXECUTION_PULL_REQUEST_BASE_BRANCH", x.Base},
		{"BUDDY_INVOKER_NAME", a.InvokerName},
		{"BUDDY_INVOKER_EMAIL", a.Email},
		{"SLIPWAY", "true"},
		{"SLIPWAY_WORKSPACE", a.Domain},
		{"SLIPWAY_PROJECT", a.Project},
		{"SLIPWAY_EXECUTION", string(x.ID)},
		{"SLIPWAY_COMMIT", revision},
		{"SLIPWAY_BRANCH", x.Branch},
		{"SLIPWAY_TAG", x.Tag},
		{"SLIPWAY_VERSION", x.Version()},
		{"SLIPWAY_TIME", x.Started.UTC().Format(time.RFC3339)},
	}
	for _, generation := range []string{"BUDDY_RUN_", "BUDDY_EXECUTION_"} {
		out = append(out, [][2]string{
			{generation + "APPROVE_URL", a.URL},
			{generation + "CHANGELOG", changelog(a.Commits)},
			{generation + "CHANGELOG_ADDED", joined(a.Changes.Added, ",")},
			{generation + "CHANGELOG_CHANGED", joined(a.Changes.Changed, ",")},
			{generation + "CHANGELOG_DELETED", joined(a.Changes.Deleted, ",")},
		}...)
	}
	for i := range out {
		out[i][1] = environmental(out[i][1])
	}
	if a.LastBuild.Digest != "" {
		out = append(out, [2]string{"SLIPWAY_IMAGE", a.LastBuild.Image}, [2]string{"SLIPWAY_IMAGE_DIGEST", a.LastBuild.Digest})
	}
	return out
}

// ref is what a run is of: the kind, the name and the whole ref.
func (x Execution) ref() (kind, name, ref string) {
	switch {
	case x.Tag != "":
		return "TAG", x.Tag, "refs/tags/" + x.Tag
	case x.PullRequest != "":
		return "PULL_REQUEST", x.PullRequest, "refs/" + x.PullRequest
	case x.local():
		return "LOCAL", "", ""
	case x.Branch == "":
		return "NONE", "", ""
	}
	return "BRANCH", x.Branch, "refs/heads/" + x.Branch
}

// maxDefault is how much of a comment or of a commit's message a variable holds:
// a program with a longer one than 128 KiB cannot be started at all.
const maxDefault = 32 << 10

// environmental makes a text that others wrote one that a variable can have.
func environmental(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	if len(s) > maxDefault {
		s = strings.ToValidUTF8(s[:maxDefault], "")
	}
	return s
}

func short(revision string) string { return revision[:min(7, len(revision))] }

func message(x Execution) string {
	if x.Commit == nil {
		return ""
	}
	return strings.TrimRight(x.Commit.Message, "\n")
}

// prNumber is the number in "pull/12/head", or the whole word.
func prNumber(name string) string {
	for _, part := range strings.Split(name, "/") {
		if _, err := strconv.Atoi(part); err == nil {
			return part
		}
	}
	return name
}
