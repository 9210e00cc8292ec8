//! The relay: publishes what the ledger's outbox says is due, with confirms, and deletes it after.
//!
//! It is woken by a commit of ours, by the next due time, and by a slow period that catches what another process wrote.
//!
//! While the broker is away or in alarm nothing is taken from the outbox, so what is due leaves as soon as it is back.
//! What the broker refuses is kept and tried again, ever more slowly up to [`SLOWEST`]; each address that refuses is told
//! once, and shown in the status until it takes something. Replies that no queue takes are dropped: who asked is gone.
//!
//! A crash between the publish and the delete repeats the publish with the same id; the next ledger drops it.

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
/// Wait before a refused row is tried again, doubled for each try.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait of a row that the broker itself refuses: no queue takes it, or a full one does not.
const SLOWEST: Duration = Duration::from_secs(30);
/// The longest wait of a row that got no answer: it goes when the broker is back.
const UNANSWERED: Duration = Duration::from_secs(5);

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
        let mut told = Told { stats: self.stats.clone(), broker: false };
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
        let (mut published, mut dropped, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for ((due, span), answer) in batch.rows().iter().zip(&spans).zip(answers) {
            match answer {
                Ok(()) => {
                    crash::point(Point::AfterPublish);
                    told.published(due);
                    published.push(due.id);
                }
                Err(PublishError::Unroutable { detail }) if due.kind == OutboxKind::Reply => {
                    spans::failed(span, &detail);
                    tracing::debug!(routing_key = due.message.routing_key, detail, "reply dropped, nobody takes it");
                    dropped.push(due.id);
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
        self.stats.replies_dropped(dropped.len() as u64);
        published.extend(dropped);
        batch.finish(&published, &failed).await?;
        if closed {
            self.closed.notify_one();
        }
        crash::point(Point::AfterFinish);
        Ok(full && refusals == 0)
    }
}

fn refused(due: &Due, error: &PublishError) -> (OutboxId, Duration, String) {
    (due.id, wait(error, due.tries).mul_f64(0.8 + 0.4 * fastrand::f64()), error.to_string())
}

/// How long a row waits that has been refused so often before.
fn wait(error: &PublishError, tries: u32) -> Duration {
    let most = match error {
        PublishError::Unroutable { .. } | PublishError::Nacked => SLOWEST,
        PublishError::Unconfirmed { .. } | PublishError::Disconnected { .. } => UNANSWERED,
    };
    FIRST.saturating_mul(1 << tries.min(16)).min(most)
}

/// Tells what is not published at present: each address when it begins and when it ends, and not with every row.
struct Told {
    /// Holds the addresses that take nothing, for the status as well.
    stats: Stats,
    /// The broker as a whole does not answer.
    broker: bool,
}

impl Told {
    fn refused(&mut self, due: &Due, error: &PublishError) {
        let news = match error {
            PublishError::Unroutable { .. } | PublishError::Nacked => {
                self.stats.held(route(&due.message), Some(error.to_string()))
            }
            PublishError::Unconfirmed { .. } | PublishError::Disconnected { .. } => {
                !std::mem::replace(&mut self.broker, true)
            }
        };
        // The row itself keeps the count and the last error.
        if news {
            let Message { exchange, routing_key, .. } = &due.message;
            tracing::warn!(
                kind = ?due.kind, exchange, routing_key, error = %error,
                "outbox row not published, kept and tried again"
            );
        }
    }

    fn published(&mut self, due: &Due) {
        let ended = std::mem::take(&mut self.broker);
        let taken = self.stats.holds_any() && self.stats.held(route(&due.message), None);
        if ended || taken {
            let Message { exchange, routing_key, .. } = &due.message;
            tracing::info!(exchange, routing_key, "outbox rows are published again");
        }
    }
}

/// An address as status and people write it.
fn route(message: &Message) -> String {
    if message.exchange.is_empty() {
        message.routing_key.clone()
    } else {
        format!("{} ({})", message.exchange, message.routing_key)
    }
}

#[cfg(test)]
mod tests;
