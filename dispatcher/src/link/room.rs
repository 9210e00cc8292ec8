//! A worker's room: a temporary folder of its own, removed after it.
//!
//! The rooms of one dispatcher stand in one folder, `weft-run-…` in the system's temporary folder, beside a locked
//! file. A dispatcher that was killed cannot remove its folder; its lock is free then, and the next dispatcher does.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use super::WorkerId;
use super::confine::User;

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
    /// `owner`: whom it belongs to, if not to this process's user.
    ///
    /// # Errors
    /// The system's temporary folder cannot be written, or the room not be given away.
    pub(super) fn make(worker: WorkerId, owner: Option<&User>) -> io::Result<Self> {
        let run = Run::current()?;
        let path = run.path.join(format!("{}-{:08x}", worker.0, fastrand::u32(..)));
        private_dir(&path)?;
        let room = Self { path, _run: run };
        if let Some(owner) = owner {
            rustix::fs::chown(&room.path, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(room)
    }

    /// The room as a place: a descriptor that is closed at an exec. With a size, an empty file system of its own that is
    /// not mounted yet: it belongs there, and holds no more than that.
    ///
    /// # Errors
    /// No descriptor is left, or no file system could be made.
    pub(super) fn open(&self, size: Option<u64>, owner: Option<&User>) -> io::Result<OwnedFd> {
        let Some(size) = size else {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return Ok(rustix::fs::open(&self.path, flags, Mode::empty())?);
        };
        let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&tmpfs, "size", size.to_string())?;
        // Small files take more of the kernel than they hold: one for each 4 KiB, as the kernel itself would do.
        fsconfig_set_string(&tmpfs, "nr_inodes", (size / 4096).max(64).to_string())?;
        fsconfig_set_string(&tmpfs, "mode", "0700")?;
        if let Some(owner) = owner {
            fsconfig_set_string(&tmpfs, "uid", owner.uid.as_raw().to_string())?;
            fsconfig_set_string(&tmpfs, "gid", owner.gid.as_raw().to_string())?;
        }
        fsconfig_create(&tmpfs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// The room as a mount of its own, not yet anywhere: it can be mounted in another place.
    ///
    /// # Errors
    /// This process may not mount.
    pub(super) fn detach(&self) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(rustix::fs::CWD, &self.path, flags)?)
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
            // Others may pass through to a room that is theirs, and list nothing.
            DirBuilder::new().mode(0o711).create(&path)?;
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
