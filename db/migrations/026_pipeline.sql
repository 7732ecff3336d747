-- +goose Up
-- Actions that wait until somebody gives the variables that they ask for.
ALTER TABLE executions ADD COLUMN asking INTEGER NOT NULL DEFAULT 0;        -- nothing is in progress, and something waits for that
ALTER TABLE action_executions ADD COLUMN asking INTEGER NOT NULL DEFAULT 0; -- it waits for that
ALTER TABLE action_executions ADD COLUMN given INTEGER;                     -- when they were
