//! A dispatcher of a page, for tests: admits, claims, runs and settles one event after the other.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use weft_ledger::{
    Claim, ClaimRequest, Ledger, NodeSession, OutboxKind, OutboxMessage, Settle, Settled, Settlement, Verdict,
};
use weft_schemas::event::DecodeError;
use weft_schemas::frame::{self, InvocationId, Invoke, Start, ToDispatcher, ToWorker};
use weft_schemas::manifest::{Function, Manifest};
use weft_schemas::{
    Attempt, DeadLetter, DeadLetterId, Epoch, ErrorInfo, Event, FunctionName, Key, Message, NodeName, Outcome, Reason,
    requeue,
};

const PREFIX: &str = "weft";

/// A folder that is gone after the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-orders-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn url(&self) -> String {
        format!("sqlite://{}", self.0.join("weft.db").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program, and the dispatcher's end of its link.
struct Worker {
    child: Child,
    link: UnixStream,
}

impl Worker {
    fn start(function: &FunctionName, ledger_url: &str, state_url: &str) -> Self {
        let (link, theirs) = UnixStream::pair().unwrap();
        link.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_orders"))
            .env_clear()
            .env("WEFT_LINK_FD", "0")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let mut worker = Self { child, link };
        worker.send(&ToWorker::Start(Start {
            function: function.clone(),
            worker: format!("{function}-1"),
            ledger_url: ledger_url.to_owned(),
            state_url: state_url.to_owned(),
            prefix: PREFIX.to_owned(),
            spans: false,
            max_result_bytes: 1 << 20,
            warm_up_ms: None,
        }));
        match worker.receive() {
            Some(ToDispatcher::Ready { handlers, .. }) => {
                assert!(handlers.iter().any(|name| name == function.as_str()))
            }
            other => panic!("{function} did not get ready: {other:?}"),
        }
        worker
    }

    fn send(&mut self, frame: &ToWorker) {
        let body = frame::encode(frame).unwrap();
        self.link.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
        self.link.write_all(&body).unwrap();
    }

    /// `None`: the worker is gone.
    fn receive(&mut self) -> Option<ToDispatcher> {
        let mut length = [0; 4];
        match self.link.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("the worker does not answer: {error}"),
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.link.read_exact(&mut body).unwrap();
        Some(frame::decode(&body).unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The dispatcher, with what it has counted.
pub struct StandIn {
    ledger_url: String,
    state_url: String,
    ledger: Arc<dyn Ledger>,
    node: Box<dyn NodeSession>,
    manifest: Manifest,
    workers: BTreeMap<FunctionName, Worker>,
    queue: VecDeque<(FunctionName, Message)>,
    invocations: u64,
    pub replays: u64,
    pub retries: u64,
    pub crashes: u64,
}

impl StandIn {
    pub async fn start(ledger_url: &str, state_url: &str) -> Self {
        let ledger = weft_ledger::open(ledger_url).await.unwrap();
        ledger.migrate().await.unwrap();
        let node = ledger.enter(&NodeName::new("stand-in").unwrap(), Duration::from_secs(600)).await.unwrap();
        let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("weft.toml")).unwrap();
        Self {
            ledger_url: ledger_url.to_owned(),
            state_url: state_url.to_owned(),
            ledger,
            node,
            manifest,
            workers: BTreeMap::new(),
            queue: VecDeque::new(),
            invocations: 0,
            replays: 0,
            retries: 0,
            crashes: 0,
        }
    }

    /// Puts a message in the queue of every function that takes its routing key. No pattern here has a wildcard.
    pub fn publish(&mut self, message: Message) {
        for function in self.manifest.functions.values() {
            if function.events.contains(&message.routing_key) {
                self.queue.push_back((function.name.clone(), message.clone()));
            }
        }
    }

    /// Until queue and outbox are empty.
    pub async fn run(&mut self) {
        loop {
            while let Some((name, message)) = self.queue.pop_front() {
                let function = self.manifest.functions[&name].clone();
                self.deliver(&function, message).await;
            }
            let batch = self.ledger.due(1_000).await.unwrap();
            let rows = batch.rows().to_vec();
            if rows.is_empty() {
                return;
            }
            batch.finish(&rows.iter().map(|row| row.id).collect::<Vec<_>>(), &[]).await.unwrap();
            for row in rows {
                match row.kind {
                    OutboxKind::Retry => {
                        let name = row.message.header(requeue::FUNCTION_HEADER).unwrap();
                        self.queue.push_back((FunctionName::new(name).unwrap(), row.message));
                    }
                    OutboxKind::Emit => self.publish(row.message),
                    OutboxKind::DeadLetter => {}
                    OutboxKind::Reply | OutboxKind::Redrive => panic!("nobody asked for {:?}", row.kind),
                }
            }
        }
    }

    async fn deliver(&mut self, function: &Function, message: Message) {
        let (event, key) = match admit(function, &message) {
            Ok(admitted) => admitted,
            Err(reason) => return self.bury(function, reason, message).await,
        };
        let resume = requeue::resume_fence(&message);
        let request = ClaimRequest { key: key.clone(), digest: event.digest(), resume, interrupted: false };
        let verdicts = self.ledger.claim(self.node.owner(), &function.name, &[request]).await.unwrap();
        match verdicts.into_iter().next().unwrap() {
            Verdict::Run(claim) => self.attempt(function, message, event, key, claim).await,
            Verdict::Replay { .. } => self.replays += 1,
            Verdict::Mismatch => self.bury(function, Reason::Mismatch, message).await,
            // A repeat of an order that waits or is dead; the committed orders have none that are delivered like this.
            verdict @ (Verdict::Busy { .. } | Verdict::Deferred { .. } | Verdict::Dead) => {
                panic!("{} of {key}: {verdict:?}", function.name)
            }
        }
    }

    async fn attempt(&mut self, function: &Function, message: Message, event: Event, key: Key, claim: Claim) {
        let outcome = self.invoke(function, event, key.clone(), claim);
        let again = |crashed, error| Settlement::Waiting {
            error,
            crashed,
            retry: OutboxMessage {
                kind: OutboxKind::Retry,
                due_in: Duration::ZERO,
                message: requeue::retry_message(&message, PREFIX, &function.name, claim.fence),
            },
        };
        let dead = |reason, error| {
            let letter = DeadLetter {
                id: DeadLetterId::of_invocation(&function.name, &key, claim.epoch),
                key: Some(key.clone()),
                epoch: claim.epoch,
                attempts: claim.attempt,
                first_at: claim.first_seen_at,
                ..letter(function, reason, error, message.clone())
            };
            Settlement::Dead { copy: copy(&letter), letter: Box::new(letter) }
        };
        let to = match outcome {
            // The worker's own transaction has settled it.
            Some(Outcome::Committed { .. }) => return,
            Some(Outcome::Succeeded { result }) => {
                Settlement::Succeeded { result, keep: function.idempotency.keep, outbox: Vec::new() }
            }
            Some(Outcome::Failed { error }) => dead(Reason::Terminal, error),
            Some(Outcome::Retry { error, .. }) if claim.attempt.0 < function.retry.attempts => {
                self.retries += 1;
                again(false, error)
            }
            Some(Outcome::Retry { error, .. }) => dead(Reason::Exhausted, error),
            Some(other) => panic!("{} of {key}: {other:?}", function.name),
            None => {
                self.crashes += 1;
                let error = ErrorInfo::new("Crashed", "the worker went away");
                if claim.crashes + 1 < function.retry.crashes {
                    again(true, error)
                } else {
                    dead(Reason::Crashed, error)
                }
            }
        };
        let settles = [Settle { key, fence: claim.fence, to }];
        assert_eq!(self.ledger.settle(&function.name, &settles).await.unwrap(), [Settled::Done]);
    }

    /// `None`: the worker died of it.
    fn invoke(&mut self, function: &Function, event: Event, key: Key, claim: Claim) -> Option<Outcome> {
        let start = || Worker::start(&function.name, &self.ledger_url, &self.state_url);
        let worker = self.workers.entry(function.name.clone()).or_insert_with(start);
        self.invocations += 1;
        let id = InvocationId(self.invocations);
        worker.send(&ToWorker::Invoke(Box::new(Invoke {
            id,
            handler: function.handler.clone(),
            key,
            fence: claim.fence,
            epoch: claim.epoch,
            attempt: claim.attempt,
            remaining_ms: 30_000,
            keep_ms: 3_600_000,
            event,
            trace: None,
        })));
        match worker.receive() {
            Some(ToDispatcher::Outcome { id: answered, outcome, emits, .. }) => {
                assert_eq!((answered, emits.len()), (id, 0), "the handlers emit in transactions only");
                Some(outcome)
            }
            None => {
                self.workers.remove(&function.name);
                None
            }
            Some(other) => panic!("{}: {other:?}", function.name),
        }
    }

    async fn bury(&mut self, function: &Function, reason: Reason, message: Message) {
        let letter = letter(function, reason, ErrorInfo::new("Refused", "by the stand-in"), message);
        let copy = copy(&letter);
        self.ledger.bury(&[(letter, copy)]).await.unwrap();
    }
}

fn admit(function: &Function, message: &Message) -> Result<(Event, Key), Reason> {
    let event = Event::decode(message).map_err(|error| match error {
        DecodeError::NoId => Reason::NoKey,
        DecodeError::Undecodable { .. } => Reason::Undecodable,
    })?;
    if let Some(schema) = &function.schema
        && !jsonschema::is_valid(&schema.document, &event.data_json().unwrap())
    {
        return Err(Reason::Schema);
    }
    let pointer = function.idempotency.key.as_deref().unwrap();
    let key = event.pointer(pointer).and_then(|text| Key::new(text).ok()).ok_or(Reason::NoKey)?;
    Ok((event, key))
}

fn letter(function: &Function, reason: Reason, error: ErrorInfo, message: Message) -> DeadLetter {
    let now = Timestamp::now();
    DeadLetter {
        id: DeadLetterId::of_message(&function.name, reason, &message),
        function: function.name.clone(),
        key: None,
        epoch: Epoch(0),
        reason,
        error,
        attempts: Attempt(0),
        first_at: now,
        last_at: now,
        trace_id: None,
        message,
    }
}

fn copy(letter: &DeadLetter) -> OutboxMessage {
    OutboxMessage { kind: OutboxKind::DeadLetter, due_in: Duration::ZERO, message: letter.to_message(PREFIX) }
}
