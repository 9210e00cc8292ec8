-- Finds what was closed since a given time without reading what is open: an open letter is in no such index, and a letter is
-- closed one way only.
CREATE INDEX dead_letter_closed ON weft.dead_letter (coalesce(redriven_at, purged_at), function)
    WHERE coalesce(redriven_at, purged_at) IS NOT NULL;
