//! What a worker runs: the program, found and checked once, and its complete environment.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Access;
use weft_schemas::manifest::Function;
use weft_schemas::manifest::env::{EnvError, Reference, expand};

use super::confine::Confinement;
use super::lambda::{self, Lambda};

/// Where programs are looked up when neither the function nor the dispatcher has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A function's program, ready to start. Its `Debug` form has no values of variables, which may be secrets.
#[derive(Clone)]
pub struct Program {
    /// Absolute. Symbolic links are kept: some programs look at the name they are called by.
    pub path: PathBuf,
    pub args: Vec<OsString>,
    /// The worker's environment; nothing is inherited. Each launch adds `HOME` and `TMPDIR` (the worker's own folder) unless
    /// they stand here, and what its link needs: `WEFT_LINK_FD`, or the address of its Runtime API.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute; the manifest's folder, or the one that the function names.
    pub cwd: PathBuf,
    pub confinement: Arc<Confinement>,
    /// It speaks AWS Lambda's Runtime API; `None`: Weft's own frames.
    pub lambda: Option<Arc<Lambda>>,
    /// Its workers see a folder of their own as `/tmp`.
    pub private_tmp: bool,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("args", &self.args)
            .field("variables", &variables)
            .finish_non_exhaustive()
    }
}

/// The largest file that a variable may be taken from, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

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
    #[error("enter the function's root {path:?}: there is no such folder")]
    NoFolder { path: PathBuf },
    #[error("make {path:?} absolute")]
    Folder { path: PathBuf, source: std::io::Error },
}

impl Program {
    /// Keeps `/tmp` to each worker where that is possible: of a Lambda function, on a machine that lets this process mount.
    /// Why not, where it should be; for people.
    pub fn keep_tmp(&mut self, may_mount: bool) -> Option<String> {
        self.lambda.as_ref()?;
        if !may_mount {
            return Some("the dispatcher needs CAP_SYS_ADMIN to mount".to_owned());
        }
        let shared = lambda::needs_shared_tmp(self);
        self.private_tmp = shared.is_none();
        shared
    }

    /// Finds a function's program and builds its environment: `PATH`, `LANG=C.UTF-8`, `TZ` where the dispatcher has
    /// one, and what the function declares, with `${NAME}` taken from `lookup` (the dispatcher's own environment) and
    /// `${file:PATH}` from a file, relative to `root`. It is confined to nothing yet.
    ///
    /// A program with a `/` is relative to the function's folder, which is `root`, the manifest's, or one below it; another
    /// is looked up in the absolute folders of the worker's own `PATH`. Looks at the file system; safe to repeat.
    ///
    /// # Errors
    /// The program is missing or not executable, or a variable has no value: the manifest or the machine is to be mended.
    pub fn resolve(
        function: &Function,
        root: &Path,
        lookup: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Program, ProgramError> {
        let (program, args) = function.command.split_first().ok_or(ProgramError::Empty)?;
        let folder = |source| ProgramError::Folder { path: root.to_path_buf(), source };
        let manifest = std::path::absolute(root).map_err(folder)?;
        let cwd = lambda::task_root(function, root).map_err(folder)?;
        if !cwd.is_dir() {
            return Err(ProgramError::NoFolder { path: cwd });
        }

        let mut env = vec![
            ("PATH".into(), lookup("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
            ("LANG".into(), OsString::from("C.UTF-8")),
        ];
        env.extend(lookup("TZ").map(|zone| ("TZ".into(), zone)));
        for (name, value) in &function.env {
            let value = expand(value, |wanted| match wanted {
                // A value that is no text cannot be put into one; it counts as not set.
                Reference::Variable(wanted) => lookup(wanted)
                    .and_then(|value| value.into_string().ok())
                    .ok_or_else(|| EnvError::NotSet(wanted.to_owned())),
                Reference::File(path) => {
                    read_value(&manifest.join(path)).map_err(|why| EnvError::File(path.to_owned(), why))
                }
            });
            let value = value.map_err(|source| ProgramError::Variable { name: name.clone(), source })?;
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
        let args = args.iter().map(OsString::from).collect();
        let lambda = Lambda::of(function, &env).map(Arc::new);
        if lambda.is_some() {
            lambda::environment::of_function(function, &cwd, &mut env);
        }
        Ok(Program { path, args, env, cwd, confinement: Arc::default(), lambda, private_tmp: false })
    }
}

/// The text of a file, without one line end at its end: editors put it there.
///
/// # Errors
/// Why not, without any of what is in it.
fn read_value(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_owned())?;
    if text.contains('\0') {
        return Err("it holds a NUL character".to_owned());
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
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

    #[test]
    fn a_value_may_come_from_a_file_and_loses_its_line_end_only() {
        let folder = std::env::temp_dir().join(format!("weft-value-test-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        for (text, value) in [("s3\n", "s3"), ("s3\r\n", "s3"), ("two\nlines\n\n", "two\nlines\n"), ("", "")] {
            std::fs::write(folder.join("secret"), text).unwrap();
            let program = resolve(r#""sh""#, &format!("DSN = \"x-${{file:{}/secret}}\"", folder.display())).unwrap();
            assert_eq!(program.env.last().unwrap().1, OsString::from(format!("x-{value}")));
            assert!(value.is_empty() || !format!("{program:?}").contains(value), "{program:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_a_value_is_named_and_not_shown() {
        let folder = std::env::temp_dir().join(format!("weft-value-test-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("binary"), b"s3cret\xff").unwrap();
        std::fs::write(folder.join("large"), vec![b'x'; 70_000]).unwrap();
        for (name, why) in [("binary", "UTF-8"), ("large", "65536 bytes"), ("absent", "No such file")] {
            let value = format!("DSN = \"${{file:{}/{name}}}\"", folder.display());
            let error = weft_process::report::chain(&resolve(r#""sh""#, &value).unwrap_err());
            for part in ["DSN", name, why] {
                assert!(error.contains(part), "{part} in {error}");
            }
            assert!(!error.contains("s3cret"), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
