//! The conformance suite over SQLite, and what is particular to a file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tempfile::TempDir;
use weft_ledger::conformance::Subject;

async fn fresh() -> (TempDir, Subject) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("weft.db").display());
    let subject = Subject::open(&url).await;
    (folder, subject)
}

weft_ledger::conformance_tests!(fresh);
