//! Reports to people: every error that ends a command has a code, a page under `docs/errors/`, and an exit status.

use std::fmt;

/// The exit statuses of `weft`, documented in `docs/operating.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// A failure with no more particular status.
    Failure = 1,
    /// The command line cannot be understood (clap's own status).
    Usage = 2,
    /// The manifest or another input file is wrong.
    Input = 3,
    /// A service cannot be reached.
    Unreachable = 4,
    /// A service refused the credentials.
    Refused = 5,
    /// A check ran and said no: events unaccounted for, a doctor's finding, an unexpected end state.
    Check = 6,
    /// What was named does not exist.
    NotFound = 7,
    /// A port or a node name is taken.
    Taken = 8,
    /// A worker program is missing, cannot start, or does not register the handler.
    Program = 9,
    /// Stopped by a signal before work was finished: a second one where the first asks to drain.
    Killed = 130,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $exit:ident;)+) => {
        /// A stable error code. `docs/errors/CODE.md` is its page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)+ }

        impl Code {
            /// Every code, for the test that refuses a code without a page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            pub const fn exit(self) -> Exit {
                match self { $(Self::$name => Exit::$exit,)+ }
            }
        }
    };
}

codes! {
    /// A defect or an error with no page of its own.
    Unexpected = "W0001", Failure;
    /// `weft.toml` is missing or has faults.
    Manifest = "W0101", Input;
    /// An input file (events, schema) is missing or has faults.
    InputFile = "W0102", Input;
    /// An address or a setting cannot be understood.
    Setting = "W0103", Usage;
    /// Nobody said yes to what cannot be undone.
    NotConfirmed = "W0104", Usage;
    BrokerUnreachable = "W0201", Unreachable;
    BrokerRefused = "W0202", Refused;
    /// A queue or exchange exists with other arguments.
    TopologyMismatch = "W0203", Input;
    /// An event was not accepted by the broker.
    PublishFailed = "W0204", Failure;
    LedgerUnreachable = "W0301", Unreachable;
    LedgerRefused = "W0302", Refused;
    /// The ledger's tables are newer than this program.
    LedgerNewer = "W0303", Input;
    /// The ledger's tables are missing or older.
    LedgerOlder = "W0304", Input;
    /// Another dispatcher has this node's name.
    NodeTaken = "W0305", Taken;
    StateUnreachable = "W0401", Unreachable;
    StateRefused = "W0402", Refused;
    /// The program named by `command` does not exist or cannot be executed.
    ProgramMissing = "W0501", Program;
    /// The program does not register the handler.
    HandlerMissing = "W0502", Program;
    /// The program ended or hung before it was ready.
    ProgramFailed = "W0503", Program;
    /// The manifest demands an isolation or a limit that this machine cannot keep.
    Unfit = "W0504", Program;
    /// A port is in use.
    PortTaken = "W0601", Taken;
    /// Nothing answers at the Invoke API's address.
    ApiUnreachable = "W0602", Unreachable;
    /// The Invoke API does not take the signature, or there is none.
    ApiRefused = "W0603", Refused;
    FunctionUnknown = "W0701", NotFound;
    InvocationUnknown = "W0702", NotFound;
    DeadLetterUnknown = "W0703", NotFound;
    /// The Invoke API took the call and did not run it.
    InvocationRefused = "W0704", Failure;
    /// The function ran and failed.
    InvocationFailed = "W0705", Failure;
    /// A check ran and said no.
    CheckFailed = "W0801", Check;
}

/// An error as a person sees it: what, where, what to do. Printed as
/// `error[W0201]: …`, then `  help: …`, then `  see: docs/errors/W0201.md`.
#[derive(Debug, Clone)]
pub struct Report {
    pub code: Code,
    /// What failed and where, causes included. Never holds a secret.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Report {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// From an error: its chain of causes becomes the message.
    pub fn of(code: Code, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(code, format!("failed to {}", chain(error)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code.as_str(), self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        write!(f, "\n  see: docs/errors/{}.md", self.code.as_str())
    }
}

impl std::error::Error for Report {}

/// An error and its causes in one line: `a: b: c`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let part = next.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = next.source();
    }
    text
}
