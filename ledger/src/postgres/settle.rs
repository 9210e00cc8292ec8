//! Settling a batch: one statement, one durable commit, everything that belongs to a settled row in it.

use std::borrow::Cow;

use sqlx::Row;
use weft_schemas::{DeadLetter, FunctionName, Reason};

use super::{Postgres, retried};
use crate::codec::{encode, micros};
use crate::letter::{Entry, text};
use crate::{Error, OutboxMessage, Settle, Settled, Settlement};

/// Writes each row that is still claimed with its fence, and the outbox messages and dead letters of just those.
///
/// The look-up stands in a sub-select of its own (`OFFSET 0` keeps it there), so that it probes the primary key once for
/// each settle. As a plain join the planner, which believes a new table to be small, would read every row of the
/// function and compare each with the whole batch. Finding the row again by its `ctid` is safe: whoever changes a claimed
/// row in between ends the claim, and then the guard has to fail.
///
/// `IN (…) IS TRUE` instead of a join keeps the look-up in `done` a hashed one, on connections without hash joins.
///
/// A failed attempt is appended by the same update. `attempts` is what a dead letter counts: less than the row's own
/// attempt means that this one was never started.
pub(super) const SETTLE: &str = "
    WITH done AS (
        UPDATE weft.invocation AS i SET
            state = CASE WHEN r.action IN ('released', 'spared') THEN 'waiting' ELSE r.action END,
            attempt = CASE WHEN r.action IN ('released', 'spared') THEN greatest(i.attempt - 1, 0)
                                    ELSE least(i.attempt, r.attempts) END,
            crashes = i.crashes + (r.crashed AND i.attempt <= coalesce(r.attempts, i.attempt))::int,
            failures = CASE
                WHEN r.error_kind IS NULL OR i.attempt > r.attempts THEN i.failures
                ELSE CASE WHEN jsonb_array_length(i.failures) >= 32 THEN i.failures - 0
                          ELSE coalesce(i.failures, '[]') END
                     || jsonb_build_object(
                        'epoch', i.epoch, 'attempt', i.attempt, 'crashed', r.crashed, 'kind', r.error_kind,
                        'message', left(r.error_message, 1024),
                        'ended_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 'node', i.owner) END,
            result = r.result,
            error_kind = CASE r.action WHEN 'released' THEN i.error_kind ELSE r.error_kind END,
            error_message = CASE r.action WHEN 'released' THEN i.error_message ELSE r.error_message END,
            due_at = clock_timestamp() + r.due_us * interval '1 microsecond',
            expires_at = clock_timestamp() + r.keep_us * interval '1 microsecond',
            updated_at = clock_timestamp()
        FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::text[],
                    $9::text[], $10::bool[], $11::int[]) WITH ORDINALITY
             AS r(key, fence, action, result, keep_us, due_us, error_kind, error_message, crashed, attempts, n)
             CROSS JOIN LATERAL (
                 SELECT v.ctid AS place FROM weft.invocation v
                 WHERE v.function = $1 AND v.key = r.key AND v.fence = r.fence AND v.state = 'claimed' OFFSET 0
             ) AS found
        WHERE i.ctid = found.place AND i.fence = r.fence AND i.state = 'claimed'
        RETURNING r.n
    ), letters AS (
        INSERT INTO weft.dead_letter AS d
            (id, function, key, epoch, reason, error_kind, error_message, fingerprint, settled, buried_at, arrivals,
             copied, letter)
        SELECT l.id, $1, l.key, l.epoch, l.reason, l.error_kind, l.error_message, l.fingerprint, true,
               clock_timestamp(), 1, 1, l.letter
        FROM unnest($12::bigint[], $13::text[], $14::text[], $15::int[], $16::text[], $17::text[], $18::text[],
                    $19::text[], $20::bytea[])
             AS l(n, id, key, epoch, reason, error_kind, error_message, fingerprint, letter)
        WHERE (l.n IN (SELECT n FROM done)) IS TRUE
        ON CONFLICT (id) DO UPDATE SET
            arrivals = d.arrivals + 1, copied = d.arrivals + 1, buried_at = excluded.buried_at, settled = true,
            reason = excluded.reason, error_kind = excluded.error_kind, error_message = excluded.error_message,
            fingerprint = excluded.fingerprint, letter = excluded.letter,
            redriven_at = NULL, redriven_by = NULL, redriven_as = NULL, purged_at = NULL, purged_by = NULL
    ), posted AS (
        INSERT INTO weft.outbox (due_at, kind, function, key, message)
        SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind,
               CASE WHEN o.key IS NOT NULL THEN $1 END, o.key, o.message
        FROM unnest($21::bigint[], $22::bigint[], $23::text[], $24::text[], $25::bytea[]) WITH ORDINALITY
             AS o(n, due_us, kind, key, message, place)
        WHERE (o.n IN (SELECT n FROM done)) IS TRUE
        ORDER BY o.place
    )
    SELECT n FROM done";

/// A batch as columns.
#[derive(Default)]
struct Columns<'a> {
    key: Vec<&'a str>,
    fence: Vec<i64>,
    action: Vec<&'static str>,
    result: Vec<Option<&'a [u8]>>,
    keep_us: Vec<Option<i64>>,
    due_us: Vec<Option<i64>>,
    error_kind: Vec<Option<Cow<'a, str>>>,
    error_message: Vec<Option<Cow<'a, str>>>,
    crashed: Vec<bool>,
    attempts: Vec<Option<i32>>,
    letters: Letters<'a>,
    outbox: Outbox<'a>,
}

#[derive(Default)]
struct Letters<'a> {
    n: Vec<i64>,
    id: Vec<&'a str>,
    key: Vec<&'a str>,
    epoch: Vec<i32>,
    reason: Vec<&'static str>,
    error_kind: Vec<String>,
    error_message: Vec<String>,
    fingerprint: Vec<String>,
    letter: Vec<Vec<u8>>,
}

/// Messages for the outbox as columns. `n` says which settle or letter they belong to, `key` which invocation they stand
/// for: that of a retry, a redrive or a dead letter.
#[derive(Default)]
pub(crate) struct Outbox<'a> {
    pub n: Vec<i64>,
    pub due_us: Vec<i64>,
    pub kind: Vec<&'static str>,
    pub key: Vec<Option<&'a str>>,
    pub message: Vec<Vec<u8>>,
}

impl<'a> Outbox<'a> {
    pub fn push(&mut self, n: i64, key: Option<&'a str>, message: &OutboxMessage) -> Result<(), Error> {
        self.message.push(encode(&message.message)?);
        self.n.push(n);
        self.due_us.push(micros(message.due_in));
        self.kind.push(message.kind.as_str());
        self.key.push(key);
        Ok(())
    }
}

impl<'a> Columns<'a> {
    fn of(settles: &'a [Settle]) -> Result<Self, Error> {
        let mut columns = Self::default();
        for (n, settle) in (1i64..).zip(settles) {
            columns.push(n, settle)?;
        }
        Ok(columns)
    }

    fn push(&mut self, n: i64, settle: &'a Settle) -> Result<(), Error> {
        let (mut result, mut keep, mut due, mut error, mut crash) = (None, None, None, None, false);
        let (key, mut attempts) = (settle.key.as_str(), None);
        let action = match &settle.to {
            Settlement::Succeeded { result: bytes, keep: kept, outbox } => {
                (result, keep) = (Some(bytes.as_ref()), Some(micros(*kept)));
                outbox.iter().try_for_each(|message| self.outbox.push(n, None, message))?;
                "succeeded"
            }
            Settlement::Waiting { error: failure, crashed, retry } => {
                (error, crash, due) = (Some(failure), *crashed, Some(micros(retry.due_in)));
                self.outbox.push(n, Some(key), retry)?;
                "waiting"
            }
            Settlement::Spared { error: failure, retry } => {
                (error, crash, due) = (Some(failure), true, Some(micros(retry.due_in)));
                self.outbox.push(n, Some(key), retry)?;
                "spared"
            }
            Settlement::Held { error: failure, crashed, spared, due_in } => {
                (error, crash, due) = (Some(failure), *crashed || *spared, Some(micros(*due_in)));
                if *spared { "spared" } else { "waiting" }
            }
            Settlement::Dead { letter, copy } => {
                (error, crash) = (Some(&letter.error), letter.reason == Reason::Crashed);
                attempts = Some(i32::try_from(letter.attempts.0).unwrap_or(i32::MAX));
                self.letters.push(n, key, letter)?;
                self.outbox.push(n, Some(key), copy)?;
                "dead"
            }
            Settlement::Released => {
                due = Some(0);
                "released"
            }
        };
        self.key.push(key);
        self.fence.push(settle.fence.0);
        self.action.push(action);
        self.result.push(result);
        self.keep_us.push(keep);
        self.due_us.push(due);
        self.error_kind.push(error.map(|error| text(&error.kind)));
        self.error_message.push(error.map(|error| text(&error.message)));
        self.crashed.push(crash);
        self.attempts.push(attempts);
        Ok(())
    }
}

impl<'a> Letters<'a> {
    fn push(&mut self, n: i64, key: &'a str, letter: &'a DeadLetter) -> Result<(), Error> {
        let Entry { error_kind, error_message, fingerprint } = Entry::of(&letter.error);
        self.letter.push(encode(letter)?);
        self.n.push(n);
        self.id.push(&letter.id.0);
        self.key.push(key);
        self.epoch.push(i32::try_from(letter.epoch.0).unwrap_or(i32::MAX));
        self.reason.push(letter.reason.as_str());
        self.error_kind.push(error_kind);
        self.error_message.push(error_message);
        self.fingerprint.push(fingerprint);
        Ok(())
    }
}

impl Postgres {
    pub(super) async fn settle_batch(
        &self,
        function: &FunctionName,
        settles: &[Settle],
    ) -> Result<Vec<Settled>, Error> {
        if settles.is_empty() {
            return Ok(Vec::new());
        }
        let columns = Columns::of(settles)?;
        let rows = retried!(self.write(function, &columns)).map_err(self.map("settle invocations"))?;
        let mut settled = vec![Settled::AuthorityLost; settles.len()];
        for row in rows {
            let n: i64 = row.try_get(0).map_err(self.map("settle invocations"))?;
            if let Some(slot) = usize::try_from(n - 1).ok().and_then(|at| settled.get_mut(at)) {
                *slot = Settled::Done;
            }
        }
        Ok(settled)
    }

    async fn write(&self, function: &FunctionName, columns: &Columns<'_>) -> sqlx::Result<Vec<sqlx::postgres::PgRow>> {
        let Columns { letters, outbox, .. } = columns;
        sqlx::query(SETTLE)
            .bind(function.as_str())
            .bind(&columns.key)
            .bind(&columns.fence)
            .bind(&columns.action)
            .bind(&columns.result)
            .bind(&columns.keep_us)
            .bind(&columns.due_us)
            .bind(&columns.error_kind)
            .bind(&columns.error_message)
            .bind(&columns.crashed)
            .bind(&columns.attempts)
            .bind(&letters.n)
            .bind(&letters.id)
            .bind(&letters.key)
            .bind(&letters.epoch)
            .bind(&letters.reason)
            .bind(&letters.error_kind)
            .bind(&letters.error_message)
            .bind(&letters.fingerprint)
            .bind(&letters.letter)
            .bind(&outbox.n)
            .bind(&outbox.due_us)
            .bind(&outbox.kind)
            .bind(&outbox.key)
            .bind(&outbox.message)
            .fetch_all(&self.settles)
            .await
    }
}
