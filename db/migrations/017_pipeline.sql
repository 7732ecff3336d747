-- +goose Up
-- What an execution and its actions waited for, and how each try of an action
-- went.
ALTER TABLE executions ADD COLUMN waits TEXT NOT NULL DEFAULT '';        -- a word for each: what for, since, until: RUN_SLOT:5:9
ALTER TABLE action_executions ADD COLUMN waits TEXT NOT NULL DEFAULT ''; -- before the try that is to come

CREATE TABLE action_tries (
  id       TEXT NOT NULL REFERENCES action_executions(id) ON DELETE CASCADE,
  attempt  INTEGER NOT NULL,
  try      INTEGER NOT NULL,                   -- from 1, since the start, the last retry by hand or the last round
  round    INTEGER NOT NULL,                   -- of a loop, from 1
  status   TEXT NOT NULL CHECK (status IN ('INPROGRESS', 'SUCCESSFUL', 'FAILED', 'TERMINATED')),
  started  INTEGER NOT NULL,
  finished INTEGER,
  waits    TEXT NOT NULL,                      -- before it
  ending   TEXT NOT NULL DEFAULT '',           -- JSON: how it ended, and what it used
  PRIMARY KEY (id, attempt)
) WITHOUT ROWID;
