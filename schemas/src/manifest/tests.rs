#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::keys::{FUNCTION, Key};
use super::*;
use crate::{json_schema, sample};

const MINIMAL: &str = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"a.b\"]\n";

/// Files that a manifest may name.
fn read(path: &Path) -> io::Result<String> {
    match path.to_str().unwrap() {
        "/app/good.json" => Ok(r#"{"type":"object","required":["order_id"]}"#.into()),
        "/app/no-json.json" => Ok("{\n  \"type\": }".into()),
        "/app/no-schema.json" => Ok(r#"{"type":"orders"}"#.into()),
        "/app/remote.json" => Ok(r#"{"$ref":"https://example.com/schema.json"}"#.into()),
        "/app/file.json" => Ok(r#"{"$ref":"file:///etc/passwd"}"#.into()),
        "/app/dangling.json" => Ok(r##"{"$ref":"#/$defs/none"}"##.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn parse(text: &str) -> Result<Manifest, Faults> {
    Manifest::parse_with(text, Path::new("weft.toml"), Path::new("/app"), &read)
}

fn function(text: &str) -> Function {
    parse(text).unwrap().functions.into_values().next().unwrap()
}

/// The minimal manifest with lines added to its function.
fn with(lines: &str) -> String {
    format!("{MINIMAL}{lines}\n")
}

/// The faults as they are shown.
fn shown(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_minimal_function_gets_every_documented_default() {
    assert_eq!(
        function(MINIMAL),
        Function {
            name: FunctionName::new("f").unwrap(),
            command: vec!["./f".into()],
            handler: "f".into(),
            events: vec!["a.b".into()],
            source: None,
            schema: None,
            timeout: Duration::from_secs(30),
            init_timeout: Duration::from_secs(10),
            memory_bytes: 256 * 1024 * 1024,
            limits: Limits::default(),
            isolation: Isolation::default(),
            slots: 16,
            concurrency: Concurrency::default(),
            rate: None,
            ordering: None,
            batch: None,
            keep_alive: KeepAlive::Fixed(Duration::from_secs(300)),
            retry: Retry::default(),
            idempotency: Idempotency::default(),
            env: BTreeMap::new(),
            max_event_bytes: 1024 * 1024,
            max_result_bytes: 6 * 1024 * 1024,
            max_depth: 16,
        }
    );
    // Empty tables fill in the same defaults as absent ones do.
    assert_eq!(
        function(&with("retry = { backoff = {} }\nidempotency = {}\nconcurrency = {}\nenv = {}")),
        function(MINIMAL)
    );
}

#[test]
fn a_schedule_says_when_where_how_long_and_how_many() {
    let text = "concurrency = { provisioned = 1, schedule = [\n\
                  { cron = \"0 7 * * 1-5\", for = \"2h\", time_zone = \"Europe/Berlin\", provisioned = 10 },\n\
                  { cron = \"@daily\", for = \"90s\", provisioned = 2 },\n] }";
    let concurrency = function(&with(text)).concurrency;
    let windows: Vec<_> = concurrency
        .schedule
        .iter()
        .map(|window| (window.opens.text(), window.opens.zone(), window.lasts.as_secs(), window.provisioned))
        .collect();
    assert_eq!(windows, [("0 7 * * 1-5", "Europe/Berlin", 7200, 10), ("@daily", "UTC", 90, 2)]);
}

#[test]
fn the_full_form_says_what_it_says() {
    let function = function(
        r#"
[functions.create-order]
command   = ["./orders", "--fast"]
handler   = "create"
events    = ["orders.placed", "orders.*.again"]
source    = "shop"
schema    = "good.json"
timeout   = "1m30s"
init_timeout = "2m"
memory    = "1GiB"
slots     = 4
concurrency = { reserved = 200, provisioned = 1 }
keep_alive  = "0s"
retry     = { attempts = 5, crashes = 2, max_age = "1d", backoff = { first = "2s", factor = 3, max = "5m", jitter = 0.0 } }
idempotency = { key = "/data/order_id", keep = "30d" }
max_event = "64KiB"

[functions.create-order.env]
HOME = "${HOME}/x"
PLAIN = "a$b"
"#,
    );
    assert_eq!(function.command, ["./orders", "--fast"]);
    assert_eq!((function.handler.as_str(), function.source.as_deref()), ("create", Some("shop")));
    assert_eq!(function.schema.unwrap().path, Path::new("/app/good.json"));
    assert_eq!((function.timeout, function.keep_alive), (Duration::from_secs(90), KeepAlive::Fixed(Duration::ZERO)));
    assert_eq!(function.init_timeout, Duration::from_secs(120));
    assert_eq!((function.memory_bytes, function.max_event_bytes), (1 << 30, 1 << 16));
    assert_eq!((function.concurrency.reserved, function.concurrency.provisioned), (Some(200), 1));
    let backoff = Backoff { first: Duration::from_secs(2), factor: 3.0, max: Duration::from_secs(300), jitter: 0.0 };
    assert_eq!(function.retry, Retry { attempts: 5, crashes: 2, max_age: Duration::from_secs(86_400), backoff });
    assert_eq!(function.idempotency.key.as_deref(), Some("/data/order_id"));
    assert_eq!(function.env["HOME"], "${HOME}/x");
}

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
fn each_rule_has_its_fault() {
    for (lines, part) in [
        ("handler = \"\"", "handler in [functions.f] is empty"),
        ("source = 1", "source in [functions.f] is of type integer, not string"),
        ("timeout = 30", "of type integer, not duration"),
        ("timeout = \"30\"", "is no duration: \"30\""),
        ("timeout = \"99ms\"", "write \"100ms\" to \"15m\""),
        ("init_timeout = \"16m\"", "write \"100ms\" to \"15m\""),
        ("memory = \"1MB\"", "is no size: \"1MB\""),
        ("memory = \"65GiB\"", "write \"16MiB\" to \"64GiB\""),
        ("slots = 0", "is 0, less than 1"),
        ("slots = -5", "is -5, less than 1"),
        ("slots = 1001", "slots in [functions.f] is out of range"),
        ("slots = 9223372036854775807", "out of range"),
        ("slots = 99999999999999999999999", "out of range"),
        ("slots = 1.5", "of type float, not integer"),
        (
            "slots = 4\nconcurrency = { reserved = 3 }",
            "slots (4) is more than concurrency.reserved (3); write at most 3",
        ),
        ("concurrency = { reserved = 2, provisioned = 3 }", "provisioned (3) is more than reserved (2)"),
        ("concurrency = { reserved = 0 }", "is 0, less than 1"),
        ("concurrency = { total = 2, provisioned = 3 }", "provisioned (3) is more than total (2)"),
        ("concurrency = { total = 0 }", "total in [functions.f.concurrency] is 0, less than 1"),
        ("rate = \"100\"", "rate is no rate: \"100\"; write a whole number from 1 to 1000000, a slash, and s, m or h"),
        ("rate = \"0/s\"", "rate is no rate"),
        ("ordering = {}", "ordering has no key; write ordering = { key = \"/data/customer_id\" }"),
        ("ordering = { key = \"customer_id\" }", "ordering.key \"customer_id\" is no JSON Pointer"),
        ("batch = { size = 0 }", "size in [functions.f.batch] is 0, less than 1"),
        ("batch = { wait = \"2m\" }", "write \"0s\" to \"1m\""),
        ("concurrency = 5", "write a table with any of reserved, provisioned, total, weight, schedule"),
        ("concurrency.weight = 0", "is 0, less than 1"),
        ("concurrency.schedule = 5", "schedule in [functions.f.concurrency] is of type integer, not array of tables"),
        ("concurrency.schedule = [5]", "write a list of tables with cron, for, time_zone, provisioned"),
        (
            "concurrency.schedule = [{ for = \"2h\", provisioned = 1 }]",
            "cron is missing in [functions.f.concurrency.schedule.0]",
        ),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", provisioned = 1 }]", "for is missing"),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\" }]", "write provisioned = 10"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * *\", for = \"2h\", provisioned = 1 }]",
            "cron \"0 7 * *\" cannot be read",
        ),
        ("concurrency.schedule = [{ cron = \"0 0 7 * * *\", for = \"2h\", provisioned = 1 }]", "cannot be read"),
        ("concurrency.schedule = [{ cron = \"0 25 * * *\", for = \"2h\", provisioned = 1 }]", "cannot be read"),
        ("concurrency.schedule = [{ cron = \"0 7 30 2 *\", for = \"2h\", provisioned = 1 }]", "never comes"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\", time_zone = \"Europe/Berln\", provisioned = 1 }]",
            "time_zone \"Europe/Berln\" is not known; write a name of the IANA database",
        ),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"30s\", provisioned = 1 }]", "write \"1m\" to \"7d\""),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\", provisioned = 0 }]", "is 0, less than 1"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * * *\", fro = \"2h\", for = \"2h\", provisioned = 1 }]",
            "unknown key \"fro\"",
        ),
        (
            "slots = 1\nconcurrency = { reserved = 5, schedule = [{ cron = \"0 7 * * *\", for = \"2h\", provisioned = 6 }] }",
            "provisioned (6) in a window is more than reserved (5); write at most 5",
        ),
        ("keep_alive = \"adaptative\"", "is no duration"),
        ("keep_alive = \"Adaptive\"", ", or \"adaptive\""),
        ("keep_alive = \"25h\"", "write \"0s\" to \"1d\""),
        ("keepalive = \"1m\"", "unknown key \"keepalive\" in [functions.f]; write \"keep_alive\""),
        ("colour = 1", "unknown key \"colour\" in [functions.f]; write one of command, handler, events"),
        ("retry = { attempt = 1 }", "unknown key \"attempt\" in [functions.f.retry]; write \"attempts\""),
        ("retry = { max_age = \"15d\" }", "write \"1s\" to \"14d\""),
        ("retry = { backoff = { factor = 0.5 } }", "write 1.0 to 10.0"),
        ("retry = { backoff = { factor = nan } }", "write 1.0 to 10.0"),
        ("retry = { backoff = { jitter = inf } }", "write 0.0 to 1.0"),
        ("retry = { backoff = { jitter = \"0.2\" } }", "of type string, not number"),
        ("retry = { backoff = { first = \"5s\", max = \"1s\" } }", "max (1s) is less than first (5s)"),
        ("idempotency = { key = \"data.order_id\" }", "is no JSON Pointer; write \"/data/order_id\""),
        ("idempotency = { key = \"$.data.o.id\" }", "write \"/data/o/id\""),
        ("idempotency = { key = \"/order_id\" }", "write \"/data/order_id\""),
        ("idempotency = { key = \"/id/x\" }", "points at nothing"),
        ("idempotency = { key = \"/data/a~2\" }", "neither ~0 nor ~1"),
        ("idempotency = { keep = \"1s\" }", "write \"1m\" to \"365d\""),
        ("env = { \"1A\" = \"x\" }", "\"1A\" names no variable"),
        ("env = { WEFT_LINK_FD = \"3\" }", "WEFT_LINK_FD is reserved"),
        ("env = { A = \"${B\" }", "env: A: ${ is never closed; write ${NAME}"),
        ("env = { A = \"${B-C}\" }", "${B-C} names no variable"),
        ("env = { A = 1 }", "put the value in quotes"),
        ("env = []", "of type array, not table"),
        ("max_event = \"1B\"", "write \"1KiB\" to \"16MiB\""),
        ("schema = \"no-schema.json\"", "no-schema.json is no JSON Schema"),
        ("schema = \"remote.json\"", "what it refers to must stand in the same file"),
        ("schema = \"file.json\"", "what it refers to must stand in the same file"),
        ("schema = \"dangling.json\"", "is no JSON Schema"),
    ] {
        let shown = shown(&with(lines));
        assert_eq!(shown.len(), 1, "{lines}: {shown:?}");
        assert!(shown[0].contains(part), "{lines}: {:?} does not say {part:?}", shown[0]);
    }
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
fn a_fault_inside_a_schema_file_is_placed_in_that_file() {
    let faults = parse(&with("schema = \"no-json.json\"")).unwrap_err();
    assert_eq!((faults.0[0].file.as_path(), faults.0[0].line), (Path::new("/app/no-json.json"), 2));
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
fn a_smaller_reserve_takes_the_default_of_slots_with_it() {
    assert_eq!(function(&with("concurrency = { reserved = 4 }")).slots, 4);
    assert_eq!(function(&with("concurrency = { reserved = 200 }")).slots, 16);
}

#[test]
fn a_manifest_that_is_not_there_is_a_fault_with_its_name() {
    let faults = Manifest::load("/nowhere/weft.toml").unwrap_err();
    assert!(faults.to_string().starts_with("/nowhere/weft.toml: the manifest cannot be read"), "{faults}");
}

#[test]
fn what_a_worker_is_confined_to_is_read_as_it_stands() {
    let function = function(&with(
        "limits = { cpu = 0.5, files = 1024, processes = 64, disk = \"64MiB\", file_size = \"1GiB\", output = \"64KiB\" }\n\
         isolation = { user = \"nobody\", read_only = true, write = [\"data\", \"/var/x\"], network = false }",
    ));
    let limits = Limits {
        cpu: Some(0.5),
        files: Some(1024),
        processes: Some(64),
        disk_bytes: Some(64 << 20),
        file_size_bytes: Some(1 << 30),
        output_bytes: 64 << 10,
    };
    assert_eq!(function.limits, limits);
    let write = vec!["data".to_owned(), "/var/x".to_owned()];
    let isolation = Isolation { user: Some("nobody".to_owned()), read_only: true, write, network: false };
    assert_eq!(function.isolation, isolation);
}

#[test]
fn what_contradicts_itself_in_a_confinement_is_refused() {
    for (lines, fault) in [
        ("limits = { disk = \"300MiB\" }", "limits.disk (300MiB) is more than memory (256MiB)"),
        ("isolation = { write = [\"x\"] }", "isolation.write says nothing without isolation.read_only"),
        ("isolation = { network = \"no\" }", "network in [functions.f.isolation] is of type string, not boolean"),
        ("limits = { cpu = 0 }", "cpu in [functions.f.limits] is out of range"),
    ] {
        let shown = shown(&with(lines)).join("\n");
        assert!(shown.contains(fault), "{shown}");
    }
}

#[test]
fn a_secret_in_a_faulty_environment_is_not_shown() {
    assert!(!shown(&with("env = { A = \"hunter2${\" }")).join("").contains("hunter2"));
}

/// A value that a key takes, in TOML.
fn accepted(key: &Key) -> String {
    match key {
        Key::Text(key) if key.name == "schema" => "\"good.json\"".into(),
        Key::Text(key) => format!("{:?}", key.example),
        Key::Texts(key) => format!("[{:?}]", key.example),
        Key::TextMap(key) => format!("{{ NAME = {:?} }}", key.example),
        Key::Duration(key) | Key::DurationOr(key, _) => format!("{:?}", duration::format(key.max)),
        Key::Bytes(key) => format!("{:?}", bytes::format(key.max)),
        Key::Count(key) => key.max.to_string(),
        Key::Number(key) => format!("{:?}", key.max),
        Key::Flag(key) => (!key.default).to_string(),
        Key::Table(table) => {
            let entries: Vec<_> = table.keys.iter().map(|key| format!("{} = {}", key.name(), accepted(key))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Key::Tables(table) => format!("[{}]", accepted(&Key::Table(table))),
    }
}

/// Every key with its path below a function, inner ones too, with a value that no key takes.
fn faulty(keys: &[Key], wrap: &dyn Fn(String) -> String, out: &mut Vec<(String, String)>) {
    for key in keys {
        out.push((key.name().to_owned(), wrap(format!("{} = 1979-05-27", key.name()))));
        if let Key::Table(table) = key {
            faulty(table.keys, &|inner| wrap(format!("{} = {{ {inner} }}", table.name)), out);
        }
        if let Key::Tables(table) = key {
            faulty(table.keys, &|inner| wrap(format!("{} = [{{ {inner} }}]", table.name)), out);
        }
    }
}

#[test]
fn the_parser_reads_every_key_of_the_table_and_the_schema_knows_the_same_ones() {
    let lines: Vec<_> = FUNCTION.keys.iter().map(|key| format!("{} = {}", key.name(), accepted(key))).collect();
    let text = format!("[functions.f]\n{}", lines.join("\n"));
    parse(&text).unwrap();
    let as_json: serde_json::Value = toml::from_str(&text).unwrap();
    let schema = jsonschema::validator_for(&json_schema::manifest()).unwrap();
    assert!(schema.is_valid(&as_json), "{:?}", schema.iter_errors(&as_json).map(|e| e.to_string()).collect::<Vec<_>>());

    // A key that is known but never read would let a date through.
    let mut all = Vec::new();
    faulty(FUNCTION.keys, &|line| line, &mut all);
    assert!(all.len() > 20);
    for (name, line) in all {
        let base = if MINIMAL.contains(&format!("\n{name} = ")) {
            MINIMAL.replace(&format!("{name} ="), "handler =")
        } else {
            MINIMAL.into()
        };
        let text =
            format!("{}{line}\n", base.replace("handler = [\"./f\"]\n", "").replace("handler = [\"a.b\"]\n", ""));
        let shown = shown(&text);
        assert!(shown.iter().any(|fault| fault.contains(&format!("{name} in [functions.f"))), "{line}: {shown:?}");
        let as_json = json!(toml::from_str::<toml::Value>(&text).unwrap());
        assert!(!schema.is_valid(&as_json), "{line}");
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses_for_its_shape() {
    let schema = jsonschema::validator_for(&json_schema::manifest()).unwrap();
    let valid = |text: &str| schema.is_valid(&toml::from_str::<serde_json::Value>(text).unwrap());
    assert!(valid(MINIMAL));
    for lines in [
        "slot = 1",
        "slots = 0",
        "slots = 1001",
        "timeout = \"30\"",
        "timeout = \"\"",
        "memory = \"1MB\"",
        "retry = { attempt = 1 }",
        "retry = { backoff = { factor = 0.5 } }",
        "env = { WEFT_X = \"1\" }",
        "env = { A = 1 }",
        "handler = \"\"",
    ] {
        assert!(!valid(&with(lines)), "{lines}");
        assert!(parse(&with(lines)).is_err(), "{lines}");
    }
    assert!(!valid("[functions.F]\ncommand = [\"x\"]\nevents = [\"a\"]"));
    assert!(!valid("[functions.f]\nevents = [\"a\"]"));
    assert!(!valid("[functions]"));
    assert!(!valid("[function]"));
}

#[test]
fn the_defaults_of_the_types_are_those_of_the_table() {
    let retry = function(&with("retry = { attempts = 3 }")).retry;
    assert_eq!(retry, Retry::default());
    assert_eq!(function(&with("retry = { backoff = { factor = 2.0 } }")).retry, Retry::default());
    assert_eq!(function(&with("idempotency = { keep = \"7d\" }")).idempotency, Idempotency::default());
}

/// A duration within a range, in whole milliseconds.
fn duration_in(key: &keys::Ranged<Duration>) -> impl Strategy<Value = Duration> + use<> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    (ms(key.min)..=ms(key.max)).prop_map(Duration::from_millis)
}

fn any_text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| text.replace('\0', "")).prop_filter("not empty", |text| !text.is_empty())
}

fn any_backoff() -> impl Strategy<Value = Backoff> {
    (duration_in(&keys::FIRST), 1.0..=10.0_f64, duration_in(&keys::MAX), 0.0..=1.0_f64)
        .prop_map(|(first, factor, max, jitter)| Backoff { first, factor, max: max.max(first), jitter })
}

fn any_keep_alive() -> impl Strategy<Value = KeepAlive> {
    prop_oneof![3 => duration_in(&keys::KEEP_ALIVE).prop_map(KeepAlive::Fixed), 1 => Just(KeepAlive::Adaptive)]
}

/// Windows as numbers choose them; few patterns, for it is croner that reads them.
fn any_schedule(number: u32) -> Vec<Window> {
    let zones = ["UTC", "Europe/Berlin", "America/New_York"];
    let patterns = ["0 7 * * 1-5", "*/5 * * * *", "30 2 * * *"];
    let windows = (0..number % 3).map(|at| {
        let pick = (number / 3 + at) as usize;
        let opens = Moments::parse(patterns[pick % 3], zones[(pick / 3) % 3]).unwrap();
        Window {
            opens,
            lasts: Duration::from_secs(u64::from(60 + number % 1000)),
            provisioned: number.clamp(1, 100_000),
        }
    });
    windows.collect()
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        option::of(0.01..=1024.0_f64),
        option::of(64_u32..=1 << 20),
        option::of(16_u32..=100_000),
        option::of(keys::DISK.min..=keys::MEMORY.min),
        option::of(keys::FILE_SIZE.min..=keys::FILE_SIZE.max),
        keys::OUTPUT.min..=keys::OUTPUT.max,
    )
        .prop_map(|(cpu, files, processes, disk_bytes, file_size_bytes, output_bytes)| Limits {
            cpu,
            files,
            processes,
            disk_bytes,
            file_size_bytes,
            output_bytes,
        })
}

fn any_isolation() -> impl Strategy<Value = Isolation> {
    (option::of("[a-z]{1,8}"), option::of(vec("[a-z/]{1,8}", 0..3)), any::<bool>()).prop_map(
        |(user, write, network)| Isolation {
            user,
            read_only: write.is_some(),
            write: write.unwrap_or_default(),
            network,
        },
    )
}

fn any_function() -> impl Strategy<Value = Function> {
    let patterns = || {
        vec("[a-z]{1,3}\\.(\\*|#|[a-z]{1,3})", 1..4).prop_map(|mut all| {
            all.sort();
            all.dedup();
            all
        })
    };
    let env = btree_map("[A-VX-Z_][A-Z0-9_]{0,5}", any_text().prop_map(|text| text.replace("${", "$$$${")), 0..3)
        .prop_map(|map| map.into_iter().filter(|(_, text)| env::check(text).is_ok()).collect::<BTreeMap<_, _>>());
    let concurrency = option::of(1_u32..=100_000).prop_flat_map(|reserved| {
        (1..=reserved.unwrap_or(1000).min(1000), 0..=reserved.unwrap_or(100_000)).prop_map(
            move |(slots, provisioned)| {
                (
                    slots,
                    Concurrency {
                        reserved,
                        provisioned,
                        total: None,
                        weight: 1 + provisioned % 100,
                        schedule: any_schedule(provisioned),
                    },
                )
            },
        )
    });
    let per = prop::sample::select(vec!["s", "m", "h"]);
    let rate = (1..=rate::MOST, per).prop_map(|(starts, per)| Rate::parse(&format!("{starts}/{per}")).unwrap());
    let ordering = "/data(/[a-z]{1,5}){1,3}".prop_map(|key| Ordering { key });
    let batch = (1_u32..=1000, duration_in(&keys::BATCH_WAIT)).prop_map(|(size, wait)| Batch { size, wait });
    let caps = (option::of(rate), option::of(ordering), option::of(batch), option::of(0_u32..=10));
    (
        (sample::function_name(), vec(any_text(), 1..4), any_text(), patterns(), option::of("[a-z.]{1,20}")),
        (
            (duration_in(&keys::TIMEOUT), duration_in(&keys::INIT_TIMEOUT)),
            (keys::MEMORY.min..=keys::MEMORY.max, any_limits(), any_isolation()),
            concurrency,
            any_keep_alive(),
        ),
        (1_u32..=100, 1_u32..=20, duration_in(&keys::MAX_AGE), any_backoff()),
        caps,
        (
            option::of("/data(/[a-z]{1,5}){1,3}"),
            duration_in(&keys::KEEP),
            env,
            (keys::MAX_EVENT.min..=keys::MAX_EVENT.max, keys::MAX_RESULT.min..=keys::MAX_RESULT.max, 0_u32..=10_000),
        ),
    )
        .prop_map(
            |(
                (name, command, handler, events, source),
                ((timeout, init_timeout), (memory_bytes, limits, isolation), (slots, concurrency), keep_alive),
                (attempts, crashes, max_age, backoff),
                (rate, ordering, batch, total),
                (key, keep, env, (max_event_bytes, max_result_bytes, max_depth)),
            )| Function {
                name,
                command,
                handler,
                events,
                source,
                schema: None,
                timeout,
                init_timeout,
                memory_bytes,
                limits,
                isolation,
                slots,
                concurrency: Concurrency {
                    total: total.map(|more| (concurrency.provisioned + more).clamp(1, 100_000)),
                    ..concurrency
                },
                rate,
                ordering,
                batch,
                keep_alive,
                retry: Retry { attempts, crashes, max_age, backoff },
                idempotency: Idempotency { key, keep },
                env,
                max_event_bytes,
                max_result_bytes,
                max_depth,
            },
        )
}

fn write_confined(out: &mut String, f: &Function) {
    let (limits, isolation) = (&f.limits, &f.isolation);
    writeln!(out, "limits.output = \"{}\"", bytes::format(limits.output_bytes)).unwrap();
    let numbers = [("files", limits.files), ("processes", limits.processes)];
    for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
        writeln!(out, "limits.{name} = {number}").unwrap();
    }
    let sizes = [("disk", limits.disk_bytes), ("file_size", limits.file_size_bytes)];
    for (name, size) in sizes.into_iter().filter_map(|(name, size)| Some((name, size?))) {
        writeln!(out, "limits.{name} = \"{}\"", bytes::format(size)).unwrap();
    }
    if let Some(cpu) = limits.cpu {
        writeln!(out, "limits.cpu = {cpu:?}").unwrap();
    }
    writeln!(out, "isolation.read_only = {}\nisolation.network = {}", isolation.read_only, isolation.network).unwrap();
    if let Some(user) = &isolation.user {
        writeln!(out, "isolation.user = {user:?}").unwrap();
    }
    if !isolation.write.is_empty() {
        writeln!(out, "isolation.write = {:?}", isolation.write).unwrap();
    }
}

/// A manifest as its author may write it, every key set.
fn written(functions: &[Function]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let time = duration::format;
    let mut out = String::new();
    for f in functions {
        writeln!(out, "[functions.{}]", f.name).unwrap();
        writeln!(out, "command = [{}]\nevents = [{}]", list(&f.command), list(&f.events)).unwrap();
        writeln!(out, "handler = {}", quoted(&f.handler)).unwrap();
        if let Some(source) = &f.source {
            writeln!(out, "source = {}", quoted(source)).unwrap();
        }
        writeln!(out, "init_timeout = \"{}\"", time(f.init_timeout)).unwrap();
        let keep_alive = match f.keep_alive {
            KeepAlive::Fixed(fixed) => time(fixed),
            KeepAlive::Adaptive => "adaptive".to_owned(),
        };
        writeln!(out, "timeout = \"{}\"\nkeep_alive = \"{keep_alive}\"", time(f.timeout)).unwrap();
        writeln!(
            out,
            "memory = \"{}\"\nmax_event = \"{}\"",
            bytes::format(f.memory_bytes),
            bytes::format(f.max_event_bytes)
        )
        .unwrap();
        writeln!(out, "max_result = \"{}\"\nmax_depth = {}", bytes::format(f.max_result_bytes), f.max_depth).unwrap();
        writeln!(out, "slots = {}\nconcurrency.provisioned = {}", f.slots, f.concurrency.provisioned).unwrap();
        if let Some(total) = f.concurrency.total {
            writeln!(out, "concurrency.total = {total}").unwrap();
        }
        if let Some(rate) = f.rate {
            writeln!(out, "rate = \"{rate}\"").unwrap();
        }
        if let Some(ordering) = &f.ordering {
            writeln!(out, "ordering.key = {}", quoted(&ordering.key)).unwrap();
        }
        if let Some(batch) = f.batch {
            writeln!(out, "batch = {{ size = {}, wait = \"{}\" }}", batch.size, time(batch.wait)).unwrap();
        }
        writeln!(out, "concurrency.weight = {}", f.concurrency.weight).unwrap();
        if let Some(reserved) = f.concurrency.reserved {
            writeln!(out, "concurrency.reserved = {reserved}").unwrap();
        }
        if !f.concurrency.schedule.is_empty() {
            let windows = f.concurrency.schedule.iter().map(|window| {
                format!(
                    "{{ cron = {}, for = \"{}\", time_zone = {}, provisioned = {} }}",
                    quoted(window.opens.text()),
                    time(window.lasts),
                    quoted(window.opens.zone()),
                    window.provisioned
                )
            });
            writeln!(out, "concurrency.schedule = [{}]", windows.collect::<Vec<_>>().join(", ")).unwrap();
        }
        let (retry, backoff) = (f.retry, f.retry.backoff);
        writeln!(
            out,
            "retry = {{ attempts = {}, crashes = {}, max_age = \"{}\", backoff = {{ first = \"{}\", factor = {:?}, max = \"{}\", jitter = {:?} }} }}",
            retry.attempts, retry.crashes, time(retry.max_age), time(backoff.first), backoff.factor, time(backoff.max), backoff.jitter,
        )
        .unwrap();
        writeln!(out, "idempotency.keep = \"{}\"", time(f.idempotency.keep)).unwrap();
        if let Some(key) = &f.idempotency.key {
            writeln!(out, "idempotency.key = {}", quoted(key)).unwrap();
        }
        write_confined(&mut out, f);
        writeln!(out, "[functions.{}.env]", f.name).unwrap();
        for (name, text) in &f.env {
            writeln!(out, "{name} = {}", quoted(text)).unwrap();
        }
    }
    out
}

proptest! {
    #[test]
    fn a_manifest_written_is_read_back(functions in btree_map(sample::function_name(), any_function(), 1..4)) {
        let functions: BTreeMap<_, _> =
            functions.into_iter().map(|(name, function)| (name.clone(), Function { name, ..function })).collect();
        let text = written(&functions.values().cloned().collect::<Vec<_>>());
        let read = parse(&text);
        prop_assert!(read.is_ok(), "{}\n{}", read.unwrap_err(), text);
        prop_assert_eq!(read.unwrap().functions, functions);
    }

    #[test]
    fn a_bent_manifest_is_read_or_refused_with_places_that_exist(
        function in any_function(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}|[\\[\\]{}=.\"'\n#]{0,3}", cut in 0_usize..6,
    ) {
        let mut text = written(&[function]);
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len())).max(start);
        text.replace_range(start..end, &with);
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.0.is_empty());
            for fault in faults.0 {
                prop_assert!(fault.line >= 1 && fault.line <= text.matches('\n').count() + 1, "{}", fault);
                prop_assert!(!fault.message.is_empty() && !fault.help.is_empty() && fault.column >= 1);
            }
        }
    }

    #[test]
    fn any_text_is_a_manifest_or_refused(text in any::<String>(), toml in "(\\[functions(\\.[a-z]{0,2}){0,2}\\]\n|[a-z_]{0,7} ?= ?(1|\"[a-z]{0,2}\"|\\[|\\{|\\}|\\])\n?){0,6}") {
        let _ = parse(&text);
        let _ = parse(&toml);
    }
}
