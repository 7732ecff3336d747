package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLacking(t *testing.T) {
	t.Parallel()
	arm, risc := format{"qemu-arm", "M::a:b:/c:OPF"}, format{"qemu-riscv64", "M::d:e:/f:F"}
	const prefix = "slipway-1-"
	for name, c := range map[string]struct {
		have []string
		want []string
	}{
		"nothing":          {[]string{"register", "status"}, []string{"slipway-1-qemu-arm", "slipway-1-qemu-riscv64"}},
		"the host's":       {[]string{"qemu-arm"}, []string{"slipway-1-qemu-riscv64"}},
		"our own":          {[]string{"slipway-1-qemu-arm", "slipway-1-qemu-riscv64"}, nil},
		"another engine's": {[]string{"slipway-2-qemu-arm", "qemu-riscv64"}, []string{"slipway-1-qemu-arm"}},
	} {
		var got []string
		for _, f := range lacking([]format{arm, risc}, c.have, prefix) {
			got = append(got, f.name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"qemu-arm.conf": ":qemu-arm:M::\\x7f\\x45:\\xff\\xff:/usr/bin/qemu:OPF\n", "qemu-s390x.conf": ":qemu-s390x:M::a:b:/usr/bin/qemu:OP\n",
		"qemu-alpha.conf": ":qemu-alpha:M::a:b:/c:F\n", "qemu-riscv64.conf": "", "python.conf": ":python:M::a::/c:F\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := formats(dir); len(got) != 1 || got[0] != (format{"qemu-arm", `M::\x7f\x45:\xff\xff:/usr/bin/qemu:OPF`}) {
		t.Errorf("%+v", got)
	}
}

// program compiles one that says for which platform it is.
func program(t testing.TB, arch string) string {
	t.Helper()
	dir := t.TempDir()
	const text = "package main\n\nimport \"runtime\"\n\nfunc main() { println(\"it is \" + runtime.GOARCH) }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", "it", "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "it"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOtherPlatform has programs of another platform run, in a build and from
// its image, on a host that need not know of it.
func TestOtherPlatform(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM scratch\nCOPY --chmod=755 it /it\nRUN [\"/it\"]\nCMD [\"/it\"]\n", map[string]string{"it": program(t, "arm64")})
	spec.Platforms = []string{"linux/arm64"}
	res := b.made(id, spec)
	if log := lines(t, spec.Log); !strings.Contains(log, "it is arm64") {
		t.Errorf("log:\n%s", log)
	}
	if out := b.says(res.Image.Digest); out != "it is arm64" {
		t.Errorf("its image says %q", out)
	}
}

// TestRegister has the kernel told of a format that no host knows: files whose
// names have a certain end are run by cat. It is told once, knows it after a
// restart of the server, and forgets it when the engine is wiped.
func TestRegister(t *testing.T) {
	b := open(t)
	handlers := func() int {
		l, err := filepath.Glob(filepath.Join(b.binfmt(), b.formatPrefix()+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	first := handlers() // what the host lacks
	end := "by-" + b.inst
	file := filepath.Join(t.TempDir(), "it."+end)
	if err := os.WriteFile(file, []byte("cat has run it"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(file).CombinedOutput(); err == nil {
		t.Fatalf("it is known already: %s", out)
	}
	for _, open := range []func(){func() {}, func() {}, b.restart} {
		open()
		if err := b.register([]format{{"cat", "E::" + end + "::/bin/cat:"}}); err != nil {
			t.Fatal(err)
		}
		if n := handlers(); n != first+1 {
			t.Errorf("%d handlers, %d before", n, first)
		}
		if out, err := exec.Command(file).CombinedOutput(); err != nil || string(out) != "cat has run it" {
			t.Errorf("%q %v", out, err)
		}
	}
	if err := b.register([]format{{"dog", "nonsense"}}); err == nil || !strings.Contains(err.Error(), b.formatPrefix()+"dog") {
		t.Errorf("of nonsense: %v", err)
	}
	if err := b.dropEmulation(); err != nil {
		t.Fatal(err)
	}
	if n := handlers(); n != 0 {
		t.Errorf("%d handlers are left", n)
	}
	if out, err := exec.Command(file).CombinedOutput(); err == nil {
		t.Errorf("it still runs: %s", out)
	}
}
