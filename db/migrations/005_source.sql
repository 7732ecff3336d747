-- +goose Up

-- The refs of the own repositories as the outbox knows them. What a repository
-- has beyond these rows has moved and is not told yet.
CREATE TABLE source_refs (
	project     TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
	ref         TEXT NOT NULL CHECK (ref LIKE 'refs/%'),
	hash        TEXT NOT NULL CHECK (length(hash) = 40),
	commit_hash TEXT NOT NULL CHECK (length(commit_hash) = 40), -- another one if the ref is an annotated tag
	PRIMARY KEY (project, ref)
);

-- Outside repositories that projects are linked to. login is sealed and holds
-- the password and the deploy key; branch is the default branch seen there.
CREATE TABLE source_remotes (
	project    TEXT PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
	url        TEXT NOT NULL CHECK (url <> ''),
	username   TEXT NOT NULL DEFAULT '',
	login      BLOB,
	branch     TEXT,
	updated_at INTEGER NOT NULL
);
