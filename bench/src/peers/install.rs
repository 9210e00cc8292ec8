//! Putting the peers into a folder of their own, beside what Cargo builds. What is there and unchanged stays.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Line;
use super::{Absent, Installed, Kit, Peer};
use crate::fault::{Fault, Result, ensure};
use crate::stage::own_program;

const LIMIT: Duration = Duration::from_secs(300);
/// A build from nothing.
const BUILD: Duration = Duration::from_secs(900);

/// Files of a kit: name and content. The first one pins the versions; a change of it installs anew.
type Files = &'static [(&'static str, &'static str)];

const PYTHON: Files = &[
    ("requirements.txt", include_str!("../../peers/python/requirements.txt")),
    ("event.py", include_str!("../../peers/python/event.py")),
    ("celery_peer.py", include_str!("../../peers/python/celery_peer.py")),
    ("dramatiq_peer.py", include_str!("../../peers/python/dramatiq_peer.py")),
];
const NODE: Files = &[
    ("package-lock.json", include_str!("../../peers/node/package-lock.json")),
    ("package.json", include_str!("../../peers/node/package.json")),
    ("event.mjs", include_str!("../../peers/node/event.mjs")),
    ("bullmq.mjs", include_str!("../../peers/node/bullmq.mjs")),
    ("graphile.mjs", include_str!("../../peers/node/graphile.mjs")),
    ("pgboss.mjs", include_str!("../../peers/node/pgboss.mjs")),
];
const RUST: Files = &[
    ("Cargo.lock", include_str!("../../peers/rust/Cargo.lock")),
    ("Cargo.toml", include_str!("../../peers/rust/Cargo.toml")),
    ("main.rs", include_str!("../../peers/rust/main.rs")),
];

/// Not a peer: the function of the part `lambda`.
const LAMBDA: Files = &[
    ("requirements.txt", include_str!("../../peers/lambda/requirements.txt")),
    ("app.py", include_str!("../../peers/lambda/app.py")),
];

/// Where the peers are.
#[derive(Debug, Clone)]
pub struct Home {
    folder: PathBuf,
}

impl Home {
    fn new() -> Result<Self> {
        // `target/release/weft-bench` → `target/bench-peers`.
        let program = own_program()?;
        let target =
            program.parent().and_then(Path::parent).ok_or_else(|| Fault("this program has no folder".into()))?;
        let folder = target.join("bench-peers");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    pub fn python(&self) -> PathBuf {
        self.folder.join("python")
    }

    pub fn node(&self) -> PathBuf {
        self.folder.join("node")
    }

    pub fn rust(&self) -> PathBuf {
        self.folder.join("rust")
    }

    fn lambda(&self) -> PathBuf {
        self.folder.join("lambda")
    }

    /// What programs of `peer` write; emptied at the start of each run.
    pub fn log(&self, peer: Peer) -> PathBuf {
        self.folder.join(format!("{}.log", peer.name()))
    }
}

/// Installs what `peers` need; what cannot be had is named as absent.
pub async fn install(peers: &[Peer]) -> Result<(Home, Vec<Installed>, Vec<Absent>)> {
    let home = Home::new()?;
    let (mut installed, mut absent) = (Vec::new(), Vec::new());
    let mut kits: BTreeMap<Kit, std::result::Result<(), String>> = BTreeMap::new();
    for &peer in peers {
        let kit = peer.kit();
        let done = match kits.entry(kit) {
            Entry::Occupied(done) => done.into_mut(),
            Entry::Vacant(kit_to_do) => {
                let done = match kit {
                    Kit::Python => python(&home).await,
                    Kit::Node => node(&home).await,
                    Kit::Rust => rust(&home).await,
                };
                kit_to_do.insert(done.map_err(|Fault(text)| text))
            }
        };
        match done {
            Err(reason) => absent.push(Absent { peer, reason: reason.clone() }),
            Ok(()) => {
                fs::write(home.log(peer), "")?;
                installed.push(Installed { peer, version: version(peer), settings: peer.settings() });
            }
        }
    }
    Ok((home, installed, absent))
}

async fn python(home: &Home) -> Result<()> {
    environment(&home.python(), PYTHON, "Celery and Dramatiq").await
}

/// A Python function on AWS's own client: its folder, with an environment `venv`, and the versions of both.
///
/// # Errors
/// There is no Python here, or its packages are not to be had.
pub async fn install_lambda() -> Result<(PathBuf, String)> {
    let folder = Home::new()?.lambda();
    environment(&folder, LAMBDA, "awslambdaric").await?;
    let asked = "import platform, awslambdaric; print('Python', platform.python_version(), '· awslambdaric', awslambdaric.__version__)";
    let line = Line::new(folder.join("venv/bin/python"), &folder).args(["-c", asked]);
    let said = line.run(&folder.join("versions.log"), LIMIT).await?;
    Ok((folder, said.trim().to_owned()))
}

/// A virtual environment `venv` in `folder`, beside `files`, with the packages of its `requirements.txt`.
async fn environment(folder: &Path, files: Files, names: &str) -> Result<()> {
    if !write(folder, files)? {
        return Ok(());
    }
    eprintln!("installing {names} into {}", folder.display());
    let log = folder.join("install.log");
    Line::new("python3", folder).args(["-m", "venv", "--clear", "venv"]).run(&log, LIMIT).await?;
    let pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q", "-r", "requirements.txt"];
    Line::new(folder.join("venv/bin/python"), folder).args(pip).run(&log, LIMIT).await?;
    done(folder, files)
}

async fn node(home: &Home) -> Result<()> {
    let folder = home.node();
    if !write(&folder, NODE)? {
        return Ok(());
    }
    eprintln!("installing BullMQ, Graphile Worker and pg-boss into {}", folder.display());
    // Not `ci`, which refuses a lock file without the native parts of other systems. Versions are those of the lock file.
    let npm = ["install", "--omit=optional", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"];
    Line::new("npm", &folder).args(npm).run(&folder.join("install.log"), LIMIT).await?;
    done(&folder, NODE)
}

async fn rust(home: &Home) -> Result<()> {
    let folder = home.rust();
    if !write(&folder, RUST)? {
        return Ok(());
    }
    eprintln!("building a program with apalis in {} (minutes, once)", folder.display());
    let cargo = Line::new("cargo", &folder).args(["build", "--release", "--locked", "--quiet"]);
    let cargo = cargo.env("CARGO_TARGET_DIR", folder.join("target")).env("CARGO_TERM_COLOR", "never");
    cargo.run(&folder.join("install.log"), BUILD).await?;
    done(&folder, RUST)
}

/// Writes the files; whether what they pin has to be installed.
fn write(folder: &Path, files: Files) -> Result<bool> {
    fs::create_dir_all(folder)?;
    for (name, content) in files {
        fs::write(folder.join(name), content)?;
    }
    let pinned = files.first().map(|(_, content)| *content);
    Ok(fs::read_to_string(folder.join("installed")).ok().as_deref() != pinned)
}

fn done(folder: &Path, files: Files) -> Result<()> {
    let pinned = files.first().map(|(_, content)| *content);
    ensure(pinned.is_some(), || "a kit without files".to_owned())?;
    Ok(fs::write(folder.join("installed"), pinned.unwrap_or_default())?)
}

/// The pinned version of a peer's package.
fn version(peer: Peer) -> String {
    let package = peer.package();
    let found = match peer.kit() {
        Kit::Python => PYTHON.first().and_then(|(_, text)| {
            text.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("==").map(str::to_owned))
        }),
        Kit::Node => NODE.first().and_then(|(_, text)| {
            let lock: serde_json::Value = serde_json::from_str(text).ok()?;
            lock.pointer(&format!("/packages/node_modules~1{package}/version"))?.as_str().map(str::to_owned)
        }),
        Kit::Rust => RUST.first().and_then(|(_, text)| {
            let after = text.split_once(&format!("name = \"{package}\"\nversion = \""))?.1;
            after.split_once('"').map(|(version, _)| version.to_owned())
        }),
    };
    found.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_that_can_be_installed_has_a_pinned_version() {
        for peer in Peer::ALL {
            assert!(version(peer).starts_with(|first: char| first.is_ascii_digit()), "{}", peer.name());
        }
    }
}
