//! Why a worker died, where its limits are the reason.

use super::How;
use super::confine::Confinement;

/// What its control group counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Processes that were killed because it was over its memory.
    pub(super) out_of_memory: u64,
    /// Processes and threads that it was refused.
    pub(super) out_of_processes: u64,
}

/// What programs say when they are refused memory, whatever they are written in.
const REFUSED_MEMORY: &[&str] = &[
    "memory allocation of ",
    "out of memory",
    "OutOfMemory",
    "Out of memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "MemoryError",
];

/// From how a process ended to why. What a control group counts is certain; where a limit of data stands in for it, nobody
/// counts, and the last words of a program that ended badly are all there is.
pub(super) fn judge(how: How, seen: &Seen, confinement: &Confinement, last_words: &str) -> How {
    let badly = match how {
        How::Exited(status) => status != 0,
        How::Signalled(_) => true,
        _ => false,
    };
    if !badly {
        return how;
    }
    if let Some(limit_bytes) = confinement.memory_bytes()
        && seen.out_of_memory > 0
    {
        return How::OutOfMemory { limit_bytes };
    }
    if let Some(limit_bytes) = confinement.data_bytes
        && REFUSED_MEMORY.iter().any(|words| last_words.contains(words))
    {
        return How::OutOfMemory { limit_bytes };
    }
    if let Some(limit) = confinement.processes()
        && seen.out_of_processes > 0
    {
        return How::OutOfProcesses { limit };
    }
    how
}
