-- The failure path: what each attempt died of, whose outbox row it is, what a dead letter died of and became, and books
-- that can be checked. What stands in MessagePack already is read out by the program after this script, in the same
-- transaction (see `fill`).

-- Whose retry, redrive or dead letter it is; NULL for what belongs to no invocation. `failing_since` is when it was due at
-- first, once publishing it has failed.
ALTER TABLE weft.outbox
    ADD COLUMN function      text COLLATE "C",
    ADD COLUMN key           text COLLATE "C",
    ADD COLUMN failing_since timestamptz;

-- The failed attempts, oldest first, as an array of objects. A column of the row and in no index: it is appended to by the
-- update that settles or claims anyway, which stays heap-only, and the sweep removes it with the row.
ALTER TABLE weft.invocation ADD COLUMN failures jsonb;

-- `settled`: it is the end of the invocation with its key and epoch, not of a message that never became one.
ALTER TABLE weft.dead_letter
    ADD COLUMN settled       boolean NOT NULL DEFAULT false,
    ADD COLUMN error_kind    text    NOT NULL DEFAULT '',
    ADD COLUMN error_message text    NOT NULL DEFAULT '',
    ADD COLUMN fingerprint   text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN redriven_as   text COLLATE "C",
    ADD COLUMN purged_at     timestamptz,
    ADD COLUMN purged_by     text;
CREATE INDEX dead_letter_key ON weft.dead_letter (function, key);

-- How many invocations ever came into being: raised by the claim that inserts them. One row for each node, so that
-- dispatchers do not wait for each other. What is there now was counted by nobody: node ''.
CREATE TABLE weft.tally (
    function text COLLATE "C" NOT NULL,
    node     text COLLATE "C" NOT NULL,
    accepted bigint NOT NULL,
    PRIMARY KEY (function, node)
);
INSERT INTO weft.tally (function, node, accepted)
SELECT function, '', count(*) FROM weft.invocation GROUP BY function;

-- How many rows the sweep has deleted since then.
ALTER TABLE weft.swept ADD COLUMN deleted bigint NOT NULL DEFAULT 0;
