//! What a worker runs: the program, found and checked once, and its complete environment.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use weft_schemas::manifest::Function;
use weft_schemas::manifest::env::{EnvError, expand};

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
    #[error("set the worker's variable {name:?}")]
    Variable { name: String, source: EnvError },
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
            // A value that is no text cannot be put into one; it counts as not set.
            let value = expand(value, |wanted| lookup(wanted).and_then(|value| value.into_string().ok()))
                .map_err(|source| ProgramError::Variable { name: name.clone(), source })?;
            env.retain(|(known, _): &(OsString, OsString)| known.as_os_str() != OsStr::new(name));
            env.push((name.into(), value.into()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    use weft_schemas::manifest::Manifest;

    /// The one function of a manifest.
    fn function(command: &str, env: &str) -> Function {
        let text = format!("[functions.a]\ncommand = [{command}]\nevents = [\"a.b\"]\nenv = {{ {env} }}\n");
        let manifest = Manifest::parse(&text, Path::new("/etc")).unwrap();
        manifest.functions.into_values().next().unwrap()
    }

    fn resolve(command: &str, env: &str) -> Result<Program, ProgramError> {
        Program::resolve(&function(command, env), Path::new("/etc"), &|name| match name {
            "PATH" => Some("relative:/nowhere:/bin".into()),
            "SECRET" => Some("s3".into()),
            "TZ" => Some("UTC".into()),
            "LANG" | "HOME" => Some("not for workers".into()),
            _ => None,
        })
    }

    #[test]
    fn a_bare_name_is_looked_up_in_path_and_nothing_undeclared_is_inherited() {
        let program = resolve(r#""sh", "-c", "true""#, r#"DSN = "x-${SECRET}""#).unwrap();
        assert_eq!((program.path.as_path(), program.cwd.as_path()), (Path::new("/bin/sh"), Path::new("/etc")));
        assert_eq!(program.args, ["-c", "true"]);
        let wanted = [("PATH", "relative:/nowhere:/bin"), ("LANG", "C.UTF-8"), ("TZ", "UTC"), ("DSN", "x-s3")];
        assert_eq!(program.env, wanted.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn a_declared_path_is_the_one_that_is_searched() {
        assert!(
            matches!(resolve(r#""sh""#, r#"PATH = "/etc""#), Err(ProgramError::NotInPath { program }) if program == "sh")
        );
    }

    #[test]
    fn a_path_is_relative_to_the_manifest_and_must_be_an_executable_file() {
        assert!(
            matches!(resolve(r#""./orders""#, ""), Err(ProgramError::Missing { path, .. }) if path == Path::new("/etc/./orders"))
        );
        assert!(matches!(resolve(r#""../etc/passwd""#, ""), Err(ProgramError::NotExecutable { .. })));
        assert!(matches!(resolve(r#""/etc/""#, ""), Err(ProgramError::NotExecutable { .. })));
        assert_eq!(resolve(r#""../bin/sh""#, "").unwrap().path, Path::new("/etc/../bin/sh"));
    }

    #[test]
    fn a_variable_that_is_not_set_is_named_with_the_one_that_wants_it() {
        let error = weft_process::report::chain(&resolve(r#""sh""#, r#"DSN = "${NOWHERE}""#).unwrap_err());
        assert!(error.contains("DSN") && error.contains("NOWHERE"), "{error}");
    }
}
