-- The ledger's first tables. Every name is qualified: a search_path in the connection URL changes nothing.

CREATE SCHEMA IF NOT EXISTS weft;

-- One row for each dispatcher that ever ran. A claim names its node and the node's incarnation; it is live while that
-- incarnation is the node's present one and the lease has not run out. So one row update renews every claim of a node.
-- Rows are never deleted: an absent node row is read as "live" (a claim may be newer than the reader's snapshot).
CREATE TABLE weft.node (
    id          text COLLATE "C" PRIMARY KEY,
    incarnation bigint      NOT NULL,
    lease_until timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The primary key is the only index, on purpose. Claim and settle change state, fence and every time column; with none
-- of them indexed (a partial index's WHERE counts too) those updates are heap-only (HOT): no index entry is written and
-- dead versions are pruned in the page. The price: listing by time is a scan, and the expiry sweep walks the table in
-- physical order by ctid, a few pages at a time, instead of using an index on expires_at.
-- fillfactor leaves room in the page for the second version of every row: at 50 more than 9 updates in 10 are heap-only in
-- steady state, at 70 fewer than half.
CREATE TABLE weft.invocation (
    function      text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    state         text COLLATE "C" NOT NULL CHECK (state IN ('claimed', 'waiting', 'succeeded', 'dead')),
    attempt       integer     NOT NULL CHECK (attempt >= 0),
    crashes       integer     NOT NULL CHECK (crashes >= 0),
    epoch         integer     NOT NULL CHECK (epoch >= 0),
    fence         bigint      NOT NULL CHECK (fence >= 1),
    owner         text COLLATE "C",
    incarnation   bigint,
    digest        bytea       NOT NULL,
    first_seen_at timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    due_at        timestamptz,
    expires_at    timestamptz,
    error_kind    text,
    error_message text,
    result        bytea,
    PRIMARY KEY (function, key),
    -- Only a success expires, and always does; only a waiting invocation has a due time, and always does.
    CHECK ((state = 'succeeded') = (expires_at IS NOT NULL)),
    CHECK ((state = 'waiting') = (due_at IS NOT NULL))
) WITH (fillfactor = 50);

-- The highest fence that the sweep has deleted, by function: a key that comes back starts above it, so that a fence is
-- never used twice even after its row is gone.
CREATE TABLE weft.swept (
    function text COLLATE "C" PRIMARY KEY,
    fence    bigint NOT NULL
);

-- Messages that leave once the transaction that wrote them has committed. `message` is MessagePack.
CREATE TABLE weft.outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_at     timestamptz NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    tries      integer     NOT NULL DEFAULT 0,
    last_error text,
    message    bytea       NOT NULL
);
CREATE INDEX outbox_due ON weft.outbox (due_at, id);

-- What was given up. `letter` is the whole dead letter in MessagePack; the other columns are for selecting.
-- `copied` is the value of `arrivals` when the last copy for the dead-letter queue was written.
CREATE TABLE weft.dead_letter (
    id          text COLLATE "C" PRIMARY KEY,
    function    text COLLATE "C" NOT NULL,
    key         text COLLATE "C",
    epoch       integer     NOT NULL,
    reason      text COLLATE "C" NOT NULL,
    buried_at   timestamptz NOT NULL,
    arrivals    bigint      NOT NULL,
    copied      bigint      NOT NULL,
    redriven_at timestamptz,
    redriven_by text,
    letter      bytea       NOT NULL
);
CREATE INDEX dead_letter_buried ON weft.dead_letter (buried_at DESC, id);
