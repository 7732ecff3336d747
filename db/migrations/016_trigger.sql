-- +goose Up
-- What starts pipelines beside a push: the clock, a URL; and the keys by which
-- a start that is sent again is known.
CREATE TABLE schedules (
  id          TEXT PRIMARY KEY,                  -- of the pipeline
  pipeline    INTEGER NOT NULL UNIQUE REFERENCES pipelines(id) ON DELETE CASCADE,
  next        INTEGER,                           -- when it starts; NULL: not by the clock now
  failures    INTEGER NOT NULL DEFAULT 0,        -- of its executions, in a row
  due_at      INTEGER,
  due_seq     INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_until INTEGER,
  lease_fence INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX schedules_due ON schedules(due_at) WHERE due_at IS NOT NULL;

CREATE TABLE pipeline_hooks (
  pipeline INTEGER PRIMARY KEY REFERENCES pipelines(id) ON DELETE CASCADE,
  sum      BLOB NOT NULL UNIQUE,                 -- SHA-256 of the code in the URL
  sealed   BLOB NOT NULL,                        -- the code
  created  INTEGER NOT NULL
);

CREATE TABLE execution_keys (
  pipeline  INTEGER NOT NULL REFERENCES pipelines(id) ON DELETE CASCADE,
  token     TEXT NOT NULL,                       -- of who started it
  key       TEXT NOT NULL,
  asked     BLOB NOT NULL,                       -- SHA-256 of what was asked for, sealed
  execution TEXT NOT NULL REFERENCES executions(id) ON DELETE CASCADE,
  created   INTEGER NOT NULL,
  PRIMARY KEY (pipeline, token, key)
);
CREATE INDEX execution_keys_created ON execution_keys(created);
CREATE INDEX execution_keys_execution ON execution_keys(execution);

-- A pipeline that somebody paused while that had no effect stays so, and the
-- clocks of the others begin.
UPDATE pipelines SET spec = json_set(CAST(spec AS TEXT), '$.Paused', json('true'))
  WHERE json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.paused') = 1;
INSERT INTO schedules (id, pipeline, due_at)
  SELECT CAST(p.id AS TEXT), p.id, p.created FROM pipelines p WHERE p.deleted IS NULL AND EXISTS
    (SELECT 1 FROM json_each(CAST(p.spec AS TEXT), '$.Events') e WHERE json_extract(e.value, '$.Type') = 'SCHEDULE');
