package api

import (
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

	"slipway/project"
)

// IgnoredHeader lists the members of a body that nobody reads.
const IgnoredHeader = "X-Slipway-Ignored"

const (
	maxDepth   = 64      // of a body
	maxValues  = 500_000 // in a body: each takes many times its own size in memory
	maxBad     = 100     // fields that are told of
	maxIgnored = 50      // names in the header
	maxName    = 1000    // bytes of the header
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
		w.Header().Set(IgnoredHeader, Ignored(ignored))
	}
	return err
}

// Ignored is the value of IgnoredHeader: bounded, and free of what would break a
// header.
func Ignored(names []string) string {
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
	if tree == nil {
		d.wrong("", "an object", nil)
		return nil, bad
	}
	d.assign(reflect.ValueOf(v).Elem(), tree, "")
	slices.Sort(d.ignored)
	return d.ignored, bad.Err()
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
	fields  map[reflect.Type]map[string][]int
}

// add notes a bad field, as long as somebody would read it.
func (d *decoder) add(path, kind, message string) {
	switch n := len(d.bad.Fields); {
	case n < maxBad:
		d.bad.Add(path, kind, message)
	case n == maxBad:
		d.bad.Add("", kind, "and more")
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *decoder) wrong(path, want string, got any) {
	d.add(path, "type", "must be "+want+", not "+kindOf(got))
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
			d.add(at, f.Kind, f.Message)
		}
		return
	}
	d.add(path, "format", strings.TrimPrefix(err.Error(), "json: "))
}

func (d *decoder) assignStruct(v reflect.Value, data any, path string) {
	o, ok := data.(object)
	if !ok {
		d.wrong(path, "an object", data)
		return
	}
	fields := d.fields[v.Type()]
	if fields == nil {
		fields = map[string][]int{}
		fieldsOf(v.Type(), nil, fields)
		if d.fields == nil {
			d.fields = map[reflect.Type]map[string][]int{}
		}
		d.fields[v.Type()] = fields
	}
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
			d.add(path, "type", "must be a whole number of a sensible size")
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
			d.add(path, "type", "must be a number of a sensible size")
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
