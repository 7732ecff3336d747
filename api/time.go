package api

import "time"

// TimeFormat is how all dialects write a time: UTC with milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// Time writes a time, or nil for the zero one.
func Time(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(TimeFormat)
}
