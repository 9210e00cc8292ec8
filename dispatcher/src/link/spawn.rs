//! Starting a process, from the one thread that may, without copying the dispatcher.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process. All workers are therefore started by
//! one thread that lives as long as the dispatcher does; tokio's blocking threads come and go.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::Program;
use super::room::Room;

/// A process that runs, and this side's ends of what connects to it.
#[derive(Debug)]
pub(super) struct Spawned {
    /// Leads its own process group. Not yet anybody's to reap.
    pub(super) pid: Pid,
    /// Non-blocking.
    pub(super) link: UnixStream,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
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
    #[expect(clippy::disallowed_methods, reason = "bounded by the starts under way, which the pools cap")]
    let (sender, requests) = mpsc::channel::<Request>();
    std::thread::Builder::new().name("weft-spawner".into()).spawn(move || {
        block_signals();
        for Request { program, room, answer } in requests {
            // Nobody waits any more: the runtime is being torn down. Nobody else would end it.
            if let Err(Ok(unwanted)) = answer.send(start(&program, room)) {
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
/// 1. a socket pair, both ends close-on-exec: the link; two pipes for its output;
/// 2. everything that the child will need, made now: it may not allocate;
/// 3. the child, which shares this memory and keeps this thread waiting until its exec, as `vfork` does: nothing is
///    copied, so that it costs the same however large the dispatcher is;
/// 4. in the child, the steps of [`prepare`] and exec;
/// 5. this side's copies of the child's ends are closed (with `plan`), so that its exit reads as end of file here.
fn start(program: &Program, room: Room) -> io::Result<Spawned> {
    let (link, theirs) = UnixStream::pair()?;
    link.set_nonblocking(true)?;
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let plan = Plan::new(program, &room, [theirs.into(), their_stdout, their_stderr])?;
    let pid = plan.run()?;
    Ok(Spawned { pid, link, stdout, stderr, room })
}

/// What the child works from. Only the child writes to it, its one atomic, while this side waits.
struct Plan {
    path: CString,
    cwd: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// To become 0, 1 and 2.
    stdio: [OwnedFd; 3],
    parent: Pid,
    /// Why the child did not get to its exec; 0: it did.
    errno: AtomicI32,
}

/// The child's stack until its exec; what it calls are system calls.
const STACK_BYTES: usize = 64 * 1024;

impl Plan {
    fn new(program: &Program, room: &Room, stdio: [OwnedFd; 3]) -> io::Result<Self> {
        let home = room.path().as_os_str();
        let declared = |name: &str| program.env.iter().any(|(known, _)| known == name);
        let of_room =
            ["HOME", "TMPDIR"].into_iter().filter(|name| !declared(name)).map(|name| (OsStr::new(name), home));
        let of_program = program.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let env = of_room
            .chain(of_program.filter(|(name, _)| *name != "WEFT_LINK_FD"))
            .chain([(OsStr::new("WEFT_LINK_FD"), OsStr::new("0"))])
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
            errno: AtomicI32::new(0),
        })
    }

    fn run(&self) -> io::Result<Pid> {
        let argv = pointers(&self.args);
        let envp = pointers(&self.env);
        let context = Context { plan: self, argv: argv.as_ptr(), envp: envp.as_ptr() };
        let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
        #[expect(unsafe_code, reason = "std forks, which copies the page tables of the whole dispatcher")]
        // SAFETY: CLONE_VFORK keeps this thread, and with it `context` and `stack`, where they are until the child has
        // exec'ed or exited. The stack grows down from its end, which is aligned to 16. `child` makes system calls only,
        // and no signal handler of ours can run in it: this thread blocks all signals, and it resets the handlers.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            let context: *const Context<'_> = &raw const context;
            libc::clone(
                child,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                context.cast_mut().cast(),
            )
        };
        let pid = match pid {
            -1 => return Err(io::Error::last_os_error()),
            pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("the child has no process id"))?,
        };
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(pid),
            errno => {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

struct Context<'a> {
    plan: &'a Plan,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
}

/// The strings as exec takes them: valid for as long as `strings` is, with a null at the end.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child's first function; never returns.
extern "C" fn child(context: *mut libc::c_void) -> libc::c_int {
    #[expect(unsafe_code, reason = "exec and exit take raw pointers, and nothing else is left to do")]
    // SAFETY: `context` is the one of `Plan::run`, which waits; its strings and arrays are alive and end in null.
    unsafe {
        let Context { plan, argv, envp } = &*context.cast_const().cast::<Context<'_>>();
        let errno = match prepare(plan) {
            Ok(()) => {
                libc::execve(plan.path.as_ptr(), *argv, *envp);
                *libc::__errno_location()
            }
            Err(errno) => errno.raw_os_error(),
        };
        plan.errno.store(errno, Ordering::Release);
        libc::_exit(127)
    }
}

/// Between the child's birth and its exec, with async-signal-safe calls only, and no allocation:
///
/// 1. die when the dispatcher dies;
/// 2. had it died before step 1, nothing would tell: look;
/// 3. its own process group, so that it can be killed with its descendants;
/// 4. the link becomes descriptor 0, the pipes 1 and 2; its folder is the manifest's;
/// 5. no core files, which would hold events;
/// 6. nothing that the program runs gains privileges by set-user-id;
/// 7. no other descriptor survives the exec, not even one that a library forgot to mark. Needs Linux 5.11;
/// 8. signals as a program expects them, handlers first: a handler of ours must not run here.
fn prepare(plan: &Plan) -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(plan.parent) {
        return Err(rustix::io::Errno::SRCH);
    }
    rustix::process::setpgid(None, None)?;
    let [stdin, stdout, stderr] = &plan.stdio;
    // All three are above 2: the runtime opens 0 to 2 at start if they are not, so none is overwritten here.
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    rustix::process::chdir(plan.cwd.as_c_str())?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::thread::set_no_new_privs(true)?;
    close_others_on_exec()?;
    reset_signals();
    Ok(())
}

fn close_others_on_exec() -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no close_range")]
    // SAFETY: sets a flag on descriptors of the child's own table; no memory is involved.
    unsafe {
        match libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) {
            0 => Ok(()),
            _ => Err(rustix::io::Errno::from_raw_os_error(*libc::__errno_location())),
        }
    }
}

fn reset_signals() {
    #[expect(unsafe_code, reason = "rustix has no signal dispositions or masks")]
    // SAFETY: acts on the child's own table and mask. Numbers that cannot be set are refused, which is well.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
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
