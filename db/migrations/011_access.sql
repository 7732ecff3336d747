-- +goose Up
-- Who may do what: administrators, groups, permission sets, and who is in a
-- project with which of them.
ALTER TABLE workspaces ADD COLUMN deleted INTEGER; -- not found from then on, removed days later

CREATE TABLE permission_sets (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace   TEXT,                         -- NULL: of all workspaces, and never changed
  kind        TEXT NOT NULL CHECK (kind IN ('READ_ONLY', 'DEVELOPER', 'PROJECT_MANAGER', 'CUSTOM')),
  name        TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  pipeline    TEXT NOT NULL,                -- levels
  repository  TEXT NOT NULL,
  sandbox     TEXT NOT NULL,
  environment TEXT NOT NULL,
  target      TEXT NOT NULL,
  team        TEXT NOT NULL
);
CREATE INDEX permission_sets_workspace ON permission_sets(workspace, id);
INSERT INTO permission_sets (id, kind, name, pipeline, repository, sandbox, environment, target, team) VALUES
  (1, 'READ_ONLY', 'Read-only', 'READ_ONLY', 'READ_ONLY', 'READ_ONLY', 'READ_ONLY', 'READ_ONLY', 'READ_ONLY'),
  (2, 'DEVELOPER', 'Developer', 'READ_WRITE', 'READ_WRITE', 'READ_WRITE', 'READ_WRITE', 'READ_WRITE', 'READ_ONLY'),
  (3, 'PROJECT_MANAGER', 'Project manager', 'MANAGE', 'MANAGE', 'MANAGE', 'MANAGE', 'MANAGE', 'MANAGE');

ALTER TABLE members ADD COLUMN admin BOOLEAN NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN auto_assign BOOLEAN NOT NULL DEFAULT 0; -- to new projects
ALTER TABLE members ADD COLUMN auto_permission INTEGER REFERENCES permission_sets(id);

CREATE TABLE member_groups (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace       TEXT NOT NULL,
  name            TEXT NOT NULL,
  description     TEXT NOT NULL DEFAULT '',
  auto_assign     BOOLEAN NOT NULL DEFAULT 0,
  auto_permission INTEGER REFERENCES permission_sets(id),
  UNIQUE (workspace, name)
);

CREATE TABLE group_members (
  group_id INTEGER NOT NULL REFERENCES member_groups(id) ON DELETE CASCADE,
  user_id  INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  manager  BOOLEAN NOT NULL DEFAULT 0,
  created  INTEGER NOT NULL,
  PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_members_user ON group_members(user_id);

CREATE TABLE project_members (
  project    TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  workspace  TEXT NOT NULL,                 -- that of the project
  user_id    INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  permission INTEGER NOT NULL REFERENCES permission_sets(id),
  created    INTEGER NOT NULL,
  PRIMARY KEY (project, user_id)
);
CREATE INDEX project_members_user ON project_members(user_id);

CREATE TABLE project_groups (
  project    TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  workspace  TEXT NOT NULL,
  group_id   INTEGER NOT NULL REFERENCES member_groups(id) ON DELETE CASCADE,
  permission INTEGER NOT NULL REFERENCES permission_sets(id),
  created    INTEGER NOT NULL,
  PRIMARY KEY (project, group_id)
);
CREATE INDEX project_groups_group ON project_groups(group_id);

-- Up to now every member saw every project and could do all in it.
INSERT INTO project_members (project, workspace, user_id, permission, created)
  SELECT p.id, p.workspace, m.user_id, 3, p.created FROM projects p JOIN members m ON m.workspace = p.workspace
  WHERE m.role = 'MEMBER' OR m.user_id = p.created_by;
