-- +goose Up
CREATE TABLE service_hooks (
  service TEXT PRIMARY KEY REFERENCES services(id) ON DELETE CASCADE,
  sum     BLOB NOT NULL,                    -- SHA-256 of the token in the URL
  minute  INTEGER NOT NULL DEFAULT 0,       -- in which it was called last
  calls   INTEGER NOT NULL DEFAULT 0,       -- in that minute
  created INTEGER NOT NULL
);
