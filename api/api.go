// Package api is what the dialects share: from a request to an actor, a
// decoded body and a handler, and from an error to a status. What a dialect
// says, and how, is in its own folder.
package api

import (
	"net/http"

	"slipway/access"
)

// Handler answers one route; an error it gives is answered by the dialect's
// Fail with the status of Status.
type Handler func(w http.ResponseWriter, r *http.Request, by access.Actor) error

// Dialect is one HTTP API as a value.
type Dialect struct {
	Name string
	// Prefixes are the path prefixes that belong to it ("/workspaces", "/v1");
	// an unserved path below one is the dialect's 404.
	Prefixes []string
	// Rewrite gives the path that Table knows for an alias of it, or is nil.
	Rewrite func(path string) string
	// Token finds the secret in a request beside the ways that all dialects
	// know (Bearer, Token, x-access-token, Basic), or is nil.
	Token func(*http.Request) string
	// Fail writes an error in the dialect's words. For a 5xx it must not show
	// err, which has been logged under the request id.
	Fail func(w http.ResponseWriter, r *http.Request, status int, err error)
	// Secret is the beginning of paths whose rest is one, and goes into no log; ""
	// for none.
	Secret string
	// Before sets headers that every answer of the dialect has, or is nil.
	Before func(w http.ResponseWriter, r *http.Request)
	// Known sets headers that the answers of a route to a known actor have, with
	// what is left to its token, or is nil.
	Known func(h http.Header, pattern string, by access.Actor, q Quota)
	// Table is by pattern: "PUT /v2/stacks/{stackId}".
	Table map[string]Handler
	// Open are the patterns of Table that a stranger may ask; by is the zero
	// Actor then if there is no token.
	Open map[string]bool
	// Stream are the patterns of Table whose bodies have no limit.
	Stream map[string]bool
	// Limits are, by pattern, those of bodies in bytes where BodyLimit does not
	// hold.
	Limits map[string]int64
}

// Route is one route, for tests that walk all of them.
type Route struct {
	Dialect, Method, Path string
	Open                  bool
}
