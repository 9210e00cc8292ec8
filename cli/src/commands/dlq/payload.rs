//! The payload that an edited event gets: from a file, from standard input, or from an editor.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weft_process::report::{Code, Report};

use crate::show;

/// No function takes a larger event.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// The new payload in the place of `old`: from `given`, a file or `-`, or else from an editor.
pub fn read(given: Option<&Path>, old: &Bytes) -> Result<Bytes, Report> {
    let Some(given) = given else { return edited(old) };
    if given == Path::new("-") {
        return bounded(std::io::stdin().lock(), "standard input");
    }
    let name = given.display().to_string();
    bounded(std::fs::File::open(given).map_err(|error| unreadable(&name, &error))?, &name)
}

fn bounded(source: impl std::io::Read, name: &str) -> Result<Bytes, Report> {
    let mut payload = Vec::new();
    source.take(MOST_BYTES + 1).read_to_end(&mut payload).map_err(|error| unreadable(name, &error))?;
    if payload.len() as u64 > MOST_BYTES {
        return Err(Report::new(Code::InputFile, format!("failed to take {name}: it is larger than 16 MiB")));
    }
    Ok(Bytes::from(payload))
}

fn unreadable(name: &str, error: &std::io::Error) -> Report {
    Report::new(Code::InputFile, format!("failed to read {name}: {error}"))
}

/// Lets a person edit the payload. Leaving it as it was is a way out.
fn edited(old: &Bytes) -> Result<Bytes, Report> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os).filter(|editor| !editor.is_empty());
    let Some(editor) = editor.filter(|_| show::is_interactive()) else {
        return Err(Report::new(
            Code::Setting,
            "failed to start an editor: there is no terminal, or neither VISUAL nor EDITOR is set",
        )
        .help("give the payload: `weft dlq show ID --payload > FILE`, edit it, `weft dlq redrive ID --edit FILE`"));
    };
    let file = Draft::new(old)?;
    file.edit(&editor)?;
    let new = bounded(std::fs::File::open(&file.0).map_err(|error| unreadable("the draft", &error))?, "the draft")?;
    if new == *old {
        return Err(Report::new(Code::NotConfirmed, "failed to redrive: the payload was left as it was")
            .help("without --edit it is redriven as it is, under its own key"));
    }
    Ok(new)
}

/// A file that nobody else may read, gone when dropped.
struct Draft(PathBuf);

impl Draft {
    fn new(content: &[u8]) -> Result<Self, Report> {
        let failed = |error: std::io::Error| {
            Report::new(Code::Unexpected, format!("failed to write a draft for the editor: {error}"))
        };
        let stamp = jiff::Timestamp::now().as_nanosecond();
        let path = std::env::temp_dir().join(format!("weft-payload-{}-{stamp}.json", std::process::id()));
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let draft = Self(path);
        file.write_all(content).map_err(failed)?;
        Ok(draft)
    }

    /// Runs the editor in the foreground. Its variable may hold arguments, so a shell reads it, as git does.
    fn edit(&self, editor: &OsString) -> Result<(), Report> {
        let mut script = editor.clone();
        script.push(" \"$1\"");
        let status = std::process::Command::new("/bin/sh").arg("-c").arg(script).arg("sh").arg(&self.0).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(Report::new(Code::InputFile, format!("failed to edit the payload: the editor ended with {status}")))
            }
            Err(error) => Err(Report::new(Code::InputFile, format!("failed to edit the payload: {error}"))),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It lies in the folder for temporary files, readable by its owner alone.
        let _ = std::fs::remove_file(&self.0);
    }
}
