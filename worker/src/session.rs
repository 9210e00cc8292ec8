//! A worker's main loop: one owner of what runs, fed by the link.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use weft_process::report::chain;
use weft_schemas::frame::{InvocationId, Invoke, Start, ToDispatcher, ToWorker};
use weft_schemas::{ErrorInfo, Outcome};

use crate::attempt;
use crate::batch::{self, Member};
use crate::context::Context;
use crate::failure::Failure;
use crate::handler::Registry;
use crate::link::{self, Outgoing, ReadError};
use crate::services::Services;
use crate::span::AttemptSpans;
use crate::warm_up::{self, WarmUp};

/// How a session ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything that ran has answered, and everything was written.
    Drained,
    /// The dispatcher is gone; nobody is left to work for.
    LinkClosed,
}

/// Why a session could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("start: {0}")]
    Registry(String),
    #[error("start: {0}")]
    WarmUp(String),
    #[error("start: the first frame of the dispatcher is not `Start`")]
    NoStart,
    #[error(transparent)]
    Link(#[from] ReadError),
    /// An attempt's own task panicked: a defect of this library. The dispatcher learns by the end of the process.
    #[error("run an attempt")]
    Attempt(#[source] JoinError),
}

/// Writes out what telemetry holds back; may block.
pub(crate) type Flush = Box<dyn FnOnce() + Send>;

/// Serves one dispatcher until it drains this worker or goes away. Handlers run on the runtime `handlers`; `begin` sets up telemetry once `Start` is known.
pub(crate) async fn serve(
    registry: Registry,
    stream: UnixStream,
    handlers: Handle,
    begin: impl FnOnce(&Start, &Outgoing) -> Flush,
) -> Result<Ended, Error> {
    let (mut incoming, outgoing, _writer) = link::open(stream);
    if let Some(fault) = registry.fault() {
        let _ = outgoing.send(&ToDispatcher::StartFailed { message: fault.clone() }).await;
        outgoing.flush().await;
        return Err(Error::Registry(fault));
    }
    let start = match incoming.next().await? {
        None => return Ok(Ended::LinkClosed),
        Some(ToWorker::Start(start)) => start,
        Some(_) => return Err(Error::NoStart),
    };
    let ready = ToDispatcher::Ready { handlers: registry.names(), batch_handlers: registry.batch_names() };
    let flush = if registry.warm_ups().is_empty() || start.warm_up_ms == Some(0) {
        // Telemetry can wait until somebody has something to say.
        let _ = outgoing.send(&ready).await;
        begin(&start, &outgoing)
    } else {
        let flush = begin(&start, &outgoing);
        match warm(&registry, &handlers, &start, &mut incoming).await? {
            Warmed::Up => {}
            Warmed::Failed(why) => {
                let _ = outgoing.send(&ToDispatcher::StartFailed { message: why.clone() }).await;
                outgoing.flush().await;
                return Err(Error::WarmUp(why));
            }
            Warmed::Unwanted(ended) => return Ok(ended),
        }
        let _ = outgoing.send(&ready).await;
        flush
    };
    let mut session = Session {
        registry,
        handlers,
        services: Arc::new(Services::new(start)),
        outgoing: outgoing.clone(),
        attempts: JoinSet::new(),
        running: HashMap::new(),
        by_task: HashMap::new(),
        draining: false,
        used: false,
    };
    let ended = session.run(&mut incoming).await?;
    if ended == Ended::Drained {
        // The exporter waits for its own thread, so it must not hold up this one. A panic in it loses spans only.
        let _ = tokio::task::spawn_blocking(flush).await;
        outgoing.flush().await;
    }
    Ok(ended)
}

/// What came of the warm-ups.
enum Warmed {
    Up,
    /// Why the program cannot start.
    Failed(String),
    /// The dispatcher needs this worker no more.
    Unwanted(Ended),
}

/// Runs the warm-ups for as long as the dispatcher wants them.
async fn warm(
    registry: &Registry,
    handlers: &Handle,
    start: &Start,
    incoming: &mut link::Incoming,
) -> Result<Warmed, Error> {
    let within = start.warm_up_ms.map(std::time::Duration::from_millis);
    let about = WarmUp::new(start.function.clone(), within);
    let mut run = std::pin::pin!(warm_up::run(registry.warm_ups(), handlers, about));
    loop {
        let frame = tokio::select! {
            warmed = &mut run => return Ok(warmed.map_or_else(Warmed::Failed, |()| Warmed::Up)),
            frame = incoming.next() => frame?,
        };
        match frame {
            None => return Ok(Warmed::Unwanted(Ended::LinkClosed)),
            Some(ToWorker::Drain) => return Ok(Warmed::Unwanted(Ended::Drained)),
            // There is nothing to cancel, and nothing is handed to a worker that is not ready.
            Some(ToWorker::Cancel { .. } | ToWorker::Invoke(_) | ToWorker::InvokeBatch { .. } | ToWorker::Start(_)) => {
                warn!("frame for a worker that is not ready ignored");
            }
        }
    }
}

struct Session {
    registry: Registry,
    handlers: Handle,
    services: Arc<Services>,
    outgoing: Outgoing,
    attempts: JoinSet<()>,
    /// What runs, with the token that says that its right to run is lost.
    running: HashMap<InvocationId, CancellationToken>,
    /// The invocations of each attempt's task: one, or those of a batch.
    by_task: HashMap<Id, Vec<InvocationId>>,
    draining: bool,
    /// Whether any attempt ran here.
    used: bool,
}

/// Whatever the loop may hear of.
enum Heard {
    Frame(Option<ToWorker>),
    Ended(Result<Id, JoinError>),
}

impl Session {
    async fn run(&mut self, incoming: &mut link::Incoming) -> Result<Ended, Error> {
        while !(self.draining && self.attempts.is_empty()) {
            let heard = tokio::select! {
                frame = incoming.next() => Heard::Frame(frame?),
                Some(ended) = self.attempts.join_next_with_id() => Heard::Ended(ended.map(|(id, ())| id)),
            };
            match heard {
                Heard::Frame(None) => return Ok(Ended::LinkClosed),
                Heard::Frame(Some(frame)) => self.take(frame),
                Heard::Ended(Ok(task)) => {
                    for id in self.by_task.remove(&task).into_iter().flatten() {
                        self.running.remove(&id);
                    }
                }
                Heard::Ended(Err(error)) => return Err(Error::Attempt(error)),
            }
        }
        Ok(Ended::Drained)
    }

    fn take(&mut self, frame: ToWorker) {
        match frame {
            ToWorker::Invoke(invoke) => self.invoke(*invoke),
            ToWorker::InvokeBatch { invokes } => self.invoke_batch(invokes),
            ToWorker::Cancel { id } => {
                // An unknown id has answered in the meantime.
                if let Some(lost) = self.running.get(&id) {
                    lost.cancel();
                }
            }
            ToWorker::Drain => self.draining = true,
            ToWorker::Start(_) => warn!("second start of one worker ignored"),
        }
    }

    fn invoke(&mut self, invoke: Invoke) {
        let (id, received) = (invoke.id, Instant::now());
        if self.running.contains_key(&id) {
            warn!(invocation = id.0, "second invocation with one id ignored");
            return;
        }
        let (outgoing, handlers) = (self.outgoing.clone(), self.handlers.clone());
        let handle = if self.draining {
            self.attempts.spawn(async move { answer(&outgoing, id, Outcome::Drained, Vec::new(), None).await })
        } else if let Some(handler) = self.registry.get(&invoke.handler) {
            let lost = CancellationToken::new();
            self.running.insert(id, lost.clone());
            let spans = AttemptSpans::new(&self.services.function, &invoke, !self.used);
            self.used = true;
            let ctx = Context::new(self.services.clone(), invoke, received);
            let run = async move {
                let entered = attempt::Entered::default();
                let (outcome, emits) = attempt::run(&handlers, handler, ctx, lost, &spans, &entered).await;
                spans.wrap(answer(&outgoing, id, outcome, emits, entered.get())).await;
            };
            self.attempts.spawn(run)
        } else {
            let text = format!("the program registers no handler {:?}", invoke.handler);
            let outcome = Failure::terminal("UnknownHandler", text).into_outcome();
            self.attempts.spawn(async move { answer(&outgoing, id, outcome, Vec::new(), None).await })
        };
        self.by_task.insert(handle.id(), vec![id]);
    }

    fn invoke_batch(&mut self, mut invokes: Vec<Invoke>) {
        let received = Instant::now();
        invokes.retain(|invoke| {
            let known = self.running.contains_key(&invoke.id);
            if known {
                warn!(invocation = invoke.id.0, "second invocation with one id ignored");
            }
            !known
        });
        let Some(name) = invokes.first().map(|invoke| invoke.handler.clone()) else { return };
        let ids: Vec<InvocationId> = invokes.iter().map(|invoke| invoke.id).collect();
        let (outgoing, handlers) = (self.outgoing.clone(), self.handlers.clone());
        let refused = match self.registry.get_batch(&name) {
            _ if self.draining => Err(Outcome::Drained),
            Some(handler) => Ok(handler),
            None => {
                let text = format!("the program registers no batch handler {name:?}");
                Err(Failure::terminal("UnknownHandler", text).into_outcome())
            }
        };
        let in_task = ids.clone();
        let handle = match refused {
            Err(outcome) => self.attempts.spawn(async move {
                for id in in_task {
                    answer(&outgoing, id, outcome.clone(), Vec::new(), None).await;
                }
            }),
            Ok(handler) => {
                let mut members = Vec::with_capacity(invokes.len());
                for invoke in invokes {
                    let (id, lost) = (invoke.id, CancellationToken::new());
                    self.running.insert(id, lost.clone());
                    let spans = AttemptSpans::new(&self.services.function, &invoke, !self.used);
                    self.used = true;
                    members.push(Member {
                        id,
                        ctx: Context::new(self.services.clone(), invoke, received),
                        lost,
                        spans,
                    });
                }
                self.attempts.spawn(async move {
                    let entered = attempt::Entered::default();
                    let finished = batch::run(&handlers, handler, &members, &entered).await;
                    for (member, (outcome, emits)) in members.iter().zip(finished) {
                        let answered = answer(&outgoing, member.id, outcome, emits, entered.get());
                        member.spans.wrap(answered).await;
                    }
                })
            }
        };
        self.by_task.insert(handle.id(), ids);
    }
}

/// Sends an outcome. Waits for room on the link in the attempt's own task, so that the loop goes on reading.
async fn answer(
    outgoing: &Outgoing,
    id: InvocationId,
    outcome: Outcome,
    emits: Vec<weft_schemas::Event>,
    entered_us: Option<u64>,
) {
    if let Err(problem) = outgoing.send(&ToDispatcher::Outcome { id, outcome, emits, entered_us }).await {
        let problem = chain(&problem);
        error!(error = problem, "outcome does not fit the link");
        let outcome = Outcome::Failed { error: ErrorInfo::new("OutcomeNotSendable", problem) };
        // This one is a few hundred bytes.
        let _ = outgoing.send(&ToDispatcher::Outcome { id, outcome, emits: Vec::new(), entered_us }).await;
    }
}
