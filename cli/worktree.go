package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// worktree is somebody's checkout as it lies on disk, made a commit: changed, new
// and deleted files, but not what git ignores. The index that it is made with and
// the objects that are new lie in a folder of their own, so that index, refs and
// objects of the checkout stay as they are.
type worktree struct {
	top     string // its root
	tmp     string
	env     []string
	commit  string
	about   string   // what it is, for people
	modules []string // submodules in it
}

// localRef is what the server calls a working tree that is pushed.
const localRef = "refs/slipway/local"

// takeTree makes the commit of the checkout that dir lies in. close removes what it
// needed.
func takeTree(ctx context.Context, dir string) (_ *worktree, err error) {
	t := &worktree{top: dir}
	out, err := t.git(ctx, nil, "rev-parse", "--show-toplevel", "--show-object-format")
	if err != nil {
		return nil, fmt.Errorf("%s is in no checkout of git: %w", dir, err)
	}
	top, format, _ := strings.Cut(strings.TrimSuffix(out, "\n"), "\n")
	if format != "sha1" {
		return nil, fmt.Errorf("%s has objects of the format %s: the server's are sha1", top, format)
	}
	t.top = top
	if t.tmp, err = os.MkdirTemp("", "slipway-tree-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if err := t.aside(ctx); err != nil {
		return nil, err
	}
	if _, err := t.git(ctx, nil, "add", "--all"); err != nil {
		return nil, fmt.Errorf("read the working tree: %w", err)
	}
	return t, t.seal(ctx)
}

func (t *worktree) close() { _ = os.RemoveAll(t.tmp) }

// aside makes a copy of the index, which knows what is unchanged, and a place for
// objects that finds the others in the checkout.
func (t *worktree) aside(ctx context.Context) error {
	out, err := t.git(ctx, nil, "rev-parse", "--git-path", "index", "--git-path", "objects")
	if err != nil {
		return err
	}
	index, objects, _ := strings.Cut(strings.TrimSuffix(out, "\n"), "\n")
	for _, p := range []*string{&index, &objects} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(t.top, *p)
		}
	}
	store := filepath.Join(t.tmp, "objects")
	if err := os.MkdirAll(filepath.Join(store, "info"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(store, "info", "alternates"), []byte(objects+"\n"), 0o600); err != nil {
		return err
	}
	b, err := os.ReadFile(index)
	if err == nil {
		err = os.WriteFile(filepath.Join(t.tmp, "index"), b, 0o600)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // nothing was ever added
	}
	t.env = []string{"GIT_INDEX_FILE=" + filepath.Join(t.tmp, "index"), "GIT_OBJECT_DIRECTORY=" + store}
	return err
}

// seal makes the commit of what is in the index.
func (t *worktree) seal(ctx context.Context) error {
	staged, err := t.git(ctx, nil, "ls-files", "--stage", "-z")
	if err != nil {
		return err
	}
	for _, e := range strings.Split(staged, "\x00") {
		if about, name, ok := strings.Cut(e, "\t"); ok && strings.HasPrefix(about, "160000 ") {
			t.modules = append(t.modules, name)
		}
	}
	tree, err := t.git(ctx, nil, "write-tree")
	if err != nil {
		return err
	}
	tree = strings.TrimSpace(tree)
	args := []string{"commit-tree", tree, "-F", "-"}
	head, err := t.git(ctx, nil, "rev-parse", "--quiet", "--verify", "HEAD^{commit}")
	if head = strings.TrimSpace(head); err == nil {
		args = append(args, "-p", head)
	} else if head, err = t.git(ctx, strings.NewReader(""), "hash-object", "-t", "tree", "-w", "--stdin"); err != nil {
		return err
	}
	if t.about, err = t.describe(ctx, strings.TrimSpace(head), len(args) > 4); err != nil {
		return err
	}
	if _, err := t.git(ctx, nil, "var", "GIT_COMMITTER_IDENT"); err != nil { // nobody told git who this is
		for _, who := range []string{"AUTHOR", "COMMITTER"} {
			t.env = append(t.env, "GIT_"+who+"_NAME=Slipway", "GIT_"+who+"_EMAIL=local@slipway.local")
		}
	}
	out, err := t.git(ctx, strings.NewReader(t.about+"\n"), args...)
	t.commit = strings.TrimSpace(out)
	return err
}

// describe says what the tree is, and how many files are another than in HEAD, or
// than in an empty tree.
func (t *worktree) describe(ctx context.Context, head string, born bool) (string, error) {
	out, err := t.git(ctx, nil, "diff-index", "--cached", "--name-status", "--no-renames", "-z", head)
	if err != nil {
		return "", err
	}
	count := map[string]int{}
	words := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	for i := 0; i+1 < len(words); i += 2 {
		switch words[i] {
		case "A":
			count["new"]++
		case "D":
			count["deleted"]++
		default:
			count["changed"]++
		}
	}
	about := "Working tree"
	if branch, err := t.git(ctx, nil, "symbolic-ref", "--quiet", "--short", "HEAD"); err == nil {
		about += " of " + strings.TrimSpace(branch)
	}
	if born {
		about += " at " + head[:min(7, len(head))]
	}
	var parts []string
	for _, what := range []string{"changed", "new", "deleted"} {
		if n := count[what]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	if len(parts) == 0 {
		return about + ", nothing changed", nil
	}
	return about + " with " + strings.Join(parts, ", "), nil
}

// has tells whether a file, by its path from the root, is in the tree.
func (t *worktree) has(ctx context.Context, name string) bool {
	_, err := t.git(ctx, nil, "--literal-pathspecs", "ls-files", "--error-unmatch", "--", name)
	return err == nil
}

// push sends the tree to a project of the server: of its objects those that are
// not there yet.
func (t *worktree) push(ctx context.Context, c *Client, project string, progress io.Writer) error {
	to := c.URL + "/git/" + project + ".git/local/" + t.commit
	extra := "http." + c.URL + "/git/.extraHeader" // its own, so that no other setting is nearer
	send := *t
	// The token goes by the environment, never by an argument.
	send.env = append(append([]string{}, t.env...), "GIT_TERMINAL_PROMPT=0", "\x00"+extra+"=", "\x00"+extra+"=Authorization: Bearer "+c.Token,
		"\x00credential.helper=", "\x00http.followRedirects=false")
	args := []string{"push", "--no-verify", "--no-follow-tags", "--no-signed", "--recurse-submodules=no"}
	if progress != nil {
		args = append(args, "--progress")
	} else {
		args = append(args, "--quiet")
	}
	cmd := send.command(ctx, append(args, to, t.commit+":"+localRef)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	if progress != nil {
		cmd.Stderr = io.MultiWriter(&said, progress)
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("push the working tree: %w", gitSaid(ctx, err, said.String()))
	}
	return nil
}

// remotes are the addresses that the checkout fetches from and pushes to.
func (t *worktree) remotes(ctx context.Context) []string {
	out, err := t.git(ctx, nil, "config", "--get-regexp", `^remote\..*\.(url|pushurl)$`)
	if err != nil {
		return nil
	}
	var l []string
	for line := range strings.Lines(out) {
		if _, u, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			l = append(l, u)
		}
	}
	return l
}

// git runs git in the checkout and gives what it wrote.
func (t *worktree) git(ctx context.Context, in io.Reader, args ...string) (string, error) {
	cmd := t.command(ctx, args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &said
	if err := cmd.Run(); err != nil {
		return "", gitSaid(ctx, err, said.String())
	}
	return out.String(), nil
}

// command is a run of git as its user's, but without hooks. Settings in env that
// begin with a NUL are git's.
func (t *worktree) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", t.top}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0")
	n, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT"))
	for _, e := range append([]string{"\x00core.hooksPath=/dev/null", "\x00core.safecrlf=false", "\x00core.quotePath=false"}, t.env...) {
		setting, ok := strings.CutPrefix(e, "\x00")
		if !ok {
			cmd.Env = append(cmd.Env, e)
			continue
		}
		key, value, _ := strings.Cut(setting, "=")
		cmd.Env = append(cmd.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, value))
		n++
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT="+strconv.Itoa(n))
	return cmd
}

// gitSaid is an error of git in its own words.
func gitSaid(ctx context.Context, err error, said string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("the program git is needed, and is not installed")
	}
	var l []string
	for line := range strings.Lines(said) {
		if i := strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r'); i >= 0 {
			line = line[i+1:]
		}
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "hint:") && !strings.HasPrefix(line, "warning:") {
			l = append(l, line)
		}
	}
	if len(l) == 0 {
		return err
	}
	return errors.New(strings.Join(l[max(0, len(l)-4):], "; "))
}
