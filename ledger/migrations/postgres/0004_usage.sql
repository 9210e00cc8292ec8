-- What each function has used in each hour, as each dispatcher says of itself: for costs. A row is written again and again
-- while its hour lasts, with what it has become; no other row and no index changes with it, so that its updates stay
-- heap-only. Hours are those of UTC.
CREATE TABLE weft.usage (
    function      text COLLATE "C" NOT NULL,
    hour          timestamptz NOT NULL,
    node          text COLLATE "C" NOT NULL,
    incarnation   bigint NOT NULL,
    attempts      bigint NOT NULL,
    cold_starts   bigint NOT NULL,
    billed_ms     bigint NOT NULL,
    billed_mb_ms  bigint NOT NULL,
    worker_ms     bigint NOT NULL,
    worker_mb_ms  bigint NOT NULL,
    PRIMARY KEY (function, hour, node, incarnation)
) WITH (fillfactor = 70);
