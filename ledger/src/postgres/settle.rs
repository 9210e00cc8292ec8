//! Settling a batch: one statement, one durable commit, everything that belongs to a settled row in it.

use sqlx::Row;
use weft_schemas::{FunctionName, Reason};

use super::{Postgres, retried};
use crate::codec::{encode, micros};
use crate::{Error, OutboxMessage, Settle, Settled, Settlement};

/// Writes each row that is still claimed with its fence, and the outbox messages and dead letters of just those.
///
/// The look-up stands in a sub-select of its own (`OFFSET 0` keeps it there), so that it probes the primary key once for
/// each settle. As a plain join the planner, which believes a new table to be small, would read every row of the
/// function and compare each with the whole batch. Finding the row again by its `ctid` is safe: whoever changes a claimed
/// row in between ends the claim, and then the guard has to fail.
///
/// `IN (…) IS TRUE` instead of a join keeps the look-up in `done` a hashed one, on connections without hash joins.
pub(super) const SETTLE: &str = "
    WITH done AS (
        UPDATE weft.invocation AS i SET
            state = CASE r.action WHEN 'released' THEN 'waiting' ELSE r.action END,
            attempt = CASE r.action WHEN 'released' THEN greatest(i.attempt - 1, 0) ELSE i.attempt END,
            crashes = i.crashes + r.crashed::int,
            result = r.result,
            error_kind = CASE r.action WHEN 'released' THEN i.error_kind ELSE r.error_kind END,
            error_message = CASE r.action WHEN 'released' THEN i.error_message ELSE r.error_message END,
            due_at = clock_timestamp() + r.due_us * interval '1 microsecond',
            expires_at = clock_timestamp() + r.keep_us * interval '1 microsecond',
            updated_at = clock_timestamp()
        FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::text[],
                    $9::text[], $10::bool[]) WITH ORDINALITY
             AS r(key, fence, action, result, keep_us, due_us, error_kind, error_message, crashed, n)
             CROSS JOIN LATERAL (
                 SELECT v.ctid AS place FROM weft.invocation v
                 WHERE v.function = $1 AND v.key = r.key AND v.fence = r.fence AND v.state = 'claimed' OFFSET 0
             ) AS found
        WHERE i.ctid = found.place AND i.fence = r.fence AND i.state = 'claimed'
        RETURNING r.n
    ), letters AS (
        INSERT INTO weft.dead_letter AS d
            (id, function, key, epoch, reason, buried_at, arrivals, copied, letter)
        SELECT l.id, $1, l.key, l.epoch, l.reason, clock_timestamp(), 1, 1, l.letter
        FROM unnest($11::bigint[], $12::text[], $13::text[], $14::int[], $15::text[], $16::bytea[])
             AS l(n, id, key, epoch, reason, letter)
        WHERE (l.n IN (SELECT n FROM done)) IS TRUE
        ON CONFLICT (id) DO UPDATE SET
            arrivals = d.arrivals + 1, copied = d.arrivals + 1, buried_at = excluded.buried_at,
            redriven_at = NULL, redriven_by = NULL, letter = excluded.letter
    ), posted AS (
        INSERT INTO weft.outbox (due_at, kind, message)
        SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind, o.message
        FROM unnest($17::bigint[], $18::bigint[], $19::text[], $20::bytea[]) WITH ORDINALITY
             AS o(n, due_us, kind, message, place)
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
    error_kind: Vec<Option<&'a str>>,
    error_message: Vec<Option<&'a str>>,
    crashed: Vec<bool>,
    letters: Letters<'a>,
    outbox: Outbox,
}

#[derive(Default)]
struct Letters<'a> {
    n: Vec<i64>,
    id: Vec<&'a str>,
    key: Vec<&'a str>,
    epoch: Vec<i32>,
    reason: Vec<&'static str>,
    letter: Vec<Vec<u8>>,
}

/// Messages for the outbox as columns. `n` says whose they are.
#[derive(Default)]
pub(crate) struct Outbox {
    pub n: Vec<i64>,
    pub due_us: Vec<i64>,
    pub kind: Vec<&'static str>,
    pub message: Vec<Vec<u8>>,
}

impl Outbox {
    pub fn push(&mut self, n: i64, message: &OutboxMessage) -> Result<(), Error> {
        self.message.push(encode(&message.message)?);
        self.n.push(n);
        self.due_us.push(micros(message.due_in));
        self.kind.push(message.kind.as_str());
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
        let action = match &settle.to {
            Settlement::Succeeded { result: bytes, keep: kept, outbox } => {
                (result, keep) = (Some(bytes.as_ref()), Some(micros(*kept)));
                outbox.iter().try_for_each(|message| self.outbox.push(n, message))?;
                "succeeded"
            }
            Settlement::Waiting { error: failure, crashed, retry } => {
                (error, crash, due) = (Some(failure), *crashed, Some(micros(retry.due_in)));
                self.outbox.push(n, retry)?;
                "waiting"
            }
            Settlement::Dead { letter, copy } => {
                (error, crash) = (Some(&letter.error), letter.reason == Reason::Crashed);
                self.letters.n.push(n);
                self.letters.id.push(&letter.id.0);
                self.letters.key.push(settle.key.as_str());
                self.letters.epoch.push(i32::try_from(letter.epoch.0).unwrap_or(i32::MAX));
                self.letters.reason.push(letter.reason.as_str());
                self.letters.letter.push(encode(letter)?);
                self.outbox.push(n, copy)?;
                "dead"
            }
            Settlement::Released => {
                due = Some(0);
                "released"
            }
        };
        self.key.push(settle.key.as_str());
        self.fence.push(settle.fence.0);
        self.action.push(action);
        self.result.push(result);
        self.keep_us.push(keep);
        self.due_us.push(due);
        self.error_kind.push(error.map(|error| error.kind.as_str()));
        self.error_message.push(error.map(|error| error.message.as_str()));
        self.crashed.push(crash);
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
            .bind(&letters.n)
            .bind(&letters.id)
            .bind(&letters.key)
            .bind(&letters.epoch)
            .bind(&letters.reason)
            .bind(&letters.letter)
            .bind(&outbox.n)
            .bind(&outbox.due_us)
            .bind(&outbox.kind)
            .bind(&outbox.message)
            .fetch_all(&self.settles)
            .await
    }
}
