package local

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The programs that are built beside this one. The directory is embedded whole,
// so that the package compiles without them.
//
//go:embed all:embed
var embedded embed.FS

// unpack writes an embedded program to dir under a name with its checksum, and
// removes older builds of it that nobody runs. A size alone does not tell two
// builds apart, and programs that run keep their own file.
func unpack(dir, name string) (string, error) {
	f, err := embedded.Open("embed/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("this program was built without %s: build it with make", name)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Read through the file, not by ReadFile: that would copy it to the heap.
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+"-"+hex.EncodeToString(h.Sum(nil)[:4]))
	if st, err := os.Stat(path); err == nil && st.Size() == size && st.Mode()&0o100 != 0 {
		return path, nil
	}
	if _, err := f.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	w, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(w, f)
	// Synced, because after a power loss a file of the right size could be empty.
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		_ = os.Remove(path + ".new")
		return "", err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(filepath.Join(dir, name+"-*"))
	for _, o := range old {
		if o != path && !strings.HasSuffix(o, ".new") {
			_ = os.Remove(o)
		}
	}
	return path, nil
}
