//! The node's lease: taken at start, renewed every third of its length, and given up first by us when it cannot be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ledger::{Ledger, NodeSession, Owner};
use weft_schemas::NodeName;

/// Keeps a node's lease and tells everybody whether we hold it.
pub(crate) struct Keeper {
    ledger: Arc<dyn Ledger>,
    node: NodeName,
    lease: Duration,
    session: Box<dyn NodeSession>,
    owner: watch::Sender<Option<Owner>>,
}

impl Keeper {
    /// Takes the node's name. Every claim of its predecessor is free from then on.
    pub(crate) async fn enter(
        ledger: Arc<dyn Ledger>,
        node: NodeName,
        lease: Duration,
    ) -> Result<(Self, watch::Receiver<Option<Owner>>), weft_ledger::Error> {
        let session = ledger.enter(&node, lease).await?;
        tracing::info!(%node, incarnation = session.owner().incarnation, "node entered");
        let (owner, follow) = watch::channel(Some(session.owner().clone()));
        Ok((Self { ledger, node, lease, session, owner }, follow))
    }

    /// Renews until cancelled, then leaves.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut renewed = Instant::now();
        let mut pause = self.lease / 3;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            let asked = Instant::now();
            // Our own limit lies before the database's, so that what runs is cancelled before anybody may take over.
            let limit = (renewed + self.lease * 3 / 4).saturating_duration_since(asked);
            let answer = tokio::time::timeout(limit.max(Duration::from_millis(100)), self.session.renew()).await;
            pause = match answer {
                Ok(Ok(true)) => {
                    renewed = asked;
                    self.tell(Some(self.session.owner().clone()));
                    self.lease / 3
                }
                Ok(Ok(false)) => {
                    self.tell(None);
                    self.enter_again(&mut renewed).await
                }
                Ok(Err(_)) | Err(_) => {
                    if renewed.elapsed() >= self.lease * 3 / 4 {
                        self.tell(None);
                    }
                    Duration::from_millis(500).min(self.lease / 10)
                }
            };
        }
        // The database may be gone by now; the lease then lapses by itself.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.session.leave()).await;
    }

    async fn enter_again(&mut self, renewed: &mut Instant) -> Duration {
        let asked = Instant::now();
        match self.ledger.enter(&self.node, self.lease).await {
            Ok(session) => {
                tracing::info!(node = %self.node, incarnation = session.owner().incarnation, "node entered again");
                self.session = session;
                *renewed = asked;
                self.tell(Some(self.session.owner().clone()));
                self.lease / 3
            }
            Err(_) => Duration::from_secs(1).min(self.lease / 3),
        }
    }

    fn tell(&self, owner: Option<Owner>) {
        self.owner.send_if_modified(|now| {
            let changed = *now != owner;
            if changed && owner.is_none() {
                tracing::error!(node = %self.node, "lease lost: nothing runs until the ledger answers");
            }
            *now = owner;
            changed
        });
    }
}
