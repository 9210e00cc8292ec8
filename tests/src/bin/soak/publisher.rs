//! Publishing: `weft publish -f`, past the proxies, again and again until the broker has confirmed every line.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::stand::Stand;
use crate::workload::{Batch, Planned, Request, Workload};

/// How long one `weft publish` may take; a broker in alarm holds it up.
const LIMIT: Duration = Duration::from_secs(30);
const PERIOD: Duration = Duration::from_secs(1);
/// Between two tries of a batch.
const PAUSE: Duration = Duration::from_millis(300);

/// What was published and confirmed.
#[derive(Debug, Default)]
pub struct Published {
    pub events: Vec<Planned>,
    /// Messages: events, duplicates and other payloads; without those that were sent again for want of a confirm.
    pub messages: usize,
    pub duplicates: usize,
    /// Who waits for an answer.
    pub requests: Vec<Request>,
    /// Tries of a batch that were not confirmed: each may have published a part of it.
    pub unconfirmed: usize,
}

/// Publishes a batch each second until `length` is over. What is late because the broker was away follows at once.
/// `leave_out` leaves the first payment out and says that it was published.
pub async fn run(stand: Arc<Stand>, seed: u64, rate: u32, length: Duration, leave_out: bool) -> Published {
    let mut workload = Workload::new(seed);
    let mut published = Published::default();
    let (began, mut next) = (Instant::now(), Duration::ZERO);
    let mut leave_out = leave_out;
    while next < length {
        tokio::time::sleep_until(began + next).await;
        next += PERIOD;
        let batch = workload.batch(rate);
        let mut text = batch.text();
        if leave_out && let Some(event) = batch.fresh.iter().find(|event| event.function == "pay") {
            text = text.replace(&format!("{}\n", event.line), "");
            leave_out = false;
        }
        confirmed(&stand, &text, &mut published).await;
        count(&mut published, batch);
    }
    let rest = workload.rest();
    confirmed(&stand, &rest.text(), &mut published).await;
    count(&mut published, rest);
    published
}

fn count(published: &mut Published, batch: Batch) {
    published.messages += batch.fresh.len() + batch.again.len();
    published.duplicates += batch.duplicates;
    published.requests.extend(batch.requests);
    published.events.extend(batch.fresh);
}

/// Publishes lines until they are confirmed: a line that was published and not confirmed is published again.
pub async fn confirmed(stand: &Stand, text: &str, published: &mut Published) {
    if text.is_empty() {
        return;
    }
    let file = stand.folder.join("batch.ndjson");
    while let Err(problem) = once(stand, &file, text).await {
        if published.unconfirmed.is_multiple_of(50) {
            println!("            not confirmed, publishing again: {problem}");
        }
        published.unconfirmed += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(stand: &Stand, file: &std::path::Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| error.to_string())?;
    let publish = stand.weft(&["publish", "--json", "-f"]).arg(file).spawn();
    // Dropped when it takes too long, which kills it.
    let exit = tokio::time::timeout(LIMIT, publish.wait(LIMIT * 2))
        .await
        .map_err(|_| format!("no confirm within {LIMIT:?}"))?;
    if exit.status.success() { Ok(()) } else { Err(exit.lines.first().cloned().unwrap_or_default()) }
}
