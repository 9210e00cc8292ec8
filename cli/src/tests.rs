//! What the command line promises before anything is connected.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::{CommandFactory as _, Parser as _};

use crate::args::Weft;
use crate::services::Services;
use crate::show;

fn services(args: &[&str]) -> Services {
    let weft = Weft::try_parse_from([&["weft", "migrate"], args].concat()).unwrap();
    let crate::args::Command::Migrate(migrate) = weft.command else { panic!("another command") };
    Services::resolve(&migrate.services).unwrap()
}

#[test]
fn no_two_arguments_of_a_command_share_a_name() {
    Weft::command().debug_assert();
}

#[test]
fn every_command_and_flag_has_a_line_of_help() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
        for argument in command.get_arguments() {
            let said = argument.get_help().is_some() || argument.is_hide_set();
            assert!(said, "{} {} says nothing of itself", command.get_name(), argument.get_id());
        }
        command.get_subcommands().filter(|inner| inner.get_name() != "help").for_each(check);
    }
    check(&Weft::command());
}

#[test]
fn the_embedded_file_is_the_default_and_excludes_the_services() {
    assert!(matches!(services(&[]), Services::Embedded(path) if path.ends_with(".weft/weft.db")));
    assert!(matches!(services(&["--embedded", "x.db"]), Services::Embedded(path) if path.ends_with("x.db")));
    assert!(Weft::try_parse_from(["weft", "migrate", "--embedded", "x", "--ledger", "y"]).is_err());
}

#[test]
fn a_service_that_is_not_named_is_asked_for_by_flag_and_variable() {
    let services = services(&["--state", "redis://h"]);
    let report = services.ledger_address().unwrap_err();
    assert!(report.message.contains("--ledger") && report.message.contains("WEFT_LEDGER_URL"), "{report}");
    assert_eq!(services.state_address().unwrap().expose(), "redis://h");
}

#[test]
fn durations_are_read_with_units_and_bounds() {
    for (given, fits) in [("1s", true), ("10m", true), ("11m", false), ("10ms", false), ("5", false), ("", false)] {
        let parsed = Weft::try_parse_from(["weft", "run", "--lease", given]);
        assert_eq!(parsed.is_ok(), fits, "{given}");
    }
}

#[test]
fn long_and_many_lined_texts_are_cut_to_one_line() {
    assert_eq!(show::cut("short", 10), "short");
    assert_eq!(show::cut("naïve\nlines\tof text", 12), "naïve lines…");
    assert_eq!(show::cut("", 0), "");
}

#[test]
fn only_a_clear_yes_is_one() {
    for (answer, yes) in
        [("y\n", true), (" YES \n", true), ("n\n", false), ("\n", false), ("", false), ("yup\n", false)]
    {
        assert_eq!(show::is_yes(answer), yes, "{answer:?}");
    }
}

#[test]
fn texts_of_others_cannot_command_a_terminal() {
    assert_eq!(show::printable("naïve\n\ttext"), "naïve\n\ttext");
    assert_eq!(show::printable("a\u{1b}[2Jb\r\u{9b}c\u{7}"), "a\\u{1b}[2Jb\\r\\u{9b}c\\u{7}");
}
