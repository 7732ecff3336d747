// Package example is the bundled example: a small web server, its Dockerfile,
// and the program compiled, since an image FROM scratch needs nothing else and
// no compiler has to be pulled.
package example

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed hello all:bin
var files embed.FS

// module makes the pushed tree a module of its own.
const module = "module hello\n\ngo 1.26\n"

// Write writes the repository into dir, which is made. The same program always
// writes the same bytes, so that pushing again is pushing nothing.
func Write(dir string) error {
	program, err := files.ReadFile("bin/hello")
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this program was built without the example's server; build it with make")
	}
	if err != nil {
		return err
	}
	entries, err := files.ReadDir("hello")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		b, err := files.ReadFile("hello/" + e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), b, 0o644); err != nil {
			return fmt.Errorf("the example: %w", err)
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o644),
		os.WriteFile(filepath.Join(dir, "bin", "hello"), program, 0o755),
	)
}
