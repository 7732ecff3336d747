-- +goose Up
CREATE TABLE ingresses (
  id         TEXT PRIMARY KEY,              -- UUID
  project    TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  hostname   TEXT NOT NULL UNIQUE,          -- lower case, ASCII
  is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
  enabled    INTEGER NOT NULL CHECK (enabled IN (0, 1)),
  verified   INTEGER NOT NULL CHECK (verified IN (0, 1)),
  created    INTEGER NOT NULL,
  updated    INTEGER NOT NULL
);
CREATE UNIQUE INDEX ingresses_default ON ingresses(project) WHERE is_default = 1;
CREATE INDEX ingresses_project ON ingresses(project, created);

CREATE TABLE ingress_paths (
  ingress  TEXT NOT NULL REFERENCES ingresses(id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  path     TEXT NOT NULL,
  service  TEXT NOT NULL DEFAULT '',        -- UUID; with its port one of the three targets
  port     TEXT NOT NULL DEFAULT '',
  url      TEXT NOT NULL DEFAULT '',
  page     INTEGER NOT NULL DEFAULT 0 CHECK (page IN (0, 1)),
  PRIMARY KEY (ingress, position),
  CHECK ((service <> '') + (url <> '') + page = 1)
);
CREATE INDEX ingress_paths_service ON ingress_paths(service) WHERE service <> '';
