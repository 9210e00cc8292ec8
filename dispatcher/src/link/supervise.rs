//! The task that owns a worker from its launch to its end.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weft_schemas::frame::ToWorker;

use super::confine::group::Group;
use super::current::Current;
use super::judge::{Seen, judge};
use super::lambda::{self, Bound, Drained, Ways, Whose};
use super::output::{self, Labels};
use super::process::Process;
use super::room::Room;
use super::socket::{self, End, Read};
use super::spawn::{self, Spawned};
use super::watch::Watch;
use super::{Ask, Ending, FromWorker, How, Launch, Program, TERM_GRACE, WorkerId};
use crate::broker::Names;

/// How long a worker that closed its link, or said that it cannot start, has to exit by itself.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long output may still come after a worker and its group are dead: only a descendant that left the group writes.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long a Lambda worker with an extension has between SIGTERM and SIGKILL, as on AWS.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

type Events = mpsc::Sender<(WorkerId, FromWorker)>;

/// Runs one worker and sends its one [`FromWorker::Gone`].
pub(super) async fn supervise(
    launch: Launch,
    frames: mpsc::UnboundedReceiver<ToWorker>,
    asks: mpsc::UnboundedReceiver<Ask>,
    pid: Arc<AtomicU32>,
    events: Events,
) {
    let id = launch.id;
    let ending = match start(&launch, Instant::now(), frames, &events, &pid).await {
        Ok(running) => {
            let current = running.current.clone();
            let ending = running.run(launch.init_timeout, asks, &pid).await;
            if let Some((invocation, seen)) = current.last_words() {
                let _ = events.send((id, FromWorker::Seen { id: invocation, seen })).await;
            }
            ending
        }
        Err(error) => {
            let why = format!("{}: {error}", launch.program.path.display());
            Ending { ready: false, how: How::SpawnFailed(why), stderr_tail: String::new() }
        }
    };
    // A receiver that is gone wanted to know nothing more.
    let _ = events.send((id, FromWorker::Gone(ending))).await;
}

/// A live worker. Fields are dropped in this order: first the process, with its group, then its room.
struct Running {
    process: Process,
    room: Room,
    group: Option<Group>,
    program: Arc<Program>,
    launched: Instant,
    /// Resolves when the worker is ready.
    ready: oneshot::Receiver<()>,
    reader: AbortOnDropHandle<Read>,
    writer: Option<AbortOnDropHandle<()>>,
    output: AbortOnDropHandle<String>,
    output_stop: CancellationToken,
    current: Current,
    hang_up: HangUp,
    /// Of a worker that does not end by itself when it has finished.
    drained: Option<Drained>,
}

/// Makes the reader see the end once everything that was written has been read, whoever else holds the other end.
enum HangUp {
    Socket(rustix::fd::OwnedFd),
    Server(CancellationToken),
}

impl HangUp {
    fn now(&self) {
        match self {
            Self::Socket(link) => drop(rustix::net::shutdown(link, rustix::net::Shutdown::Read)),
            Self::Server(token) => token.cancel(),
        }
    }
}

/// A worker's link, whichever kind it is.
struct Link {
    ready: oneshot::Receiver<()>,
    reader: AbortOnDropHandle<Read>,
    writer: Option<AbortOnDropHandle<()>>,
    hang_up: HangUp,
    drained: Option<Drained>,
}

async fn start(
    launch: &Launch,
    launched: Instant,
    frames: mpsc::UnboundedReceiver<ToWorker>,
    events: &Events,
    pid: &Arc<AtomicU32>,
) -> io::Result<Running> {
    let confinement = &launch.program.confinement;
    let room = Room::make(launch.id, confinement.user.as_ref())?;
    // Before the worker, which is told where it is.
    let api = match &launch.program.lambda {
        Some(lambda) => Some((Arc::clone(lambda), Bound::new().await?)),
        None => None,
    };
    let own = api
        .as_ref()
        .map(|(_, bound)| lambda::environment::of_worker(bound.address, &launch.start.worker, jiff::Timestamp::now()));
    let spawned = spawn::spawn(Arc::clone(&launch.program), room, own.unwrap_or_default()).await?;
    let Spawned { pid: made, link, stdout, stderr, room, group } = spawned;
    // From here on the process is killed and reaped however this ends.
    let process = Process::adopt(made)?;
    pid.store(process.id(), Ordering::Relaxed);
    let (stdout, stderr) = (Receiver::from_owned_fd(stdout)?, Receiver::from_owned_fd(stderr)?);

    let (current, asks) = Current::new();
    let Link { ready, reader, writer, hang_up, drained } = match (link, api) {
        (Some(link), _) => native(launch, launched, link, frames, events, (pid, &current))?,
        (None, Some((lambda, bound))) => {
            let whose = Whose {
                lambda,
                id: launch.id,
                function: launch.start.function.clone(),
                worker: launch.start.worker.clone(),
                queue: Names::new(launch.start.prefix.clone()).function(&launch.start.function),
                user: confinement.user.as_ref().map_or_else(rustix::process::geteuid, |user| user.uid).as_raw(),
                launched,
                pid: Arc::clone(pid),
                current: current.clone(),
            };
            over_http(bound, whose, frames, events)
        }
        (None, None) => return Err(io::Error::other("the worker has no link")),
    };
    let output_stop = CancellationToken::new();
    let labels = Labels {
        function: launch.start.function.clone(),
        worker: launch.start.worker.clone(),
        current: current.clone(),
    };
    let most = confinement.output_bytes;
    let output = tokio::spawn(output::follow(labels, most, stdout, stderr, asks, output_stop.clone()));
    Ok(Running {
        process,
        room,
        group,
        program: Arc::clone(&launch.program),
        launched,
        ready,
        reader,
        writer,
        output: AbortOnDropHandle::new(output),
        output_stop,
        current,
        hang_up,
        drained,
    })
}

/// Frames over the socket.
fn native(
    launch: &Launch,
    launched: Instant,
    link: std::os::unix::net::UnixStream,
    frames: mpsc::UnboundedReceiver<ToWorker>,
    events: &Events,
    (pid, current): (&Arc<AtomicU32>, &Current),
) -> io::Result<Link> {
    let hang_up = HangUp::Socket(link.try_clone()?.into());
    let (read_half, write_half) = UnixStream::from_std(link)?.into_split();
    let (ready_now, ready) = oneshot::channel();
    let watch = Watch::new(current.clone(), Arc::clone(pid));
    let reader = tokio::spawn(socket::read(read_half, launch.id, launched, events.clone(), ready_now, watch.clone()));
    let writer = tokio::spawn(socket::write(write_half, launch.id, frames, events.clone(), watch));
    let (reader, writer) = (AbortOnDropHandle::new(reader), Some(AbortOnDropHandle::new(writer)));
    Ok(Link { ready, reader, writer, hang_up, drained: None })
}

/// The Runtime API, both ways in one task.
fn over_http(bound: Bound, whose: Whose, frames: mpsc::UnboundedReceiver<ToWorker>, events: &Events) -> Link {
    let (ready_now, ready) = oneshot::channel();
    let stop = CancellationToken::new();
    let ways = Ways { frames, events: events.clone(), ready: ready_now, hang_up: stop.clone() };
    let (drained, serving) = lambda::serve(bound, whose, ways);
    let reader = AbortOnDropHandle::new(tokio::spawn(serving));
    Link { ready, reader, writer: None, hang_up: HangUp::Server(stop), drained: Some(drained) }
}

/// What is done to a worker that has not exited by then.
#[derive(Debug)]
struct Due {
    at: tokio::time::Instant,
    step: Step,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Kill it for not being ready.
    InitOver,
    Terminate,
    /// Kill, for the reason given; `None`: the cause is known or it was asked for.
    Kill(Option<How>),
}

/// Where a worker stands on its way out.
#[derive(Debug, Default)]
struct Stopping {
    /// The reason that the link itself has, which goes before what the exit status says.
    cause: Option<How>,
    /// A handful at most: init, drains, a kill.
    dues: Vec<Due>,
    draining: bool,
}

impl Stopping {
    fn within(&mut self, time: Duration, step: Step) {
        self.dues.push(Due { at: tokio::time::Instant::now() + time, step });
    }

    /// Resolves when the first step is due; never if there is none. Cancel-safe.
    fn due(&self) -> impl Future<Output = Step> + use<> {
        let first = self.dues.iter().min_by_key(|due| due.at).map(|due| (due.at, due.step.clone()));
        async move {
            match first {
                Some((at, step)) => {
                    tokio::time::sleep_until(at).await;
                    step
                }
                None => pending().await,
            }
        }
    }
}

/// Resolves when a worker that does not end by itself has finished; never for others.
async fn at_rest(drained: &mut Option<Drained>) -> bool {
    match drained {
        Some(drained) => (&mut drained.at_rest).await.is_ok(),
        None => pending().await,
    }
}

/// The sources of a supervisor's loop, turned into one event.
enum Happened {
    Exited(io::Result<()>),
    Ready(bool),
    ReadEnded(Result<Read, tokio::task::JoinError>),
    /// A worker that does not end by itself has finished.
    AtRest(bool),
    Asked(Option<Ask>),
    Due(Step),
}

impl Running {
    async fn run(mut self, init_timeout: Duration, mut asks: mpsc::UnboundedReceiver<Ask>, pid: &AtomicU32) -> Ending {
        let mut stopping = Stopping::default();
        stopping.within(init_timeout.saturating_sub(self.launched.elapsed()), Step::InitOver);
        let (mut heard, mut read, mut asked, mut rested) = (false, None, true, false);

        let exited = loop {
            let due = stopping.due();
            let happened = tokio::select! {
                exited = self.process.exited() => Happened::Exited(exited),
                said = &mut self.ready, if !heard => Happened::Ready(said.is_ok()),
                ended = &mut self.reader, if read.is_none() => Happened::ReadEnded(ended),
                ask = asks.recv(), if asked => Happened::Asked(ask),
                said = at_rest(&mut self.drained), if !rested => Happened::AtRest(said),
                step = due => Happened::Due(step),
            };
            match happened {
                Happened::Exited(exited) => break exited,
                Happened::Ready(ready) => {
                    heard = true;
                    if ready {
                        stopping.dues.retain(|due| due.step != Step::InitOver);
                    }
                }
                Happened::ReadEnded(ended) => {
                    let (ready, end) = match ended {
                        Ok(Read { ready, end }) => (ready, end),
                        Err(error) => (false, End::Protocol(format!("the reader of its link failed: {error}"))),
                    };
                    read = Some(ready);
                    self.read_ended(end, &mut stopping);
                }
                Happened::Asked(Some(Ask::Drain { grace })) => {
                    stopping.draining = true;
                    stopping.within(grace, Step::Terminate);
                }
                Happened::Asked(ask @ (Some(Ask::Kill) | None)) => {
                    // `None`: the handle was dropped.
                    asked = ask.is_some();
                    self.kill(&mut stopping);
                }
                Happened::AtRest(at_rest) => {
                    rested = true;
                    if at_rest {
                        self.end(&mut stopping);
                    }
                }
                Happened::Due(Step::Terminate) => self.end(&mut stopping),
                Happened::Due(Step::InitOver) => {
                    stopping.cause.get_or_insert(How::InitTimedOut);
                    self.kill(&mut stopping);
                }
                Happened::Due(Step::Kill(cause)) => {
                    stopping.cause = stopping.cause.or(cause);
                    self.kill(&mut stopping);
                }
            }
        };
        self.finish(exited, stopping.cause, read, pid).await
    }

    /// Asks it to end, and kills it later; at once where nobody in it expects to be asked.
    fn end(&self, stopping: &mut Stopping) {
        let grace = match &self.drained {
            None => TERM_GRACE,
            Some(drained) if drained.extensions.load(Ordering::Relaxed) => SHUTDOWN_GRACE,
            Some(_) => return self.kill(stopping),
        };
        self.process.signal(Signal::TERM);
        stopping.dues.retain(|due| due.step != Step::Terminate);
        stopping.within(grace, Step::Kill(None));
    }

    /// Kills at once; nothing else is due then but the exit.
    fn kill(&self, stopping: &mut Stopping) {
        stopping.dues.clear();
        self.process.signal(Signal::KILL);
    }

    fn read_ended(&self, end: End, stopping: &mut Stopping) {
        match end {
            End::Closed if stopping.draining => {}
            End::Closed => {
                let cause = How::Protocol("it closed its link and went on running".into());
                stopping.within(EXIT_GRACE, Step::Kill(Some(cause)));
            }
            End::StartFailed(why) => {
                stopping.cause.get_or_insert(How::StartFailed(why));
                stopping.within(EXIT_GRACE, Step::Kill(None));
            }
            End::Protocol(why) => {
                stopping.cause.get_or_insert(How::Protocol(why));
                self.kill(stopping);
            }
            End::Unheard => self.kill(stopping),
        }
    }

    /// The process has exited: kills what is left of its group, delivers what it still said, and cleans up.
    async fn finish(
        mut self,
        exited: io::Result<()>,
        mut cause: Option<How>,
        read: Option<bool>,
        pid: &AtomicU32,
    ) -> Ending {
        let status = match exited {
            Ok(()) => self.process.reap(),
            // The runtime is shutting down; dropping the process kills it.
            Err(error) => Err(error),
        };
        pid.store(0, Ordering::Relaxed);
        let mut seen = Seen::default();
        if let Some(group) = self.group.take() {
            seen.out_of_memory = group.out_of_memory();
            seen.out_of_processes = group.out_of_processes();
            // Also what left the process group, and would go on writing, and keep the folder in use.
            group.end().await;
        }
        // It reads nothing more; waiting for room in its buffer would be in vain.
        if let Some(writer) = &self.writer {
            writer.abort();
        }
        let ready = match read {
            Some(ready) => ready,
            None => {
                self.hang_up.now();
                match (&mut self.reader).await {
                    Ok(Read { ready, end }) => {
                        match end {
                            End::StartFailed(why) => drop(cause.get_or_insert(How::StartFailed(why))),
                            End::Protocol(why) => drop(cause.get_or_insert(How::Protocol(why))),
                            End::Closed | End::Unheard => {}
                        }
                        ready
                    }
                    Err(_) => false,
                }
            }
        };
        let late = tokio::time::timeout(OUTPUT_GRACE, &mut self.output).await;
        let stderr_tail = match late {
            Ok(tail) => tail.unwrap_or_default(),
            Err(_) => {
                self.output_stop.cancel();
                (&mut self.output).await.unwrap_or_default()
            }
        };
        let room = self.room;
        // Removing may take long; a failed join is a panic that was reported already.
        let _ = tokio::task::spawn_blocking(move || drop(room)).await;
        let how = match (cause, status) {
            (Some(cause), _) => cause,
            (None, Ok(how)) => judge(how, &seen, &self.program.confinement, &stderr_tail),
            (None, Err(error)) => How::Protocol(format!("its exit was not seen: {error}")),
        };
        Ending { ready, how, stderr_tail }
    }
}
