//! A broker that notes when the last delivery came, for rounds with one event at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use weft_dispatcher::broker::{Broker, BrokerError, Counts, Health, PublishError, Replies, Subscription, Topology};
use weft_schemas::Message;

use crate::clock;

/// Hands everything on; deliveries pass through one more task, whose hop (some microseconds) counts as ours.
pub struct Stamped {
    inner: Arc<dyn Broker>,
    received_ns: Arc<AtomicU64>,
    first_ns: Arc<AtomicU64>,
    /// The one queue that is noted.
    queue: String,
}

impl Stamped {
    /// Notes deliveries of `queue` alone.
    pub fn new(inner: Arc<dyn Broker>, queue: String) -> Self {
        Self { inner, received_ns: Arc::default(), first_ns: Arc::default(), queue }
    }

    /// [`clock::now_ns`] when the first delivery left the broker's own code; 0 before.
    pub fn first_ns(&self) -> u64 {
        self.first_ns.load(Ordering::Acquire)
    }

    /// [`clock::now_ns`] when the latest delivery left the broker's own code; 0 before the first.
    pub fn received_ns(&self) -> u64 {
        self.received_ns.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Broker for Stamped {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.inner.declare(topology).await
    }

    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Subscription, BrokerError> {
        let subscription = self.inner.subscribe(queue, prefetch).await?;
        if queue != self.queue {
            return Ok(subscription);
        }
        let Subscription { mut deliveries, acks } = subscription;
        let (stamped, receiver) = mpsc::channel(usize::from(prefetch.max(1)));
        let (received_ns, first_ns) = (Arc::clone(&self.received_ns), Arc::clone(&self.first_ns));
        // Ends when the consumer does, or with its reader.
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                let now_ns = clock::now_ns();
                received_ns.store(now_ns, Ordering::Release);
                let _ = first_ns.compare_exchange(0, now_ns, Ordering::AcqRel, Ordering::Relaxed);
                if stamped.send(delivery).await.is_err() {
                    return;
                }
            }
        });
        Ok(Subscription { deliveries: receiver, acks })
    }

    async fn replies(&self, name: &str) -> Result<Replies, BrokerError> {
        self.inner.replies(name).await
    }

    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>> {
        self.inner.publish(messages).await
    }

    async fn counts(&self, queue: &str) -> Option<Counts> {
        self.inner.counts(queue).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
