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
)

// values are the variables of one step, narrowest last.
type values struct {
	byKey  map[string]string
	order  []string
	secret map[string]bool // keys whose value is one, or has one in it
	mask   [][]byte
	files  []engine.File
}

func newValues() *values { return &values{byKey: map[string]string{}, secret: map[string]bool{}} }

func (v *values) set(key, value string, hide bool) {
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
	if hide {
		v.hide(value)
	}
	if place != "CONTAINER" || at == "" {
		return
	}
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil || m == 0 || m > 0o777 {
		m = 0o600
	}
	at = path.Clean("/" + strings.TrimPrefix(at, "~/"))
	v.files = slices.DeleteFunc(v.files, func(f engine.File) bool { return f.Path == at })
	v.files = append(v.files, engine.File{Path: at, Mode: uint32(m), Content: []byte(value)})
	v.set(key, at, false)
}

func (v *values) stored(s secret.Variable) {
	if s.Type == "" || s.Type == "VAR" {
		v.set(s.Key, s.Value, s.Encrypted)
		return
	}
	v.file(s.Key, s.Value, s.FilePlace, s.FilePath, s.FileMode, s.Encrypted || s.Type != "FILE" && s.Type != "SSH_PUBLIC_KEY")
}

func (v *values) inline(w Variable) {
	has := false
	if !w.Secret() { // a secret is what it is
		has, w.Value = v.secretIn(w.Value) != "", v.expand(w.Value)
	}
	if w.isVar() {
		v.set(w.Key, w.Value, w.Encrypted)
		v.secret[w.Key] = w.Encrypted || has
		return
	}
	v.file(w.Key, w.Value, w.FilePlace, w.FilePath, w.FileMode, w.Secret())
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
	URL                string // page of the execution
	LastBuild          ActionExecution
	Now                time.Time
}

// defaults are the variables every step has: two generations of one vendor's
// words, and our own.
func defaults(x Execution, s ActionExecution, a about) [][2]string {
	var revision, subject string
	if x.Commit != nil {
		revision, subject = x.Commit.Revision, x.Commit.Subject
	}
	number := strconv.FormatInt(x.Number, 10)
	refType, refName, ref := "BRANCH", x.Branch, "refs/heads/"+x.Branch
	switch {
	case x.Tag != "":
		refType, refName, ref = "TAG", x.Tag, "refs/tags/"+x.Tag
	case x.PullRequest != "":
		refType, refName, ref = "PULL_REQUEST", x.PullRequest, "refs/"+strings.TrimPrefix(x.PullRequest, "refs/")
	case x.Branch == "":
		refType, ref = "NONE", ""
	}
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
	for i := range out {
		out[i][1] = environmental(out[i][1])
	}
	if a.LastBuild.Digest != "" {
		out = append(out, [2]string{"SLIPWAY_IMAGE", a.LastBuild.Image}, [2]string{"SLIPWAY_IMAGE_DIGEST", a.LastBuild.Digest})
	}
	return out
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
