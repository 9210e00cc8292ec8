//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The workspace's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo, the one that runs us.
pub fn cargo() -> Command {
    program(std::env::var("CARGO").as_deref().unwrap_or("cargo"))
}

/// A program at the workspace's root, with no input.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs to the end, with its output on ours.
///
/// # Errors
/// It cannot be started, or ends with another status than zero.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("starting {}: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", shown(command))) }
}

/// Runs to the end and takes its output.
///
/// # Errors
/// As [`succeed`]; the text carries what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("starting {}: {error}", shown(command)))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{} ended with {}: {}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs to the end with its standard output dropped: for programs whose output would be taken for ours.
///
/// # Errors
/// As [`succeed`].
pub fn quietly(command: &mut Command) -> Result<(), String> {
    succeed(command.stdout(Stdio::null()))
}

/// Whether the program is there and says yes.
pub fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}
