//! The relay: publishes what the ledger's outbox says is due, with confirms, and deletes it after.
//!
//! It is woken by a commit of ours, by the next due time, and by a slow period that catches what another process wrote.
//! A crash between the publish and the delete repeats the publish with the same id; the next ledger drops it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_ledger::{Due, Ledger, OutboxId, OutboxKind};
use weft_process::crash::{self, Point};
use weft_schemas::Message;

use crate::broker::{Broker, Health, PublishError};
use crate::spans;
use crate::status::Stats;

/// Rows taken at once.
const BATCH: u32 = 256;
/// The longest sleep: bounds how late a row of a crashed or foreign process leaves.
const PERIOD: Duration = Duration::from_secs(5);
/// Wait before a refused row is tried again, doubled for each try up to the second.
const REFUSED_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Of how many targets it is remembered that they take nothing.
const TOLD: usize = 64;

pub(crate) struct Relay {
    pub ledger: Arc<dyn Ledger>,
    pub broker: Arc<dyn Broker>,
    pub wake: Arc<Notify>,
    /// Told when a redrive has left: the copy of its dead letter is superfluous from then on.
    pub closed: Arc<Notify>,
    pub stats: Stats,
}

impl Relay {
    /// Runs until cancelled; a batch under way is finished first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failures = 0u32;
        let mut health = self.broker.health();
        let mut told = Told::default();
        loop {
            // A broker that takes nothing is not asked: a row's tries are for what is wrong with the row, and what was
            // written to a blocked connection would pile up in its buffers. The broker tells of it, once.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The broker outlives us, so an error cannot be.
                _ = health.wait_for(|health| *health == Health::Connected) => {}
            }
            let pause = match self.pass(&mut told).await {
                Ok(full) => {
                    if failures > 0 {
                        failures = 0;
                        tracing::info!("relay works again");
                    }
                    if full { Duration::ZERO } else { self.until_next().await }
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            error = weft_process::report::chain(&error),
                            "relay cannot read the outbox, will try again"
                        );
                    }
                    failures = failures.saturating_add(1);
                    Duration::from_millis(100 << failures.min(5)).mul_f64(0.8 + 0.4 * fastrand::f64())
                }
            };
            if pause.is_zero() && !stop.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn until_next(&self) -> Duration {
        match self.ledger.next_due().await {
            // The row may be held by another relay at this moment: do not spin on it.
            Ok(Some(due)) => due.clamp(Duration::from_millis(10), PERIOD),
            Ok(None) | Err(_) => PERIOD,
        }
    }

    /// Publishes one batch. `true` when there may be more at once.
    async fn pass(&self, told: &mut Told) -> Result<bool, weft_ledger::Error> {
        let batch = self.ledger.due(BATCH).await?;
        if batch.rows().is_empty() {
            return Ok(false);
        }
        let full = batch.rows().len() >= BATCH as usize;
        let (mut messages, mut spans) = (Vec::new(), Vec::new());
        for due in batch.rows() {
            let mut message = due.message.clone();
            spans.push(spans::relay(due, &mut message));
            messages.push(message);
        }
        crash::point(Point::BeforePublish);
        let answers = self.broker.publish(&messages).await;
        let (mut published, mut failed) = (Vec::new(), Vec::new());
        for ((due, span), answer) in batch.rows().iter().zip(&spans).zip(answers) {
            match answer {
                Ok(()) => {
                    crash::point(Point::AfterPublish);
                    told.published(due);
                    published.push(due.id);
                }
                Err(error) => {
                    spans::failed(span, &error.to_string());
                    told.refused(due, &error);
                    failed.push(refused(due, &error));
                }
            }
        }
        let refusals = failed.len();
        self.stats.relayed(published.len() as u64, refusals as u64);
        let redriven = |due: &Due| due.kind == OutboxKind::Redrive && published.contains(&due.id);
        let closed = batch.rows().iter().any(redriven);
        batch.finish(&published, &failed).await?;
        if closed {
            self.closed.notify_one();
        }
        crash::point(Point::AfterFinish);
        Ok(full && refusals == 0)
    }
}

fn refused(due: &Due, error: &PublishError) -> (OutboxId, Duration, String) {
    let doublings = due.tries.min(16);
    let wait = REFUSED_WAIT.0.saturating_mul(1 << doublings).min(REFUSED_WAIT.1);
    (due.id, wait.mul_f64(0.8 + 0.4 * fastrand::f64()), error.to_string())
}

/// What is not published at present, so that each is told when it begins and when it ends, and not with every row.
#[derive(Default)]
struct Told {
    /// Exchange and routing key of rows that no queue took.
    targets: BTreeSet<(String, String)>,
    /// The broker as a whole does not answer.
    broker: bool,
}

impl Told {
    fn refused(&mut self, due: &Due, error: &PublishError) {
        let Message { exchange, routing_key, .. } = &due.message;
        let news = match error {
            PublishError::Unroutable { .. } | PublishError::Nacked => {
                self.targets.len() < TOLD && self.targets.insert((exchange.clone(), routing_key.clone()))
            }
            PublishError::Unconfirmed { .. } | PublishError::Disconnected { .. } => {
                !std::mem::replace(&mut self.broker, true)
            }
        };
        // The row itself keeps the count and the last error.
        if news {
            tracing::warn!(
                kind = ?due.kind, exchange, routing_key, error = %error,
                "outbox row not published, kept and tried again"
            );
        }
    }

    fn published(&mut self, due: &Due) {
        let Message { exchange, routing_key, .. } = &due.message;
        let ended = std::mem::take(&mut self.broker);
        let taken = !self.targets.is_empty() && self.targets.remove(&(exchange.clone(), routing_key.clone()));
        if ended || taken {
            tracing::info!(exchange, routing_key, "outbox rows are published again");
        }
    }
}
