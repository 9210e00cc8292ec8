//! Starting a process, from the one thread that may, without copying the dispatcher.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process. All workers are therefore started by
//! one thread that lives as long as the dispatcher does; tokio's blocking threads come and go. What happens in the new
//! process until its exec is in [`child`].

mod child;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use self::child::{Context, Failed, Step};
use super::Program;
use super::confine::Confinement;
use super::confine::group::{Entrance, Group};
use super::lambda::TMP;
use super::room::Room;

/// A process that runs, and this side's ends of what connects to it.
#[derive(Debug)]
pub(super) struct Spawned {
    /// Leads its own process group. Not yet anybody's to reap.
    pub(super) pid: Pid,
    /// Non-blocking; `None`: its link is none of its descriptors.
    pub(super) link: Option<UnixStream>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) room: Room,
    /// Holds it and all its descendants.
    pub(super) group: Option<Group>,
}

struct Request {
    program: Arc<Program>,
    room: Room,
    /// Variables of this worker alone.
    own: Vec<(OsString, OsString)>,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// The way to the spawning thread; empty until the first launch.
static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

/// Starts the program on the spawning thread, with variables of its own. Not cancel-safe: a process that started all the
/// same is not killed.
///
/// # Errors
/// The process could not be made, with the kernel's reason.
pub(super) async fn spawn(program: Arc<Program>, room: Room, own: Vec<(OsString, OsString)>) -> io::Result<Spawned> {
    let (answer, answered) = oneshot::channel();
    spawner()?
        .send(Request { program, room, own, answer })
        .map_err(|_| io::Error::other("the spawning thread has ended"))?;
    answered.await.map_err(|_| io::Error::other("the spawning thread has ended"))?
}

fn spawner() -> io::Result<mpsc::Sender<Request>> {
    let mut slot = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*slot {
        return Ok(sender.clone());
    }
    #[expect(clippy::disallowed_methods, reason = "bounded by the starts under way, which the pools cap")]
    let (sender, requests) = mpsc::channel::<Request>();
    std::thread::Builder::new().name("weft-spawner".into()).spawn(move || {
        block_signals();
        for Request { program, room, own, answer } in requests {
            // Nobody waits any more: the runtime is being torn down. Nobody else would end it.
            if let Err(Ok(unwanted)) = answer.send(start(&program, room, own)) {
                let _ = rustix::process::kill_process_group(unwanted.pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(unwanted.pid), WaitOptions::empty());
            }
        }
    })?;
    *slot = Some(sender.clone());
    Ok(sender)
}

/// Starts one worker. In this order, because each step relies on those before it:
///
/// 1. a socket pair, both ends close-on-exec: the link, or nothing to read where the link is another; two pipes for its
///    output;
/// 2. its control groups, with their limits set, and its own folder, empty; a ruleset that names that folder;
/// 3. everything else that the child will need, made now: it may not allocate;
/// 4. the child, which shares this memory and keeps this thread waiting until its exec, as `vfork` does: nothing is
///    copied, so that it costs the same however large the dispatcher is;
/// 5. in the child, the steps of [`child::prepare`] and exec;
/// 6. this side's copies of the child's ends are closed (with `plan`), so that its exit reads as end of file here.
fn start(program: &Program, room: Room, own: Vec<(OsString, OsString)>) -> io::Result<Spawned> {
    let (link, theirs) = if program.lambda.is_some() {
        (None, OwnedFd::from(File::open("/dev/null")?))
    } else {
        let (link, theirs) = UnixStream::pair()?;
        link.set_nonblocking(true)?;
        (Some(link), theirs.into())
    };
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let group = program.confinement.group()?;
    let mut plan = Plan::new(program, &room, own, [theirs, their_stdout, their_stderr])?;
    if let Some(group) = &group {
        plan.entrance = group.entrance()?;
    }
    let pid = match plan.run() {
        // Some sandboxes know no `clone3`: then it enters by itself, which takes longer.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) && plan.entrance.born_in.is_some() => {
            let write_zero = group.as_ref().map(Group::entrance_by_writing).transpose()?.unwrap_or_default();
            plan.entrance = Entrance { born_in: None, write_zero };
            plan.run()
        }
        ran => ran,
    }?;
    Ok(Spawned { pid, link, stdout, stderr, room, group })
}

/// What the child works from. Only the child writes to it, its atomics, while this side waits.
struct Plan {
    path: CString,
    cwd: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// To become 0, 1 and 2.
    stdio: [OwnedFd; 3],
    parent: Pid,
    confinement: Arc<Confinement>,
    entrance: Entrance,
    /// A file system of its own, or its own folder, and where it is to be mounted.
    mount: Option<(OwnedFd, CString)>,
    /// What it may write to.
    ruleset: Option<OwnedFd>,
    /// What it did last, and why it did not get to its exec.
    failed: Failed,
}

/// The child's stack until its exec; what it calls are system calls.
const STACK_BYTES: usize = 64 * 1024;

impl Plan {
    fn new(program: &Program, room: &Room, own: Vec<(OsString, OsString)>, stdio: [OwnedFd; 3]) -> io::Result<Self> {
        // Where it is mounted as `/tmp`, the room has no other name any more.
        let home = if program.private_tmp { OsStr::new(TMP) } else { room.path().as_os_str() };
        let Confinement { disk_bytes, user, .. } = &*program.confinement;
        let mounted = disk_bytes.is_some() || program.private_tmp;
        let place = (program.confinement.needs_place() || mounted)
            .then(|| match disk_bytes {
                None if program.private_tmp => room.detach(),
                size => room.open(*size, user.as_ref()),
            })
            .transpose()?;
        let ruleset = place
            .as_ref()
            .map_or(program.confinement.ruleset(None), |place| program.confinement.ruleset(Some(place)))?;
        let mount = match place {
            Some(place) if mounted => Some((place, CString::new(home.as_bytes())?)),
            _ => None,
        };
        let declared = |name: &str| program.env.iter().any(|(known, _)| known == name);
        let of_room =
            ["HOME", "TMPDIR"].into_iter().filter(|name| !declared(name)).map(|name| (OsStr::new(name), home));
        let is_own = |name: &OsStr| name == "WEFT_LINK_FD" || own.iter().any(|(known, _)| known == name);
        let of_program = program.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let descriptor = program.lambda.is_none().then_some((OsStr::new("WEFT_LINK_FD"), OsStr::new("0")));
        let env = of_room
            .chain(of_program.filter(|(name, _)| !is_own(name)))
            .chain(own.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())))
            .chain(descriptor)
            .map(|(name, value)| Ok(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?))
            .collect::<io::Result<_>>()?;
        let path = CString::new(program.path.as_os_str().as_bytes())?;
        let args = program.args.iter().map(|arg| Ok(CString::new(arg.as_bytes())?));
        Ok(Self {
            cwd: CString::new(program.cwd.as_os_str().as_bytes())?,
            args: std::iter::once(Ok(path.clone())).chain(args).collect::<io::Result<_>>()?,
            path,
            env,
            stdio,
            parent: rustix::process::getpid(),
            confinement: Arc::clone(&program.confinement),
            entrance: Entrance::default(),
            mount,
            ruleset,
            failed: Failed::default(),
        })
    }

    fn run(&self) -> io::Result<Pid> {
        let argv = pointers(&self.args);
        let envp = pointers(&self.env);
        let context = Context { plan: self, argv: argv.as_ptr(), envp: envp.as_ptr() };
        // A change of user makes the memory that both share undumpable, as its new owner could look into it else.
        let dumpable = rustix::process::dumpable_behavior()?;
        let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
        let context: *const Context<'_> = &raw const context;
        let context = context.cast_mut().cast();
        let pid = match &self.entrance.born_in {
            Some(group) => child::born_in(group.as_raw_fd(), &mut stack, context),
            None => born(&mut stack, context),
        };
        if self.confinement.user.is_some() {
            // Nobody shares it any more.
            let _ = rustix::process::set_dumpable_behavior(dumpable);
        }
        let pid = Pid::from_raw(pid?).ok_or_else(|| io::Error::other("the child has no process id"))?;
        match self.failed.errno.load(Ordering::Acquire) {
            0 => Ok(pid),
            errno => {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                let error = io::Error::from_raw_os_error(errno);
                Err(match Step::of(self.failed.step.load(Ordering::Acquire)) {
                    // The program's name is the caller's to say.
                    Step::Exec => error,
                    step => io::Error::new(error.kind(), format!("failed to {}: {error}", step.name())),
                })
            }
        }
    }
}

/// Makes the child in the dispatcher's own control group.
fn born(stack: &mut [u128], context: *mut libc::c_void) -> io::Result<i32> {
    #[expect(unsafe_code, reason = "std forks, which copies the page tables of the whole dispatcher")]
    // SAFETY: CLONE_VFORK keeps this thread, and with it what `context` and `stack` point to, where they are until the
    // child has exec'ed or exited. The stack grows down from its end, which is aligned to 16. `child` makes system calls
    // only, and no signal handler of ours can run in it: this thread blocks all signals, and it resets the handlers.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(child::child, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, context)
    };
    if pid == -1 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// The strings as exec takes them: valid for as long as `strings` is, with a null at the end.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Blocks all signals in this thread, so that a child is born with them blocked; other threads take them.
fn block_signals() {
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    // SAFETY: an all-zero set is valid, and is filled before it is read.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// Registers a process's descriptor with the runtime; it becomes readable when the process has exited.
pub(super) fn follow_exit(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]
    // SAFETY: `OwnedFd` owns an open descriptor, and stays with the registration until that is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(registered?)
}
