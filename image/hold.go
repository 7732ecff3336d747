package image

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
)

// Topic is what db.Watch is told when holds have to be made or ended.
const Topic = "image_holds"

// prefix is that of all our holds in the engine.
const prefix = "image/"

// Times of the loop and of what it drops.
const (
	fullEvery  = 10 * time.Minute
	flushEvery = 2 * time.Second
	retryAfter = time.Second
	looseFor   = 7 * 24 * time.Hour  // an untagged manifest, an empty repository
	unusedFor  = 30 * 24 * time.Hour // a pulled name that nobody asked for
	uploadFor  = 24 * time.Hour      // as the engine keeps them
	blobFor    = 48 * time.Hour      // an uploaded blob without a manifest
	resolveFor = 24 * time.Hour      // what Resolve gave
)

func manifestHold(repo int64, digest string) string {
	return prefix + "repo/" + strconv.FormatInt(repo, 10) + "/" + digest
}

func outsideHold(id int64) string { return prefix + "outside/" + strconv.FormatInt(id, 10) }

func keepHold(id string) string { return prefix + "keep/" + id }

// Keep holds an image in the name of something else ("revision/<id>",
// "execution/<id>/<action>") in the caller's transaction, until the time, the
// zero time being for ever, or until it is dropped. Keeping again under the
// same id moves it. Resolve, Build and PutManifest hold it long enough for the
// transaction to be in time; Settle says when it is held in its own name.
func Keep(tx *db.Tx, id, digest string, until time.Time) error {
	return want(tx, keepHold(id), digest, until)
}

// Drop ends a Keep. It is no error if there is none.
func Drop(tx *db.Tx, id string) error { return drop(tx, keepHold(id)) }

// want has a hold made after the transaction.
func want(tx *db.Tx, id, digest string, until time.Time) error {
	return writeHold(tx, id, digest, until, "wanted")
}

// held notes a hold that was made before the transaction.
func held(tx *db.Tx, id, digest string, until time.Time) error {
	return writeHold(tx, id, digest, until, "held")
}

func writeHold(tx *db.Tx, id, digest string, until time.Time, state string) error {
	if digest == "" {
		return fmt.Errorf("hold %s: no digest: %w", id, errdefs.ErrInvalidArgument)
	}
	_, err := tx.Exec(`INSERT INTO image_holds (id, digest, until, state, created) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET until = excluded.until,
			state = CASE WHEN image_holds.digest = excluded.digest AND image_holds.state = 'held' THEN 'held' ELSE excluded.state END,
			digest = excluded.digest`, id, digest, db.Micros(until), state, db.Micros(tx.Now))
	if err != nil {
		return fmt.Errorf("hold %s: %w", id, err)
	}
	tx.Wake(Topic)
	return nil
}

func drop(tx *db.Tx, id string) error {
	if _, err := tx.Exec(`UPDATE image_holds SET state = 'dropped' WHERE id = ?`, id); err != nil {
		return fmt.Errorf("drop hold %s: %w", id, err)
	}
	tx.Wake(Topic)
	return nil
}

// holding makes a hold and then the transaction that writes its row with held.
// A kill between the two leaves a hold that the full look releases.
func (i *Images) holding(ctx context.Context, f func(hold func(id, digest string) error) error) error {
	i.making.RLock()
	defer i.making.RUnlock()
	return f(func(id, digest string) error {
		if err := i.store.Hold(ctx, id, digest); err != nil {
			return fmt.Errorf("hold image %s: %w", digest, err)
		}
		crash.At("image: held before its row")
		return nil
	})
}

// Run keeps the holds of the store true to the rows (tags, and what other
// rooms hold by Keep) until ctx ends.
func (i *Images) Run(ctx context.Context) error {
	wake, stop := i.db.Watch(Topic)
	defer stop()
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	var full time.Time
	retry := time.NewTimer(0) // the first look is a full one
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return i.flushPulls(context.WithoutCancel(ctx))
		case <-wake:
		case <-retry.C:
		case <-flush.C:
			if err := i.flushPulls(ctx); err != nil && ctx.Err() == nil {
				slog.Error("pulls are not counted", "room", "image", "error", err)
			}
			if time.Since(full) < fullEvery {
				continue
			}
		}
		var err error
		if time.Since(full) >= fullEvery {
			if err = i.look(ctx); err == nil {
				full = time.Now()
			}
		} else {
			err = i.Settle(ctx)
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("holds of images", "room", "image", "error", err)
			retry.Reset(retryAfter)
		}
	}
}

type hold struct{ id, digest, state string }

// Settle makes every hold that a committed transaction asked for, and ends
// those it dropped. When it has returned without an error, what was kept before
// the call is held in its own name.
func (i *Images) Settle(ctx context.Context) error {
	open, err := i.openHolds(ctx, `state IN ('wanted', 'dropped')`)
	if err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	var errs error
	for _, h := range open {
		if err := i.settle(ctx, h); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

func (i *Images) openHolds(ctx context.Context, where string, args ...any) (list []hold, err error) {
	err = i.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = db.List(tx, func(scan db.Scan) (h hold, err error) {
			err = scan(&h.id, &h.digest, &h.state)
			return h, err
		}, `SELECT id, digest, state FROM image_holds WHERE `+where+` ORDER BY created, id`, args...)
		return err
	})
	return list, err
}

func (i *Images) settle(ctx context.Context, h hold) error {
	if h.state == "dropped" {
		return i.release(ctx, h.id)
	}
	next := "held"
	err := i.store.Hold(ctx, h.id, h.digest)
	if errdefs.IsNotFound(err) {
		next = "lost"
		slog.Warn("an image is gone from the store", "room", "image", "hold", h.id, "digest", h.digest)
	} else if err != nil {
		return fmt.Errorf("hold %s: %w", h.id, err)
	}
	crash.At("image: hold made")
	return i.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE image_holds SET state = ? WHERE id = ? AND digest = ? AND state = 'wanted'`, next, h.id, h.digest)
		return err
	})
}

// release ends a hold whose row is dropped, unless it was wanted again.
func (i *Images) release(ctx context.Context, id string) error {
	i.making.Lock()
	defer i.making.Unlock()
	again, err := i.openHolds(ctx, `id = ? AND state = 'dropped'`, id)
	if err != nil || len(again) == 0 {
		return err
	}
	if err := i.store.Release(ctx, id); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	crash.At("image: hold released")
	// a row that was wanted again while we released is not dropped any more,
	// stays, and has its hold made anew
	return i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`DELETE FROM image_holds WHERE id = ? AND state = 'dropped'`, id); err != nil {
			return err
		}
		n, err := tx.Exec(`UPDATE image_holds SET state = 'wanted' WHERE id = ? AND state = 'held'`, id)
		if n > 0 {
			tx.Wake(Topic)
		}
		return err
	})
}

// look is the full comparison of rows and holds, and drops what is over.
func (i *Images) look(ctx context.Context) error {
	if err := i.expire(ctx); err != nil {
		return fmt.Errorf("expire images: %w", err)
	}
	if err := i.expandAll(ctx); err != nil {
		return fmt.Errorf("expand images: %w", err)
	}
	if err := i.compare(ctx); err != nil {
		return fmt.Errorf("compare holds: %w", err)
	}
	return i.Settle(ctx)
}

// compare makes rows without a hold wanted and releases holds without a row.
func (i *Images) compare(ctx context.Context) error {
	i.making.Lock()
	defer i.making.Unlock()
	have, err := i.store.Holds(ctx, prefix)
	if err != nil {
		return err
	}
	rows, err := i.openHolds(ctx, `1 = 1`)
	if err != nil {
		return err
	}
	var redo []hold
	for _, h := range rows {
		if got, ok := have[h.id]; h.state != "dropped" && (!ok || got != h.digest) {
			redo = append(redo, h)
		}
		delete(have, h.id)
	}
	for id := range have {
		if err := i.store.Release(ctx, id); err != nil {
			return err
		}
	}
	if len(redo) == 0 {
		return nil
	}
	return i.db.Write(ctx, func(tx *db.Tx) error {
		for _, h := range redo {
			if _, err := tx.Exec(`UPDATE image_holds SET state = 'wanted' WHERE id = ? AND state <> 'dropped'`, h.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// expire drops what is over: uploads and blobs that nobody finished, untagged
// manifests, pulled names that nobody uses, Keeps whose time has come, and
// repositories in which nothing has been for long. The tags of a project's executions go
// with its row, which is kept as long after the project was deleted as a
// manifest without a tag: out of reach until then.
func (i *Images) expire(ctx context.Context) error {
	var dead []string
	err := i.db.Write(ctx, func(tx *db.Tx) (err error) {
		before := func(d time.Duration) any { return db.Micros(tx.Now.Add(-d)) }
		if dead, err = db.Column[string](tx, `SELECT repository || '/' || id FROM image_uploads WHERE created < ?`, before(uploadFor)); err != nil {
			return err
		}
		for _, q := range []struct {
			sql string
			arg any
		}{
			{`DELETE FROM image_uploads WHERE created < ?`, before(uploadFor)},
			{`DELETE FROM image_blobs WHERE created < ?`, before(blobFor)},
			{`UPDATE image_holds SET state = 'dropped' WHERE until <= ?`, db.Micros(tx.Now)},
		} {
			if _, err := tx.Exec(q.sql, q.arg); err != nil {
				return err
			}
		}
		if err := expireOutside(tx, before(unusedFor)); err != nil {
			return err
		}
		if err := expireManifests(tx, before(looseFor)); err != nil {
			return err
		}
		// Without this a later one of the name would be public, say, as that one was.
		_, err = tx.Exec(`DELETE FROM image_repositories AS r WHERE MAX(COALESCE(pushed, created), COALESCE(emptied, 0)) < ?
			AND NOT EXISTS (SELECT 1 FROM image_manifests m WHERE m.repository = r.id)
			AND NOT EXISTS (SELECT 1 FROM image_blobs b WHERE b.repository = r.id)
			AND NOT EXISTS (SELECT 1 FROM image_uploads u WHERE u.repository = r.id)`, before(looseFor))
		return err
	})
	for _, ref := range dead {
		err = errors.Join(err, i.blobs.Abort(ctx, uploadPrefix+ref))
	}
	return err
}

func expireOutside(tx *db.Tx, before any) error {
	ids, err := db.Column[int64](tx, `SELECT id FROM image_outside WHERE source = 'pulled' AND used < ?`, before)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := removeOutside(tx, id); err != nil {
			return err
		}
	}
	return nil
}

// expireManifests removes manifests that have had no tag for long, are no part
// of an index and are not about a manifest that is there.
func expireManifests(tx *db.Tx, before any) error {
	type key struct {
		repo   int64
		digest string
	}
	list, err := db.List(tx, func(scan db.Scan) (k key, err error) { err = scan(&k.repo, &k.digest); return k, err },
		`SELECT m.repository, m.digest FROM image_manifests m WHERE m.touched < ?
		AND NOT EXISTS (SELECT 1 FROM image_tags t WHERE t.repository = m.repository AND t.digest = m.digest)
		AND NOT EXISTS (SELECT 1 FROM image_links l WHERE l.repository = m.repository AND l.blob = m.digest)
		AND NOT EXISTS (SELECT 1 FROM image_manifests s WHERE s.repository = m.repository AND s.digest = m.subject)`, before)
	if err != nil {
		return err
	}
	for _, k := range list {
		if err := removeManifest(tx, k.repo, k.digest); err != nil {
			return err
		}
	}
	return nil
}

// flushPulls writes the counted pulls.
func (i *Images) flushPulls(ctx context.Context) error {
	i.counting.Lock()
	todo := i.pulls
	i.pulls = map[int64]pulled{}
	i.counting.Unlock()
	if len(todo) == 0 {
		return nil
	}
	err := i.db.Write(ctx, func(tx *db.Tx) error {
		for id, p := range todo {
			_, err := tx.Exec(`UPDATE image_repositories SET pulls = pulls + ?, pulled = ? WHERE id = ?`, p.n, db.Micros(p.last), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for id, p := range todo {
			i.countPull(id, p.n, p.last)
		}
	}
	return err
}

func (i *Images) countPull(repo, n int64, at time.Time) {
	i.counting.Lock()
	defer i.counting.Unlock()
	p := i.pulls[repo]
	p.n += n
	if at.After(p.last) {
		p.last = at
	}
	i.pulls[repo] = p
}

// nullable reads a column that may be NULL as a time.
func nullable(v sql.NullInt64) time.Time { return db.Time(v) }
