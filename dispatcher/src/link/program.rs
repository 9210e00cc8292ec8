//! What a worker runs: the program, found and checked once, and its complete environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use weft_schemas::manifest::Function;

/// Where programs are looked up when neither the function nor the dispatcher has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A function's program, ready to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute. Symbolic links are kept: some programs look at the name they are called by.
    pub path: PathBuf,
    pub args: Vec<OsString>,
    /// The worker's environment; nothing is inherited. Each launch adds `WEFT_LINK_FD`, and `HOME` and `TMPDIR` (the
    /// worker's own folder) unless they stand here.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute; the manifest's folder.
    pub cwd: PathBuf,
}

/// Why a function's program cannot be started. The text names the program or the variable, never a value.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("find a program: the command is empty")]
    Empty,
    #[error("find program {program:?}: there is no such file as {path:?}")]
    Missing { program: String, path: PathBuf },
    #[error("find program {program:?}: no folder of PATH holds an executable of that name")]
    NotInPath { program: String },
    #[error("run program {program:?}: {path:?} is not an executable file")]
    NotExecutable { program: String, path: PathBuf },
    #[error("set variable {name:?}: the dispatcher's environment has no {wanted:?}")]
    Variable { name: String, wanted: String },
    #[error("set variable {name:?}: a `${{` has no closing `}}`")]
    Unclosed { name: String },
    #[error("make {path:?} absolute")]
    Folder { path: PathBuf, source: std::io::Error },
}

impl Program {
    /// Finds a function's program and builds its environment: `PATH`, `LANG=C.UTF-8`, `TZ` where the dispatcher has
    /// one, and what the function declares, with `${NAME}` taken from `lookup` (the dispatcher's own environment).
    ///
    /// A program with a `/` is relative to `root`, the manifest's folder; another is looked up in the absolute folders
    /// of the worker's own `PATH`. Looks at the file system; safe to repeat.
    ///
    /// # Errors
    /// The program is missing or not executable, or a variable has no value: the manifest or the machine is to be mended.
    pub fn resolve(
        function: &Function,
        root: &Path,
        lookup: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Program, ProgramError> {
        let (program, args) = function.command.split_first().ok_or(ProgramError::Empty)?;
        let cwd =
            std::path::absolute(root).map_err(|source| ProgramError::Folder { path: root.to_path_buf(), source })?;

        let mut env = vec![
            ("PATH".into(), lookup("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
            ("LANG".into(), OsString::from("C.UTF-8")),
        ];
        env.extend(lookup("TZ").map(|zone| ("TZ".into(), zone)));
        for (name, value) in &function.env {
            let value = expand(name, value, lookup)?;
            env.retain(|(known, _): &(OsString, OsString)| known.as_os_str() != OsStr::new(name));
            env.push((name.into(), value));
        }

        let path = if program.contains('/') {
            let path = cwd.join(program);
            if !path.exists() {
                return Err(ProgramError::Missing { program: program.clone(), path });
            }
            if !is_executable(&path) {
                return Err(ProgramError::NotExecutable { program: program.clone(), path });
            }
            path
        } else {
            let search = env.iter().find(|(name, _)| name.as_os_str() == OsStr::new("PATH")).map(|(_, value)| value);
            // Relative folders are skipped: what runs must not depend on where the dispatcher was started.
            search
                .into_iter()
                .flat_map(std::env::split_paths)
                .filter(|folder| folder.is_absolute())
                .map(|folder| folder.join(program))
                .find(|path| is_executable(path))
                .ok_or_else(|| ProgramError::NotInPath { program: program.clone() })?
        };
        Ok(Program { path, args: args.iter().map(OsString::from).collect(), env, cwd })
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Replaces each `${NAME}`; any other `$` stands for itself, and what was put in is not looked at again.
fn expand(name: &str, value: &str, lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, ProgramError> {
    let mut out = OsString::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        out.push(before);
        let (wanted, after) = after.split_once('}').ok_or_else(|| ProgramError::Unclosed { name: name.to_owned() })?;
        let missing = || ProgramError::Variable { name: name.to_owned(), wanted: wanted.to_owned() };
        // A NUL would end the string early in the worker.
        let found = lookup(wanted).filter(|found| !found.as_bytes().contains(&0)).ok_or_else(missing)?;
        out.push(found);
        rest = after;
    }
    out.push(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn dispatcher(name: &str) -> Option<OsString> {
        match name {
            "PATH" => Some("relative:/bin".into()),
            "SECRET" => Some("s3${SECRET}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_other_dollars_stay() {
        let value = expand("DSN", "a$b ${SECRET}$", &dispatcher).unwrap();
        assert_eq!(value, "a$b s3${SECRET}$");
    }

    #[test]
    fn a_missing_variable_is_named_with_the_one_that_wants_it() {
        let error = expand("DSN", "x${NOWHERE}", &dispatcher).unwrap_err().to_string();
        assert!(error.contains("DSN") && error.contains("NOWHERE"), "{error}");
    }

    #[test]
    fn an_unclosed_reference_is_refused() {
        assert!(
            matches!(expand("DSN", "x${SECRET", &dispatcher), Err(ProgramError::Unclosed { name }) if name == "DSN")
        );
    }
}
