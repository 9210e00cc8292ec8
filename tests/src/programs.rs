//! Where the servers' programs are: in `PATH`, or where Debian puts them.

use std::path::{Path, PathBuf};

use crate::Error;

/// A program that a package brings.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// Debian's package, named when the program is missing.
    pub(crate) package: &'static str,
    /// Folders that are searched before `PATH`; a last component of `*` stands for any folder, highest version first,
    /// followed by `bin`.
    pub(crate) folders: &'static [&'static str],
}

const POSTGRES: &[&str] = &["/usr/lib/postgresql/*"];

pub(crate) const INITDB: Program = Program { name: "initdb", package: "postgresql", folders: POSTGRES };
pub(crate) const POSTGRES_SERVER: Program = Program { name: "postgres", package: "postgresql", folders: POSTGRES };
pub(crate) const PSQL: Program = Program { name: "psql", package: "postgresql", folders: POSTGRES };
pub(crate) const REDIS: Program = Program { name: "redis-server", package: "redis-server", folders: &["/usr/bin"] };
/// Debian's `/usr/sbin/rabbitmq-server` changes user and folder, so the plain script comes first.
pub(crate) const RABBITMQ: Program =
    Program { name: "rabbitmq-server", package: "rabbitmq-server", folders: &["/usr/lib/rabbitmq/bin"] };
pub(crate) const RABBITMQCTL: Program =
    Program { name: "rabbitmqctl", package: "rabbitmq-server", folders: &["/usr/lib/rabbitmq/bin"] };
pub(crate) const EPMD: Program = Program { name: "epmd", package: "erlang-base", folders: &["/usr/bin"] };

impl Program {
    /// Finds the program's file.
    ///
    /// # Errors
    /// It is not installed; the text says which package brings it.
    pub(crate) fn find(&self) -> Result<PathBuf, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.folders
            .iter()
            .flat_map(|folder| expand(folder))
            .chain(std::env::split_paths(&path))
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
            .map(|folder| folder.join(self.name))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                Error::new(format!(
                    "`{}` is not installed: tests run against real servers and none is skipped. On Debian: \
                     `apt-get install --no-install-recommends {}` (or let `cargo xtask test` do it)",
                    self.name, self.package
                ))
            })
    }
}

fn expand(folder: &str) -> Vec<PathBuf> {
    let Some(parent) = folder.strip_suffix("/*") else {
        return vec![PathBuf::from(folder)];
    };
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(Path::new(parent))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}
