package buddy

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"slipway/pipeline"
)

type secondsOf = time.Duration

func clampInt(n int64) int { return int(max(min(n, math.MaxInt32), math.MinInt32)) }

// conditions reads trigger conditions, of which every member may be null.
func (d *decoder) conditions(raw json.RawMessage) []pipeline.Condition {
	var l []pipeline.Condition
	d.each(raw, func(e json.RawMessage) {
		var c pipeline.Condition
		b := d.object(e)
		for name, to := range map[string]*string{
			"trigger_condition": &c.Kind, "trigger_variable_key": &c.Key, "trigger_variable_value": &c.Value,
			"timezone": &c.Timezone, "trigger_project_name": &c.Project, "trigger_pipeline_name": &c.Pipeline,
			"trigger_user": &c.User, "trigger_group": &c.Group,
		} {
			d.member(b, name, func(raw json.RawMessage) { *to = d.str(raw) })
		}
		if c.Timezone == "" {
			d.member(b, "zone_id", func(raw json.RawMessage) { c.Timezone = d.str(raw) })
		}
		d.member(b, "trigger_condition_paths", func(raw json.RawMessage) { c.Paths = d.strings(raw) })
		for name, to := range map[string]*[]int{"trigger_hours": &c.Hours, "trigger_days": &c.Days} {
			d.member(b, name, func(raw json.RawMessage) {
				for _, n := range d.ints(raw) {
					*to = append(*to, clampInt(n))
				}
			})
		}
		l = append(l, c)
	})
	return l
}

func fromConditions(cs []pipeline.Condition) []object {
	l := []object{}
	for _, c := range cs {
		l = append(l, object{
			{"trigger_condition", c.Kind},
			{"trigger_condition_paths", list(c.Paths)},
			{"trigger_variable_key", c.Key},
			{"trigger_variable_value", c.Value},
			{"trigger_hours", list(c.Hours)},
			{"trigger_days", list(c.Days)},
			{"timezone", c.Timezone},
			{"zone_id", c.Timezone},
			{"trigger_project_name", c.Project},
			{"trigger_pipeline_name", c.Pipeline},
			{"trigger_user", c.User},
			{"trigger_group", c.Group},
		})
	}
	return l
}

// variableMembers are the texts of a variable.
func variableMembers(v *pipeline.Variable) []struct {
	name string
	at   *string
} {
	return []struct {
		name string
		at   *string
	}{
		{"key", &v.Key},
		{"value", &v.Value},
		{"type", &v.Type},
		{"description", &v.Description},
		{"init_path", &v.InitPath},
		{"defaults", &v.Defaults},
		{"file_place", &v.FilePlace},
		{"file_path", &v.FilePath},
		{"file_chmod", &v.FileMode},
		{"password", &v.Password},
		{"passphrase", &v.Passphrase},
		{"key_identifier", &v.KeyIdentifier},
	}
}

func (d *decoder) variables(raw json.RawMessage) []pipeline.Variable {
	var l []pipeline.Variable
	d.each(raw, func(e json.RawMessage) {
		var v pipeline.Variable
		b := d.object(e)
		for _, m := range variableMembers(&v) {
			d.member(b, m.name, func(raw json.RawMessage) { *m.at = d.str(raw) })
		}
		d.member(b, "encrypted", func(raw json.RawMessage) { v.Encrypted = d.bool(raw) })
		d.member(b, "settable", func(raw json.RawMessage) { v.Settable = d.bool(raw) })
		d.member(b, "run_only_settable", func(raw json.RawMessage) { v.RunOnlySettable = d.bool(raw) })
		if v.Type == "VAR" {
			v.Type = ""
		}
		l = append(l, v)
	})
	return l
}

func fromVariables(vs []pipeline.Variable) []object {
	l := []object{}
	for _, v := range vs {
		l = append(l, fromVariable(v))
	}
	return l
}

func fromVariable(v pipeline.Variable) object {
	o := object{
		{"key", v.Key},
		{"value", v.Value},
		{"type", or(v.Type, "VAR")},
		{"description", orNull(v.Description)},
		{"encrypted", v.Encrypted},
		{"settable", v.Settable},
		{"run_only_settable", v.RunOnlySettable},
	}
	for _, m := range variableMembers(&v)[4:] {
		switch {
		case *m.at == "":
		case m.name == "password", m.name == "passphrase":
			o = o.with(m.name, "!encrypted")
		default:
			o = o.with(m.name, *m.at)
		}
	}
	return o
}

func (d *decoder) permissions(raw json.RawMessage) *pipeline.Permissions {
	if isNull(raw) {
		return nil
	}
	var p pipeline.Permissions
	b := d.object(raw)
	d.member(b, "others", func(raw json.RawMessage) { p.Others = d.str(raw) })
	for name, to := range map[string]*[]pipeline.Grant{"users": &p.Users, "groups": &p.Groups} {
		d.member(b, name, func(raw json.RawMessage) {
			d.each(raw, func(e json.RawMessage) {
				var g pipeline.Grant
				b := d.object(e)
				d.member(b, "id", func(raw json.RawMessage) { g.ID = d.int(raw) })
				d.member(b, "access_level", func(raw json.RawMessage) { g.Level = d.str(raw) })
				*to = append(*to, g)
			})
		})
	}
	return &p
}

func fromPermissions(p *pipeline.Permissions) any {
	if p == nil {
		p = &pipeline.Permissions{}
	}
	grants := func(l []pipeline.Grant) []object {
		out := []object{}
		for _, g := range l {
			out = append(out, object{{"id", g.ID}, {"access_level", g.Level}})
		}
		return out
	}
	return object{{"others", or(p.Others, "DEFAULT")}, {"users", grants(p.Users)}, {"groups", grants(p.Groups)}}
}

// events reads what starts a pipeline. Members that no rule reads are kept as
// they came.
func (d *decoder) events(raw json.RawMessage) []pipeline.EventRule {
	var l []pipeline.EventRule
	d.each(raw, func(e json.RawMessage) {
		var r pipeline.EventRule
		b := d.object(e)
		d.member(b, "type", func(raw json.RawMessage) { r.Type = d.str(raw) })
		d.member(b, "refs", func(raw json.RawMessage) { r.Refs = d.strings(raw) })
		d.member(b, "events", func(raw json.RawMessage) { r.Events = d.strings(raw) })
		d.member(b, "branches", func(raw json.RawMessage) { r.Branches = d.strings(raw) })
		d.member(b, "start_date", func(raw json.RawMessage) { r.StartDate = d.str(raw) })
		d.member(b, "delay", func(raw json.RawMessage) { r.Delay = clampInt(d.int(raw)) })
		d.member(b, "cron", func(raw json.RawMessage) { r.Cron = d.str(raw) })
		d.member(b, "timezone", func(raw json.RawMessage) { r.Timezone = d.str(raw) })
		d.member(b, "totp", func(raw json.RawMessage) { r.TOTP = d.bool(raw) })
		d.member(b, "prefix", func(raw json.RawMessage) { d.str(raw) })
		d.member(b, "whitelist", func(raw json.RawMessage) { d.strings(raw) })
		rest := body{}
		for _, name := range eventMembers() {
			if raw, ok := b[name]; ok && !isNull(raw) {
				rest[name] = compact(raw)
			}
		}
		if len(rest) > 0 {
			r.Rest, _ = json.Marshal(rest) // of valid parts
		}
		l = append(l, r)
	})
	return l
}

func eventMembers() []string { return []string{"prefix", "whitelist"} }

func fromEvents(es []pipeline.EventRule) []object {
	l := []object{}
	for _, e := range es {
		o := object{{"type", e.Type}, {"refs", list(e.Refs)}}
		if len(e.Events) > 0 || e.Type == pipeline.EventPullRequest {
			o = o.with("events", list(e.Events))
		}
		if len(e.Branches) > 0 || e.Type == pipeline.EventPullRequest {
			o = o.with("branches", list(e.Branches))
		}
		// What was not given is not answered: clients take a zone that is filled in
		// for a change.
		for _, m := range []struct{ name, value string }{{"cron", e.Cron}, {"timezone", e.Timezone}, {"start_date", e.StartDate}} {
			if m.value != "" {
				o = o.with(m.name, m.value)
			}
		}
		if e.Delay != 0 {
			o = o.with("delay", e.Delay)
		}
		if e.Type == pipeline.EventWebhook {
			o = o.with("totp", e.TOTP)
		}
		var rest body
		_ = json.Unmarshal(e.Rest, &rest)
		for _, name := range eventMembers() {
			if raw, ok := rest[name]; ok {
				o = o.with(name, raw)
			}
		}
		l = append(l, o)
	}
	return l
}

// sorted sorts and pages a list as the query asks.
func sorted[T any](l []T, q listQuery, name func(T) string, id func(T) int64) []T {
	l = slices.Clone(l)
	slices.SortStableFunc(l, func(a, b T) int {
		n := 0
		if q.by == "name" {
			n = compareFold(name(a), name(b))
		}
		if n == 0 {
			n = int(max(min(id(a)-id(b), 1), -1))
		}
		if q.down {
			n = -n
		}
		return n
	})
	from := min((q.page-1)*q.size, len(l))
	return l[from:min(from+q.size, len(l))]
}
