//! How a handler says that an attempt did not succeed.

use std::fmt;
use std::time::Duration;

use weft_ledger::join::JoinError;
use weft_schemas::{ErrorInfo, Outcome};

/// Why an attempt did not succeed, and what follows from it: try again, or never again.
///
/// `?` turns any error into a retryable failure. To give up at once, say so: [`Failure::terminal`].
/// It deliberately is no [`std::error::Error`]: that is what lets `?` take every error there is.
///
/// ```
/// use weft_worker::Failure;
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text.is_empty() {
///         return Err(Failure::terminal("EmptyAmount", "the order has no amount"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("x").unwrap_err().kind(), "ParseIntError");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(Verdict);

/// The closed set of what may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Retry {
        error: ErrorInfo,
        after: Option<Duration>,
        /// A service of Weft's was at fault: the attempt does not count.
        outage: bool,
    },
    Terminal {
        error: ErrorInfo,
    },
    /// A newer claim holds the invocation: nothing that this attempt does counts any more.
    Superseded {
        what: &'static str,
    },
}

impl Failure {
    /// A failure that another attempt may cure. `kind` names the error for grouping (at most 256 bytes are kept),
    /// `message` explains it (at most 8 KiB are kept). When the function's attempts are used up, the event is dead.
    pub fn retry(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Verdict::Retry { error: ErrorInfo::new(kind, message), after: None, outage: false })
    }

    /// The ledger or the state could not be used.
    pub(crate) fn outage(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Verdict::Retry { error: ErrorInfo::new(kind, message), after: None, outage: true })
    }

    /// A failure that no further attempt can cure: the event becomes a dead letter at once.
    pub fn terminal(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Verdict::Terminal { error: ErrorInfo::new(kind, message) })
    }

    /// Asks that the next attempt start no sooner than `wait` from now (rounded up to milliseconds). The function's
    /// own backoff applies where it is longer. No effect on a terminal failure.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        if let Verdict::Retry { after, .. } = &mut self.0 {
            *after = Some(wait);
        }
        self
    }

    /// The right to run was lost while doing `what`.
    pub(crate) fn superseded(what: &'static str) -> Self {
        Self(Verdict::Superseded { what })
    }

    /// The error's kind: `Superseded` when the right to run was lost.
    pub fn kind(&self) -> &str {
        match &self.0 {
            Verdict::Retry { error, .. } | Verdict::Terminal { error } => &error.kind,
            Verdict::Superseded { .. } => "Superseded",
        }
    }

    /// The error's text.
    pub fn message(&self) -> &str {
        match &self.0 {
            Verdict::Retry { error, .. } | Verdict::Terminal { error } => &error.message,
            Verdict::Superseded { what } => what,
        }
    }

    /// Whether a further attempt is pointless.
    pub fn is_terminal(&self) -> bool {
        matches!(self.0, Verdict::Terminal { .. })
    }

    /// Whether a newer claim holds the invocation, so that this attempt no longer counts. A handler that sees this
    /// should return it, as `?` does.
    pub fn is_superseded(&self) -> bool {
        matches!(self.0, Verdict::Superseded { .. })
    }

    /// Whether the ledger or the state, which [`crate::Context::transaction`] and [`crate::Context::state`] lead to, could
    /// not be used. A handler that returns such a failure, as `?` does, loses no attempt: the event waits and is tried
    /// again until the service is back or `retry.max_age` is over.
    pub fn is_outage(&self) -> bool {
        matches!(self.0, Verdict::Retry { outage: true, .. })
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        match self.0 {
            Verdict::Retry { error, after, outage: false } => Outcome::Retry { error, after_ms: after.map(millis_up) },
            Verdict::Retry { error, after, outage: true } => Outcome::Outage { error, after_ms: after.map(millis_up) },
            Verdict::Terminal { error } => Outcome::Failed { error },
            Verdict::Superseded { .. } => Outcome::Superseded,
        }
    }
}

/// Whole milliseconds, rounded up, so that a wait is never shortened.
pub(crate) fn millis_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    /// A retryable failure: the kind is the error type's short name, the message the error and its causes. A
    /// [`JoinError`] gets a kind that says more: `Sql` and the database's code, or `LedgerUnreachable`, `LedgerRefused` and
    /// `CommitUnknown`, which are outages ([`Failure::is_outage`]); one
    /// that says that the right to run is lost becomes a failure with [`Failure::is_superseded`].
    fn from(error: E) -> Self {
        if let Some(error) = (&error as &(dyn std::error::Error + 'static)).downcast_ref::<JoinError>() {
            return of_join(error);
        }
        Self::retry(short_name(std::any::type_name::<E>()), weft_process::report::chain(&error))
    }
}

fn of_join(error: &JoinError) -> Failure {
    let text = weft_process::report::chain(error);
    let kind = match error {
        JoinError::AuthorityLost => {
            return Failure::superseded("use the transaction: a newer claim holds the invocation, or it is settled");
        }
        // Nobody knows whether it was committed; the next claim finds out.
        JoinError::Unknown { .. } => return Failure::outage("CommitUnknown", text),
        JoinError::Ledger(weft_ledger::Error::Unavailable { .. }) => return Failure::outage("LedgerUnreachable", text),
        JoinError::Ledger(weft_ledger::Error::Refused { .. }) => return Failure::outage("LedgerRefused", text),
        JoinError::Ledger(_) => "Ledger".to_owned(),
        JoinError::Statement { code, .. } => format!("Sql{}", code.as_deref().unwrap_or_default()),
        JoinError::Column { .. } => "SqlColumn".to_owned(),
    };
    Failure::retry(kind, text)
}

/// `core::num::ParseIntError` is `ParseIntError`; a type that is called just `Error` keeps its crate's name:
/// `serde_json::error::Error` is `serde_json::Error`. Type parameters are left out.
fn short_name(full: &str) -> String {
    let path = full.split('<').next().unwrap_or(full);
    match path.rsplit("::").next() {
        Some("Error") => match path.split("::").next() {
            Some(root) if root != "Error" => format!("{root}::Error"),
            _ => "Error".to_owned(),
        },
        Some(last) => last.to_owned(),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_error_becomes_a_retry_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("charge the card")]
        struct ChargeFailed(#[source] std::io::Error);

        let failure = Failure::from(ChargeFailed(std::io::Error::other("the line is dead")));
        assert_eq!(failure.kind(), "ChargeFailed");
        assert_eq!(failure.message(), "charge the card: the line is dead");
        assert!(matches!(failure.into_outcome(), Outcome::Retry { after_ms: None, .. }));
    }

    #[test]
    fn a_kind_is_short_but_never_just_error() {
        assert_eq!(short_name("core::num::error::ParseIntError"), "ParseIntError");
        assert_eq!(short_name("serde_json::error::Error"), "serde_json::Error");
        assert_eq!(short_name("a::Wrapped<b::Error>"), "Wrapped");
        assert_eq!(short_name("Error"), "Error");
    }

    #[test]
    fn a_wait_is_rounded_up_and_kept_on_a_retry_only() {
        let wait = Duration::from_micros(1_500);
        let outcome = Failure::retry("Busy", "later").after(wait).into_outcome();
        assert!(matches!(outcome, Outcome::Retry { after_ms: Some(2), .. }));
        assert!(Failure::terminal("No", "never").after(wait).is_terminal());
    }
}
