//! `weft-test-services [postgres] [redis] [rabbitmq]`: starts the shared servers (all, if none is named), prints one JSON object of environment variables on one line, and keeps the servers until its
//! standard input ends. `cargo xtask test` runs it once for all test processes; by hand it serves a debugging session.

use std::io::{Read, Write};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let servers = match weft_tests::start_shared(&names).await {
        Ok(servers) => servers,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let variables: serde_json::Map<String, serde_json::Value> =
        servers.variables().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut out = std::io::stdout();
    if writeln!(out, "{}", serde_json::Value::from(variables)).and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    // Blocks on purpose: there is nothing else to do, and the end of input is the only signal.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(servers);
    ExitCode::SUCCESS
}
