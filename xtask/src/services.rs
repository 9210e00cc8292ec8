//! The servers that all tests of a run share.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::run;

/// The running servers. Dropping it, or the end of this process, stops them.
pub struct Services {
    child: Child,
    /// What the tests must have in their environment.
    pub variables: Vec<(String, String)>,
}

impl Services {
    /// Starts those that the environment does not name already.
    ///
    /// # Errors
    /// One is missing or does not start; what it said is on standard error.
    pub fn start(bin: &Path) -> Result<Self, String> {
        let wanted: Vec<&str> = [
            ("WEFT_TEST_POSTGRES_URL", "postgres"),
            ("WEFT_TEST_REDIS_URL", "redis"),
            ("WEFT_TEST_AMQP_URL", "rabbitmq"),
        ]
        .into_iter()
        .filter(|(variable, _)| std::env::var_os(variable).is_none_or(|value| value.is_empty()))
        .map(|(_, name)| name)
        .collect();
        if wanted.is_empty() {
            // Nothing to hold: a process that has ended.
            let child = run::program("true").spawn().map_err(|error| format!("starting `true`: {error}"))?;
            return Ok(Self { child, variables: Vec::new() });
        }
        let mut child = Command::new(bin.join("weft-test-services"))
            .args(&wanted)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting the servers: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("starting the servers: {error}"))?;
        }
        let mut services = Self { child, variables: Vec::new() };
        let variables: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&line).map_err(|_| "the servers did not start".to_owned())?;
        services.variables =
            variables.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect();
        Ok(services)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // The end of its input is the signal; it stops everything and ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
