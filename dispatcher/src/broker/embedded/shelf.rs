//! One queue's messages as this process hands them out: shared by the queue's consumers, so that no message is with two
//! of them.

use std::collections::{BTreeMap, HashSet};

use tokio::sync::Mutex;
use weft_schemas::Message;

use super::Hub;

/// A message that is handed out, with whether it may have been handed out before.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) redelivered: bool,
    pub(super) message: Message,
}

/// Which messages of a queue are out, and which came back.
#[derive(Debug)]
pub(super) struct Shelf {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Everything up to here has been fetched. Ids grow in the order of commits, so nothing appears below it.
    fetched: i64,
    /// With a consumer, or acked and not yet deleted. At most the prefetches' sum.
    out: HashSet<i64>,
    /// Handed back; served before anything new. At most the prefetches' sum.
    back: BTreeMap<i64, Message>,
    before: i64,
}

impl Shelf {
    /// What is not above `before` counts as delivered before.
    pub(super) fn new(before: i64) -> Self {
        Self { inner: Mutex::new(Inner { fetched: 0, out: HashSet::new(), back: BTreeMap::new(), before }) }
    }

    /// Takes up to `limit` messages, oldest first, what came back before what is new.
    ///
    /// # Errors
    /// The file's. What came back is then still here.
    pub(super) async fn take(
        &self,
        hub: &Hub,
        queue: &str,
        limit: usize,
    ) -> Result<Vec<(i64, Copy)>, weft_ledger::Error> {
        let mut inner = self.inner.lock().await;
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((id, message)) = inner.back.pop_first()
        {
            inner.out.insert(id);
            taken.push((id, Copy { redelivered: true, message }));
        }
        let rest = u32::try_from(limit - taken.len()).unwrap_or(u32::MAX);
        if rest == 0 {
            return Ok(taken);
        }
        match hub.queues.fetch(queue, inner.fetched, rest).await {
            Ok(rows) => {
                for (id, message) in rows {
                    inner.fetched = inner.fetched.max(id);
                    inner.out.insert(id);
                    taken.push((id, Copy { redelivered: id <= inner.before, message }));
                }
                Ok(taken)
            }
            // What came back is served all the same.
            Err(_) if !taken.is_empty() => Ok(taken),
            Err(error) => Err(error),
        }
    }

    /// Hands messages back.
    pub(super) async fn put_back(&self, messages: impl IntoIterator<Item = (i64, Message)>) {
        let mut inner = self.inner.lock().await;
        for (id, message) in messages {
            inner.out.remove(&id);
            inner.back.insert(id, message);
        }
    }

    /// Forgets messages that have been deleted.
    pub(super) async fn gone(&self, ids: &[i64]) {
        let mut inner = self.inner.lock().await;
        for id in ids {
            inner.out.remove(id);
        }
    }

    /// How many messages nobody has, and how many are out; `None` when that cannot be known now.
    pub(super) async fn counts(&self, hub: &Hub, queue: &str) -> Option<(u64, u64)> {
        let inner = self.inner.lock().await;
        let all = hub.heed(hub.queues.depth(queue).await).ok()?;
        let out = u64::try_from(inner.out.len()).unwrap_or(u64::MAX);
        Some((all.saturating_sub(out), out))
    }
}
