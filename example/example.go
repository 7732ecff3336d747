// Package example is the bundled example repository: a small web server in Go,
// its compiled program, and a Dockerfile. The demo pushes it as a user would
// push a project of their own.
//
// Its source lies in hello, is built and checked with ours, and is a module of
// its own once it is written somewhere. make builds its program into bin/hello.
package example

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed all:hello all:bin
var bundled embed.FS

// errNoProgram is a Slipway that was built without make.
var errNoProgram = errors.New("this slipway was built without the program of its example: build it with make")

// Write writes the repository's files into dir, which it makes. The same
// slipway always writes the same files.
func Write(dir string) error {
	program, err := bundled.ReadFile("bin/hello")
	if errors.Is(err, fs.ErrNotExist) {
		return errNoProgram
	}
	if err != nil {
		return fmt.Errorf("bundled example: %w", err)
	}
	if err := writeSource(dir); err != nil {
		return fmt.Errorf("write the bundled example: %w", err)
	}
	return put(filepath.Join(dir, "bin", "hello"), program, 0o755)
}

func writeSource(dir string) error {
	return fs.WalkDir(bundled, "hello", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := bundled.ReadFile(p)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, "hello/")
		if name == "go.mod.txt" { // a folder with a go.mod could not be bundled
			name = "go.mod"
		}
		return put(filepath.Join(dir, filepath.FromSlash(name)), b, 0o644)
	})
}

func put(name string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	return os.Chmod(name, mode)
}
