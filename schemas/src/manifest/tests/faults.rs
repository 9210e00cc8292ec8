//! Faults of a manifest as a whole, and how faults are shown.

use super::*;

#[test]
fn every_fault_is_reported_at_once_with_its_place_and_what_to_write() {
    let text = "\
[functions.create-order]
command = \"./orders\"
slot = 4
timeout = \"1h\"
memory = 256
retry = { attempts = 0, backoff = { first = \"20m\" } }

[functions.Charge]
command = [\"./orders\"]
events = [\"orders..placed\"]
schema = \"none.json\"
";
    assert_eq!(
        shown(text),
        [
            "weft.toml:1:12: events is missing in [functions.create-order]; write events = [\"orders.placed\"]",
            "weft.toml:2:11: command in [functions.create-order] is of type string, not array of strings; write command = [\"./orders\"]",
            "weft.toml:3:1: unknown key \"slot\" in [functions.create-order]; write \"slots\"",
            "weft.toml:4:11: timeout in [functions.create-order] is out of range; write \"100ms\" to \"15m\"",
            "weft.toml:5:10: memory in [functions.create-order] is of type integer, not size; write a number and a unit of B, KiB, MiB or GiB, such as \"256MiB\"",
            "weft.toml:6:22: attempts in [functions.create-order.retry] is 0, less than 1; write a whole number from 1 to 100",
            "weft.toml:6:45: max (15m, the default) is less than first (20m) in backoff; write max = \"20m\" or more",
            "weft.toml:8:12: function name \"Charge\" may hold only a-z, 0-9, - and _, and starts with a letter; write a name such as \"create-order\"",
            "weft.toml:10:11: events: the pattern has an empty word (two dots side by side, or a dot at an end); write words with dots between, such as \"orders.*\"",
            "weft.toml:11:10: schema /app/none.json cannot be read: entity not found; write the path of a JSON Schema file, relative to the manifest's folder",
        ]
    );
}

#[test]
fn the_name_of_what_no_function_is_bound_to_is_reserved() {
    let faults = shown("[functions.unrouted]\ncommand = [\"./orders\"]\nevents = [\"orders.placed\"]\n");
    assert_eq!(
        faults,
        [
            "weft.toml:1:12: the function name unrouted is reserved: events that no function is bound to are found under \
          it; give the function another name"
        ]
    );
}

#[test]
fn required_keys_must_be_there_and_hold_something() {
    for (text, part) in [
        ("[functions.f]\nevents = [\"a\"]", "command is missing in [functions.f]; write command = [\"./orders\"]"),
        ("[functions.f]\ncommand = []\nevents = [\"a\"]", "command in [functions.f] is empty"),
        ("[functions.f]\ncommand = [\"\"]\nevents = [\"a\"]", "command in [functions.f] is empty"),
        ("[functions.f]\ncommand = [\"a\\u0000\"]\nevents = [\"a\"]", "holds a NUL"),
        ("[functions.f]\ncommand = [\"x\"]\nevents = [1]", "events in [functions.f] is of type integer, not string"),
        ("[functions.f]\ncommand = [\"x\"]\nevents = [\"a\", \"a\"]", "names \"a\" twice"),
        ("functions.f = 1", "functions.f is no table"),
        ("functions = 1", "functions is no table"),
        ("[functions]", "no function is declared"),
        ("", "no function is declared"),
        ("[function.f]", "unknown key \"function\" at the top; write [functions.NAME]"),
    ] {
        let shown = shown(text);
        assert_eq!(shown.len(), 1, "{text}: {shown:?}");
        assert!(shown[0].contains(part), "{text}: {:?} does not say {part:?}", shown[0]);
    }
}

#[test]
fn broken_toml_is_a_fault_with_its_place() {
    for (text, line, part) in [
        ("[functions.f]\ncommand = [\"x\"\nevents = 1", 3, ""),
        ("[functions.f]\ntimeout = \"1s\"\ntimeout = \"2s\"", 3, "duplicate key"),
        ("[functions.f\n", 1, ""),
        ("a = ", 1, ""),
        ("\u{0}", 1, ""),
    ] {
        let faults = parse(text).unwrap_err();
        assert_eq!(faults.0[0].line, line, "{text:?}: {faults}");
        assert!(faults.to_string().contains(part), "{text:?}: {faults}");
    }
}

#[test]
fn a_manifest_that_is_not_there_is_a_fault_with_its_name() {
    let faults = Manifest::load("/nowhere/weft.toml").unwrap_err();
    assert!(faults.to_string().starts_with("/nowhere/weft.toml: the manifest cannot be read"), "{faults}");
}
