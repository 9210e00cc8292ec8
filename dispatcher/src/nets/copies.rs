//! Takes the copies of closed dead letters out of the dead-letter queues: what was redriven or thrown away in the ledger
//! must not lie at the broker as if it waited for somebody.
//!
//! A pass goes once through a queue, from its head to the depth that it had: closed copies are acked, the others are held
//! and handed back at the end, in their order. It is made only when the ledger says that letters were closed, so it
//! costs nothing otherwise. Several dispatchers may do it at once: what one holds the other does not see, and the next
//! pass does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_ledger::Ledger;
use weft_schemas::dead_letter::header;
use weft_schemas::{DeadLetterId, FunctionName};

use crate::broker::{Broker, DeliveryId, Names};
use crate::status::Stats;

/// How often the ledger is asked what was closed.
const PERIOD: Duration = Duration::from_secs(60);
/// After a redrive that passed through here it is asked at once, but not more often than this.
const AT_MOST: Duration = Duration::from_secs(2);
/// How much earlier than the last answer the next question begins: commits become visible late, and a copy may reach its
/// queue after its letter was closed.
const OVERLAP: SignedDuration = SignedDuration::from_secs(150);
/// Copies that a pass holds at first, and at most; open ones beyond that hide what lies behind them.
const HOLD: (u16, u16) = (64, 2_000);
/// Bytes of bodies that a pass may hold, by the largest that it has seen.
const HOLD_BYTES: usize = 32 << 20;
/// Copies judged in one statement.
const BATCH: usize = 256;
/// A queue that hands out nothing for so long is at its end: another consumer has the rest.
const QUIET: Duration = Duration::from_secs(2);

/// What keeps the dead-letter queues clean.
pub(crate) struct Copies {
    pub ledger: Arc<dyn Ledger>,
    pub broker: Arc<dyn Broker>,
    pub names: Names,
    /// Whose queues are looked after.
    pub functions: BTreeSet<FunctionName>,
    /// Told when a redrive has left.
    pub closed: Arc<Notify>,
    pub stats: Stats,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Passed {
    /// Copies taken out.
    pub resolved: u64,
    /// Copies handed back.
    pub kept: u64,
    /// It held as many as it may before it reached the end.
    pub full: bool,
    /// The largest body.
    largest: usize,
}

impl Copies {
    /// Runs until stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut since = Timestamp::UNIX_EPOCH;
        let mut dirty = BTreeSet::new();
        loop {
            let began = Instant::now();
            let round = async {
                match self.ledger.closed_since(since).await {
                    Ok(closed) => {
                        since = closed.at.saturating_sub(OVERLAP).unwrap_or(since);
                        dirty.extend(closed.functions.into_iter().filter(|function| self.functions.contains(function)));
                    }
                    Err(error) => {
                        tracing::debug!(
                            error = weft_process::report::chain(&error),
                            "closed dead letters not asked for"
                        );
                    }
                }
                for function in std::mem::take(&mut dirty) {
                    if let Err(reason) = self.clean(&function).await {
                        tracing::debug!(%function, reason, "dead-letter queue not cleaned, will try again");
                        dirty.insert(function);
                    }
                }
            };
            tokio::select! {
                // Dropping a pass hands back what it holds.
                () = stop.cancelled() => return,
                () = round => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
                () = async {
                    self.closed.notified().await;
                    tokio::time::sleep_until((began + AT_MOST).into()).await;
                } => {}
            }
        }
    }

    /// Goes through one function's queue.
    async fn clean(&self, function: &FunctionName) -> Result<Passed, String> {
        let queue = self.names.dlq(function);
        let mut passed = self.pass(&queue, HOLD.0).await?;
        if passed.full {
            let fit = HOLD_BYTES / passed.largest.max(1);
            let hold = u16::try_from(fit).unwrap_or(HOLD.1).clamp(HOLD.0, HOLD.1);
            if hold > HOLD.0 {
                let more = self.pass(&queue, hold).await?;
                passed = Passed { resolved: passed.resolved + more.resolved, ..more };
            }
        }
        if passed.resolved > 0 {
            self.stats.resolved(passed.resolved);
            tracing::info!(%function, resolved = passed.resolved, kept = passed.kept, "copies of closed dead letters taken out");
        }
        if passed.full {
            tracing::debug!(%function, kept = passed.kept, "open dead letters hide what lies behind their copies");
        }
        Ok(passed)
    }

    /// Goes once through a queue, holding at most `hold` copies. Dropping it hands back what is held.
    pub(super) async fn pass(&self, queue: &str, hold: u16) -> Result<Passed, String> {
        let Some(depth) = self.broker.depth(queue).await else { return Err("its depth is not known".to_owned()) };
        let mut passed = Passed::default();
        if depth == 0 {
            return Ok(passed);
        }
        let mut subscription = self.broker.subscribe(queue, hold).await.map_err(|e| weft_process::report::chain(&e))?;
        let (mut kept, mut batch) = (Vec::new(), Vec::new());
        let mut result = Ok(());
        while passed.resolved + passed.kept < depth {
            passed.full = kept.len() >= usize::from(hold);
            if passed.full {
                break;
            }
            let received = subscription.deliveries.recv_many(&mut batch, BATCH);
            match tokio::time::timeout(QUIET, received).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            // After a lost connection the broker hands out the same again.
            let named: Vec<(DeliveryId, Option<DeadLetterId>)> = batch
                .drain(..)
                .map(|delivery| {
                    passed.largest = passed.largest.max(delivery.message.body.len());
                    (delivery.id, delivery.message.header(header::ID).map(|id| DeadLetterId(id.to_owned())))
                })
                .collect();
            let ids: Vec<DeadLetterId> = named.iter().filter_map(|(_, id)| id.clone()).collect();
            let closed: BTreeSet<DeadLetterId> = match self.ledger.closed_letters(&ids).await {
                Ok(closed) => closed.into_iter().collect(),
                Err(error) => {
                    kept.extend(named.into_iter().map(|(delivery, _)| delivery));
                    result = Err(weft_process::report::chain(&error));
                    break;
                }
            };
            let (gone, rest): (Vec<_>, Vec<_>) =
                named.into_iter().partition(|(_, id)| id.as_ref().is_some_and(|id| closed.contains(id)));
            passed.resolved += gone.len() as u64;
            passed.kept += rest.len() as u64;
            subscription.acks.ack(gone.into_iter().map(|(delivery, _)| delivery).collect());
            kept.extend(rest.into_iter().map(|(delivery, _)| delivery));
        }
        // What has come meanwhile goes back behind what came before it.
        subscription.acks.stop();
        while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, subscription.deliveries.recv()).await {
            kept.push(delivery.id);
        }
        subscription.acks.flush().await;
        subscription.acks.requeue(kept);
        subscription.acks.flush().await;
        result.map(|()| passed)
    }
}
