//! Following the files of functions, by inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, watch};
use weft_schemas::FunctionName;

use super::{Code, is_code};

/// A change is told when no other has followed for so long: a build writes a program in many steps.
const QUIET: Duration = Duration::from_millis(200);
/// Folders that are followed for one function at most.
const MOST_FOLDERS: usize = 2_000;

/// What has been heard and not told yet: for each function a path that changed.
#[derive(Default)]
struct Heard {
    changed: Mutex<BTreeMap<FunctionName, PathBuf>>,
    manifest: Mutex<bool>,
    word: Notify,
}

/// Follows the code of functions until it is dropped, and raises a function's number when its code has changed. Says in the
/// log what changed. A change of `manifest` is logged only: it is read at the start.
///
/// # Errors
/// The kernel follows no more files for this user, or a folder cannot be read.
pub(crate) fn watch(
    codes: Vec<Code>,
    manifest: PathBuf,
    tell: BTreeMap<FunctionName, watch::Sender<u64>>,
) -> notify::Result<impl Future<Output = ()> + Send> {
    let heard = Arc::new(Heard::default());
    let manifest = super::tidy(&std::path::absolute(&manifest).unwrap_or(manifest));
    let mut follower = {
        let (heard, codes, manifest) = (Arc::clone(&heard), codes.clone(), manifest.clone());
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && is_change(event.kind)
            {
                hear(&heard, &codes, &manifest, &event.paths);
            }
        })?
    };
    let mut followed = BTreeSet::new();
    follow(&mut follower, &codes, &manifest, &mut followed)?;
    Ok(async move {
        loop {
            heard.word.notified().await;
            while tokio::time::timeout(QUIET, heard.word.notified()).await.is_ok() {}
            // New folders are followed from here on; what was written into them before has been heard as their making.
            if let Err(error) = follow(&mut follower, &codes, &manifest, &mut followed) {
                tracing::warn!(%error, "some code is not followed");
            }
            if std::mem::take(&mut *heard.manifest.lock().unwrap_or_else(PoisonError::into_inner)) {
                tracing::warn!(manifest = %manifest.display(), "the manifest has changed; start again to use it");
            }
            let changed = std::mem::take(&mut *heard.changed.lock().unwrap_or_else(PoisonError::into_inner));
            for (function, path) in changed {
                tracing::info!(%function, path = %path.display(), "code has changed, workers are replaced");
                if let Some(number) = tell.get(&function) {
                    number.send_modify(|number| *number += 1);
                }
            }
        }
    })
}

/// Neither reading nor a change of times or rights.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) => true,
        EventKind::Modify(what) => !matches!(what, ModifyKind::Metadata(_)),
        EventKind::Any | EventKind::Access(_) | EventKind::Other => false,
    }
}

fn hear(heard: &Heard, codes: &[Code], manifest: &Path, paths: &[PathBuf]) {
    for path in paths {
        if path == manifest {
            *heard.manifest.lock().unwrap_or_else(PoisonError::into_inner) = true;
            heard.word.notify_one();
        }
        for code in codes.iter().filter(|code| code.holds(path)) {
            let mut changed = heard.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.insert(code.function.clone(), path.clone());
            heard.word.notify_one();
        }
    }
}

/// Follows every folder that is not yet: one of a file is followed and not the file, which may be replaced by another.
fn follow(
    follower: &mut RecommendedWatcher,
    codes: &[Code],
    manifest: &Path,
    followed: &mut BTreeSet<PathBuf>,
) -> notify::Result<()> {
    // One that was removed may have come back, as another folder.
    followed.retain(|folder| folder.is_dir());
    let files = codes.iter().flat_map(|code| &code.files).map(PathBuf::as_path).chain([manifest]);
    let mut wanted: BTreeSet<PathBuf> = files.filter_map(|file| Some(file.parent()?.to_owned())).collect();
    for code in codes {
        let Some(root) = &code.folder else { continue };
        let (mut found, mut next) = (0, vec![root.clone()]);
        while let Some(folder) = next.pop() {
            found += 1;
            if found > MOST_FOLDERS {
                tracing::warn!(function = %code.function, most = MOST_FOLDERS, "too many folders, some code is not followed");
                break;
            }
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            // Not what a link points to: it may be a circle.
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            next.extend(folders.map(|entry| entry.path()).filter(|path| is_code(root, path)));
            wanted.insert(folder);
        }
    }
    for folder in wanted {
        if !followed.contains(&folder) && folder.is_dir() {
            follower.watch(&folder, RecursiveMode::NonRecursive)?;
            followed.insert(folder);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// Longer than any word of a change takes.
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn each_function_hears_of_its_own_code_only_also_of_new_folders_and_of_files_put_in_place() {
        let root = std::env::temp_dir().join(format!("weft-code-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(root.join("python/lib")).unwrap();
        std::fs::write(root.join("program"), "1").unwrap();
        let named = |name: &str| FunctionName::new(name).unwrap();
        let codes = vec![
            Code { function: named("native"), files: vec![root.join("program")], folder: None },
            Code { function: named("lambda"), files: Vec::new(), folder: Some(root.join("python")) },
        ];
        let (native, mut of_native) = watch::channel(0);
        let (lambda, mut of_lambda) = watch::channel(0);
        let tell = [(named("native"), native), (named("lambda"), lambda)].into_iter().collect();
        let following = tokio::spawn(watch(codes, root.join("weft.toml"), tell).unwrap());
        let heard = async |word: &mut watch::Receiver<u64>| {
            tokio::time::timeout(LIMIT, word.changed()).await.expect("a change is heard").unwrap();
        };

        // Put in place as a compiler does it, and nothing of the other's.
        std::fs::write(root.join("program.new"), "2").unwrap();
        std::fs::rename(root.join("program.new"), root.join("program")).unwrap();
        heard(&mut of_native).await;
        assert!(!of_lambda.has_changed().unwrap());

        std::fs::write(root.join("python/lib/prices.py"), "x = 1").unwrap();
        heard(&mut of_lambda).await;
        std::fs::create_dir(root.join("python/more")).unwrap();
        heard(&mut of_lambda).await;
        std::fs::write(root.join("python/more/late.py"), "x = 1").unwrap();
        heard(&mut of_lambda).await;
        assert!(!of_native.has_changed().unwrap());
        following.abort();
        std::fs::remove_dir_all(root).unwrap();
    }
}
