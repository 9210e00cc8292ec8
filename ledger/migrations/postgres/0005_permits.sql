-- A bound over all dispatchers, function by function.

-- When the present incarnation began: what its predecessor held still counts for a moment after that.
ALTER TABLE weft.node ADD COLUMN entered_at timestamptz NOT NULL DEFAULT '-infinity';

-- One row for each function with a bound. Its lock makes changes of permits serial.
CREATE TABLE weft.cap (
    function text COLLATE "C" PRIMARY KEY,
    asked_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What each dispatcher holds of it, and what it could use. A row counts while its node's incarnation may still run
-- something; so nothing has to be cleaned up when a dispatcher vanishes.
CREATE TABLE weft.permit (
    function    text COLLATE "C" NOT NULL,
    node        text COLLATE "C" NOT NULL,
    incarnation bigint  NOT NULL,
    held        integer NOT NULL CHECK (held >= 0),
    wanted      integer NOT NULL CHECK (wanted >= 0),
    PRIMARY KEY (function, node)
) WITH (fillfactor = 50);
