//! The node's lease: taken at start, renewed every third of its length, and given up first by us when it cannot be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ledger::{Ledger, NodeSession, Owner};
use weft_schemas::NodeName;

use crate::services::Condition;

/// How long a renewal may take before the admin port says that the ledger does not answer.
const SLOW: Duration = Duration::from_secs(2);
/// How long a node's entering may take: a connect, a wait for the lock of a predecessor that died, and a write.
const ENTER_LIMIT: Duration = Duration::from_secs(15);

/// Keeps a node's lease and tells everybody whether we hold it.
pub(crate) struct Keeper {
    ledger: Arc<dyn Ledger>,
    node: NodeName,
    lease: Duration,
    /// `None` after the lease was lost: what was claimed under it must not look alive, so a new incarnation is taken.
    session: Option<Box<dyn NodeSession>>,
    owner: watch::Sender<Option<Owner>>,
    /// Told to the admin port.
    condition: Condition,
}

impl Keeper {
    /// Takes the node's name. Every claim of its predecessor is free from then on.
    pub(crate) async fn enter(
        ledger: Arc<dyn Ledger>,
        node: NodeName,
        lease: Duration,
        condition: Condition,
    ) -> Result<(Self, watch::Receiver<Option<Owner>>), weft_ledger::Error> {
        let session = ledger.enter(&node, lease).await?;
        tracing::info!(%node, incarnation = session.owner().incarnation, "node entered");
        let (owner, follow) = watch::channel(Some(session.owner().clone()));
        Ok((Self { ledger, node, lease, session: Some(session), owner, condition }, follow))
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
            // Dropped half-way, either leaves a connection that closes, and a name that is free when the lease is over.
            pause = tokio::select! {
                () = stop.cancelled() => break,
                pause = async {
                    if self.session.is_some() {
                        self.renew(&mut renewed).await
                    } else {
                        self.enter_again(&mut renewed).await
                    }
                } => pause,
            };
        }
        self.leave().await;
    }

    /// Renews once; returns the wait until the next time.
    async fn renew(&mut self, renewed: &mut Instant) -> Duration {
        let Some(session) = &self.session else { return Duration::ZERO };
        let asked = Instant::now();
        // Our own limit lies before the database's, so that what runs is cancelled before anybody may take over.
        let limit = *renewed + self.lease * 3 / 4;
        let wait = limit.saturating_duration_since(asked).max(Duration::from_millis(100));
        let renewal = async {
            let renewal = session.renew();
            tokio::pin!(renewal);
            match tokio::time::timeout(SLOW, &mut renewal).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.failed(format!("no answer within {} s", SLOW.as_secs()));
                    renewal.await
                }
            }
        };
        let error = match tokio::time::timeout(wait, renewal).await {
            Ok(Ok(true)) => {
                *renewed = asked;
                self.answered();
                return self.lease / 3;
            }
            Ok(Ok(false)) => return self.lost().await,
            Ok(Err(error)) => weft_process::report::chain(&error),
            Err(_) => format!("no answer within {} ms", wait.as_millis()),
        };
        self.failed(error);
        if Instant::now() >= limit { self.lost().await } else { Duration::from_millis(500).min(self.lease / 10) }
    }

    fn failed(&self, error: String) {
        if self.condition.failed(error.clone()) {
            tracing::warn!(node = %self.node, error, "ledger does not answer the lease's renewal");
        }
    }

    fn answered(&self) {
        if self.condition.recovered() {
            tracing::info!(node = %self.node, "ledger answers the lease's renewal again");
        }
    }

    async fn lost(&mut self) -> Duration {
        tracing::error!(node = %self.node, "lease lost: nothing runs until the ledger answers");
        self.owner.send_replace(None);
        self.leave().await;
        Duration::from_millis(100)
    }

    async fn enter_again(&mut self, renewed: &mut Instant) -> Duration {
        let asked = Instant::now();
        let entered = tokio::time::timeout(ENTER_LIMIT, self.ledger.enter(&self.node, self.lease)).await;
        match entered {
            Ok(Ok(session)) => {
                self.answered();
                tracing::info!(node = %self.node, incarnation = session.owner().incarnation, "node entered again");
                *renewed = asked;
                self.owner.send_replace(Some(session.owner().clone()));
                self.session = Some(session);
                self.lease / 3
            }
            Ok(Err(error)) => {
                self.failed(weft_process::report::chain(&error));
                Duration::from_secs(1).min(self.lease / 3)
            }
            Err(_) => Duration::from_millis(100),
        }
    }

    /// Gives name and lease up. The database may be gone: the lease then lapses by itself.
    async fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = tokio::time::timeout(Duration::from_secs(2), session.leave()).await;
        }
    }
}
