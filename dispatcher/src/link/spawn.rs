//! Starting a process, from the one thread that may.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process. All workers are therefore started by
//! one thread that lives as long as the dispatcher does; tokio's blocking threads come and go.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::Program;
use super::room::Room;

/// A process that runs, and this side's ends of what connects to it.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) child: Child,
    /// Non-blocking.
    pub(super) link: UnixStream,
    pub(super) room: Room,
}

struct Request {
    program: Arc<Program>,
    room: Room,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// The way to the spawning thread; empty until the first launch.
static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

/// Starts the program on the spawning thread. Not cancel-safe: a process that started all the same is not killed.
///
/// # Errors
/// The process could not be made, with the kernel's reason.
pub(super) async fn spawn(program: Arc<Program>, room: Room) -> io::Result<Spawned> {
    let (answer, answered) = oneshot::channel();
    spawner()?
        .send(Request { program, room, answer })
        .map_err(|_| io::Error::other("the spawning thread has ended"))?;
    answered.await.map_err(|_| io::Error::other("the spawning thread has ended"))?
}

fn spawner() -> io::Result<mpsc::Sender<Request>> {
    let mut slot = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*slot {
        return Ok(sender.clone());
    }
    let (sender, requests) = mpsc::channel::<Request>();
    std::thread::Builder::new().name("weft-spawner".into()).spawn(move || {
        for Request { program, room, answer } in requests {
            // Nobody waits any more: the runtime is being torn down. Nobody else would end it.
            if let Err(Ok(mut unwanted)) = answer.send(start(&program, room)) {
                let _ = unwanted.child.kill();
                let _ = unwanted.child.wait();
            }
        }
    })?;
    *slot = Some(sender.clone());
    Ok(sender)
}

/// Starts one worker. In this order, because each step relies on those before it:
///
/// 1. a socket pair, both ends close-on-exec: the link;
/// 2. the child's end becomes its descriptor 0; its output goes to two pipes;
/// 3. its environment is the program's, and nothing of ours;
/// 4. fork; in the child, its own process group, so that it can be killed with its descendants;
/// 5. the steps of [`prepare`];
/// 6. exec. A failure in 4 to 6 comes back through std's own close-on-exec pipe as this function's error;
/// 7. this side's copy of the child's end is closed (with `command`), so that its exit reads as end of file here.
fn start(program: &Program, room: Room) -> io::Result<Spawned> {
    let (link, theirs) = UnixStream::pair()?;
    link.set_nonblocking(true)?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .current_dir(&program.cwd)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .env("HOME", room.path())
        .env("TMPDIR", room.path())
        .envs(program.env.iter().map(|(name, value): &(OsString, OsString)| (name, value)))
        .env("WEFT_LINK_FD", "0")
        .process_group(0);
    let parent = rustix::process::getpid();
    #[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
    // SAFETY: `prepare` makes system calls only: it takes no lock, allocates nothing and touches no shared state.
    unsafe {
        command.pre_exec(move || prepare(parent));
    }
    let child = command.spawn()?;
    Ok(Spawned { child, link, room })
}

/// Between fork and exec, with async-signal-safe calls only:
///
/// 1. die when the dispatcher dies;
/// 2. had it died before step 1, nothing would tell: look;
/// 3. no core files, which would hold events;
/// 4. nothing that the program runs gains privileges by set-user-id;
/// 5. last, so that it sees every descriptor: none but 0, 1 and 2 survives the exec. Needs Linux 5.11.
fn prepare(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::thread::set_no_new_privs(true)?;
    close_others_on_exec()
}

fn close_others_on_exec() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no close_range")]
    // SAFETY: sets a flag on descriptors of this process, which is about to exec; no memory is involved.
    let status = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Registers a process's descriptor with the runtime; it becomes readable when the process has exited.
pub(super) fn follow_exit(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]
    // SAFETY: `OwnedFd` owns an open descriptor, and stays with the registration until that is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(registered?)
}
