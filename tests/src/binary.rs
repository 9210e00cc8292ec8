use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::error::or_fail;
use crate::{Error, env};

/// Binaries whose package is named otherwise.
const PACKAGES: &[(&str, &str)] = &[("orders", "weft-example-orders")];

/// The path of one of the workspace's built binaries, for example `weft`.
///
/// Under `cargo xtask test` everything is built before; in any other run the binary is brought up to date by Cargo first,
/// so that a test never drives yesterday's program.
///
/// # Panics
/// It is missing, or cannot be built.
#[must_use]
pub fn bin(name: &str) -> PathBuf {
    or_fail(find(name))
}

fn find(name: &str) -> Result<PathBuf, Error> {
    if let Some(folder) = env::get(env::BIN_DIR) {
        let path = Path::new(&folder).join(name);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::new(format!("`{name}` is not in {folder} ({}); `cargo xtask test` builds it", env::BIN_DIR)))
        };
    }
    // Test programs lie in `target/<profile>/deps`, binaries one above.
    let own = std::env::current_exe().map_err(Error::while_doing("finding the test's own program"))?;
    let folder = own
        .parent()
        .map(|folder| if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder })
        .ok_or_else(|| Error::new("the test's own program has no folder"))?;
    build_once(name, folder)?;
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::new(format!("`{name}` was built, but is not in {}", folder.display())))
    }
}

/// Once in this process: Cargo takes its time to see that nothing changed, and the sources may change under a long run.
fn build_once(name: &str, folder: &Path) -> Result<(), Error> {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(name) {
        build(name, folder)?;
        built.insert(name.to_owned());
    }
    Ok(())
}

fn build(name: &str, folder: &Path) -> Result<(), Error> {
    let package = PACKAGES.iter().find(|(bin, _)| *bin == name).map_or(name, |(_, package)| package);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--quiet", "--locked", "-p", package, "--bin", name])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null());
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().map_err(Error::while_doing(format!("building `{name}`")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!("building `{name}`: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
