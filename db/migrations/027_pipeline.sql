-- +goose Up
-- What the file system was before an action, and executions that begin there.
ALTER TABLE action_executions ADD COLUMN snapshot TEXT NOT NULL DEFAULT '';   -- of the file system before it began; several may have the same
ALTER TABLE action_executions ADD COLUMN unkept TEXT NOT NULL DEFAULT '';     -- why there is none
ALTER TABLE action_executions ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;  -- it was run in the execution that this one goes on from
ALTER TABLE executions ADD COLUMN rerun INTEGER NOT NULL DEFAULT 0;           -- it goes on from an action of another one; input says which
ALTER TABLE executions ADD COLUMN snapshots INTEGER NOT NULL DEFAULT 0;       -- its actions have some
CREATE INDEX executions_snapshots ON executions(pipeline, number) WHERE snapshots = 1;
UPDATE action_executions SET unkept = 'an earlier version of Slipway ran it, which kept none' WHERE started IS NOT NULL;
