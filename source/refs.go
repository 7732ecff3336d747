package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// maxLoose is the number of loose refs above which a look at each of them costs
// more than a process, and maxSeen that of things remembered.
const maxLoose, maxSeen = 256, 1024

// looks is what the last looks at repositories found, so that a run of a commit
// that is known starts no process. Refs count as long as the files that hold
// them are the same; a commit never changes.
type looks struct {
	mu      sync.Mutex
	refs    map[string]refsSeen // by directory
	commits map[string]Commit   // by directory and hash
}

type refsSeen struct {
	stamp string
	tips  map[string]tip
}

// tips gives the branches and tags of a repository. Nobody changes the map.
func (s *Sources) tips(ctx context.Context, dir string) (map[string]tip, error) {
	if tips := s.known(dir); tips != nil {
		return tips, nil
	}
	before := refsStamp(dir)
	tips, err := s.git.tips(ctx, dir)
	if err != nil {
		return nil, err
	}
	if before != "" && before == refsStamp(dir) {
		s.seen.mu.Lock()
		defer s.seen.mu.Unlock()
		if s.seen.refs == nil || len(s.seen.refs) >= maxSeen {
			s.seen.refs = map[string]refsSeen{}
		}
		s.seen.refs[dir] = refsSeen{before, tips}
	}
	return tips, nil
}

// known gives the refs if they are as they were when they were last read.
func (s *Sources) known(dir string) map[string]tip {
	s.seen.mu.Lock()
	r, ok := s.seen.refs[dir]
	s.seen.mu.Unlock()
	if !ok || r.stamp != refsStamp(dir) {
		return nil
	}
	return r.tips
}

// seenCommit gives the commit of the first of some refs that is there, if both
// are known.
func (s *Sources) seenCommit(dir string, names []string) (Commit, bool) {
	if len(names) == 0 || !strings.HasPrefix(names[0], "refs/") {
		return Commit{}, false
	}
	tips := s.known(dir)
	for _, n := range names {
		t, ok := tips[n]
		if !ok && strings.HasPrefix(n, "refs/") {
			continue
		}
		s.seen.mu.Lock()
		defer s.seen.mu.Unlock()
		c, ok := s.seen.commits[dir+" "+t.commit]
		return c, ok
	}
	return Commit{}, false
}

func (s *Sources) sawCommit(dir string, c Commit) {
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	if s.seen.commits == nil || len(s.seen.commits) >= maxSeen {
		s.seen.commits = map[string]Commit{}
	}
	s.seen.commits[dir+" "+c.Revision] = c
}

// refsStamp differs when a ref differs: it holds the loose refs themselves, and
// of the packed ones which file has them, as git replaces that file and never
// writes to it. It is "" when there are too many, or they are kept otherwise.
func refsStamp(dir string) string {
	var b strings.Builder
	st, err := os.Lstat(filepath.Join(dir, "packed-refs"))
	switch {
	case err == nil:
		s, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return ""
		}
		fmt.Fprintf(&b, "%d %d %d %d\n", s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano())
	case !errors.Is(err, fs.ErrNotExist):
		return ""
	}
	n := 0
	for _, sub := range []string{"heads", "tags"} {
		err := filepath.WalkDir(filepath.Join(dir, "refs", sub), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if n++; n > maxLoose {
				return errors.New("too many")
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %s", name[len(dir):], text)
			return nil
		})
		if err != nil {
			return ""
		}
	}
	return b.String()
}
