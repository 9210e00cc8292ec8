//! What people see: tables, colours on a terminal, reports; and plain JSON for machines.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use weft_process::report::{Code, Report};

/// Prints a report on standard error, coloured on a terminal.
pub fn report(report: &Report) {
    let text = report.to_string();
    let mut out = std::io::stderr().lock();
    let coloured = if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        text.replacen("error[", "\u{1b}[1;31merror[", 1).replacen("]:", "]\u{1b}[0m:", 1)
    } else {
        text
    };
    // Nobody is left to tell when standard error itself is closed.
    let _ = writeln!(out, "{coloured}");
}

/// Prints one JSON value on a line of its own.
pub fn json(value: &impl Serialize) -> Result<(), Report> {
    let text = serde_json::to_string(value)
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to print JSON: {error}")))?;
    line(&text)
}

/// Prints a line. A closed pipe (`| head`) is no error of ours.
pub fn line(text: &str) -> Result<(), Report> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Report::new(Code::Unexpected, format!("failed to write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A table that fits the terminal, or plain columns when piped.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Report> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row);
    }
    line(&table.trim_fmt())
}

/// How long ago, in the largest unit that says enough.
pub fn ago(then: Timestamp) -> String {
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second());
    match seconds {
        i64::MIN..=0 => "now".to_owned(),
        1..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Cuts a text to a width, in characters, on one line.
pub fn cut(text: &str, width: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.chars().count() <= width {
        return flat;
    }
    flat.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}
