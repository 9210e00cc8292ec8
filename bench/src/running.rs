//! A dispatcher that runs on a stage of its own, for events one at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use weft_dispatcher::Dispatcher;
use weft_dispatcher::broker::Broker;
use weft_dispatcher::http::Listen;
use weft_dispatcher::status::{FunctionStats, Stats};
use weft_ledger::InvocationQuery;
use weft_process::report::Report;
use weft_process::shutdown::Shutdown;

use crate::clock::now_ns;
use crate::fault::{Fault, Result, ensure};
use crate::stage::{Stage, id, key};
use crate::stamped::Stamped;

/// The longest that one event may take.
const EVENT_LIMIT: Duration = Duration::from_secs(20);

pub struct Running {
    pub stage: Stage,
    /// Where the Invoke API listens, if it does.
    pub invoke: Option<SocketAddr>,
    pub numbers: Arc<FunctionStats>,
    broker: Arc<Stamped>,
    stats: Stats,
    shutdown: Shutdown,
    task: JoinHandle<std::result::Result<(), Report>>,
}

/// One event that is settled. Times are of [`now_ns`].
#[derive(Debug)]
pub struct Done {
    /// Before the publish.
    pub published_ns: u64,
    /// The delivery left the broker's own code.
    pub received_ns: u64,
    /// What the handler answered.
    pub result: String,
}

impl Running {
    /// Starts it, without callers.
    pub async fn start(stage: Stage) -> Result<Self> {
        Self::start_for(stage, Listen::default()).await
    }

    /// Starts it, with the callers' listeners.
    pub async fn start_for(stage: Stage, listen: Listen) -> Result<Self> {
        let broker = Arc::new(Stamped::new(Arc::clone(&stage.broker), stage.queue()));
        let dispatcher = Dispatcher::prepare(stage.config(Arc::clone(&broker) as Arc<dyn Broker>)?).await?;
        let dispatcher = dispatcher.with_callers(listen).await?;
        let stats = dispatcher.stats();
        let numbers = stats
            .functions()
            .get(&stage.function)
            .cloned()
            .ok_or_else(|| Fault("the dispatcher does not know its function".to_owned()))?;
        let (invoke, shutdown) = (dispatcher.invoke_address(), Shutdown::manual());
        let task = tokio::spawn(dispatcher.run(shutdown.clone()));
        Ok(Self { stage, invoke, numbers, broker, stats, shutdown, task })
    }

    /// Publishes event `number`, waits until it is settled, and reads its result from the ledger.
    pub async fn event(&self, number: u32) -> Result<Done> {
        let succeeded = self.succeeded();
        let published_ns = now_ns();
        self.stage.publish(number, number + 1).await?;
        self.settled(succeeded).await?;
        let received_ns = self.broker.received_ns();
        let key = key(number)?;
        let query = InvocationQuery {
            function: Some(self.stage.function.clone()),
            key: Some(key),
            ..InvocationQuery::default()
        };
        let records = self.stage.ledger.invocations(&query).await?;
        let result = records
            .into_iter()
            .next()
            .and_then(|record| record.result)
            .ok_or_else(|| Fault(format!("the ledger holds no result of {}", id(number))))?;
        ensure(published_ns < received_ns, || {
            format!("times out of order: published {published_ns}, received {received_ns}")
        })?;
        Ok(Done { published_ns, received_ns, result })
    }

    /// How many invocations have succeeded.
    pub fn succeeded(&self) -> u64 {
        self.numbers.succeeded.load(Ordering::Relaxed)
    }

    /// How many events have waited for a worker.
    pub fn cold_starts(&self) -> u64 {
        self.numbers.cold_starts.load(Ordering::Relaxed)
    }

    /// Waits until more than `succeeded` have.
    pub async fn settled(&self, succeeded: u64) -> Result<()> {
        self.until("the event is settled", |numbers, _| numbers.succeeded.load(Ordering::Relaxed) > succeeded).await
    }

    /// Waits until no worker is alive.
    pub async fn no_worker(&self) -> Result<()> {
        self.until("no worker is left", |_, stats| stats.workers() == 0).await
    }

    async fn until(&self, what: &str, holds: impl Fn(&FunctionStats, &Stats) -> bool) -> Result<()> {
        let end = Instant::now() + EVENT_LIMIT;
        while !holds(&self.numbers, &self.stats) {
            ensure(!self.task.is_finished(), || format!("the dispatcher ended while waiting until {what}"))?;
            ensure(Instant::now() < end, || format!("waited in vain until {what}"))?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Drains it.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.drain.cancel();
        self.task.await??;
        Ok(())
    }
}
