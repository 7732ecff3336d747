-- +goose Up
-- Pull requests in own repositories.
ALTER TABLE source_refs ADD COLUMN base TEXT NOT NULL DEFAULT ''; -- the branch that a pull request goes to, as a push said it
ALTER TABLE projects ADD COLUMN pull_requests INTEGER NOT NULL DEFAULT 0; -- its own repository takes them

-- Whether they are allowed was kept with what has no effect.
UPDATE projects SET pull_requests = 1 WHERE json_extract(attrs, '$.buddy.rest.allow_pull_requests') = 1;
UPDATE projects SET attrs = json_remove(attrs, '$.buddy.rest.allow_pull_requests') WHERE json_type(attrs, '$.buddy.rest.allow_pull_requests') IS NOT NULL;
