//! One dispatcher per file, proven by a file lock that dies with the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use tokio::sync::Mutex;
use weft_schemas::NodeName;

use super::{File, Sqlite, now};
use crate::codec::micros;
use crate::{Error, NodeSession, Owner};

/// How long to wait for a predecessor that is going away.
const PATIENCE: Duration = Duration::from_secs(3);

struct Session {
    owner: Owner,
    lease_micros: i64,
    file: Arc<File>,
    /// Locked while open. Taken out by `leave`.
    lock: Mutex<Option<fs::File>>,
}

/// `<file>.lock`
fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

impl Sqlite {
    pub(super) async fn enter_node(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>, Error> {
        let unavailable =
            |source: std::io::Error| Error::Unavailable { address: self.address.clone(), source: Box::new(source) };
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock_path(&self.path))
            .map_err(unavailable)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::Error(error)) => return Err(unavailable(error)),
                Err(fs::TryLockError::WouldBlock) if begun.elapsed() >= PATIENCE => {
                    return Err(Error::NodeTaken { node: node.to_string() });
                }
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        let at = now();
        let incarnation: i64 = sqlx::query_scalar(
            "INSERT INTO node (id, incarnation, lease_until, seen_at, entered_at) VALUES ($1, 1, $2, $3, $3)
             ON CONFLICT (id) DO UPDATE SET
                 incarnation = incarnation + 1, lease_until = excluded.lease_until, seen_at = excluded.seen_at,
                 entered_at = excluded.entered_at
             RETURNING incarnation",
        )
        .bind(node.as_str())
        .bind(at + micros(lease))
        .bind(at)
        .fetch_one(&mut *self.file.writer().await)
        .await
        .map_err(self.map("enter a node"))?;
        Ok(Box::new(Session {
            owner: Owner { node: node.clone(), incarnation },
            lease_micros: micros(lease),
            file: Arc::clone(&self.file),
            lock: Mutex::new(Some(lock)),
        }))
    }
}

impl Session {
    async fn write(&self, connection: &mut SqliteConnection, lease_micros: i64) -> Result<bool, Error> {
        let at = now();
        let done = sqlx::query("UPDATE node SET lease_until = $3, seen_at = $4 WHERE id = $1 AND incarnation = $2")
            .bind(self.owner.node.as_str())
            .bind(self.owner.incarnation)
            .bind(at + lease_micros)
            .bind(at)
            .execute(connection)
            .await
            .map_err(self.file.map("renew the node's lease"))?;
        Ok(done.rows_affected() == 1)
    }
}

#[async_trait]
impl NodeSession for Session {
    fn owner(&self) -> &Owner {
        &self.owner
    }

    async fn renew(&self) -> Result<bool, Error> {
        if self.lock.lock().await.is_none() {
            return Ok(false);
        }
        let mut writer = self.file.writer().await;
        self.write(&mut writer, self.lease_micros).await
    }

    async fn leave(&self) -> Result<(), Error> {
        let mut writer = self.file.writer().await;
        self.write(&mut writer, 0).await?;
        // Closing the file unlocks it.
        drop(self.lock.lock().await.take());
        Ok(())
    }
}
