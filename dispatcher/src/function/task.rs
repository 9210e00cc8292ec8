//! One function's loop: select turns every source into one input, the state handles it, and doing comes last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use weft_ledger::{InvocationQuery, Ledger, Owner};
use weft_process::crash::{self, Point};
use weft_process::shutdown::Shutdown;
use weft_process::telemetry::Forwarder;
use weft_schemas::frame::Start;
use weft_schemas::manifest::Function;

use super::callers::{CallId, Entry, FromCaller};
use super::core::{Action, Burial, Core, Input, Now};
use crate::broker::{Acks, Broker, Delivery, Health, Subscription};
use crate::link::{FromWorker, Launch, Program, Worker, WorkerId};
use crate::shares::Share;
use crate::status::Stats;

/// How long after the drain's own limit the loop gives up waiting for the ledger.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// Everything that the loop talks to.
pub(crate) struct Surroundings {
    pub function: Arc<Function>,
    pub subscription: Subscription,
    /// For what is behind the deliveries, in this queue.
    pub broker: Arc<dyn Broker>,
    pub queue: String,
    /// Its part of the node.
    pub share: Share,
    pub ledger: Arc<dyn Ledger>,
    pub owner: watch::Receiver<Option<Owner>>,
    pub program: Arc<Program>,
    /// Raised when the code of the program has changed; never, where nobody follows it.
    pub code: watch::Receiver<u64>,
    /// What each worker is told first; its name is filled in here.
    pub start: Start,
    /// What is said by those who call it.
    pub callers: mpsc::UnboundedReceiver<FromCaller>,
    pub relay: Arc<Notify>,
    pub forwarder: Arc<Forwarder>,
    pub stats: Stats,
    pub shutdown: Shutdown,
    pub drain_limit: Duration,
}

/// Runs one function until it is drained. Dropping the future kills its workers.
pub(crate) async fn run(mut core: Core, around: Surroundings) {
    let mut hands = Hands::new(&around);
    let Surroundings {
        subscription, broker, mut share, mut owner, mut code, mut callers, shutdown, drain_limit, ..
    } = around;
    let Subscription { mut deliveries, acks: _ } = subscription;
    let mut open = true;
    let mut draining = false;
    let mut give_up: Option<Instant> = None;
    let mut health = broker.health();
    hands.inputs.push(Input::Broker(answers(&health.borrow_and_update())));
    hands.inputs.push(Input::Owner(owner.borrow_and_update().clone()));
    let mut batch: Vec<Delivery> = Vec::new();
    loop {
        let input = if let Some(input) = hands.inputs.pop() {
            input
        } else {
            let timer = core.next_timer().into_iter().chain(give_up).min();
            tokio::select! {
                biased;
                () = shutdown.kill.cancelled() => {
                    hands.kill_all();
                    return;
                }
                () = shutdown.drain.cancelled(), if !draining => {
                    draining = true;
                    give_up = Some(Instant::now() + drain_limit + DRAIN_MARGIN);
                    Input::Drain
                }
                Ok(()) = owner.changed() => Input::Owner(owner.borrow_and_update().clone()),
                Ok(()) = health.changed() => Input::Broker(answers(&health.borrow_and_update())),
                Ok(()) = code.changed() => Input::CodeChanged,
                Some(said) = callers.recv() => hands.hear(said),
                granted = share.changed() => Input::Granted(granted),
                Some((id, from)) = hands.from_workers.recv() => Input::Worker(id, from),
                Some(answer) = hands.answers.join_next(), if !hands.answers.is_empty() => match answer {
                    Ok(input) => input,
                    Err(panic) => {
                        // The claims it was about stay ours and lapse with the lease: stop rather than guess.
                        tracing::error!(error = %panic, "ledger task failed, function stops");
                        return;
                    }
                },
                count = deliveries.recv_many(&mut batch, super::BATCH), if open => {
                    if count == 0 {
                        open = false;
                        Input::DeliveriesEnded
                    } else {
                        Input::Delivered(std::mem::take(&mut batch))
                    }
                }
                () = at(timer) => Input::Tick,
            }
        };
        let now = Now::read();
        if give_up.is_some_and(|limit| limit <= now.mono) {
            tracing::warn!("drain given up, what is left is taken over by the next start");
            hands.kill_all();
            return;
        }
        for action in core.handle(input, now) {
            if let Action::Wish(wish) = action {
                hands.inputs.push(Input::Granted(share.wish(now.mono, wish)));
            } else if hands.act(action).await {
                return;
            }
        }
    }
}

/// A broker in alarm takes nothing and hands out all the same.
fn answers(health: &Health) -> bool {
    !matches!(health, Health::Disconnected { .. })
}

/// What is to be buried, and what the ledger has rows of.
async fn apart(ledger: &dyn Ledger, burials: &[Burial]) -> Result<(Vec<Burial>, Vec<Burial>), weft_ledger::Error> {
    let (mut unknown, mut known) = (Vec::new(), Vec::new());
    for burial in burials {
        let row = match &burial.known_as {
            Some(admitted) => {
                let (function, key) = (Some(burial.letter.function.clone()), Some(admitted.key.clone()));
                ledger
                    .invocations(&InvocationQuery { function, key, limit: 1, ..InvocationQuery::default() })
                    .await?
                    .pop()
            }
            None => None,
        };
        if row.is_some() { known.push(burial.clone()) } else { unknown.push(burial.clone()) }
    }
    Ok((unknown, known))
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Does what the state says.
struct Hands {
    function: Arc<Function>,
    acks: Acks,
    broker: Arc<dyn Broker>,
    queue: String,
    ledger: Arc<dyn Ledger>,
    program: Arc<Program>,
    start: Start,
    relay: Arc<Notify>,
    forwarder: Arc<Forwarder>,
    stats: Stats,
    workers: HashMap<WorkerId, Worker>,
    to_loop: mpsc::Sender<(WorkerId, FromWorker)>,
    from_workers: mpsc::Receiver<(WorkerId, FromWorker)>,
    answers: JoinSet<Input>,
    /// Callers that have yet to hear whether they may call: one, while its input is handled.
    entering: HashMap<CallId, oneshot::Sender<Entry>>,
    /// Inputs that are known already.
    inputs: Vec<Input>,
}

impl Hands {
    fn new(around: &Surroundings) -> Self {
        let (to_loop, from_workers) = mpsc::channel(1024);
        Self {
            function: Arc::clone(&around.function),
            acks: around.subscription.acks.clone(),
            broker: Arc::clone(&around.broker),
            queue: around.queue.clone(),
            ledger: Arc::clone(&around.ledger),
            program: Arc::clone(&around.program),
            start: around.start.clone(),
            relay: Arc::clone(&around.relay),
            forwarder: Arc::clone(&around.forwarder),
            stats: around.stats.clone(),
            workers: HashMap::new(),
            to_loop,
            from_workers,
            answers: JoinSet::new(),
            entering: HashMap::new(),
            inputs: Vec::new(),
        }
    }

    fn hear(&mut self, said: FromCaller) -> Input {
        match said {
            FromCaller::Enter { call, key, verdict } => {
                self.entering.insert(call.clone(), verdict);
                Input::Call { call, key }
            }
            FromCaller::Leave { call } => Input::CallLeft(call),
            FromCaller::Reserve(bound) => Input::Reserve(bound),
        }
    }

    /// Does one thing; `true` when the loop is done.
    async fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Claim { owner, requests } => {
                let (ledger, function) = (Arc::clone(&self.ledger), Arc::clone(&self.function));
                self.answers.spawn(async move {
                    let result = ledger.claim(&owner, &function.name, &requests).await;
                    Input::Claimed { keys: requests.into_iter().map(|request| request.key).collect(), result }
                });
            }
            Action::Settle(settles) => {
                let (ledger, function) = (Arc::clone(&self.ledger), Arc::clone(&self.function));
                self.answers.spawn(async move {
                    crash::point(Point::BeforeSettle);
                    let result = ledger.settle(&function.name, &settles).await;
                    Input::Settled { keys: settles.into_iter().map(|settle| settle.key).collect(), result }
                });
            }
            Action::Bury(burials) => {
                let ledger = Arc::clone(&self.ledger);
                self.answers.spawn(async move {
                    let (burials, known) = match apart(&*ledger, &burials).await {
                        Ok(apart) => apart,
                        Err(error) => return Input::Buried { burials, known: Vec::new(), result: Err(error) },
                    };
                    let letters: Vec<_> =
                        burials.iter().map(|burial| (burial.letter.clone(), burial.copy.clone())).collect();
                    crash::point(Point::BeforeBury);
                    match ledger.bury(&letters).await {
                        Ok(()) => Input::Buried { burials, known, result: Ok(()) },
                        // Nothing was written; all of it is asked again.
                        Err(error) => {
                            let all = burials.into_iter().chain(known).collect();
                            Input::Buried { burials: all, known: Vec::new(), result: Err(error) }
                        }
                    }
                });
            }
            Action::Post(postings) => {
                let (ledger, function) = (Arc::clone(&self.ledger), Arc::clone(&self.function));
                self.answers.spawn(async move {
                    let result = super::replies::post(ledger.as_ref(), &function.name, &postings).await;
                    Input::Posted { postings, result }
                });
            }
            Action::Permits { owner, ask } => {
                let (ledger, function) = (Arc::clone(&self.ledger), Arc::clone(&self.function));
                self.answers.spawn(async move {
                    let result = ledger.permits(&owner, &function.name, ask).await;
                    Input::Permits { owner, result }
                });
            }
            Action::Ack(ids) => self.acks.ack(ids),
            Action::Requeue(ids) => self.acks.requeue(ids),
            Action::StopConsuming => self.acks.stop(),
            Action::Prefetch(most) => self.acks.prefetch(u16::try_from(most).unwrap_or(u16::MAX)),
            Action::Entry(call, entry) => {
                if let Some(verdict) = self.entering.remove(&call) {
                    // Who has gone away by now leaves of his own accord.
                    let _ = verdict.send(entry);
                }
            }
            // The loop does that itself.
            Action::Wish(_) => {}
            Action::LookBehind => {
                let (broker, queue) = (Arc::clone(&self.broker), self.queue.clone());
                self.answers.spawn(async move { Input::Behind(broker.counts(&queue).await) });
            }
            Action::Launch(id) => self.launch(id),
            Action::Invoke(id, invoke) => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.invoke(*invoke);
                }
            }
            Action::InvokeBatch(id, invokes) => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.invoke_batch(invokes);
                }
            }
            Action::Cancel(id, invocation) => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.cancel(invocation);
                }
            }
            Action::DrainWorker(id) => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.drain();
                }
            }
            Action::KillWorker(id) => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.kill();
                }
            }
            Action::WorkerGone(id) => {
                self.workers.remove(&id);
                self.stats.worker_gone(&self.function.name);
            }
            Action::WakeRelay => self.relay.notify_one(),
            Action::ForwardSpans(spans) => self.forwarder.forward(spans),
            Action::Stopped => {
                self.acks.flush().await;
                return true;
            }
        }
        false
    }

    fn kill_all(&mut self) {
        for (_, worker) in self.workers.drain() {
            worker.kill();
            self.stats.worker_gone(&self.function.name);
        }
    }

    fn launch(&mut self, id: WorkerId) {
        let mut start = self.start.clone();
        start.worker = format!("{}-{}", self.function.name, id.0);
        let init_timeout = self.function.init_timeout;
        let launch = Launch { id, program: Arc::clone(&self.program), start, init_timeout };
        self.stats.worker_started(&self.function.name);
        self.workers.insert(id, Worker::launch(launch, self.to_loop.clone()));
    }
}
