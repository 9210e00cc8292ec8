-- What each function has used in each hour, as each dispatcher says of itself: for costs. A row is written again and again
-- while its hour lasts, with what it has become. Hours are those of UTC, in microseconds.
CREATE TABLE usage (
    function      TEXT NOT NULL,
    hour          INTEGER NOT NULL,
    node          TEXT NOT NULL,
    incarnation   INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    cold_starts   INTEGER NOT NULL,
    billed_ms     INTEGER NOT NULL,
    billed_mb_ms  INTEGER NOT NULL,
    worker_ms     INTEGER NOT NULL,
    worker_mb_ms  INTEGER NOT NULL,
    PRIMARY KEY (function, hour, node, incarnation)
) STRICT, WITHOUT ROWID;
