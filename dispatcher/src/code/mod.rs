//! The code of functions, and word of its changes: what `weft dev` replaces workers by.
//!
//! [`Code`] says which files are whose (pure); [`watch`] follows them, and tells a function's loop that its code has
//! changed. The loop lets the workers that it has finish what they run, and starts others from what is there now.

mod watch;

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use weft_schemas::FunctionName;

use crate::link::Program;

pub(crate) use watch::watch;

/// Folders that hold no code, or none that is edited by hand. Hidden ones do not count either.
const NO_CODE: [&str; 6] = ["node_modules", "target", "__pycache__", "venv", "site-packages", "dist-info"];
/// What programs and editors write beside the code.
const NO_SUFFIX: [&str; 12] =
    ["db", "db-wal", "db-shm", "db-journal", "sqlite", "sqlite3", "log", "tmp", "swp", "swx", "pyc", "pid"];

/// What one function runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub function: FunctionName,
    /// Absolute. Each may be replaced by another file of its name.
    pub files: Vec<PathBuf>,
    /// Everything below it that looks like code, for programs that read their code from a folder.
    pub folder: Option<PathBuf>,
}

impl Code {
    /// The program, where the function names it by a path; the files that it names among its arguments; a Lambda function's
    /// whole folder. Looks at the file system.
    pub(crate) fn of(function: FunctionName, command: &[String], program: &Program) -> Self {
        let by_path = command.first().is_some_and(|program| program.contains('/'));
        let arguments = program.args.iter().map(|argument| program.cwd.join(argument)).filter(|path| path.is_file());
        let files = by_path.then(|| program.path.clone()).into_iter().chain(arguments).map(|path| tidy(&path));
        let folder = program.lambda.as_ref().map(|_| tidy(&program.cwd));
        Self { function, files: files.collect(), folder }
    }

    /// Whether a change of `path` is a change of this code.
    pub(crate) fn holds(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file == path) || self.folder.as_ref().is_some_and(|folder| is_code(folder, path))
    }
}

/// Whether a file or a folder below `folder` may be code, by its name.
pub(crate) fn is_code(folder: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(folder) else { return false };
    let named = below.components().all(|part| match part {
        Component::Normal(name) => is_code_name(name),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => false,
    });
    let suffix = below.extension().and_then(OsStr::to_str);
    named && below.file_name().is_some() && !suffix.is_some_and(|suffix| NO_SUFFIX.contains(&suffix))
}

/// A name that is not hidden, not an editor's copy, and not of [`NO_CODE`].
fn is_code_name(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && !name.starts_with('#') && !name.ends_with('~') && !NO_CODE.contains(&&*name)
}

/// Without `.` and `..`: as the kernel's word of a change names it.
fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                tidied.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => tidied.push(part),
        }
    }
    tidied
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn code(files: &[&str], folder: Option<&str>) -> Code {
        let files = files.iter().map(PathBuf::from).collect();
        Code { function: FunctionName::new("f").unwrap(), files, folder: folder.map(PathBuf::from) }
    }

    #[test]
    fn a_program_is_its_file_and_nothing_beside_it() {
        let code = code(&["/shop/target/debug/orders"], None);
        assert!(code.holds(Path::new("/shop/target/debug/orders")));
        for other in ["/shop/target/debug/orders.d", "/shop/target/debug", "/shop/orders", "/"] {
            assert!(!code.holds(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_folder_is_what_looks_like_code_in_it() {
        let code = code(&[], Some("/shop/python"));
        for path in ["app.py", "lib/prices.py", "lib", "bootstrap", "templates/mail.html", "data.json"] {
            assert!(code.holds(&Path::new("/shop/python").join(path)), "{path}");
        }
        let others = [
            "",
            ".git/HEAD",
            ".weft/weft.db",
            "weft.db",
            "weft.db-wal",
            "run.log",
            "__pycache__/app.cpython-311.pyc",
            "app.pyc",
            "node_modules/sharp/index.js",
            "venv/bin/python",
            ".app.py.swp",
            "app.py~",
            "#app.py#",
            "../node/index.mjs",
        ];
        for path in others {
            assert!(!code.holds(&Path::new("/shop/python").join(path)), "{path}");
        }
        assert!(!code.holds(Path::new("/shop")));
    }

    #[test]
    fn a_path_is_what_the_kernel_calls_it() {
        assert_eq!(tidy(Path::new("/shop/./a/../target/x")), Path::new("/shop/target/x"));
    }
}
