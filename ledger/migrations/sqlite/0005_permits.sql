-- The same changes as in Postgres. No lock is needed: writers are serial here.

ALTER TABLE node ADD COLUMN entered_at INTEGER;

CREATE TABLE permit (
    function    TEXT NOT NULL,
    node        TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    held        INTEGER NOT NULL CHECK (held >= 0),
    wanted      INTEGER NOT NULL CHECK (wanted >= 0),
    PRIMARY KEY (function, node)
) STRICT;

-- Whether a queue's messages have an order. It may change only while the queue is empty.
ALTER TABLE queue ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;
