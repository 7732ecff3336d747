package pipeline

import (
	"reflect"
	"strings"
	"testing"

	"slipway/project"
	"slipway/secret"
)

// No text of an action that becomes a part of a command, of an environment or
// of a path may hold what none of them can.
func TestNoNUL(t *testing.T) {
	t.Parallel()
	refused := func(name string, a Action) {
		t.Helper()
		var inv project.Invalid
		a.Validate(&inv)
		for _, f := range inv.Fields {
			if f.Kind == "format" || f.Kind == "enum" {
				return
			}
		}
		t.Errorf("%s is taken with NUL: %v", name, inv.Fields)
	}
	each := func(v any, f func(name string)) {
		s := reflect.ValueOf(v).Elem()
		for i := range s.NumField() {
			switch x := s.Field(i); {
			case x.Kind() == reflect.String:
				x.SetString("a\x00")
				f(s.Type().Name() + "." + s.Type().Field(i).Name)
				x.SetString("")
			case x.Type() == reflect.TypeFor[[]string]():
				x.Set(reflect.ValueOf([]string{"A:/a\x00"}))
				f(s.Type().Name() + "." + s.Type().Field(i).Name)
				x.SetZero()
			}
		}
	}
	b, r, g, v, s := &Build{}, &Run{}, &Registry{}, &Variable{Key: "A"}, &BuildSecret{}
	each(b, func(name string) { refused(name, Action{Name: "x", Build: b}) })
	each(r, func(name string) { refused(name, Action{Name: "x", Run: r}) })
	each(s, func(name string) {
		refused(name, Action{Name: "x", Build: &Build{Dockerfile: "x", Secrets: []BuildSecret{*s}}})
	})
	each(g, func(name string) {
		refused(name, Action{Name: "x", Run: &Run{Image: "a", Tag: "b", Registry: *g}})
	})
	each(v, func(name string) {
		switch name {
		case "Variable.Key":
			v.Key = "a\x00"
			defer func() { v.Key = "A" }()
		case "Variable.FilePlace", "Variable.FileMode": // compared with what they can be
			return
		case "Variable.InitPath", "Variable.Defaults", "Variable.Password", "Variable.Passphrase", "Variable.KeyIdentifier": // not obeyed
			return
		}
		refused(name, Action{Name: "x", Run: &Run{Image: "a", Tag: "b"}, Variables: []Variable{*v}})
	})
}

func TestTooLongToSave(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		run  Run
		vars []Variable
		want string
	}{
		"a script":             {Run{Commands: long(maxCommands)}, nil, ""},
		"a longer one":         {Run{Commands: long(maxCommands + 1)}, nil, "inline_commands"},
		"in bash":              {Run{Entrypoint: "bash -e", Commands: long(maxCommands)}, nil, ""},
		"of no shell":          {Run{Entrypoint: "/x", Commands: long(secret.MaxWord + 1)}, nil, "inline_commands"},
		"many arguments":       {Run{Entrypoint: "/x", Commands: strings.Repeat("word ", secret.MaxWord/2)}, nil, ""},
		"a word of entrypoint": {Run{Entrypoint: long(secret.MaxWord + 1), Commands: "x"}, nil, "entrypoint"},
		"a variable":           {Run{}, []Variable{{Key: "A", Value: long(secret.MaxWord - 2)}}, ""},
		"a longer variable":    {Run{}, []Variable{{Key: "A", Value: long(secret.MaxWord - 1)}}, "variables.0.value"},
		"a file":               {Run{}, []Variable{{Key: "A", Type: "FILE", FilePlace: "CONTAINER", FilePath: "/a", Value: long(2 * secret.MaxWord)}}, ""},
	} {
		c.run.Image, c.run.Tag = "a", "b"
		var inv project.Invalid
		Action{Name: "x", Run: &c.run, Variables: c.vars}.Validate(&inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q instead of %q", name, got, c.want)
		}
	}
}

// What becomes too long by its variables is a failure that names it.
func TestTooLongToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	half := Variable{Key: "HALF", Value: strings.Repeat("x", 70<<10)}
	for name, c := range map[string]struct {
		a    Action
		want string
	}{
		"variable":   {Action{Run: &Run{Image: "busybox", Tag: "latest", Commands: "true"}, Variables: []Variable{half, {Key: "TWICE", Value: "$HALF$HALF"}}}, "the variable TWICE has 143366 bytes"},
		"argument":   {Action{Run: &Run{Image: "busybox", Tag: "latest", Entrypoint: "/x", Commands: "a $HALF$HALF"}, Variables: []Variable{half}}, "inline_commands: an argument has 143360 bytes"},
		"entrypoint": {Action{Run: &Run{Image: "busybox", Tag: "latest", Entrypoint: "/x $HALF$HALF"}, Variables: []Variable{half}}, "entrypoint: an argument has 143360 bytes"},
		"build":      {Action{Build: &Build{Dockerfile: "Dockerfile", Args: []string{"A=$HALF$HALF"}}, Variables: []Variable{half}}, "the build argument A has 143362 bytes"},
	} {
		c.a.Name, c.a.Retries = name, 3
		x := w.wait(w.start(w.pipeline(Pipeline{Name: name}, c.a), Start{}))
		if s := x.Steps[0]; x.Status != Failed || !strings.HasPrefix(s.Error, c.want) || !strings.Contains(s.Error, "131071") || s.Attempt != 1 {
			t.Errorf("%s: %s after %d tries", name, s.Error[:min(300, len(s.Error))], s.Attempt)
		}
	}
}

// A secret is not made public by a build argument, whatever way it takes there.
func TestNoSecretInBuildArguments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	_, err := w.secrets.CreateVariable(t.Context(), w.admin, secret.Variable{Scope: secret.Scope{Workspace: w.home.ID}, Key: "STORED", Value: "hunter-stored", Encrypted: true})
	w.must(err)
	vars := func() []Variable {
		return []Variable{{Key: "TOKEN", Value: "hunter22", Encrypted: true}, {Key: "URL", Value: "https://u:${TOKEN}@h"}, {Key: "PLAIN", Value: "seen"}}
	}
	for arg, name := range map[string]string{
		"A=$TOKEN": "TOKEN", "A=x${TOKEN}y": "TOKEN", "TOKEN": "TOKEN", "A=$URL": "URL", "A=$STORED": "STORED", "A=$PLAIN": "", "PLAIN": "", "A=$TOKENS": "", "A": "",
	} {
		x := w.wait(w.start(w.pipeline(Pipeline{Name: arg, Variables: vars()}, Action{Name: "b", Build: &Build{Dockerfile: "Dockerfile", Args: []string{"B=b", arg}}}), Start{}))
		e := x.Steps[0].Error
		if name == "" {
			if x.Status != Successful {
				t.Errorf("%s: %s", arg, e)
			}
		} else if x.Status != Failed || !strings.Contains(e, "secret variable "+name+" ") || !strings.Contains(e, "build secret") {
			t.Errorf("%s: %s %q", arg, x.Status, e)
		}
	}
	// One that is overridden by a plain value is none.
	x := w.start(w.pipeline(Pipeline{Name: "over", Variables: vars()}, Action{
		Name: "b", Build: &Build{Dockerfile: "Dockerfile", Args: []string{"A=$TOKEN"}}, Variables: []Variable{{Key: "TOKEN", Value: "plain"}},
	}), Start{})
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
}

// Nor by the name of an image, whatever part of it.
func TestNoSecretInImageNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	vars := func() []Variable {
		return []Variable{{Key: "TOKEN", Value: "hunter22", Encrypted: true}, {Key: "LONG", Value: "x-$TOKEN"}, {Key: "PLAIN", Value: "seen"}}
	}
	for _, c := range []struct {
		b           Build
		field, name string
	}{
		{Build{Tag: "$TOKEN"}, "docker_image_tag", "TOKEN"},
		{Build{Tag: "1,$LONG"}, "docker_image_tag", "LONG"},
		{Build{Repository: "r-${TOKEN}"}, "repository", "TOKEN"},
		{Build{Package: "p-$TOKEN"}, "package", "TOKEN"},
		{Build{Versions: []string{"1", "v-$TOKEN"}}, "versions", "TOKEN"},
		{Build{Tag: "$PLAIN", Repository: "r-$PLAIN", Versions: []string{"v-$PLAIN"}}, "", ""},
	} {
		c.b.Dockerfile = "Dockerfile"
		x := w.wait(w.start(w.pipeline(Pipeline{Name: c.field + c.name + c.b.Tag, Variables: vars()}, Action{Name: "b", Build: &c.b}), Start{}))
		e := x.Steps[0].Error
		if c.field == "" {
			if x.Status != Successful {
				t.Errorf("%+v: %s", c.b, e)
			}
		} else if x.Status != Failed || !strings.HasPrefix(e, c.field+": the secret variable "+c.name+" ") || x.Steps[0].Digest != "" {
			t.Errorf("%+v: %s %q", c.b, x.Status, e)
		}
	}
}
