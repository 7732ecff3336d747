-- +goose Up
CREATE TABLE environments (
  id         TEXT PRIMARY KEY,               -- UUID
  workspace  TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  project    TEXT REFERENCES projects(id) ON DELETE CASCADE, -- NULL: of the workspace
  identifier TEXT NOT NULL,
  name       TEXT NOT NULL,
  created    INTEGER NOT NULL
);
CREATE UNIQUE INDEX environments_identifier ON environments(workspace, COALESCE(project, ''), identifier);
CREATE INDEX environments_project ON environments(project) WHERE project IS NOT NULL;

-- Variables are made anew for more types. A number that was given once is not
-- given again.
CREATE TABLE variables_next (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace    TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  project      TEXT REFERENCES projects(id) ON DELETE CASCADE,
  environment  TEXT REFERENCES environments(id) ON DELETE CASCADE,
  pipeline     INTEGER NOT NULL DEFAULT 0,
  action       INTEGER NOT NULL DEFAULT 0,
  place        TEXT NOT NULL,                -- the narrowest of the above: workspace, project/ID, environment/ID, pipeline/N, action/N
  name         TEXT NOT NULL,
  value        BLOB NOT NULL,                -- sealed, always
  type         TEXT NOT NULL CHECK (type IN ('VAR', 'FILE', 'SSH_KEY', 'SSH_PUBLIC_KEY', 'GPG_KEY')),
  description  TEXT NOT NULL DEFAULT '',
  encrypted    BOOLEAN NOT NULL,
  settable     BOOLEAN NOT NULL,
  run_settable BOOLEAN NOT NULL DEFAULT FALSE, -- for the run that sets it alone
  file_place   TEXT NOT NULL CHECK (file_place IN ('NONE', 'CONTAINER')),
  file_path    TEXT NOT NULL DEFAULT '',
  file_mode    TEXT NOT NULL DEFAULT '',
  updated      INTEGER NOT NULL,
  UNIQUE (workspace, place, name)
);
INSERT INTO sqlite_sequence (name, seq) SELECT 'variables_next', seq FROM sqlite_sequence WHERE name = 'variables';
INSERT INTO variables_next (id, workspace, project, pipeline, action, place, name, value, type, description, encrypted, settable,
    file_place, file_path, file_mode, updated)
  SELECT id, workspace, project, pipeline, action, place, name, value, type, description, encrypted, settable,
    file_place, file_path, file_mode, updated
  FROM variables;
DROP TABLE variables;
ALTER TABLE variables_next RENAME TO variables;
CREATE INDEX variables_project ON variables(project) WHERE project IS NOT NULL;
CREATE INDEX variables_environment ON variables(environment) WHERE environment IS NOT NULL;

CREATE TABLE variable_defaults (             -- workspaces and projects that were given a key of their own
  workspace TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  project   TEXT REFERENCES projects(id) ON DELETE CASCADE,
  place     TEXT NOT NULL,                   -- as of variables
  PRIMARY KEY (workspace, place)
);

CREATE TABLE action_outputs (                -- what the commands of an action have exported
  id        TEXT PRIMARY KEY REFERENCES action_executions(id) ON DELETE CASCADE,
  variables TEXT NOT NULL,                   -- JSON, no secrets
  sealed    BLOB                             -- JSON of secret values, sealed
);
