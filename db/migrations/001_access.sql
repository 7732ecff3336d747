-- +goose Up
CREATE TABLE users (
  id       INTEGER PRIMARY KEY,
  uuid     TEXT NOT NULL UNIQUE,
  username TEXT NOT NULL UNIQUE,
  name     TEXT NOT NULL DEFAULT '',
  email    TEXT NOT NULL DEFAULT '',
  created  INTEGER NOT NULL
);

CREATE TABLE tokens (
  id         TEXT PRIMARY KEY,
  user_id    INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  hash       BLOB NOT NULL UNIQUE,          -- SHA-256 of the secret
  name       TEXT NOT NULL,
  scopes     TEXT NOT NULL,                 -- JSON lists
  workspaces TEXT NOT NULL DEFAULT '[]',
  ips        TEXT NOT NULL DEFAULT '[]',
  created    INTEGER NOT NULL,
  expires    INTEGER,
  last_used  INTEGER
);
CREATE INDEX tokens_user ON tokens(user_id, created);

CREATE TABLE members (
  workspace TEXT NOT NULL,                  -- UUID; workspaces are project's
  user_id   INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  role      TEXT NOT NULL CHECK (role IN ('OWNER', 'MEMBER')),
  created   INTEGER NOT NULL,
  PRIMARY KEY (workspace, user_id)
);
CREATE INDEX members_user ON members(user_id);
