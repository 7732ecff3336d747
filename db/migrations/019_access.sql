-- +goose Up
-- Applications that users give tokens to by OAuth2, and what users gave them.
CREATE TABLE oauth_apps (
  id        TEXT PRIMARY KEY,               -- client_id
  user_id   INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE, -- who registered it
  secret    BLOB NOT NULL,                  -- SHA-256
  name      TEXT NOT NULL,
  redirects TEXT NOT NULL,                  -- JSON list
  created   INTEGER NOT NULL
);

CREATE TABLE oauth_grants (
  id             TEXT PRIMARY KEY,
  app            TEXT NOT NULL REFERENCES oauth_apps(id) ON DELETE CASCADE,
  user_id        INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  scopes         TEXT NOT NULL,             -- JSON lists, as those of tokens
  workspaces     TEXT NOT NULL,
  ips            TEXT NOT NULL,
  redirect       TEXT NOT NULL,             -- that the code was sent to
  challenge      TEXT NOT NULL DEFAULT '',  -- of PKCE, S256
  code           BLOB NOT NULL UNIQUE,      -- SHA-256, as the others
  redeemed       BOOLEAN NOT NULL DEFAULT 0,
  refresh        BLOB UNIQUE,
  refresh_before BLOB,                      -- good until the next one was used
  expires        INTEGER NOT NULL,          -- the code, then the refresh token
  until          INTEGER,                   -- nothing of it is good any longer; NULL: no such time
  created        INTEGER NOT NULL
);
CREATE INDEX oauth_grants_app ON oauth_grants(app);
CREATE INDEX oauth_grants_user ON oauth_grants(user_id);
CREATE INDEX oauth_grants_before ON oauth_grants(refresh_before);
CREATE INDEX oauth_grants_expires ON oauth_grants(expires);

ALTER TABLE tokens ADD COLUMN grant_id TEXT REFERENCES oauth_grants(id) ON DELETE CASCADE;
CREATE INDEX tokens_grant ON tokens(grant_id);

-- What users say of themselves.
CREATE TABLE user_keys (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  title   TEXT NOT NULL,
  content TEXT NOT NULL,                    -- as in authorized_keys
  created INTEGER NOT NULL,
  UNIQUE (user_id, content)
);

CREATE TABLE user_emails (
  user_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  email   TEXT NOT NULL,                    -- beside that of the user
  created INTEGER NOT NULL,
  PRIMARY KEY (user_id, email)
);
