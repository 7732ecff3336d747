package pipeline

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"slipway/project"
)

func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v.UTC()
}

func TestNextTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		e           EventRule
		after, want string
	}{
		"every quarter":        {EventRule{Cron: "*/15 * * * *"}, "2026-11-21T10:00:00Z", "2026-11-21T10:15:00Z"},
		"behind the time":      {EventRule{Cron: "15 14 1 * *"}, "2026-11-01T14:15:00Z", "2026-12-01T14:15:00Z"},
		"in a zone":            {EventRule{Cron: "0 9 * * 1-5", Timezone: "Europe/Warsaw"}, "2026-11-20T12:00:00Z", "2026-11-23T08:00:00Z"},
		"in summer":            {EventRule{Cron: "0 9 * * *", Timezone: "Europe/Warsaw"}, "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"},
		"an hour that is none": {EventRule{Cron: "30 2 * * *", Timezone: "Europe/Warsaw"}, "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"},
		"an hour that is two":  {EventRule{Cron: "30 2 * * *", Timezone: "Europe/Warsaw"}, "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
		"a leap day":           {EventRule{Cron: "0 0 29 2 *"}, "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		"before the start":     {EventRule{StartDate: "2026-11-18T12:38:16.000Z", Delay: 60}, "2026-11-01T00:00:00Z", "2026-11-18T12:38:16Z"},
		"at the start":         {EventRule{StartDate: "2026-11-18T12:38:16.000Z", Delay: 60}, "2026-11-18T12:38:16Z", "2026-11-18T13:38:16Z"},
		"long after":           {EventRule{StartDate: "1999-12-31T23:59:59+01:00", Delay: 7}, "2026-11-21T00:00:00Z", "2026-11-21T00:02:59Z"},
	} {
		var inv project.Invalid
		got := readClock(c.e, "events.0", &inv).next(at(t, c.after))
		if err := inv.Err(); err != nil || !got.Equal(at(t, c.want)) {
			t.Errorf("%s: %s, want %s; %v", name, got, c.want, err)
		}
	}
}

func TestScheduled(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-11-21T10:00:00Z")
	hourly, daily := EventRule{Type: EventSchedule, Cron: "0 * * * *"}, EventRule{Type: EventSchedule, Cron: "30 10 * * *"}
	for name, c := range map[string]struct {
		p    Pipeline
		want string // clock
	}{
		"none":            {Pipeline{Events: []EventRule{{Type: EventPush}}}, "00:00"},
		"one":             {Pipeline{Events: []EventRule{hourly}}, "11:00"},
		"the first":       {Pipeline{Events: []EventRule{hourly, daily}}, "10:30"},
		"paused":          {Pipeline{Events: []EventRule{hourly}, Paused: true}, "00:00"},
		"disabled":        {Pipeline{Events: []EventRule{hourly}, Disabled: true}, "00:00"},
		"by hand":         {Pipeline{Events: []EventRule{hourly}, On: "CLICK"}, "00:00"},
		"with on":         {Pipeline{Events: []EventRule{hourly}, On: "EVENT"}, "11:00"},
		"none that holds": {Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "x"}}}, "00:00"},
	} {
		if got := c.p.scheduled(now).Format("15:04"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for _, c := range []struct {
		p    Pipeline
		want int
	}{
		{Pipeline{}, 0},
		{Pipeline{Events: []EventRule{hourly}}, 100},
		{Pipeline{Events: []EventRule{hourly}, On: "EVENT"}, 100},
		{Pipeline{Events: []EventRule{hourly}, PauseAfterGiven: true}, 0},
		{Pipeline{PauseAfterGiven: true, PauseAfterFailures: 3}, 3},
	} {
		if got := c.p.PauseAfter(); got != c.want {
			t.Errorf("%+v pauses after %d, want %d", c.p, got, c.want)
		}
	}
}

func TestValidateEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", textMax+1)
	for _, c := range []struct {
		p    Pipeline
		want string
	}{
		{Pipeline{Events: []EventRule{{Type: EventSchedule}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "* * * *"}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "@daily"}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "TZ="}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "0 0 30 2 *"}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventPush}, {Type: EventSchedule, Cron: "60 * * * *", Timezone: "Nowhere/Here"}}}, "events.1.timezone events.1.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "* * * * *", Timezone: "Local"}}}, "events.0.timezone"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "* * * * *", Timezone: "../../etc/passwd"}}}, "events.0.timezone"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Cron: "* * * * *", Delay: 5}}}, "events.0.cron"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, Delay: 5}}}, "events.0.start_date"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, StartDate: "tomorrow", Delay: 5}}}, "events.0.start_date"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, StartDate: "2026-11-18T12:38:16Z"}}}, "events.0.delay"},
		{Pipeline{Events: []EventRule{{Type: EventSchedule, StartDate: "2026-11-18T12:38:16Z", Delay: -5}}}, "events.0.delay"},
		{Pipeline{Events: []EventRule{{Type: EventWebhook, TOTP: true}}}, "events.0.totp"},
		{Pipeline{Events: []EventRule{{Type: "ON_MONDAY"}}}, "events.0.type"},
		{Pipeline{Events: []EventRule{{Type: EventPush, Refs: []string{"a", long}}}, Refs: []string{long}}, "refs.0 events.0.refs.1"},
		{Pipeline{Reason: long, MessageTemplate: long, PauseAfterFailures: -1}, "disabled_reason execution_message_template pause_on_repeated_failures"},
		{Pipeline{GitChangesetBase: "x", FilesChangesetBase: "y"}, "git_changeset_base filesystem_changeset_base"},
	} {
		c.p.Name = strings.Repeat("é", nameMax)
		var inv project.Invalid
		c.p.Validate(&inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v:\n got %q\nwant %q", c.p.Events, strings.Join(got, " "), c.want)
		}
	}
	var inv project.Invalid
	Pipeline{Name: strings.Repeat("é", nameMax+1)}.Validate(&inv)
	if len(inv.Fields) != 1 || inv.Fields[0].Path != "name" {
		t.Errorf("a long name: %v", inv.Fields)
	}
}

// What was stored before it had an effect has it now.
func TestEventOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	e := EventRule{Type: EventSchedule, Rest: json.RawMessage(`{"cron":"0 9 * * *","timezone":"Asia/Tokyo","totp":false,"prefix":"x"}`)}
	e.moved()
	if e.Cron != "0 9 * * *" || e.Timezone != "Asia/Tokyo" || e.TOTP {
		t.Errorf("%+v", e)
	}
	e = EventRule{Type: EventSchedule, Rest: json.RawMessage(`{"start_date":"2026-11-18T12:38:16Z","delay":5}`)}
	e.moved()
	if e.StartDate != "2026-11-18T12:38:16Z" || e.Delay != 5 {
		t.Errorf("%+v", e)
	}
}

func FuzzClock(f *testing.F) {
	f.Add("*/5 1-3 * JAN-MAR 1,2", "Europe/Warsaw", "", 0)
	f.Add("CRON_TZ=UTC", "UTC", "2026-11-18T12:38:16.000Z", 60)
	f.Fuzz(func(t *testing.T, cron, zone, start string, delay int) {
		now := time.Date(2026, time.November, 21, 10, 0, 0, 0, time.UTC)
		var inv project.Invalid
		c := readClock(EventRule{Type: EventSchedule, Cron: cron, Timezone: zone, StartDate: start, Delay: delay}, "e", &inv)
		if inv.Err() != nil {
			return
		}
		if next := c.next(now); !next.After(now) {
			t.Errorf("%q %q %q %d: %s", cron, zone, start, delay, next)
		}
	})
}
