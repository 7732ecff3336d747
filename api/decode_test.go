package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"slipway/project"
)

type body struct {
	Name     string            `json:"name"`
	Count    *int              `json:"count"`
	Flag     Opt[bool]         `json:"flag"`
	Note     Opt[string]       `json:"note"`
	Raw      json.RawMessage   `json:"raw"`
	Services map[string]inner  `json:"services"`
	Env      map[string]string `json:"env"`
	Any      any               `json:"any"`
}

type inner struct {
	Ports []string `json:"ports"`
}

func TestUnmarshalReportsEveryField(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"types": {
			`{"name":1,"count":"x","flag":"no","services":{"web":{"ports":["80",81,{}]},"db":[]},"env":{"A":1}}`,
			"name: must be a string, not a number; count: must be a whole number, not a string; flag: must be a boolean, not a string; " +
				"services.web.ports.1: must be a string, not a number; services.web.ports.2: must be a string, not an object; " +
				"services.db: must be an object, not a list; env.A: must be a string, not a number",
		},
		"fraction":   {`{"count":1.5}`, "count: must be a whole number of a sensible size"},
		"huge":       {`{"count":1e400}`, "count: must be a whole number of a sensible size"},
		"empty":      {" \n", "the body is empty; JSON is expected"},
		"comma":      {"{\"name\":\"a\",\n}", "the body is no JSON: line 2, column 1: invalid character '}' looking for beginning of object key string"},
		"cut":        {`{"name":"a"`, "the body is no JSON: line 1, column 12: it ends too early"},
		"more":       {`{} {}`, "there is more after the end of the JSON, at line 1, column 4"},
		"twice":      {`{"name":"a","name":"b"}`, ""},
		"not object": {`[]`, "must be an object, not a list"},
		"not utf-8":  {"{\"name\":\"\xff\"}", "the body is not UTF-8"},
		"deep":       {strings.Repeat(`[`, 100), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Unmarshal([]byte(c.in), &body{})
			if _, ok := project.AsInvalid(err); !ok {
				t.Fatalf("got %v, want an Invalid", err)
			}
			if c.want != "" && err.Error() != c.want {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestOptTellsAbsentFromNull(t *testing.T) {
	var b body
	if _, err := Unmarshal([]byte(`{"flag":null,"note":"x","count":5.0,"any":{"a":[1]}}`), &b); err != nil {
		t.Fatal(err)
	}
	if !b.Flag.Set || !b.Flag.Null || !b.Note.Set || b.Note.V != "x" || *b.Count != 5 {
		t.Errorf("got %+v", b)
	}
	var c body
	if _, err := Unmarshal([]byte(`{}`), &c); err != nil || c.Flag.Set {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestDecodeListsWhatNobodyReads(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"zzz":1,"services":{"web":{"restart":"no"}},"a b":2}`))
	if err := Decode(w, r, &body{}); err != nil {
		t.Fatal(err)
	}
	if got, want := w.Header().Get(IgnoredHeader), "a?b, services.web.restart, zzz"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name":"a","services":{"web":{"ports":["80"]}}}`))
	f.Add([]byte(`{"count":1e3,"flag":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v body
		if _, err := Unmarshal(b, &v); err == nil && !json.Valid(b) {
			t.Errorf("took %q", b)
		}
	})
}
