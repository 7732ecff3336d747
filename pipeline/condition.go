package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a host need not have the time zones

	"github.com/moby/patternmatcher"

	"slipway/project"
)

// Condition must hold for a pipeline or an action to run.
type Condition struct {
	Kind     string
	Paths    []string
	Key      string
	Value    string
	Hours    []int // 0 to 23
	Days     []int // 1 (Monday) to 7
	Timezone string
	Project  string
	Pipeline string
	User     string
	Group    string
}

// Kinds of conditions.
const (
	always       = "ALWAYS"
	onChange     = "ON_CHANGE"
	onChangeAt   = "ON_CHANGE_AT_PATH"
	varIs        = "VAR_IS"
	varIsNot     = "VAR_IS_NOT"
	varHas       = "VAR_CONTAINS"
	varHasNot    = "VAR_NOT_CONTAINS"
	atTime       = "DATETIME"
	afterSuccess = "SUCCESS_PIPELINE"
	userIs       = "TRIGGERING_USER_IS"
	userIsNot    = "TRIGGERING_USER_IS_NOT"
	userIn       = "TRIGGERING_USER_IS_IN_GROUP"
	userNotIn    = "TRIGGERING_USER_IS_NOT_IN_GROUP"
)

// conditional tells whether there is anything to be judged.
func conditional(cs []Condition) bool {
	return slices.ContainsFunc(cs, func(c Condition) bool { return c.Kind != always })
}

// Facts are what conditions are judged by. Those that no condition asks for may
// be left out.
type Facts struct {
	Now       time.Time
	Source    bool     // there is a commit
	Base      string   // the commit that it is compared with; "": none, all of it is new
	Changed   []string // files that differ between the two
	Variables map[string]string
	Secret    map[string]bool   // those of them whose values nobody is told
	Email     string            // of who started the execution
	Groups    map[string]bool   // whether who started it is in groups of that name
	Latest    map[string]Status // of the last execution of pipelines, by latestKey; one that does not exist is left out
}

// latestKey names the pipeline that a condition asks for.
func (c Condition) latestKey() string { return c.Project + "/" + c.Pipeline }

// Verdict is what became of conditions. It shows no values of variables.
type Verdict struct {
	At   time.Time
	Met  bool // all of them
	Each []Outcome
	// Error is why they could not be judged.
	Error string `json:",omitempty"`
}

// Outcome is one condition of a Verdict.
type Outcome struct {
	Kind string
	Met  bool
	Why  string
}

// why says which conditions were not met.
func (v Verdict) why() string {
	var l []string
	for _, o := range v.Each {
		if !o.Met {
			l = append(l, o.Kind+": "+o.Why)
		}
	}
	return "skipped: the trigger conditions are not met: " + strings.Join(l, "; ")
}

// Judge tells whether all conditions hold.
func Judge(cs []Condition, f Facts) Verdict {
	v := Verdict{At: f.Now, Met: true}
	for _, c := range cs {
		met, why := c.holds(f)
		v.Each = append(v.Each, Outcome{c.Kind, met, why})
		v.Met = v.Met && met
	}
	return v
}

func (c Condition) holds(f Facts) (met bool, why string) {
	is := func(met bool, is, isNot string, a ...any) (bool, string) {
		if met {
			return true, fmt.Sprintf(is, a...)
		}
		return false, fmt.Sprintf(isNot, a...)
	}
	value, said := f.Variables[c.Key], strconv.Quote(c.Value)
	if f.Secret[c.Key] { // whether it is so, or not, would tell
		said = "what the condition says"
	}
	switch c.Kind {
	case onChange, onChangeAt:
		return c.changed(f)
	case varIs:
		return is(value == c.Value, "the variable %s is %s", "the variable %s is not %s", c.Key, said)
	case varIsNot:
		return is(value != c.Value, "the variable %s is not %s", "the variable %s is %s", c.Key, said)
	case varHas:
		return is(strings.Contains(value, c.Value), "the variable %s contains %s", "the variable %s does not contain %s", c.Key, said)
	case varHasNot:
		return is(!strings.Contains(value, c.Value), "the variable %s does not contain %s", "the variable %s contains %s", c.Key, said)
	case atTime:
		return c.inTime(f.Now)
	case afterSuccess:
		status, ok := f.Latest[c.latestKey()]
		if !ok {
			where := "this project"
			if c.Project != "" {
				where = fmt.Sprintf("the project %q", c.Project)
			}
			return false, fmt.Sprintf("there is no pipeline %q in %s", c.Pipeline, where)
		}
		return status == Successful, fmt.Sprintf("the last execution of the pipeline %q is %s", c.Pipeline, status)
	case userIs:
		return is(strings.EqualFold(f.Email, c.User), "it was started by %s", "it was not started by %s", c.User)
	case userIsNot:
		return is(!strings.EqualFold(f.Email, c.User), "it was not started by %s", "it was started by %s", c.User)
	case userIn:
		return is(f.Groups[c.Group], "it was started by a member of the group %q", "it was not started by a member of the group %q", c.Group)
	case userNotIn:
		return is(!f.Groups[c.Group], "it was not started by a member of the group %q", "it was started by a member of the group %q", c.Group)
	case always:
		return true, "always"
	}
	return false, "there is no such condition"
}

func (c Condition) changed(f Facts) (bool, string) {
	if !f.Source {
		return false, "there is no commit"
	}
	since := "in the first run"
	if f.Base != "" {
		since = "since " + short(f.Base)
	}
	if c.Kind == onChange {
		if len(f.Changed) == 0 {
			return false, "no file changed " + since
		}
		return true, fmt.Sprintf("%d files changed %s, %s first of them", len(f.Changed), since, f.Changed[0])
	}
	matches, err := filesAt(c.Paths)
	if err != nil {
		return false, err.Error()
	}
	for _, name := range f.Changed {
		if ok, err := matches(name); err == nil && ok {
			return true, fmt.Sprintf("%s changed %s", name, since)
		}
	}
	return false, fmt.Sprintf("no file at %s changed %s", strings.Join(c.Paths, ", "), since)
}

// filesAt tells which files are at paths: the one that a path names, or all that are
// below it; * stands for a part of a name, ** for any folders.
func filesAt(paths []string) (func(file string) (bool, error), error) {
	patterns := make([]string, 0, len(paths))
	for _, p := range paths {
		p = strings.Trim(strings.TrimSpace(p), "/")
		if p == "" || p == "." {
			p = "**"
		}
		patterns = append(patterns, p)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("trigger_condition_paths: %w", err)
	}
	return m.MatchesOrParentMatches, nil
}

func (c Condition) inTime(now time.Time) (bool, string) {
	zone, err := time.LoadLocation(c.Timezone)
	if err != nil {
		return false, fmt.Sprintf("there is no time zone %q", c.Timezone)
	}
	now = now.In(zone)
	day := (int(now.Weekday())+6)%7 + 1
	met := (len(c.Hours) == 0 || slices.Contains(c.Hours, now.Hour())) && (len(c.Days) == 0 || slices.Contains(c.Days, day))
	return met, fmt.Sprintf("it is %s (day %d, hour %d)", now.Format("Mon 15:04 MST"), day, now.Hour())
}

func validateConditions(cs []Condition, inv *project.Invalid) {
	for i, c := range cs {
		at := fmt.Sprintf("trigger_conditions.%d.", i)
		oneOf(inv, at+"trigger_condition", c.Kind, always, onChange, onChangeAt, varIs, varIsNot, varHas, varHasNot,
			atTime, afterSuccess, userIs, userIsNot, userIn, userNotIn)
		if slices.ContainsFunc(c.Days, func(d int) bool { return d < 1 || d > 7 }) {
			inv.Add(at+"trigger_days", "maximum", "days are 1 to 7")
		}
		if slices.ContainsFunc(c.Hours, func(h int) bool { return h < 0 || h > 23 }) {
			inv.Add(at+"trigger_hours", "maximum", "hours are 0 to 23")
		}
		required := func(is bool, name string) {
			if !is {
				inv.Add(at+name, "required", "is required with trigger_condition "+c.Kind)
			}
		}
		switch c.Kind {
		case onChangeAt:
			required(len(c.Paths) > 0, "trigger_condition_paths")
		case varIs, varIsNot, varHas, varHasNot:
			required(c.Key != "", "trigger_variable_key")
		case atTime:
			required(len(c.Hours) > 0 || len(c.Days) > 0, "trigger_hours")
		case afterSuccess:
			required(c.Pipeline != "", "trigger_pipeline_name")
		case userIs, userIsNot:
			required(c.User != "", "trigger_user")
		case userIn, userNotIn:
			required(c.Group != "", "trigger_group")
		}
		c.validate(at, inv)
	}
}

func (c Condition) validate(prefix string, inv *project.Invalid) {
	if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" {
		inv.Add(prefix+"timezone", "unknown", fmt.Sprintf("there is no time zone %q", c.Timezone))
	}
	if _, err := filesAt(c.Paths); err != nil {
		inv.Add(prefix+"trigger_condition_paths", "format", "has a pattern that cannot be read")
	}
	notLonger(inv, textMax, prefix+"trigger_variable_key", c.Key, prefix+"trigger_variable_value", c.Value, prefix+"trigger_project_name", c.Project,
		prefix+"trigger_pipeline_name", c.Pipeline, prefix+"trigger_user", c.User, prefix+"trigger_group", c.Group)
}
