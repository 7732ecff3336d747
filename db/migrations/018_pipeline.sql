-- +goose Up
-- File systems that runs have to themselves, and which of them the next ones
-- begin with.
ALTER TABLE pipelines ADD COLUMN base TEXT NOT NULL DEFAULT '';               -- a volume; '': the one that is named by the id
ALTER TABLE pipelines ADD COLUMN base_started INTEGER NOT NULL DEFAULT 0;     -- when the execution began that it is of

CREATE TABLE pipeline_volumes (
  volume    TEXT PRIMARY KEY,
  pipeline  INTEGER NOT NULL REFERENCES pipelines(id) ON DELETE CASCADE,
  execution TEXT UNIQUE REFERENCES executions(id) ON DELETE SET NULL -- whose it is; NULL: it is to be removed, unless it is the base
);
CREATE INDEX pipeline_volumes_pipeline ON pipeline_volumes(pipeline);
