-- +goose Up
-- When a pipeline starts may be said in the file with its definition. A push waits
-- here until the files are read that it may have changed, or that say whether it
-- starts something: those of a project in their order.
CREATE TABLE definition_readers (
  id          TEXT PRIMARY KEY REFERENCES projects(id) ON DELETE CASCADE,
  due_at      INTEGER,
  due_seq     INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_until INTEGER,
  lease_fence INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX definition_readers_due ON definition_readers(due_at) WHERE due_at IS NOT NULL;

CREATE TABLE definition_reads (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  project  TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  pipeline INTEGER REFERENCES pipelines(id) ON DELETE CASCADE, -- NULL: all that the push may concern
  push     TEXT NOT NULL                         -- JSON; of none it has no ref
);
CREATE INDEX definition_reads_project ON definition_reads(project, id);
CREATE INDEX definition_reads_pipeline ON definition_reads(pipeline);

-- Those whose files may be in other projects.
CREATE INDEX pipelines_filed ON pipelines(workspace) WHERE deleted IS NULL
  AND (json_extract(CAST(spec AS TEXT), '$.GitConfigRef') = 'FIXED' OR json_extract(CAST(spec AS TEXT), '$.DefinitionSource') = 'REMOTE'
    OR json_extract(CAST(spec AS TEXT), '$.Said.Places[0]') IS NOT NULL);
