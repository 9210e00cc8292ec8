//! Every error code has a page, every page a code, and all pages have the same shape.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use weft_process::report::{Code, Exit};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors")
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let codes: BTreeSet<String> = Code::ALL.iter().map(|code| format!("{}.md", code.as_str())).collect();
    assert_eq!(codes.len(), Code::ALL.len(), "two codes share a text");
    let pages: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The verdicts on events are no reports of a command: schemas/tests/pages.rs holds theirs.
        .filter(|name| name != "README.md" && !name.starts_with("W09"))
        .collect();
    assert_eq!(codes, pages, "codes of process/src/report.rs (left) and pages of docs/errors (right)");
}

#[test]
fn every_page_says_what_happened_what_weft_did_and_what_you_can_do() {
    for code in Code::ALL {
        let page = std::fs::read_to_string(folder().join(format!("{}.md", code.as_str()))).unwrap();
        assert!(page.starts_with(&format!("# {}: ", code.as_str())), "{code:?}");
        assert!(page.contains(&format!("\nExit status {}.\n", code.exit() as u8)), "{code:?}: wrong exit status");
        let parts: Vec<_> = page.split("\n## ").skip(1).map(|part| part.split_once('\n').unwrap()).collect();
        let titles: Vec<_> = parts.iter().map(|(title, _)| *title).collect();
        assert_eq!(titles, ["What happened", "What Weft did", "What you can do"], "{code:?}");
        assert!(parts.iter().all(|(_, text)| text.trim().len() > 20), "{code:?}: an empty part");
    }
}

#[test]
fn the_index_lists_every_code_and_exit_status() {
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for code in Code::ALL {
        let (text, exit) = (code.as_str(), code.exit() as u8);
        let line = index.lines().find(|line| line.contains(&format!("[{text}]({text}.md)"))).expect(text);
        assert!(line.ends_with(&format!("| {exit} |")), "{line}");
    }
    let exits = [
        Exit::Ok,
        Exit::Failure,
        Exit::Usage,
        Exit::Input,
        Exit::Unreachable,
        Exit::Refused,
        Exit::Check,
        Exit::NotFound,
        Exit::Taken,
        Exit::Program,
        Exit::Killed,
    ];
    for exit in exits {
        assert!(index.contains(&format!("\n| {} | ", exit as u8)), "{exit:?} is not in the index");
    }
}
