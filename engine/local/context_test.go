package local

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"slipway/engine"
	"slipway/engine/enginetest"
)

func TestBuildContext(t *testing.T) {
	b := open(t)
	var tb bytes.Buffer
	w := tar.NewWriter(&tb)
	put := func(h tar.Header, body string) {
		h.Mode, h.Size = 0o644, int64(len(body))
		_ = w.WriteHeader(&h)
		_, _ = w.Write([]byte(body))
	}
	file := func(name, body string) { put(tar.Header{Typeflag: tar.TypeReg, Name: name}, body) }
	file("docker/Dockerfile.prod", "FROM shell\nCOPY . /ctx\nWORKDIR /ctx\nCMD [\"/bin/sh\",\"-c\",\"ls -A . sub; cat in lnk hard\"]\n")
	file("app/in", "inside\n")
	put(tar.Header{Typeflag: tar.TypeLink, Name: "app/hard", Linkname: "app/in"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/lnk", Linkname: "in"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/out", Linkname: "/etc/hostname"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/up", Linkname: "../../../../../../etc"}, "")
	file("app/ignored.txt", "no")
	file("app/kept.txt", "yes")
	file("app/sub/deep.log", "no")
	file("app/sub/deep.txt", "yes")
	file("app/.git/config", "no")
	file("app/.dockerignore", "*.txt\n!kept.txt\n**/*.log\n")
	_ = w.Close()
	v := b.volume("execution/source")
	if err := b.Volumes().Put(t.Context(), v, "/", &tb); err != nil {
		t.Fatal(err)
	}
	id, spec := b.recipe("", nil)
	spec.Source, spec.Context, spec.Dockerfile = engine.Source{Volume: v}, "/app", "docker/Dockerfile.prod"
	out := b.says(b.made(id, spec).Image.Digest)
	for what, want := range map[string]bool{"kept.txt": true, "ignored.txt": false, "deep.txt": true, "deep.log": false, ".git": false, "inside\ninside\ninside": true, "out": true} {
		if strings.Contains(out, what) != want {
			t.Errorf("%q is %v in\n%s", what, !want, out)
		}
	}
	spec.KeepGit, spec.Log = true, spec.Log+"-git"
	if out := b.says(b.made(b.id("build"), spec).Image.Digest); !strings.Contains(out, ".git") {
		t.Errorf("with .git:\n%s", out)
	}
	t.Run("an ignore file of the Dockerfile's own", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nCOPY . /c\nCMD [\"/bin/ls\",\"/c\"]\n", map[string]string{"a": "1", "b": "2", ".dockerignore": "a\n", "Dockerfile.dockerignore": "b\n"})
		if out := b.says(b.made(id, spec).Image.Digest); !strings.Contains(out, "a") || strings.Contains(out, "b\n") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("links lead nowhere", func(t *testing.T) {
		id, spec := b.recipe("", nil)
		spec.Source, spec.Context, spec.Dockerfile = engine.Source{Volume: v}, "app/up", "docker/Dockerfile.prod"
		b.fails(id, spec, "context")
		file := map[string]string{"Dockerfile": "FROM shell\nCOPY out/x /x\n"}
		src := b.source(file)
		dir, _ := b.Dir(t.Context(), src.Volume)
		if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		spec.Source, spec.Context = src, ""
		spec.Dockerfile = "Dockerfile"
		b.fails(id, spec)
		spec.Dockerfile = "out/hostname"
		b.fails(id, spec, "out/hostname")
	})
}

// TestSameSizeAndTime changes a file so that only its content is different.
func TestSameSizeAndTime(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nCOPY a /a\nCMD [\"/bin/cat\",\"/a\"]\n", map[string]string{"a": "0"})
	for i, reopen := range []bool{false, false, false, true, false} {
		if reopen {
			b.restart()
		}
		text := fmt.Sprint(i)
		if err := b.Volumes().Put(t.Context(), spec.Source.Volume, "/", bytes.NewReader(enginetest.Tar(t, nil, nil, map[string][]byte{"a": []byte(text)}))); err != nil {
			t.Fatal(err)
		}
		if out := b.says(b.made(id, spec).Image.Digest); out != text {
			t.Errorf("it has %q, not %q", out, text)
		}
		spec.Log += "x"
	}
}

// TestContextInMotion builds while somebody swaps a directory for a link out of
// the volume, and a file for a pipe.
func TestContextInMotion(t *testing.T) {
	b := open(t)
	files := map[string]string{"d/secret": "ours"}
	for i := range 200 {
		files[fmt.Sprintf("many/%03d", i)] = "x"
	}
	id, spec := b.recipe("FROM shell\nCOPY . /c\nCMD [\"/bin/sh\",\"-c\",\"cat /c/d/secret\"]\n", files)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("THEIRS"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := b.Dir(t.Context(), spec.Source.Volume)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e"))
			_ = os.Symlink(outside, filepath.Join(dir, "d"))
			_ = os.Remove(filepath.Join(dir, "d"))
			_ = os.Rename(filepath.Join(dir, "e"), filepath.Join(dir, "d"))
		}
	})
	for range 6 {
		spec.NoCache = true
		res, err := b.Build(t.Context(), id, spec)
		if err != nil {
			t.Logf("this one failed, as it may: %v", err)
			continue
		}
		if res.Image.Digest == "" {
			continue
		}
		var out bytes.Buffer
		if err := b.Images().Export(t.Context(), res.Image.Digest, "", &out); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(out.Bytes(), []byte("THEIRS")) {
			t.Fatal("the image has what is outside of the volume")
		}
	}
	close(stop)
	wg.Wait()
}
