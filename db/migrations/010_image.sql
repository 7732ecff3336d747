-- +goose Up
-- The tags that a project's executions set go with the project. The table is
-- made anew because there are stores that have the column and stores that have
-- not: "project" is that of the table, or else that of the empty row before it.
CREATE TABLE image_tags_next (
  repository INTEGER NOT NULL,
  tag        TEXT NOT NULL,
  digest     TEXT NOT NULL,
  user_id    INTEGER NOT NULL,                 -- who tagged, 0: the system
  project    TEXT REFERENCES projects(id) ON DELETE CASCADE, -- whose execution tagged; who pushed by hand is of none
  updated    INTEGER NOT NULL,
  PRIMARY KEY (repository, tag),
  FOREIGN KEY (repository, digest) REFERENCES image_manifests(repository, digest) ON DELETE CASCADE
);
INSERT INTO image_tags_next (repository, tag, digest, user_id, project, updated)
  SELECT t.repository, t.tag, t.digest, t.user_id,
    (SELECT project FROM image_tags s WHERE s.repository = t.repository AND s.tag = t.tag), t.updated
  FROM (SELECT NULL AS project) none
  JOIN (SELECT repository, tag, digest, user_id, updated FROM image_tags) t;
DROP TABLE image_tags;
ALTER TABLE image_tags_next RENAME TO image_tags;
CREATE INDEX image_tags_digest ON image_tags(repository, digest);
CREATE INDEX image_tags_project ON image_tags(project) WHERE project IS NOT NULL;

ALTER TABLE image_repositories ADD COLUMN emptied INTEGER; -- when its last manifest went
