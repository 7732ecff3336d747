-- +goose Up
-- Checkouts of a project may have the submodules of their commits.
ALTER TABLE projects ADD COLUMN fetch_submodules INTEGER NOT NULL DEFAULT 0;
ALTER TABLE projects ADD COLUMN submodules_key TEXT NOT NULL DEFAULT '';  -- name of the variable with the key for those over ssh

-- What was said was kept with what has no effect.
UPDATE projects SET fetch_submodules = 1 WHERE json_type(attrs, '$.buddy.rest.fetch_submodules') = 'true';
UPDATE projects SET submodules_key = json_extract(attrs, '$.buddy.rest.fetch_submodules_env_key')
  WHERE json_type(attrs, '$.buddy.rest.fetch_submodules_env_key') = 'text';
UPDATE projects SET attrs = json_remove(attrs, '$.buddy.rest.fetch_submodules', '$.buddy.rest.fetch_submodules_env_key')
  WHERE json_type(attrs, '$.buddy.rest') = 'object';
