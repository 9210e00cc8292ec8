//! The file of orders, and the generator that makes it. [`weft_schemas::line`] is the format of its lines; `data/README.md`
//! describes it to people.

mod catalogue;
mod generate;
#[cfg(test)]
mod tests;

pub use weft_schemas::line::{Line as Entry, LineError as EntryError, MessageLine, Mode};

pub use catalogue::{Account, accounts, counter_names};
pub use generate::{GenerateError, MIN_COUNT, generate};

/// The seed of the committed file.
pub const SEED: u64 = 2026;
/// The number of lines of the committed file.
pub const COUNT: usize = 300;

/// The committed file, `data/orders.ndjson`.
pub const FILE: &str = include_str!("../data/orders.ndjson");

/// Reads a file of lines; empty lines are skipped.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Entry>, EntryError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| Entry::parse(line, index + 1))
        .collect()
}

/// The committed orders.
///
/// # Errors
/// Never, as a test holds; the type is that of [`parse`].
pub fn committed() -> Result<Vec<Entry>, EntryError> {
    parse(FILE)
}

/// Writes entries as a file: one line each.
///
/// # Errors
/// Never for entries that were parsed or generated.
pub fn to_text(entries: &[Entry]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for entry in entries {
        text.push_str(&entry.to_text()?);
        text.push('\n');
    }
    Ok(text)
}
