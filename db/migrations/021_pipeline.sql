-- +goose Up
-- Actions that wait until somebody says that they may be run.
ALTER TABLE executions ADD COLUMN held INTEGER NOT NULL DEFAULT 0;        -- nothing is in progress, and something waits for that
ALTER TABLE action_executions ADD COLUMN held INTEGER NOT NULL DEFAULT 0; -- it waits for that
ALTER TABLE action_executions ADD COLUMN approved INTEGER;                -- when it was said
ALTER TABLE action_executions ADD COLUMN approver INTEGER;                -- user
