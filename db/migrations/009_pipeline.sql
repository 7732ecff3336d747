-- +goose Up
CREATE TABLE pipelines (
  id          INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: file systems are named by it
  project     TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  workspace   TEXT NOT NULL,
  name        TEXT NOT NULL,
  identifier  TEXT NOT NULL,
  spec        TEXT NOT NULL,                     -- JSON of what no query asks for
  dialects    TEXT NOT NULL DEFAULT '/',         -- those that keep fields at it: /alauda/buddy/
  sealed      BLOB,                              -- JSON of its secret values, sealed
  next_number INTEGER NOT NULL DEFAULT 1,        -- of its next execution
  created     INTEGER NOT NULL,
  created_by  INTEGER NOT NULL,
  deleted     INTEGER
);
CREATE UNIQUE INDEX pipelines_identifier ON pipelines(project, identifier) WHERE deleted IS NULL;
CREATE INDEX pipelines_project ON pipelines(project, id);

CREATE TABLE actions (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  pipeline INTEGER NOT NULL REFERENCES pipelines(id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  spec     TEXT NOT NULL,
  sealed   BLOB
);
CREATE INDEX actions_pipeline ON actions(pipeline, position);

CREATE TABLE executions (
  id           TEXT PRIMARY KEY,
  pipeline     INTEGER NOT NULL REFERENCES pipelines(id) ON DELETE CASCADE,
  number       INTEGER NOT NULL,
  status       TEXT NOT NULL CHECK (status IN
    ('ENQUEUED', 'INPROGRESS', 'TERMINATING', 'SUCCESSFUL', 'FAILED', 'TERMINATED', 'SKIPPED', 'NOT_EXECUTED')),
  priority     TEXT NOT NULL CHECK (priority IN ('LOW', 'NORMAL', 'HIGH')),
  mode         TEXT NOT NULL,
  created_by   INTEGER NOT NULL,
  created      INTEGER NOT NULL,
  queued       INTEGER NOT NULL,
  started      INTEGER,
  finished     INTEGER,
  branch       TEXT NOT NULL DEFAULT '',
  revision     TEXT NOT NULL DEFAULT '',
  input        TEXT NOT NULL,                    -- JSON: the rest of what it was started with
  frozen       TEXT NOT NULL,                    -- JSON: pipeline and actions as they were, no secrets
  sealed       BLOB,                             -- JSON of secret values of its variables, sealed
  previous     TEXT NOT NULL DEFAULT '',         -- status of the execution before
  prepared     INTEGER NOT NULL DEFAULT 0,       -- the file system is at the commit
  waiting      INTEGER NOT NULL DEFAULT 0,       -- for a slot, or for its pipeline
  class        TEXT NOT NULL DEFAULT '' CHECK (class IN ('', 'RUN', 'BUILD')), -- of the slot it waits for
  slot         TEXT NOT NULL DEFAULT '' CHECK (slot IN ('', 'RUN', 'BUILD')),  -- the one it holds
  no_skip      INTEGER NOT NULL DEFAULT 0,
  concurrent   INTEGER NOT NULL DEFAULT 0,
  cancelled_by INTEGER,
  cancelled    INTEGER,
  due_at       INTEGER,
  due_seq      INTEGER NOT NULL DEFAULT 0,
  lease_owner  TEXT,
  lease_until  INTEGER,
  lease_fence  INTEGER NOT NULL DEFAULT 0,
  UNIQUE (pipeline, number)
);
CREATE INDEX executions_due ON executions(due_at) WHERE due_at IS NOT NULL;
CREATE INDEX executions_open ON executions(status) WHERE status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING');
CREATE INDEX executions_created ON executions(created);
CREATE INDEX executions_ended ON executions(pipeline, finished);

CREATE TABLE action_executions (
  id         TEXT PRIMARY KEY,                   -- 24 hex digits
  execution  TEXT NOT NULL REFERENCES executions(id) ON DELETE CASCADE,
  idx        INTEGER NOT NULL,
  action     INTEGER NOT NULL,                   -- may be gone meanwhile
  status     TEXT NOT NULL CHECK (status IN
    ('INITIAL', 'ENQUEUED', 'INPROGRESS', 'SUCCESSFUL', 'FAILED', 'TERMINATED', 'SKIPPED', 'NOT_EXECUTED')),
  attempt    INTEGER NOT NULL DEFAULT 0,
  tries      INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER,
  started    INTEGER,
  finished   INTEGER,
  error      TEXT NOT NULL DEFAULT '',
  code       INTEGER NOT NULL DEFAULT 0,
  digest     TEXT NOT NULL DEFAULT '',
  image      TEXT NOT NULL DEFAULT '',
  kept       INTEGER NOT NULL DEFAULT 0,         -- the image is held in this execution's name
  UNIQUE (execution, idx)
);
CREATE INDEX action_executions_action ON action_executions(action, started);
