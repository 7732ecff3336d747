-- +goose Up
CREATE TABLE issuer_keys (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  sealed   BLOB NOT NULL,                 -- the keys, of which one signs
  since    INTEGER NOT NULL,              -- when that one began to
  previous INTEGER NOT NULL               -- the other one is that of before, not the next
);
