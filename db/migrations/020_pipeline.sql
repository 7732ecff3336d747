-- +goose Up
-- The definition of a pipeline may be in a file of a repository, which is read for
-- each execution.
ALTER TABLE actions ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;           -- not in the file that was read last; it comes back with its id
ALTER TABLE executions ADD COLUMN undefined INTEGER NOT NULL DEFAULT 0;   -- the file is to be read before it comes into the queue
ALTER TABLE executions ADD COLUMN problem TEXT NOT NULL DEFAULT '';       -- why it failed before its actions could be told

-- Where the file is was kept with what has no effect.
UPDATE pipelines SET spec = json_set(CAST(spec AS TEXT), '$.GitConfig', json_object(
    'Project', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.git_config.project'), ''),
    'Branch', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.git_config.branch'), ''),
    'Path', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.git_config.path'), '')))
  WHERE json_type(CAST(spec AS TEXT), '$.Attrs.buddy.rest.git_config') = 'object';
UPDATE pipelines SET spec = json_set(CAST(spec AS TEXT), '$.Remote', json_object(
    'Project', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.remote_project_name'), ''),
    'Ref', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.remote_branch'), json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.remote_ref'), ''),
    'Path', coalesce(json_extract(CAST(spec AS TEXT), '$.Attrs.buddy.rest.remote_path'), ''),
    'Parameters', (SELECT json_group_array(json_object(
        'Key', CAST(coalesce(json_extract(q.value, '$.key'), '') AS TEXT), 'Value', CAST(coalesce(json_extract(q.value, '$.value'), '') AS TEXT)))
      FROM json_each(CAST(spec AS TEXT), '$.Attrs.buddy.rest.remote_parameters') q WHERE q.type = 'object')))
  WHERE json_type(CAST(spec AS TEXT), '$.Attrs.buddy.rest') = 'object' AND EXISTS
    (SELECT 1 FROM json_each(CAST(spec AS TEXT), '$.Attrs.buddy.rest') r WHERE r.key LIKE 'remote%');
UPDATE pipelines SET spec = json_remove(CAST(spec AS TEXT), '$.Attrs.buddy.rest.git_config', '$.Attrs.buddy.rest.remote_project_name',
    '$.Attrs.buddy.rest.remote_branch', '$.Attrs.buddy.rest.remote_ref', '$.Attrs.buddy.rest.remote_path', '$.Attrs.buddy.rest.remote_parameters')
  WHERE json_type(CAST(spec AS TEXT), '$.Attrs.buddy.rest') = 'object';
