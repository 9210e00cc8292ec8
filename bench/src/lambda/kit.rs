//! The function and what runs it, put into a folder of their own as the peers are.

use std::path::PathBuf;

use crate::fault::{Fault, Result};
use crate::peers;

/// Of the interpreter.
pub const ARGUMENTS: [&str; 3] = ["-m", "awslambdaric", "app.handler"];

pub struct Kit {
    /// An interpreter that finds `awslambdaric`.
    pub python: PathBuf,
    /// With `app.py`.
    pub folder: PathBuf,
    /// Python's version, and the client's.
    pub versions: String,
}

impl Kit {
    /// What is there and unchanged stays.
    ///
    /// # Errors
    /// There is no `python3`, or no `awslambdaric` to be had: then nothing of this part can be measured.
    pub async fn install() -> Result<Self> {
        let (folder, versions) = peers::install_lambda()
            .await
            .map_err(|Fault(text)| Fault(format!("a Python function cannot be run here: {text}")))?;
        Ok(Self { python: folder.join("venv/bin/python"), folder, versions })
    }
}
