package source

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/project"
)

// maxMessage bounds the message of a commit that is made here, in characters.
const maxMessage = 4096

// Expect says what has to be where a file is written.
type Expect int

// What Edit expects. With Whatever a branch that is not there is made from the
// default one, too.
const (
	Whatever Expect = iota
	NoFile
	AFile
)

// ErrReadOnly is a repository that is written elsewhere.
var ErrReadOnly = fmt.Errorf("read only: %w", errdefs.ErrConflict)

// Edit is a change of one file.
type Edit struct {
	Branch  string // "" is the default one
	Path    string
	Data    []byte // nil removes the file
	Message string // "" says what is done
	Expect  Expect
}

// Write is Edit for whatever is there.
func (s *Sources) Write(ctx context.Context, by access.Actor, id project.ID, branch, path string, data []byte, message string) (Commit, error) {
	return s.Edit(ctx, by, id, Edit{Branch: branch, Path: path, Data: data, Message: message})
}

// Edit commits one file on a branch, as a push would. It makes the first commit
// of an empty repository. A linked project gives ErrReadOnly, a branch or a
// file that is not there errdefs.ErrNotFound.
func (s *Sources) Edit(ctx context.Context, by access.Actor, id project.ID, e Edit) (Commit, error) {
	p, dir, err := s.written(ctx, by, id)
	if err != nil {
		return Commit{}, err
	}
	if e.Branch = strings.TrimPrefix(e.Branch, "refs/heads/"); e.Branch == "" {
		e.Branch = headOf(dir)
	}
	if err := e.clean(); err != nil {
		return Commit{}, err
	}
	if s.cfg.Room != nil && e.Data != nil {
		if err := s.cfg.Room(); err != nil {
			return Commit{}, err
		}
	}
	var c Commit
	err = s.moveRef(ctx, by, p.ID, dir, "refs/heads/"+e.Branch, func(ctx context.Context, k *lock) (err error) {
		c, err = s.commitFile(ctx, k, dir, by.User, e)
		return err
	})
	return c, err
}

// written gives a project whose repository the actor may write to, and where
// that is. A linked project gives ErrReadOnly.
func (s *Sources) written(ctx context.Context, by access.Actor, id project.ID) (p project.Project, dir string, err error) {
	p, err = s.allowed(ctx, by, id, access.RepositoryWrite)
	if err != nil {
		return p, "", err
	}
	remote, _, err := s.loadRemote(ctx, p.ID)
	if err != nil {
		return p, "", err
	}
	if remote != nil {
		return p, "", fmt.Errorf("this project mirrors %s and is %w", redact(remote.URL), ErrReadOnly)
	}
	dir, err = s.own(p.ID)
	return p, dir, err
}

// moveRef has f move one ref, alone in the repository, and tells of it as of a
// push.
func (s *Sources) moveRef(ctx context.Context, by access.Actor, id project.ID, dir, ref string, f func(context.Context, *lock) error) error {
	k, err := s.locks.take(ctx, s.repoLock(id), false)
	if err != nil {
		return err
	}
	defer k.release()
	// What has begun to move refs is not left halfway.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moving)
	defer cancel()
	if unclean, err := k.begin(pusher{user: by.User.ID}); err != nil {
		return err
	} else if unclean {
		if err := sweep(dir, oldObjects); err != nil {
			return err
		}
	}
	err = f(ctx, k)
	if terr := s.tell(ctx, id, dir, pusher{user: by.User.ID}, []string{ref}); terr != nil {
		s.later(id)
		return terr
	}
	if err == nil {
		k.end()
	}
	return err
}

// clean checks the change and puts its path into the form of the repository.
func (e *Edit) clean() error {
	var bad project.Invalid
	if !goodRef("refs/heads/" + e.Branch) {
		bad.Add("branch", "format", "is not the name of a branch")
	}
	at, err := cleanPath(e.Path)
	if err != nil || at == "" || !utf8.ValidString(at) {
		bad.Add("path", "format", "is not a path inside the repository")
	}
	e.Path = at
	if len(e.Data) > maxContent {
		bad.Add("content", "maximum", "is larger than 64 MiB")
	}
	bad.Text("message", e.Message, maxMessage)
	switch {
	case e.Message == "" && e.Data == nil:
		e.Message = "Remove " + e.Path
	case e.Message == "":
		e.Message = "Update " + e.Path
	}
	return bad.Err()
}

// base finds the commit that a change stands on, "" for none.
func (s *Sources) base(ctx context.Context, dir string, e Edit) (string, error) {
	refs, err := s.git.tips(ctx, dir)
	if err != nil {
		return "", err
	}
	now, ok := refs["refs/heads/"+e.Branch]
	if ok || len(refs) == 0 {
		return now.hash, nil
	}
	if now, ok = refs["refs/heads/"+headOf(dir)]; !ok || e.Expect != Whatever {
		return "", fmt.Errorf("branch %q: %w", e.Branch, errdefs.ErrNotFound)
	}
	return now.hash, nil
}

// mode looks at what is where a file is to be written, or removed, and gives the
// mode it is to have.
func (s *Sources) mode(ctx context.Context, dir, base string, e Edit) (string, error) {
	mode := "100644"
	var there []listed
	var err error
	if base != "" {
		if there, err = s.lsTree(ctx, dir, base, e.Path, false); err != nil {
			return "", err
		}
	}
	bad := func(what string) error {
		return &project.Invalid{Fields: []project.Field{{Path: "path", Kind: "conflict", Message: what}}}
	}
	switch {
	case len(there) == 1 && there[0].kind != "blob":
		return "", bad(e.Path + " is a folder")
	case len(there) == 1 && e.Expect == NoFile:
		return "", bad(e.Path + " is there already")
	case len(there) == 1 && there[0].mode == "100755":
		mode = "100755"
	case len(there) == 0 && (e.Data == nil || e.Expect == AFile):
		return "", fmt.Errorf("%s on %s: %w", e.Path, e.Branch, errdefs.ErrNotFound)
	}
	// Git would take away a file to make a folder of its name.
	for up := path.Dir(e.Path); base != "" && len(there) == 0 && up != "."; up = path.Dir(up) {
		above, err := s.lsTree(ctx, dir, base, up, false)
		if err != nil {
			return "", err
		}
		if len(above) == 1 && above[0].kind != "tree" {
			return "", bad(up + " is no folder")
		}
		if len(above) == 1 {
			break
		}
	}
	return mode, nil
}

// commitFile makes the commit with one run of fast-import, which also moves the
// branch, if it is still where it was.
func (s *Sources) commitFile(ctx context.Context, k *lock, dir string, u access.User, e Edit) (Commit, error) {
	base, err := s.base(ctx, dir, e)
	if err != nil {
		return Commit{}, err
	}
	mode, err := s.mode(ctx, dir, base, e)
	if err != nil {
		return Commit{}, err
	}
	who, ref := signature(u), "refs/heads/"+e.Branch
	var in bytes.Buffer
	in.Grow(len(e.Data) + len(e.Message) + 2048)
	fmt.Fprintf(&in, "feature done\ncommit %s\nauthor %[2]s\ncommitter %[2]s\ndata %d\n%s\n", ref, who, len(e.Message), e.Message)
	if base != "" {
		fmt.Fprintf(&in, "from %s\n", base)
	}
	if e.Data == nil {
		fmt.Fprintf(&in, "D %s\n", quotePath(e.Path))
	} else {
		fmt.Fprintf(&in, "M %s inline %s\ndata %d\n", mode, quotePath(e.Path), len(e.Data))
		in.Write(e.Data)
		in.WriteByte('\n')
	}
	in.WriteString("done\n")
	c := call{repo: dir, args: []string{"fast-import", "--quiet", "--date-format=raw"}, stdin: &in}
	c.files = append(c.files, k.file)
	if _, err := s.git.run(ctx, c); err != nil {
		return Commit{}, fmt.Errorf("commit %s: %w", e.Path, err)
	}
	crash.At("source: a file is committed")
	made, err := s.commit(ctx, dir, e.Branch, []string{ref})
	if err != nil {
		return Commit{}, err
	}
	return *made, nil
}

// signature is how a commit names its maker.
func signature(u access.User) string {
	clean := func(s string) string {
		s = strings.Map(func(r rune) rune {
			if r < ' ' || r == '<' || r == '>' || r == 0x7f {
				return -1
			}
			return r
		}, s)
		return strings.Trim(s, " .,:;\"'")
	}
	name, mail := clean(u.Name), clean(u.Email)
	if name == "" {
		if name = clean(u.Username); name == "" {
			name = "Slipway"
		}
	}
	if mail == "" {
		if mail = clean(u.Username); mail == "" {
			mail = "slipway"
		}
		mail += "@slipway.local"
	}
	return fmt.Sprintf("%s <%s> %d +0000", name, mail, time.Now().Unix())
}

// quotePath writes a path as fast-import reads it.
func quotePath(p string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(p) {
		switch c := p[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\%03o", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
