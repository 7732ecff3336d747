package access

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// Invalid is bad input: every bad field at once. errdefs.IsInvalidArgument
// knows it. Rooms call it project.Invalid; it is declared here because this is
// the lowest room that takes input.
type Invalid struct{ Fields []Field }

// Field is one bad field. Path is that of the core's struct in wire form
// ("services.web.ports.0"), "" for the whole; a dialect whose names differ maps
// it.
type Field struct {
	Path    string
	Kind    string // required, type, format, enum, minimum, maximum, conflict, unknown, unsupported
	Message string
}

func (e *Invalid) Error() string {
	l := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		l[i] = f.Message
		if f.Path != "" {
			l[i] = f.Path + ": " + f.Message
		}
	}
	return strings.Join(l, "; ")
}

// Is makes it an errdefs.ErrInvalidArgument.
func (e *Invalid) Is(target error) bool { return target == errdefs.ErrInvalidArgument }

// Add notes one more bad field.
func (e *Invalid) Add(path, kind, message string) {
	e.Fields = append(e.Fields, Field{path, kind, message})
}

// NoNUL notes those of texts, each behind its path, that hold a NUL: they can be
// no part of a command, of an environment or of a path, and mostly no text.
func (e *Invalid) NoNUL(texts ...string) {
	for i := 0; i < len(texts); i += 2 {
		if strings.ContainsRune(texts[i+1], 0) {
			e.Add(texts[i], "format", "must not contain NUL")
		}
	}
}

// Text notes a text for people that has more than so many characters, or a NUL.
func (e *Invalid) Text(path, text string, longest int) {
	if utf8.RuneCountInString(text) > longest {
		e.Add(path, "maximum", fmt.Sprintf("must be at most %d characters", longest))
	}
	e.NoNUL(path, text)
}

// Err is nil when no field is bad.
func (e *Invalid) Err() error {
	if len(e.Fields) == 0 {
		return nil
	}
	return e
}
