//! The floor of the throughput: one loop that does with the same servers what the promise needs, and nothing else.

use std::time::{Duration, Instant};

use weft_ledger::{ClaimRequest, Settle, Settled, Settlement, Verdict};
use weft_schemas::{Digest, Key, NodeName};

use crate::child::Entered;
use crate::fault::{Fault, Result, ensure};
use crate::stage::Stage;

/// The most events that the floor claims and settles at once.
pub const BATCH: usize = 128;

/// One step after the other: take what is there, claim, settle, ack. No decoding, no worker. From the first delivery to the
/// last ack.
pub async fn run(stage: &Stage, events: u32) -> Result<Duration> {
    let session = stage.ledger.enter(&NodeName::new("floor")?, Duration::from_secs(300)).await?;
    let mut subscription = stage.broker.subscribe(&stage.queue(), stage.prefetch()).await?;
    let (mut batch, mut done, mut first) = (Vec::new(), 0, None);
    while done < events as usize {
        let count = subscription.deliveries.recv_many(&mut batch, BATCH).await;
        ensure(count > 0, || "the deliveries ended early".to_owned())?;
        first.get_or_insert_with(Instant::now);
        let mut requests = Vec::with_capacity(count);
        for delivery in &batch {
            let id = delivery.message.properties.message_id.as_deref().unwrap_or_default();
            requests.push(ClaimRequest {
                key: Key::new(id)?,
                digest: Digest::of(&[&delivery.message.body]),
                resume: None,
                interrupted: false,
            });
        }
        let verdicts = stage.ledger.claim(session.owner(), &stage.function, &requests).await?;
        let mut settles = Vec::with_capacity(count);
        for (request, verdict) in requests.into_iter().zip(verdicts) {
            let Verdict::Run(claim) = verdict else {
                return Err(Fault(format!("a fresh key was answered with {verdict:?}")));
            };
            let result = serde_json::to_vec(&Entered { entered_ns: crate::clock::now_ns() })?.into();
            let keep = Duration::from_secs(7 * 24 * 3600);
            let to = Settlement::Succeeded { result, keep, outbox: Vec::new() };
            settles.push(Settle { key: request.key, fence: claim.fence, to });
        }
        let settled = stage.ledger.settle(&stage.function, &settles).await?;
        ensure(settled.iter().all(|settled| *settled == Settled::Done), || "a settle was refused".to_owned())?;
        subscription.acks.ack(batch.drain(..).map(|delivery| delivery.id).collect());
        done += count;
    }
    subscription.acks.flush().await;
    let took = first.map(|first| first.elapsed()).unwrap_or_default();
    session.leave().await?;
    stage.broker.close().await;
    Ok(took)
}
