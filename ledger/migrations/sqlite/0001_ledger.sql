-- The same tables as in Postgres, and the embedded queues and state. Times are microseconds since the Unix epoch.

CREATE TABLE node (
    id          TEXT PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT;

CREATE TABLE invocation (
    function      TEXT NOT NULL,
    key           TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('claimed', 'waiting', 'succeeded', 'dead')),
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
    crashes       INTEGER NOT NULL CHECK (crashes >= 0),
    epoch         INTEGER NOT NULL CHECK (epoch >= 0),
    fence         INTEGER NOT NULL CHECK (fence >= 1),
    owner         TEXT,
    incarnation   INTEGER,
    digest        BLOB NOT NULL,
    first_seen_at INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    due_at        INTEGER,
    expires_at    INTEGER,
    error_kind    TEXT,
    error_message TEXT,
    result        BLOB,
    PRIMARY KEY (function, key),
    CHECK ((state = 'succeeded') = (expires_at IS NOT NULL)),
    CHECK ((state = 'waiting') = (due_at IS NOT NULL))
) STRICT;
-- SQLite updates rows in place, so that an index on a changing column costs only itself (unlike in Postgres).
CREATE INDEX invocation_expiry ON invocation (expires_at) WHERE state = 'succeeded';

CREATE TABLE swept (
    function TEXT PRIMARY KEY,
    fence    INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    due_at     INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    tries      INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    message    BLOB NOT NULL
) STRICT;
CREATE INDEX outbox_due ON outbox (due_at, id);

CREATE TABLE dead_letter (
    id          TEXT PRIMARY KEY,
    function    TEXT NOT NULL,
    key         TEXT,
    epoch       INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    buried_at   INTEGER NOT NULL,
    arrivals    INTEGER NOT NULL,
    copied      INTEGER NOT NULL,
    redriven_at INTEGER,
    redriven_by TEXT,
    letter      BLOB NOT NULL
) STRICT;
CREATE INDEX dead_letter_buried ON dead_letter (buried_at DESC, id);

-- Embedded broker: queues, what feeds them, and what lies in them.
CREATE TABLE queue (
    name TEXT PRIMARY KEY
) STRICT;
CREATE TABLE binding (
    queue    TEXT NOT NULL,
    exchange TEXT NOT NULL,
    pattern  TEXT NOT NULL,
    PRIMARY KEY (exchange, queue, pattern)
) STRICT;
-- The queue that takes what an exchange routes nowhere.
CREATE TABLE alternate (
    exchange TEXT PRIMARY KEY,
    queue    TEXT NOT NULL
) STRICT;
CREATE TABLE message (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    queue   TEXT NOT NULL,
    message BLOB NOT NULL
) STRICT;
CREATE INDEX message_queue ON message (queue, id);

-- Embedded state: values, the fences that guard them, and what was applied once.
CREATE TABLE state (
    function   TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      BLOB NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (function, name)
) STRICT;
CREATE TABLE state_fence (
    function   TEXT NOT NULL,
    key        TEXT NOT NULL,
    fence      INTEGER NOT NULL,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (function, key)
) STRICT;
CREATE TABLE state_once (
    function  TEXT NOT NULL,
    key       TEXT NOT NULL,
    operation TEXT NOT NULL,
    result    BLOB NOT NULL,
    done_at   INTEGER NOT NULL,
    PRIMARY KEY (function, key, operation)
) STRICT;
