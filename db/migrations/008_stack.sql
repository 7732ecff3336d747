-- +goose Up
CREATE TABLE stacks (
  id                  TEXT PRIMARY KEY,     -- UUID; that of the project for its default stack
  project             TEXT NOT NULL,        -- no foreign key: a stack outlives its project until its data is gone
  description         TEXT NOT NULL,
  prefix              TEXT NOT NULL UNIQUE,
  generation          INTEGER NOT NULL DEFAULT 1,
  observed_generation INTEGER NOT NULL DEFAULT 0,
  created             INTEGER NOT NULL,
  updated             INTEGER NOT NULL,
  deleted             INTEGER,              -- kept for a while, then removed with its data
  with_project        INTEGER NOT NULL DEFAULT 0 CHECK (with_project IN (0, 1)), -- deleted because the project was
  due_at              INTEGER,
  due_seq             INTEGER NOT NULL DEFAULT 0,
  lease_owner         TEXT,
  lease_until         INTEGER,
  lease_fence         INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX stacks_project ON stacks(project, created);
CREATE INDEX stacks_due ON stacks(due_at) WHERE due_at IS NOT NULL;

CREATE TABLE services (
  id           TEXT PRIMARY KEY,            -- UUID
  short        TEXT NOT NULL UNIQUE,        -- c-xxxxxx
  stack        TEXT NOT NULL REFERENCES stacks(id) ON DELETE CASCADE,
  name         TEXT NOT NULL,
  description  TEXT NOT NULL,
  restart      TEXT NOT NULL CHECK (restart IN ('', 'no', 'on-failure', 'always', 'unless-stopped')),
  stopped      INTEGER NOT NULL DEFAULT 0 CHECK (stopped IN (0, 1)),
  removed      INTEGER,                     -- its containers go, then the row
  epoch        INTEGER NOT NULL DEFAULT 1,  -- counts restart, recreate, pull
  next         INTEGER NOT NULL DEFAULT 1,  -- number of the next instance
  declared     TEXT NOT NULL,               -- service_definitions
  applied      TEXT NOT NULL,
  serving      TEXT NOT NULL DEFAULT '',    -- of the container that served last
  addr         TEXT NOT NULL DEFAULT '',    -- of the container that serves
  status       TEXT NOT NULL CHECK (status IN ('creating', 'starting', 'running', 'stopping', 'stopped', 'error')),
  status_set   INTEGER NOT NULL,
  message      TEXT NOT NULL DEFAULT '',
  failed       INTEGER NOT NULL DEFAULT 0 CHECK (failed IN (0, 1)), -- what is applied could not take over
  ran          INTEGER NOT NULL DEFAULT 0 CHECK (ran IN (0, 1)),
  history      TEXT NOT NULL DEFAULT '{}',  -- exits, JSON
  created      INTEGER NOT NULL
);
CREATE UNIQUE INDEX services_name ON services(stack, name) WHERE removed IS NULL;
CREATE INDEX services_stack ON services(stack);

CREATE TABLE service_definitions (
  id       TEXT PRIMARY KEY,                -- UUID
  service  TEXT NOT NULL REFERENCES services(id) ON DELETE CASCADE,
  spec     TEXT NOT NULL,                   -- JSON, without the environment
  env      BLOB NOT NULL,                   -- sealed JSON
  digest   TEXT NOT NULL DEFAULT '',        -- of the image, once it is there
  refresh  INTEGER NOT NULL DEFAULT 0 CHECK (refresh IN (0, 1)), -- ask the registry even if it is there
  tries    INTEGER NOT NULL DEFAULT 0,      -- to find the image
  retry_at INTEGER,
  problem  TEXT NOT NULL DEFAULT '',
  created  INTEGER NOT NULL
);
CREATE INDEX service_definitions_service ON service_definitions(service);

CREATE TABLE volumes (
  id        TEXT PRIMARY KEY,               -- UUID
  stack     TEXT NOT NULL REFERENCES stacks(id) ON DELETE CASCADE,
  key       TEXT NOT NULL,
  name      TEXT NOT NULL,
  orphaned  INTEGER NOT NULL DEFAULT 0 CHECK (orphaned IN (0, 1)),
  removed   INTEGER,                        -- its data goes, then the row
  bytes     INTEGER NOT NULL DEFAULT 0,
  bytes_set INTEGER NOT NULL,
  created   INTEGER NOT NULL
);
CREATE UNIQUE INDEX volumes_key ON volumes(stack, key) WHERE removed IS NULL;
