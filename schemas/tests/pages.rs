//! Every verdict on an event has a code, every code a page, and every such page a verdict.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_schemas::Reason;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors")
}

/// Codes and what they are about, as pages and index name it.
fn verdicts() -> BTreeMap<&'static str, &'static str> {
    let reasons = Reason::ALL.iter().map(|reason| (reason.code(), reason.as_str()));
    reasons.chain([(Reason::RETRY_CODE, "retry")]).collect()
}

#[test]
fn every_verdict_has_a_page_and_every_page_of_a_verdict_has_one() {
    let verdicts = verdicts();
    assert_eq!(verdicts.len(), Reason::ALL.len() + 1, "two verdicts share a code");
    let pages: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("W09"))
        .collect();
    let mut pages: Vec<&str> = pages.iter().map(|page| page.strip_suffix(".md").unwrap()).collect();
    pages.sort_unstable();
    let codes: Vec<&str> = verdicts.keys().copied().collect();
    assert_eq!(codes, pages, "codes of schemas/src/dead_letter.rs (left) and pages of docs/errors (right)");
}

#[test]
fn every_page_says_what_happened_what_weft_did_and_what_you_can_do() {
    for (code, name) in verdicts() {
        let page = std::fs::read_to_string(folder().join(format!("{code}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {code}: ")), "{code}");
        let what = if code == Reason::RETRY_CODE { "Outcome" } else { "Reason" };
        assert!(page.contains(&format!("\n{what} `{name}`.\n")), "{code}: does not name {name}");
        let parts: Vec<_> = page.split("\n## ").skip(1).map(|part| part.split_once('\n').unwrap()).collect();
        let titles: Vec<_> = parts.iter().map(|(title, _)| *title).collect();
        assert_eq!(titles, ["What happened", "What Weft did", "What you can do"], "{code}");
        assert!(parts.iter().all(|(_, text)| text.trim().len() > 20), "{code}: an empty part");
    }
}

#[test]
fn the_index_lists_every_verdict() {
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (code, name) in verdicts() {
        let line = index.lines().find(|line| line.contains(&format!("[{code}]({code}.md)"))).expect(code);
        assert!(line.contains(&format!("| `{name}` |")), "{line}");
    }
}
