//! What this program is when it is started by itself: the measured worker, and the programs of the floors.

use std::process::ExitCode;
use std::time::Duration;

use rustix::io::{read, write};
use rustix::stdio::stdin;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use weft_worker::{Context, Failure, Worker};

use crate::clock;

/// First argument of the worker.
pub const WORKER: &str = "__worker";
/// First argument of the program that answers one message on its standard input and ends.
pub const EMPTY: &str = "__empty";
/// First argument of the program that answers every message on its standard input.
pub const ECHO: &str = "__echo";
/// The handler that does nothing.
pub const NOOP: &str = "noop";
/// The handler that stays for [`STAY`].
pub const STAYING: &str = "staying";
/// Long enough for a thousand to be there together, on a slow machine too.
pub const STAY: Duration = Duration::from_secs(3);

/// The handler's result, as the ledger keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entered {
    /// [`clock::now_ns`] when the handler was entered.
    pub entered_ns: u64,
}

pub fn worker() -> ExitCode {
    Worker::new().handler(NOOP, noop).handler(STAYING, staying).run()
}

async fn noop(_: Context, _: IgnoredAny) -> std::result::Result<Entered, Failure> {
    Ok(Entered { entered_ns: clock::now_ns() })
}

async fn staying(_: Context, _: IgnoredAny) -> std::result::Result<Entered, Failure> {
    let entered_ns = clock::now_ns();
    tokio::time::sleep(STAY).await;
    Ok(Entered { entered_ns })
}

pub fn empty() -> ExitCode {
    answer().map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
}

pub fn echo() -> ExitCode {
    loop {
        match answer() {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(_) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Writes back what the next read brings; the number of bytes, 0 at the end.
fn answer() -> rustix::io::Result<usize> {
    let mut message = [0; 4096];
    let length = read(stdin(), &mut message)?;
    let mut rest = message.get(..length).unwrap_or_default();
    while !rest.is_empty() {
        let written = write(stdin(), rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(length)
}
