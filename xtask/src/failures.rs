//! `docs/failures.md` against the tests: each row of the table names tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

use crate::run;

/// How a row of the table begins; its last cell names the tests.
const COLUMNS: usize = 5;

/// Holds the table against the sources.
///
/// # Errors
/// The page has no rows, or a row names no test or one that is not there.
pub fn run() -> Result<(), String> {
    let path = run::root().join("docs/failures.md");
    let page = std::fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let mut tests = BTreeSet::new();
    for folder in ["schemas", "process", "ledger", "worker", "dispatcher", "cli", "tests", "examples"] {
        collect(&run::root().join(folder), &mut tests)?;
    }
    let faults = faults(&page, &tests);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// What is wrong with the page.
fn faults(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("| ---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == COLUMNS && cells.first() != Some(&"failure"))
        .collect();
    if rows.is_empty() {
        return vec![format!("docs/failures.md has no row of {COLUMNS} cells")];
    }
    let mut faults = Vec::new();
    for cells in rows {
        let (failure, named) = (cells[0], cells[COLUMNS - 1]);
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            faults.push(format!("docs/failures.md: no test for: {failure}"));
        }
        for name in named.into_iter().filter(|name| !tests.contains(*name)) {
            faults.push(format!("docs/failures.md: there is no test {name}, for: {failure}"));
        }
    }
    faults
}

/// The names of all functions under a folder: those of tests are among them.
fn collect(folder: &Path, names: &mut BTreeSet<String>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("reading {}: {error}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
            let functions = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            names.extend(functions.map(|name| name.trim().to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "| failure | what happens | what is seen | what to do | tests |\n| --- | --- | --- | --- | --- |\n";

    fn known() -> BTreeSet<String> {
        BTreeSet::from(["there".to_owned()])
    }

    #[test]
    fn a_row_whose_tests_exist_is_fine() {
        assert_eq!(faults(&format!("{HEAD}| a | b | c | d | `there`, `there` |\n"), &known()), Vec::<String>::new());
    }

    #[test]
    fn a_row_without_a_test_or_with_an_unknown_one_is_refused() {
        let found = faults(&format!("{HEAD}| a | b | c | d | by hand |\n| e | b | c | d | `gone` |\n"), &known());
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_page_without_rows_is_refused() {
        assert_eq!(faults("# Failures\n", &known()).len(), 1);
    }
}
