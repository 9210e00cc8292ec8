//! The relay: publishes what the ledger's outbox says is due, with confirms, and deletes it after.
//!
//! It is woken by a commit of ours, by the next due time, and by a slow period that catches what another process wrote.
//!
//! While the broker is away or in alarm nothing is taken from the outbox, so what is due leaves as soon as it is back.
//! What the broker refuses is kept and tried again, ever more slowly up to [`SLOWEST`]; each address that refuses is told
//! once, and shown in the status until it takes something. Replies that no queue takes are dropped: who asked is gone.
//!
//! An address that does not confirm holds up no other: see [`routes`].
//!
//! A crash between the publish and the delete repeats the publish with the same id; the next ledger drops it.

mod routes;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_ledger::{Due, DueBatch, Ledger, OutboxId, OutboxKind};
use weft_process::crash::{self, Point};
use weft_schemas::Message;

use self::routes::{Fate, LONGEST, Routes, route};
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

/// What stands at a row that was put off unpublished.
const PUT_OFF: &str = "its address does not confirm; it is asked again now and then";

#[derive(Clone)]
pub(crate) struct Relay {
    pub ledger: Arc<dyn Ledger>,
    pub broker: Arc<dyn Broker>,
    pub wake: Arc<Notify>,
    /// Told when a redrive has left: the copy of its dead letter is superfluous from then on.
    pub closed: Arc<Notify>,
    pub stats: Stats,
}

/// What the calls under way share. Locked for moments only, never across a wait.
struct Known {
    routes: Routes,
    told: Told,
    /// When an address last answered.
    answered: Option<Instant>,
}

type Shared = Arc<Mutex<Known>>;

impl Relay {
    /// Runs until cancelled; what is under way is finished first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failures = 0u32;
        let mut health = self.broker.health();
        let told = Told { stats: self.stats.clone(), broker: false };
        let known = Arc::new(Mutex::new(Known { routes: Routes::new(), told, answered: None }));
        // The call that asks silent addresses again, if there is one.
        let mut asking: Option<JoinHandle<()>> = None;
        loop {
            // A broker that takes nothing is not asked: a row's tries are for what is wrong with the row, and what was
            // written to a blocked connection would pile up in its buffers. The broker tells of it, once.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The broker outlives us, so an error cannot be.
                _ = health.wait_for(|health| *health == Health::Connected) => {}
            }
            let pause = match self.pass(&known, &mut asking).await {
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
                () = stop.cancelled() => break,
                () = self.wake.notified(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(asking) = asking {
            // Bounded as every publish is.
            let _ = asking.await;
        }
    }

    async fn until_next(&self) -> Duration {
        match self.ledger.next_due().await {
            // The row may be held by another relay at this moment: do not spin on it.
            Ok(Some(due)) => due.clamp(Duration::from_millis(10), PERIOD),
            Ok(None) | Err(_) => PERIOD,
        }
    }

    /// Publishes one batch, or leaves it to a call of its own when it asks silent addresses again. `true` when there may be
    /// more at once.
    async fn pass(&self, known: &Shared, asking: &mut Option<JoinHandle<()>>) -> Result<bool, weft_ledger::Error> {
        let batch = self.ledger.due(BATCH).await?;
        if batch.rows().is_empty() {
            return Ok(false);
        }
        let full = batch.rows().len() >= BATCH as usize;
        let under_way = asking.as_ref().is_some_and(|asking| !asking.is_finished());
        let messages = batch.rows().iter().map(|due| &due.message);
        let fates = lock(known).routes.sort(messages, under_way, Instant::now());
        if fates.contains(&Fate::Ask) {
            let (relay, known) = (self.clone(), Arc::clone(known));
            *asking = Some(tokio::spawn(async move {
                // What the ledger does not answer to is taken again; the pass beside this one tells of it.
                let _ = relay.publish(batch, fates, &known, LONGEST).await;
            }));
            return Ok(full);
        }
        let patience = lock(known).routes.patience();
        let refusals = self.publish(batch, fates, known, patience).await?;
        Ok(full && refusals == 0)
    }

    /// Publishes what is to be, and finishes the batch. Returns how many rows were refused.
    async fn publish(
        &self,
        batch: Box<dyn DueBatch>,
        fates: Vec<Fate>,
        known: &Shared,
        patience: Duration,
    ) -> Result<usize, weft_ledger::Error> {
        let (mut rows, mut messages, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        let (mut published, mut dropped, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (due, fate) in batch.rows().iter().zip(fates) {
            if let Fate::PutOff(wait) = fate {
                failed.push((due.id, wait, PUT_OFF.to_owned()));
                continue;
            }
            let mut message = due.message.clone();
            spans.push(spans::relay(due, &mut message));
            messages.push(message);
            rows.push(due);
        }
        let put_off = failed.len();
        let begun = Instant::now();
        let answers = if messages.is_empty() {
            Vec::new()
        } else {
            crash::point(Point::BeforePublish);
            self.broker.publish_within(&messages, patience).await
        };
        {
            let (now, took) = (Instant::now(), begun.elapsed());
            let mut known = lock(known);
            let silent: HashSet<String> = rows
                .iter()
                .zip(&answers)
                .filter(|(_, answer)| unconfirmed(answer))
                .map(|(due, _)| route(&due.message))
                .collect();
            if answers.iter().any(|answer| !unconfirmed(answer)) {
                known.answered = Some(now);
            }
            // When nobody has answered since, in another call neither, it is the broker as a whole.
            let some_answer = known.answered.is_some_and(|at| at >= begun);
            if silent.is_empty() && !answers.is_empty() {
                known.routes.took(took);
            }
            for ((due, span), answer) in rows.iter().zip(&spans).zip(answers) {
                if !silent.contains(&route(&due.message)) {
                    known.routes.answers(&due.message, took);
                }
                match answer {
                    Ok(()) => {
                        crash::point(Point::AfterPublish);
                        if !silent.contains(&route(&due.message)) {
                            known.told.published(due);
                        }
                        published.push(due.id);
                    }
                    Err(PublishError::Unroutable { detail }) if due.kind == OutboxKind::Reply => {
                        spans::failed(span, &detail);
                        tracing::debug!(
                            routing_key = due.message.routing_key,
                            detail,
                            "reply dropped, nobody takes it"
                        );
                        dropped.push(due.id);
                    }
                    Err(error) => {
                        spans::failed(span, &error.to_string());
                        let wait = match error {
                            PublishError::Unconfirmed { .. } => {
                                Some(known.routes.silent(&due.message, now)).filter(|_| some_answer)
                            }
                            _ => None,
                        };
                        known.told.refused(due, &error, wait.is_some());
                        failed.push(refused(due, &error, wait));
                    }
                }
            }
        }
        let refusals = failed.len() - put_off;
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
        Ok(refusals)
    }
}

fn unconfirmed(answer: &Result<(), PublishError>) -> bool {
    matches!(answer, Err(PublishError::Unconfirmed { .. }))
}

fn lock(known: &Shared) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `apart`: how long its silent address is left alone.
fn refused(due: &Due, error: &PublishError, apart: Option<Duration>) -> (OutboxId, Duration, String) {
    let wait = apart.unwrap_or_else(|| wait(error, due.tries).mul_f64(0.8 + 0.4 * fastrand::f64()));
    (due.id, wait, error.to_string())
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
    /// `apart`: it is its address that is silent, not the broker.
    fn refused(&mut self, due: &Due, error: &PublishError, apart: bool) {
        let held = match error {
            PublishError::Unroutable { .. } | PublishError::Nacked | PublishError::Unconfirmed { .. } => {
                self.stats.held(route(&due.message), Some(error.to_string()))
            }
            PublishError::Disconnected { .. } => false,
        };
        let news = match error {
            _ if apart => held,
            PublishError::Unroutable { .. } | PublishError::Nacked => held,
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

#[cfg(test)]
mod tests;
