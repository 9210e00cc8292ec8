//! One connection, kept up: dials, tells why when it cannot, and dials again with backoff when it is lost.
//!
//! lapin's own recovery is off: it brings back connections but not channels, and a channel that the broker closed has
//! to be rebuilt anyway. Whoever uses a [`Line`] waits for the next connection and rebuilds its own channel on it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_process::secret::Address;

use super::health::HealthBoard;
use crate::broker::{BrokerError, Health};

/// How long one try to connect may take, from name lookup to a ready AMQP connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// How long a polite close may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Seconds between heartbeats; the server may ask for fewer.
const HEARTBEAT: u16 = 30;
/// lapin keeps two buffers of 32 frames for each connection, and RabbitMQ offers frames of 128 KiB: 16 MiB that an idle
/// dispatcher would hold for nothing. Larger messages go in several frames. RabbitMQ 4.1 wants at least 8 KiB.
const FRAME_MAX: u32 = 32 * 1024;
/// A lost connection is told by an event. This is only the net under a missed one.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Consume,
    Publish,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Publish => "publish",
        }
    }
}

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Dialer {
    uri: AMQPUri,
    /// Without credentials.
    pub(super) address: String,
    name: String,
}

impl Dialer {
    /// Reads an address.
    ///
    /// # Errors
    /// [`BrokerError::Address`]; its text never holds the address's credentials.
    pub(super) fn new(address: &Address, name: &str) -> Result<Self, BrokerError> {
        // Without a host there is nothing that redacting can tell from a password.
        let shown = match address.expose().contains("://") {
            true => address.redacted(),
            false => "(an address that cannot be read)".to_owned(),
        };
        // lapin's own text may quote the whole address, password and all.
        let fault = |problem: &str| BrokerError::Address { address: shown.clone(), problem: problem.to_owned() };
        let text = address.expose();
        if !(text.starts_with("amqp://") || text.starts_with("amqps://")) {
            return Err(fault("it does not start with amqp:// or amqps://"));
        }
        let mut uri: AMQPUri = text.parse().map_err(|_| {
            fault("it does not read as amqp://user:password@host:port/virtual-host (%2f is the host /)")
        })?;
        // lapin takes an IPv6 address for no host at all and would go to localhost.
        if let Some((host, _)) = text
            .rsplit_once('@')
            .map_or_else(|| text.split_once("//").map(|(_, rest)| rest), |(_, rest)| Some(rest))
            .and_then(|rest| rest.strip_prefix('['))
            .and_then(|rest| rest.split_once(']'))
        {
            uri.authority.host = host.to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        Ok(Self { uri, address: shown, name: name.to_owned() })
    }

    /// The user whose name the broker accepts as a message's user id.
    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// Connects once, within [`DIAL_LIMIT`]. Cancel-safe.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] or [`BrokerError::Refused`].
    pub(super) async fn dial(&self, role: Role) -> Result<Connection, BrokerError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} ({})", self.name, role.name()).into());
        match tokio::time::timeout(DIAL_LIMIT, Connection::connect_uri(self.uri.clone(), properties)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain(error)),
            Err(_) => {
                Err(self
                    .unavailable(Cause { text: format!("no answer within {}s", DIAL_LIMIT.as_secs()), source: None }))
            }
        }
    }

    fn unavailable(&self, cause: Cause) -> BrokerError {
        BrokerError::Unavailable { address: self.address.clone(), source: Box::new(cause) }
    }

    fn explain(&self, error: lapin::Error) -> BrokerError {
        if let ErrorKind::ProtocolError(protocol) = error.kind() {
            // 403 access refused (user or password), 530 not allowed (virtual host missing or closed to the user).
            if matches!(protocol.get_id(), 403 | 530) {
                let text = if self.uri.vhost.is_empty() {
                    "the address ends in / and so names the virtual host with the empty name; leave the / out, or write %2f"
                        .to_owned()
                } else {
                    protocol.get_message().as_str().to_owned()
                };
                return BrokerError::Refused {
                    address: self.address.clone(),
                    source: Box::new(Cause { text, source: Some(error) }),
                };
            }
        }
        let refused = matches!(error.kind(), ErrorKind::IOError(io) if matches!(
            io.kind(),
            std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable
        ));
        let text = match self.uri.scheme {
            _ if refused => "nothing takes connections there",
            AMQPScheme::AMQPS => {
                "the secure connection was not made; check that this port speaks TLS (commonly 5671) and that this machine trusts its certificate"
            }
            AMQPScheme::AMQP => {
                "no AMQP connection was made; check the name and the port, and write amqps:// if this port speaks TLS"
            }
        };
        self.unavailable(Cause { text: text.to_owned(), source: Some(error) })
    }
}

/// Why, in words for people, above lapin's own error.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Cause {
    text: String,
    #[source]
    source: Option<lapin::Error>,
}

/// What a line is now.
#[derive(Clone)]
pub(super) enum State {
    Up(Arc<Connection>),
    Down(Arc<str>),
    Closed,
}

/// A connection that is kept up until the token is cancelled. Clones share it.
#[derive(Clone)]
pub(super) struct Line {
    state: watch::Receiver<State>,
}

impl Line {
    /// Takes over a first connection. `closing` ends the line: the connection is closed politely, within a limit.
    pub(super) fn keep(
        dialer: Dialer,
        role: Role,
        first: Connection,
        health: Arc<HealthBoard>,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (tx, state) = watch::channel(State::Up(Arc::new(first)));
        (Self { state }, supervise(dialer, role, tx, health, closing))
    }

    /// The connection, if it is up now.
    pub(super) fn now(&self) -> Result<Arc<Connection>, String> {
        match &*self.state.borrow() {
            State::Up(connection) if connection.status().connected() => Ok(Arc::clone(connection)),
            State::Up(_) => Err("connection lost".to_owned()),
            State::Down(reason) => Err(reason.to_string()),
            State::Closed => Err("closed".to_owned()),
        }
    }

    /// Waits for a connection; `None` once the line is closed. Cancel-safe.
    pub(super) async fn up(&mut self) -> Option<Arc<Connection>> {
        let found = self
            .state
            .wait_for(|state| match state {
                State::Up(connection) => connection.status().connected(),
                State::Down(_) => false,
                State::Closed => true,
            })
            .await
            .ok()?;
        match &*found {
            State::Up(connection) => Some(Arc::clone(connection)),
            State::Down(_) | State::Closed => None,
        }
    }
}

async fn supervise(
    dialer: Dialer,
    role: Role,
    state: watch::Sender<State>,
    health: Arc<HealthBoard>,
    closing: CancellationToken,
) {
    let address = dialer.address.clone();
    loop {
        let connection = match &*state.borrow() {
            State::Up(connection) => Arc::clone(connection),
            State::Down(_) | State::Closed => return,
        };
        let lost = tokio::select! {
            reason = watch_over(&connection, role, &health) => Some(reason),
            () = closing.cancelled() => None,
        };
        let Some(reason) = lost else {
            state.send_replace(State::Closed);
            // Fails only when the connection is gone, which is what we want.
            let _ = tokio::time::timeout(CLOSE_LIMIT, connection.close(200, "OK".into())).await;
            return;
        };
        tracing::warn!(address, connection = role.name(), reason, "broker connection lost");
        health.set(role, Health::Disconnected { reason: reason.clone() });
        state.send_replace(State::Down(reason.into()));
        drop(connection);
        let mut waits = weft_process::backoff::reconnect();
        let restored = loop {
            let wait = waits.next().unwrap_or(Duration::from_secs(5));
            let tried = tokio::select! {
                () = closing.cancelled() => break None,
                tried = async {
                    tokio::time::sleep(wait).await;
                    dialer.dial(role).await
                } => tried,
            };
            match tried {
                Ok(connection) => break Some(connection),
                Err(error) => {
                    // The loss was told once; the tries are told at DEBUG and by the health.
                    let reason = chain(&error);
                    tracing::debug!(address, connection = role.name(), reason, "broker connection still down");
                    health.set(role, Health::Disconnected { reason: reason.clone() });
                    state.send_replace(State::Down(reason.into()));
                }
            }
        };
        let Some(connection) = restored else {
            state.send_replace(State::Closed);
            return;
        };
        tracing::info!(address, connection = role.name(), "broker connection restored");
        state.send_replace(State::Up(Arc::new(connection)));
        health.set(role, Health::Connected);
    }
}

/// Returns why the connection was lost, once it is.
async fn watch_over(connection: &Connection, role: Role, health: &HealthBoard) -> String {
    let mut events = std::pin::pin!(connection.events_listener());
    let mut check = tokio::time::interval(CHECK_EVERY);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::from("connection lost");
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = check.tick() => None,
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(connection = role.name(), reason, "broker takes no publishes");
                health.set(role, Health::Blocked { reason });
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(connection = role.name(), "broker takes publishes again");
                health.set(role, Health::Connected);
            }
            // Errors of single channels come here too; the state below tells them apart.
            Some(Event::Error(error)) => last = chain(&error),
            Some(_) | None => {}
        }
        if !connection.status().connected() {
            return last;
        }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // lapin repeats its source's text in its own.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dialer(address: &str) -> Result<Dialer, BrokerError> {
        Dialer::new(&Address::new(address), "weft test")
    }

    #[test]
    fn an_address_of_another_kind_is_refused_without_its_password() {
        for address in ["http://user:s3cret@host/", "amqp:user:s3cret", "s3cret"] {
            let error = dialer(address).err().unwrap();
            assert!(matches!(error, BrokerError::Address { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn an_ipv6_host_is_kept() {
        assert_eq!(dialer("amqp://u:p@[::1]:5999/%2f").unwrap().uri.authority.host, "::1");
        assert_eq!(dialer("amqp://[fe80::2]").unwrap().uri.authority.host, "fe80::2");
        assert_eq!(dialer("amqp://127.0.0.1:5999").unwrap().uri.authority.host, "127.0.0.1");
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_told_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error =
            dialer(&format!("amqp://user:s3cret@127.0.0.1:{port}")).unwrap().dial(Role::Consume).await.err().unwrap();
        assert!(matches!(error, BrokerError::Unavailable { .. }), "{error:?}");
        let text = chain(&error);
        assert!(text.contains("nothing takes connections there"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
