//! Turns at writing, over all processes that share a file.
//!
//! SQLite's own wait for its write lock is a poll with growing sleeps, up to 100 ms each: with many workers most of the
//! time nobody writes. A lock on a file beside it queues writers in the kernel, which wakes the next at once and frees
//! the turn of a process that is killed. It is about speed alone: what makes writers serial is still SQLite.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// A turn. Dropping it lets the next writer in.
pub(crate) struct Turn {
    _file: File,
}

/// The file whose lock is the turn.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".turn");
    path.into()
}

impl Turn {
    /// Waits for a turn. `None` when the lock's file cannot be used: SQLite's own wait must do then. Cancel-safe.
    pub(crate) async fn take(database: &Path) -> Option<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path_of(database)).ok()?;
        if file.try_lock().is_ok() {
            return Some(Self { _file: file });
        }
        // Cancelled while it waits, the task still gets its turn, and gives it up at once.
        let waited = tokio::task::spawn_blocking(move || file.lock().is_ok().then_some(file));
        Some(Self { _file: waited.await.ok()?? })
    }
}
