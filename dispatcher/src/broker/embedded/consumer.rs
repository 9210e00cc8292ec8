//! One subscription to one queue: takes from its shelf up to the prefetch, and deletes what is acked, many at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use weft_process::crash::{self, Point};
use weft_schemas::Message;

use super::shelf::Shelf;
use super::{Hub, POLL_EVERY};
use crate::broker::{AckCommand, Delivery, DeliveryId};

/// What a subscription is to be.
pub(super) struct Wanted {
    pub(super) queue: String,
    pub(super) prefetch: usize,
    pub(super) generation: u64,
    pub(super) closing: CancellationToken,
}

/// A subscription's task.
pub(super) struct Consumer {
    wanted: Wanted,
    hub: Arc<Hub>,
    shelf: Arc<Shelf>,
    /// Taken and not settled, with what a requeue needs. At most the prefetch.
    out: BTreeMap<i64, Message>,
    /// Taken and not yet with the owner. A part of `out`.
    held: VecDeque<Delivery>,
    /// Acked and not yet deleted, because the file failed; tried again.
    acked: Vec<i64>,
    /// The last look failed: there may be more than anybody rings for.
    blind: bool,
}

/// What the loop wakes for.
enum Event {
    Commands(usize),
    Closing,
    /// The owner has room for a delivery (or takes none any more).
    Room(bool),
    Look,
}

impl Consumer {
    pub(super) fn new(wanted: Wanted, hub: Arc<Hub>) -> Self {
        let shelf = hub.shelf(&wanted.queue);
        Self { wanted, hub, shelf, out: BTreeMap::new(), held: VecDeque::new(), acked: Vec::new(), blind: true }
    }

    /// Runs until the owner lets go of it or the broker is closed.
    pub(super) async fn run(
        mut self,
        deliveries: mpsc::Sender<Delivery>,
        mut commands: mpsc::UnboundedReceiver<AckCommand>,
    ) {
        let mut deliveries = Some(deliveries);
        let mut wake = self.hub.wake.subscribe();
        // The first tick is at once: what waits in the file already is taken without a ring.
        let mut again = tokio::time::interval(POLL_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = false;
        let mut batch = Vec::new();
        loop {
            let event = tokio::select! {
                biased;
                count = commands.recv_many(&mut batch, 1024) => Event::Commands(count),
                () = self.wanted.closing.cancelled() => Event::Closing,
                room = room(deliveries.as_ref()), if !self.held.is_empty() => Event::Room(room),
                // The sender lives as long as the hub, which this task holds.
                _ = wake.changed() => Event::Look,
                _ = again.tick(), if self.blind || !self.acked.is_empty() => Event::Look,
            };
            let mut look = false;
            match event {
                Event::Commands(count) => {
                    stopped |= self.settle(&mut batch).await;
                    look = true;
                    if count == 0 {
                        self.let_go().await;
                        return;
                    }
                }
                Event::Closing => {
                    commands.close();
                    while let Ok(command) = commands.try_recv() {
                        batch.push(command);
                    }
                    self.settle(&mut batch).await;
                    self.let_go().await;
                    return;
                }
                Event::Room(true) => {
                    if let (Some(deliveries), Some(delivery)) = (&deliveries, self.held.pop_front())
                        && let Err(mpsc::error::TrySendError::Full(delivery)) = deliveries.try_send(delivery)
                    {
                        self.held.push_front(delivery);
                    }
                }
                Event::Room(false) => {
                    // The owner dropped the receiver: hand back what it did not take, and take no more.
                    stopped = true;
                    let ids: Vec<DeliveryId> = self.held.drain(..).map(|delivery| delivery.id).collect();
                    self.requeue(&ids).await;
                }
                Event::Look => {
                    self.delete().await;
                    look = true;
                }
            }
            if look && !stopped {
                self.take().await;
            }
            if stopped && self.held.is_empty() {
                deliveries = None;
            }
        }
    }

    /// Fills up to the prefetch.
    async fn take(&mut self) {
        let free = self.wanted.prefetch.saturating_sub(self.out.len() + self.acked.len());
        if free == 0 {
            return;
        }
        let taken = self.shelf.take(&self.hub, &self.wanted.queue, free).await;
        let taken = self.hub.heed(taken);
        self.blind = taken.is_err();
        let Ok(taken) = taken else { return };
        for (id, copy) in taken {
            self.out.insert(id, copy.message.clone());
            self.held.push_back(Delivery {
                id: DeliveryId { generation: self.wanted.generation, tag: id.unsigned_abs() },
                redelivered: copy.redelivered,
                message: copy.message,
            });
        }
    }

    /// Works off queued commands: one transaction for all their acks, then the answers. True when a stop was there.
    async fn settle(&mut self, batch: &mut Vec<AckCommand>) -> bool {
        let mut stop = false;
        let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
        for command in batch.drain(..) {
            match command {
                AckCommand::Ack(ids) => {
                    for id in self.mine(&ids) {
                        if self.out.remove(&id).is_some() {
                            self.acked.push(id);
                        }
                    }
                }
                AckCommand::Requeue(ids) => self.requeue(&ids).await,
                AckCommand::Prefetch(most) => self.wanted.prefetch = usize::from(most.max(1)),
                AckCommand::Stop => stop = true,
                AckCommand::Flush(done) => flushes.push(done),
            }
        }
        self.delete().await;
        for done in flushes {
            let _ = done.send(());
        }
        stop
    }

    /// Deletes what was acked. What the file refuses is tried again at the next look.
    async fn delete(&mut self) {
        if self.acked.is_empty() {
            return;
        }
        if self.hub.heed(self.hub.queues.ack(&self.acked).await).is_ok() {
            crash::point(Point::AfterAck);
            self.shelf.gone(&self.acked).await;
            self.acked.clear();
        }
    }

    async fn requeue(&mut self, ids: &[DeliveryId]) {
        let mut back = Vec::new();
        for id in self.mine(ids) {
            back.extend(self.out.remove_entry(&id));
        }
        if !back.is_empty() {
            self.shelf.put_back(back).await;
            self.hub.wake();
        }
    }

    /// What is not settled goes back.
    async fn let_go(&mut self) {
        self.shelf.put_back(std::mem::take(&mut self.out)).await;
        self.hub.wake();
    }

    fn mine(&self, ids: &[DeliveryId]) -> Vec<i64> {
        ids.iter()
            .filter(|id| id.generation == self.wanted.generation)
            .filter_map(|id| i64::try_from(id.tag).ok())
            .collect()
    }
}

/// Waits until the owner has room for a delivery; false when it takes no more. Cancel-safe.
async fn room(deliveries: Option<&mpsc::Sender<Delivery>>) -> bool {
    match deliveries {
        Some(deliveries) => deliveries.reserve().await.is_ok(),
        None => false,
    }
}
