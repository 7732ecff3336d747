-- +goose Up
CREATE TABLE integrations (                 -- credentials of a cloud, a forge, a registry
  id            TEXT PRIMARY KEY,           -- 24 hex digits
  workspace     TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  project       TEXT REFERENCES projects(id) ON DELETE CASCADE, -- NULL: of the whole workspace
  identifier    TEXT NOT NULL CHECK (identifier <> ''),
  name          TEXT NOT NULL,
  type          TEXT NOT NULL,
  auth_type     TEXT NOT NULL CHECK (auth_type IN ('DEFAULT', 'TOKEN', 'TOKEN_APP_EXTENSION', 'TRUSTED', 'OIDC')),
  all_pipelines BOOLEAN NOT NULL,
  pipelines     TEXT NOT NULL,              -- JSON: numbers of those that may use it, if not all may
  permissions   TEXT NOT NULL,              -- JSON
  server_url    TEXT NOT NULL DEFAULT '',
  sealed        BLOB NOT NULL,              -- JSON of the credentials, sealed
  created       INTEGER NOT NULL,
  updated       INTEGER NOT NULL,
  UNIQUE (workspace, identifier)
);
CREATE INDEX integrations_project ON integrations(project) WHERE project IS NOT NULL;
