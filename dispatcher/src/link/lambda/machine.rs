//! The Runtime API of one worker as a state machine: what its runtime calls goes in, what it is answered comes out. No I/O
//! and no clock.
//!
//! A call is *waiting* until the runtime asks for it, *taken* until it is answered, and then *done*. A call that is done
//! takes no second answer, and neither does one whose answer is just arriving: of two that race, the first counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use weft_schemas::frame::{InvocationId, Invoke};

/// Names a call to the runtime. A new one for each attempt, so that what is said of an earlier one can never be taken for
/// this one's answer.
pub(crate) type RequestId = Arc<str>;

/// How many calls that are done are remembered, to tell a second answer from one that belongs to nothing.
const REMEMBERED: usize = 256;
/// Extensions of one worker, and events that wait for one of them.
const MOST_EXTENSIONS: usize = 16;
const MOST_EVENTS: usize = 64;

/// One call of the function: an attempt, or the attempts of a batch.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: RequestId,
    /// At least one.
    pub(crate) invokes: Vec<Invoke>,
    /// What the function gets.
    pub(crate) payload: Bytes,
    /// Milliseconds since 1970.
    pub(crate) deadline_ms: u64,
    /// In AWS X-Ray's form.
    pub(crate) trace: Option<String>,
    pub(crate) received: Timestamp,
}

impl Call {
    pub(crate) fn ids(&self) -> impl Iterator<Item = InvocationId> + '_ {
        self.invokes.iter().map(|invoke| invoke.id)
    }
}

/// Why something that the worker asks for is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No call of this id was handed out.
    UnknownRequest,
    /// What it asks for does not follow on where it stands.
    Transition { from: &'static str, to: &'static str },
    /// The body is longer than is taken.
    TooLarge,
    /// A response mode that there is none of.
    ResponseMode,
    /// The body did not arrive whole.
    Broken,
    /// An extension without a name.
    NoExtensionName,
    /// An extension that did not register, or did not say which it is.
    UnknownExtension,
    /// Too many extensions.
    TooManyExtensions,
    /// No such path.
    NotFound,
    /// The path is another method's.
    Method,
}

/// The longest response: 6 MiB, and what an envelope may take.
pub(crate) const MAX_RESPONSE_BYTES: usize = (6 << 20) + 100;

impl Refused {
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::UnknownRequest | Self::ResponseMode | Self::Broken => 400,
            Self::Transition { .. } | Self::NoExtensionName | Self::UnknownExtension | Self::TooManyExtensions => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::TooLarge => 413,
        }
    }

    /// As AWS calls it where it has a name for it.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::UnknownRequest => "InvalidRequestID",
            Self::Transition { .. } => "InvalidStateTransition",
            Self::TooLarge => "RequestEntityTooLarge",
            Self::ResponseMode => "InvalidFunctionResponseMode",
            Self::Broken => "InvalidRequestBody",
            Self::NoExtensionName => "Extension.InvalidExtensionName",
            Self::UnknownExtension => "Extension.UnknownExtensionIdentifier",
            Self::TooManyExtensions => "Extension.TooManyExtensions",
            Self::NotFound => "NotFound",
            Self::Method => "MethodNotAllowed",
        }
    }

    pub(crate) fn message(self) -> String {
        match self {
            Self::UnknownRequest => "no invocation with this request id was handed out".to_owned(),
            Self::Transition { from, to } => format!("the runtime is {from}, from which {to} does not follow"),
            Self::TooLarge => format!("the body is larger than {MAX_RESPONSE_BYTES} bytes"),
            Self::ResponseMode => "the response mode is not \"streaming\"".to_owned(),
            Self::Broken => "the body did not arrive whole".to_owned(),
            Self::NoExtensionName => "the header Lambda-Extension-Name is missing".to_owned(),
            Self::UnknownExtension => "the header Lambda-Extension-Identifier names no registered extension".to_owned(),
            Self::TooManyExtensions => format!("a worker may have {MOST_EXTENSIONS} extensions"),
            Self::NotFound => "there is no such path".to_owned(),
            Self::Method => "the path does not take this method".to_owned(),
        }
    }
}

/// Where the runtime stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not asked for an invocation yet.
    Init,
    /// It said that it cannot start.
    InitFailed,
    Running,
}

/// A call in the runtime's hands.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) call: Arc<Call>,
    /// When it was handed out first, in microseconds of the machine's monotonic clock.
    pub(crate) at_us: u64,
    /// Its answer is arriving.
    answering: bool,
}

/// What an extension is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExtensionEvent {
    Invoke { request: RequestId, deadline_ms: u64, trace: Option<String> },
    Shutdown,
}

#[derive(Debug, Default)]
struct Extension {
    invoke: bool,
    shutdown: bool,
    events: VecDeque<ExtensionEvent>,
}

/// One worker's side of the Runtime API.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    slots: usize,
    waiting: VecDeque<Arc<Call>>,
    taken: Vec<Taken>,
    done: VecDeque<RequestId>,
    extensions: BTreeMap<String, Extension>,
    draining: bool,
}

/// What the runtime gets that asks for the next invocation.
#[derive(Debug)]
pub(crate) struct Next {
    /// It was the first time that it asked.
    pub(crate) ready: bool,
    /// `None`: it waits until there is one.
    pub(crate) call: Option<Arc<Call>>,
}

impl Machine {
    /// `slots`: how many calls the runtime may have in its hands at once.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            phase: Phase::Init,
            slots: slots.max(1),
            waiting: VecDeque::new(),
            taken: Vec::new(),
            done: VecDeque::new(),
            extensions: BTreeMap::new(),
            draining: false,
        }
    }

    /// A call to be handed out when the runtime asks for one.
    pub(crate) fn offer(&mut self, call: Call) {
        self.waiting.push_back(Arc::new(call));
    }

    /// The runtime asks for an invocation. One that takes a single call at a time and has not answered it gets the same
    /// again: it has forgotten it, as one that was started anew within its worker has.
    pub(crate) fn next(&mut self, now_us: u64) -> Result<Next, Refused> {
        let ready = match self.phase {
            Phase::InitFailed => return Err(Refused::Transition { from: "failed", to: "asking for an invocation" }),
            Phase::Init => true,
            Phase::Running => false,
        };
        self.phase = Phase::Running;
        if self.slots == 1
            && let Some(taken) = self.taken.first()
            && !taken.answering
        {
            return Ok(Next { ready, call: Some(Arc::clone(&taken.call)) });
        }
        Ok(Next { ready, call: self.take(now_us) })
    }

    /// Hands the next call out, if there is one and a slot for it.
    pub(crate) fn take(&mut self, now_us: u64) -> Option<Arc<Call>> {
        if self.phase != Phase::Running || self.taken.len() >= self.slots {
            return None;
        }
        let call = self.waiting.pop_front()?;
        self.taken.push(Taken { call: Arc::clone(&call), at_us: now_us, answering: false });
        let (request, deadline_ms, trace) = (Arc::clone(&call.request), call.deadline_ms, call.trace.clone());
        let event = ExtensionEvent::Invoke { request, deadline_ms, trace };
        self.extensions.values_mut().filter(|extension| extension.invoke).for_each(|it| it.tell(event.clone()));
        Some(call)
    }

    /// Takes back what was handed to somebody who was gone.
    pub(crate) fn put_back(&mut self, request: &str) {
        if let Some(at) = self.position(request) {
            self.waiting.push_front(self.taken.remove(at).call);
        }
    }

    fn position(&self, request: &str) -> Option<usize> {
        self.taken.iter().position(|taken| &*taken.call.request == request)
    }

    /// An answer begins to arrive; [`Machine::finish`] or [`Machine::abandon`] follows.
    pub(crate) fn begin(&mut self, request: &str, what: &'static str) -> Result<(), Refused> {
        match self.position(request).and_then(|at| self.taken.get_mut(at)) {
            Some(taken) if taken.answering => Err(Refused::Transition { from: "answering this already", to: what }),
            Some(taken) => {
                taken.answering = true;
                Ok(())
            }
            None if self.done.iter().any(|done| &**done == request) => {
                Err(Refused::Transition { from: "done with this", to: what })
            }
            None => Err(Refused::UnknownRequest),
        }
    }

    /// The answer that had begun did not arrive whole: the runtime may try again.
    pub(crate) fn abandon(&mut self, request: &str) {
        if let Some(taken) = self.position(request).and_then(|at| self.taken.get_mut(at)) {
            taken.answering = false;
        }
    }

    /// The answer that had begun is there. `None`: there is nothing to answer any more.
    pub(crate) fn finish(&mut self, request: &str) -> Option<Taken> {
        let at = self.position(request)?;
        let taken = self.taken.remove(at);
        if self.done.len() >= REMEMBERED {
            self.done.pop_front();
        }
        self.done.push_back(Arc::clone(&taken.call.request));
        Some(taken)
    }

    /// The runtime says that it cannot start.
    pub(crate) fn init_error(&mut self) -> Result<(), Refused> {
        match self.phase {
            Phase::Init => {
                self.phase = Phase::InitFailed;
                Ok(())
            }
            Phase::InitFailed => Err(Refused::Transition { from: "failed", to: "failing to start" }),
            Phase::Running => Err(Refused::Transition { from: "past its start", to: "failing to start" }),
        }
    }

    /// An attempt is to be stopped: one that was not handed out yet never is. Whether it was.
    pub(crate) fn cancel(&mut self, id: InvocationId) -> bool {
        let before = self.waiting.len();
        // Of a batch the others are wanted.
        self.waiting.retain(|call| !call.ids().eq([id]));
        self.waiting.len() < before
    }

    /// No call follows. What is under way may be answered.
    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            let told = self.extensions.values_mut().filter(|extension| extension.shutdown);
            told.for_each(|extension| extension.tell(ExtensionEvent::Shutdown));
        }
    }

    /// Whether it was told to finish, and nothing is under way.
    pub(crate) fn is_drained(&self) -> bool {
        self.draining && self.waiting.is_empty() && self.taken.is_empty()
    }

    /// Whether its runtime has asked for an invocation.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The one call under way; `None` when there are several, or none.
    pub(crate) fn only(&self) -> Option<&RequestId> {
        match self.taken.as_slice() {
            [only] => Some(&only.call.request),
            _ => None,
        }
    }

    /// An extension registers under an identifier that was made for it, for these events.
    pub(crate) fn register(&mut self, identifier: String, invoke: bool, shutdown: bool) -> Result<(), Refused> {
        if self.phase != Phase::Init {
            return Err(Refused::Transition { from: "past its start", to: "registering an extension" });
        }
        if self.extensions.len() >= MOST_EXTENSIONS {
            return Err(Refused::TooManyExtensions);
        }
        self.extensions.insert(identifier, Extension { invoke, shutdown, events: VecDeque::new() });
        Ok(())
    }

    pub(crate) fn knows_extension(&self, identifier: &str) -> bool {
        self.extensions.contains_key(identifier)
    }

    /// The next event for an extension; `None`: it waits.
    pub(crate) fn extension_event(&mut self, identifier: &str) -> Result<Option<ExtensionEvent>, Refused> {
        let extension = self.extensions.get_mut(identifier).ok_or(Refused::UnknownExtension)?;
        Ok(extension.events.pop_front())
    }
}

impl Extension {
    /// One that does not listen loses the oldest.
    fn tell(&mut self, event: ExtensionEvent) {
        if self.events.len() >= MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
pub(super) mod tests;
