//! Burying what never became an invocation.

use std::collections::BTreeMap;

use weft_schemas::DeadLetter;

use super::settle::Outbox;
use super::{Postgres, retried};
use crate::codec::encode;
use crate::letter::Entry;
use crate::{Error, OutboxMessage};

/// A letter that is new, or that comes back after it was closed, sends its copy; any other arrival is only counted.
const BURY: &str = "
    WITH buried AS (
        INSERT INTO weft.dead_letter AS d
            (id, function, key, epoch, reason, error_kind, error_message, fingerprint, buried_at, arrivals, copied,
             letter)
        SELECT l.id, l.function, l.key, l.epoch, l.reason, l.error_kind, l.error_message, l.fingerprint,
               clock_timestamp(), l.arrivals, l.arrivals, l.letter
        FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
                    $9::bigint[], $10::bytea[])
             AS l(id, function, key, epoch, reason, error_kind, error_message, fingerprint, arrivals, letter)
        ORDER BY l.id COLLATE \"C\"
        ON CONFLICT (id) DO UPDATE SET
            arrivals = d.arrivals + excluded.arrivals,
            copied = CASE WHEN d.redriven_at IS NULL AND d.purged_at IS NULL THEN d.copied
                          ELSE d.arrivals + excluded.arrivals END,
            letter = CASE WHEN d.redriven_at IS NULL AND d.purged_at IS NULL THEN d.letter ELSE excluded.letter END,
            buried_at = excluded.buried_at,
            redriven_at = NULL, redriven_by = NULL, redriven_as = NULL, purged_at = NULL, purged_by = NULL
        RETURNING d.id, d.copied = d.arrivals AS fresh
    )
    INSERT INTO weft.outbox (due_at, kind, function, key, message)
    SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind, o.function, o.key, o.message
    FROM unnest($1::text[], $11::bigint[], $12::text[], $2::text[], $3::text[], $13::bytea[]) WITH ORDINALITY
         AS o(id, due_us, kind, function, key, message, place)
    WHERE (o.id IN (SELECT id FROM buried WHERE fresh)) IS TRUE
    ORDER BY o.place";

impl Postgres {
    pub(super) async fn bury_batch(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        // One statement cannot meet the same row twice.
        let mut distinct: BTreeMap<&str, (&DeadLetter, &OutboxMessage, i64)> = BTreeMap::new();
        for (letter, copy) in letters {
            distinct.entry(&letter.id.0).or_insert((letter, copy, 0)).2 += 1;
        }
        let (mut encoded, mut outbox) = (Vec::with_capacity(distinct.len()), Outbox::default());
        for (n, (letter, copy, _)) in (1i64..).zip(distinct.values()) {
            encoded.push(encode(letter)?);
            outbox.push(n, letter.key.as_ref().map(|key| key.as_str()), copy)?;
        }
        let rows = distinct.values();
        let ids: Vec<&str> = distinct.keys().copied().collect();
        let functions: Vec<&str> = rows.clone().map(|(letter, ..)| letter.function.as_str()).collect();
        let epochs: Vec<i32> =
            rows.clone().map(|(letter, ..)| i32::try_from(letter.epoch.0).unwrap_or(i32::MAX)).collect();
        let reasons: Vec<&str> = rows.clone().map(|(letter, ..)| letter.reason.as_str()).collect();
        let entries: Vec<Entry> = rows.clone().map(|(letter, ..)| Entry::of(&letter.error)).collect();
        let column = |of: fn(&Entry) -> &str| entries.iter().map(of).collect::<Vec<&str>>();
        let kinds = column(|entry| &entry.error_kind);
        let messages = column(|entry| &entry.error_message);
        let fingerprints = column(|entry| &entry.fingerprint);
        let arrivals: Vec<i64> = rows.map(|(.., arrivals)| *arrivals).collect();
        let statement = || {
            sqlx::query(BURY)
                .bind(&ids)
                .bind(&functions)
                .bind(&outbox.key)
                .bind(&epochs)
                .bind(&reasons)
                .bind(&kinds)
                .bind(&messages)
                .bind(&fingerprints)
                .bind(&arrivals)
                .bind(&encoded)
                .bind(&outbox.due_us)
                .bind(&outbox.kind)
                .bind(&outbox.message)
                .execute(&self.settles)
        };
        retried!(statement()).map_err(self.map("bury messages"))?;
        Ok(())
    }
}
