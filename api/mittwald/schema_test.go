package mittwald

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// reference is the part of the vendor's OpenAPI document that is served: the
// schema of each answer, by path, method, status and media type.
type reference struct {
	Paths      map[string]map[string]map[string]map[string]any `json:"paths"`
	Components struct {
		Schemas map[string]any `json:"schemas"`
	} `json:"components"`
}

func loadReference(t testing.TB) *reference {
	t.Helper()
	b, err := os.ReadFile("testdata/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var r reference
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// find finds the template of a path.
func (r *reference) find(path string) string {
	have := strings.Split(strings.TrimSuffix(path, "/"), "/")
	best, most := "", -1
	for p := range r.Paths {
		want := strings.Split(p, "/")
		fixed := 0
		ok := len(want) == len(have)
		for i := 0; ok && i < len(want); i++ {
			if strings.HasPrefix(want[i], "{") {
				continue
			}
			ok = want[i] == have[i]
			fixed++
		}
		if ok && fixed > most {
			best, most = p, fixed
		}
	}
	return best
}

// check tells how an answer differs from the reference.
func (r *reference) check(method, path string, status int, media string, body []byte) error {
	if status >= 400 {
		return r.checkError(status, body)
	}
	if path == "/v2/users/self" || path == "/v2/domains" {
		return nil // not in the part we have
	}
	op := r.Paths[r.find(path)][method]
	content, ok := op[fmt.Sprint(status)]
	if !ok {
		return fmt.Errorf("%s %s does not answer %d", method, path, status)
	}
	if content == nil {
		if len(body) > 0 {
			return fmt.Errorf("a %d has no body", status)
		}
		return nil
	}
	media, _, _ = strings.Cut(media, ";")
	schema, ok := content[media]
	if !ok {
		return fmt.Errorf("the media type is %q", media)
	}
	if media != "application/json" {
		return nil
	}
	v, err := parse(body)
	if err != nil {
		return err
	}
	return r.match(schema, v, "$")
}

func (r *reference) checkError(status int, body []byte) error {
	v, err := parse(body)
	if err != nil {
		return err
	}
	name := "Error"
	if status == 400 {
		name = "ValidationErrors"
	}
	return r.match(map[string]any{"$ref": "#/components/schemas/de.mittwald.v1.commons." + name}, v, "$")
}

func (r *reference) match(schema, v any, at string) error {
	s, _ := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		to, ok := r.Components.Schemas[ref[strings.LastIndex(ref, "/")+1:]]
		if !ok {
			return fmt.Errorf("%s: no schema %s", at, ref)
		}
		return r.match(to, v, at)
	}
	if v == nil {
		if s["nullable"] == true {
			return nil
		}
		return fmt.Errorf("%s: null", at)
	}
	if one, ok := s["oneOf"].([]any); ok {
		n := 0
		var errs []string
		for _, o := range one {
			if err := r.match(o, v, at); err == nil {
				n++
			} else {
				errs = append(errs, err.Error())
			}
		}
		if n != 1 {
			return fmt.Errorf("%s: matches %d of its alternatives: %s", at, n, strings.Join(errs, "; "))
		}
		return nil
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is not among %v", at, v, enum)
	}
	switch s["type"] {
	case "array":
		return r.matchList(s, v, at)
	case "object":
		return r.matchObject(s, v, at)
	case "string":
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s: %v is no string", at, v)
		}
		return matchFormat(s["format"], text, at)
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %v is no boolean", at, v)
		}
	case "integer", "number":
		if _, ok := v.(json.Number); !ok {
			return fmt.Errorf("%s: %v is no number", at, v)
		}
	}
	return nil
}

func (r *reference) matchList(s map[string]any, v any, at string) error {
	l, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%s: %v is no list", at, v)
	}
	for i, e := range l {
		if err := r.match(s["items"], e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reference) matchObject(s map[string]any, v any, at string) error {
	o, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is no object", at, v)
	}
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, ok := o[k.(string)]; !ok {
			return fmt.Errorf("%s: %s is missing", at, k)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for k, e := range o {
		to, ok := properties[k]
		if !ok {
			to = s["additionalProperties"]
		}
		if to == false {
			return fmt.Errorf("%s: %s is not allowed", at, k)
		}
		if err := r.match(to, e, at+"."+k); err != nil && to != nil {
			return err
		}
	}
	return nil
}

func matchFormat(format any, s, at string) (err error) {
	switch format {
	case "uuid":
		err = uuid.Validate(s)
	case "date-time":
		_, err = time.Parse(time.RFC3339, s)
	case "ipv4", "ipv6":
		_, err = netip.ParseAddr(s)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is no %s", at, s, format)
	}
	return nil
}
