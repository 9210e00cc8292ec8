//! From the text of a manifest to a checked one, or to all its faults.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::confined::{read_isolation, read_limits};
use super::fault::{Fault, nearest};
use super::keys;
use super::rate::{self, Rate};
use super::schedule::{self, Moments, NoMoments, Window};
use super::view::{Document, Faulty, Found, View};
use super::{
    Backoff, Batch, Concurrency, Faults, Function, Idempotency, KeepAlive, Manifest, Ordering, Retry, Runtime, Schema,
    duration, env,
};
use crate::shape::Shape;
use crate::{FunctionName, topic};

const FUNCTIONS: &str = "functions";
const EXAMPLE: &str = "write [functions.NAME] with command and events";
/// The longest exchange name, in bytes: AMQP's limit.
const MAX_EXCHANGE_BYTES: usize = 255;

/// Reads a schema file by its path.
pub(super) type Reader<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

pub(super) fn parse(text: &str, file: &Path, root: &Path, read: Reader<'_>) -> Result<Manifest, Faults> {
    let document = Document::new(file, text);
    let (top, errors) = DeTable::parse_recoverable(text);
    let mut functions = BTreeMap::new();
    if errors.is_empty() {
        functions = read_functions(&document, top.get_ref(), root, read);
    }
    for error in errors {
        // What the parser made of the rest would only be guesses, so these faults stand alone.
        let help = if error.message().contains("duplicate key") { "keep one of them" } else { "correct the TOML here" };
        document.fault(error.span().unwrap_or(0..0), error.message().to_lowercase(), help);
    }
    let faults = document.into_faults();
    if faults.is_empty() { Ok(Manifest { root: root.to_owned(), functions }) } else { Err(Faults(faults)) }
}

fn read_functions(
    document: &Document<'_>,
    top: &DeTable<'_>,
    root: &Path,
    read: Reader<'_>,
) -> BTreeMap<FunctionName, Function> {
    let mut functions = BTreeMap::new();
    for key in top.keys().filter(|key| key.get_ref() != FUNCTIONS) {
        let help = match nearest(key.get_ref(), &[FUNCTIONS]) {
            Some(_) => "write [functions.NAME]",
            None => EXAMPLE,
        };
        document.fault(key.span(), format!("unknown key {:?} at the top", key.get_ref()), help);
    }
    let Some(table) = top.get(FUNCTIONS) else {
        if top.is_empty() {
            document.fault(0..0, "no function is declared", EXAMPLE);
        }
        return functions;
    };
    let Some(table) = table.get_ref().as_table() else {
        document.fault(table.span(), "functions is no table", EXAMPLE);
        return functions;
    };
    if table.is_empty() {
        document.fault(0..0, "no function is declared", EXAMPLE);
    }
    for (key, value) in table.iter() {
        let name = FunctionName::new(key.get_ref())
            .map_err(|error| document.fault(key.span(), error.to_string(), "write a name such as \"create-order\""));
        let name = name.and_then(|name| match name.is_unrouted() {
            true => Err(document.fault(
                key.span(),
                format!("the function name {name} is reserved: events that no function is bound to are found under it"),
                "give the function another name",
            )),
            false => Ok(name),
        });
        if let Ok(function) = read_function(document, name, key, value, root, read) {
            functions.insert(function.name.clone(), function);
        }
    }
    functions
}

fn read_function(
    document: &Document<'_>,
    name: Result<FunctionName, Faulty>,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    root: &Path,
    read: Reader<'_>,
) -> Result<Function, Faulty> {
    let path = format!("{FUNCTIONS}.{}", key.get_ref());
    let Some(table) = value.get_ref().as_table() else {
        return Err(document.fault(key.span(), format!("{path} is no table"), EXAMPLE));
    };
    let view = View::open(document, path, table, key.span(), keys::FUNCTION.keys);
    // Everything is read before anything is given up, so that every fault is found.
    let command = view.required(&keys::COMMAND, view.texts(&keys::COMMAND));
    let handler = view.text(&keys::HANDLER);
    let runtime = read_runtime(&view);
    let shape = read_shape(&view, &runtime);
    let root_folder = view.text(&keys::ROOT);
    let terminal_errors = view.texts(&keys::TERMINAL_ERRORS);
    let events = read_events(&view);
    let source = read_source(&view);
    let schema = read_schema(&view, root, read);
    let timeout = or_default(view.duration(&keys::TIMEOUT), &keys::TIMEOUT);
    let init_timeout = or_default(view.duration(&keys::INIT_TIMEOUT), &keys::INIT_TIMEOUT);
    let memory_bytes = or_default(view.bytes(&keys::MEMORY), &keys::MEMORY);
    let limits = read_limits(&view, &memory_bytes);
    let isolation = read_isolation(&view);
    let concurrency = read_concurrency(&view);
    let slots = read_slots(&view, &concurrency, &runtime);
    let rate = read_rate(&view);
    let ordering = read_ordering(&view);
    let batch = read_batch(&view);
    let keep_alive = read_keep_alive(&view);
    let retry = read_retry(&view);
    let idempotency = read_idempotency(&view);
    let env = read_env(&view);
    let max_event_bytes = or_default(view.bytes(&keys::MAX_EVENT), &keys::MAX_EVENT);
    let max_result_bytes = or_default(view.bytes(&keys::MAX_RESULT), &keys::MAX_RESULT);
    let max_depth = or_default(view.count(&keys::MAX_DEPTH), &keys::MAX_DEPTH);
    let (name, runtime, isolation) = (name?, runtime?, isolation?);
    let command: Vec<String> = command?.into_iter().map(|(text, _)| text).collect();
    if runtime == Runtime::Lambda && !isolation.network {
        let message =
            "isolation.network = false leaves a Lambda function no way to its invocations, which come over loopback";
        let help = "take it out, or run the function natively";
        return Err(document.fault(view.span_of(keys::ISOLATION.name), message, help));
    }
    Ok(Function {
        handler: handler?.unwrap_or_else(|| match (runtime, command.as_slice()) {
            (Runtime::Lambda, [_, .., last]) => last.clone(),
            _ => name.to_string(),
        }),
        command,
        runtime,
        shape: shape?,
        root: root_folder?,
        terminal_errors: terminal_errors?.unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
        events: events?,
        source: source?,
        schema: schema?,
        timeout: timeout?,
        init_timeout: init_timeout?,
        limits: limits?,
        isolation,
        memory_bytes: memory_bytes?,
        slots: slots?,
        concurrency: concurrency?,
        rate: rate?,
        ordering: ordering?,
        batch: batch?,
        keep_alive: keep_alive?,
        retry: retry?,
        idempotency: idempotency?,
        env: env?,
        max_event_bytes: max_event_bytes?,
        max_result_bytes: max_result_bytes?,
        max_depth: max_depth?,
        name,
    })
}

/// The value, or the default that the table of keys has for it.
pub(super) fn or_default<T: Copy + Default>(found: Found<T>, key: &keys::Ranged<T>) -> Result<T, Faulty> {
    Ok(found?.or(key.default).unwrap_or_default())
}

fn read_events(view: &View<'_, '_>) -> Result<Vec<String>, Faulty> {
    let events = view.required(&keys::EVENTS, view.texts(&keys::EVENTS))?;
    let mut patterns: Vec<String> = Vec::with_capacity(events.len());
    let mut faulty = false;
    for (pattern, span) in events {
        let fault = match topic::check_pattern(&pattern) {
            Err(problem) => Some((format!("events: {problem}"), "write words with dots between, such as \"orders.*\"")),
            Ok(()) if patterns.contains(&pattern) => {
                Some((format!("events names {pattern:?} twice"), "keep one of them"))
            }
            Ok(()) => None,
        };
        match fault {
            Some((message, help)) => {
                view.document.fault(span, message, help);
                faulty = true;
            }
            None => patterns.push(pattern),
        }
    }
    if faulty { Err(Faulty) } else { Ok(patterns) }
}

fn read_source(view: &View<'_, '_>) -> Found<String> {
    let source = view.text(&keys::SOURCE)?;
    if source.as_ref().is_some_and(|name| name.len() > MAX_EXCHANGE_BYTES) {
        let span = view.span_of(keys::SOURCE.name);
        return Err(view.document.fault(span, "source is longer than 255 bytes", "write the name of an exchange"));
    }
    Ok(source)
}

fn read_schema(view: &View<'_, '_>, root: &Path, read: Reader<'_>) -> Found<Schema> {
    let Some(name) = view.text(&keys::SCHEMA)? else { return Ok(None) };
    let span = view.span_of(keys::SCHEMA.name);
    let path = root.join(&name);
    let text = read(&path).map_err(|error| {
        let help = "write the path of a JSON Schema file, relative to the manifest's folder";
        view.document.fault(span.clone(), format!("schema {} cannot be read: {error}", path.display()), help)
    })?;
    let document: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        let fault = Fault {
            file: path.clone(),
            line: error.line(),
            column: error.column(),
            message: format!("the schema is no JSON ({error})"),
            help: "correct the JSON here".to_owned(),
        };
        view.document.note(span.clone(), fault)
    })?;
    // Offline: a schema that needs another document is refused, so that a start never depends on somebody's server.
    if let Err(error) = jsonschema::options().offline().build(&document) {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
        let message = format!("{} is no JSON Schema{place}: {}", path.display(), error.masked());
        let help = "correct the schema; what it refers to must stand in the same file";
        return Err(view.document.fault(span, message, help));
    }
    Ok(Some(Schema { path, document }))
}

fn read_concurrency(view: &View<'_, '_>) -> Result<Concurrency, Faulty> {
    let Some(table) = view.table(&keys::CONCURRENCY)? else { return Ok(Concurrency::default()) };
    let reserved = table.count(&keys::RESERVED);
    let provisioned = or_default(table.count(&keys::PROVISIONED), &keys::PROVISIONED);
    let total = table.count(&keys::TOTAL);
    let (reserved, provisioned, total) = (reserved?, provisioned?, total?);
    let schedule = read_schedule(&table, reserved, total);
    let weight = or_default(table.count(&keys::WEIGHT), &keys::WEIGHT);
    if let Some(reserved) = reserved.filter(|reserved| provisioned > *reserved) {
        let span = table.span_of(keys::PROVISIONED.name);
        let message = format!("provisioned ({provisioned}) is more than reserved ({reserved})");
        return Err(view.document.fault(span, message, format!("write at most {reserved}, or reserve more")));
    }
    if let Some(total) = total.filter(|total| provisioned > *total) {
        let span = table.span_of(keys::PROVISIONED.name);
        let message = format!("provisioned ({provisioned}) is more than total ({total})");
        return Err(view.document.fault(span, message, format!("write at most {total}, or a higher total")));
    }
    Ok(Concurrency { reserved, provisioned, total, weight: weight?, schedule: schedule? })
}

fn read_rate(view: &View<'_, '_>) -> Found<Rate> {
    let Some(text) = view.text(&keys::RATE)? else { return Ok(None) };
    match Rate::parse(&text) {
        Some(rate) => Ok(Some(rate)),
        None => {
            let message = format!("rate is no rate: {text:?}");
            Err(view.document.fault(view.span_of(keys::RATE.name), message, format!("write {}", rate::EXAMPLE)))
        }
    }
}

fn read_ordering(view: &View<'_, '_>) -> Found<Ordering> {
    let Some(table) = view.table(&keys::ORDERING)? else { return Ok(None) };
    let Some(key) = table.text(&keys::ORDERING_KEY)? else {
        let span = view.span_of(keys::ORDERING.name);
        return Err(view.document.fault(
            span,
            "ordering has no key",
            "write ordering = { key = \"/data/customer_id\" }",
        ));
    };
    check_pointer(view.document, "ordering.key", &key, table.span_of(keys::ORDERING_KEY.name))?;
    Ok(Some(Ordering { key }))
}

fn read_batch(view: &View<'_, '_>) -> Found<Batch> {
    let Some(table) = view.table(&keys::BATCH)? else { return Ok(None) };
    let size = or_default(table.count(&keys::BATCH_SIZE), &keys::BATCH_SIZE);
    let wait = or_default(table.duration(&keys::BATCH_WAIT), &keys::BATCH_WAIT);
    Ok(Some(Batch { size: size?, wait: wait? }))
}

fn read_keep_alive(view: &View<'_, '_>) -> Result<KeepAlive, Faulty> {
    match view.duration_or(&keys::KEEP_ALIVE, keys::ADAPTIVE)? {
        Some(None) => Ok(KeepAlive::Adaptive),
        Some(Some(fixed)) => Ok(KeepAlive::Fixed(fixed)),
        None => or_default(Ok(None), &keys::KEEP_ALIVE).map(KeepAlive::Fixed),
    }
}

fn read_schedule(view: &View<'_, '_>, reserved: Option<u32>, total: Option<u32>) -> Result<Vec<Window>, Faulty> {
    let windows = view.tables(&keys::SCHEDULE)?;
    let read: Vec<_> = windows.iter().map(|window| read_window(window, reserved, total)).collect();
    read.into_iter().collect()
}

fn read_window(view: &View<'_, '_>, reserved: Option<u32>, total: Option<u32>) -> Result<Window, Faulty> {
    let (cron, zone) = (&keys::WINDOW_CRON, &keys::WINDOW_ZONE);
    let pattern = view.needed(cron.name, &format!("{:?}", cron.example), view.text(cron));
    let lasts = view.needed(keys::WINDOW_FOR.name, "\"2h\"", view.duration(&keys::WINDOW_FOR));
    let named = view.text(zone);
    let provisioned = view.needed(keys::WINDOW_PROVISIONED.name, "10", view.count(&keys::WINDOW_PROVISIONED));
    let bounds = [(reserved, "reserved", "reserve more"), (total, "total", "a higher total")];
    for (bound, name, more) in bounds {
        if let (Ok(provisioned), Some(bound)) = (&provisioned, bound)
            && *provisioned > bound
        {
            let message = format!("provisioned ({provisioned}) in a window is more than {name} ({bound})");
            let span = view.span_of(keys::WINDOW_PROVISIONED.name);
            return Err(view.document.fault(span, message, format!("write at most {bound}, or {more}")));
        }
    }
    let (pattern, named) = (pattern?, named?);
    let opens = Moments::parse(&pattern, named.as_deref().unwrap_or(schedule::DEFAULT_ZONE)).map_err(|wrong| {
        let example = format!("write minute, hour, day, month and day of the week, such as {:?}", cron.example);
        let (name, message, help) = match wrong {
            NoMoments::Pattern(why) => (cron.name, format!("cron {pattern:?} cannot be read: {why}"), example),
            NoMoments::Never => (cron.name, format!("cron {pattern:?} never comes"), example),
            NoMoments::Zone => {
                let named = named.as_deref().unwrap_or_default();
                let help = format!("write a name of the IANA database, such as {:?}", zone.example);
                (zone.name, format!("time_zone {named:?} is not known"), help)
            }
        };
        view.document.fault(view.span_of(name), message, help)
    });
    Ok(Window { opens: opens?, lasts: lasts?, provisioned: provisioned? })
}

fn read_runtime(view: &View<'_, '_>) -> Result<Runtime, Faulty> {
    Ok(match view.word(&keys::RUNTIME, keys::RUNTIMES)? {
        Some("lambda") => Runtime::Lambda,
        _ => Runtime::Native,
    })
}

fn read_shape(view: &View<'_, '_>, runtime: &Result<Runtime, Faulty>) -> Result<Shape, Faulty> {
    let word = view.word(&keys::SHAPE, keys::SHAPES)?;
    let shape = word.and_then(Shape::parse).unwrap_or_default();
    let fault = |message: String, help| Err(view.document.fault(view.span_of(keys::SHAPE.name), message, help));
    if shape != Shape::CloudEvent && matches!(runtime, Ok(Runtime::Native)) {
        return fault(
            format!("event = \"{}\" is for Lambda functions: a native handler gets the event itself", shape.as_str()),
            "write runtime = \"lambda\", or take it out",
        );
    }
    if !shape.takes_batches() && view.table(&keys::BATCH).is_ok_and(|batch| batch.is_some()) {
        return fault(
            format!("event = \"{}\" takes one event at a time, and the function has batch", shape.as_str()),
            "take batch out, or write another shape",
        );
    }
    Ok(shape)
}

fn read_slots(
    view: &View<'_, '_>,
    concurrency: &Result<Concurrency, Faulty>,
    runtime: &Result<Runtime, Faulty>,
) -> Result<u32, Faulty> {
    let slots = view.count(&keys::SLOTS)?;
    let reserved = concurrency.as_ref().ok().and_then(|concurrency| concurrency.reserved);
    match (slots, reserved) {
        (Some(slots), Some(reserved)) if slots > reserved => {
            let message = format!("slots ({slots}) is more than concurrency.reserved ({reserved})");
            let help = format!("write at most {reserved}, or reserve more");
            Err(view.document.fault(view.span_of(keys::SLOTS.name), message, help))
        }
        (Some(slots), _) => Ok(slots),
        // Its clients take one at a time, unless they are told otherwise.
        (None, _) if matches!(runtime, Ok(Runtime::Lambda)) => Ok(1),
        (None, reserved) => or_default(Ok(None), &keys::SLOTS).map(|slots| slots.min(reserved.unwrap_or(slots))),
    }
}

fn read_retry(view: &View<'_, '_>) -> Result<Retry, Faulty> {
    let Some(table) = view.table(&keys::RETRY)? else { return Ok(Retry::default()) };
    let attempts = or_default(table.count(&keys::ATTEMPTS), &keys::ATTEMPTS);
    let crashes = or_default(table.count(&keys::CRASHES), &keys::CRASHES);
    let max_age = or_default(table.duration(&keys::MAX_AGE), &keys::MAX_AGE);
    let backoff = read_backoff(&table);
    Ok(Retry { attempts: attempts?, crashes: crashes?, max_age: max_age?, backoff: backoff? })
}

fn read_backoff(view: &View<'_, '_>) -> Result<Backoff, Faulty> {
    let Some(table) = view.table(&keys::BACKOFF)? else { return Ok(Backoff::default()) };
    let first = or_default(table.duration(&keys::FIRST), &keys::FIRST);
    let factor = or_default(table.number(&keys::FACTOR), &keys::FACTOR);
    let given_max = table.duration(&keys::MAX);
    let jitter = or_default(table.number(&keys::JITTER), &keys::JITTER);
    let named = matches!(given_max, Ok(Some(_)));
    let (first, max) = (first?, or_default(given_max, &keys::MAX)?);
    if max < first {
        let span = table.span_of(if named { keys::MAX.name } else { keys::FIRST.name });
        let (max, first) = (duration::format(max), duration::format(first));
        let of = if named { "" } else { ", the default" };
        let message = format!("max ({max}{of}) is less than first ({first}) in backoff");
        return Err(view.document.fault(span, message, format!("write max = \"{first}\" or more")));
    }
    Ok(Backoff { first, factor: factor?, max, jitter: jitter? })
}

fn read_idempotency(view: &View<'_, '_>) -> Result<Idempotency, Faulty> {
    let Some(table) = view.table(&keys::IDEMPOTENCY)? else { return Ok(Idempotency::default()) };
    let key = table.text(&keys::KEY);
    let keep = or_default(table.duration(&keys::KEEP), &keys::KEEP);
    if let Ok(Some(pointer)) = &key {
        check_pointer(view.document, "idempotency.key", pointer, table.span_of(keys::KEY.name))?;
    }
    Ok(Idempotency { key: key?, keep: keep? })
}

/// A pointer must be one, and its first step must be something that an event can have.
fn check_pointer(document: &Document<'_>, name: &str, pointer: &str, span: Range<usize>) -> Result<(), Faulty> {
    let help = "write \"/data/\" and the name of a member, such as \"/data/order_id\"";
    let Some(path) = pointer.strip_prefix('/') else {
        let message = format!("{name} {pointer:?} is no JSON Pointer");
        let steps = pointer.trim_start_matches(['$', '.']);
        let steps = steps.strip_prefix("data.").unwrap_or(steps).replace('.', "/");
        let suggestion = format!("write \"/data/{steps}\"");
        return Err(document.fault(span, message, suggestion));
    };
    let escapes_are_whole = path.split('~').skip(1).all(|behind| behind.starts_with(['0', '1']));
    if !escapes_are_whole {
        return Err(document.fault(span, format!("{name} has a ~ that is neither ~0 nor ~1"), help));
    }
    let (first, deeper) = path.split_once('/').map_or((path, false), |(first, _)| (first, true));
    let is_attribute = !first.is_empty() && first.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let reachable = first == "data" || (is_attribute || first == "data_base64") && !deeper;
    if !reachable {
        let message = format!("{name} {pointer:?} points at nothing that an event has");
        return Err(document.fault(
            span,
            message,
            format!("write \"/data{pointer}\", or an attribute such as \"/id\""),
        ));
    }
    Ok(())
}

fn read_env(view: &View<'_, '_>) -> Result<BTreeMap<String, String>, Faulty> {
    let entries = view.text_map(&keys::ENV)?.unwrap_or_default();
    let mut variables = BTreeMap::new();
    let mut faulty = false;
    for entry in entries {
        let fault = if !env::is_name(&entry.name) {
            let message = format!("env: {:?} names no variable", entry.name);
            Some((entry.name_span, message, "write letters, digits and _, not starting with a digit"))
        } else if entry.name.starts_with("WEFT_") {
            Some((
                entry.name_span,
                format!("env: {} is reserved", entry.name),
                "write a name that does not begin with WEFT_",
            ))
        } else if let Err(problem) = env::check(&entry.text) {
            // The value itself is not shown: it may be a secret.
            Some((
                entry.text_span,
                format!("env: {}: {problem}", entry.name),
                "write ${NAME} or ${file:PATH}, or $${ for a plain ${",
            ))
        } else {
            None
        };
        match fault {
            Some((span, message, help)) => {
                view.document.fault(span, message, help);
                faulty = true;
            }
            None => {
                variables.insert(entry.name, entry.text);
            }
        }
    }
    if faulty { Err(Faulty) } else { Ok(variables) }
}
