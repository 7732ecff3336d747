-- +goose Up
CREATE TABLE webhooks (
  number      INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again
  id          TEXT NOT NULL UNIQUE,              -- UUID, for the work loop
  workspace   TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  url         TEXT NOT NULL,
  events      TEXT NOT NULL,                     -- JSON: words
  projects    TEXT NOT NULL,                     -- JSON: ids with the names they had; [] is all
  secret      BLOB,                              -- sealed
  seq         INTEGER NOT NULL,                  -- the last event that is done with
  part        INTEGER NOT NULL DEFAULT 0,        -- how many of its words the next one was sent for
  tries       INTEGER NOT NULL DEFAULT 0,        -- that failed, of what is next
  retry_at    INTEGER,                           -- not before
  created     INTEGER NOT NULL,
  due_at      INTEGER,
  due_seq     INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_until INTEGER,
  lease_fence INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX webhooks_workspace ON webhooks(workspace, number);
CREATE INDEX webhooks_due ON webhooks(due_at) WHERE due_at IS NOT NULL;

CREATE TABLE webhook_requests (                  -- the last ones of each
  id      INTEGER PRIMARY KEY,
  webhook INTEGER NOT NULL REFERENCES webhooks(number) ON DELETE CASCADE,
  sent    INTEGER NOT NULL,
  status  INTEGER NOT NULL,                      -- 0: there was no answer
  error   TEXT NOT NULL DEFAULT '',
  body    TEXT NOT NULL
);
CREATE INDEX webhook_requests_webhook ON webhook_requests(webhook, id);

CREATE TABLE pipeline_files (                    -- put into a file system by hand: they stay when it is cleared
  pipeline INTEGER NOT NULL REFERENCES pipelines(id) ON DELETE CASCADE,
  path     TEXT NOT NULL,
  PRIMARY KEY (pipeline, path)
);
