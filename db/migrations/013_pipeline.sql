-- +goose Up
-- Several actions of an execution run beside each other, so that it holds
-- several slots, and may wait for more while it runs.
ALTER TABLE executions ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;     -- slots it holds
ALTER TABLE executions ADD COLUMN builds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN wants TEXT NOT NULL DEFAULT '';      -- slots it waits for: a word for each that begin together, R a run and B a build
ALTER TABLE executions ADD COLUMN delayed INTEGER;                     -- when it comes into the queue, if not at once
ALTER TABLE executions ADD COLUMN verdict TEXT NOT NULL DEFAULT '';    -- JSON: the pipeline's conditions and whether they were met
UPDATE executions SET runs = slot = 'RUN', builds = slot = 'BUILD',
  wants = CASE WHEN waiting THEN CASE class WHEN 'RUN' THEN 'R' WHEN 'BUILD' THEN 'B' ELSE '' END ELSE '' END;
ALTER TABLE executions DROP COLUMN slot;
ALTER TABLE executions DROP COLUMN class;

ALTER TABLE action_executions ADD COLUMN round INTEGER NOT NULL DEFAULT 0;   -- of its loop: combinations that are done
ALTER TABLE action_executions ADD COLUMN verdict TEXT NOT NULL DEFAULT '';   -- JSON: its conditions and whether they were met
