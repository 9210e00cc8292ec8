//! A broker that notes when the last delivery came, for rounds with one event at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use weft_dispatcher::broker::{Broker, BrokerError, Counts, Health, PublishError, Subscription, Topology};
use weft_schemas::Message;

use crate::clock;

/// Hands everything on; deliveries pass through one more task, whose hop (some microseconds) counts as ours.
pub struct Stamped {
    inner: Arc<dyn Broker>,
    received_ns: Arc<AtomicU64>,
}

impl Stamped {
    pub fn new(inner: Arc<dyn Broker>) -> Self {
        Self { inner, received_ns: Arc::default() }
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
        let Subscription { mut deliveries, acks } = self.inner.subscribe(queue, prefetch).await?;
        let (stamped, receiver) = mpsc::channel(usize::from(prefetch.max(1)));
        let received_ns = Arc::clone(&self.received_ns);
        // Ends when the consumer does, or with its reader.
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                received_ns.store(clock::now_ns(), Ordering::Release);
                if stamped.send(delivery).await.is_err() {
                    return;
                }
            }
        });
        Ok(Subscription { deliveries: receiver, acks })
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
