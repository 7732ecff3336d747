-- +goose Up
CREATE TABLE seals (                        -- a text sealed with the master key, to know it again
  id     INTEGER PRIMARY KEY CHECK (id = 1),
  sealed BLOB NOT NULL
);

CREATE TABLE variables (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace   TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  project     TEXT REFERENCES projects(id) ON DELETE CASCADE,
  pipeline    INTEGER NOT NULL DEFAULT 0,
  action      INTEGER NOT NULL DEFAULT 0,
  place       TEXT NOT NULL,                -- the narrowest of the above: workspace, project/ID, pipeline/N, action/N
  name        TEXT NOT NULL,
  value       BLOB NOT NULL,                -- sealed, always
  type        TEXT NOT NULL CHECK (type IN ('VAR', 'FILE', 'SSH_KEY')),
  description TEXT NOT NULL DEFAULT '',
  encrypted   BOOLEAN NOT NULL,
  settable    BOOLEAN NOT NULL,
  file_place  TEXT NOT NULL CHECK (file_place IN ('NONE', 'CONTAINER')),
  file_path   TEXT NOT NULL DEFAULT '',
  file_mode   TEXT NOT NULL DEFAULT '',
  updated     INTEGER NOT NULL,
  UNIQUE (workspace, place, name)
);
CREATE INDEX variables_project ON variables(project) WHERE project IS NOT NULL;

CREATE TABLE logins (                       -- of registries
  id          TEXT PRIMARY KEY,             -- UUID
  project     TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  description TEXT NOT NULL DEFAULT '',
  host        TEXT NOT NULL,
  username    TEXT NOT NULL DEFAULT '',     -- '': anonymous
  password    BLOB NOT NULL,                -- sealed
  valid       BOOLEAN NOT NULL DEFAULT FALSE,
  checked     INTEGER,
  created     INTEGER NOT NULL,
  rank        INTEGER NOT NULL,             -- order of those that were made together
  UNIQUE (project, host)
);

CREATE TABLE login_defaults (               -- projects that were given the usual registries
  project TEXT PRIMARY KEY REFERENCES projects(id) ON DELETE CASCADE
);
