//! What the tests need beside Rust, mostly servers: on Debian, as root, installed; elsewhere, named.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::run;

/// (what a test starts, where it may lie beside `PATH`, Debian's package)
const NEEDED: &[(&str, &[&str], &str)] = &[
    ("initdb", &["/usr/lib/postgresql/*/bin"], "postgresql"),
    ("psql", &["/usr/lib/postgresql/*/bin"], "postgresql"),
    ("redis-server", &[], "redis-server"),
    ("rabbitmq-server", &["/usr/lib/rabbitmq/bin", "/usr/sbin"], "rabbitmq-server"),
    ("epmd", &[], "erlang-base"),
    // The fuzzer's own library is C++.
    ("c++", &[], "g++"),
];

/// What the functions in other languages need.
const LANGUAGES: &[(&str, &[&str], &str)] =
    &[("python3", &[], "python3-venv"), ("node", &[], "nodejs"), ("npm", &[], "npm")];

/// Addresses in the environment stand in for a server: then it need not be installed.
const STAND_INS: &[(&str, &[&str])] = &[
    ("WEFT_TEST_POSTGRES_URL", &["initdb"]),
    ("WEFT_TEST_REDIS_URL", &["redis-server"]),
    ("WEFT_TEST_AMQP_URL", &["rabbitmq-server", "epmd"]),
];

/// Sees to it that every server is there.
///
/// # Errors
/// Something is missing and was not installed; the text says what to install.
pub fn servers(allowed: bool) -> Result<(), String> {
    packages(allowed, missing)
}

/// Sees to it that Python, with its module `venv`, and Node are there.
///
/// # Errors
/// As [`servers`].
pub fn clients(allowed: bool) -> Result<(), String> {
    packages(allowed, missing_languages)
}

fn packages(allowed: bool, look: fn() -> Vec<&'static str>) -> Result<(), String> {
    let missing = look();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !allowed {
        return Err(format!("missing: {}. On Debian: {by_hand}", missing.join(", ")));
    }
    if !Path::new("/etc/debian_version").exists() {
        return Err(format!(
            "missing (Debian's names): {}. Install what your system calls them, or point {} at servers of yours",
            missing.join(", "),
            STAND_INS.iter().map(|(variable, _)| *variable).collect::<Vec<_>>().join(", ")
        ));
    }
    let id = run::output(run::program("id").arg("-u"))?;
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return Err(format!("missing: {}. Run: sudo {by_hand}", missing.join(", ")));
    }
    println!("installing {}", missing.join(", "));
    let _guard = NoServices::begin()?;
    let apt = |args: &[&str]| {
        let mut command = run::program("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(args);
        run::succeed(&mut command)
    };
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(missing.iter().copied());
    apt(&install)?;
    match look().as_slice() {
        [] => Ok(()),
        still => Err(format!("still missing after the installation: {}", still.join(", "))),
    }
}

/// The packages of the languages that are missing.
fn missing_languages() -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = LANGUAGES
        .iter()
        .filter(|(program, folders, _)| !is_there(program, folders))
        .map(|(_, _, package)| *package)
        .collect();
    // Debian's Python comes without what makes environments.
    if packages.first() != Some(&"python3-venv")
        && !run::works(run::program("python3").args(["-c", "import ensurepip, venv"]))
    {
        packages.push("python3-venv");
    }
    packages
}

/// The packages of the servers that are missing.
fn missing() -> Vec<&'static str> {
    let stood_in: Vec<&str> = STAND_INS
        .iter()
        .filter(|(variable, _)| std::env::var_os(variable).is_some_and(|value| !value.is_empty()))
        .flat_map(|(_, programs)| programs.iter().copied())
        .collect();
    let mut packages: Vec<&'static str> = NEEDED
        .iter()
        .filter(|(program, folders, _)| !stood_in.contains(program) && !is_there(program, folders))
        .map(|(_, _, package)| *package)
        .collect();
    packages.dedup();
    packages
}

fn is_there(program: &str, folders: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .flat_map(|folder| expand(folder))
        .chain(std::env::split_paths(&path))
        .any(|folder| folder.join(program).is_file())
}

/// `before/*/after`: every folder there is; anything else: itself.
fn expand(folder: &str) -> Vec<PathBuf> {
    let Some((before, after)) = folder.split_once("/*/") else {
        return vec![PathBuf::from(folder)];
    };
    let entries = fs::read_dir(before).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(after)).collect()
}

/// While it lives, Debian's packages do not start the services that they bring: we want the programs only.
struct NoServices {
    /// Ours to remove; `None` if the machine had a policy of its own, which is left alone.
    policy: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self, String> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { policy: None });
        }
        let made: std::io::Result<File> = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
        // 101: "the action is not allowed", as long as we are there: left behind by a kill, it forbids nothing.
        let script = format!("#!/bin/sh\nkill -0 {} 2>/dev/null && exit 101\nexit 0\n", std::process::id());
        made.and_then(|mut file| file.write_all(script.as_bytes()))
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
        Ok(Self { policy: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.policy
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("xtask: removing {}: {error}; remove it by hand", path.display());
        }
    }
}
