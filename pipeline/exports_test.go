package pipeline

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"slipway/engine"
	"slipway/secret"
)

// shells of this machine, as an image may have them: /bin/sh is there always.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	l := map[string][]string{"sh": {"/bin/sh", "-e", "-c"}}
	for name, words := range map[string][]string{
		"dash": {"dash", "-e", "-c"}, "bash": {"bash", "-e", "-c"}, "bash as it is": {"bash", "-c"}, "bash -u": {"bash", "-eu", "-o", "pipefail", "-c"},
		"busybox": {"busybox", "sh", "-e", "-c"}, "zsh": {"zsh", "-e", "-c"}, "ksh": {"ksh", "-e", "-c"}, "mksh": {"mksh", "-e", "-c"},
	} {
		if _, err := exec.LookPath(words[0]); err == nil {
			l[name] = words
		}
	}
	return l
}

// play runs a script as a container does and gives its end and what it told.
// The code is that of the container: 128 and its number for a signal.
func play(t testing.TB, words []string, wrap bool, file, script string, env ...string) (code int, stdout, stderr string, dump []byte) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clone(words[1:]), script)
	if wrap {
		args = append(slices.Clone(words[1:]), strings.ReplaceAll(telling, outputsFile, file), words[0], script)
	}
	c := exec.Command(words[0], args...)
	c.Env = append(os.Environ(), env...)
	var out, bad bytes.Buffer
	c.Stdout, c.Stderr = &out, &bad
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if dump, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	code = c.ProcessState.ExitCode()
	if s, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal())
	}
	return code, out.String(), bad.String(), dump
}

// Whatever a script does, its end and its output are what they are without us.
func TestTellChangesNothing(t *testing.T) {
	t.Parallel()
	for name, words := range shells(t) {
		for _, script := range []string{
			"true", "false", "exit 3", "export A=1; exit 0", "set -e; export A=1; false; echo no", "set +e; false; true", "set +e; false",
			"f() { return 4; }; f", "(exit 5)", "exec true", "exec sh -c 'exit 6'", "kill -TERM $$", "kill -KILL $$", "sh -c 'kill -9 $$'",
			"trap 'echo bye' EXIT; export A=1; echo x", "trap 'echo bye' EXIT; exit 7", "trap 'exit 8' EXIT; true", "trap 'echo bye >&2' EXIT; false",
			"echo $# \"$@\"; set -- a b; echo $#", "set -x; export A=1", "set -u; export A=1", "set -C; export A=1", "set -f; IFS=0123; export A=1; exit 3",
			"cat <<X\nhere\nX\n", "# a comment\n\n  # another", "#!/bin/sh\necho x", "! true", "false || true", "false && true", "if false; then :; fi",
			"export A='it'\"'\"'s'; [ \"$A\" = \"it's\" ]", "echo a | cat", "not-there-at-all", "set -a; A=1", "return 3 2>/dev/null || exit 9",
			"exec >/dev/null; echo x; export A=2", "exec 2>/dev/null; export A=2; exit 2", "exec >&-; export A=2", "cd /; pwd; export A=1", "umask 777; export A=1",
		} {
			file := filepath.Join(t.TempDir(), "f")
			code, out, before, _ := play(t, words, false, file, script)
			got, same, after, _ := play(t, words, true, file, script)
			if got != code || same != out || strings.Contains(after, file) || strings.Count(after, "\n") > strings.Count(before, "\n")+1 {
				t.Errorf("%s: %q: ended with %d, not %d, and said %q, not %q; %q, not %q", name, script, got, code, same, out, after, before)
			}
		}
	}
}

// What cannot be written ends nothing.
func TestTellWithoutItsFile(t *testing.T) {
	t.Parallel()
	for name, words := range shells(t) {
		for script, want := range map[string]int{"export A=1": 0, "exit 3": 3, "false": 1} {
			if name == "bash as it is" && script == "false" {
				continue // ends with 1, too, but is no end by -e
			}
			c := exec.Command(words[0], append(slices.Clone(words[1:]), strings.ReplaceAll(telling, outputsFile, "/nowhere/at/all"), words[0], script)...)
			out, err := c.CombinedOutput()
			if c.ProcessState.ExitCode() != want || len(out) > 0 {
				t.Errorf("%s: %q: %v %q", name, script, err, out)
			}
		}
	}
}

// Values come through whatever is in them.
func TestExportsOfShells(t *testing.T) {
	t.Parallel()
	for name, words := range shells(t) {
		file := filepath.Join(t.TempDir(), "f")
		_, _, out, dump := play(t, words, true, file, `
V_LINES="$(printf 'a\n#\nb')
"
export V_LINES V_NEW="it's \"x\" \$HOME `+"\\`id\\`"+` \\ end" V_TAB="$(printf 'a\tb\001c')" V_EMPTY= V_UTF='grüße ☃' V_GIVEN="new' value"
V_PLAIN=changed
unset V_GONE
V_HERE=not-exported
export 'V_DOLLAR=$'"'"'x'
exit 3`, "V_GIVEN=old", "V_SAME=sa'me\n#\n", "V_PLAIN=was", "V_GONE=x")
		before, after, ok := exports(string(dump))
		if !ok {
			t.Errorf("%s: %q %q", name, dump, out)
			continue
		}
		only := func(m map[string]string) map[string]string {
			maps.DeleteFunc(m, func(k, _ string) bool { return !strings.HasPrefix(k, "V_") })
			return m
		}
		if want := (map[string]string{"V_GIVEN": "old", "V_SAME": "sa'me\n#\n", "V_PLAIN": "was", "V_GONE": "x"}); !maps.Equal(only(before), want) {
			t.Errorf("%s: before: %q", name, before)
		}
		want := map[string]string{
			"V_LINES": "a\n#\nb\n", "V_NEW": "it's \"x\" $HOME `id` \\ end", "V_TAB": "a\tb\x01c", "V_EMPTY": "", "V_UTF": "grüße ☃", "V_GIVEN": "new' value",
			"V_SAME": "sa'me\n#\n", "V_PLAIN": "changed", "V_DOLLAR": "$'x",
		}
		if !maps.Equal(only(after), want) {
			t.Errorf("%s: after: %q", name, after)
		}
	}
}

// The words of shells that this machine may not have.
func TestExportsOfOthers(t *testing.T) {
	t.Parallel()
	for dump, want := range map[string]string{
		"#\nexport A=b\n": "b",
		"#\nexport -x A=$'a\\nb\\t\\x41\\101\\u263a\\'\\E'\n": "a\nb\tAA☺'\x1b",
		"#\ntypeset -x A='a b'\n":                             "a b",
		"#\ndeclare -rx A=\"a\\\"b\\\\c\\$d\"\n":              "a\"b\\c$d",
		"#\ndeclare -x A\n":                                   "",
		"#\ndeclare -ax A=([0]=\"x\")\n":                      "",
		"#\nexport A=a\\ b'c'\"d\"\n":                         "a bcd",
		"#\nexport A=old\n#\nexport A=new\n":                  "new",
		"#\nexport A=old\n#\nexport A='cut":                   "CUT",
		"#\nexport A=\"cut":                                   "CUT",
		"#\nexport A=$'cut\\":                                 "CUT",
		"export A=first\n":                                    "CUT",
		"":                                                    "CUT",
	} {
		_, after, ok := exports(dump)
		if got := after["A"]; ok != (want != "CUT") || ok && got != want {
			t.Errorf("%q: %q %v", dump, got, ok)
		}
	}
}

func TestOutputsAreDecided(t *testing.T) {
	t.Parallel()
	v := newValues()
	v.give("LASTING", "1", false, false, holder{tier: tierStored, forever: true})
	v.give("RUN", "1", false, false, holder{tier: tierPipeline, run: true})
	v.give("FIXED", "1", false, false, holder{tier: tierPipeline})
	v.give("HIDDEN", "hunter22", true, true, holder{tier: tierStored, forever: true})
	v.give("OWN", "1", false, false, holder{tier: tierInline, forever: true})
	dump := func(after string) string {
		return ("export LASTING=1\nexport RUN=1\nexport FIXED=1\nexport HIDDEN=hunter22\nexport OWN=1\nexport OUTPUT_SAME=x\n#\n" + after)
	}
	for after, want := range map[string]string{
		"export LASTING=1\nexport RUN=1\nexport OUTPUT_SAME=x\n": "",
		"export LASTING=2\n":               "LASTING=2 forever",
		"export RUN=2\n":                   "RUN=2",
		"export FIXED=2\nexport OTHER=3\n": "",
		"export HIDDEN=new\n":              "HIDDEN=new forever secret",
		"export OWN=2\n":                   "OWN=2 forever own",
		"export OUTPUT_A=1\nexport OUTPUT_B='with hunter22 in it'\n":     "OUTPUT_A=1|OUTPUT_B=with hunter22 in it secret",
		"export LASTING='is hunter22'\n":                                 "LASTING=is hunter22 forever secret",
		"export LASTING='!encrypted'\n":                                  "note",
		"export LASTING='\xff'\n":                                        "note",
		"export LASTING=" + strings.Repeat("x", secret.MaxWord) + "\n":   "note",
		"export LASTING=" + strings.Repeat("x", engine.MaxOutput) + "\n": "note",
	} {
		out, notes := outputs(dump(after), v)
		var got []string
		for _, o := range out {
			s := o.Key + "=" + o.Value
			for word, is := range map[string]bool{" forever": o.Settable} {
				if is {
					s += word
				}
			}
			if o.Encrypted {
				s += " secret"
			}
			if o.Own {
				s += " own"
			}
			if o.Settable == o.RunOnlySettable {
				t.Errorf("%s: %+v", o.Key, o)
			}
			got = append(got, s)
		}
		if len(notes) > 0 {
			got = append(got, "note")
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("%.80q: %q instead of %q (%v)", after, s, want, notes)
		}
	}
}

func TestTold(t *testing.T) {
	t.Parallel()
	settable := newValues()
	settable.give("A", "1", false, false, holder{tier: tierRun, run: true})
	for _, c := range []struct {
		run  Run
		v    *values
		want bool
	}{
		{Run{Commands: "sleep 60"}, newValues(), false}, // it becomes the container's first process
		{Run{Commands: "sleep 60"}, settable, true},
		{Run{Commands: "export A=1"}, newValues(), true},
		{Run{Commands: ". ./env.sh"}, newValues(), true},
		{Run{Commands: "set -a\nA=1"}, newValues(), true},
		{Run{Entrypoint: "bash -eo pipefail", Commands: "export A=1"}, newValues(), true},
		{Run{Entrypoint: "/hello", Commands: "export"}, settable, false},
		{Run{Entrypoint: "bash"}, settable, false},
		{Run{}, settable, false},
	} {
		entrypoint, command, _, err := c.run.argv(c.v)
		if err != nil {
			t.Fatal(err)
		}
		got, file := told(entrypoint, command, c.v)
		if (file != "") != c.want || c.want && (len(got) != 3 || got[2] != c.run.Commands) || !c.want && !slices.Equal(got, command) {
			t.Errorf("%+v: %q %q", c.run, got, file)
		}
		if err := fits(nil, entrypoint, got); err != nil {
			t.Error(err)
		}
	}
}

func FuzzExports(f *testing.F) {
	f.Add("export A='b'\n#\ndeclare -x A=$'\\x'\n")
	f.Fuzz(func(_ *testing.T, s string) { exports(s) })
}

// What a shell quotes in its way comes out as it was.
func TestQuotesComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := strings.ReplaceAll(rapid.String().Draw(t, "value"), "\x00", "")
		for _, quoted := range []string{
			"'" + strings.ReplaceAll(value, "'", `'"'"'`) + "'", "'" + strings.ReplaceAll(value, "'", `'\''`) + "'",
			`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(value) + `"`,
		} {
			_, after, ok := exports("#\nexport A=" + quoted + "\n")
			if !ok || after["A"] != value {
				t.Fatalf("%q: %q %v", quoted, after["A"], ok)
			}
		}
	})
}
