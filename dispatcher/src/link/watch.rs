//! Invocations in the hands of a native worker whose callers want to see what they write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_schemas::frame::{InvocationId, Invoke, ToWorker};
use weft_schemas::request::wants_log;

use super::Seen;
use super::current::{Current, Watched, most_memory};

/// What goes to a worker and what comes back, as far as it tells whose the lines are. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    hands: Arc<Mutex<Hands>>,
    current: Current,
    pid: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Hands {
    all: BTreeSet<InvocationId>,
    /// Of these, whose callers want to see what they write.
    watched: BTreeSet<InvocationId>,
    /// The one that has had the worker to itself so far, and how its lines are named.
    alone: Option<(InvocationId, Arc<str>)>,
}

impl Watch {
    pub(super) fn new(current: Current, pid: Arc<AtomicU32>) -> Self {
        Self { hands: Arc::default(), current, pid }
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame goes to the worker.
    pub(super) fn goes(&self, frame: &ToWorker) {
        match frame {
            ToWorker::Invoke(invoke) => self.handed(invoke),
            ToWorker::InvokeBatch { invokes } => invokes.iter().for_each(|invoke| self.handed(invoke)),
            ToWorker::Start(_) | ToWorker::Cancel { .. } | ToWorker::Drain => {}
        }
    }

    fn handed(&self, invoke: &Invoke) {
        let mut hands = self.hands();
        hands.all.insert(invoke.id);
        if hands.all.len() > 1 && hands.alone.take().is_some() {
            self.current.set(None, None);
        }
        if wants_log(&invoke.event) {
            hands.watched.insert(invoke.id);
            if hands.all.len() == 1 {
                let name: Arc<str> = invoke.key.as_str().into();
                self.current.set(Some(Arc::clone(&name)), Some(Watched { id: invoke.id, request: None }));
                hands.alone = Some((invoke.id, name));
            }
        }
    }

    /// An outcome came back, or there will be none. What was seen of it, if somebody wants to know; when this is dropped nothing
    /// is lost but that.
    pub(super) async fn came(&self, id: InvocationId) -> Option<Seen> {
        let (watched, alone) = {
            let mut hands = self.hands();
            hands.all.remove(&id);
            (hands.watched.remove(&id), hands.alone.take_if(|(alone, _)| *alone == id))
        };
        if !watched {
            return None;
        }
        let log = match alone {
            Some((_, name)) => {
                self.current.caught_up().await;
                let log = self.current.tail_of(&name);
                self.current.set(None, None);
                log
            }
            None => String::new(),
        };
        Some(Seen { request: None, log, memory_mib: most_memory(self.pid.load(Ordering::Relaxed)) })
    }
}
