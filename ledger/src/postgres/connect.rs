//! Connecting: one try that tells the truth, then the pools.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::Mutex;

use super::locked::{PATIENCE, Stuck};
use super::{Postgres, map};
use crate::Error;
use crate::verdict::Doubts;

/// How long one connect may take, and how long a caller waits for a pooled connection.
pub(crate) const ACQUIRE: Duration = Duration::from_secs(5);

/// Makes the planner use the primary key, whatever it believes about the table's size: a nested loop of index scans is
/// the right plan for a batch at every size, and the only one left. Hash joins stay out for the same reason.
pub(super) const INDEX_ONLY: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// The address without user, password and parameters.
pub(crate) fn redacted(url: &str) -> String {
    weft_process::secret::Address::new(url).redacted()
}

/// Reads the URL.
///
/// # Errors
/// [`Error::Address`].
pub(crate) fn options(url: &str, application: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url).map_err(|_| Error::Address {
        address: redacted(url),
        problem: "it is not of the form postgres://user:password@host:port/database".to_owned(),
    })?;
    // A peer that vanished without a word is noticed by the server within half a minute, and its locks freed.
    Ok(options.application_name(application).disable_statement_logging().options([
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("lock_timeout", "10s"),
        ("client_min_messages", "warning"),
    ]))
}

/// Connects once. A pool would only say that it waited in vain.
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Refused`] or [`Error::Address`] (no such database).
pub(crate) async fn preflight(address: &str, options: &PgConnectOptions) -> Result<PgConnection, Error> {
    match tokio::time::timeout(ACQUIRE, options.connect()).await {
        Ok(connection) => connection.map_err(|error| map(address, "connect to the ledger", error)),
        Err(elapsed) => Err(Error::Unavailable { address: address.to_owned(), source: Box::new(elapsed) }),
    }
}

impl Postgres {
    /// Connects, which proves that the server is there and takes the credentials. Tables are not looked at: see
    /// [`crate::Ledger::check`] and [`crate::Ledger::migrate`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] within five seconds when the server cannot be reached, [`Error::Refused`] when it does not
    /// take the credentials, [`Error::Address`] when the URL cannot be read or names a database that does not exist.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let address = redacted(url);
        let connect = options(url, "weft-dispatcher")?;
        let probe = preflight(&address, &connect).await?;
        // Only a courtesy: the server would notice by itself.
        let _ = probe.close().await;

        let hot = connect.clone().options(INDEX_ONLY).options([("statement_timeout", "12s")]);
        let relay = hot.clone().options([("idle_in_transaction_session_timeout", "120s")]);
        let claims = hot.clone().options([("synchronous_commit", "off"), ("lock_timeout", PATIENCE)]);
        let general = connect.clone().options([("statement_timeout", "60s")]);
        Ok(Self {
            address,
            connect,
            claims: pool(claims, 3),
            settles: pool(hot.clone(), 3),
            sweeps: pool(hot, 1),
            relay: pool(relay, 2),
            general: pool(general, 2),
            sweep_walk: Mutex::default(),
            doubts: Doubts::default(),
            stuck: Stuck::default(),
        })
    }
}

/// How long one batch may take on the way of events, the wait for a connection included. The server's own limit lies
/// below it; this one is for a server, or a way to it, that does not answer at all.
pub(super) const HOT: Duration = Duration::from_secs(15);
/// The same for everything else.
pub(super) const GENERAL: Duration = Duration::from_secs(65);
/// How long an idle connection may take for a sign of life. One that takes longer is replaced.
const PING: Duration = Duration::from_secs(2);
/// A connection that was used so recently is taken as it is.
const FRESH: Duration = Duration::from_secs(1);

impl Postgres {
    /// Bounds a call in time. What was asked for may have happened all the same.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        within(&self.address, limit, call).await
    }
}

/// As [`Postgres::within`].
pub(super) async fn within<T>(
    address: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Unavailable {
            address: address.to_owned(),
            source: format!("no answer within {} s", limit.as_secs()).into(),
        }),
    }
}

/// A pool that does not lose its places to connections which never answer again.
///
/// The library's own sign of life on a connection that comes back has no limit in time, and a connection whose answer was
/// lost on the way, or whose call was given up, would hold its place for good. So each is asked here first, with a limit.
pub(crate) fn pool(options: PgConnectOptions, size: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move { Ok(about.idle_for < FRESH || is_alive(connection).await) })
        })
        .after_release(|connection, _| Box::pin(async move { Ok(is_alive(connection).await) }))
        .connect_lazy_with(options)
}

/// Also takes in what an abandoned call left unread, and rolls back what it left open.
async fn is_alive(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(PING, connection.ping()).await, Ok(Ok(())))
}
