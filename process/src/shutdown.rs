//! Two stop signals: the first asks to drain, the second to stop at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Follows SIGTERM and SIGINT.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Take nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Stop working now. Implies `drain`.
    pub kill: CancellationToken,
}

impl Shutdown {
    /// A pair that only code cancels; for tests and for programs that stop by themselves.
    pub fn manual() -> Self {
        let kill = CancellationToken::new();
        Self { drain: kill.child_token(), kill }
    }

    /// Installs the signal handlers: the first SIGTERM or SIGINT cancels `drain`, the second `kill`.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let this = Self::manual();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let signals = this.clone();
        tokio::spawn(async move {
            for token in [&signals.drain, &signals.kill] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(this)
    }
}
