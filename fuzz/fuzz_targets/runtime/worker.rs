//! One worker's API, the connections to it, and what must hold of what it answers and says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use weft_schemas::frame::{InvocationId, Invoke};
use weft_schemas::manifest::Manifest;
use weft_schemas::shape::Shape;
use weft_schemas::{Attempt, Epoch, Event, Fence, Key, Message};

use super::api::{Api, Said, State, connection};
use super::machine::Machine;
use super::{Current, Lambda, MOST_CALLS, MOST_CONNECTIONS, Step};

/// What a connection holds on its way; what is sent waits until it was taken.
const ON_ITS_WAY: usize = 64 * 1024;
const BASE: &str = "/2018-06-01/runtime/invocation";

/// A call, as the pool knows it.
struct Offered {
    /// How often each of its attempts was answered.
    outcomes: BTreeMap<u64, usize>,
    cancelled: bool,
}

impl Offered {
    fn is_answered(&self) -> bool {
        self.outcomes.values().all(|count| *count == 1)
    }
}

pub struct Worker {
    api: Arc<Api>,
    said: mpsc::UnboundedReceiver<Said>,
    calls: Vec<Offered>,
    connections: [Option<Connection>; MOST_CONNECTIONS],
    /// Of the extension that registered last.
    extension: String,
    /// Answers of 202 and 413, without which no outcome may be said.
    taken: usize,
    failed: bool,
    drained: bool,
}

impl Worker {
    pub fn new(slots: usize, shape: Shape) -> Self {
        let mut lambda = function().clone();
        (lambda.slots, lambda.shape, lambda.batch) = (slots, shape, shape == Shape::Sqs);
        let (say, said) = mpsc::unbounded_channel();
        let api = Api {
            function: lambda.function.clone(),
            lambda: Arc::new(lambda),
            worker: "f-1".to_owned(),
            queue: "weft.f".to_owned(),
            launched: Instant::now(),
            pid: Arc::new(AtomicU32::new(0)),
            current: Current::new().0,
            extensions: Arc::new(AtomicBool::new(false)),
            said: say,
            state: Mutex::new(State::new(Machine::new(slots))),
        };
        Self {
            api: Arc::new(api),
            said,
            calls: Vec::new(),
            connections: Default::default(),
            extension: String::new(),
            taken: 0,
            failed: false,
            drained: false,
        }
    }

    pub async fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Offer => self.offer(1),
            Step::Batch => self.offer(if self.api.lambda.batch { 2 } else { 1 }),
            Step::Cancel(id) => {
                let of = |call: &&mut Offered| call.outcomes.contains_key(id);
                if self.api.state().machine.cancel(InvocationId(*id)) {
                    let call = self.calls.iter_mut().find(of).expect("what is cancelled was offered");
                    assert!(!call.is_answered() && !call.cancelled, "what is cancelled was open");
                    call.cancelled = true;
                }
            }
            Step::Drain => {
                self.api.state().machine.drain();
                self.api.tell_extensions();
                self.drained = true;
            }
            Step::On(number, bytes) => {
                let bytes = put_in(bytes, b"{x}", self.extension.as_bytes());
                self.on(*number).write(bytes);
            }
            Step::Fill(number, count) => self.on(*number).fill(*count),
            Step::Shut(number) => self.on(*number).shut(),
            Step::Drop(number) => self.connections[*number] = None,
        }
        self.settle().await;
    }

    /// As the pool does it, which offers nothing to a worker that it drains.
    fn offer(&mut self, attempts: u64) {
        if self.drained || self.calls.len() >= MOST_CALLS {
            return;
        }
        let number = self.calls.len() as u64;
        let invokes: Vec<Invoke> = (0..attempts).map(|nth| invoke(2 * number + nth)).collect();
        let outcomes = invokes.iter().map(|invoke| (invoke.id.0, 0)).collect();
        let mut call = self.api.lambda.call(invokes, &self.api.queue, Timestamp::UNIX_EPOCH);
        call.request = format!("r{number}").into();
        self.api.state().machine.offer(call);
        self.api.dispatch();
        self.calls.push(Offered { outcomes, cancelled: false });
    }

    fn on(&mut self, number: usize) -> &mut Connection {
        let api = &self.api;
        self.connections[number].get_or_insert_with(|| Connection::new(Arc::clone(api)))
    }

    /// Lets everything happen that can, and looks at what was answered and said.
    async fn settle(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        for connection in self.connections.iter_mut().flatten() {
            for answer in connection.answers() {
                answer.check();
                self.taken += usize::from(matches!(answer.status, 202 | 413));
                if let Some(identifier) = answer.headers.get("lambda-extension-identifier") {
                    self.extension.clone_from(identifier);
                }
            }
        }
        self.hear();
    }

    fn hear(&mut self) {
        while let Ok(said) = self.said.try_recv() {
            match said {
                Said::Outcome { id, .. } => {
                    let call = self.calls.iter_mut().find(|call| call.outcomes.contains_key(&id.0));
                    let call = call.expect("an outcome of what was never offered");
                    assert!(!call.cancelled, "an outcome of what was cancelled before it was handed out");
                    let count = call.outcomes.get_mut(&id.0).expect("it was found by it");
                    *count += 1;
                    assert_eq!(*count, 1, "a second answer of {id:?} counted");
                }
                Said::Seen { id, .. } => {
                    assert!(self.calls.iter().any(|call| call.outcomes.contains_key(&id.0)), "of no call")
                }
                Said::InitFailed(why) => {
                    assert!(!self.failed && !self.api.state().machine.is_ready(), "a start failed late: {why}");
                    self.failed = true;
                }
                Said::Ready { .. } => assert!(!self.failed, "ready after a failed start"),
                Said::Look => assert!(self.drained, "nothing was drained"),
            }
        }
        let answered = self.calls.iter().filter(|call| call.outcomes.values().any(|count| *count > 0));
        assert!(answered.clone().all(Offered::is_answered), "a batch was answered in part");
        // Whoever dropped a connection did not read what it was answered.
        let unread = self.connections.iter().filter(|connection| connection.is_none()).count() > 0;
        assert!(unread || answered.count() <= self.taken, "an outcome without an answer that was taken");
    }

    /// Another runtime comes, which behaves: nothing of what was done before stands in its way.
    pub async fn end(mut self) {
        self.connections = Default::default();
        self.settle().await;
        assert_eq!(self.ask("GET", "/2018-06-01/ping", "").await.map(|answer| answer.status), Some(200));
        self.refuses("nobody", 400, "InvalidRequestID").await;
        if self.failed {
            let next = self.ask("GET", &format!("{BASE}/next"), "").await.expect("an answer");
            assert_eq!(next.status, 403, "it had said that it cannot start");
        } else {
            // Each question hands out what is waiting, and each answer makes room for more.
            for _ in 0..=self.calls.len() {
                self.answer_all().await;
                if self.calls.iter().all(|call| call.cancelled || call.is_answered()) {
                    break;
                }
                self.ask("GET", &format!("{BASE}/next"), "").await;
            }
        }
        for number in 0..self.calls.len() {
            let Offered { outcomes, cancelled } = &self.calls[number];
            let done = outcomes.values().all(|count| *count == 1);
            assert_ne!(done, *cancelled || self.failed, "r{number} of {} calls was lost or made up", self.calls.len());
            if done {
                self.refuses(&format!("r{number}"), 403, "InvalidStateTransition").await;
            }
        }
        if self.drained && !self.failed {
            let waits = Connection::new(Arc::clone(&self.api));
            self.connections[0] = Some(waits);
            self.on(0).write(request("GET", &format!("{BASE}/next"), ""));
            self.settle().await;
            assert!(self.api.state().is_at_rest(), "all is answered, and it is not at rest");
        }
        self.api.state().close();
        self.settle().await;
    }

    async fn answer_all(&mut self) {
        for number in 0..self.calls.len() {
            let call = &self.calls[number];
            if !call.cancelled && !call.is_answered() {
                let answer = self.ask("POST", &format!("{BASE}/r{number}/response"), "{}").await.expect("an answer");
                let done = self.calls[number].is_answered();
                assert!(if done { answer.status == 202 } else { answer.kind() == "InvalidRequestID" }, "{answer:?}");
            }
        }
    }

    async fn refuses(&mut self, id: &str, status: u16, kind: &str) {
        for what in ["response", "error"] {
            let answer = self.ask("POST", &format!("{BASE}/{id}/{what}"), "{}").await.expect("an answer");
            assert_eq!((answer.status, answer.kind().as_str()), (status, kind), "{id}/{what}");
        }
    }

    /// One well-made request on a connection of its own; `None`: it is not answered yet, and is given up.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let mut connection = Connection::new(Arc::clone(&self.api));
        connection.write(request(method, path, body));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let answer = connection.answers().pop();
        drop(connection);
        self.settle().await;
        answer.inspect(Answer::check)
    }
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn put_in(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    match text.windows(name.len()).position(|part| part == name) {
        Some(at) => [&text[..at], value, &text[at + name.len()..]].concat(),
        None => text.to_vec(),
    }
}

fn function() -> &'static Lambda {
    static FUNCTION: OnceLock<Lambda> = OnceLock::new();
    FUNCTION.get_or_init(|| {
        let text = "[functions.f]\nruntime = \"lambda\"\ncommand = [\"./f\"]\nevents = [\"a.b\"]\n";
        let manifest = Manifest::parse(text, Path::new("/app")).expect("a manifest");
        let function = manifest.functions.values().next().expect("a function");
        Lambda::of(function, &[]).expect("a Lambda function")
    })
}

fn invoke(number: u64) -> Invoke {
    let id = number.to_string();
    let mut message = Message { body: b"{\"order\":7}".to_vec().into(), ..Message::default() };
    message.routing_key = "a.b".to_owned();
    message.properties.message_id = Some(id.clone());
    Invoke {
        id: InvocationId(number),
        handler: "f".to_owned(),
        key: Key::new(id).expect("a key"),
        fence: Fence(1),
        epoch: Epoch(0),
        attempt: Attempt(1),
        remaining_ms: 1000,
        keep_ms: 1000,
        event: Event::decode(&message).expect("an event"),
        trace: None,
    }
}

/// A connection of a worker; dropped, it breaks off.
struct Connection {
    send: mpsc::UnboundedSender<Sent>,
    read: Arc<Mutex<Vec<u8>>>,
    tasks: [tokio::task::JoinHandle<()>; 3],
}

enum Sent {
    Bytes(Vec<u8>),
    Fill(usize),
    Shut,
}

impl Connection {
    fn new(api: Arc<Api>) -> Self {
        let (ours, theirs) = tokio::io::duplex(ON_ITS_WAY);
        let (reader, writer) = tokio::io::split(ours);
        let (send, sent) = mpsc::unbounded_channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let serve = async move {
            // Ends with an error where what came is no HTTP, as it does in the dispatcher.
            let _ = connection(api, theirs).await;
        };
        let tasks =
            [tokio::spawn(serve), tokio::spawn(write(writer, sent)), tokio::spawn(listen(reader, Arc::clone(&read)))];
        Self { send, read, tasks }
    }

    /// What is sent to one that was ended there goes nowhere.
    fn write(&self, bytes: Vec<u8>) {
        let _ = self.send.send(Sent::Bytes(bytes));
    }

    fn fill(&self, count: usize) {
        let _ = self.send.send(Sent::Fill(count));
    }

    fn shut(&self) {
        let _ = self.send.send(Sent::Shut);
    }

    /// What has been answered since this was asked last.
    fn answers(&mut self) -> Vec<Answer> {
        let mut read = self.read.lock().expect("nobody panics in it");
        let mut answers = Vec::new();
        while let Some((answer, length)) = Answer::read(&read) {
            answers.push(answer);
            read.drain(..length);
        }
        answers
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The two that hold our end: theirs sees the end and goes by itself.
        self.tasks[1].abort();
        self.tasks[2].abort();
    }
}

async fn write(mut writer: WriteHalf<DuplexStream>, mut sent: mpsc::UnboundedReceiver<Sent>) {
    let block = [b'1'; 8192];
    while let Some(sent) = sent.recv().await {
        let done = match sent {
            Sent::Bytes(bytes) => writer.write_all(&bytes).await,
            Sent::Fill(count) => {
                let mut left = count;
                let mut done = Ok(());
                while left > 0 && done.is_ok() {
                    let some = left.min(block.len());
                    done = writer.write_all(&block[..some]).await;
                    left -= some;
                }
                done
            }
            Sent::Shut => writer.shutdown().await,
        };
        // Their end is gone.
        if done.is_err() {
            break;
        }
    }
    std::future::pending::<()>().await;
}

async fn listen(mut reader: ReadHalf<DuplexStream>, read: Arc<Mutex<Vec<u8>>>) {
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) = reader.read(&mut bytes).await {
        read.lock().expect("nobody panics in it").extend_from_slice(&bytes[..count]);
    }
    std::future::pending::<()>().await;
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// Names in lower case.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    /// The first of some bytes, and how many are its own; `None`: it is not all there yet.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(start) = head.parse(bytes).expect("what is answered is HTTP") else {
            return None;
        };
        let status = head.code.expect("a status");
        let text = |header: &httparse::Header<'_>| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        let headers: BTreeMap<String, String> = head.headers.iter().map(text).collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        let rest = &bytes[start..];
        // To HEAD, and to ask for a body, it is answered without one; no body of ours begins so.
        let bare = status < 200 || rest.is_empty() || rest.starts_with(b"HTTP/1.");
        let length = if bare { 0 } else { length };
        let body = rest.get(..length)?.to_vec();
        Some((Self { status, headers, body }, start + length))
    }

    fn kind(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errorType"].as_str().unwrap_or_default().to_owned()
    }

    /// It is one that a client of AWS's own understands.
    fn check(&self) {
        assert!(matches!(self.status, 100 | 200 | 202 | 400 | 403 | 404 | 405 | 413 | 414 | 431), "{self:?}");
        if self.status >= 400 && !self.body.is_empty() {
            let body: Value = serde_json::from_slice(&self.body).expect("an error is JSON");
            assert!(body["errorType"].is_string() && body["errorMessage"].is_string(), "{body}");
            assert_eq!(self.headers.get("content-type").map(String::as_str), Some("application/json"));
        }
        if self.status == 202 {
            let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
            assert!(
                self.body.is_empty() || body["status"] == "OK" || self.kind().ends_with(".NotSupported"),
                "{self:?}"
            );
        }
    }
}
