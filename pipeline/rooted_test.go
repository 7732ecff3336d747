package pipeline

import (
	"strings"
	"testing"

	"slipway/project"
)

// What leads out of the file system, or is of no use to a container or as a name, is
// refused when it is given, by the name of its field. What has variables in it is
// looked at when it is used.
func TestPathsAndNames(t *testing.T) {
	t.Parallel()
	built := func(b Build) Action { b.Dockerfile += "Dockerfile"; return Action{Build: &b} }
	ran := func(r Run) Action { r.Image, r.Tag = r.Image+"a", r.Tag+"b"; return Action{Run: &r} }
	for _, c := range []struct {
		want string
		a    Action
	}{
		{"", built(Build{
			Dockerfile: "./a/../", Context: "/a/b/..", Repository: "app", Tag: "1, 2", Versions: []string{"1.0", "$V x"},
			Secrets: []BuildSecret{{ID: "s", Value: "a/../key"}, {ID: "t", Type: "ENV", Value: "../x"}, {ID: "u", Value: "$UP/x"}},
		})},
		{"dockerfile_path context_path", built(Build{Dockerfile: "a/../../", Context: "/.."})},
		{"docker_image_tag docker_image_name repository package", built(Build{Tag: "1,b a d", Image: "-x", Repository: "a b", Package: "\tp"})},
		{"versions.0 versions.1", built(Build{Versions: []string{"b d", "-x"}})},
		{"secrets.0.value", built(Build{Secrets: []BuildSecret{{ID: "s", Value: "../../etc/passwd"}}})},
		{"", ran(Run{Tag: "sha256:", Entrypoint: `["/x", "-y"]`, ExportPath: "out.tar", Mounts: []string{"/:/a", "/b:/c:ro", "/$X:/proc$Y", "a/..:/devices"}})},
		{"export_container_path docker_image_tag docker_image_name", ran(Run{Tag: "b a ", Image: "-x ", ExportPath: "../../x"})},
		{"entrypoint", ran(Run{Entrypoint: `"unclosed`, Commands: "x"})},
		{"entrypoint", ran(Run{Entrypoint: `["a",1]`, Commands: "x"})},
		{"inline_commands", ran(Run{Entrypoint: "/x", Commands: "it's"})},
		{
			"volume_mappings.0 volume_mappings.1 volume_mappings.2 volume_mappings.3 volume_mappings.4",
			ran(Run{Mounts: []string{"/:/", "/:/x:rx", "/../../etc:/x", "/:/proc", "/a:/dev/../sys/fs"}}),
		},
	} {
		c.a.Name = "x"
		var inv project.Invalid
		c.a.Validate(&inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q instead of %q: %+v", got, c.want, inv.Fields)
		}
	}
	for _, p := range []Pipeline{
		{Refs: []string{"a\x00"}},
		{Events: []EventRule{{Type: EventPush, Refs: []string{"a\x00"}}}},
		{GitConfigRef: fixedFile, GitConfig: &GitConfig{Path: "../../etc/passwd"}},
		{GitConfigRef: fixedFile, GitConfig: &GitConfig{Path: ".git/config"}},
		{DefinitionSource: remoteFile, Remote: Remote{Path: "a/../../b"}},
		{Variables: []Variable{{Key: "A"}, {Key: "B"}, {Key: "A"}}},
	} {
		p.Name = "x"
		var inv project.Invalid
		p.Validate(&inv)
		if len(inv.Fields) != 1 {
			t.Errorf("%+v: %+v", p, inv.Fields)
		}
	}
}

// What variables make of a path may not lead out of the file system either.
func TestPathOfVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	up := []Variable{{Key: "UP", Value: "../.."}}
	for field, a := range map[string]Action{
		"context_path":          {Build: &Build{Dockerfile: "Dockerfile", Context: "$UP"}},
		"dockerfile_path":       {Build: &Build{Dockerfile: "$UP/Dockerfile"}},
		"secret s":              {Build: &Build{Dockerfile: "Dockerfile", Secrets: []BuildSecret{{ID: "s", Value: "$UP/x"}}}},
		"volume_mappings":       {Run: &Run{Image: "busybox", Tag: "latest", Mounts: []string{"/$UP:/x"}}},
		"export_container_path": {Run: &Run{Image: "busybox", Tag: "latest", ExportPath: "$UP/x"}},
	} {
		a.Name, a.Variables = field, up
		x := w.wait(w.start(w.pipeline(Pipeline{Name: field}, a), Start{}))
		if s := x.Steps[0]; x.Status != Failed || !strings.HasPrefix(s.Error, field+": ") || !strings.Contains(s.Error, "leads out") {
			t.Errorf("%s: %s %s", field, x.Status, s.Error)
		}
	}
}

// Whether a condition on a secret holds says nothing of its value.
func TestConditionOnSecret(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{varIs, varIsNot, varHas, varHasNot} {
		for _, value := range []string{"hunter2", "else"} {
			v := Judge([]Condition{{Kind: kind, Key: "S", Value: "hunter2"}}, Facts{Variables: map[string]string{"S": value}, Secret: map[string]bool{"S": true}})
			if why := v.Each[0].Why; strings.Contains(why, "hunter2") || !strings.Contains(why, "S") {
				t.Errorf("%s: %s", kind, why)
			}
		}
	}
}
