-- +goose Up
-- When the images of a stack are asked for again, and for each service the
-- definition that this is done with.
ALTER TABLE stacks ADD COLUMN cron TEXT NOT NULL DEFAULT '';      -- '': never
ALTER TABLE stacks ADD COLUMN timezone TEXT NOT NULL DEFAULT '';  -- as it was given; '' is UTC
ALTER TABLE stacks ADD COLUMN update_at INTEGER;                  -- the next time
ALTER TABLE services ADD COLUMN updating TEXT NOT NULL DEFAULT ''; -- service_definitions, while its image is looked for
