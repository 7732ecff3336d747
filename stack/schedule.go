package stack

import (
	"time"

	"slipway/clock"
	"slipway/project"
)

// Schedule is when the images of a stack are asked for again and the services
// whose image is another one are recreated. The zero value is never.
type Schedule struct {
	Cron     string // minute, hour, day of month, month, day of week
	Timezone string // IANA name; "" is UTC
}

// Validate finds what is wrong with one that is not the zero value.
func (s Schedule) Validate() error {
	bad := &project.Invalid{}
	zone, err := clock.Zone(s.Timezone)
	if err != nil {
		bad.Add("updateSchedule.timezone", "unknown", err.Error())
		zone = time.UTC
	}
	if s.Cron == "" {
		bad.Add("updateSchedule.cron", "required", "a cron expression is needed")
	} else if _, err := clock.Parse(s.Cron, zone); err != nil {
		bad.Add("updateSchedule.cron", "format", err.Error())
	}
	bad.Text("updateSchedule.cron", s.Cron, maxText)
	return bad.Err()
}

// next is the first time behind another one; the zero time if none comes.
func (s Schedule) next(after time.Time) time.Time {
	zone, err := clock.Zone(s.Timezone)
	if s.Cron == "" || err != nil {
		return time.Time{}
	}
	c, err := clock.Parse(s.Cron, zone)
	if err != nil {
		return time.Time{}
	}
	return c.Next(after)
}

// schedule sets when a stack is updated; one that is the same goes on.
func (c *change) schedule(to Schedule) error {
	r := &c.w.stack
	if to == r.Schedule {
		return nil
	}
	if to != (Schedule{}) {
		if err := to.Validate(); err != nil {
			return err
		}
	}
	r.Schedule, r.UpdateAt, c.changed = to, to.next(c.tx.Now), true
	return nil
}
