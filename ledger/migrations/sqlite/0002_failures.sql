-- The same changes as in Postgres.

ALTER TABLE outbox ADD COLUMN function TEXT;
ALTER TABLE outbox ADD COLUMN key TEXT;
ALTER TABLE outbox ADD COLUMN failing_since INTEGER;
CREATE INDEX outbox_key ON outbox (function, key) WHERE key IS NOT NULL;

-- JSON text.
ALTER TABLE invocation ADD COLUMN failures TEXT;

ALTER TABLE dead_letter ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN error_kind TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letter ADD COLUMN error_message TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letter ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letter ADD COLUMN redriven_as TEXT;
ALTER TABLE dead_letter ADD COLUMN purged_at INTEGER;
ALTER TABLE dead_letter ADD COLUMN purged_by TEXT;
CREATE INDEX dead_letter_key ON dead_letter (function, key);

CREATE TABLE tally (
    function TEXT NOT NULL,
    node     TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (function, node)
) STRICT;
INSERT INTO tally (function, node, accepted)
SELECT function, '', count(*) FROM invocation GROUP BY function;

ALTER TABLE swept ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
