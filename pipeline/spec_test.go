package pipeline

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/engine"
	"slipway/project"
	"slipway/source"
)

func vars(kv ...string) *values {
	v := newValues()
	for i := 0; i < len(kv); i += 2 {
		v.set(kv[i], kv[i+1], false)
	}
	return v
}

func TestExpand(t *testing.T) {
	t.Parallel()
	m := map[string]string{"A": "1", "NAME_2": "two", "E": ""}
	for in, want := range map[string]string{
		"":          "",
		"$A":        "1",
		"${A}b":     "1b",
		"x$A-$A":    "x1-1",
		"$NAME_2":   "two",
		"$E.":       ".",
		"$NONE":     "$NONE",
		"${NONE}":   "${NONE}",
		"$AB":       "$AB",
		"$":         "$",
		"$$A":       "$1",
		"${A":       "${A",
		"$1":        "$1",
		"$(date)":   "$(date)",
		"a $":       "a $",
		"${}":       "${}",
		"$NONE$A":   "$NONE1",
		"\\$A":      "\\1",
		"ä$A":       "ä1",
		"$A$NAME_2": "1two",
	} {
		if got := expand(in, m); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$A ${B} $")
	f.Fuzz(func(t *testing.T, s string) {
		if got := expand(s, nil); got != s {
			t.Errorf("without variables %q became %q", s, got)
		}
	})
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                       nil,
		"/app":                   {"/app"},
		" a  b\n c ":             {"a", "b", "c"},
		`["/bin/sh", "-c"]`:      {"/bin/sh", "-c"},
		`a "b c" 'd "e"' f\ g`:   {"a", "b c", `d "e"`, "f g"},
		`x ""`:                   {"x", ""},
		`"a\"b" "\n"`:            {`a"b`, `\n`},
		`[ -f x ]`:               {"[", "-f", "x", "]"},
		`--flag='v w' --x="y z"`: {"--flag=v w", "--x=y z"},
	} {
		got, err := splitWords(in)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("splitWords(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := splitWords(`a "b`); err == nil {
		t.Error("an open quote was taken")
	}
}

func FuzzSplitWords(f *testing.F) {
	f.Add(`a "b c" 'd'`)
	f.Fuzz(func(_ *testing.T, s string) { _, _ = splitWords(s) })
}

func TestArgv(t *testing.T) {
	t.Parallel()
	v := vars("E", "/app", "HOST", "h")
	for _, c := range []struct {
		entrypoint, commands string
		want, args           []string
		shell                bool
	}{
		{"", "", nil, nil, false},
		{"", "echo $X\r\ntrue", []string{"/bin/sh", "-e", "-c"}, []string{"echo $X\ntrue"}, true},
		{"bash -l", "echo $X", []string{"bash", "-l", "-c"}, []string{"echo $X"}, false},
		{"/bin/sh -c", "true", []string{"/bin/sh", "-c"}, []string{"true"}, false},
		{"$E", "check --url 'http://$HOST/a b'", []string{"/app"}, []string{"check", "--url", "http://h/a b"}, false},
		{"/app serve", "", []string{"/app", "serve"}, []string{}, false},
		{`["/app"]`, "a\nb", []string{"/app"}, []string{"a", "b"}, false},
		{"sh script.sh", "a", []string{"sh", "script.sh"}, []string{"a"}, false},
	} {
		e, a, shell, err := Run{Entrypoint: c.entrypoint, Commands: c.commands}.argv(v)
		if err != nil || !slices.Equal(e, c.want) || !slices.Equal(a, c.args) || shell != c.shell || (a == nil) != (c.args == nil) {
			t.Errorf("%q %q: %q %q %v %v", c.entrypoint, c.commands, e, a, shell, err)
		}
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	v := vars("D", "/data")
	for _, c := range []struct {
		run  Run
		want []engine.Mount
		dir  string
		bad  bool
	}{
		{Run{}, []engine.Mount{{Volume: "fs-1", Path: "/", Target: "/buddy/web", Own: true}}, "/buddy/web", false},
		{Run{NoMount: true, Mounts: []string{"/:/x"}}, nil, "", false},
		{Run{Mounts: []string{"/:/buddy/mount/directory"}}, []engine.Mount{{Volume: "fs-1", Path: "/", Target: "/buddy/mount/directory", Own: true}}, "/buddy/mount/directory", false},
		{Run{Mounts: []string{"out:$D", "/:/src", "cache:/c:ro"}}, []engine.Mount{
			{Volume: "fs-1", Path: "/out", Target: "/data", Own: true},
			{Volume: "fs-1", Path: "/", Target: "/src", Own: true},
			{Volume: "fs-1", Path: "/cache", Target: "/c", ReadOnly: true},
		}, "/src", false},
		{Run{Mounts: []string{"a/../etc:/x"}}, []engine.Mount{{Volume: "fs-1", Path: "/etc", Target: "/x", Own: true}}, "/x", false},
		{Run{Mounts: []string{"../../etc:/x"}}, nil, "", true},
		{Run{Mounts: []string{"/:/"}}, nil, "", true},
		{Run{Mounts: []string{"/:/x:bad"}}, nil, "", true},
		{Run{Mounts: []string{"/:$NONE"}}, nil, "", true},
	} {
		got, dir, err := c.run.mounts("fs-1", "web", v)
		if diff := cmp.Diff(c.want, got); (err != nil) != c.bad || err == nil && (diff != "" || dir != c.dir) {
			t.Errorf("%q: %q %v %s", c.run.Mounts, dir, err, diff)
		}
	}
}

func TestRefs(t *testing.T) {
	t.Parallel()
	v := vars("T", "1.2")
	for want, r := range map[string]Run{
		"library/ubuntu:latest":           {Image: "library/ubuntu", Tag: "latest"},
		"app:1.2":                         {Image: "app", Tag: "$T"},
		"app":                             {Image: "app"},
		"app@sha256:ab":                   {Image: "app", Tag: "sha256:ab"},
		"reg.example.com:5000/team/app:1": {Image: "team/app", Tag: "1", Registry: Registry{Kind: OtherRegistry, URL: "https://reg.example.com:5000/"}},
		"reg.example.com/team/app:2":      {Image: "reg.example.com/team/app", Tag: "2,3", Registry: Registry{URL: "reg.example.com"}},
		"slipway.local/acme/pkg:7":        {Image: "pkg", Tag: "7", Location: LocationPackage},
	} {
		if got := r.ref("acme", v); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	own := func(ref string) (string, bool) {
		n, ok := strings.CutPrefix(ref, "slipway.local/")
		return n, ok
	}
	v := vars("T", "v9")
	for _, c := range []struct {
		b         Build
		own, push string
		notes     int
	}{
		{Build{}, "acme/web:latest", "", 0},
		{Build{Tag: "$T, b", Repository: "MyRepo"}, "acme/myrepo:b acme/myrepo:v9", "", 1},
		{Build{Versions: []string{"1", "1"}, Repository: "acme/x"}, "acme/x:1", "", 0},
		{Build{Package: "p", Versions: []string{"2"}, Registry: Registry{Kind: PackageRegistry}}, "acme/p:2", "", 0},
		{Build{Repository: "team/x", Registry: Registry{Kind: OtherRegistry, URL: "r.example.com"}}, "", "r.example.com/team/x:latest", 0},
		{Build{Repository: "u/x", Tag: "1", Registry: Registry{Kind: DockerHub, Username: "u", Password: "p"}}, "", "docker.io/u/x:1", 0},
		{Build{Repository: "acme/x", Registry: Registry{Kind: OtherRegistry, URL: "http://slipway.local"}}, "acme/x:latest", "", 0},
		{Build{Registry: Registry{Kind: OtherRegistry, URL: "r.example.com"}}, "acme/web:latest", "", 1},
		{Build{Repository: "acme/deep/x", Registry: Registry{Kind: OtherRegistry, URL: "slipway.local", Username: "u", Password: "p"}}, "acme/deep/x:latest", "", 1},
		{Build{Repository: "x", Registry: Registry{Kind: OtherRegistry, URL: "slipway.local"}}, "acme/x:latest", "", 0},
		{Build{Repository: "x", Registry: Registry{Kind: OtherRegistry, URL: "slipway.local/acme"}}, "acme/x:latest", "", 0},
		{Build{Repository: "acme/X", Registry: Registry{Kind: OtherRegistry, URL: "slipway.local"}}, "acme/x:latest", "", 1},
		{Build{Repository: "second/x"}, "acme/second/x:latest", "", 0},
	} {
		got, err := c.b.target("acme", "web", v, own)
		if err != nil {
			t.Errorf("%+v: %v", c.b, err)
		}
		if strings.Join(got.Own, " ") != c.own || strings.Join(got.Push, " ") != c.push || len(got.Notes) != c.notes {
			t.Errorf("%+v: %+v", c.b, got)
		}
	}
}

// A name in the own registry begins with a workspace, and only that of the
// pipeline can be written to.
func TestTargetOfAnother(t *testing.T) {
	t.Parallel()
	own := func(ref string) (string, bool) { return strings.CutPrefix(ref, "slipway.local/") }
	for _, b := range []Build{
		{Repository: "second/x", Registry: Registry{Kind: OtherRegistry, URL: "slipway.local"}},
		{Repository: "x", Registry: Registry{Kind: OtherRegistry, URL: "http://slipway.local/second"}},
		{Repository: "slipway.local/second/x"},
	} {
		if got, err := b.target("acme", "web", vars(), own); err == nil || !strings.Contains(err.Error(), "name it acme/x") {
			t.Errorf("%+v: %+v, %v", b, got, err)
		}
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	push := func(ref string) bool {
		p := Pipeline{Events: []EventRule{{Type: EventPush, Refs: []string{"refs/heads/main", "refs/heads/feature/*", "refs/tags/v*.*"}}}}
		return p.wants(sourcePush(ref, "1"))
	}
	for ref, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/main2": false, "refs/heads/feature/a/b": true, "refs/tags/v1.0": true, "refs/tags/v1": false,
	} {
		if got := push(ref); got != want {
			t.Errorf("%s: %v", ref, got)
		}
	}
	for _, c := range []struct {
		p    Pipeline
		old  string
		want bool
	}{
		{Pipeline{}, "1", false},
		{Pipeline{Refs: []string{"refs/heads/main"}}, "1", false},
		{Pipeline{On: "CLICK", Events: []EventRule{{Type: EventPush, Refs: []string{"*"}}}}, "1", false},
		{Pipeline{On: "EVENT", Refs: []string{"main"}}, "1", true},
		{Pipeline{Events: []EventRule{{Type: EventCreateRef, Refs: []string{"refs/*"}}}}, "1", false},
		{Pipeline{Events: []EventRule{{Type: EventCreateRef, Refs: []string{"refs/*"}}}}, "0000", true},
		{Pipeline{Events: []EventRule{{Type: EventSchedule}}}, "0000", false},
		{Pipeline{Events: []EventRule{{Type: EventPush}}}, "1", true},
		{Pipeline{Events: []EventRule{{Type: EventPush}}, Refs: []string{"main"}}, "1", true},
		{Pipeline{Events: []EventRule{{Type: EventPush}}, Refs: []string{"dev"}}, "1", false},
		{Pipeline{Events: []EventRule{{Type: EventPush, Refs: []string{"main"}}}, Refs: []string{"dev"}}, "1", true},
		{Pipeline{Events: []EventRule{{Type: EventCreateRef}}}, "1", false},
		{Pipeline{Events: []EventRule{{Type: EventCreateRef}}}, "0000", true},
		{Pipeline{On: "CLICK", Events: []EventRule{{Type: EventPush}}}, "1", false},
	} {
		if got := c.p.wants(sourcePush("refs/heads/main", c.old)); got != c.want {
			t.Errorf("%+v: %v", c.p, got)
		}
	}
	gone := sourcePush("refs/tags/v1", "1")
	gone.New = "0000"
	for kind, want := range map[string]bool{EventPush: false, EventCreateRef: false, EventDeleteRef: true} {
		p := Pipeline{Events: []EventRule{{Type: kind}}}
		if got := p.wants(gone); got != want {
			t.Errorf("%s at the end of a tag: %v", kind, got)
		}
		if p.wantsPull(source.Pull{Ref: "refs/pull/1/head", What: source.PullOpened, New: "1"}) {
			t.Errorf("%s without refs is about pull requests", kind)
		}
	}
}

// Every field of the structs that come from the wire is named here with what
// becomes of it, so that a new one cannot be forgotten.
func TestUnsupported(t *testing.T) {
	t.Parallel()
	const (
		obeyed = "obeyed"
		kept   = "kept" // nothing to obey
	)
	fields := map[string]string{
		"Action.ID": kept, "Action.Pipeline": kept, "Action.Name": obeyed, "Action.When": obeyed, "Action.FirstFailureOnly": obeyed, "Action.Approval": obeyed, "Action.Asks": obeyed,
		"Action.Conditions": obeyed, "Action.RunNext": obeyed, "Action.Variables": obeyed,
		"Action.Disabled": obeyed, "Action.IgnoreErrors": obeyed, "Action.Timeout": obeyed, "Action.Retries": obeyed,
		"Action.RetryInterval": obeyed, "Action.Loop": obeyed, "Action.Permissions": obeyed, "Action.Build": obeyed,
		"Action.Run": obeyed, "Action.Attrs": kept, "Action.LastStatus": kept, "Action.LastRevision": kept,
		"Build.Multi": obeyed, "Build.Dockerfile": obeyed, "Build.Context": obeyed, "Build.Target": obeyed, "Build.Platforms": obeyed,
		"Build.Args": obeyed, "Build.Secrets": obeyed, "Build.Pull": obeyed, "Build.BuildKit": "note", "Build.Provenance": obeyed,
		"Build.CacheMode": "note", "Build.KeepImages": obeyed, "Build.Archive": obeyed, "Build.NoCache": obeyed, "Build.Repository": obeyed,
		"Build.Tag": obeyed, "Build.Versions": obeyed, "Build.Package": "note", "Build.Registry": obeyed,
		"Build.Image": obeyed, "Build.Location": "note", "Build.From": "note", "Build.TargetPath": "note",
		"Run.Image": obeyed, "Run.Tag": obeyed, "Run.Registry": obeyed, "Run.Location": obeyed, "Run.From": obeyed,
		"Run.Commands": obeyed, "Run.Entrypoint": obeyed, "Run.User": obeyed, "Run.NoMount": obeyed, "Run.Mounts": obeyed, "Run.ExportPath": obeyed,
		"Registry.Kind": obeyed, "Registry.URL": obeyed, "Registry.Username": obeyed, "Registry.Password": obeyed,
		"Registry.Insecure": obeyed, "Registry.Region": "note", "Registry.Integration": "note",
		"Variable.Key": obeyed, "Variable.Value": obeyed, "Variable.Type": "variables.0.type IOS_KEYCHAIN", "Variable.Description": kept,
		"Variable.Encrypted": obeyed, "Variable.Settable": obeyed, "Variable.RunOnlySettable": obeyed,
		"Variable.InitPath": "variables.0.init_path", "Variable.Defaults": "variables.0.defaults", "Variable.FilePlace": obeyed,
		"Variable.FilePath": obeyed, "Variable.FileMode": obeyed, "Variable.Password": "variables.0.password",
		"Variable.Passphrase": "variables.0.passphrase", "Variable.KeyIdentifier": "variables.0.key_identifier",
		"Variable.First": kept,
	}
	no := false
	filled := map[string]Action{
		"Build.Location":         {Build: &Build{Location: LocationAction, Dockerfile: "Dockerfile"}},
		"Build.From":             {Build: &Build{From: ImageFrom{Use: true}, Dockerfile: "Dockerfile"}},
		"Build.BuildKit":         {Build: &Build{BuildKit: &no}},
		"Build.CacheMode":        {Build: &Build{CacheMode: "MAX"}},
		"Build.Package":          {Build: &Build{Package: "p", Registry: Registry{Kind: OtherRegistry}}},
		"Build.TargetPath":       {Build: &Build{TargetPath: "/x"}},
		"Registry.Region":        {Run: &Run{Registry: Registry{Region: "eu"}}},
		"Registry.Integration":   {Build: &Build{Registry: Registry{Kind: OtherRegistry, Integration: &Integration{ID: "1"}}}},
		"Variable.Type":          {Variables: []Variable{{Type: "IOS_KEYCHAIN"}}, Run: &Run{}},
		"Variable.InitPath":      {Variables: []Variable{{InitPath: "x"}}, Run: &Run{}},
		"Variable.Defaults":      {Variables: []Variable{{Defaults: "x"}}, Run: &Run{}},
		"Variable.Password":      {Variables: []Variable{{Password: "x"}}, Run: &Run{}},
		"Variable.Passphrase":    {Variables: []Variable{{Passphrase: "x"}}, Run: &Run{}},
		"Variable.KeyIdentifier": {Variables: []Variable{{KeyIdentifier: "x"}}, Run: &Run{}},
	}
	for _, v := range []any{Action{}, Build{}, Run{}, Registry{}, Variable{}} {
		ty := reflect.TypeOf(v)
		for i := range ty.NumField() {
			name := ty.Name() + "." + ty.Field(i).Name
			what, ok := fields[name]
			delete(fields, name)
			switch what {
			case obeyed, kept:
			case "note":
				if len(notes(Pipeline{}, filled[name])) == 0 || len(unsupported(filled[name])) > 0 {
					t.Errorf("%s: notes %v, unsupported %v", name, notes(Pipeline{}, filled[name]), unsupported(filled[name]))
				}
			default:
				if got := unsupported(filled[name]); !slices.Equal(got, []string{what}) {
					t.Errorf("%s: unsupported says %v, want %q", name, got, what)
				}
			}
			if !ok {
				t.Errorf("%s is new: say here what becomes of it", name)
			}
		}
	}
	for name := range fields {
		t.Errorf("%s is no more", name)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a    Action
		want string
	}{
		{Action{}, "name type"},
		{Action{Name: "x\x00y", Run: &Run{Image: "a", Tag: "b"}}, "name"},
		{Action{Name: "x", Run: &Run{}}, "docker_image_name docker_image_tag"},
		{Action{Name: "x", Run: &Run{From: ImageFrom{Use: true}}}, ""},
		{Action{Name: "x", Run: &Run{Image: "a", Tag: "b", Mounts: []string{"x", "/:rel"}}}, "volume_mappings.0 volume_mappings.1"},
		{Action{Name: "x", Build: &Build{}}, "dockerfile_path"},
		{Action{Name: "x", Build: &Build{Multi: true}}, ""},
		{
			Action{Name: "x", Timeout: -1, Retries: -1, When: "X", RunNext: "Y", FirstFailureOnly: true, Run: &Run{Image: "a", Tag: "b"}},
			"trigger_time run_next run_only_on_first_failure timeout retry_count",
		},
		{
			Action{Name: "x", Timeout: MaxTimeout + 1, Build: &Build{Multi: true, Provenance: "x", CacheMode: "y", Args: []string{"=1"}, Secrets: []BuildSecret{{Type: "z"}}}},
			"timeout build_args.0 secrets.0.id secrets.0.value secrets.0.type provenance cache_mode",
		},
		{Action{Name: "x", Run: &Run{Image: "a", Tag: "b", Registry: Registry{Kind: "NO", Username: "u"}}}, "docker_registry password"},
		{Action{Name: "x", Run: &Run{Image: "a", Tag: "b", Registry: Registry{Kind: OtherRegistry, Password: "u"}}}, "login registry"},
		{Action{Name: "x", Run: &Run{Image: "a", Tag: "b"}, Variables: []Variable{{Key: "1"}, {Type: "X"}}}, "variables.0.key variables.1.key variables.1.type"},
	} {
		var inv project.Invalid
		c.a.Validate(&inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v:\n got %q\nwant %q", c.a, strings.Join(got, " "), c.want)
		}
	}
}

func sourcePush(ref, old string) source.Push { return source.Push{Ref: ref, Old: old, New: "2"} }
