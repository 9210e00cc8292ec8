//! A started process until it is reaped: its signals, its exit, and the end of its process group.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use tokio::io::unix::AsyncFd;

use super::{How, spawn};

/// Owns a child that leads its own process group. Dropping it kills the group and reaps the child.
///
/// No signal can reach a stranger: the child is reaped last, and until then its id, which is also its group's, cannot
/// be given to another process.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Readable once the child has exited.
    exit: AsyncFd<OwnedFd>,
    reaped: bool,
}

impl Process {
    /// # Errors
    /// No descriptor is left for the process, or the runtime is shutting down. The child is killed.
    pub(super) fn adopt(pid: Pid) -> io::Result<Self> {
        let exit = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)
            .map_err(io::Error::from)
            .and_then(spawn::follow_exit);
        match exit {
            Ok(exit) => Ok(Self { pid, exit, reaped: false }),
            Err(error) => {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                let _ = wait(pid);
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Resolves once the process has exited. Cancel-safe; says nothing about its descendants.
    pub(super) async fn exited(&self) -> io::Result<()> {
        self.exit.readable().await.map(|_| ())
    }

    /// Sends a signal to the process and all its descendants that did not leave the group.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.reaped {
            // Fails only when nobody is left to hear it.
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Kills what is left of the group, then reaps the child. Call it after [`Process::exited`]; it would block before.
    pub(super) fn reap(&mut self) -> io::Result<How> {
        self.signal(Signal::KILL);
        let status = wait(self.pid)?;
        self.reaped = true;
        Ok(how(status))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = wait(self.pid);
        }
    }
}

/// Reaps the child; blocks until it has exited.
fn wait(pid: Pid) -> io::Result<WaitStatus> {
    let waited = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?;
    waited.map(|(_, status)| status).ok_or_else(|| io::Error::other("there is no exit status"))
}

fn how(status: WaitStatus) -> How {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => How::Exited(code),
        (None, Some(signal)) => How::Signalled(signal),
        // Only a stopped process has neither, and those are not waited for.
        (None, None) => How::Exited(-1),
    }
}
