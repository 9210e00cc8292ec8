//! The read-only view of the file system, and the walls around signals and abstract sockets: Landlock.
//!
//! A ruleset is a descriptor. It is made before the fork, by the `landlock` crate, and the child needs one system call to
//! put it on; it can never take it off, nor can what it starts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};

/// Everything that changes what is in a folder or a file. Version 3 (Linux 6.2) is the first that minds `truncate`: with
/// an older one anything could be emptied, so it does not do.
const NEEDED: ABI = ABI::V3;

fn writes() -> BitFlags<AccessFs> {
    AccessFs::from_write(NEEDED)
}

/// What a ruleset is to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Walls {
    /// Below these, and the worker's own folder, it may write; nowhere else. `None`: anywhere.
    pub(crate) writable: Option<Vec<PathBuf>>,
    /// No signals and no abstract sockets to processes outside.
    pub(crate) scoped: bool,
}

/// Whether this kernel can keep files from being written.
///
/// # Errors
/// Why not, as a clause.
pub(crate) fn supported() -> Result<(), String> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(writes());
    let made = ruleset.and_then(Ruleset::create);
    made.map(drop).map_err(|error| format!("Landlock of Linux 6.2 or later is not in this kernel ({error})"))
}

/// Whether this kernel can keep signals and abstract sockets inside (Linux 6.12).
pub(crate) fn scopes_supported() -> bool {
    scoped(Ruleset::default().set_compatibility(CompatLevel::HardRequirement)).and_then(Ruleset::create).is_ok()
}

fn scoped(ruleset: Ruleset) -> Result<Ruleset, RulesetError> {
    ruleset.scope(Scope::AbstractUnixSocket)?.scope(Scope::Signal)
}

/// Makes the ruleset of one worker; `None` when it needs none. `place`: the worker's own folder, opened.
///
/// # Errors
/// A folder that it may write to is not there, or the kernel refused.
pub(crate) fn ruleset(walls: &Walls, place: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    if walls.writable.is_none() && !walls.scoped {
        return Ok(None);
    }
    let other = |error: RulesetError| io::Error::other(format!("make a Landlock ruleset: {error}"));
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if walls.scoped {
        ruleset = scoped(ruleset).map_err(other)?;
    }
    let Some(writable) = &walls.writable else {
        return Ok(ruleset.create().map_err(other)?.into());
    };
    let mut ruleset = ruleset.handle_access(writes()).and_then(Ruleset::create).map_err(other)?;
    if let Some(place) = place {
        ruleset = ruleset.add_rule(PathBeneath::new(place, writes())).map_err(other)?;
    }
    for path in writable.iter().map(PathBuf::as_path).chain([Path::new("/dev/null")]) {
        ruleset = allow(ruleset, path)?;
    }
    Ok(ruleset.into())
}

fn allow(ruleset: RulesetCreated, path: &Path) -> io::Result<RulesetCreated> {
    let other =
        |error: &dyn std::error::Error| io::Error::other(format!("let it write to {}: {error}", path.display()));
    // Of a file's rights there are fewer than of a folder's.
    let access = if path.is_dir() { writes() } else { writes() & AccessFs::from_file(NEEDED) };
    let opened = PathFd::new(path).map_err(|error| other(&error))?;
    ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|error| other(&error))
}
