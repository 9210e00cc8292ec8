//! Deleting what has expired from a large ledger: how fast, how long its longest statement holds things up, and what claims
//! beside it notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_ledger::{ClaimRequest, Ledger, Settle, Settlement, Verdict};
use weft_schemas::{Digest, FunctionName, NodeName};

use crate::child;
use crate::clock::{micros_between, now_ns};
use crate::fault::{Fault, Result, ensure};
use crate::fill::filled;
use crate::numbers::Percentiles;
use crate::stage::{Servers, key};

/// One row in so many has expired.
const EXPIRED: u64 = 10;
/// Rows in one call, as the dispatcher asks for them.
const CALL: u32 = 5_000;
/// Between two claims beside it.
const PACE: Duration = Duration::from_millis(5);
/// Claims are watched this long without a sweep beside them.
const ALONE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
pub struct Sweep {
    pub rows: u64,
    pub deleted: u64,
    pub seconds: f64,
    pub rows_per_second: f64,
    pub calls: usize,
    /// Of 5,000 rows at most.
    pub longest_call_ms: f64,
    /// Of any statement of the sweep, as the server saw it.
    pub longest_statement_ms: f64,
    pub statement: String,
    /// A claim of one fresh key.
    pub claim_alone_us: Percentiles,
    pub claim_beside_us: Percentiles,
}

pub async fn run(servers: &Servers, rows: u64) -> Result<Sweep> {
    eprintln!("sweep: filling a ledger with {rows} rows");
    let address = filled(servers, rows, EXPIRED).await?;
    let ledger = weft_ledger::open(address.expose()).await?;
    let sql = async |statement: &str| weft_tests::sql(address.expose(), statement).await.map_err(Fault);
    sql("create extension if not exists pg_stat_statements").await?;
    eprintln!("sweep: claims alone");
    let mut next = 0;
    let stop = Arc::new(AtomicBool::new(false));
    let alone = claims(Arc::clone(&ledger), &mut next, |began| began.elapsed() >= ALONE).await?;
    sql("select pg_stat_statements_reset()").await?;
    eprintln!("sweep: sweeping");
    let beside = {
        let (ledger, stop) = (Arc::clone(&ledger), Arc::clone(&stop));
        tokio::spawn(async move { claims(ledger, &mut next, |_| stop.load(Ordering::Relaxed)).await })
    };
    let (began, mut deleted, mut calls, mut longest) = (Instant::now(), 0, 0, Duration::ZERO);
    while deleted < rows / EXPIRED {
        let call = Instant::now();
        let gone = ledger.sweep(CALL).await?;
        longest = longest.max(call.elapsed());
        (deleted, calls) = (deleted + gone, calls + 1);
        ensure(calls < 100_000, || format!("only {deleted} rows were swept"))?;
    }
    let took = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let beside = beside.await??;
    let slowest =
        sql("select round(max_exec_time::numeric, 2) || ' ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 60)
         from pg_stat_statements where query ~ 'weft.swept|gone' order by max_exec_time desc limit 1")
        .await?;
    let (longest_statement, statement) = slowest.split_once(' ').unwrap_or(("", ""));
    Ok(Sweep {
        rows,
        deleted,
        seconds: took,
        rows_per_second: deleted as f64 / took,
        calls,
        longest_call_ms: longest.as_secs_f64() * 1e3,
        longest_statement_ms: longest_statement.parse().unwrap_or(f64::NAN),
        statement: statement.to_owned(),
        claim_alone_us: alone,
        claim_beside_us: beside,
    })
}

/// Claims one fresh key after the other until `over`, and settles each.
async fn claims(ledger: Arc<dyn Ledger>, next: &mut u32, over: impl Fn(Instant) -> bool + Send) -> Result<Percentiles> {
    let session = ledger.enter(&NodeName::new("bench")?, Duration::from_secs(600)).await?;
    let function = FunctionName::new(child::NOOP)?;
    let (began, mut took) = (Instant::now(), Vec::new());
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over(began) {
        tick.tick().await;
        let request = ClaimRequest { key: key(*next)?, digest: Digest::of(&[b"x"]), resume: None, interrupted: false };
        *next += 1;
        let key = request.key.clone();
        let started = now_ns();
        let verdicts = ledger.claim(session.owner(), &function, &[request]).await?;
        took.push(micros_between(started, now_ns()));
        let [Verdict::Run(claim)] = verdicts[..] else {
            return Err(Fault(format!("a fresh key was answered with {verdicts:?}")));
        };
        let to = Settlement::Succeeded { result: b"1"[..].into(), keep: Duration::from_secs(3600), outbox: Vec::new() };
        ledger.settle(&function, &[Settle { key, fence: claim.fence, to }]).await?;
    }
    session.leave().await?;
    Ok(Percentiles::of(took))
}
