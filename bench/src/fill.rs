//! A ledger that has been in use for long: settled rows, as the settle leaves them.

use std::time::Instant;

use weft_process::secret::Address;

use crate::child;
use crate::fault::{Fault, Result};
use crate::stage::{Servers, fresh_ledger};

/// Rows in one statement.
const STEP: u64 = 500_000;

/// A fresh ledger of the function `noop` with `rows` successes, of which every `expired`-th has expired (0: none). Keys are
/// random UUIDs behind a source, results are as long as the bench's own; the rows stand in the order in which they were
/// inserted, and the index has grown with them. `VACUUM ANALYZE` afterwards, as autovacuum would have done meanwhile.
///
/// # Errors
/// A statement failed; the disk may be full (ten million rows take 6 GB).
pub async fn filled(servers: &Servers, rows: u64, expired: u64) -> Result<Address> {
    let ledger = fresh_ledger(servers).await?;
    insert(&ledger, 0..rows, expired).await?;
    rested(&ledger).await?;
    checkpoint(&ledger).await?;
    Ok(ledger)
}

async fn sql(ledger: &Address, statement: &str) -> Result<()> {
    weft_tests::sql(ledger.expose(), statement).await.map(drop).map_err(Fault)
}

/// Inserts the rows of these numbers as [`filled`] does, and tells how far it is.
///
/// # Errors
/// A statement failed.
pub async fn insert(ledger: &Address, numbers: std::ops::Range<u64>, expired: u64) -> Result<()> {
    let began = Instant::now();
    let function = child::NOOP;
    let (mut from, rows) = (numbers.start, numbers.end);
    while from < rows {
        let to = rows.min(from + STEP);
        let past = if expired == 0 { "false".to_owned() } else { format!("n % {expired} = 0") };
        let statement = format!(
            "set synchronous_commit = off;
             insert into weft.invocation
                 (function, key, state, attempt, crashes, epoch, fence, owner, incarnation, digest, first_seen_at,
                  updated_at, expires_at, result)
             select '{function}', '/weft/bench ' || gen_random_uuid(), 'succeeded', 1, 0, 0,
                    (extract(epoch from now()) * 1000)::bigint - 60000, 'bench', 1, sha256(n::text::bytea),
                    now() - interval '1 minute', now() - interval '1 minute',
                    case when {past} then now() - interval '1 second' else now() + interval '7 days' end,
                    convert_to('{{\"entered_ns\":' || 100000000000000 + n || '}}', 'UTF8')
             from generate_series({}::bigint, {to}::bigint) n",
            from + 1
        );
        sql(ledger, &statement).await?;
        from = to;
        if rows > STEP {
            eprintln!("  {from} of {rows} rows after {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    let new = rows.saturating_sub(numbers.start);
    let tally = format!(
        "insert into weft.tally as t (function, node, accepted) values ('{function}', 'bench-fill', {new})
         on conflict (function, node) do update set accepted = t.accepted + excluded.accepted"
    );
    sql(ledger, &tally).await
}

/// What autovacuum would have done since.
///
/// # Errors
/// The statement failed.
pub async fn rested(ledger: &Address) -> Result<()> {
    sql(ledger, "vacuum analyze weft.invocation").await
}

/// Writes everything of the server out: after it, the first change of each page puts the whole page into the WAL.
///
/// # Errors
/// The statement failed.
pub async fn checkpoint(ledger: &Address) -> Result<()> {
    sql(ledger, "checkpoint").await
}
