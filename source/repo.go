package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/project"
)

var idText = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,63}$`)

// repoPath and the others say where things of a project lie.
func (s *Sources) repoPath(id project.ID) string {
	return filepath.Join(s.cfg.Dir, "repos", string(id)+".git")
}

func (s *Sources) repoLock(id project.ID) string {
	return filepath.Join(s.cfg.Dir, "repos", string(id)+".lock")
}

// own gives the own repository of a project and makes it when it is first
// looked for.
func (s *Sources) own(id project.ID) (string, error) {
	dir := s.repoPath(id)
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err == nil {
		return dir, nil
	}
	if !idText.MatchString(string(id)) {
		return "", fmt.Errorf("project %q: %w", id, errdefs.ErrNotFound)
	}
	if err := makeBare(dir); err != nil {
		return "", fmt.Errorf("make the repository of project %s: %w", id, err)
	}
	return dir, nil
}

const bareConfig = `[core]
	repositoryformatversion = 0
	filemode = true
	bare = true
`

// An archive is to hold what a checkout holds: these attributes would leave
// files out or rewrite them.
const bareAttributes = "* -export-ignore -export-subst\n"

// makeBare makes an empty bare repository that is there whole or not at all.
func makeBare(dir string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags", "info"} {
		if err := os.MkdirAll(filepath.Join(tmp, d), 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"HEAD": "ref: refs/heads/main\n", "config": bareConfig, "info/attributes": bareAttributes,
	} {
		if err := writeSync(filepath.Join(tmp, name), text); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, there := os.Lstat(filepath.Join(dir, "HEAD")); there == nil {
			return nil // somebody else was faster
		}
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func writeSync(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncRefs puts the directory entries of refs and packs on disk, which git
// leaves to the system.
func syncRefs(dir string, refs []string) error {
	done := map[string]bool{}
	names := []string{filepath.Join(dir, "objects", "pack"), dir}
	for _, r := range refs {
		for d := filepath.Dir(filepath.Join(dir, r)); len(d) > len(dir); d = filepath.Dir(d) {
			names = append(names, d)
		}
	}
	for _, d := range names {
		if done[d] {
			continue
		}
		done[d] = true
		if err := syncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return nil
}

// tip is what a ref names: an object, and the commit that it stands for if it
// is an annotated tag.
type tip struct{ hash, commit string }

// tips gives the branches and tags of a repository, or what else is asked for.
func (g program) tips(ctx context.Context, dir string, more ...string) (map[string]tip, error) {
	if len(more) == 0 {
		more = []string{"refs/heads", "refs/tags"}
	}
	args := []string{"for-each-ref", "--format=%(objectname) %(refname) %(*objectname)"}
	out, err := g.run(ctx, call{repo: dir, args: append(args, more...)})
	if err != nil {
		return nil, err
	}
	refs := map[string]tip{}
	for line := range strings.Lines(string(out)) {
		switch f := strings.Fields(line); len(f) {
		case 2:
			refs[f[1]] = tip{f[0], f[0]}
		case 3:
			refs[f[1]] = tip{f[0], f[2]}
		}
	}
	return refs, nil
}

// headOf gives the branch that HEAD names, which may be unborn.
func headOf(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "HEAD"))
	if err != nil {
		return "main"
	}
	if name, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "ref: refs/heads/"); ok {
		return name
	}
	return "main"
}

// follow lets HEAD name a branch that exists: the first one pushed, the best
// known one of several. The repository is locked.
func follow(dir string, refs map[string]tip, pushed []string) error {
	head := headOf(dir)
	if _, ok := refs["refs/heads/"+head]; ok {
		return nil
	}
	choice := append([]string{"refs/heads/main", "refs/heads/master"}, pushed...)
	least := ""
	for name := range refs {
		if strings.HasPrefix(name, "refs/heads/") && (least == "" || name < least) {
			least = name
		}
	}
	for _, name := range append(choice, least) {
		if _, ok := refs[name]; !ok || !strings.HasPrefix(name, "refs/heads/") {
			continue
		}
		tmp := filepath.Join(dir, ".HEAD")
		if err := writeSync(tmp, "ref: "+name+"\n"); err != nil {
			return err
		}
		return os.Rename(tmp, filepath.Join(dir, "HEAD"))
	}
	return nil
}

// sweep removes what a killed git left: lock files always, because the caller
// holds the lock that every writer of refs needs, and half-written objects
// that nobody touched for a while.
func sweep(dir string, objects time.Duration) error {
	var errs []error
	for _, d := range []string{dir, filepath.Join(dir, "refs"), filepath.Join(dir, "objects", "info")} {
		errs = append(errs, filepath.WalkDir(d, func(p string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case e.IsDir() && p != d && d == dir:
				return filepath.SkipDir
			case !e.IsDir() && strings.HasSuffix(p, ".lock"):
				return os.Remove(p)
			}
			return nil
		}))
	}
	for _, pattern := range []string{"objects/tmp_objdir-*", "objects/incoming-*", "objects/pack/tmp_*", "objects/pack/.tmp-*", "objects/*/tmp_obj_*", "objects/pack/*.keep"} {
		left, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, p := range left {
			if fi, err := os.Lstat(p); err == nil && time.Since(fi.ModTime()) >= objects {
				errs = append(errs, os.RemoveAll(p))
			}
		}
	}
	return errors.Join(errs...)
}

// object is one answer of cat-file.
type object struct {
	hash, kind string
	size       int64
	data       []byte
}

var errTooBig = fmt.Errorf("larger than can be shown: %w", errdefs.ErrOutOfRange)

// objects asks cat-file for some names at once; a name that leads nowhere
// gives an object of kind "missing" or "ambiguous". Objects of more than max
// bytes are errTooBig.
func (g program) objects(ctx context.Context, dir string, max int64, names ...string) ([]object, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := call{repo: dir, args: []string{"cat-file", "--batch"}, stdin: strings.NewReader(strings.Join(names, "\n") + "\n")}
	cmd := g.command(ctx, c)
	var errs tail
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	list, err := readObjects(bufio.NewReader(out), max, names)
	if err != nil {
		cancel(err)
		_ = cmd.Wait()
		if errs.String() != "" && !errors.Is(err, errTooBig) {
			err = fmt.Errorf("%w: %s", err, message(redact(errs.String())))
		}
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, c.failed(ctx, err, errs.String())
	}
	return list, nil
}

func readObjects(r *bufio.Reader, max int64, names []string) ([]object, error) {
	list := make([]object, 0, len(names))
	for range names {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		line = strings.TrimSuffix(line, "\n")
		if kind, ok := lost(line); ok {
			list = append(list, object{kind: kind})
			continue
		}
		var o object
		if _, err := fmt.Sscanf(line, "%s %s %d", &o.hash, &o.kind, &o.size); err != nil {
			return nil, fmt.Errorf("git cat-file said %q: %w", line, err)
		}
		if o.size > max {
			return nil, errTooBig
		}
		var data bytes.Buffer
		data.Grow(int(o.size))
		if _, err := data.ReadFrom(io.LimitReader(r, o.size)); err != nil {
			return nil, fmt.Errorf("git cat-file: %w", err)
		}
		if int64(data.Len()) != o.size {
			return nil, errors.New("git cat-file ended early")
		}
		if _, err := r.ReadByte(); err != nil {
			return nil, fmt.Errorf("git cat-file: %w", err)
		}
		o.data = data.Bytes()
		list = append(list, o)
	}
	return list, nil
}

func lost(line string) (string, bool) {
	for _, kind := range []string{"missing", "ambiguous"} {
		if strings.HasSuffix(line, " "+kind) {
			return kind, true
		}
	}
	return "", false
}
