// Package trigger is what starts work: a push now; forge hooks, cron, polling
// and tag pushes later.
package trigger
