package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"slipway/access"
)

// Invalid is bad input: every bad field at once. errdefs.IsInvalidArgument
// knows it.
type Invalid = access.Invalid

// Field is one bad field. Path is that of the core's struct in wire form
// ("services.web.ports.0"); a dialect whose names differ maps it.
type Field = access.Field

// AsInvalid finds an Invalid in an error.
func AsInvalid(err error) (*Invalid, bool) {
	var i *Invalid
	ok := errors.As(err, &i)
	return i, ok
}

// Workspace is a tenant.
type Workspace struct {
	ID      string // UUID
	Number  int64  // server-wide integer, for the dialect that has integers
	Domain  string // its name in paths and image names
	Name    string
	Owner   int64 // user
	Created time.Time
}

// ID is the UUID of a project.
type ID string

// What Status says.
const (
	Active = "ACTIVE"
	Closed = "CLOSED"
)

// Project is a place for source, pipelines and stacks.
type Project struct {
	ID          ID
	ShortID     string // p-xxxxxx
	Number      int64
	Workspace   string // UUID
	Domain      string // of the workspace, read only
	Name        string // in paths; changeable
	DisplayName string
	Status      string // ACTIVE or CLOSED
	Public      bool
	// PullRequests lets its own repository take refs/pull/<number>/head, which may have
	// what strangers wrote.
	PullRequests bool
	Submodules   Submodules
	CreatedBy    int64
	Created      time.Time
	Updated      time.Time
	// Attrs holds what one dialect knows and no rule reads, keyed by dialect.
	Attrs map[string]json.RawMessage
}

// Submodules says whether checkouts of a project's runs have the submodules of
// their commits.
type Submodules struct {
	Fetch bool
	Key   string // name of the variable with the key for those over ssh; "" is none
}

// New is what a project is made of. Name is taken as it is, or made from
// DisplayName.
type New struct {
	Name         string
	DisplayName  string
	Public       bool
	PullRequests bool
	Submodules   Submodules
	Attrs        map[string]json.RawMessage
}

// Change is what Update changes; nil fields stay. Attrs replaces those of the
// dialects it names; a nil value removes them.
type Change struct {
	Name         *string
	DisplayName  *string
	Status       *string
	Public       *bool
	PullRequests *bool
	Submodules   *Submodules
	Attrs        map[string]json.RawMessage
}

// Filter is what List selects.
type Filter struct {
	Workspace string // UUID; "": all that the actor sees
	Status    string
	Search    string // in name and display name, whatever the case
}

// MaxName is the longest name of a workspace or project.
const MaxName = 63

const maxDisplayName = 255

var names = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)

// CheckName notes in bad what is wrong with a name of a workspace, a project or
// what else stands in paths.
func CheckName(bad *Invalid, path, name string) {
	switch {
	case name == "":
		bad.Add(path, "required", "must not be empty")
	case len(name) > MaxName:
		bad.Add(path, "maximum", fmt.Sprintf("must be at most %d characters", MaxName))
	case !names.MatchString(name):
		bad.Add(path, "format", "must be lower-case letters and digits, with single . _ - between them")
	}
}

func checkDisplayName(bad *Invalid, path, s string) {
	switch {
	case strings.TrimSpace(s) == "":
		bad.Add(path, "required", "must not be empty")
	case utf8.RuneCountInString(s) > maxDisplayName:
		bad.Add(path, "maximum", fmt.Sprintf("must be at most %d characters", maxDisplayName))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		bad.Add(path, "format", "must be text without control characters")
	}
}

// Validate finds all that is wrong.
func (n New) Validate() error {
	var bad Invalid
	if n.Name != "" {
		CheckName(&bad, "name", n.Name)
	}
	if n.DisplayName != "" || n.Name == "" {
		checkDisplayName(&bad, "display_name", n.DisplayName)
	}
	n.Submodules.validate(&bad)
	return bad.Err()
}

// Validate finds all that is wrong.
func (c Change) Validate() error {
	var bad Invalid
	if c.Name != nil {
		CheckName(&bad, "name", *c.Name)
	}
	if c.DisplayName != nil {
		checkDisplayName(&bad, "display_name", *c.DisplayName)
	}
	if c.Status != nil && *c.Status != Active && *c.Status != Closed {
		bad.Add("status", "enum", "must be ACTIVE or CLOSED")
	}
	if c.Submodules != nil {
		c.Submodules.validate(&bad)
	}
	return bad.Err()
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// validate notes what is wrong. The variable may be made later.
func (s Submodules) validate(bad *Invalid) {
	if s.Key != "" && !variable.MatchString(s.Key) {
		bad.Add("fetch_submodules_env_key", "format", "must be the name of a variable: letters, digits and _, not beginning with a digit")
	}
}

// Slug makes a name of a text for people: letters lose their marks and their
// case, everything else becomes a single dash; "project" if nothing is left.
func Slug(text string) string { return slug(text, "project") }

func slug(text, fallback string) string {
	var b, gap strings.Builder
	for _, r := range norm.NFD.String(text) {
		r = unicode.ToLower(r)
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			if b.Len() > 0 && gap.Len() > 0 {
				if s := gap.String(); s == "." || s == "_" {
					b.WriteString(s)
				} else {
					b.WriteByte('-')
				}
			}
			gap.Reset()
			b.WriteRune(r)
		case unicode.Is(unicode.Mn, r): // the mark of a letter
		default:
			gap.WriteRune(r)
		}
	}
	if b.Len() == 0 {
		return fallback
	}
	return cut(b.String(), MaxName)
}

// cut shortens a name so that it stays one.
func cut(name string, n int) string {
	if len(name) > n {
		name = strings.TrimRight(name[:n], "._-")
	}
	return name
}

// numbered gives the n-th name to try: itself, then -2, -3...
func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	suffix := fmt.Sprintf("-%d", n)
	return cut(name, MaxName-len(suffix)) + suffix
}
