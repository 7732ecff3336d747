package pipeline

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/project"
)

// Hook is a URL that starts a pipeline.
type Hook struct {
	Pipeline ID
	Name     string // of the pipeline
	URL      string // who knows it may start the pipeline
}

// hooked tells whether a pipeline is started by a URL.
func (p Pipeline) hooked() bool {
	if p.On == "CLICK" {
		return false
	}
	for _, e := range p.Events {
		if e.Type == EventWebhook && !e.TOTP {
			return true
		}
	}
	return false
}

// armHook gives a pipeline a code that asks for one, and takes it from one that
// does not.
func (p *Pipelines) armHook(tx *db.Tx, n Pipeline) error {
	if !n.hooked() {
		_, err := tx.Exec(`DELETE FROM pipeline_hooks WHERE pipeline = ?`, n.ID)
		return err
	}
	var has bool
	if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM pipeline_hooks WHERE pipeline = ?)`, n.ID).Scan(&has); err != nil || has {
		return err
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	code := base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(code))
	sealed, err := p.secrets.Box().Seal([]byte(code), n.ID.hookRow())
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO pipeline_hooks (pipeline, sum, sealed, created) VALUES (?, ?, ?, ?)`, n.ID, sum[:], sealed, db.Micros(tx.Now))
	return err
}

func (i ID) hookRow() string { return i.row() + "/hook" }

// Hooks lists the URLs that start pipelines of a project.
func (p *Pipelines) Hooks(ctx context.Context, by access.Actor, in project.ID) ([]Hook, error) {
	pr, err := p.project(ctx, by, in, access.ExecutionRun)
	if err != nil {
		return nil, err
	}
	var l []Hook
	// A pipeline of a store from before there were hooks gets its code now.
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		l = nil
		all, err := loadPipelines(tx, pr.ID)
		if err != nil {
			return err
		}
		for _, pl := range all {
			if !pl.hooked() || permit(by, pl, access.ExecutionRun) != nil {
				continue
			}
			if err := p.armHook(tx, pl); err != nil {
				return err
			}
			var sealed []byte
			if err := tx.QueryRow(`SELECT sealed FROM pipeline_hooks WHERE pipeline = ?`, pl.ID).Scan(&sealed); err != nil {
				return err
			}
			code, err := p.secrets.Box().Open(sealed, pl.ID.hookRow())
			if err != nil {
				return err
			}
			l = append(l, Hook{pl.ID, pl.Name, p.cfg.PublicURL + "/hooks/" + string(code)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("hooks of project %s: %w", in, err)
	}
	return l, nil
}

// StartByHook starts the pipeline that a code stands for; who knows the code may.
// One that stands for none is errdefs.ErrNotFound.
func (p *Pipelines) StartByHook(ctx context.Context, code string) (Execution, error) {
	sum := sha256.Sum256([]byte(code))
	var pl Pipeline
	err := p.db.Read(ctx, func(tx *db.Tx) error {
		var id ID
		err := tx.QueryRow(`SELECT pipeline FROM pipeline_hooks WHERE sum = ?`, sum[:]).Scan(&id)
		if err != nil {
			return db.NotFound(err, "hook")
		}
		if pl, err = loadPipeline(tx, id); err == nil {
			_, err = project.Load(tx, pl.Project)
		}
		if errdefs.IsNotFound(err) {
			err = fmt.Errorf("hook: %w", errdefs.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return Execution{}, err
	}
	if err := p.room(); err != nil {
		return Execution{}, fmt.Errorf("start pipeline %d by its webhook: %w", pl.ID, err)
	}
	in, commit, err := p.unattended(ctx, pl, ByHook)
	if err != nil {
		return Execution{}, err
	}
	var x Execution
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		x, err = p.StartIn(tx, pl.CreatedBy, pl.ID, in, commit, nil)
		return err
	})
	if err != nil {
		return Execution{}, fmt.Errorf("start pipeline %d by its webhook: %w", pl.ID, err)
	}
	crash.At("pipeline: execution enqueued")
	slog.Info("execution started by its webhook", "room", "pipeline", "execution", string(x.ID), "pipeline", int64(pl.ID))
	return x, nil
}
