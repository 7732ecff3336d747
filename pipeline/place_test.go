package pipeline

import (
	"strings"
	"testing"

	"slipway/project"
)

// A file variable says where it goes, or outright that it goes nowhere.
func TestFilePlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    Variable
		want string
	}{
		{Variable{Type: "FILE"}, "file_place"},
		{Variable{Type: "SSH_KEY", FilePath: "/a"}, "file_place"},
		{Variable{Type: "FILE", FilePlace: "NONE"}, ""},
		{Variable{Type: "FILE", FilePlace: "THERE"}, "file_place"},
		{Variable{Type: "FILE", FilePlace: "CONTAINER"}, "file_path"},
		{Variable{Type: "FILE", FilePlace: "CONTAINER", FilePath: "a"}, "file_path"},
		{Variable{Type: "FILE", FilePlace: "CONTAINER", FilePath: "/a"}, ""},
		{Variable{Type: "FILE", FilePlace: "CONTAINER", FilePath: "~/a"}, ""},
		{Variable{}, ""},
		{Variable{FilePlace: "NONE"}, ""},
		{Variable{FilePlace: "CONTAINER", FilePath: "/a"}, "file_place"},
		{Variable{FilePath: "/a"}, "file_place"},
	} {
		c.v.Key = "A"
		var inv project.Invalid
		validateVariables([]Variable{c.v}, &inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, strings.TrimPrefix(f.Path, "variables.0."))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q instead of %q", c.v, got, c.want)
		}
	}
}
