package source

import (
	"context"
	"fmt"
	"sort"

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
}

// moved says what happened to the refs of a repository between two looks, in
// the order of their names.
func moved(told, have map[string]tip, user int64) []move {
	var list []move
	for ref, now := range have {
		if was, ok := told[ref]; !ok {
			list = append(list, move{Push{Ref: ref, Old: zeros, New: now.commit, User: user}, now})
		} else if was.hash != now.hash {
			list = append(list, move{Push{Ref: ref, Old: was.commit, New: now.commit, User: user}, now})
		}
	}
	for ref, was := range told {
		if _, ok := have[ref]; !ok {
			list = append(list, move{Push{Ref: ref, Old: was.commit, New: zeros, User: user}, tip{}})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].push.Ref < list[j].push.Ref })
	return list
}

// tell writes an event for each ref that moved since the last time, in the
// transaction that remembers it. The caller holds the lock of the repository.
// pushed are the refs that a push named, in its order.
func (s *Sources) tell(ctx context.Context, id project.ID, dir string, user int64, pushed []string) error {
	have, err := s.git.tips(ctx, dir)
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
	list := moved(told, have, user)
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
	err = s.db.Write(ctx, func(tx *db.Tx) error { return writeMoves(tx, id, list) })
	if err != nil {
		return fmt.Errorf("tell the push to project %s: %w", id, err)
	}
	crash.At("source: the push is told")
	return nil
}

func writeMoves(tx *db.Tx, id project.ID, list []move) error {
	p, err := project.Load(tx, id)
	if errdefs.IsNotFound(err) {
		return nil // deleted meanwhile: nobody is left to be told
	}
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := saveTold(tx, id, m); err != nil {
			return err
		}
		e := event.Event{Kind: event.Pushed, Workspace: p.Workspace, Project: string(id), Subject: string(id)}
		if err := event.Write(tx, e, m.push); err != nil {
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
	user, unclean := k.unclean()
	dir := s.repoPath(id)
	if unclean {
		if err := sweep(dir, oldObjects); err != nil {
			return fmt.Errorf("clean up after a killed git in project %s: %w", id, err)
		}
	}
	if err := s.tell(ctx, id, dir, user, nil); err != nil {
		return err
	}
	k.end()
	return nil
}
