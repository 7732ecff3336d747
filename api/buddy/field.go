package buddy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"slipway/project"
)

// How well a field is served.
const (
	obeyed   = "obeyed"
	partly   = "in part"    // what the note does not name fails as below
	noEffect = "no effect"  // nothing to be done for it; given back
	failing  = "not obeyed" // stored and given back; a run fails naming it
	readOnly = "read only"  // in a request it says nothing
)

// field is one member of a wire object: how it is read into the core's value,
// and how it is written from it.
type field[T any] struct {
	name   string
	only   string // kinds that have it, by their letters; "" is all
	status string
	note   string
	in     func(d *decoder, raw json.RawMessage, v *T) // nil: read only
	out    func(v *T, k *kept) any                     // nil: null, or the zero value that was given
}

// kept is what of a wire object the core has no place for: members that were
// given with an empty value, and those that only this dialect knows.
type kept struct {
	Zero map[string]json.RawMessage `json:"zero,omitempty"`
	Form map[string]string          `json:"form,omitempty"`
	Rest map[string]json.RawMessage `json:"rest,omitempty"`
}

// Name is the key of this dialect in Attrs.
const Name = "buddy"

func keptOf(attrs map[string]json.RawMessage) *kept {
	k := &kept{}
	_ = json.Unmarshal(attrs[Name], k) // ours; a broken one is as none
	if k.Zero == nil {
		k.Zero = map[string]json.RawMessage{}
	}
	if k.Form == nil {
		k.Form = map[string]string{}
	}
	if k.Rest == nil {
		k.Rest = map[string]json.RawMessage{}
	}
	return k
}

func (k *kept) into(attrs map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	attrs = maps.Clone(attrs)
	if len(k.Zero) == 0 && len(k.Form) == 0 && len(k.Rest) == 0 {
		delete(attrs, Name)
		return attrs, nil
	}
	b, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	if attrs == nil {
		attrs = map[string]json.RawMessage{}
	}
	attrs[Name] = b
	return attrs, nil
}

// body is a JSON object as it came, member by member.
type body map[string]json.RawMessage

// decoder reads members and notes everything that is wrong with them.
type decoder struct {
	inv  project.Invalid
	path string
	keep *kept
}

func (d *decoder) bad(kind, format string, a ...any) {
	d.inv.Add(d.path, kind, fmt.Sprintf(format, a...))
}

// at reads something below the present path.
func (d *decoder) at(name string, f func()) {
	old := d.path
	if d.path != "" {
		name = d.path + "." + name
	}
	d.path = name
	f()
	d.path = old
}

// apply reads the members of b that fields knows into v, in the order of
// fields, and lists those that nobody knows. kind is the letter of the object's
// kind.
func apply[T any](d *decoder, fields []field[T], kind byte, b body, v *T) (unknown []string) {
	known := map[string]bool{}
	for _, f := range fields {
		raw, ok := b[f.name]
		if !f.has(kind) {
			continue
		}
		known[f.name] = true
		if !ok || f.in == nil {
			continue
		}
		delete(d.keep.Zero, f.name)
		delete(d.keep.Form, f.name)
		d.at(f.name, func() { f.in(d, raw, v) })
		if z := compact(raw); isEmpty(z) {
			d.keep.Zero[f.name] = z
		}
	}
	for name := range b {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

func (f field[T]) has(kind byte) bool {
	return f.only == "" || bytes.IndexByte([]byte(f.only), kind) >= 0
}

// write gives the members of an object.
func write[T any](fields []field[T], kind byte, v *T, k *kept) object {
	var o object
	for _, f := range fields {
		if !f.has(kind) || f.out == nil {
			continue
		}
		value := f.out(v, k)
		if value == nil {
			if z, ok := k.Zero[f.name]; ok {
				value = z
			}
		}
		o = append(o, member{f.name, value})
	}
	return o
}

func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

func isEmpty(raw json.RawMessage) bool {
	switch string(raw) {
	case `""`, "0", "[]", "{}", "false":
		return true
	}
	return false
}

// Bounds of texts: of names and other texts in characters, of commands and values
// in bytes.
const (
	maxName  = 255
	maxText  = 4096
	maxBytes = 1 << 20
)

// fit notes a text that is too long for the member at the present path.
func (d *decoder) fit(s string) {
	var at []string // the members that lead there
	for part := range strings.SplitSeq(d.path, ".") {
		if _, err := strconv.Atoi(part); err != nil {
			at = append(at, part)
		}
	}
	last, above := "", ""
	for _, part := range at {
		last, above = part, last
	}
	most := maxText
	switch last {
	case "name", "display_name", "identifier", "key", "title":
		most = maxName
	case "inline_commands":
		most = maxBytes
	case "value": // of a variable, by itself or in something
		if above == "" || above == "variables" {
			most = maxBytes
		}
	}
	switch {
	case most == maxBytes && len(s) > most:
		d.bad("maximum", "must be at most %d bytes", most)
	case most < maxBytes && utf8.RuneCountInString(s) > most:
		d.bad("maximum", "must be at most %d characters", most)
	}
}

// str reads a text that has the bound of its kind.
func (d *decoder) str(raw json.RawMessage) string {
	s := d.whole(raw)
	d.fit(s)
	return s
}

// whole reads a text whose bound is for its room to know.
func (d *decoder) whole(raw json.RawMessage) string {
	var s string
	if isNull(raw) {
		return ""
	}
	if json.Unmarshal(raw, &s) != nil {
		d.bad("type", "must be a string")
	}
	return s
}

func (d *decoder) bool(raw json.RawMessage) bool {
	var b bool
	if !isNull(raw) && json.Unmarshal(raw, &b) != nil {
		d.bad("type", "must be true or false")
	}
	return b
}

func (d *decoder) int(raw json.RawMessage) int64 {
	var n json.Number
	if isNull(raw) {
		return 0
	}
	if len(raw) > 0 && raw[0] == '"' || json.Unmarshal(raw, &n) != nil {
		d.bad("type", "must be an integer")
		return 0
	}
	i, err := n.Int64()
	if err != nil {
		if f, ferr := n.Float64(); ferr == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f)
		}
		d.bad("type", "must be an integer")
	}
	return i
}

// each calls f for the members of a list; null is none.
func (d *decoder) each(raw json.RawMessage, f func(raw json.RawMessage)) {
	var l []json.RawMessage
	if isNull(raw) {
		return
	}
	if json.Unmarshal(raw, &l) != nil {
		d.bad("type", "must be a list")
		return
	}
	for i, e := range l {
		d.at(strconv.Itoa(i), func() { f(e) })
	}
}

func (d *decoder) strings(raw json.RawMessage) []string {
	var l []string
	d.each(raw, func(e json.RawMessage) {
		if isNull(e) {
			d.bad("type", "must be a string")
			return
		}
		l = append(l, d.str(e))
	})
	return l
}

func (d *decoder) ints(raw json.RawMessage) []int64 {
	var l []int64
	d.each(raw, func(e json.RawMessage) { l = append(l, d.int(e)) })
	return l
}

// object gives the members of an object; null has none.
func (d *decoder) object(raw json.RawMessage) body {
	var b body
	if isNull(raw) {
		return nil
	}
	if json.Unmarshal(raw, &b) != nil {
		d.bad("type", "must be an object")
	}
	return b
}

// member reads one member of an object, if it is there.
func (d *decoder) member(b body, name string, f func(raw json.RawMessage)) {
	if raw, ok := b[name]; ok {
		d.at(name, func() { f(raw) })
	}
}

// Fields of the plain kinds.

func strField[T any](name string, at func(*T) *string) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in:  func(d *decoder, raw json.RawMessage, v *T) { *at(v) = d.str(raw) },
		out: func(v *T, _ *kept) any { return orNull(*at(v)) },
	}
}

// wordField is a string with a value that stands for none given.
func wordField[T any](name, otherwise string, get func(*T) string, set func(*T, string)) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in:  func(d *decoder, raw json.RawMessage, v *T) { set(v, d.str(raw)) },
		out: func(v *T, _ *kept) any { return orNull(or(get(v), otherwise)) },
	}
}

func boolField[T any](name string, at func(*T) *bool) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in:  func(d *decoder, raw json.RawMessage, v *T) { *at(v) = d.bool(raw) },
		out: func(v *T, _ *kept) any { return *at(v) },
	}
}

// switchField is a bool that is true unless it is said otherwise.
func switchField[T any](name string, at func(*T) **bool) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, v *T) {
			*at(v) = nil
			if !isNull(raw) {
				b := d.bool(raw)
				*at(v) = &b
			}
		},
		out: func(v *T, _ *kept) any {
			if b := *at(v); b != nil {
				return *b
			}
			return nil
		},
	}
}

func intField[T any](name string, get func(*T) int64, set func(*T, int64)) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, v *T) { set(v, d.int(raw)) },
		out: func(v *T, _ *kept) any {
			if n := get(v); n != 0 {
				return n
			}
			return nil
		},
	}
}

func secondsField[T any](name string, at func(*T) *time.Duration) field[T] {
	return intField(name, func(v *T) int64 { return int64(*at(v) / time.Second) }, func(v *T, n int64) {
		*at(v) = time.Duration(max(min(n, math.MaxInt32), math.MinInt32)) * time.Second
	})
}

func stringsField[T any](name string, at func(*T) *[]string) field[T] {
	return field[T]{
		name: name, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, v *T) { *at(v) = d.strings(raw) },
		out: func(v *T, _ *kept) any {
			if l := *at(v); len(l) > 0 {
				return l
			}
			return nil
		},
	}
}

// restField keeps a member that no rule reads; check tells whether its type is
// right. otherwise is what is answered when it was not given.
func restField[T any](name string, check func(*decoder, json.RawMessage), otherwise any) field[T] {
	return field[T]{
		name: name, status: noEffect,
		in: func(d *decoder, raw json.RawMessage, _ *T) {
			delete(d.keep.Rest, name)
			if check(d, raw); !isNull(raw) {
				d.keep.Rest[name] = compact(raw)
			}
		},
		out: func(_ *T, k *kept) any {
			if raw, ok := k.Rest[name]; ok {
				return raw
			}
			return otherwise
		},
	}
}

func aString(d *decoder, raw json.RawMessage)     { d.str(raw) }
func aBool(d *decoder, raw json.RawMessage)       { d.bool(raw) }
func someStrings(d *decoder, raw json.RawMessage) { d.strings(raw) }

func (f field[T]) as(status, note string) field[T] { f.status, f.note = status, note; return f }
func (f field[T]) of(kinds string) field[T]        { f.only = kinds; return f }
