// Package pipeline is work that ends: pipelines of actions, their executions,
// the pure decisions about them (Next, Admit) and the Runner that does what
// they say.
//
// An execution is a frozen copy of a pipeline's actions and what became of
// them:
//
//	            superseded by a newer one
//	ENQUEUED ──────────────────────────────► SKIPPED
//	   │  ▲
//	   │  └───────── Retry ───────────┐
//	   ▼                              │
//	INPROGRESS ──────► SUCCESSFUL     │
//	   │    └────────► FAILED ────────┤
//	   ▼                              │
//	TERMINATING ─────► TERMINATED ────┘
//
// (a cancelled ENQUEUED one goes through TERMINATING too, without ever holding
// a worker; SKIPPED is also one whose pipeline has conditions that are not met).
// One that is delayed, or whose conditions are not judged yet, is ENQUEUED
// without being in the queue. Its actions begin as INITIAL, wait for a slot, for
// their next try or for the next round of their loop as ENQUEUED, and end as
// SUCCESSFUL, FAILED, TERMINATED, SKIPPED (disabled, not among those asked for,
// or with a condition that is not met) or NOT_EXECUTED (never reached).
//
// The stages of an execution, each in the order of the pipeline, one action or
// one group of linked ones after the other:
//
//  1. ON_EVERY_EXECUTION, the chain. An action that fails ends it, unless its
//     errors are ignored.
//  2. ON_SUCCESS and, if the run before failed, ON_BACK_TO_SUCCESS, after a
//     chain that succeeded. They may fail the execution.
//  3. ON_WARNING, if an error was ignored.
//  4. ON_FAILURE, if anything failed.
//  5. ON_TERMINATE alone, if the execution was cancelled.
//
// What is wanted of a group is decided when the one before it has ended: one of
// its actions that fails does not end the others. Soft linked ones begin as
// there are slots, hard linked ones all at once. Conditions are judged when the
// turn of their group has come, outside of any transaction; the verdict is
// written, and only then the group begins.
//
// Executions of a pipeline follow each other in its file system. Those that may go
// beside each other have a copy of it each, whose name is written before it is
// made; the copy of a successful one becomes the base, of which the next ones are
// made, by the transaction that ends it, and what nobody needs any more is removed
// after it (clones.go). A pipeline with a loop has an execution for each round.
//
// Everything the Runner does is safe to repeat: after a crash the row is
// claimed again, and an action that was in progress is run again under the
// same engine id, which attaches to the container that is there.
package pipeline
