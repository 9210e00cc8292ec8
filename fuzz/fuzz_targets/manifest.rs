//! Any text is a manifest or is refused with faults that name places within it.

#![no_main]

use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use weft_schemas::manifest::Manifest;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(input) else { return Corpus::Reject };
    // Schema files come from the input too, so that no file of the machine is read.
    let read = |_: &Path| Ok(text.lines().rev().take(8).collect());
    match Manifest::parse_with(text, Path::new("weft.toml"), Path::new("."), &read) {
        Ok(manifest) => assert!(!manifest.functions.is_empty(), "a manifest has a function"),
        Err(faults) => {
            assert!(!faults.0.is_empty(), "a refusal says why");
            let lines = text.lines().count() + 1;
            assert!(faults.0.iter().all(|fault| fault.line <= lines), "a fault lies in the text");
        }
    }
    Corpus::Keep
});
