-- +goose Up
CREATE TABLE image_repositories (
  id        INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: holds are named by it
  workspace TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  name      TEXT NOT NULL UNIQUE,              -- <domain of the workspace>/<name>
  public    INTEGER NOT NULL DEFAULT 0 CHECK (public IN (0, 1)),
  pulls     INTEGER NOT NULL DEFAULT 0,
  pushes    INTEGER NOT NULL DEFAULT 0,
  pulled    INTEGER,
  pushed    INTEGER,
  created   INTEGER NOT NULL
);
CREATE INDEX image_repositories_workspace ON image_repositories(workspace, name);

CREATE TABLE image_manifests (                 -- manifests and indexes of a repository
  repository    INTEGER NOT NULL REFERENCES image_repositories(id) ON DELETE CASCADE,
  digest        TEXT NOT NULL,
  media_type    TEXT NOT NULL DEFAULT '',      -- this and what follows is set once expanded
  size          INTEGER NOT NULL DEFAULT 0,
  config        TEXT NOT NULL DEFAULT '',      -- digest of the configuration; of an index its own
  subject       TEXT NOT NULL DEFAULT '',
  artifact_type TEXT NOT NULL DEFAULT '',
  annotations   TEXT NOT NULL DEFAULT '',      -- JSON
  expanded      INTEGER NOT NULL CHECK (expanded IN (0, 1)), -- its links are written
  touched       INTEGER NOT NULL,              -- when it was pushed, or lost its last tag
  PRIMARY KEY (repository, digest)
);
CREATE INDEX image_manifests_subject ON image_manifests(repository, subject) WHERE subject <> '';
CREATE INDEX image_manifests_fresh ON image_manifests(repository) WHERE expanded = 0;

CREATE TABLE image_links (                     -- what a manifest refers to
  repository INTEGER NOT NULL,
  manifest   TEXT NOT NULL,
  blob       TEXT NOT NULL,
  PRIMARY KEY (repository, manifest, blob),
  FOREIGN KEY (repository, manifest) REFERENCES image_manifests(repository, digest) ON DELETE CASCADE
);
CREATE INDEX image_links_blob ON image_links(repository, blob);

CREATE TABLE image_tags (
  repository INTEGER NOT NULL,
  tag        TEXT NOT NULL,
  digest     TEXT NOT NULL,
  user_id    INTEGER NOT NULL,                 -- who tagged, 0: the system
  updated    INTEGER NOT NULL,
  PRIMARY KEY (repository, tag),
  FOREIGN KEY (repository, digest) REFERENCES image_manifests(repository, digest) ON DELETE CASCADE
);
CREATE INDEX image_tags_digest ON image_tags(repository, digest);

CREATE TABLE image_blobs (                     -- uploaded or mounted; needed until a manifest links it
  repository INTEGER NOT NULL REFERENCES image_repositories(id) ON DELETE CASCADE,
  digest     TEXT NOT NULL,
  created    INTEGER NOT NULL,
  PRIMARY KEY (repository, digest)
);
CREATE INDEX image_blobs_created ON image_blobs(created);

CREATE TABLE image_uploads (
  id         TEXT PRIMARY KEY,                 -- UUID
  repository INTEGER NOT NULL REFERENCES image_repositories(id) ON DELETE CASCADE,
  created    INTEGER NOT NULL
);
CREATE INDEX image_uploads_created ON image_uploads(created);

CREATE TABLE image_outside (                   -- names of other registries, pulled or loaded for one workspace
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace TEXT NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
  name      TEXT NOT NULL,                     -- normalized, with host
  digest    TEXT NOT NULL,
  config    TEXT NOT NULL,
  source    TEXT NOT NULL CHECK (source IN ('pulled', 'loaded')),
  updated   INTEGER NOT NULL,
  used      INTEGER NOT NULL,
  UNIQUE (workspace, name)
);

CREATE TABLE image_holds (                     -- what the engine has to hold
  id      TEXT PRIMARY KEY,                    -- as in the engine, "image/..."
  digest  TEXT NOT NULL,
  until   INTEGER,
  state   TEXT NOT NULL CHECK (state IN ('wanted', 'held', 'lost', 'dropped')),
  created INTEGER NOT NULL
);
CREATE INDEX image_holds_open ON image_holds(state) WHERE state IN ('wanted', 'dropped');
CREATE INDEX image_holds_until ON image_holds(until) WHERE until IS NOT NULL;
