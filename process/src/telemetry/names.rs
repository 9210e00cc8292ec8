//! Every name that leaves this process in a span or a metric. `docs/telemetry.md` lists them; a test compares.
//!
//! Where OpenTelemetry has a semantic convention (messaging, FaaS, error) its name is used; what only Weft knows is
//! called `weft.…`.

macro_rules! names {
    ($(#[$outer:meta])* $kind:ident { $($(#[$doc:meta])* $name:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kind { $($(#[$doc])* $name,)+ }

        impl $kind {
            /// Every member, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name as it is exported.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

/// The tracing target of every span that follows an event. Its callsites are disabled where nothing is exported.
pub const TRACE_TARGET: &str = "weft_trace";

names! {
    /// What a span is, as the code calls it. The exported name may add a destination: `send weft.events`.
    SpanName {
        /// An event is handed to the broker. PRODUCER; exported as `send {destination}`.
        Publish = "publish",
        /// One delivery from receive to ack, in the dispatcher. CONSUMER; exported as `process {queue}`.
        Process = "process",
        /// The ledger is asked whether the event may run.
        Claim = "claim",
        /// A claimed event waits for a free slot.
        Wait = "wait",
        /// The part of the wait in which a worker is started for it.
        ColdStart = "cold_start",
        /// The dispatcher's view of one attempt, from the frame sent to the outcome received. CLIENT; exported as
        /// `invoke {function}`.
        Invoke = "invoke",
        /// The worker's view of one attempt. SERVER; exported as the function's name.
        Handler = "handler",
        /// The outcome is written to the ledger.
        Settle = "settle",
        /// The delivery is acknowledged to the broker. CLIENT; exported as `ack {queue}`.
        Ack = "ack",
        /// A row of the outbox is published. PRODUCER; exported as `send {destination}`.
        Relay = "relay",
    }
}

names! {
    /// The key of a span attribute.
    Attr {
        /// Always `rabbitmq`, also for the embedded broker, which keeps its semantics.
        MessagingSystem = "messaging.system",
        /// `send`, `process` or `ack`.
        MessagingOperationName = "messaging.operation.name",
        /// `send`, `process` or `settle`.
        MessagingOperationType = "messaging.operation.type",
        /// The exchange (send) or the queue (process, ack).
        MessagingDestinationName = "messaging.destination.name",
        MessagingMessageId = "messaging.message.id",
        MessagingRoutingKey = "messaging.rabbitmq.destination.routing_key",
        /// Always `pubsub`.
        FaasTrigger = "faas.trigger",
        /// The function.
        FaasName = "faas.name",
        /// `FUNCTION/KEY/ATTEMPT`: one attempt.
        FaasInvocationId = "faas.invocation_id",
        /// Whether the attempt waited for a worker to start.
        FaasColdstart = "faas.coldstart",
        /// The function a dispatcher calls, on its side of the link.
        FaasInvokedName = "faas.invoked_name",
        /// A low-cardinality class of error, only on spans that failed.
        ErrorType = "error.type",
        /// The idempotency key.
        Key = "weft.key",
        /// From 1.
        Attempt = "weft.attempt",
        /// The number that proves the right to run the attempt.
        Fence = "weft.fence",
        /// How the attempt ended.
        Outcome = "weft.outcome",
        /// What the ledger answered to the claim.
        Verdict = "weft.verdict",
        /// Why an event went to the dead-letter queue, or why a worker was started.
        Reason = "weft.reason",
        /// The worker's number within its dispatcher.
        Worker = "weft.worker",
        /// What an outbox row is: `retry`, `dead_letter`, `emit`, `reply`, `redrive`.
        Kind = "weft.kind",
    }
}

names! {
    /// A metric. All carry `faas.name`.
    Metric {
        /// Attempts that were started. Counter.
        Invocations = "faas.invocations",
        /// Attempts that ended in an error. Counter.
        Errors = "faas.errors",
        /// Attempts that waited for a worker to start. Counter.
        Coldstarts = "faas.coldstarts",
        /// Attempts stopped at their deadline. Counter.
        Timeouts = "faas.timeouts",
        /// Handler time of one attempt. Histogram, seconds.
        InvokeDuration = "faas.invoke_duration",
        /// From the start of a worker to its `ready`. Histogram, seconds.
        InitDuration = "faas.init_duration",
        /// Duplicates answered without running the handler. Counter.
        Duplicates = "weft.duplicates",
        /// Attempts that another one follows. Counter.
        Retries = "weft.retries",
        /// Events that ended in the dead-letter queue, with `weft.reason`. Counter.
        DeadLetters = "weft.dead_letters",
        /// Changes of how many workers there should be or why, with `weft.reason`. Counter.
        Scaling = "weft.scaling",
        /// Invocations that waited because a bound was reached, with `weft.reason`. Counter.
        Throttles = "weft.throttles",
        /// Handler time, each attempt's rounded up to a millisecond, times the function's memory: GB-seconds. Counter.
        BilledGbSeconds = "weft.billed_gb_seconds",
        /// From the event's receipt to the start of its attempt. Histogram, seconds.
        QueueWait = "weft.queue_wait",
    }
}
