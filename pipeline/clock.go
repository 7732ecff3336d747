package pipeline

import (
	"fmt"
	"strconv"
	"time"

	"slipway/clock"
	"slipway/project"
)

// schedule is a SCHEDULE event as it was understood: a cron expression in a zone,
// or a first time and a distance.
type schedule struct {
	cron  *clock.Cron // nil: by start and every
	start time.Time
	every time.Duration
}

// next is the first time behind another one; the zero time if none comes. An
// hour that the zone leaves out in spring has no run, one that it has twice in
// autumn has two.
func (c schedule) next(after time.Time) time.Time {
	if c.cron != nil {
		return c.cron.Next(after)
	}
	if c.every <= 0 || after.Before(c.start) {
		return c.start
	}
	gone := (after.Unix() - c.start.Unix()) / int64(c.every/time.Second)
	return c.start.Add(time.Duration(gone+1) * c.every)
}

// maxDelay bounds the distance of two runs, in minutes: ten years.
const maxDelay = 10 * 366 * 24 * 60

// readClock reads a SCHEDULE event and notes in inv what is wrong with it, at
// being its path.
func readClock(e EventRule, at string, inv *project.Invalid) (c schedule) {
	zone, err := clock.Zone(e.Timezone)
	if err != nil {
		inv.Add(at+".timezone", "unknown", err.Error())
		zone = time.UTC
	}
	if e.Cron == "" {
		c.readStart(e, at, inv)
		return c
	}
	if e.StartDate != "" || e.Delay != 0 {
		inv.Add(at+".cron", "conflict", "goes without start_date and delay")
	}
	cron, err := clock.Parse(e.Cron, zone)
	if err != nil {
		inv.Add(at+".cron", "format", err.Error())
		return c
	}
	c.cron = &cron
	return c
}

func (c *schedule) readStart(e EventRule, at string, inv *project.Invalid) {
	if e.StartDate == "" && e.Delay == 0 {
		inv.Add(at+".cron", "required", "is required, or start_date and delay")
		return
	}
	var err error
	c.start, err = time.Parse(time.RFC3339, e.StartDate)
	switch {
	case e.StartDate == "":
		inv.Add(at+".start_date", "required", "is required with delay")
	case err != nil, c.start.Year() < 1970, c.start.Year() > 9999:
		inv.Add(at+".start_date", "format", "must be a time as in 2026-11-18T12:38:16.000Z")
	}
	c.start = c.start.UTC().Truncate(time.Second)
	if e.Delay < 1 || e.Delay > maxDelay {
		inv.Add(at+".delay", "minimum", "must be minutes from 1 to "+strconv.Itoa(maxDelay))
		return
	}
	c.every = time.Duration(e.Delay) * time.Minute
}

// scheduled is when the clock starts a pipeline the next time; the zero time if
// it does not: it is paused or disabled, or asks for no such thing.
func (p Pipeline) scheduled(after time.Time) (first time.Time) {
	if p.On == "CLICK" || p.Paused || p.Disabled {
		return first
	}
	for _, e := range p.Events {
		if e.Type != EventSchedule {
			continue
		}
		var inv project.Invalid
		c := readClock(e, "", &inv)
		if inv.Err() != nil { // of a store from before it was looked at
			continue
		}
		if t := c.next(after); !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// hasClock tells whether there is a SCHEDULE event.
func (p Pipeline) hasClock() bool { return p.has(EventSchedule) }

func (p Pipeline) has(kind string) bool {
	for _, e := range p.Events {
		if e.Type == kind {
			return true
		}
	}
	return false
}

// PauseAfter is after how many failures in a row the clock stops; 0 is never.
func (p Pipeline) PauseAfter() int {
	if !p.PauseAfterGiven && p.hasClock() {
		return 100
	}
	return p.PauseAfterFailures
}

// textMax and nameMax bound texts, in characters.
const (
	nameMax = 255
	textMax = 4096
)

// notLonger notes texts that are longer than a bound; they are given as path,
// text.
func notLonger(inv *project.Invalid, most int, texts ...string) {
	for i := 0; i+1 < len(texts); i += 2 {
		if n := len([]rune(texts[i+1])); n > most {
			inv.Add(texts[i], "maximum", fmt.Sprintf("must have at most %d characters", most))
		}
	}
}

// validateEvents notes what is wrong with what starts a pipeline.
func validateEvents(es []EventRule, inv *project.Invalid) {
	for i, e := range es {
		at := "events." + strconv.Itoa(i)
		if e.Type == "EMAIL" {
			inv.Add(at+".type", "unsupported", "EMAIL is not supported: this server receives no mail. WEBHOOK gives the pipeline a URL that starts it")
		} else {
			oneOf(inv, at+".type", e.Type, EventPush, EventCreateRef, EventDeleteRef, EventPullRequest, EventSchedule, EventWebhook)
		}
		for j, ref := range e.Refs {
			inv.Text(at+".refs."+strconv.Itoa(j), ref, textMax)
		}
		notLonger(inv, textMax, at+".cron", e.Cron, at+".start_date", e.StartDate)
		notLonger(inv, nameMax, at+".timezone", e.Timezone)
		switch {
		case e.Type == EventSchedule:
			readClock(e, at, inv)
		case e.Type == EventPullRequest:
			e.validatePulls(at, inv)
		case e.TOTP:
			inv.Add(at+".totp", "unsupported", "is not supported by this version: the URL of the hook is the secret")
		}
	}
}
