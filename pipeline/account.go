package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
)

// Account is an execution with what became of each of its steps, and why.
type Account struct {
	Execution
	Steps []StepAccount // those that the actor sees
}

// StepAccount is a step with why it was run or not, and its tries.
type StepAccount struct {
	ActionExecution
	Why   Why
	Tries []Try
}

// Account tells what became of the steps of an execution, and why.
func (p *Pipelines) Account(ctx context.Context, by access.Actor, id ExecutionID) (a Account, err error) {
	seen, err := p.Execution(ctx, by, id)
	if err != nil {
		return a, err
	}
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		x, err := loadExecution(tx, id)
		if err != nil {
			return err
		}
		tries, err := loadTries(tx, id)
		if err != nil {
			return err
		}
		a.Execution, a.Execution.Steps = x, nil
		for i, s := range x.Steps {
			if !slices.ContainsFunc(seen.Steps, func(o ActionExecution) bool { return o.ID == s.ID }) {
				continue
			}
			why := x.Why(i)
			s.Waits = over(s.Waits, s.Finished)
			a.Steps = append(a.Steps, StepAccount{s, why, tries[s.ID]})
		}
		a.Waits = over(x.Waits, x.Finished)
		return nil
	})
	return a, err
}

// StepAccount is Account for one step, found by its id alone; of is its execution.
func (p *Pipelines) StepAccount(ctx context.Context, by access.Actor, step string) (a StepAccount, of Account, err error) {
	id, err := p.executionOf(ctx, step)
	if err != nil {
		return a, of, err
	}
	if of, err = p.Account(ctx, by, id); err != nil {
		return a, of, unknownStep(err, step)
	}
	for _, s := range of.Steps {
		if s.ID == step {
			return s, of, nil
		}
	}
	return a, of, fmt.Errorf("action execution %s: %w", step, errdefs.ErrNotFound)
}
