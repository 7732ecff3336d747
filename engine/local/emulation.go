package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Programs of other platforms are run by qemu-user-static: the kernel starts it
// for them once it has been told so. Most hosts do that at their boot; where
// they do not, the engine does, under names of its own, which end with it.

// formatsDir is where the package says what the kernel is to be told.
const formatsDir = "/usr/lib/binfmt.d"

// format is how the kernel knows programs of one platform, and what runs them:
// ":name:" and the rest of a line.
type format struct{ name, rest string }

// openEmulation registers what the host lacks. Without it everything works but
// steps and programs of other platforms, which then fail and say so.
func (e *Engine) openEmulation() {
	installed := formats(formatsDir)
	if len(installed) == 0 {
		return
	}
	if err := e.register(installed); err != nil {
		e.log.Warn("programs of other platforms are not run", "err", err)
	}
}

func (e *Engine) register(installed []format) error {
	dir := e.binfmt()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	// It stays mounted: with its last mount newer kernels forget all formats.
	if st.Type != unix.BINFMTFS_MAGIC {
		if err := unix.Mount("slipway", dir, "binfmt_misc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount binfmt_misc: %w", err)
		}
	}
	ents, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var have []string
	for _, d := range ents {
		have = append(have, d.Name())
	}
	for _, f := range lacking(installed, have, e.formatPrefix()) {
		if werr := os.WriteFile(filepath.Join(dir, "register"), []byte(":"+f.name+":"+f.rest), 0); werr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", f.name, werr))
		}
	}
	return err
}

// dropEmulation takes back what this engine has registered; the mount is
// dropped with all others.
func (e *Engine) dropEmulation() error {
	own, err := filepath.Glob(filepath.Join(e.binfmt(), e.formatPrefix()+"*"))
	for _, f := range own {
		err = errors.Join(err, os.WriteFile(f, []byte("-1"), 0))
	}
	return err
}

// binfmt is where the kernel's list of formats is mounted.
func (e *Engine) binfmt() string { return filepath.Join(e.run, "binfmt") }

func (e *Engine) formatPrefix() string { return "slipway-" + e.inst + "-" }

// formats reads what is installed for the platforms that images are made for.
func formats(dir string) (l []format) {
	for _, arch := range []string{"aarch64", "arm", "i386", "loongarch64", "mips64el", "ppc64le", "riscv64", "s390x", "x86_64"} {
		b, err := os.ReadFile(filepath.Join(dir, "qemu-"+arch+".conf"))
		if err != nil {
			continue
		}
		f := strings.SplitN(strings.TrimSpace(string(b)), ":", 3)
		// With F the kernel opens the program at once, so that containers need
		// not have it.
		if len(f) == 3 && f[0] == "" && strings.Contains(f[2][strings.LastIndexByte(f[2], ':')+1:], "F") {
			l = append(l, format{f[1], f[2]})
		}
	}
	return l
}

// lacking says what is to be registered, given what is there. What other
// engines have registered does not count: it ends with them.
func lacking(installed []format, have []string, prefix string) (l []format) {
	for _, f := range installed {
		if !slices.Contains(have, f.name) && !slices.Contains(have, prefix+f.name) {
			l = append(l, format{prefix + f.name, f.rest})
		}
	}
	return l
}
