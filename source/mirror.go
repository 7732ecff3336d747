package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/project"
)

func (s *Sources) mirrorPath(id project.ID) string {
	return filepath.Join(s.cfg.Dir, "mirrors", string(id)+".git")
}

func (s *Sources) mirrorLock(id project.ID) string {
	return filepath.Join(s.cfg.Dir, "mirrors", string(id)+".lock")
}

// mirror is what a project has of an outside repository: of the one that it is
// linked to, or of one that is a submodule of its commits.
type mirror struct {
	project project.ID
	dir     string // its lock is beside it
}

func (m mirror) lock() string { return strings.TrimSuffix(m.dir, ".git") + ".lock" }

func (s *Sources) mirrorOf(id project.ID) mirror { return mirror{id, s.mirrorPath(id)} }

// drop removes a mirror; the caller holds its lock.
func (s *Sources) drop(m mirror) error {
	dir := m.dir
	if dir == s.mirrorPath(m.project) {
		s.mu.Lock()
		delete(s.refresh, m.project)
		s.mu.Unlock()
	}
	old := dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(old)
}

// seen is what an outside repository shows.
type seen struct {
	refs map[string]string // a tag as the commit it stands for
	head string            // the default branch, "main" if it names none
}

// look lists the refs of an outside repository.
func (s *Sources) look(ctx context.Context, id project.ID, r *Remote, known string) (seen, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listing, fmt.Errorf("%s did not answer within %s: %w", redact(r.URL), listing, errdefs.ErrUnavailable))
	defer cancel()
	c, done, err := s.dialled(ctx, id, r, call{args: []string{"ls-remote", "--symref", "--quiet", "--", r.URL}})
	if err != nil {
		return seen{}, err
	}
	defer done()
	out, err := s.git.run(ctx, c)
	if err != nil {
		return seen{}, outside(r, err)
	}
	v := parseLsRemote(string(out))
	if v.head != known && len(v.refs) > 0 {
		if err := s.saveBranch(ctx, id, r.URL, v.head); err != nil {
			return v, fmt.Errorf("remember the default branch: %w", err)
		}
	}
	return v, nil
}

func parseLsRemote(out string) seen {
	v := seen{refs: map[string]string{}, head: "main"}
	for line := range strings.Lines(out) {
		left, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if target, ok := strings.CutPrefix(left, "ref: refs/heads/"); ok {
			if name == "HEAD" && goodRef("refs/heads/"+target) {
				v.head = target
			}
			continue
		}
		name, peeled := strings.CutSuffix(name, "^{}")
		if !isHash(left) || !goodRef(name) || !strings.HasPrefix(name, "refs/heads/") && !strings.HasPrefix(name, "refs/tags/") {
			continue
		}
		if _, there := v.refs[name]; !there || peeled {
			v.refs[name] = left
		}
	}
	return v
}

// outside gives an error of git with an outside repository its kind and names
// who said it.
func outside(r *Remote, err error) error {
	var g *gitError
	if !errors.As(err, &g) {
		return err
	}
	where := redact(r.URL)
	who := ""
	if r.Username != "" && !r.bare() {
		who = " of " + r.Username
	}
	kind := errdefs.ErrUnavailable
	why := g.text
	switch {
	case refusedLogin.MatchString(g.text):
		if r.Password == "" && !r.bare() && len(r.PrivateKey) == 0 {
			return fmt.Errorf("%s wants a login, or there is no such repository (%s): %w", where, why, errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("%s refuses the login%s (%s): %w", where, who, why, errdefs.ErrFailedPrecondition)
	case tooLarge.MatchString(g.text):
		return fmt.Errorf("%s sends more at once than this server takes: %w", where, errdefs.ErrFailedPrecondition)
	case redirected.MatchString(g.text):
		return fmt.Errorf("%s leads on to another address (%s): give that one: %w", where, why, errdefs.ErrFailedPrecondition)
	case noRepository.MatchString(g.text):
		return fmt.Errorf("%s is no repository (%s): %w", where, why, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%s: %s: %w", where, why, kind)
}

var (
	refusedLogin = regexp.MustCompile(`(?i)authentication failed|could not read (username|password)|error: 40[13]|access denied|permission denied|invalid (username|credentials)|terminal prompts disabled`)
	tooLarge     = regexp.MustCompile(`File too large`) // call.most
	redirected   = regexp.MustCompile(`(?i)error: 30[1278]|redirect`)
	noRepository = regexp.MustCompile(`(?i)repository.*not found|error: 404|does not appear to be a git repository|not valid: is this a git repository`)
	notServed    = regexp.MustCompile(`(?i)not our ref|unadvertised object|couldn't find remote ref|does not allow request|no such remote ref|remote error: upload-pack: not our ref`)
	dumb         = regexp.MustCompile(`(?i)dumb http transport does not support|does not support shallow|does not support --depth`)
)

// network tells errors for which the mirror cannot be blamed.
func network(err error) bool {
	var g *gitError
	if !errors.As(err, &g) {
		return true
	}
	return refusedLogin.MatchString(g.text) || tooLarge.MatchString(g.text) || redirected.MatchString(g.text) || noRepository.MatchString(g.text) ||
		notServed.MatchString(g.text) || dumb.MatchString(g.text) ||
		regexp.MustCompile(`(?i)could not resolve|failed to connect|connection (refused|reset|timed out)|timed out|unable to access|host key verification|ssl|certificate|no route`).MatchString(g.text)
}

// fetch brings a commit with so much history (0: all of it) into the mirror and
// gives its path. ref is where it may be found if the other side gives no bare
// commits. What is there already costs one look.
func (s *Sources) fetch(ctx context.Context, id project.ID, r *Remote, hash, ref string, depth int) (string, error) {
	return s.fetchInto(ctx, s.mirrorOf(id), r, func() error { return s.still(ctx, id, r) }, hash, ref, depth)
}

// fetchInto is fetch for any mirror; may is asked before anything is.
func (s *Sources) fetchInto(ctx context.Context, m mirror, r *Remote, may func() error, hash, ref string, depth int) (string, error) {
	dir := m.dir
	if s.enough(ctx, dir, hash, depth) {
		return dir, nil
	}
	k, err := s.locks.take(ctx, m.lock(), false)
	if err != nil {
		return "", err
	}
	defer k.release()
	if s.enough(ctx, dir, hash, depth) {
		return dir, nil // another one fetched it
	}
	if err := may(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetching, fmt.Errorf("%s took more than %s: %w", redact(r.URL), fetching, errdefs.ErrUnavailable))
	defer cancel()
	for again := false; ; again = true {
		err = s.fetchOnce(ctx, m, r, k, hash, ref, depth)
		if err == nil || again || context.Cause(ctx) != nil || network(err) {
			break
		}
		// A mirror is a cache: what is wrong with it is not worth knowing.
		slog.Warn("mirror is made anew", "room", "source", "project", string(m.project), "error", err)
		if err := s.drop(m); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", outside(r, err)
	}
	return dir, nil
}

// still fails if a project was linked to something else while its mirror was
// waited for: that one's must have nothing of this one in it.
func (s *Sources) still(ctx context.Context, id project.ID, r *Remote) error {
	now, _, err := s.loadRemote(ctx, id)
	if err == nil && (now == nil || now.URL != r.URL) {
		err = fmt.Errorf("the project was linked to something else than %s meanwhile: %w", redact(r.URL), errdefs.ErrAborted)
	}
	return err
}

func (s *Sources) fetchOnce(ctx context.Context, m mirror, r *Remote, k *lock, hash, ref string, depth int) error {
	dir, err := s.openMirror(m, k)
	if err != nil {
		return err
	}
	keep := "refs/slipway/" + hash
	err = s.fetchSpec(ctx, m.project, r, k, dir, depth, "+"+hash+":"+keep)
	for _, more := range []int{max(50, depth), max(500, depth), 0} {
		var g *gitError
		if err == nil || !errors.As(err, &g) || !notServed.MatchString(g.text) {
			break
		}
		specs := []string{"+refs/heads/*:refs/slipway/heads/*", "+refs/tags/*:refs/slipway/tags/*"}
		if ref != "" && more != 0 {
			specs = []string{"+" + ref + ":refs/slipway/found"}
		}
		if ferr := s.fetchSpec(ctx, m.project, r, k, dir, more, specs...); ferr != nil {
			if errors.As(ferr, &g) && notServed.MatchString(g.text) {
				continue
			}
			return ferr
		}
		if _, miss := s.git.run(ctx, call{repo: dir, args: []string{"update-ref", keep, hash}}); miss == nil {
			err = nil
		}
	}
	var g *gitError
	if errors.As(err, &g) && notServed.MatchString(g.text) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s has no commit %s", redact(r.URL), hash))
	}
	if err != nil {
		return err
	}
	k.end()
	crash.At("source: a fetch has ended")
	if !s.has(ctx, dir, hash) {
		return &gitError{"fetch", 0, "the commit is missing after the fetch"}
	}
	return nil
}

// openMirror makes the mirror or mends what a killed git left in it.
func (s *Sources) openMirror(m mirror, k *lock) (string, error) {
	dir := m.dir
	unclean, err := k.begin(pusher{})
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		return dir, makeBare(dir)
	}
	if unclean {
		// Nobody else writes here, so all that is half done is dead.
		if err := sweep(dir, 0); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// fetchSpec runs git fetch.
func (s *Sources) fetchSpec(ctx context.Context, id project.ID, r *Remote, k *lock, dir string, depth int, specs ...string) error {
	shallow := false
	if _, err := os.Lstat(filepath.Join(dir, "shallow")); err == nil {
		shallow = true
	}
	for {
		args := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--force", "--update-shallow"}
		switch {
		case depth > 0:
			args = append(args, "--depth="+strconv.Itoa(depth))
		case shallow:
			args = append(args, "--depth=2147483647") // all of it, also if the other side is shallow
		}
		c, done, err := s.dialled(ctx, id, r, call{
			repo: dir, args: append(append(args, "--", r.URL), specs...), nosync: true, files: []*os.File{k.file}, most: s.cfg.MaxPush,
			config: []string{"fetch.fsckObjects=false"},
		})
		if err != nil {
			return err
		}
		_, err = s.git.run(ctx, c)
		done()
		var g *gitError
		if errors.As(err, &g) && tooLarge.MatchString(g.text) {
			return errors.Join(err, sweep(dir, 0)) // nobody else writes here
		}
		if depth > 0 && errors.As(err, &g) && dumb.MatchString(g.text) {
			depth, shallow = 0, false
			continue
		}
		return err
	}
}

// has tells whether a repository holds a commit with its tree.
func (s *Sources) has(ctx context.Context, dir, hash string) bool {
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil {
		return false
	}
	list, err := s.git.objects(ctx, dir, maxCommit, hash+"^{commit}")
	return err == nil && len(list) == 1 && list[0].kind == "commit"
}

// enough tells whether the mirror holds a commit with so much history.
func (s *Sources) enough(ctx context.Context, dir, hash string, depth int) bool {
	if !s.has(ctx, dir, hash) {
		return false
	}
	cut := shallows(dir)
	if depth == 1 || len(cut) == 0 {
		return true
	}
	args := []string{"rev-list", "--first-parent"}
	if depth > 0 {
		args = append(args, "--max-count="+strconv.Itoa(depth))
	}
	out, err := s.git.run(ctx, call{repo: dir, args: append(args, hash)})
	if err != nil {
		return false
	}
	list := strings.Fields(string(out))
	if depth > 0 && len(list) == depth {
		return true
	}
	return len(list) > 0 && !cut[list[len(list)-1]]
}

// shallows are the commits at which a repository was cut off.
func shallows(dir string) map[string]bool {
	b, err := os.ReadFile(filepath.Join(dir, "shallow"))
	if err != nil {
		return nil
	}
	m := map[string]bool{}
	for _, h := range strings.Fields(string(b)) {
		m[h] = true
	}
	return m
}

// wholeMirror is the mirror with all branches and tags as they are outside, for
// who clones from us. It asks the other side at most every ten seconds.
func (s *Sources) wholeMirror(ctx context.Context, id project.ID, r *Remote, fresh bool) (string, error) {
	dir := s.mirrorPath(id)
	recent := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		at, ok := s.refresh[id]
		return ok && (!fresh || time.Since(at) < 10*time.Second)
	}
	if recent() {
		return dir, nil
	}
	v, err := s.look(ctx, id, r, "")
	if err != nil {
		return "", err
	}
	k, err := s.locks.take(ctx, s.mirrorLock(id), false)
	if err != nil {
		return "", err
	}
	defer k.release()
	if recent() {
		return dir, nil
	}
	if err := s.still(ctx, id, r); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetching, fmt.Errorf("%s took more than %s: %w", redact(r.URL), fetching, errdefs.ErrUnavailable))
	defer cancel()
	for again := false; ; again = true {
		if _, err = s.openMirror(s.mirrorOf(id), k); err != nil {
			return "", err
		}
		if len(v.refs) > 0 {
			err = s.fetchSpec(ctx, id, r, k, dir, 0, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
		}
		if err == nil || again || context.Cause(ctx) != nil || network(err) {
			break
		}
		if err := s.drop(s.mirrorOf(id)); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", outside(r, err)
	}
	if err := s.prune(ctx, dir, v); err != nil {
		return "", err
	}
	k.end()
	s.mu.Lock()
	s.refresh[id] = time.Now()
	s.mu.Unlock()
	return dir, nil
}

// prune takes away branches and tags that are gone outside, and names the
// default branch.
func (s *Sources) prune(ctx context.Context, dir string, v seen) error {
	have, err := s.git.tips(ctx, dir)
	if err != nil {
		return err
	}
	var gone strings.Builder
	for ref := range have {
		if _, ok := v.refs[ref]; !ok {
			fmt.Fprintf(&gone, "delete %s\n", ref)
		}
	}
	if gone.Len() > 0 {
		if _, err := s.git.run(ctx, call{repo: dir, args: []string{"update-ref", "--stdin"}, stdin: strings.NewReader(gone.String()), nosync: true}); err != nil {
			return err
		}
	}
	tmp := filepath.Join(dir, ".HEAD")
	if err := os.WriteFile(tmp, []byte("ref: refs/heads/"+v.head+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "HEAD"))
}
