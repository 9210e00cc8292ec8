//! What a worker writes, told apart by invocation: which one it has in its hands, and the last of what that has written.
//!
//! Lines go with the one invocation that is under way. Of a worker that has several in its hands nobody can say whose a line
//! is, so it is no one's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_schemas::frame::InvocationId;

/// What is kept of one invocation's lines, in bytes, as AWS has it.
pub(crate) const TAIL_BYTES: usize = 4 * 1024;
/// How long what a worker has written before its answer may take to be read. It is in the pipe already.
const READ_LIMIT: Duration = Duration::from_millis(500);

/// What can be seen of an attempt from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What the function calls its invocation, where that is not its key.
    pub request: Option<Arc<str>>,
    /// The last 4 KiB of the lines that its worker wrote meanwhile; empty where it had others in its hands as well.
    pub log: String,
    /// The most memory that its worker's process ever held.
    pub memory_mib: Option<u64>,
}

/// The invocation that a worker has in its hands, by name, for the lines that it writes. Kept until the next: what is written
/// at the end of a call may be read after it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    shared: Arc<Mutex<Shared>>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    name: Option<Arc<str>>,
    /// The invocation, where its caller wants to see what it writes.
    watched: Option<Watched>,
    tail: Tail,
}

/// An invocation whose caller wants to see what it writes.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) id: InvocationId,
    /// As in [`Seen::request`].
    pub(crate) request: Option<Arc<str>>,
}

/// Who reads the worker's output: asked now and then to read all that is there, and to say when it has.
pub(crate) type Asks = mpsc::Receiver<oneshot::Sender<()>>;

impl Current {
    /// With the other end for who reads the output.
    pub(crate) fn new() -> (Self, Asks) {
        let (asks, asked) = mpsc::channel(4);
        (Self { shared: Arc::default(), asks }, asked)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another one is in its hands; `None`: several are.
    pub(crate) fn set(&self, name: Option<Arc<str>>, watched: Option<Watched>) {
        let mut shared = self.shared();
        if name.is_none() || shared.name != name {
            *shared = Shared { name, watched, tail: Tail::default() };
        }
    }

    /// What a worker that is gone wrote of the last invocation that it had to itself, where somebody wants to see it. Whether
    /// that was answered before is for the receiver to know.
    pub(crate) fn last_words(&self) -> Option<(InvocationId, Seen)> {
        let mut shared = self.shared();
        let Watched { id, request } = shared.watched.take()?;
        Some((id, Seen { request, log: shared.tail.text(), memory_mib: None }))
    }

    pub(crate) fn get(&self) -> Option<Arc<str>> {
        self.shared().name.clone()
    }

    /// Adds a line, without its end.
    pub(crate) fn wrote(&self, line: &[u8]) {
        let mut shared = self.shared();
        if shared.name.is_some() {
            shared.tail.push(line);
        }
    }

    /// Waits until what the worker has written so far is read, within a limit. Cancel-safe.
    pub(crate) async fn caught_up(&self) {
        let (done, read) = oneshot::channel();
        let all = async {
            if self.asks.send(done).await.is_ok() {
                // Who read has ended: there is nothing more to read.
                let _ = read.await;
            }
        };
        let _ = tokio::time::timeout(READ_LIMIT, all).await;
    }

    /// The last of what this invocation has written; empty when it is not the one that was in its hands.
    pub(crate) fn tail_of(&self, name: &str) -> String {
        let shared = self.shared();
        if shared.name.as_deref() == Some(name) { shared.tail.text() } else { String::new() }
    }
}

/// The last [`TAIL_BYTES`] of some lines.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, line: &[u8]) {
        let line = line.get(line.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        self.0.extend(line);
        self.0.push_back(b'\n');
        let excess = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..excess);
    }

    fn text(&self) -> String {
        let (first, second) = self.0.as_slices();
        String::from_utf8_lossy(&[first, second].concat()).into_owned()
    }
}

/// The most memory that a process ever held, in MiB, rounded up; `None`: there is no such process, or the kernel does not tell.
pub(crate) fn most_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_one_invocation_in_hand_and_only_the_last_are_kept() {
        let (current, _asks) = Current::new();
        current.wrote(b"before any");
        current.set(Some("a".into()), None);
        current.wrote(b"one");
        current.wrote("zwei\u{e9}".as_bytes());
        assert_eq!((current.tail_of("a").as_str(), current.tail_of("b").as_str()), ("one\nzwei\u{e9}\n", ""));
        // Asked again for the one that it has, a runtime gets the same, and its lines stay.
        current.set(Some("a".into()), None);
        assert_eq!(current.tail_of("a"), "one\nzwei\u{e9}\n");
        current.set(None, None);
        current.wrote(b"somebody's");
        assert_eq!(current.tail_of("a"), "");
        current.set(Some("b".into()), Some(Watched { id: InvocationId(7), request: None }));
        current.wrote(&[b'x'; 3 * TAIL_BYTES]);
        current.wrote(b"end");
        let tail = current.tail_of("b");
        assert!(tail.len() == TAIL_BYTES && tail.ends_with("xx\nend\n"), "{} bytes", tail.len());
        let last = current.last_words().map(|(id, seen)| (id.0, seen.log));
        assert_eq!((last, current.last_words()), (Some((7, tail)), None));
    }

    #[test]
    fn the_memory_of_a_live_process_is_known_and_of_no_process_is_not() {
        assert!(most_memory(std::process::id()).is_some_and(|mebibytes| mebibytes > 0));
        assert_eq!(most_memory(0), None);
    }
}
