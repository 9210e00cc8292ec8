//! A TCP proxy that breaks. Its port stays the same for its life, so that what is behind it can be away and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::Error;
use crate::error::or_fail;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They pass this much later.
    Delay(Duration),
    /// They wait until this changes. The connection stays open: what a lost network looks like from inside.
    Hold,
    /// They are read and thrown away: a request, or an answer, that is lost for good.
    Lose,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    requests: Flow,
    answers: Flow,
    /// New connections are closed at once.
    refuse: bool,
    /// Connections made under an older number are closed.
    generation: u64,
    /// Whether the close is a reset rather than an orderly end.
    reset: bool,
}

/// A proxy on loopback before one server. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before `127.0.0.1:port`.
    ///
    /// # Panics
    /// No port can be bound.
    pub async fn before(port: u16) -> Self {
        let listener =
            or_fail(TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::while_doing("starting a proxy")));
        let address = or_fail(listener.local_addr().map_err(Error::while_doing("starting a proxy")));
        let state = Arc::new(watch::Sender::new(State::default()));
        let accepting = tokio::spawn(accept(listener, port, state.clone()));
        Self { address, state, accepting }
    }

    /// The proxy's own port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `url` with the proxy's port in place of the server's.
    ///
    /// # Panics
    /// `url` is none.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        let mut url = or_fail(url::Url::parse(url).map_err(Error::while_doing("reading a URL")));
        let _ = url.set_host(Some("127.0.0.1"));
        let _ = url.set_port(Some(self.port()));
        url.into()
    }

    /// What happens to bytes towards the server, on open and new connections.
    pub fn requests(&self, flow: Flow) {
        self.state.send_modify(|state| state.requests = flow);
    }

    /// What happens to bytes from the server, on open and new connections.
    pub fn answers(&self, flow: Flow) {
        self.state.send_modify(|state| state.answers = flow);
    }

    /// Holds both directions.
    pub fn pause(&self) {
        self.requests(Flow::Hold);
        self.answers(Flow::Hold);
    }

    /// Lets everything through and new connections in again.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            state.requests = Flow::Pass;
            state.answers = Flow::Pass;
            state.refuse = false;
        });
    }

    /// Ends every open connection in good order; new ones are served.
    pub fn cut(&self) {
        self.close(false);
    }

    /// Ends every open connection with a TCP reset; new ones are served.
    pub fn reset(&self) {
        self.close(true);
    }

    /// Closes new connections at once, until [`heal`](Self::heal). Open ones stay.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refuse = true);
    }

    fn close(&self, reset: bool) {
        self.state.send_modify(|state| {
            state.generation += 1;
            state.reset = reset;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Owns the connections: aborting it drops them.
async fn accept(listener: TcpListener, port: u16, state: Arc<watch::Sender<State>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if state.borrow().refuse {
                    continue;
                }
                connections.spawn(serve(client, port, state.subscribe()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, port: u16, mut state: watch::Receiver<State>) {
    let generation = state.borrow().generation;
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client, mut server) = (client, server);
    let (to_server, to_client) = (state.clone(), state.clone());
    let closed = state.wait_for(|state| state.generation != generation);
    let reset = {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        tokio::select! {
            () = async {
                // Each side's orderly end is passed on by itself: the other may still have something to say.
                tokio::join!(
                    pump(&mut client_reads, &mut server_writes, to_server, |state| state.requests),
                    pump(&mut server_reads, &mut client_writes, to_client, |state| state.answers),
                );
            } => false,
            changed = closed => changed.is_ok_and(|state| state.reset),
        }
    };
    if reset {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut state: watch::Receiver<State>,
    flow: fn(&State) -> Flow,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..read).unwrap_or_default();
        // Held bytes wait here; what happens to them is decided when the hold ends.
        let Ok(now) = state.wait_for(|state| flow(state) != Flow::Hold).await.map(|state| flow(&state)) else { break };
        match now {
            Flow::Lose => continue,
            Flow::Delay(by) => tokio::time::sleep(by).await,
            Flow::Pass | Flow::Hold => {}
        }
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
