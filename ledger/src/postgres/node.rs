//! A node's name: a session lock proves that its last owner is gone, an incarnation frees what that one had claimed.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;
use weft_schemas::NodeName;

use super::connect::INDEX_ONLY;
use super::{Postgres, code, map, preflight};
use crate::codec::micros;
use crate::{Error, NodeSession, Owner};

/// First half of the lock's key, so that it meets no other user's advisory locks ("weft").
const NAMESPACE: i32 = 0x7765_6674;

pub(super) const RENEW: &str = "
    UPDATE weft.node SET
        lease_until = clock_timestamp() + $3::bigint * interval '1 microsecond', seen_at = clock_timestamp()
    WHERE id = $1::text AND incarnation = $2::bigint";

struct Session {
    owner: Owner,
    lease_micros: i64,
    address: String,
    connect: PgConnectOptions,
    /// The connection that holds the lock. Taken out while it is used, so that a call which is dropped half-way closes
    /// it and the next one starts anew rather than on a connection in an unknown state.
    locked: Mutex<Option<PgConnection>>,
}

impl Postgres {
    pub(super) async fn enter_node(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>, Error> {
        // A predecessor that was killed a moment ago may have a backend that has not noticed.
        let connection = match lock(&self.address, &self.connect, node, "3s").await? {
            Some(connection) => connection,
            None => return Err(Error::NodeTaken { node: node.to_string() }),
        };
        let mut connection = connection;
        let incarnation: i64 = sqlx::query_scalar(
            "INSERT INTO weft.node AS n (id, incarnation, lease_until, seen_at, entered_at)
             VALUES ($1, 1, clock_timestamp() + $2 * interval '1 microsecond', clock_timestamp(), clock_timestamp())
             ON CONFLICT (id) DO UPDATE SET
                 incarnation = n.incarnation + 1, lease_until = excluded.lease_until, seen_at = excluded.seen_at,
                 entered_at = excluded.entered_at
             RETURNING incarnation",
        )
        .bind(node.as_str())
        .bind(micros(lease))
        .fetch_one(&mut connection)
        .await
        .map_err(self.map("enter a node"))?;
        Ok(Box::new(Session {
            owner: Owner { node: node.clone(), incarnation },
            lease_micros: micros(lease),
            address: self.address.clone(),
            connect: self.connect.clone(),
            locked: Mutex::new(Some(connection)),
        }))
    }
}

/// A new connection as a session has it.
pub(super) async fn connect(address: &str, connect: &PgConnectOptions, patience: &str) -> Result<PgConnection, Error> {
    let limits = [("statement_timeout", "10s"), ("lock_timeout", patience)];
    preflight(address, &connect.clone().options(INDEX_ONLY).options(limits)).await
}

/// A new connection that holds the node's lock, or `None` when another holds it for longer than `patience`.
async fn lock(
    address: &str,
    connect: &PgConnectOptions,
    node: &NodeName,
    patience: &str,
) -> Result<Option<PgConnection>, Error> {
    let mut connection = self::connect(address, connect, patience).await?;
    let taken = sqlx::query("SELECT pg_advisory_lock($1, hashtext($2))")
        .bind(NAMESPACE)
        .bind(node.as_str())
        .execute(&mut connection)
        .await;
    match taken {
        Ok(_) => Ok(Some(connection)),
        // lock_not_available
        Err(failure) if code(&failure).as_deref() == Some("55P03") => Ok(None),
        Err(failure) => Err(map(address, "lock the node's name", failure)),
    }
}

impl Session {
    async fn write(&self, connection: &mut PgConnection, lease_micros: i64) -> sqlx::Result<bool> {
        let done = sqlx::query(RENEW)
            .bind(self.owner.node.as_str())
            .bind(self.owner.incarnation)
            .bind(lease_micros)
            .execute(connection)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether a later incarnation has the name.
    async fn superseded(&self) -> Result<bool, Error> {
        let mut connection = preflight(&self.address, &self.connect).await?;
        let present: Option<i64> = sqlx::query_scalar("SELECT incarnation FROM weft.node WHERE id = $1")
            .bind(self.owner.node.as_str())
            .fetch_optional(&mut connection)
            .await
            .map_err(|error| map(&self.address, "renew the node's lease", error))?;
        Ok(present != Some(self.owner.incarnation))
    }
}

#[async_trait]
impl NodeSession for Session {
    fn owner(&self) -> &Owner {
        &self.owner
    }

    async fn renew(&self) -> Result<bool, Error> {
        let mut held = self.locked.lock().await;
        if let Some(mut connection) = held.take() {
            match self.write(&mut connection, self.lease_micros).await {
                Ok(renewed) => {
                    *held = Some(connection);
                    return Ok(renewed);
                }
                // The connection is gone, and the lock with it: prove it again on a new one.
                Err(error) => {
                    tracing::debug!(node = %self.owner.node, error = %error, "lease renewal lost its connection");
                }
            }
        }
        let Some(mut connection) = lock(&self.address, &self.connect, &self.owner.node, "2s").await? else {
            if self.superseded().await? {
                return Ok(false);
            }
            // Held, but nobody entered since: our own old connection, which the server has not given up yet.
            return Err(Error::Unavailable {
                address: self.address.clone(),
                source: "the lock on the node's name is still held by a lost connection".into(),
            });
        };
        let renewed = self
            .write(&mut connection, self.lease_micros)
            .await
            .map_err(|error| map(&self.address, "renew the node's lease", error))?;
        *held = Some(connection);
        Ok(renewed)
    }

    async fn leave(&self) -> Result<(), Error> {
        let mut held = self.locked.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => preflight(&self.address, &self.connect).await?,
        };
        self.write(&mut connection, 0).await.map_err(|error| map(&self.address, "leave the node", error))?;
        // Closing frees the lock; an error means that it is closed already.
        let _ = connection.close().await;
        Ok(())
    }
}
