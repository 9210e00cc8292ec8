#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::sample::{self, message_with};

fn text(value: &str) -> HeaderValue {
    HeaderValue::from(value)
}

/// The headers of a whole event, by one prefix.
fn attributes(prefix: &str) -> Vec<(String, HeaderValue)> {
    [("specversion", "1.0"), ("id", "7"), ("source", "/shop"), ("type", "orders.placed")]
        .into_iter()
        .map(|(name, value)| (format!("{prefix}{name}"), text(value)))
        .collect()
}

/// A binary message with one header changed or added.
fn binary_with(name: &str, value: HeaderValue) -> Message {
    let mut message = message_with(Some("application/json"), &[], "{}");
    message.headers.extend(attributes("cloudEvents_"));
    message.headers.insert(name.to_owned(), value);
    message
}

fn structured(document: &str) -> Result<Event, DecodeError> {
    Event::decode(&message_with(Some("application/cloudevents+json"), &[], document))
}

fn plain(id: &str, body: &str) -> Message {
    let mut message = message_with(Some("application/json"), &[], body);
    message.properties.message_id = Some(id.to_owned());
    message
}

#[track_caller]
fn refused(result: Result<Event, DecodeError>, part: &str) {
    match result {
        Err(DecodeError::Undecodable { what }) => assert!(what.contains(part), "{what:?} does not say {part:?}"),
        other => panic!("{other:?} is no refusal that says {part:?}"),
    }
}

/// JSON data as the structured form carries it: without the white space around it.
fn trimmed(event: &Event) -> Event {
    let mut event = event.clone();
    if event.data_json().is_some() {
        event.data = Bytes::copy_from_slice(event.data.trim_ascii());
    }
    event
}

proptest! {
    #[test]
    fn an_event_written_in_binary_mode_is_read_back(event in sample::event()) {
        let message = event.to_message("weft.events", &event.kind);
        prop_assert_eq!(Event::decode(&message).unwrap(), event);
    }

    #[test]
    fn an_event_written_with_colons_is_read_back(event in sample::event()) {
        let mut message = event.to_message("weft.events", &event.kind);
        message.headers = message
            .headers
            .into_iter()
            .map(|(name, value)| (name.replacen("cloudEvents_", "cloudEvents:", 1), value))
            .collect();
        prop_assert_eq!(Event::decode(&message).unwrap(), event);
    }

    #[test]
    fn an_event_written_in_structured_mode_is_read_back(event in sample::event()) {
        let document = event.to_structured_json();
        prop_assert_eq!(Event::from_structured_json(&document).unwrap(), trimmed(&event));
        let mut message = message_with(Some("Application/CloudEvents+JSON; charset=utf-8"), &[], "");
        message.body = Bytes::from(document);
        prop_assert_eq!(Event::decode(&message).unwrap(), trimmed(&event));
    }

    #[test]
    fn a_plain_json_message_is_read_as_what_was_published(
        id in "[ -~]{1,30}", exchange in "[a-z.]{0,9}", kind in "[a-z.]{1,20}", data in sample::json(), seconds in 0..4_000_000_000_u64,
    ) {
        let mut message = plain(&id, &data.to_string());
        message.exchange = exchange.clone();
        message.routing_key = kind.clone();
        message.properties.timestamp = Some(seconds);
        let event = Event::decode(&message).unwrap();
        prop_assert_eq!((event.id.as_str(), event.kind.as_str()), (id.as_str(), kind.as_str()));
        prop_assert_eq!(event.source.as_str(), format!("/{exchange}"));
        prop_assert_eq!(event.time.unwrap().as_second().cast_unsigned(), seconds);
        prop_assert_eq!(event.data_json().unwrap(), data);
    }

    #[test]
    fn any_message_is_decoded_or_refused_and_what_is_decoded_is_sound(message in sample::message(), pointer in any::<String>()) {
        if let Ok(event) = Event::decode(&message) {
            prop_assert_eq!(event.check(), Ok(()));
            prop_assert!(event.default_key().is_ok());
            event.digest();
            event.pointer(&pointer);
            event.pointer(&format!("/{pointer}"));
            // What was read can be written and read again.
            let again = Event::decode(&event.to_message("x", "y")).unwrap();
            prop_assert_eq!(again, event);
        }
        message.trace_context();
    }

    #[test]
    fn any_bytes_are_a_structured_event_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), near in sample::body()) {
        let _ = Event::from_structured_json(&bytes);
        let _ = Event::from_structured_json(&near);
    }

    #[test]
    fn a_cut_or_bent_structured_event_is_read_or_refused(event in sample::event(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut document = event.to_structured_json();
        let at = at.index(document.len());
        let _ = Event::from_structured_json(&document[..at]);
        document[at] = byte;
        let _ = Event::from_structured_json(&document);
    }

    #[test]
    fn json_written_anew_has_the_same_digest(event in sample::event(), value in sample::json(), other in sample::json()) {
        let of = |data: String| Event { data: data.into(), datacontenttype: None, ..event.clone() }.digest();
        prop_assert_eq!(of(value.to_string()), of(format!(" {value:#}\n")));
        prop_assert_eq!(of(value.to_string()) == of(other.to_string()), value == other);
    }

    #[test]
    fn two_pairs_of_source_and_id_never_share_a_key(a in "[a :#]{1,6}", b in "[a :#]{1,6}", c in "[a :#]{1,6}", d in "[a :#]{1,6}") {
        let key = |source: &str, id: &str| Event { id: id.into(), source: source.into(), ..Event::blank(Bytes::new()) }.default_key().unwrap();
        prop_assert_eq!(key(&a, &b) == key(&c, &d), (&a, &b) == (&c, &d));
    }
}

#[test]
fn native_header_types_become_canonical_text() {
    let time = Event::decode(&binary_with("cloudEvents_time", HeaderValue::Timestamp(1_700_000_000))).unwrap().time;
    assert_eq!(time.unwrap().to_string(), "2023-11-14T22:13:20Z");
    for (value, expected) in [
        (HeaderValue::Bool(true), Some("true")),
        (HeaderValue::I8(-3), Some("-3")),
        (HeaderValue::U32(4_000_000_000), Some("4000000000")),
        (HeaderValue::I64(i64::MIN), Some("-9223372036854775808")),
        (HeaderValue::Bytes(vec![1, 2, 255]), Some("AQL/")),
        (HeaderValue::Void, None),
    ] {
        let event = Event::decode(&binary_with("cloudEvents_x", value.clone())).unwrap();
        assert_eq!(event.extensions.get("x").map(String::as_str), expected, "{value:?}");
    }
}

#[test]
fn header_types_that_cloudevents_lacks_are_refused() {
    for value in [
        HeaderValue::F32(1.0),
        HeaderValue::F64(1.0),
        HeaderValue::Decimal { scale: 1, value: 2 },
        HeaderValue::Array(Vec::new()),
        HeaderValue::Table(BTreeMap::new()),
        HeaderValue::Opaque(vec![255]),
    ] {
        refused(Event::decode(&binary_with("cloudEvents_x", value)), "a type that CloudEvents lacks");
    }
    refused(Event::decode(&binary_with("cloudEvents_time", HeaderValue::Timestamp(u64::MAX))), "is no time");
}

#[test]
fn malformed_binary_envelopes_are_refused_with_what_is_wrong() {
    refused(Event::decode(&binary_with("cloudEvents:x", text("1"))), "both forms");
    refused(Event::decode(&binary_with("cloudEvents_specversion", text("0.3"))), "0.3 is not known");
    refused(Event::decode(&binary_with("cloudEvents_specversion", HeaderValue::Void)), "specversion is missing");
    refused(Event::decode(&binary_with("cloudEvents_Upper", text("1"))), "\"Upper\" is no attribute name");
    refused(Event::decode(&binary_with("cloudEvents_", text("1"))), "\"\" is no attribute name");
    refused(Event::decode(&binary_with("cloudEvents_data", text("1"))), "\"data\" is no attribute name");
    refused(Event::decode(&binary_with("cloudEvents_time", text("yesterday"))), "no RFC 3339 time");
    refused(Event::decode(&binary_with("cloudEvents_source", text(""))), "source is missing");
    refused(Event::decode(&binary_with("cloudEvents_type", text(""))), "type is missing");
    refused(Event::decode(&binary_with("cloudEvents_type", text(&"a".repeat(256)))), "longer than 255");
    refused(Event::decode(&binary_with("cloudEvents_id", text("a\nb"))), "control character");
    refused(Event::decode(&binary_with("cloudEvents_datacontenttype", text("text/plain"))), "disagree");
    let mut broken = binary_with("cloudEvents_x", text("1"));
    broken.body = Bytes::from_static(b"{\"a\":");
    refused(Event::decode(&broken), "says that it is JSON and is not");
    broken.properties.content_encoding = Some("gzip".into());
    refused(Event::decode(&broken), "compressed");
}

#[test]
fn an_event_without_any_id_is_told_from_one_that_cannot_be_read() {
    let nameless = binary_with("cloudEvents_id", HeaderValue::Void);
    assert_eq!(Event::decode(&nameless), Err(DecodeError::NoId));
    let mut named = nameless;
    named.properties.message_id = Some("m-1".into());
    assert_eq!(Event::decode(&named).unwrap().id, "m-1");
    assert_eq!(Event::decode(&message_with(Some("application/json"), &[], "{}")), Err(DecodeError::NoId));
    assert_eq!(Event::decode(&plain("", "{}")), Err(DecodeError::NoId));
    assert_eq!(structured(r#"{"specversion":"1.0","source":"/s","type":"t"}"#), Err(DecodeError::NoId));
    assert_eq!(structured(r#"{"specversion":"1.0","source":"/s","type":"t","id":null}"#), Err(DecodeError::NoId));
    refused(Event::decode(&message_with(Some("application/json"), &[], "{")), "is not");
}

#[test]
fn plain_messages_are_json_and_nothing_else() {
    for content_type in ["text/plain", "application/octet-stream", "application/jsonp"] {
        let mut message = plain("1", "{}");
        message.properties.content_type = Some(content_type.into());
        refused(Event::decode(&message), "neither a CloudEvent nor JSON");
    }
    for body in ["", "{", "\u{feff}{}", "{} x"] {
        refused(Event::decode(&plain("1", body)), "JSON");
        let mut untyped = plain("1", body);
        untyped.properties.content_type = None;
        refused(Event::decode(&untyped), "JSON");
    }
    let mut message = plain("1", "[1]");
    message.exchange.clear();
    message.properties.content_type = None;
    message.properties.content_encoding = Some("utf-8".into());
    message.properties.timestamp = Some(1_700_000_000_000_000);
    let event = Event::decode(&message).unwrap();
    assert_eq!((event.source.as_str(), event.datacontenttype, event.time), ("/", None, None));
    message.routing_key.clear();
    refused(Event::decode(&message), "type is missing");
}

#[test]
fn json_deeper_than_the_parser_goes_is_refused_in_every_mode() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(Event::decode(&plain("1", &deep)), "nested too deep");
    let mut binary = binary_with("cloudEvents_x", text("1"));
    binary.body = Bytes::from(deep.clone());
    refused(Event::decode(&binary), "nested too deep");
    refused(
        structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{deep}}}"#)),
        "nested too deep",
    );
}

#[test]
fn malformed_structured_documents_are_refused_with_what_is_wrong() {
    let with =
        |member: &str| structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{member}}}"#));
    refused(structured("[]"), "no JSON object");
    refused(structured(""), "no JSON object");
    refused(structured(r#"{"id":"1","source":"/s","type":"t"}"#), "specversion is missing");
    refused(with(r#""data":1,"data_base64":"AA==""#), "both data and data_base64");
    refused(with(r#""data_base64":"%""#), "no Base64");
    refused(with(r#""x":{}"#), "attribute x is neither");
    refused(with(r#""x":1.5"#), "attribute x is neither");
    refused(with(r#""X":"1""#), "no attribute name");
    refused(with(r#""datacontenttype":"application/cloudevents+json","data":{}"#), "a CloudEvent itself");
    for (content_type, part) in [
        ("application/cloudevents-batch+json", "a batch of events"),
        ("APPLICATION/CLOUDEVENTS-BATCH", "a batch of events"),
        ("application/cloudevents+avro", "another format than JSON"),
        ("application/cloudevents+protobuf; x=y", "another format than JSON"),
    ] {
        refused(Event::decode(&message_with(Some(content_type), &[], "[]")), part);
    }
}

#[test]
fn structured_data_keeps_its_bytes_and_other_text_is_unwrapped() {
    let data = |rest: &str| {
        let document = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{rest}}}"#);
        String::from_utf8(structured(&document).unwrap().data.to_vec()).unwrap()
    };
    assert_eq!(data(r#""data": {"b": 1.0,  "a":"\u00e9"} "#), r#"{"b": 1.0,  "a":"\u00e9"}"#);
    assert_eq!(data(r#""data":"text""#), "\"text\"");
    assert_eq!(data(r#""data":null"#), "null");
    assert_eq!(data(r#""datacontenttype":"text/plain","data":"text""#), "text");
    assert_eq!(data(r#""datacontenttype":"text/plain","data":{"a":1}"#), r#"{"a":1}"#);
    assert_eq!(data(r#""datacontenttype":"text/plain","data_base64":"dGV4dA==""#), "text");
    assert_eq!(data(r#""subject":null"#), "");
}

#[test]
fn structured_extensions_may_be_native_json() {
    let event =
        structured(r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","a":true,"b":-7,"c":null,"d":""}"#)
            .unwrap();
    let found: Vec<_> = event.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, [("a", "true"), ("b", "-7"), ("d", "")]);
}

#[test]
fn pointers_reach_what_can_be_a_key_and_nothing_else() {
    let data = r#"{"order_id":"o-1","n":18446744073709551615,"neg":-5,"f":1.5,"t":true,"z":null,"o":{"a/b":["x",{"m~n":"deep"}]},"":"blank"}"#;
    let mut event = Event::decode(&plain("m-1", data)).unwrap();
    event.extensions.insert("tenant".into(), "acme".into());
    for (pointer, expected) in [
        ("/data/order_id", Some("o-1")),
        ("/data/n", Some("18446744073709551615")),
        ("/data/neg", Some("-5")),
        ("/data/t", Some("true")),
        ("/data/o/a~1b/0", Some("x")),
        ("/data/o/a~1b/1/m~0n", Some("deep")),
        ("/data/", Some("blank")),
        ("/id", Some("m-1")),
        ("/type", Some("orders.placed")),
        ("/source", Some("/shop")),
        ("/specversion", Some("1.0")),
        ("/tenant", Some("acme")),
        ("/data/f", None),
        ("/data/z", None),
        ("/data/o", None),
        ("/data/o/a~1b/01", None),
        ("/data/missing", None),
        ("/data", None),
        ("/id/x", None),
        ("/subject", None),
        ("/data_base64", None),
        ("data/order_id", None),
        ("", None),
        ("/", None),
    ] {
        assert_eq!(event.pointer(pointer).as_deref(), expected, "{pointer}");
    }
    let text = Event { datacontenttype: Some("text/plain".into()), data: Bytes::from_static(b"hi"), ..event };
    assert_eq!(text.pointer("/data_base64").as_deref(), Some("aGk="));
    assert_eq!(text.pointer("/data"), None);
}

#[test]
fn only_type_content_type_and_data_count_for_the_digest() {
    let base = Event::decode(&plain("1", r#"{"a":1,"b":[true,null]}"#)).unwrap();
    let same = [
        Event { id: "2".into(), ..base.clone() },
        Event { source: "/other".into(), ..base.clone() },
        Event { time: Some(Timestamp::UNIX_EPOCH), ..base.clone() },
        Event { subject: Some("s".into()), ..base.clone() },
        Event { extensions: [("traceparent".to_owned(), "x".to_owned())].into(), ..base.clone() },
        Event { datacontenttype: None, ..base.clone() },
        Event { datacontenttype: Some("Application/JSON; charset=utf-8".into()), ..base.clone() },
        Event { data: Bytes::from_static(b" { \"b\" : [ true , null ], \"a\":1 } "), ..base.clone() },
        Event { data: Bytes::from_static(br#"{"\u0061":1,"b":[true,null]}"#), ..base.clone() },
    ];
    for event in same {
        assert_eq!(event.digest(), base.digest(), "{event:?}");
    }
    let other = [
        Event { kind: "orders.paid".into(), ..base.clone() },
        Event { datacontenttype: Some("text/plain".into()), ..base.clone() },
        Event { datacontenttype: Some("application/geo+json".into()), ..base.clone() },
        Event { data: Bytes::from_static(br#"{"a":1,"b":[null,true]}"#), ..base.clone() },
        Event { data: Bytes::from_static(br#"{"a":1.0,"b":[true,null]}"#), ..base.clone() },
        Event { data: Bytes::new(), ..base.clone() },
    ];
    for event in other {
        assert_ne!(event.digest(), base.digest(), "{event:?}");
    }
}

#[test]
fn the_digest_does_not_change_from_release_to_release() {
    // A change of this value makes every remembered key a mismatch: raise DIGEST_VERSION and say so in the changelog.
    let event = Event::decode(&plain("1", r#"{"b":2,"a":"é"}"#)).unwrap();
    let expected = Digest::of(&[&[1], b"orders.placed", b"application/json", "{\"a\":\"é\",\"b\":2}".as_bytes()]);
    assert_eq!(event.digest(), expected);
    assert_eq!(event.digest().to_hex(), "22c9d0906a624c9b6651103d3c24c8775860df8af709df57d04f153557f215e6");
}

#[test]
fn a_default_key_that_would_be_too_long_is_hashed() {
    let event = Event { id: "i".repeat(600), ..Event::decode(&plain("1", "{}")).unwrap() };
    let key = event.default_key().unwrap();
    assert!(key.as_str().starts_with("sha256:"), "{key}");
    let other = Event { id: "i".repeat(601), ..event.clone() };
    assert_ne!(other.default_key().unwrap(), key);
    assert_eq!(Event { id: "1".into(), ..event.clone() }.default_key().unwrap().as_str(), "/shop 1");
    assert!(Event { id: String::new(), ..event.clone() }.default_key().is_err());
    assert_eq!(event.to_message("", "q").properties.message_id, None, "AMQP cannot carry it");
}

#[test]
fn the_trace_of_the_way_is_preferred_to_that_of_the_making() {
    const WAY: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const MADE: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00";
    let mut message = binary_with("cloudEvents_traceparent", text(MADE));
    assert_eq!(message.trace_context().unwrap().traceparent, MADE);
    let trace = TraceContext { traceparent: WAY.into(), tracestate: Some("a=b".into()) };
    message.set_trace_context(&trace);
    assert_eq!(message.trace_context(), Some(trace));
    message.set_trace_context(&TraceContext { traceparent: WAY.into(), tracestate: None });
    assert_eq!(message.trace_context().unwrap().tracestate, None);
    let event = Event::decode(&message).unwrap();
    assert_eq!(event.trace_context().unwrap().traceparent, MADE);
    for broken in ["", "x", "00-0-0-0", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
        let mut message = plain("1", "{}");
        message.headers.insert("traceparent".into(), text(broken));
        assert_eq!(message.trace_context(), None, "{broken}");
    }
}

#[test]
fn depth_grows_by_a_step_and_changes_neither_digest_nor_key() {
    let mut cause = sample_event();
    assert_eq!(cause.depth(), 0);
    let (digest, key) = (cause.digest(), cause.default_key().unwrap());
    for depth in 1..4 {
        let mut emitted = sample_event();
        emitted.set_depth_after(&cause);
        emitted.set_depth_after(&cause);
        assert_eq!(emitted.depth(), depth, "repeating it adds nothing");
        assert_eq!((emitted.digest(), emitted.default_key().unwrap()), (digest, key.clone()));
        let arrived = Event::decode(&emitted.to_message("weft.events", &emitted.kind)).unwrap();
        assert_eq!(arrived.depth(), depth);
        cause = arrived;
    }
    cause.clear_depth();
    assert_eq!(cause, sample_event());
    for forged in ["-1", "", "many", "99999999999999999999"] {
        cause.extensions.insert(DEPTH_EXTENSION.to_owned(), forged.to_owned());
        assert_eq!(cause.depth(), 0, "{forged:?}");
    }
}

fn sample_event() -> Event {
    Event {
        id: "1".to_owned(),
        source: "/s".to_owned(),
        kind: "e".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: BTreeMap::new(),
        data: Bytes::from_static(b"{}"),
    }
}
