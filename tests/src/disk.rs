use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::error::or_fail;

/// A small file system in memory that a test fills and frees. Dropping it unmounts it.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB over a folder, which then belongs to whom it belonged to.
    ///
    /// # Panics
    /// It cannot be mounted, which only root may do.
    #[must_use]
    pub fn mount(at: &Path, mib: u32) -> Self {
        or_fail(Self::try_mount(at, mib))
    }

    fn try_mount(at: &Path, mib: u32) -> Result<Self, Error> {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let before = fs::metadata(at).map_err(Error::while_doing("looking at a folder to mount over"))?;
        let size = format!("size={mib}m,mode={:o}", before.mode() & 0o7777);
        let doing = "mounting a small file system (run these tests as root)";
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "weft-test"]).arg(at).output();
        let output = output.map_err(Error::while_doing(doing))?;
        if !output.status.success() {
            return Err(Error::new(format!("{doing}: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        let disk = Self { at: at.to_owned() };
        chown(at, Some(before.uid()), Some(before.gid())).map_err(Error::while_doing("giving a mount away"))?;
        Ok(disk)
    }

    /// Writes until there is no room left.
    ///
    /// # Panics
    /// Writing fails for another reason.
    pub fn fill(&self) {
        let filler = File::options().create(true).append(true).open(self.filler());
        let mut filler = or_fail(filler.map_err(Error::while_doing("making a file that fills the disk")));
        // Large pieces first, then what is left between them.
        for piece in [1 << 20, 4096, 1] {
            let bytes = vec![0u8; piece];
            while let Ok(written) = filler.write(&bytes) {
                if written == 0 {
                    break;
                }
            }
        }
    }

    /// Makes room again.
    ///
    /// # Panics
    /// It was not filled.
    pub fn free(&self) {
        or_fail(fs::remove_file(self.filler()).map_err(Error::while_doing("freeing the disk")));
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who holds a file of it may hold it a moment longer.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
