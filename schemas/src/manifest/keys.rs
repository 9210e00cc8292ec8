//! Every key of a manifest: its name, what it means, its range and its default. The parser and the JSON Schema both
//! read this one table, so that neither can know a key, a range or a default that the other does not.

use std::time::Duration;

/// A key whose value has no range.
pub(crate) struct Plain {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) example: &'static str,
}

/// A key whose value lies in a range, both ends included.
pub(crate) struct Ranged<T: 'static> {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) min: T,
    pub(crate) max: T,
    pub(crate) default: Option<T>,
}

/// A table and the keys that it may have.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
}

/// A key that says yes or no.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) default: bool,
}

/// One key of a table, by the kind of its value.
pub(crate) enum Key {
    Text(&'static Plain),
    /// At least one text. Always required.
    Texts(&'static Plain),
    /// Any number of texts, or none.
    MaybeTexts(&'static Plain),
    /// One of these words; the first is the default.
    Word(&'static Plain, &'static [&'static str]),
    Duration(&'static Ranged<Duration>),
    /// A duration, or a word in its place.
    DurationOr(&'static Ranged<Duration>, &'static str),
    Bytes(&'static Ranged<u64>),
    Count(&'static Ranged<u32>),
    Number(&'static Ranged<f64>),
    Flag(&'static Flag),
    Table(&'static Table),
    /// Any number of tables in a list. Of their keys, texts without a default are required.
    Tables(&'static Table),
    /// A table of texts with free names.
    TextMap(&'static Plain),
}

impl Key {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Text(key) | Self::Texts(key) | Self::MaybeTexts(key) | Self::TextMap(key) | Self::Word(key, _) => {
                key.name
            }
            Self::Duration(key) | Self::DurationOr(key, _) => key.name,
            Self::Bytes(key) => key.name,
            Self::Count(key) => key.name,
            Self::Number(key) => key.name,
            Self::Flag(key) => key.name,
            Self::Table(table) | Self::Tables(table) => table.name,
        }
    }
}

impl Key {
    /// Whether a table in a list must have it: a range without a default, or a text that says so.
    pub(crate) fn is_required(&self) -> bool {
        match self {
            Self::Text(key) => key.doc.ends_with("Required."),
            Self::Duration(key) | Self::DurationOr(key, _) => key.default.is_none(),
            Self::Bytes(key) => key.default.is_none(),
            Self::Count(key) => key.default.is_none(),
            Self::Number(key) => key.default.is_none(),
            Self::Texts(_)
            | Self::MaybeTexts(_)
            | Self::Word(..)
            | Self::Flag(_)
            | Self::Table(_)
            | Self::Tables(_)
            | Self::TextMap(_) => false,
        }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(crate) static COMMAND: Plain = Plain {
    name: "command",
    doc: "Program and arguments. A program with a / is taken relative to root, else looked up in PATH.",
    example: "./orders",
};
pub(crate) static HANDLER: Plain = Plain {
    name: "handler",
    doc: "The registered handler to call; of a Lambda function what it finds in _HANDLER. Default: the function's name; of a Lambda function the command's last argument.",
    example: "create-order",
};
pub(crate) static RUNTIME: Plain = Plain {
    name: "runtime",
    doc: "What its workers speak: \"native\" is Weft's own library, \"lambda\" AWS Lambda's Runtime API.",
    example: "lambda",
};
/// The words of `runtime`.
pub(crate) const RUNTIMES: &[&str] = &["native", "lambda"];
pub(crate) static SHAPE: Plain = Plain {
    name: "event",
    doc: "What a Lambda function gets for an event: the CloudEvent, its data alone, or what that event source of AWS would send. Of a native function always the CloudEvent.",
    example: "aws:sqs",
};
/// The words of `event`.
pub(crate) const SHAPES: &[&str] = &["cloudevent", "data", "aws:sqs", "aws:rmq", "aws:sns", "aws:eventbridge"];
pub(crate) static ROOT: Plain = Plain {
    name: "root",
    doc: "The folder that its workers run in, relative to the manifest's; LAMBDA_TASK_ROOT of a Lambda function. Default: the manifest's folder.",
    example: "functions/orders",
};
pub(crate) static TERMINAL_ERRORS: Plain = Plain {
    name: "terminal_errors",
    doc: "Types of errors after which an event is not tried again, whole or by their last part: ValidationError is also orders::ValidationError. Default: those that the handler itself says are for good.",
    example: "ValidationError",
};
pub(crate) static EVENTS: Plain = Plain {
    name: "events",
    doc: "Topic patterns of the event types that it runs on: * is one word, # any number of words.",
    example: "orders.placed",
};
pub(crate) static SOURCE: Plain =
    Plain { name: "source", doc: "The exchange that feeds it. Default: <prefix>.events.", example: "weft.events" };
pub(crate) static SCHEMA: Plain = Plain {
    name: "schema",
    doc: "A JSON Schema file that event data must satisfy, relative to the manifest's folder. It may not refer to other documents.",
    example: "schemas/order-placed.json",
};
pub(crate) static TIMEOUT: Ranged<Duration> = Ranged {
    name: "timeout",
    doc: "How long one attempt may take.",
    min: Duration::from_millis(100),
    max: seconds(15 * MINUTE),
    default: Some(seconds(30)),
};
pub(crate) static INIT_TIMEOUT: Ranged<Duration> = Ranged {
    name: "init_timeout",
    doc: "How long a worker may take from its start, with its warm-ups, until it is ready.",
    min: Duration::from_millis(100),
    max: seconds(15 * MINUTE),
    default: Some(seconds(10)),
};
pub(crate) static MEMORY: Ranged<u64> = Ranged {
    name: "memory",
    doc: "Memory of one worker, with all its processes. One that takes more is killed; where the machine has no control groups, each process is refused more.",
    min: 16 << 20,
    max: 64 << 30,
    default: Some(256 << 20),
};
pub(crate) static SLOTS: Ranged<u32> = Ranged {
    name: "slots",
    doc: "Concurrent invocations in one worker. The default gives way to a smaller concurrency.reserved; of a Lambda function it is 1.",
    min: 1,
    max: 1000,
    default: Some(16),
};
pub(crate) static RESERVED: Ranged<u32> = Ranged {
    name: "reserved",
    doc: "At most this many invocations at once; not less than slots. Default: bounded by the node only.",
    min: 1,
    max: 100_000,
    default: None,
};
pub(crate) static PROVISIONED: Ranged<u32> = Ranged {
    name: "provisioned",
    doc: "Always room for this many invocations, warm; not more than reserved.",
    min: 0,
    max: 100_000,
    default: Some(0),
};
pub(crate) static WEIGHT: Ranged<u32> = Ranged {
    name: "weight",
    doc: "Its part of a full node, compared with the other functions'. A function that is provisioned or wants little is not cut by it.",
    min: 1,
    max: 100,
    default: Some(1),
};
pub(crate) static WINDOW_CRON: Plain = Plain {
    name: "cron",
    doc: "When the window opens: minute, hour, day of the month, month, day of the week, in the window's time zone. Required.",
    example: "0 7 * * 1-5",
};
pub(crate) static WINDOW_FOR: Ranged<Duration> = Ranged {
    name: "for",
    doc: "How long it stays open. Required.",
    min: seconds(MINUTE),
    max: seconds(7 * DAY),
    default: None,
};
pub(crate) static WINDOW_ZONE: Plain =
    Plain { name: "time_zone", doc: "A time zone of the IANA database. Default: UTC.", example: "Europe/Berlin" };
pub(crate) static WINDOW_PROVISIONED: Ranged<u32> = Ranged {
    name: "provisioned",
    doc: "Always room for this many invocations while it is open, warm from its first moment on; not more than reserved. Required.",
    min: 1,
    max: 100_000,
    default: None,
};
pub(crate) static SCHEDULE: Table = Table {
    name: "schedule",
    doc: "Windows in which more is provisioned. Where several are open, the largest number holds.",
    keys: &[
        Key::Text(&WINDOW_CRON),
        Key::Duration(&WINDOW_FOR),
        Key::Text(&WINDOW_ZONE),
        Key::Count(&WINDOW_PROVISIONED),
    ],
};
pub(crate) static CONCURRENCY: Table = Table {
    name: "concurrency",
    doc: "How many invocations run at once.",
    keys: &[
        Key::Count(&RESERVED),
        Key::Count(&PROVISIONED),
        Key::Count(&TOTAL),
        Key::Count(&WEIGHT),
        Key::Tables(&SCHEDULE),
    ],
};
pub(crate) static TOTAL: Ranged<u32> = Ranged {
    name: "total",
    doc: "At most this many invocations at once in all dispatchers together, counted in the ledger; not less than provisioned. Default: none.",
    min: 1,
    max: 100_000,
    default: None,
};
pub(crate) static RATE: Plain = Plain {
    name: "rate",
    doc: "At most this many attempts are started in a second (s), minute (m) or hour (h), evenly spread, retries included; in each dispatcher for itself. 1 to 1000000. Default: any number.",
    example: "100/s",
};
pub(crate) static ORDERING_KEY: Plain = Plain {
    name: "key",
    doc: "JSON Pointer (RFC 6901) to what must run in order, in the event's structured form: events with the same value run one after the other, as they arrived.",
    example: "/data/customer_id",
};
pub(crate) static ORDERING: Table = Table {
    name: "ordering",
    doc: "Serial execution by key. One dispatcher at a time takes events of such a function, and another takes over when it goes.",
    keys: &[Key::Text(&ORDERING_KEY)],
};
pub(crate) static BATCH_SIZE: Ranged<u32> =
    Ranged { name: "size", doc: "At most this many events in one call.", min: 1, max: 1000, default: Some(100) };
pub(crate) static BATCH_WAIT: Ranged<Duration> = Ranged {
    name: "wait",
    doc: "How long an event may wait for others to come, while there is room to run it. 0s: not at all.",
    min: Duration::ZERO,
    max: seconds(MINUTE),
    default: Some(Duration::ZERO),
};
pub(crate) static BATCH: Table = Table {
    name: "batch",
    doc: "For a handler that was registered as a batch handler, and only for one: it takes several events in one call, which takes one slot, and answers for each.",
    keys: &[Key::Count(&BATCH_SIZE), Key::Duration(&BATCH_WAIT)],
};
/// In place of a keep-alive.
pub(crate) const ADAPTIVE: &str = "adaptive";
pub(crate) static KEEP_ALIVE: Ranged<Duration> = Ranged {
    name: "keep_alive",
    doc: "How long an idle worker is kept; \"adaptive\": as the function's own pauses have taught, started again before the next event is expected.",
    min: Duration::ZERO,
    max: seconds(DAY),
    default: Some(seconds(5 * MINUTE)),
};
pub(crate) static ATTEMPTS: Ranged<u32> =
    Ranged { name: "attempts", doc: "How many attempts an event gets.", min: 1, max: 100, default: Some(3) };
pub(crate) static CRASHES: Ranged<u32> =
    Ranged { name: "crashes", doc: "How many attempts may kill their worker.", min: 1, max: 20, default: Some(3) };
pub(crate) static MAX_AGE: Ranged<Duration> = Ranged {
    name: "max_age",
    doc: "How long an event is tried, from when it was first seen.",
    min: seconds(1),
    max: seconds(14 * DAY),
    default: Some(seconds(6 * HOUR)),
};
pub(crate) static FIRST: Ranged<Duration> = Ranged {
    name: "first",
    doc: "Wait before the second attempt.",
    min: Duration::from_millis(1),
    max: seconds(HOUR),
    default: Some(seconds(1)),
};
pub(crate) static FACTOR: Ranged<f64> = Ranged {
    name: "factor",
    doc: "By how much each further wait is longer than the last.",
    min: 1.0,
    max: 10.0,
    default: Some(2.0),
};
pub(crate) static MAX: Ranged<Duration> = Ranged {
    name: "max",
    doc: "The longest wait; not below first.",
    min: Duration::from_millis(1),
    max: seconds(DAY),
    default: Some(seconds(15 * MINUTE)),
};
pub(crate) static JITTER: Ranged<f64> = Ranged {
    name: "jitter",
    doc: "Share of each wait that is random: 0.2 is up to 20 % more or less.",
    min: 0.0,
    max: 1.0,
    default: Some(0.2),
};
pub(crate) static BACKOFF: Table = Table {
    name: "backoff",
    doc: "How long to wait between attempts.",
    keys: &[Key::Duration(&FIRST), Key::Number(&FACTOR), Key::Duration(&MAX), Key::Number(&JITTER)],
};
pub(crate) static RETRY: Table = Table {
    name: "retry",
    doc: "How often and how long a failing event is tried again.",
    keys: &[Key::Count(&ATTEMPTS), Key::Count(&CRASHES), Key::Duration(&MAX_AGE), Key::Table(&BACKOFF)],
};
pub(crate) static KEY: Plain = Plain {
    name: "key",
    doc: "JSON Pointer (RFC 6901) to the key in the event's structured form. Default: source and id.",
    example: "/data/order_id",
};
pub(crate) static KEEP: Ranged<Duration> = Ranged {
    name: "keep",
    doc: "How long a success is remembered, from when it is settled.",
    min: seconds(MINUTE),
    max: seconds(365 * DAY),
    default: Some(seconds(7 * DAY)),
};
pub(crate) static IDEMPOTENCY: Table = Table {
    name: "idempotency",
    doc: "What makes two events the same.",
    keys: &[Key::Text(&KEY), Key::Duration(&KEEP)],
};
pub(crate) static ENV: Plain = Plain {
    name: "env",
    doc: "Environment of the worker. ${NAME} takes the value from the dispatcher's own environment at start, ${file:PATH} the text of a file, without the line end at its end. WEFT_ is reserved.",
    example: "${HOME}",
};
pub(crate) static MAX_EVENT: Ranged<u64> = Ranged {
    name: "max_event",
    doc: "Largest accepted event body.",
    min: 1 << 10,
    max: 16 << 20,
    default: Some(1 << 20),
};
pub(crate) static MAX_RESULT: Ranged<u64> = Ranged {
    name: "max_result",
    doc: "Largest result that a handler may return, as JSON. A larger one fails the event for good.",
    min: 1 << 10,
    max: 12 << 20,
    default: Some(crate::frame::DEFAULT_MAX_RESULT_BYTES),
};
pub(crate) static MAX_DEPTH: Ranged<u32> = Ranged {
    name: "max_depth",
    doc: "How many steps an event that handlers emitted may be away from the one that began it: stops functions that emit each other's triggers in a circle. 0: any number.",
    min: 0,
    max: 10_000,
    default: Some(16),
};
pub(crate) static CPU: Ranged<f64> = Ranged {
    name: "cpu",
    doc: "Cores that one worker may use, over a tenth of a second: 0.5 is half of one. Default: any number. Needs control groups.",
    min: 0.01,
    max: 1024.0,
    default: None,
};
pub(crate) static FILES: Ranged<u32> = Ranged {
    name: "files",
    doc: "Files and sockets that one process of a worker may have open. Default: as many as the dispatcher.",
    min: 64,
    max: 1 << 20,
    default: None,
};
pub(crate) static PROCESSES: Ranged<u32> = Ranged {
    name: "processes",
    doc: "Processes and threads of one worker. Default: 1024 where the machine can count them. Needs control groups, or isolation.user.",
    min: 16,
    max: 100_000,
    default: None,
};
pub(crate) static DISK: Ranged<u64> = Ranged {
    name: "disk",
    doc: "What the worker's temporary folder may hold. It is then kept in memory, and counts towards memory: not more than that. Needs a dispatcher that may mount.",
    min: 1 << 20,
    max: 64 << 30,
    default: None,
};
pub(crate) static FILE_SIZE: Ranged<u64> = Ranged {
    name: "file_size",
    doc: "The largest file that a worker may write, anywhere: SIGXFSZ ends one that goes on. Default: any size.",
    min: 1 << 20,
    max: 1 << 40,
    default: None,
};
pub(crate) static OUTPUT: Ranged<u64> = Ranged {
    name: "output",
    doc: "What is logged of a worker's standard output, and of its standard error, in a second, besides the bound of 1,000 lines. The rest is dropped and counted.",
    min: 1 << 10,
    max: 64 << 20,
    default: Some(1 << 20),
};
pub(crate) static LIMITS: Table = Table {
    name: "limits",
    doc: "What one worker may use besides memory.",
    keys: &[
        Key::Number(&CPU),
        Key::Count(&FILES),
        Key::Count(&PROCESSES),
        Key::Bytes(&DISK),
        Key::Bytes(&FILE_SIZE),
        Key::Bytes(&OUTPUT),
    ],
};
pub(crate) static USER: Plain = Plain {
    name: "user",
    doc: "The user that workers run as: a name in /etc/passwd, or UID:GID. Default: the dispatcher's. Needs a dispatcher that may change users.",
    example: "nobody",
};
pub(crate) static READ_ONLY: Flag = Flag {
    name: "read_only",
    doc: "Workers write nowhere but in their temporary folder and where write says. Needs Landlock (Linux 6.2).",
    default: false,
};
pub(crate) static WRITE: Plain = Plain {
    name: "write",
    doc: "With read_only: folders and files that workers may write all the same, relative to the manifest's folder.",
    example: "/var/lib/orders",
};
pub(crate) static NETWORK: Flag = Flag {
    name: "network",
    doc: "Whether workers may use the network. false: no sockets but Unix ones, so no transaction or state on a server either. Needs seccomp.",
    default: true,
};
pub(crate) static ISOLATION: Table = Table {
    name: "isolation",
    doc: "What workers are kept from. What the machine cannot keep is refused at start.",
    keys: &[Key::Text(&USER), Key::Flag(&READ_ONLY), Key::Texts(&WRITE), Key::Flag(&NETWORK)],
};
pub(crate) static FUNCTION: Table = Table {
    name: "functions.NAME",
    doc: "One function.",
    keys: &[
        Key::Texts(&COMMAND),
        Key::Text(&HANDLER),
        Key::Texts(&EVENTS),
        Key::Word(&RUNTIME, RUNTIMES),
        Key::Word(&SHAPE, SHAPES),
        Key::Text(&ROOT),
        Key::MaybeTexts(&TERMINAL_ERRORS),
        Key::Text(&SOURCE),
        Key::Text(&SCHEMA),
        Key::Duration(&TIMEOUT),
        Key::Duration(&INIT_TIMEOUT),
        Key::Bytes(&MEMORY),
        Key::Table(&LIMITS),
        Key::Table(&ISOLATION),
        Key::Count(&SLOTS),
        Key::Table(&CONCURRENCY),
        Key::Text(&RATE),
        Key::Table(&ORDERING),
        Key::Table(&BATCH),
        Key::DurationOr(&KEEP_ALIVE, ADAPTIVE),
        Key::Table(&RETRY),
        Key::Table(&IDEMPOTENCY),
        Key::TextMap(&ENV),
        Key::Bytes(&MAX_EVENT),
        Key::Bytes(&MAX_RESULT),
        Key::Count(&MAX_DEPTH),
    ],
};
