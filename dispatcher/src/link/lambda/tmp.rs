//! Whether a function can do without the machine's `/tmp`: Lambda functions write there by name, so each worker gets one of
//! its own in its place, unless its code or what its code is told to use stands in the machine's.

use std::path::Path;

use super::super::Program;

/// The folder that Lambda functions may write to.
pub(crate) const TMP: &str = "/tmp";

/// What of a program stands in `/tmp`, as a clause, if anything does: its folder, the program, or what an argument or a
/// variable names.
pub(crate) fn needs_shared_tmp(program: &Program) -> Option<String> {
    let inside = |path: &Path| path != Path::new(TMP) && path.starts_with(TMP);
    if inside(&program.cwd) {
        return Some(format!("its folder is {}", program.cwd.display()));
    }
    if inside(&program.path) {
        return Some(format!("its program is {}", program.path.display()));
    }
    let names = |text: &std::ffi::OsStr| std::env::split_paths(text).any(|path| inside(&path));
    if let Some(argument) = program.args.iter().find(|argument| names(argument)) {
        return Some(format!("its command names {}", argument.display()));
    }
    // The value may be a secret.
    let variable = program.env.iter().find(|(_, value)| names(value));
    variable.map(|(name, _)| format!("its variable {} names a path in it", name.display()))
}
