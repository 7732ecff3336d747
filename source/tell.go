package source

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/event"
	"slipway/project"
)

// move is one ref that moved.
type move struct {
	push Push
	now  tip
	base string // of a pull request, as the push said it
}

// moved says what happened to the refs of a repository between two looks, in
// the order of their names.
func moved(told, have map[string]tip, by pusher) []move {
	var list []move
	for ref, now := range have {
		if was, ok := told[ref]; !ok {
			list = append(list, move{Push{Ref: ref, Old: zeros, New: now.commit, User: by.user}, now, by.base})
		} else if was.hash != now.hash {
			list = append(list, move{Push{Ref: ref, Old: was.commit, New: now.commit, User: by.user}, now, by.base})
		}
	}
	for ref, was := range told {
		if _, ok := have[ref]; !ok {
			list = append(list, move{Push{Ref: ref, Old: was.commit, New: zeros, User: by.user}, tip{}, by.base})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].push.Ref < list[j].push.Ref })
	return list
}

// tell writes an event for each ref that moved since the last time, in the
// transaction that remembers it. The caller holds the lock of the repository.
// pushed are the refs that a push named, in its order.
func (s *Sources) tell(ctx context.Context, id project.ID, dir string, by pusher, pushed []string) error {
	have, err := s.git.tips(ctx, dir, heads, "refs/tags", pulls)
	if err != nil {
		return fmt.Errorf("read the refs of project %s: %w", id, err)
	}
	var told map[string]tip
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		var err error
		told, err = loadTold(tx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the told refs of project %s: %w", id, err)
	}
	list := moved(told, have, by)
	if len(list) == 0 {
		return nil
	}
	names := make([]string, len(list))
	for i, m := range list {
		names[i] = m.push.Ref
	}
	if err := follow(dir, have, pushed); err != nil {
		return fmt.Errorf("default branch of project %s: %w", id, err)
	}
	if err := syncRefs(dir, names); err != nil {
		return fmt.Errorf("sync the refs of project %s: %w", id, err)
	}
	crash.At("source: refs have moved")
	err = s.db.Write(ctx, func(tx *db.Tx) error { return writeMoves(tx, id, list, look{have, headOf(dir)}) })
	if err != nil {
		return fmt.Errorf("tell the push to project %s: %w", id, err)
	}
	crash.At("source: the push is told")
	return nil
}

// look is what a repository has.
type look struct {
	refs map[string]tip
	head string // the default branch
}

func writeMoves(tx *db.Tx, id project.ID, list []move, now look) error {
	p, err := project.Load(tx, id)
	if errdefs.IsNotFound(err) {
		return nil // deleted meanwhile: nobody is left to be told
	}
	if err != nil {
		return err
	}
	for _, m := range list {
		e := event.Event{Kind: event.Pushed, Workspace: p.Workspace, Project: string(id), Subject: string(id)}
		data := any(m.push)
		if strings.HasPrefix(m.push.Ref, pulls) {
			pull, ok, err := now.pull(tx, id, &m)
			if err != nil {
				return err
			}
			if data, e.Kind = pull, event.PullPushed; !ok {
				data = nil
			}
		}
		if err := saveTold(tx, id, m); err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if err := event.Write(tx, e, data); err != nil {
			return err
		}
	}
	return nil
}

// later leaves a failed telling to Run.
func (s *Sources) later(id project.ID) {
	s.mu.Lock()
	s.untold[id] = true
	s.mu.Unlock()
	s.nudge()
}

// catchUp compares one repository with what was told of it, and mends what a
// killed server or git left.
func (s *Sources) catchUp(ctx context.Context, id project.ID) error {
	k, err := s.locks.take(ctx, s.repoLock(id), false)
	if err != nil {
		return err
	}
	defer k.release()
	by, unclean := k.unclean()
	dir := s.repoPath(id)
	if unclean {
		if err := sweep(dir, oldObjects); err != nil {
			return fmt.Errorf("clean up after a killed git in project %s: %w", id, err)
		}
	}
	if err := s.tell(ctx, id, dir, by, nil); err != nil {
		return err
	}
	k.end()
	return nil
}
