package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"slipway/project"
)

type wide struct {
	S    string              `json:"s"`
	B    bool                `json:"b"`
	I    int                 `json:"i"`
	I8   int8                `json:"i8"`
	F    float64             `json:"f"`
	P    *string             `json:"p"`
	L    []string            `json:"l"`
	LL   [][]int             `json:"ll"`
	M    map[string]*wide    `json:"m"`
	N    map[string][]string `json:"n"`
	W    *wide               `json:"w"`
	T    time.Time           `json:"t"`
	Raw  json.RawMessage     `json:"raw"`
	Any  any                 `json:"any"`
	Skip string              `json:"-"`
	embedded
}

type embedded struct {
	Inside string `json:"inside"`
}

// What we take is what encoding/json makes of it, and what it refuses we refuse.
func FuzzAsEncodingJSON(f *testing.F) {
	for _, s := range []string{
		`{"s":"a","b":true,"i":5,"i8":127,"f":1.5,"p":null,"l":["a"],"ll":[[1],[]],"m":{"x":{"s":"y"}},"n":{"a":["b"]},"w":{"i":1},"inside":"z"}`,
		`{"t":"2026-01-02T03:04:05Z","raw":{"b":1,"a":[2]},"any":{"a":[1,"x",null,true]}}`, `{"i":1e3}`, `{"i8":128}`, `{"s":"\ud800"}`, `[]`, `null`, ``,
		`{"S":"upper"}`, `{"w":null,"m":null,"l":null}`, `{"s":null}`, "{\"s\":\"\xff\"}", `{"l":[null]}`, strings.Repeat(`{"w":`, 70) + "1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var ours, theirs wide
		ignored, err := Unmarshal(b, &ours)
		if err != nil {
			if bad, ok := project.AsInvalid(err); !ok || len(bad.Fields) == 0 || len(bad.Fields) > maxBad+1 {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		if len(Ignored(ignored)) > maxName+100 {
			t.Errorf("%q: a long header", b)
		}
		if err := json.Unmarshal(b, &theirs); err != nil {
			// It knows fewer ways to write a whole number, and takes names in any case.
			if !strings.Contains(err.Error(), "number") && len(ignored) == 0 {
				t.Errorf("%q: taken, but: %v", b, err)
			}
			return
		}
		if len(ignored) > 0 {
			return
		}
		ours.Raw, theirs.Raw, ours.Any, theirs.Any = nil, nil, nil, nil
		if fmt.Sprintf("%+v", flat(ours)) != fmt.Sprintf("%+v", flat(theirs)) {
			t.Errorf("%q: %+v, not %+v", b, ours, theirs)
		}
	})
}

// flat is a value without pointers and without the difference of nil and empty.
func flat(w wide) string {
	b, _ := json.Marshal(w)
	return strings.NewReplacer("null", "", "[]", "", "{}", "").Replace(string(b))
}

func TestUnmarshalLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"deep":        {strings.Repeat(`{"w":`, 65) + "{}" + strings.Repeat("}", 65), "nested more than 64"},
		"many":        {`{"any":[` + strings.Repeat("0,", maxValues) + `0]}`, "more than 500000 values"},
		"many wrong":  {`{"l":[` + strings.Repeat("0,", 5000) + `0]}`, "l.99: must be a string, not a number; and more"},
		"twice below": {`{"w":{"s":"a","s":"b"}}`, `the member "s" is there twice`},
		"range":       {`{"i8":128,"i":9223372036854775808,"f":1e999}`, "i8: must be a whole number of a sensible size; i: must be a whole number of a sensible size; f: must be a number of a sensible size"},
		"text":        {"hello", "the body is no JSON: line 1, column 1: invalid character"},
		"nul":         {"{}\x00", "more after the end"},
		"null":        {"null", "must be an object, not null"},
		"time":        {`{"t":"yesterday"}`, "t: "},
	} {
		_, err := Unmarshal([]byte(c.in), &wide{})
		if _, ok := project.AsInvalid(err); !ok || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 10_000 {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	var v wide
	in := strings.Repeat(`{"w":`, 63) + `{"inside":"x"}` + strings.Repeat("}", 63)
	if _, err := Unmarshal([]byte(in), &v); err != nil {
		t.Error(err)
	}
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, `"unknown%d":1,`, i)
	}
	ignored, err := Unmarshal([]byte("{"+many.String()+`"s":"x"}`), &v)
	if h := Ignored(ignored); err != nil || len(ignored) != 10_000 || len(h) > maxName+100 || !strings.HasSuffix(h, "and 9950 more") {
		t.Error(h, err)
	}
	if _, err := Unmarshal([]byte(`{"-":"x","Skip":"x","skip":"x"}`), &v); err != nil || v.Skip != "" {
		t.Error(v.Skip, err)
	}
}

func TestOpt(t *testing.T) {
	t.Parallel()
	type deep struct {
		Ports Opt[[]string]       `json:"ports"`
		Inner Opt[embedded]       `json:"inner"`
		ByKey map[string]Opt[int] `json:"by_key"`
		When  Opt[time.Time]      `json:"when"`
	}
	var d deep
	_, err := Unmarshal([]byte(`{"ports":["80"],"inner":{"inside":"x"},"by_key":{"a":null,"b":2},"when":"2026-01-02T03:04:05Z"}`), &d)
	if err != nil || !reflect.DeepEqual(d.Ports.V, []string{"80"}) || d.Inner.V.Inside != "x" || !d.ByKey["a"].Null || d.ByKey["b"].V != 2 || d.When.V.Year() != 2026 {
		t.Errorf("%+v, %v", d, err)
	}
	to := []string{"old"}
	Opt[[]string]{}.Into(&to)
	if len(to) != 1 {
		t.Error("absent changed it")
	}
	Opt[[]string]{Set: true, Null: true}.Into(&to)
	if to != nil {
		t.Error("null did not clear it")
	}
	_, err = Unmarshal([]byte(`{"ports":[1],"inner":{"inside":2},"by_key":{"b":"x"}}`), &d)
	if err == nil || err.Error() != "ports.0: must be a string, not a number; inner.inside: must be a string, not a number; by_key.b: must be a whole number, not a string" {
		t.Error(err)
	}
}

// The largest body takes a moment, not more.
func BenchmarkLargest(b *testing.B) {
	for name, in := range map[string]string{
		"string": `{"s":"` + strings.Repeat("x", BodyLimit-10) + `"}`,
		"values": `{"ll":[[` + strings.Repeat("1,", maxValues-10) + `1]]}`,
		"open":   strings.Repeat("[", BodyLimit),
		"escape": `{"s":"` + strings.Repeat(`\u0041`, BodyLimit/6-10) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Unmarshal([]byte(in), &wide{})
			}
		})
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	in := []byte(`{"s":"a","b":true,"i":5,"l":["a","b"],"m":{"x":{"s":"y","w":{"i":1}},"z":{"n":{"a":["b"]}}},"inside":"z","unknown":1}`)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := Unmarshal(in, &wide{}); err != nil {
			b.Fatal(err)
		}
	}
}
