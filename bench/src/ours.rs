//! A dispatcher as `weft run` has it, with real worker processes, against a queue that is full when it starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_dispatcher::Dispatcher;
use weft_dispatcher::broker::Broker;
use weft_dispatcher::status::{FunctionStats, Stats};
use weft_process::shutdown::Shutdown;

use crate::fault::{Fault, Result, ensure};
use crate::stage::Stage;

/// How often the dispatcher's counters are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// One run from a full queue to an empty one.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From before the dispatcher was put together (its program is probed then) to the first delivery.
    pub start: Duration,
    /// From the first delivery to the last settle.
    pub took: Duration,
    pub peak_workers: u32,
}

/// Empties the queue of `events` events. `look` is called about once a millisecond with the time since the start; after the
/// last settle too, for as long as it answers `true`.
pub async fn run(
    stage: &Stage,
    broker: Arc<dyn Broker>,
    events: u32,
    mut look: impl FnMut(Duration, &FunctionStats, &Stats) -> bool,
) -> Result<Run> {
    let started = Instant::now();
    let dispatcher = Dispatcher::prepare(stage.config(broker)?).await?;
    let stats = dispatcher.stats();
    let numbers = stats
        .functions()
        .get(&stage.function)
        .cloned()
        .ok_or_else(|| Fault("the dispatcher does not know its function".to_owned()))?;
    let shutdown = Shutdown::manual();
    let mut running = tokio::spawn(dispatcher.run(shutdown.clone()));
    let (mut first, mut done) = (None, None);
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            ended = &mut running => {
                ended??;
                return Err(Fault("the dispatcher ended by itself".to_owned()));
            }
        }
        let now = Instant::now();
        if numbers.received.load(Ordering::Relaxed) > 0 {
            first.get_or_insert(now);
        }
        if numbers.succeeded.load(Ordering::Relaxed) >= events.into() {
            done.get_or_insert(now);
        }
        let again = look(now - started, &numbers, &stats);
        if done.is_some() && !again {
            break;
        }
        nothing_failed(&numbers)?;
    }
    shutdown.drain.cancel();
    running.await??;
    nothing_failed(&numbers)?;
    let (Some(first), Some(done)) = (first, done) else {
        return Err(Fault("there was nothing to do".to_owned()));
    };
    Ok(Run { start: first - started, took: done - first, peak_workers: stats.peak_workers() })
}

fn nothing_failed(numbers: &FunctionStats) -> Result<()> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let faults = read(&numbers.retries) + read(&numbers.crashes) + read(&numbers.timeouts) + read(&numbers.duplicates);
    let dead = numbers.dead();
    ensure(faults == 0 && dead.is_empty(), || {
        format!("{faults} attempts failed or were superfluous, and these are dead: {dead:?}")
    })
}
