//! Passes on the spans that workers exported through their links.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Post, Rarely};
use super::export::{self, Export, Sink};

/// Bodies that may wait. One body is up to half a second of one worker's spans.
const WAITING: usize = 256;

/// How long [`Forwarder::shutdown`] waits for what is queued.
const STOP: Duration = Duration::from_secs(3);

/// Posts already encoded OTLP bodies to the endpoint that [`Export`] names, from a thread of its own. Clones share it.
#[derive(Clone)]
pub struct Forwarder(Way);

#[derive(Clone)]
enum Way {
    Nowhere,
    Sink(Sink),
    Thread(Arc<Shared>),
}

struct Shared {
    /// Written by callers (push, close) and the thread (pop, gone).
    queue: Mutex<Queue>,
    changed: Condvar,
    drops: Rarely,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    /// When closed, the instant after which the thread gives up what is left.
    closed: Option<Instant>,
    /// The thread has ended.
    gone: bool,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forwarder")
    }
}

impl Forwarder {
    /// With [`Export::None`], and with an endpoint that [`init`](super::init) refuses, everything is let fall in
    /// silence.
    pub fn new(export: &Export) -> Self {
        match export {
            Export::None => Self(Way::Nowhere),
            Export::Sink(sink) => Self(Way::Sink(sink.clone())),
            Export::Http { endpoint, headers } => match export::whole(endpoint, "/v1/traces") {
                Err(_) => Self(Way::Nowhere),
                Ok(url) => {
                    let shared = Arc::new(Shared {
                        queue: Mutex::default(),
                        changed: Condvar::new(),
                        drops: Rarely::every(Duration::from_secs(10)),
                    });
                    let (ours, headers, target) = (Arc::clone(&shared), headers.clone(), url.clone());
                    let post = Post::new(url, "spans of workers");
                    let started = std::thread::Builder::new().name("weft-spans".to_owned()).spawn(move || {
                        ours.run(|body| send(&post, target.as_str(), &headers, body));
                    });
                    match started {
                        Ok(_) => Self(Way::Thread(shared)),
                        Err(error) => {
                            tracing::warn!(%error, "spans of workers will not be forwarded");
                            Self(Way::Nowhere)
                        }
                    }
                }
            },
        }
    }

    /// Queues one body (an `ExportTraceServiceRequest`, protobuf). Never blocks: with 256 waiting, or after
    /// [`shutdown`](Self::shutdown), the body is dropped; drops are logged at most every 10 s, with their number.
    pub fn forward(&self, body: Bytes) {
        match &self.0 {
            Way::Nowhere => {}
            Way::Sink(sink) => sink(body),
            Way::Thread(shared) => {
                let mut queue = shared.lock();
                let full = queue.closed.is_some() || queue.gone || queue.waiting.len() >= WAITING;
                if !full {
                    queue.waiting.push_back(body);
                    shared.changed.notify_all();
                }
                drop(queue);
                if full && let Some(bodies) = shared.drops.add(1) {
                    tracing::warn!(bodies, "spans of workers were dropped");
                }
            }
        }
    }

    /// Takes nothing more and sends what waits. Blocks up to 3 s: in async code call it inside `spawn_blocking`.
    /// Returns whether everything was sent or tried in that time. Safe to repeat.
    pub fn shutdown(&self) -> bool {
        let Way::Thread(shared) = &self.0 else { return true };
        let deadline = Instant::now() + STOP;
        let mut queue = shared.lock();
        queue.closed.get_or_insert(deadline);
        shared.changed.notify_all();
        while !queue.gone {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let lost = queue.waiting.len() as u64;
        let done = queue.gone && lost == 0;
        drop(queue);
        if let Some(bodies) = shared.drops.rest().map_or((lost > 0).then_some(lost), |drops| Some(drops + lost)) {
            tracing::warn!(bodies, "spans of workers were dropped");
        }
        done
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: one body at a time, until closed and empty, or closed and late.
    fn run(&self, send: impl Fn(Bytes)) {
        let _gone = Gone(self);
        while let Some(body) = self.next() {
            send(body);
        }
    }

    fn next(&self) -> Option<Bytes> {
        let mut queue = self.lock();
        loop {
            if queue.closed.is_some_and(|deadline| Instant::now() >= deadline) {
                return None;
            }
            if let Some(body) = queue.waiting.pop_front() {
                return Some(body);
            }
            if queue.closed.is_some() {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says that the thread has ended, however it ended.
struct Gone<'a>(&'a Shared);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().gone = true;
        self.0.changed.notify_all();
    }
}

fn send(post: &Post, url: &str, headers: &[(String, String)], body: Bytes) {
    let client = match post.client() {
        Ok(client) => client,
        Err(error) => return post.failed(&error.to_string()),
    };
    let mut request = client.post(url).header("content-type", "application/x-protobuf").body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    match request.send() {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => post.failed(answer.status().as_str()),
        Err(error) => post.failed(&crate::report::chain(&error)),
    }
}
