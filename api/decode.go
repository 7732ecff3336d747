package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"slipway/project"
)

// IgnoredHeader lists the members of a body that nobody reads.
const IgnoredHeader = "X-Slipway-Ignored"

const (
	maxDepth   = 64   // of a body
	maxIgnored = 50   // names in the header
	maxName    = 1000 // bytes of the header
)

// Opt is a member that may be absent, null or a value, which PATCH needs to
// tell apart.
type Opt[T any] struct {
	Set  bool // it was in the body
	Null bool // as null
	V    T
}

// Value gives the value, or the zero value for null and absent.
func (o Opt[T]) Value() T { return o.V }

// Into sets *to if the member was given; null is the zero value.
func (o Opt[T]) Into(to *T) {
	if o.Set {
		*to = o.V
	}
}

func (o *Opt[T]) given(null bool) any {
	o.Set, o.Null = true, null
	return &o.V
}

type optional interface{ given(null bool) any }

// Decode reads a JSON body into v, a pointer to a struct. Broken JSON, a wrong
// type and a number that does not fit are one *project.Invalid that names
// every such field in wire form ("services.web.ports.0"); members that v does
// not have are listed in X-Slipway-Ignored. A body that is too large is an
// *http.MaxBytesError.
func Decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	ignored, err := Unmarshal(b, v)
	if len(ignored) > 0 {
		w.Header().Set(IgnoredHeader, ignoredList(ignored))
	}
	return err
}

// ignoredList is bounded, and free of what would break a header.
func ignoredList(names []string) string {
	var sb strings.Builder
	for i, n := range names {
		n = strings.Map(func(c rune) rune {
			if c < 0x21 || c > 0x7e || c == ',' {
				return '?'
			}
			return c
		}, n)
		if i == maxIgnored || sb.Len()+len(n) > maxName {
			fmt.Fprintf(&sb, ", and %d more", len(names)-i)
			break
		}
		if i > 0 {
			sb.WriteString(", ")
		}
		sb.WriteString(n)
	}
	return sb.String()
}

// Unmarshal is Decode for text that is there already.
func Unmarshal(b []byte, v any) (ignored []string, err error) {
	bad := &project.Invalid{}
	tree, err := parse(b)
	if err != nil {
		bad.Add("", "format", err.Error())
		return nil, bad
	}
	d := &decoder{bad: bad}
	d.assign(reflect.ValueOf(v).Elem(), tree, "")
	slices.Sort(d.ignored)
	return d.ignored, bad.Err()
}

// object keeps the order of its members, so that errors come in that of the
// body.
type object []member

type member struct {
	name  string
	value any
}

// parse reads exactly one JSON value: object, []any, string, json.Number, bool
// or nil.
func parse(b []byte) (any, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("the body is empty; JSON is expected")
	}
	if !utf8.Valid(b) {
		return nil, errors.New("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, jsonError(b, dec, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		line, col := position(b, dec.InputOffset())
		return nil, fmt.Errorf("there is more after the end of the JSON, at line %d, column %d", line, col)
	}
	return v, nil
}

func jsonError(b []byte, dec *json.Decoder, err error) error {
	at := dec.InputOffset()
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err, at = errors.New("it ends too early"), int64(len(b))
	}
	line, col := position(b, at)
	return fmt.Errorf("the body is no JSON: line %d, column %d: %s", line, col, strings.TrimPrefix(err.Error(), "json: "))
}

func position(b []byte, at int64) (line, col int) {
	head := b[:min(max(at, 0), int64(len(b)))]
	return 1 + bytes.Count(head, []byte{'\n'}), len(head) - bytes.LastIndexByte(head, '\n')
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		return parseObject(dec, depth)
	case json.Delim('['):
		l := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err := dec.Token()
		return l, err
	}
	return t, nil
}

func parseObject(dec *json.Decoder, depth int) (any, error) {
	o, seen := object{}, map[string]bool{}
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := k.(string)
		if seen[name] {
			return nil, fmt.Errorf("the member %q is there twice", name)
		}
		seen[name] = true
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		o = append(o, member{name, v})
	}
	_, err := dec.Token()
	return o, err
}

// plain turns a parsed value into what encoding/json would have given.
func plain(v any) any {
	switch v := v.(type) {
	case object:
		m := make(map[string]any, len(v))
		for _, e := range v {
			m[e.name] = plain(e.value)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = plain(v[i])
		}
		return l
	}
	return v
}

type decoder struct {
	bad     *project.Invalid
	ignored []string
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *decoder) wrong(path, want string, got any) {
	d.bad.Add(path, "type", "must be "+want+", not "+kindOf(got))
}

func kindOf(v any) string {
	switch v.(type) {
	case object:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	}
	return "null"
}

var rawType = reflect.TypeFor[json.RawMessage]()

// assign puts a parsed value into v. null leaves v as it is, as encoding/json
// does, but for pointers, lists and maps, which become nil.
func (d *decoder) assign(v reflect.Value, data any, path string) {
	if v.CanAddr() {
		if o, ok := v.Addr().Interface().(optional); ok {
			if inner := o.given(data == nil); data != nil {
				d.assign(reflect.ValueOf(inner).Elem(), data, path)
			}
			return
		}
		if u, ok := v.Addr().Interface().(json.Unmarshaler); ok && v.Type() != rawType {
			b, err := json.Marshal(plain(data))
			if err == nil {
				err = u.UnmarshalJSON(b)
			}
			d.nested(path, err)
			return
		}
	}
	if v.Type() == rawType {
		b, _ := json.Marshal(plain(data))
		v.SetBytes(b)
		return
	}
	if data == nil {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
			v.SetZero()
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		n := reflect.New(v.Type().Elem())
		d.assign(n.Elem(), data, path)
		v.Set(n)
	case reflect.Interface:
		v.Set(reflect.ValueOf(plain(data)))
	case reflect.Struct:
		d.assignStruct(v, data, path)
	case reflect.Map:
		d.assignMap(v, data, path)
	case reflect.Slice:
		d.assignSlice(v, data, path)
	default:
		d.assignScalar(v, data, path)
	}
}

// nested notes the error of a type that reads itself; an Invalid keeps its
// fields, below path.
func (d *decoder) nested(path string, err error) {
	if err == nil {
		return
	}
	if inv, ok := project.AsInvalid(err); ok {
		for _, f := range inv.Fields {
			at := path
			if f.Path != "" {
				at = join(path, f.Path)
			}
			d.bad.Add(at, f.Kind, f.Message)
		}
		return
	}
	d.bad.Add(path, "format", strings.TrimPrefix(err.Error(), "json: "))
}

func (d *decoder) assignStruct(v reflect.Value, data any, path string) {
	o, ok := data.(object)
	if !ok {
		d.wrong(path, "an object", data)
		return
	}
	fields := map[string][]int{}
	fieldsOf(v.Type(), nil, fields)
	for _, m := range o {
		index, ok := fields[m.name]
		if !ok {
			d.ignored = append(d.ignored, join(path, m.name))
			continue
		}
		d.assign(v.FieldByIndex(index), m.value, join(path, m.name))
	}
}

func fieldsOf(t reflect.Type, at []int, into map[string][]int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(slices.Clone(at), i)
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			fieldsOf(f.Type, index, into)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		into[name] = index
	}
}

func (d *decoder) assignMap(v reflect.Value, data any, path string) {
	o, ok := data.(object)
	if !ok || v.Type().Key().Kind() != reflect.String {
		d.wrong(path, "an object", data)
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(o))
	for _, e := range o {
		n := reflect.New(v.Type().Elem()).Elem()
		d.assign(n, e.value, join(path, e.name))
		m.SetMapIndex(reflect.ValueOf(e.name).Convert(v.Type().Key()), n)
	}
	v.Set(m)
}

func (d *decoder) assignSlice(v reflect.Value, data any, path string) {
	l, ok := data.([]any)
	if !ok {
		d.wrong(path, "a list", data)
		return
	}
	s := reflect.MakeSlice(v.Type(), len(l), len(l))
	for i := range l {
		d.assign(s.Index(i), l[i], join(path, strconv.Itoa(i)))
	}
	v.Set(s)
}

func (d *decoder) assignScalar(v reflect.Value, data any, path string) {
	switch v.Kind() {
	case reflect.String:
		if s, ok := data.(string); ok {
			v.SetString(s)
			return
		}
		d.wrong(path, "a string", data)
	case reflect.Bool:
		if b, ok := data.(bool); ok {
			v.SetBool(b)
			return
		}
		d.wrong(path, "a boolean", data)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := data.(json.Number)
		if !ok {
			d.wrong(path, "a whole number", data)
			return
		}
		i, err := whole(n)
		if err != nil || v.OverflowInt(i) {
			d.bad.Add(path, "type", "must be a whole number of a sensible size")
			return
		}
		v.SetInt(i)
	case reflect.Float32, reflect.Float64:
		n, ok := data.(json.Number)
		if !ok {
			d.wrong(path, "a number", data)
			return
		}
		f, err := n.Float64()
		if err != nil {
			d.bad.Add(path, "type", "must be a number of a sensible size")
			return
		}
		v.SetFloat(f)
	default:
		d.wrong(path, "a "+v.Kind().String(), data)
	}
}

// whole reads 5, and also 5.0 and 5e2, as clients write them.
func whole(n json.Number) (int64, error) {
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, errors.New("not whole")
	}
	return int64(f), nil
}
