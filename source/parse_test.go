package source

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format of git
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"git version 2.39.5\n": "", "git version 2.37.0": "", "git version 3.0.1 (Apple)": "",
		"git version 2.36.6": "2.36", "git version 1.9.1": "1.9", "nonsense": "does not tell",
	} {
		err := checkVersion("/usr/bin/git", text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWithoutGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := New(Config{Dir: t.TempDir()}, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "git is not installed") {
		t.Errorf("%v", err)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"fatal: https://u:p@h/x: no":              "fatal: https://***@h/x: no",
		"'ssh://git@h/x' and http://t@h:80/y":     "'ssh://***@h/x' and http://***@h:80/y",
		"https://h/x@y and a@b":                   "https://h/x@y and a@b",
		"the word hunter22 here":                  "the word *** here",
		"git@github.com:a/b.git":                  "git@github.com:a/b.git",
		"https://u:p%40q@h/x https://u:p:q@h/x\n": "https://***@h/x https://***@h/x\n",
	} {
		if got := redact(text, "hunter22", "", "x"); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := message("hint: no\nwarning: w\nremote: one\nfatal: it is so\nProgress 1%\rProgress 2%\n"); got != "it is so; remote: one; Progress 2%" {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/a/b.c_d-e": true, "refs/heads/é": true,
		"": false, "/a": false, "a/": false, "a//b": false, "a..b": false, "a.lock": false, "a.lock/b": false, ".a": false, "a/.b": false, "a.": false,
		"a b": false, "a~b": false, "a^b": false, "a:b": false, "a?b": false, "a*b": false, "a[b": false, `a\b`: false, "a@{b": false, "@": false,
		"a\x7f": false, "a\x00": false, "-a": false, "a/-b": false,
	} {
		if goodRef(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	for path, want := range map[string]bool{
		"a": true, "a/b": true, ".gitignore": true, "a/.gitx": true, "...": true, "git": true,
		"": false, "/a": false, "a/": false, "a//b": false, ".": false, "a/./b": false, "..": false, "a/../b": false, ".git": false, "a/.Git/b": false, "a\x00": false,
	} {
		if goodPath(path) != want {
			t.Errorf("path %q: %v", path, !want)
		}
	}
}

func TestCommandsOfAPush(t *testing.T) {
	t.Parallel()
	text := pkt(zeros+" "+strings.Repeat("1", 40)+" refs/heads/main\x00 report-status agent=git") +
		pkt(strings.Repeat("2", 40)+" "+zeros+" refs/heads/gone") + pkt(zeros+" "+strings.Repeat("3", 40)+" refs/tags/v1") + "0000PACKnonsense" + pkt(zeros+" x refs/heads/late")
	for size := 1; size < len(text); size += 7 {
		var c commands
		for b := []byte(text); len(b) > 0; b = b[min(size, len(b)):] {
			c.add(b[:min(size, len(b))])
		}
		if !reflect.DeepEqual(c.refs(), []string{"refs/heads/main", "refs/tags/v1"}) {
			t.Fatalf("%d: %v", size, c.refs())
		}
	}
}

func pkt(s string) string {
	const hex = "0123456789abcdef"
	n := len(s) + 4
	return string([]byte{hex[n>>12], hex[n>>8&15], hex[n>>4&15], hex[n&15]}) + s
}

func FuzzCommands(f *testing.F) {
	f.Add([]byte(pkt(zeros + " x refs/heads/main")))
	f.Add([]byte("ffff0000"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var c commands
		c.add(b)
		c.add(b)
	})
}

// sample is an index as git writes it.
func sample(t testing.TB) []byte {
	t.Helper()
	g, err := findGit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x.git")
	if err := makeBare(dir); err != nil {
		t.Fatal(err)
	}
	in := "100644 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\ta\n100755 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\tb/c\n120000 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\tb/d\n" +
		"160000 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\tmod\n100644 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\t" + strings.Repeat("long/", 810) + "x\n"
	name := filepath.Join(dir, "index")
	if _, err := g.run(t.Context(), call{repo: dir, tree: dir, index: name, args: []string{"update-index", "--add", "--index-info"}, stdin: strings.NewReader(in)}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIndex(t *testing.T) {
	t.Parallel()
	b := sample(t)
	x, err := parseIndex(b)
	must(t, err)
	if !bytes.Equal(x.bytes(), b) {
		t.Error("not the same bytes")
	}
	var got []string
	for _, e := range x.entries {
		got = append(got, e.path)
	}
	if want := []string{"a", "b/c", "b/d", strings.Repeat("long/", 810) + "x", "mod"}; !reflect.DeepEqual(got, want) {
		t.Errorf("paths %q", got)
	}
	for _, n := range []int{0, 11, 31, 40, len(b) - 30} {
		if _, err := parseIndex(b[:n]); err == nil {
			t.Errorf("cut to %d: taken", n)
		}
	}
	// What is remembered goes over to the next index where nothing changed.
	var st unix.Stat_t
	st.Mode, st.Ino, st.Ctim.Sec = unix.S_IFREG|0o644, 9, 5
	x.set(0, &st)
	y, err := parseIndex(b)
	must(t, err)
	y.entries = y.entries[:1]
	y.entries[0].hash = x.entries[0].hash
	lost := y.inherit(x)
	if len(lost) != 4 || !y.same(0, &st) {
		t.Errorf("lost %d, same %v", len(lost), y.same(0, &st))
	}
	u := union(y, x)
	if len(u.entries) != 5 {
		t.Errorf("union of %d", len(u.entries))
	}
	again, err := parseIndex(u.bytes())
	must(t, err)
	if !again.same(0, &st) || !again.forgotten(3) {
		t.Error("the union forgot")
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("DIRC\x00\x00\x00\x02\x00\x00\x00\x00" + strings.Repeat("x", sha1.Size)))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseIndex(b)
		if err != nil {
			return
		}
		again, err := parseIndex(x.bytes())
		if err != nil || !reflect.DeepEqual(again.entries, x.entries) {
			t.Fatalf("not the same again: %v", err)
		}
		var st unix.Stat_t
		st.Ino, st.Mode = 7, unix.S_IFREG|0o644
		st.Ctim.Sec = 1
		for i, e := range x.entries {
			x.set(i, &st)
			if e.mode == modeFile && !x.same(i, &st) {
				t.Fatal("not the file that was set")
			}
		}
		u := union(x, again)
		if len(u.entries) < len(x.entries) {
			t.Fatal("union lost a path")
		}
		u.inherit(x)
		x.inherit(again)
	})
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://h/x", "git@h:x", "ssh://u@h:22/~/x", "ext::sh"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, _, err := parseURL(s)
		if err != nil {
			return
		}
		if strings.HasPrefix(s, "-") || strings.HasPrefix(p.host, "-") || p.host == "" || p.port == "" || strings.ContainsAny(s, " \n\x00") {
			t.Fatalf("%q: %+v", s, p)
		}
		if p.scheme != "http" && p.scheme != "https" && p.scheme != "ssh" {
			t.Fatalf("%q: %+v", s, p)
		}
	})
}

func FuzzParsers(f *testing.F) {
	f.Add("author A <a@b> 1 +0000\ncommitter\n\nx", "ref: refs/heads/x\tHEAD\n")
	f.Fuzz(func(t *testing.T, commit, list string) {
		parseCommit("x", []byte(commit))
		v := parseLsRemote(list)
		for name, hash := range v.refs {
			if !goodRef(name) || !isHash(hash) {
				t.Fatalf("%q %q", name, hash)
			}
		}
		if !goodRef("refs/heads/" + v.head) {
			t.Fatalf("%q", v.head)
		}
	})
}
