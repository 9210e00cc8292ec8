//! The function manifest, `weft.toml`.
//!
//! Reading is strict: an unknown key, a value out of its range and a schema that is none are refused, all at once, each
//! with its place and what to write instead. Only [`Manifest::load`] and [`Manifest::parse`] read files.

pub mod bytes;
mod confined;
pub mod duration;
pub mod env;
mod fault;
pub(crate) mod keys;
mod parse;
pub mod rate;
pub mod schedule;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fault::{Fault, Faults};
pub use rate::Rate;
pub use schedule::{Moments, Window};

use crate::FunctionName;
use crate::shape::Shape;

/// A checked `weft.toml`: every value is within its range, every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The folder that relative paths in the manifest start from: that of the manifest itself.
    pub root: PathBuf,
    pub functions: BTreeMap<FunctionName, Function>,
}

impl Manifest {
    /// Reads a manifest and the schema files that it names.
    ///
    /// # Errors
    /// Every fault found; a file that cannot be read is one.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Faults> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let help = "write a manifest there, or name another one";
            Faults::of_file(path, format!("the manifest cannot be read: {error}"), help)
        })?;
        let root = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::parse_with(&text, path, root, &|path| std::fs::read_to_string(path))
    }

    /// Checks the text of a manifest whose folder is `root`, and reads the schema files that it names. Faults name the
    /// file `weft.toml`.
    ///
    /// # Errors
    /// Every fault found.
    pub fn parse(text: &str, root: &Path) -> Result<Self, Faults> {
        Self::parse_with(text, Path::new("weft.toml"), root, &|path| std::fs::read_to_string(path))
    }

    /// Checks the text of a manifest, reading schema files by `read` alone. `file` is what faults name.
    ///
    /// # Errors
    /// Every fault found.
    pub fn parse_with(
        text: &str,
        file: &Path,
        root: &Path,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Faults> {
        parse::parse(text, file, root, read)
    }
}

/// One `[functions.NAME]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: FunctionName,
    /// Program and arguments. A program with a `/` is taken relative to `root`, else looked up in PATH.
    pub command: Vec<String>,
    /// The registered handler to call, of a Lambda function `_HANDLER`; default: the function's name, of a Lambda function
    /// the command's last argument, if it has any.
    pub handler: String,
    pub runtime: Runtime,
    /// What a Lambda function gets for an event; of a native one the CloudEvent.
    pub shape: Shape,
    /// The folder that its workers run in, relative to the manifest's; `None`: that one.
    pub root: Option<String>,
    /// Types of errors after which an event is not tried again; default none.
    pub terminal_errors: Vec<String>,
    /// Topic patterns (`*` one word, `#` any number of words) of the event types it runs on. At least one.
    pub events: Vec<String>,
    /// The exchange that feeds it; default `<prefix>.events`.
    pub source: Option<String>,
    /// The text of the JSON Schema that event data must satisfy, read and checked at load, with its path.
    pub schema: Option<Schema>,
    /// 100 ms to 15 min; default 30 s.
    pub timeout: Duration,
    /// From a worker's start until it is ready, warm-ups included; 100 ms to 15 min; default 10 s.
    pub init_timeout: Duration,
    /// Bytes; 16 MiB to 64 GiB; default 256 MiB.
    pub memory_bytes: u64,
    pub limits: Limits,
    pub isolation: Isolation,
    /// Concurrent invocations in one worker; 1 to 1000; default 16, or `concurrency.reserved` when that is less; of a Lambda
    /// function 1.
    pub slots: u32,
    pub concurrency: Concurrency,
    /// How many attempts may start in a time, in each dispatcher; `None`: any number.
    pub rate: Option<Rate>,
    /// Events with the same value run one after the other; `None`: in no order.
    pub ordering: Option<Ordering>,
    /// It is run by a batch handler; `None`: by one that takes one event at a time.
    pub batch: Option<Batch>,
    pub keep_alive: KeepAlive,
    pub retry: Retry,
    pub idempotency: Idempotency,
    /// Environment of the worker. `${NAME}` takes the value from the dispatcher's own environment at start, `${file:PATH}`
    /// the text of a file.
    pub env: BTreeMap<String, String>,
    /// Largest accepted event body in bytes; 1 KiB to 16 MiB; default 1 MiB.
    pub max_event_bytes: u64,
    /// Largest result in bytes of JSON; 1 KiB to 12 MiB; default 6 MiB.
    pub max_result_bytes: u64,
    /// How many steps an emitted event may be away from the one that began it; 0 to 10,000; default 16; 0: any number.
    pub max_depth: u32,
}

impl Function {
    /// Whether an error of this type is for good: it is one of `terminal_errors`, whole or by its last part, as types are
    /// called by their path in some languages (`orders::ValidationError`, `orders.ValidationError`).
    pub fn is_terminal(&self, kind: &str) -> bool {
        self.terminal_errors.iter().any(|named| {
            let path = kind.strip_suffix(named.as_str());
            path.is_some_and(|path| path.is_empty() || path.ends_with("::") || path.ends_with('.'))
        })
    }
}

/// `runtime = "native"`: what a function's workers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// Frames, through `weft-worker`.
    #[default]
    Native,
    /// AWS Lambda's Runtime API, over HTTP.
    Lambda,
}

/// `limits = { cpu = 0.5, files = 1024, … }`, of one worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Cores; 0.01 to 1024; `None`: any number.
    pub cpu: Option<f64>,
    /// Open files of a process; 64 to 1,048,576; `None`: as many as the dispatcher's.
    pub files: Option<u32>,
    /// Processes and threads; 16 to 100,000; `None`: as many as Weft thinks reasonable, where they can be counted.
    pub processes: Option<u32>,
    /// Bytes in its temporary folder; 1 MiB to 64 GiB, not more than the memory; `None`: what the disk holds.
    pub disk_bytes: Option<u64>,
    /// Bytes of the largest file that it may write; 1 MiB to 1 TiB; `None`: any number.
    pub file_size_bytes: Option<u64>,
    /// Bytes of a stream's output that are logged in a second; 1 KiB to 64 MiB; default 1 MiB.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: None, files: None, processes: None, disk_bytes: None, file_size_bytes: None, output_bytes: 1 << 20 }
    }
}

/// `isolation = { user = "nobody", read_only = true, … }`, of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// A name in `/etc/passwd`, or `UID:GID`; `None`: the dispatcher's own user.
    pub user: Option<String>,
    /// It writes nowhere but in its own folder and below `write`; default no.
    pub read_only: bool,
    /// Relative to the manifest's folder. Empty unless `read_only`.
    pub write: Vec<String>,
    /// It may use the network; default yes.
    pub network: bool,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { user: None, read_only: false, write: Vec::new(), network: true }
    }
}

/// A JSON Schema file named by a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub path: PathBuf,
    pub document: serde_json::Value,
}

/// `concurrency = { reserved = 200, provisioned = 1 }`, in invocations.
#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    /// At most this many invocations at once; `None`: bounded by the node only.
    pub reserved: Option<u32>,
    /// Always room for this many, warm; default 0.
    pub provisioned: u32,
    /// At most this many at once in all dispatchers together; `None`: not counted.
    pub total: Option<u32>,
    /// Its part of a full node, compared with the other functions'; 1 to 100; default 1.
    pub weight: u32,
    /// Windows in which it is more; default none.
    pub schedule: Vec<Window>,
}

/// `keep_alive = "5m"` or `keep_alive = "adaptive"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// An idle worker is kept so long; 0 s to 24 h; default 5 min.
    Fixed(Duration),
    /// As the function's own pauses have taught.
    Adaptive,
}

/// `ordering = { key = "/data/customer_id" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordering {
    /// JSON Pointer (RFC 6901) into the event in structured form.
    pub key: String,
}

/// `batch = { size = 100, wait = "50ms" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Events in one call at most; 1 to 1000; default 100.
    pub size: u32,
    /// How long an event may wait for others while there is room to run it; 0 s to 1 min; default 0 s.
    pub wait: Duration,
}

/// `retry = { attempts = 3, … }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// 1 to 100; default 3.
    pub attempts: u32,
    /// How many attempts may kill their worker; 1 to 20; default 3.
    pub crashes: u32,
    /// Counted from when the event was first seen; 1 s to 14 d; default 6 h.
    pub max_age: Duration,
    pub backoff: Backoff,
}

/// `backoff = { first = "1s", factor = 2.0, max = "15m", jitter = 0.2 }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Wait before the second attempt; 1 ms to 1 h; default 1 s.
    pub first: Duration,
    /// 1.0 to 10.0; default 2.0.
    pub factor: f64,
    /// 1 ms to 24 h, not below `first`; default 15 min.
    pub max: Duration,
    /// Share of the wait that is random, 0.0 to 1.0; default 0.2 (the wait is within ±20 %).
    pub jitter: f64,
}

/// `idempotency = { key = "/data/order_id", keep = "7d" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// JSON Pointer (RFC 6901) into the event in structured form, such as `/data/order_id`; default: source and id.
    pub key: Option<String>,
    /// How long a success is remembered, from when it is settled; 1 min to 365 d; default 7 d.
    pub keep: Duration,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { reserved: None, provisioned: 0, total: None, weight: 1, schedule: Vec::new() }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(15 * 60), jitter: 0.2 }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, crashes: 3, max_age: Duration::from_secs(6 * 3600), backoff: Backoff::default() }
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { key: None, keep: Duration::from_secs(7 * 24 * 3600) }
    }
}
