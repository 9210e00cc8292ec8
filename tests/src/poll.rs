use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Asks every 20 ms until `ask` answers `Ok`, for at most `limit`; the failure shows the last state seen.
///
/// For conditions that give no signal (a row in a database, a depth of a queue). `ask` returns `Ok(value)` once the
/// condition holds and `Err(state)` while it does not. One question that hangs is cut off at `limit` as well.
///
/// # Panics
/// When `limit` is over, with `what`, the limit and the last state.
pub async fn poll<T, S, F>(what: &str, limit: Duration, ask: impl FnMut() -> F) -> T
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    poll_every(Duration::from_millis(20), what, limit, ask).await
}

/// [`poll`] with its own period, for questions that cost more.
///
/// # Panics
/// As [`poll`].
pub async fn poll_every<T, S, F>(period: Duration, what: &str, limit: Duration, ask: impl FnMut() -> F) -> T
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    match poll_until(period, limit, ask).await {
        Ok(value) => value,
        Err(last) => panic!("gave up after {limit:?} waiting until {what}; last seen: {last}"),
    }
}

/// The polling itself; `Err` carries the last state as text.
pub(crate) async fn poll_until<T, S, F>(
    period: Duration,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, String>
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    let end = Instant::now() + limit;
    let mut last = String::from("nothing (the first question was not answered)");
    loop {
        let remaining = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(remaining, ask()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = format!("{state:?}"),
            Err(_) => return Err(last),
        }
        if Instant::now() + period >= end {
            return Err(last);
        }
        tokio::time::sleep(period).await;
    }
}
