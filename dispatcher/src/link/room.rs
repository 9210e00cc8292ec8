//! A worker's room: a temporary folder of its own, removed after it.
//!
//! The rooms of one dispatcher stand in one folder, `weft-run-…` in the system's temporary folder, beside a locked
//! file. A dispatcher that was killed cannot remove its folder; its lock is free then, and the next dispatcher does.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::WorkerId;

const RUN_PREFIX: &str = "weft-run-";
const LOCK: &str = "lock";

/// The folder of this process's rooms; removed when the last of them is.
#[derive(Debug)]
struct Run {
    path: PathBuf,
    /// Held for as long as the folder is in use; the kernel frees it however this process ends.
    _lock: File,
}

/// The folder that is in use, if any is.
static RUN: Mutex<Weak<Run>> = Mutex::new(Weak::new());

/// One worker's folder, for its owner alone (mode 0700).
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    _run: Arc<Run>,
}

impl Room {
    /// # Errors
    /// The system's temporary folder cannot be written.
    pub(super) fn make(worker: WorkerId) -> io::Result<Self> {
        let run = Run::current()?;
        let path = run.path.join(format!("{}-{:08x}", worker.0, fastrand::u32(..)));
        private_dir(&path)?;
        Ok(Self { path, _run: run })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Room {
    /// Blocks for as long as the worker's files take to remove.
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "worker's temporary folder not removed");
        }
    }
}

impl Run {
    fn current() -> io::Result<Arc<Self>> {
        let mut slot = RUN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = slot.upgrade() {
            return Ok(run);
        }
        let base = std::env::temp_dir();
        sweep(&base);
        let run = Arc::new(Self::make(&base)?);
        *slot = Arc::downgrade(&run);
        Ok(run)
    }

    fn make(base: &Path) -> io::Result<Self> {
        loop {
            let path = base.join(format!("{RUN_PREFIX}{:016x}", fastrand::u64(..)));
            private_dir(&path)?;
            // A sweeper that comes between the two steps takes the lock and the folder: then try another.
            let taken = File::create_new(path.join(LOCK)).and_then(|lock| match lock.try_lock() {
                Ok(()) => Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            })?;
            if let Some(lock) = taken {
                return Ok(Self { path, _lock: lock });
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A room that could not be removed keeps the folder; the next dispatcher's sweep tries again.
        let _ = std::fs::remove_file(self.path.join(LOCK));
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Removes what killed dispatchers of this user left. What cannot be removed is left to the next.
fn sweep(base: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let is_run = entry.file_name().as_encoded_bytes().starts_with(RUN_PREFIX.as_bytes());
        // Not following links: a link of that name is nobody's folder.
        let ours = || entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        if !is_run || !ours() {
            continue;
        }
        // No lock file yet: another dispatcher is just making it.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_sweep_takes_what_the_dead_left_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("weft-sweep-test-{:016x}", fastrand::u64(..)));
        private_dir(&base).unwrap();
        let alive = Run::make(&base).unwrap();
        let dead = base.join(format!("{RUN_PREFIX}dead"));
        std::fs::create_dir_all(dead.join("7-x")).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let foreign = base.join("weft-other");
        std::fs::create_dir(&foreign).unwrap();

        sweep(&base);

        assert!(!dead.exists() && alive.path.exists() && foreign.exists());
        drop(alive);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
