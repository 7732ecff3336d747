-- +goose Up
CREATE TABLE counters (                     -- server-wide integers that are never used twice
  name TEXT PRIMARY KEY,
  last INTEGER NOT NULL DEFAULT 0
);
INSERT INTO counters (name) VALUES ('workspace'), ('project');

CREATE TABLE workspaces (
  id      TEXT PRIMARY KEY,                 -- UUID
  number  INTEGER NOT NULL UNIQUE,
  domain  TEXT NOT NULL UNIQUE,
  name    TEXT NOT NULL,
  owner   INTEGER NOT NULL REFERENCES users(id),
  created INTEGER NOT NULL
);

CREATE TABLE projects (
  id           TEXT PRIMARY KEY,            -- UUID
  short_id     TEXT NOT NULL UNIQUE,
  number       INTEGER NOT NULL UNIQUE,
  workspace    TEXT NOT NULL REFERENCES workspaces(id),
  name         TEXT NOT NULL,
  display_name TEXT NOT NULL,
  status       TEXT NOT NULL CHECK (status IN ('ACTIVE', 'CLOSED')),
  public       BOOLEAN NOT NULL,
  created_by   INTEGER NOT NULL DEFAULT 0,  -- user, 0: the system
  created      INTEGER NOT NULL,
  updated      INTEGER NOT NULL,
  deleted      INTEGER,                     -- not found from then on, removed days later
  attrs        TEXT NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX projects_name ON projects(workspace, name) WHERE deleted IS NULL;
CREATE INDEX projects_deleted ON projects(deleted) WHERE deleted IS NOT NULL;

CREATE TABLE project_aliases (              -- earlier names that nobody took since
  workspace TEXT NOT NULL,
  name      TEXT NOT NULL,
  project   TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  PRIMARY KEY (workspace, name)
);
CREATE INDEX project_aliases_project ON project_aliases(project);
