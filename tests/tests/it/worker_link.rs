//! A real worker process, driven over the link as the dispatcher drives it: what the tests of the worker share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use weft_dispatcher::link::{FromWorker, Launch, Program, Worker, WorkerId};
use weft_schemas::frame::{InvocationId, Invoke, Start};
use weft_schemas::{Attempt, Epoch, Event, Fence, Outcome};

/// A bound for what must happen soon; never waited out when all is well.
pub const SOON: Duration = Duration::from_secs(20);

/// A running `weft-test-handlers`. Dropping it kills the process.
pub struct Driven {
    worker: Worker,
    heard: mpsc::Receiver<(WorkerId, FromWorker)>,
    /// Outcomes that came while another was waited for.
    early: HashMap<InvocationId, Outcome>,
    next: u64,
}

/// One attempt to hand over.
pub struct Attempted<'a> {
    pub handler: &'a str,
    pub key: &'a str,
    pub fence: Fence,
}

/// A start frame for a function whose worker may use neither ledger nor state until the test says which.
pub fn start(function: &str) -> Start {
    Start {
        function: function.parse().unwrap(),
        worker: format!("{function}-1"),
        ledger_url: "postgres://weft@127.0.0.1:1/none".to_owned(),
        state_url: "redis://127.0.0.1:1".to_owned(),
        prefix: "weft".to_owned(),
        spans: false,
        max_result_bytes: 1 << 20,
        warm_up_ms: None,
    }
}

impl Driven {
    /// Starts the program and waits until it is ready.
    pub async fn start(start: Start) -> Self {
        let program = Program {
            path: PathBuf::from(env!("CARGO_BIN_EXE_weft-test-handlers")),
            args: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            confinement: Arc::default(),
            lambda: None,
            private_tmp: false,
        };
        let (sender, heard) = mpsc::channel(16);
        let launch = Launch { id: WorkerId(1), program: Arc::new(program), start, init_timeout: SOON };
        let mut this = Self { worker: Worker::launch(launch, sender), heard, early: HashMap::new(), next: 0 };
        let first = this.next_word().await;
        assert!(matches!(first, FromWorker::Ready { .. }), "{first:?}");
        this
    }

    async fn next_word(&mut self) -> FromWorker {
        let word = tokio::time::timeout(SOON, self.heard.recv()).await.expect("the worker says nothing");
        word.expect("the worker's last word was heard before").1
    }

    /// Hands an attempt over and does not wait for it.
    pub fn begin(&mut self, attempted: &Attempted<'_>, data: &impl Serialize) -> InvocationId {
        self.next += 1;
        let id = InvocationId(self.next);
        self.worker.invoke(Invoke {
            id,
            handler: attempted.handler.to_owned(),
            key: attempted.key.parse().unwrap(),
            fence: attempted.fence,
            epoch: Epoch(0),
            attempt: Attempt(1),
            remaining_ms: 60_000,
            keep_ms: 3_600_000,
            event: Event {
                id: attempted.key.to_owned(),
                source: "/test".to_owned(),
                kind: "test.event".to_owned(),
                subject: None,
                time: None,
                datacontenttype: Some("application/json".to_owned()),
                dataschema: None,
                extensions: Default::default(),
                data: serde_json::to_vec(data).unwrap().into(),
            },
            trace: None,
        });
        id
    }

    /// What an attempt came to.
    pub async fn outcome(&mut self, id: InvocationId) -> Outcome {
        loop {
            if let Some(outcome) = self.early.remove(&id) {
                return outcome;
            }
            match self.next_word().await {
                FromWorker::Outcome { id, outcome, emits, .. } => {
                    assert!(emits.is_empty(), "these handlers emit within a transaction only: {emits:?}");
                    self.early.insert(id, outcome);
                }
                other => panic!("the worker said {other:?}"),
            }
        }
    }

    /// Hands an attempt over and waits for what it comes to.
    pub async fn run(&mut self, attempted: &Attempted<'_>, data: &impl Serialize) -> Outcome {
        let id = self.begin(attempted, data);
        self.outcome(id).await
    }

    /// SIGKILL, and the wait for the end.
    pub async fn killed(mut self) {
        self.worker.kill();
        while !matches!(self.next_word().await, FromWorker::Gone(_)) {}
    }

    /// The process, to see that it is still the same one.
    pub fn pid(&self) -> u32 {
        self.worker.pid().expect("the worker is gone")
    }
}

/// The kind and the text of an attempt's failure that another attempt may cure.
pub fn retry(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Retry { error, .. } => (&error.kind, &error.message),
        other => panic!("no retry: {other:?}"),
    }
}

/// The kind and the text of an outage that an attempt ran into.
pub fn outage(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Outage { error, .. } => (&error.kind, &error.message),
        other => panic!("no outage: {other:?}"),
    }
}

/// Waits until a handler has written down in `runs` that it got as far as its pause.
pub async fn paused(runs: &Path) {
    weft_tests::poll("the handler pauses", SOON, || async {
        match std::fs::read_to_string(runs) {
            Ok(text) if text.ends_with('\n') => Ok(()),
            other => Err(other.map_err(|error| error.to_string())),
        }
    })
    .await;
}
