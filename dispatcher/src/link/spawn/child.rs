//! A worker's process between its birth and its exec. It shares the dispatcher's memory for that time, so nothing here may
//! allocate, take a lock, or call anything but the kernel.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::process::{Resource, Rlimit, Signal};

use super::Plan;

/// What the child is handed.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) argv: *const *const libc::c_char,
    pub(super) envp: *const *const libc::c_char,
}

/// How far the child got, for its parent to read.
#[derive(Debug, Default)]
pub(super) struct Failed {
    /// A [`Step`].
    pub(super) step: AtomicU8,
    /// 0: it has become the program.
    pub(super) errno: AtomicI32,
}

/// The steps of [`prepare`], in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Group,
    ControlGroups,
    Descriptors,
    Limits,
    Folder,
    User,
    Privileges,
    Parent,
    Place,
    Walls,
    Others,
    Filter,
    Exec,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Group,
        Self::ControlGroups,
        Self::Descriptors,
        Self::Limits,
        Self::Folder,
        Self::User,
        Self::Privileges,
        Self::Parent,
        Self::Place,
        Self::Walls,
        Self::Others,
        Self::Filter,
        Self::Exec,
    ];

    pub(super) fn of(number: u8) -> Self {
        Self::ALL.into_iter().find(|step| *step as u8 == number).unwrap_or(Self::Exec)
    }

    /// Fits after "failed to".
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Group => "lead its own process group",
            Self::ControlGroups => "enter its control groups",
            Self::Descriptors => "take its link and its output over",
            Self::Limits => "set its limits",
            Self::Folder => "mount its own folder",
            Self::User => "become its user",
            Self::Privileges => "renounce new privileges",
            Self::Parent => "bind its life to the dispatcher's",
            Self::Place => "enter the manifest's folder",
            Self::Walls => "confine its writes",
            Self::Others => "close the other descriptors",
            Self::Filter => "filter its system calls",
            Self::Exec => "start the program",
        }
    }
}

/// The child's first function; never returns.
pub(super) extern "C" fn child(context: *mut libc::c_void) -> libc::c_int {
    #[expect(unsafe_code, reason = "exec and exit take raw pointers, and nothing else is left to do")]
    // SAFETY: `context` is the one of `Plan::run`, which waits; its strings and arrays are alive and end in null.
    unsafe {
        let Context { plan, argv, envp } = &*context.cast_const().cast::<Context<'_>>();
        let errno = match prepare(plan) {
            Ok(()) => {
                plan.failed.step.store(Step::Exec as u8, Ordering::Release);
                libc::execve(plan.path.as_ptr(), *argv, *envp);
                *libc::__errno_location()
            }
            Err(errno) => errno.raw_os_error(),
        };
        plan.failed.errno.store(errno, Ordering::Release);
        libc::_exit(127)
    }
}

/// Between the child's birth and its exec, with async-signal-safe calls only, and no allocation. The order is the argument:
/// each step takes something away that the steps before it still needed.
///
///  1. its own process group, so that it can be killed with its descendants from the first moment on;
///  2. its control groups (where it was not born in them), so that all that follows is charged to it;
///  3. the link becomes descriptor 0, the pipes 1 and 2;
///  4. its limits, soft and hard; no core files, which would hold events;
///  5. a mount namespace of its own with its own folder in it (or as its `/tmp`, under which the folder has no other name
///     any more), which needs rights that the next step gives up;
///  6. its user: other groups first, then the group, then the user, as each needs the rights that the next one takes;
///  7. nothing that the program runs gains privileges by set-user-id; the two steps that confine it rely on that;
///  8. die when the dispatcher dies. Not earlier, for the kernel forgets it at a change of user. Had the dispatcher died
///     before, nothing would tell: look;
///  9. its folder is the manifest's, entered with the rights of its user;
/// 10. its writes and signals are confined, now that nothing is to be mounted or opened any more;
/// 11. no other descriptor survives the exec, not even one that a library forgot to mark. Needs Linux 5.11;
/// 12. signals as a program expects them, handlers first: a handler of ours must not run here;
/// 13. its system calls are filtered, last, as a filter could refuse any of the steps before it.
pub(super) fn prepare(plan: &Plan) -> rustix::io::Result<()> {
    let begin = |step: Step| plan.failed.step.store(step as u8, Ordering::Release);
    let confinement = &*plan.confinement;

    begin(Step::Group);
    rustix::process::setpgid(None, None)?;

    begin(Step::ControlGroups);
    for group in &plan.entrance.write_zero {
        rustix::io::write(group, b"0")?;
    }

    begin(Step::Descriptors);
    let [stdin, stdout, stderr] = &plan.stdio;
    // All three are above 2: the runtime opens 0 to 2 at start if they are not, so none is overwritten here.
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;

    begin(Step::Limits);
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    for (resource, limit) in &confinement.rlimits {
        rustix::process::setrlimit(*resource, *limit)?;
    }

    begin(Step::Folder);
    if let Some((folder, at)) = &plan.mount {
        private_mounts()?;
        move_mount(folder, c"", CWD, at.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }

    begin(Step::User);
    if let Some(user) = &confinement.user {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(user.gid, user.gid, user.gid)?;
        rustix::thread::set_thread_res_uid(user.uid, user.uid, user.uid)?;
    }

    begin(Step::Privileges);
    rustix::thread::set_no_new_privs(true)?;

    begin(Step::Parent);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(plan.parent) {
        return Err(Errno::SRCH);
    }

    begin(Step::Place);
    rustix::process::chdir(plan.cwd.as_c_str())?;

    begin(Step::Walls);
    if let Some(ruleset) = &plan.ruleset {
        restrict(ruleset.as_raw_fd())?;
    }

    begin(Step::Others);
    close_others_on_exec()?;
    reset_signals();

    begin(Step::Filter);
    if let Some(filter) = &confinement.filter {
        install(filter)?;
    }
    Ok(())
}

/// Mounts made here are seen here only; those of the machine still arrive.
fn private_mounts() -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix leaves it to the caller that nobody else shares what is split")]
    // SAFETY: the child shares its memory with its parent, and neither its mounts nor its working folder.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
    }
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Puts a Landlock ruleset on.
fn restrict(ruleset: RawFd) -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "the landlock crate does this only together with what allocates")]
    // SAFETY: takes two numbers; the descriptor is the plan's.
    unsafe {
        done(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32))
    }
}

/// Puts a seccomp filter on.
fn install(filter: &[seccompiler::sock_filter]) -> rustix::io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    // Both are the kernel's `sock_filter`, field by field.
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut().cast() };
    #[expect(unsafe_code, reason = "seccompiler reads errno through the library and boxes its errors")]
    // SAFETY: the kernel reads `program` and the filter that it points to, which outlive the call, and writes nothing.
    unsafe {
        done(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program))
    }
}

fn close_others_on_exec() -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no close_range")]
    // SAFETY: sets a flag on descriptors of the child's own table; no memory is involved.
    unsafe {
        done(libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))
    }
}

/// What a raw system call came to.
fn done(answer: libc::c_long) -> rustix::io::Result<()> {
    if answer == 0 {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "the number of the last error is behind a pointer")]
    // SAFETY: points to this thread's own error number; the child has its parent's thread, which waits.
    unsafe {
        Err(Errno::from_raw_os_error(*libc::__errno_location()))
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

/// Makes the child in a control group of version 2: it has never been anywhere else, and nobody waits for the kernel's
/// grace period that a move takes. Linux 5.7.
///
/// # Errors
/// The kernel refused; `ENOSYS` where there is no such call, or a sandbox hides it.
#[cfg(target_arch = "x86_64")]
pub(super) fn born_in(group: RawFd, stack: &mut [u128], context: *mut libc::c_void) -> io::Result<i32> {
    let number = |flags: libc::c_int| u64::from(flags.unsigned_abs());
    let args = libc::clone_args {
        flags: number(libc::CLONE_VM | libc::CLONE_VFORK) | INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD),
        stack: stack.as_mut_ptr().addr() as u64,
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: u64::from(group.unsigned_abs()),
    };
    let mut answer = libc::SYS_clone3;
    #[expect(unsafe_code, reason = "no library has a clone3 that shares memory")]
    // SAFETY: as `libc::clone` with CLONE_VM and CLONE_VFORK in `super::born`. The child comes out of the call on the stack
    // that `args` names, which is aligned to 16, calls `child`, which never returns, and touches nothing of this frame. The
    // call clobbers rcx and r11 and writes no memory of ours.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") answer,
            in("rdi") &raw const args,
            in("rsi") size_of_val(&args),
            in("r12") context,
            in("r13") child as extern "C" fn(*mut libc::c_void) -> libc::c_int,
            out("rcx") _,
            out("r11") _,
        );
    }
    let answer = i32::try_from(answer).unwrap_or(-libc::EOVERFLOW);
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

/// Not on this architecture: it enters its group by itself.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn born_in(_: RawFd, _: &mut [u128], _: *mut libc::c_void) -> io::Result<i32> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// `CLONE_INTO_CGROUP`; does not fit the library's type of flags.
#[cfg(target_arch = "x86_64")]
const INTO_CGROUP: u64 = 0x2_0000_0000;
