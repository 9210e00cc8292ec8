-- The same index as in Postgres.
CREATE INDEX dead_letter_closed ON dead_letter (coalesce(redriven_at, purged_at), function)
    WHERE coalesce(redriven_at, purged_at) IS NOT NULL;
