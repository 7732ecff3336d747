// Package clock reads what says when something happens again and again: a cron
// expression in a time zone.
package clock

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // the zones of whoever writes a schedule are not those of this host

	"github.com/robfig/cron/v3"
)

//go:generate sh -c "unzip -Z1 $(go env GOROOT)/lib/time/zoneinfo.zip | grep -v '/$' | LC_ALL=C sort > zones.txt"
//go:embed zones.txt
var zones string

// Zones lists the names of all time zones, sorted.
func Zones() []string { return strings.Split(strings.TrimSpace(zones), "\n") }

// Zone finds a time zone by its IANA name; "" is UTC. That of this host has no
// name here.
func Zone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("there is no time zone %q; one is named as in Europe/Berlin", name)
	}
	return zone, nil
}

// Cron is a cron expression in a time zone.
type Cron struct {
	at   cron.Schedule
	zone *time.Location
}

// Parse reads five fields: minute, hour, day of month, month, day of week. An
// expression for a time that never comes is an error.
func Parse(spec string, zone *time.Location) (Cron, error) {
	if strings.Contains(spec, "=") { // what the library takes for a zone
		return Cron{}, errors.New("a time zone is given by itself")
	}
	at, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(spec)
	if err != nil {
		return Cron{}, fmt.Errorf("must be minute, hour, day of month, month and day of week: %w", err)
	}
	c := Cron{at, zone}
	if c.Next(time.Date(2024, time.January, 1, 0, 0, 0, 0, zone)).IsZero() {
		return Cron{}, errors.New("stands for a time that never comes")
	}
	return c, nil
}

// Next is the first time behind another one; the zero time if none comes. An
// hour that the zone leaves out in spring has none, one that it has twice in
// autumn has two.
func (c Cron) Next(after time.Time) time.Time {
	t := c.at.Next(after.In(c.zone))
	if t.IsZero() {
		return t
	}
	return t.UTC()
}
