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
    let sql = async |statement: String| weft_tests::sql(ledger.expose(), &statement).await.map_err(Fault);
    let began = Instant::now();
    let function = child::NOOP;
    let mut from = 0;
    while from < rows {
        let to = rows.min(from + STEP);
        let past = if expired == 0 { "false".to_owned() } else { format!("n % {expired} = 0") };
        sql(format!(
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
        ))
        .await?;
        from = to;
        if rows > STEP {
            eprintln!("  {from} of {rows} rows after {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    sql(format!("insert into weft.tally (function, node, accepted) values ('{function}', 'bench-fill', {rows})"))
        .await?;
    sql("vacuum analyze weft.invocation".to_owned()).await?;
    sql("checkpoint".to_owned()).await?;
    Ok(ledger)
}
