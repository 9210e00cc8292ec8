//! No network: a seccomp filter, made before the fork, under which a process gets no socket but a Unix one.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The bit of a system call's number that asks for the x32 form of it, which x86-64 kernels may have.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Whether this kernel can filter system calls, by what it says of itself.
///
/// # Errors
/// Why not, as a clause.
pub(crate) fn supported() -> Result<(), String> {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        filter().map(drop)
    } else {
        Err("this kernel has no seccomp filters".to_owned())
    }
}

/// The filter: `socket` of any family but `AF_UNIX` is refused with `EACCES`, and so is `io_uring_setup`, since rings make
/// sockets without the call. A call in another architecture's form ends the process.
///
/// # Errors
/// There is no filter for this architecture.
pub(crate) fn filter() -> Result<BpfProgram, String> {
    let fault = |error: seccompiler::BackendError| format!("make a seccomp filter: {error}");
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(fault)?;
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let not_unix = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix).map_err(fault)?;
    let not_unix = SeccompRule::new(vec![not_unix]).map_err(fault)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::from([
        (libc::SYS_socket, vec![not_unix.clone()]),
        // Whatever its arguments.
        (libc::SYS_io_uring_setup, Vec::new()),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_socket | X32, vec![not_unix]), (libc::SYS_io_uring_setup | X32, Vec::new())]);
    let refused = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(fault)?;
    filter.try_into().map_err(fault)
}
