//! The dispatcher's errors at start, as a person should read them.

use std::net::SocketAddr;

use weft_process::report::{Code, Report};
use weft_schemas::FunctionName;
use weft_schemas::manifest::Function;
use weft_schemas::manifest::env::EnvError;

use crate::broker::BrokerError;
use crate::link::{Ending, Program, ProgramError, Unfit};

/// A broker's error with what to do.
pub fn broker(error: &BrokerError) -> Report {
    let (code, help) = match error {
        BrokerError::Unavailable { .. } => (
            Code::BrokerUnreachable,
            "start RabbitMQ, or correct --amqp / WEFT_AMQP_URL (such as amqp://user:password@host:5672/vhost)",
        ),
        BrokerError::Refused { .. } => {
            (Code::BrokerRefused, "check user, password, virtual host and permissions in --amqp / WEFT_AMQP_URL")
        }
        BrokerError::Address { .. } => (Code::Setting, "write it as amqp://user:password@host:5672/vhost"),
        BrokerError::Mismatch { .. } => {
            (Code::TopologyMismatch, "drain and delete the named queue or exchange, or use another --prefix")
        }
        BrokerError::Missing { .. } => {
            (Code::TopologyMismatch, "create what is named, or correct the function's source")
        }
        BrokerError::Protocol { .. } => (Code::Unexpected, "see the broker's log for its side of it"),
    };
    Report::of(code, error).help(help)
}

/// A ledger's error with what to do.
pub fn ledger(error: &weft_ledger::Error) -> Report {
    use weft_ledger::Error;
    let (code, help) = match error {
        Error::Unavailable { .. } => (
            Code::LedgerUnreachable,
            "start Postgres, or correct --ledger / WEFT_LEDGER_URL (such as postgres://user:password@host:5432/weft)",
        ),
        Error::Refused { .. } => {
            (Code::LedgerRefused, "check user, password and database in --ledger / WEFT_LEDGER_URL")
        }
        Error::Newer { .. } => (Code::LedgerNewer, "run the newer weft that made these tables"),
        Error::Older { .. } => (Code::LedgerOlder, "run `weft migrate`"),
        Error::NodeTaken { .. } => (Code::NodeTaken, "stop the other dispatcher, or give this one another --node"),
        Error::Address { .. } => {
            (Code::Setting, "write it as postgres://user:password@host:5432/database or sqlite://file")
        }
        Error::Corrupt { .. } | Error::Statement { .. } => (Code::Unexpected, "run `weft doctor`"),
    };
    Report::of(code, error).help(help)
}

pub(crate) fn port(address: SocketAddr, error: &std::io::Error) -> Report {
    port_of("the admin port", "--admin", address, error)
}

/// `what` listens there, and `flag` says where.
pub(crate) fn port_of(what: &str, flag: &str, address: SocketAddr, error: &std::io::Error) -> Report {
    let report = Report::new(Code::PortTaken, format!("failed to listen on {address} for {what}: {error}"));
    report.help(format!("stop what listens there, or choose another with {flag} HOST:PORT (port 0 takes a free one)"))
}

pub(crate) fn program(function: &FunctionName, error: &ProgramError) -> Report {
    let help = match error {
        ProgramError::Variable { source: EnvError::NotSet(name), .. } => {
            format!("set {name} where weft is started, or correct `env` in [functions.{function}]")
        }
        ProgramError::Variable { source: EnvError::File(path, _), .. } => {
            format!("put the value into {path}, readable for weft, or correct `env` in [functions.{function}]")
        }
        ProgramError::Variable { .. } => format!("correct `env` in [functions.{function}]"),
        ProgramError::Empty
        | ProgramError::Missing { .. }
        | ProgramError::NotInPath { .. }
        | ProgramError::NotExecutable { .. }
        | ProgramError::NoFolder { .. }
        | ProgramError::Folder { .. } => format!(
            "build the program, or correct `command` in [functions.{function}]; a relative path starts at the manifest's folder"
        ),
    };
    Report::of(Code::ProgramMissing, error).help(help)
}

/// What a function's manifest demands and this machine cannot keep.
pub fn unfit(function: &FunctionName, unfit: &[Unfit]) -> Report {
    let faults: Vec<String> = unfit.iter().map(ToString::to_string).collect();
    Report::new(Code::Unfit, format!("failed to confine function {function}: {}", faults.join("; ")))
        .help("`weft doctor` says what this machine can keep; give the dispatcher the right to it, or take the key out")
}

pub(crate) fn start(function: &FunctionName, program: &Program, ending: &Ending) -> Report {
    let mut message = format!("failed to start {} for function {function}: {ending}", program.path.display());
    let tail = ending.stderr_tail.trim();
    if !tail.is_empty() {
        message.push_str("\n  its last output:\n    ");
        message.push_str(&tail.lines().collect::<Vec<_>>().join("\n    "));
    }
    Report::new(Code::ProgramFailed, message)
        .help("run the program by hand to see why; it must call weft_worker::Worker::run")
}

/// `misfit`: a clause that fits after "the program".
pub(crate) fn handler(function: &Function, program: &Program, misfit: &str) -> Report {
    let message = format!("{} cannot run function {}: it {misfit}", program.path.display(), function.name);
    Report::new(Code::HandlerMissing, message)
        .help(format!("correct `handler` or `batch` in [functions.{}], or what the program registers", function.name))
}
