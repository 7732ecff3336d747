-- +goose Up
CREATE TABLE events (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, even if all are pruned
  at        INTEGER NOT NULL,
  kind      TEXT NOT NULL,
  workspace TEXT NOT NULL DEFAULT '',
  project   TEXT NOT NULL DEFAULT '',
  subject   TEXT NOT NULL DEFAULT '',
  data      TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX events_kind ON events(kind, seq);
CREATE INDEX events_workspace ON events(workspace, seq);
CREATE INDEX events_at ON events(at);

CREATE TABLE cursors (
  name TEXT PRIMARY KEY,
  seq  INTEGER NOT NULL                        -- the last event that was handled
);
