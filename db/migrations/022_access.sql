-- +goose Up
-- What an application was given ends with the token by which it was given.
ALTER TABLE oauth_grants ADD COLUMN token TEXT REFERENCES tokens(id) ON DELETE CASCADE;
CREATE INDEX oauth_grants_token ON oauth_grants(token);
