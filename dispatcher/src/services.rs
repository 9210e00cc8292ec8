//! What is known of the services' health between events: told at the admin port, and logged when it changes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a service is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From the end of a look to the next.
    period: Duration,
    /// How long a look may take. A check that hangs is a service that is away.
    limit: Duration,
}

impl Pace {
    /// The dispatcher does not use the state itself, so nothing else would tell.
    pub(crate) const STATE: Self = Self { period: Duration::from_secs(2), limit: Duration::from_secs(5) };
}

/// Asks a service once; the text says what is wrong and holds no secret. Called every few seconds, never twice at once.
pub type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// What is wrong with one service; `None` when it is well. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Condition(watch::Sender<Option<String>>);

impl Condition {
    pub(crate) fn well() -> Self {
        Self(watch::Sender::new(None))
    }

    /// What is wrong with it now.
    pub(crate) fn now(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Notes what is wrong; `true` when it was well before. The newest reason is kept.
    pub(crate) fn failed(&self, reason: String) -> bool {
        self.0.send_replace(Some(reason)).is_none()
    }

    /// Notes that it is well; `true` when it was not before.
    pub(crate) fn recovered(&self) -> bool {
        self.0.send_replace(None).is_some()
    }
}

/// Looks at the state until cancelled.
pub(crate) async fn watch_state(check: Check, pace: Pace, condition: Condition, stop: CancellationToken) {
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(pace.limit, check()) => answer,
        };
        match answer.unwrap_or_else(|_| Err(format!("no answer within {} ms", pace.limit.as_millis()))) {
            Ok(()) => {
                if condition.recovered() {
                    tracing::info!("state answers again");
                }
            }
            Err(error) => {
                if condition.failed(error.clone()) {
                    tracing::warn!(error, "state does not answer, events of functions that use it wait");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pace.period) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SHORT: Pace = Pace { period: Duration::from_millis(2), limit: Duration::from_millis(20) };

    async fn becomes(condition: &Condition, well: bool) -> Option<String> {
        condition.0.subscribe().wait_for(|reason| reason.is_none() == well).await.unwrap().clone()
    }

    #[tokio::test]
    async fn a_state_that_goes_and_comes_back_is_followed() {
        let well = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&well);
        let check: Check = Arc::new(move || {
            let answer = if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("gone".to_owned()) };
            Box::pin(async move { answer })
        });
        let (condition, stop) = (Condition::well(), CancellationToken::new());
        let task = tokio::spawn(watch_state(check, SHORT, condition.clone(), stop.clone()));
        assert_eq!(becomes(&condition, false).await.as_deref(), Some("gone"));
        well.store(true, Ordering::Relaxed);
        becomes(&condition, true).await;
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_state_that_hangs_is_away() {
        let check: Check = Arc::new(|| Box::pin(std::future::pending()));
        let (condition, stop) = (Condition::well(), CancellationToken::new());
        let task = tokio::spawn(watch_state(check, SHORT, condition.clone(), stop.clone()));
        assert_eq!(becomes(&condition, false).await.as_deref(), Some("no answer within 20 ms"));
        stop.cancel();
        task.await.unwrap();
    }
}
