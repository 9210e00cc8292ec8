//! What stands in a function itself.

use super::*;

#[test]
fn a_minimal_function_gets_every_documented_default() {
    assert_eq!(
        function(MINIMAL),
        Function {
            name: FunctionName::new("f").unwrap(),
            command: vec!["./f".into()],
            handler: "f".into(),
            runtime: Runtime::Native,
            shape: Shape::CloudEvent,
            root: None,
            terminal_errors: Vec::new(),
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
fn the_defaults_of_the_types_are_those_of_the_table() {
    let retry = function(&with("retry = { attempts = 3 }")).retry;
    assert_eq!(retry, Retry::default());
    assert_eq!(function(&with("retry = { backoff = { factor = 2.0 } }")).retry, Retry::default());
    assert_eq!(function(&with("idempotency = { keep = \"7d\" }")).idempotency, Idempotency::default());
}

#[test]
fn each_rule_of_a_function_has_its_fault() {
    each_is_refused(&[
        ("handler = \"\"", "handler in [functions.f] is empty"),
        ("source = 1", "source in [functions.f] is of type integer, not string"),
        ("timeout = 30", "of type integer, not duration"),
        ("timeout = \"30\"", "is no duration: \"30\""),
        ("timeout = \"99ms\"", "write \"100ms\" to \"15m\""),
        ("init_timeout = \"16m\"", "write \"100ms\" to \"15m\""),
        ("memory = \"1MB\"", "is no size: \"1MB\""),
        ("memory = \"65GiB\"", "write \"16MiB\" to \"64GiB\""),
        ("runtime = \"lamda\"", "runtime in [functions.f] is \"lamda\"; write \"lambda\""),
        ("runtime = \"aws\"", "write one of native, lambda"),
        ("runtime = \"lambda\"\nisolation = { network = false }", "leaves a Lambda function no way to its invocations"),
        ("event = \"aws:sqs\"", "event = \"aws:sqs\" is for Lambda functions"),
        ("runtime = \"lambda\"\nevent = \"aws:sqq\"", "write \"aws:sqs\""),
        ("runtime = \"lambda\"\nevent = \"aws:sns\"\nbatch = {}", "takes one event at a time"),
        ("runtime = \"lambda\"\nevent = \"aws:eventbridge\"\nbatch = {}", "takes one event at a time"),
        ("terminal_errors = []", "terminal_errors in [functions.f] is empty"),
        ("slots = 0", "is 0, less than 1"),
        ("slots = -5", "is -5, less than 1"),
        ("slots = 1001", "slots in [functions.f] is out of range"),
        ("slots = 9223372036854775807", "out of range"),
        ("slots = 99999999999999999999999", "out of range"),
        ("slots = 1.5", "of type float, not integer"),
        ("keep_alive = \"adaptative\"", "is no duration"),
        ("keep_alive = \"Adaptive\"", ", or \"adaptive\""),
        ("keep_alive = \"25h\"", "write \"0s\" to \"1d\""),
        ("keepalive = \"1m\"", "unknown key \"keepalive\" in [functions.f]; write \"keep_alive\""),
        ("colour = 1", "unknown key \"colour\" in [functions.f]; write one of command, handler, events"),
        ("max_event = \"1B\"", "write \"1KiB\" to \"16MiB\""),
    ]);
}

#[test]
fn each_rule_of_a_schema_has_its_fault() {
    each_is_refused(&[
        ("schema = \"no-schema.json\"", "no-schema.json is no JSON Schema"),
        ("schema = \"remote.json\"", "what it refers to must stand in the same file"),
        ("schema = \"file.json\"", "what it refers to must stand in the same file"),
        ("schema = \"dangling.json\"", "is no JSON Schema"),
    ]);
}

#[test]
fn a_fault_inside_a_schema_file_is_placed_in_that_file() {
    let faults = parse(&with("schema = \"no-json.json\"")).unwrap_err();
    assert_eq!((faults.0[0].file.as_path(), faults.0[0].line), (Path::new("/app/no-json.json"), 2));
}
