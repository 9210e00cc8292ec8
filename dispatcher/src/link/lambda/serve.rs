//! The task that owns a worker's Runtime API: its listener, its connections, the frames from the pool and what goes back.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_schemas::frame::ToWorker;
use weft_schemas::{FunctionName, Outcome};

use super::super::socket::{End, Read};
use super::super::{FromWorker, Registered, WorkerId};
use super::api::{Api, Said, State, connection};
use super::machine::Machine;
use super::{Current, Lambda, peer};

/// Connections of one worker besides two for each slot: its extensions', and those that it forgot to close.
const CONNECTIONS: usize = 64;
/// How long a worker that said that it cannot start has to exit by itself.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long what a worker wrote before its end may take to be read: its sockets are closed, so there is nothing to wait for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A listener for one worker's Runtime API.
#[derive(Debug)]
pub(in crate::link) struct Bound {
    listener: TcpListener,
    pub(in crate::link) address: SocketAddr,
}

impl Bound {
    /// Listens on a loopback address and port of its own, both taken at random: with 2^24 addresses, whoever looks for it
    /// finds it in the kernel's list of sockets rather than by trying.
    ///
    /// # Errors
    /// No socket could be made.
    pub(in crate::link) async fn new() -> io::Result<Self> {
        let own = Ipv4Addr::new(127, fastrand::u8(..), fastrand::u8(..), fastrand::u8(1..255));
        let listener = match TcpListener::bind((own, 0)).await {
            Ok(listener) => listener,
            // Some sandboxes have one loopback address only.
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
}

/// What a supervisor learns of the end of a drain.
#[derive(Debug)]
pub(in crate::link) struct Drained {
    /// Resolves when the worker was told to finish and nothing is under way.
    pub(in crate::link) at_rest: oneshot::Receiver<()>,
    /// Whether an extension has registered, so that the worker is asked to end first.
    pub(in crate::link) extensions: Arc<AtomicBool>,
}

/// Whose API it is.
#[derive(Debug)]
pub(in crate::link) struct Whose {
    pub(in crate::link) lambda: Arc<Lambda>,
    pub(in crate::link) id: WorkerId,
    pub(in crate::link) function: FunctionName,
    pub(in crate::link) worker: String,
    /// The queue that feeds the function.
    pub(in crate::link) queue: String,
    /// The user of the worker's processes; nobody else is answered.
    pub(in crate::link) user: u32,
    pub(in crate::link) launched: Instant,
    pub(in crate::link) pid: Arc<AtomicU32>,
    pub(in crate::link) current: Current,
}

/// What comes in, and where what goes out goes.
pub(in crate::link) struct Ways {
    pub(in crate::link) frames: mpsc::UnboundedReceiver<ToWorker>,
    pub(in crate::link) events: mpsc::Sender<(WorkerId, FromWorker)>,
    /// Resolved when the worker is ready.
    pub(in crate::link) ready: oneshot::Sender<()>,
    /// The worker is gone.
    pub(in crate::link) hang_up: CancellationToken,
}

/// Starts to serve one worker's API; the task ends after the worker has, with what it last said.
pub(in crate::link) fn serve(
    bound: Bound,
    whose: Whose,
    ways: Ways,
) -> (Drained, impl Future<Output = Read> + Send + use<>) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the requests that are being answered")]
    let (said, heard) = mpsc::unbounded_channel();
    let (rest, at_rest) = oneshot::channel();
    let extensions = Arc::new(AtomicBool::new(false));
    let drained = Drained { at_rest, extensions: Arc::clone(&extensions) };
    let Whose { lambda, id, function, worker, queue, user, launched, pid, current } = whose;
    let most = lambda.slots.saturating_mul(2).saturating_add(CONNECTIONS);
    let state = Mutex::new(State::new(Machine::new(lambda.slots)));
    let api = Arc::new(Api { lambda, function, worker, queue, launched, pid, current, extensions, said, state });
    let server = Server {
        api,
        id,
        user,
        listener: bound.listener,
        address: bound.address,
        connections: JoinSet::new(),
        most,
        heard,
        events: ways.events,
        ready: Some(ways.ready),
        rest: Some(rest),
        failed: None,
    };
    (drained, server.run(ways.frames, ways.hang_up))
}

struct Server {
    api: Arc<Api>,
    id: WorkerId,
    user: u32,
    listener: TcpListener,
    address: SocketAddr,
    connections: JoinSet<()>,
    /// Connections at once.
    most: usize,
    heard: mpsc::UnboundedReceiver<Said>,
    events: mpsc::Sender<(WorkerId, FromWorker)>,
    ready: Option<oneshot::Sender<()>>,
    rest: Option<oneshot::Sender<()>>,
    /// Why it cannot start, and until when it may exit by itself.
    failed: Option<(String, tokio::time::Instant)>,
}

impl Server {
    async fn run(mut self, mut frames: mpsc::UnboundedReceiver<ToWorker>, hang_up: CancellationToken) -> Read {
        let mut open = true;
        let end = loop {
            let exit_by = self.failed.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                Some(said) = self.heard.recv() => if self.hear(said).await.is_err() {
                    break End::Unheard;
                },
                frame = frames.recv(), if open => match frame {
                    Some(frame) => if self.frame(frame).await.is_err() {
                        break End::Unheard;
                    },
                    // The handle was dropped, which kills the worker.
                    None => open = false,
                },
                () = hang_up.cancelled() => break End::Closed,
                () = at(exit_by) => break End::Closed,
                Some(_) = self.connections.join_next() => {}
                accepted = self.listener.accept(), if self.connections.len() < self.most => {
                    if let Ok((stream, from)) = accepted {
                        self.connect(stream, from);
                    }
                }
            }
        };
        self.end(end).await
    }

    async fn hear(&mut self, said: Said) -> Result<(), Unheard> {
        match said {
            Said::Ready { init } => {
                if let Some(ready) = self.ready.take() {
                    // The supervisor may be past waiting.
                    let _ = ready.send(());
                }
                let registered = Registered { any: true, ..Registered::default() };
                self.tell(FromWorker::Ready { registered, init }).await
            }
            Said::Outcome { id, outcome, taken_us } => {
                let said = FromWorker::Outcome { id, outcome, emits: Vec::new(), entered_us: Some(taken_us) };
                self.tell(said).await
            }
            Said::Seen { id, seen } => self.tell(FromWorker::Seen { id, seen }).await,
            Said::InitFailed(why) => {
                let until = tokio::time::Instant::now() + EXIT_GRACE;
                self.failed.get_or_insert((why, until));
                Ok(())
            }
            Said::Look => {
                self.look();
                Ok(())
            }
        }
    }

    async fn frame(&mut self, frame: ToWorker) -> Result<(), Unheard> {
        match frame {
            // The worker finds it in its environment.
            ToWorker::Start(_) => {}
            ToWorker::Invoke(invoke) => self.offer(vec![*invoke]),
            ToWorker::InvokeBatch { invokes } => self.offer(invokes),
            ToWorker::Cancel { id } => {
                let taken_back = self.api.state().machine.cancel(id);
                if taken_back {
                    let outcome = Outcome::Superseded;
                    let said = FromWorker::Outcome { id, outcome, emits: Vec::new(), entered_us: None };
                    self.tell(said).await?;
                }
            }
            ToWorker::Drain => {
                self.api.state().machine.drain();
                self.api.tell_extensions();
                self.look();
            }
        }
        Ok(())
    }

    fn offer(&self, invokes: Vec<weft_schemas::frame::Invoke>) {
        if invokes.is_empty() {
            return;
        }
        let call = self.api.lambda.call(invokes, &self.api.queue, Timestamp::now());
        self.api.state().machine.offer(call);
        self.api.dispatch();
    }

    /// Says, once, when a drain has come to its end.
    fn look(&mut self) {
        if self.api.state().is_at_rest()
            && let Some(rest) = self.rest.take()
        {
            let _ = rest.send(());
        }
    }

    async fn tell(&self, said: FromWorker) -> Result<(), Unheard> {
        self.events.send((self.id, said)).await.map_err(|_| Unheard)
    }

    fn connect(&mut self, stream: TcpStream, from: SocketAddr) {
        // Each answer is written at once; waiting for more to send would only delay it.
        let _ = stream.set_nodelay(true);
        let (api, user, ours) = (Arc::clone(&self.api), self.user, self.address);
        self.connections.spawn(async move {
            if !is_of(user, from, ours).await {
                return;
            }
            // Ends with an error when the worker breaks a connection off, which is its own affair.
            let _ = connection(api, stream).await;
        });
    }

    /// Hears what the worker still wrote, and what its requests had said.
    async fn end(mut self, end: End) -> Read {
        // Connections that it made just before its end.
        while let Ok(Ok((stream, from))) = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await {
            self.connect(stream, from);
        }
        self.api.state().close();
        let last = tokio::time::Instant::now() + LAST_WORDS;
        while !self.connections.is_empty() {
            tokio::select! {
                biased;
                Some(said) = self.heard.recv() => if self.hear(said).await.is_err() {
                    break;
                },
                _ = self.connections.join_next() => {}
                () = tokio::time::sleep_until(last) => break,
            }
        }
        self.connections.shutdown().await;
        while let Ok(said) = self.heard.try_recv() {
            if self.hear(said).await.is_err() {
                break;
            }
        }
        let end = match self.failed {
            Some((why, _)) => End::StartFailed(why),
            None => end,
        };
        Read { ready: self.ready.is_none(), end }
    }
}

/// Nobody receives events any more.
struct Unheard;

async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Whether a connection comes from a process of this user. Where the kernel does not tell, everybody is answered.
async fn is_of(user: u32, from: SocketAddr, ours: SocketAddr) -> bool {
    let looked = tokio::task::spawn_blocking(move || peer::user_of(from, ours)).await;
    match looked {
        Ok(Ok(found)) => {
            if found.is_some_and(|found| found != user) {
                tracing::warn!(user = found, "a process of another user was refused at a worker's Runtime API");
            }
            found == Some(user)
        }
        Ok(Err(error)) => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                tracing::warn!(%error, "users of connections are not known, any process may ask a worker's Runtime API");
            });
            true
        }
        Err(_) => false,
    }
}
