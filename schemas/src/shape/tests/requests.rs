//! What functions get.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Given, event, order};
use crate::shape::Shape;
use crate::{Event, sample};

#[test]
fn every_word_names_one_shape() {
    for shape in Shape::ALL {
        assert_eq!(Shape::parse(shape.as_str()), Some(shape));
    }
    assert_eq!(Shape::parse("aws:kinesis"), None);
    assert_eq!(Shape::default().as_str(), "cloudevent");
}

#[test]
fn a_cloudevent_comes_in_its_json_form() {
    let given = Given::orders(Shape::CloudEvent, false, 1);
    assert_eq!(Event::from_structured_json(&given.request(1)).unwrap(), given.events[0].0);
}

#[test]
fn data_that_is_json_is_kept_byte_for_byte() {
    for (content_type, data, expected) in [
        (Some("application/json"), br#"{ "total": 1.10 }"#.as_slice(), r#"{ "total": 1.10 }"#),
        (None, b"123456789012345678901234567890", "123456789012345678901234567890"),
        (Some("text/plain"), b"{\"a\":1}", r#""{\"a\":1}""#),
        (Some("text/plain"), b"", "null"),
        (Some("application/octet-stream"), b"\xff\xfe", "\"//4=\""),
    ] {
        assert_eq!(Given::new(Shape::Data, false, [event("e", content_type, data)]).text(), expected);
    }
}

#[test]
fn a_batch_is_a_list_even_of_one() {
    let one = r#"{ "total": 1.10 }"#;
    assert_eq!(Given::orders(Shape::Data, true, 1).text(), format!("[{one}]"));
    assert_eq!(Given::orders(Shape::Data, true, 2).text(), format!("[{one},{one}]"));
    let events = Given::orders(Shape::CloudEvent, true, 3).json();
    assert_eq!(events.as_array().unwrap().iter().map(|event| &event["id"]).collect::<Vec<_>>(), ["e0", "e1", "e2"]);
}

#[test]
fn an_sqs_record_has_every_member_that_amazon_documents() {
    let given = Given::orders(Shape::Sqs, false, 1);
    let mut record = given.json()["Records"][0].take();
    let id = record["messageId"].take();
    let id = id.as_str().unwrap();
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(record["receiptHandle"].take().as_str().unwrap().len(), 64);
    assert_eq!(record["md5OfMessageAttributes"].take().as_str().unwrap().len(), 32);
    let attribute = |value: &str| json!({ "stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String" });
    assert_eq!(
        record,
        json!({
            "messageId": null,
            "receiptHandle": null,
            "body": "{ \"total\": 1.10 }",
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1795359845678",
                "SenderId": "000000000000",
                "ApproximateFirstReceiveTimestamp": "1795359850000",
                "AWSTraceHeader": "Root=1-2-3",
            },
            "messageAttributes": {
                "cloudEvents_specversion": attribute("1.0"),
                "cloudEvents_id": attribute("e0"),
                "cloudEvents_source": attribute("/shop"),
                "cloudEvents_type": attribute("orders.placed"),
                "cloudEvents_subject": attribute("o-1"),
                "cloudEvents_time": attribute("2026-11-22T15:04:05.678Z"),
            },
            "md5OfBody": "88d2a8a9ed4db3b774402d9be359cf42",
            "md5OfMessageAttributes": null,
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:weft.validate",
            "awsRegion": "us-east-1",
        })
    );
}

#[test]
fn a_message_has_one_id_over_its_attempts_and_another_for_another_event() {
    let id = |given: &Given, attempt| {
        let request: Value = serde_json::from_slice(&given.request(attempt)).unwrap();
        (request["Records"][0]["messageId"].clone(), request["Records"][0]["receiptHandle"].clone())
    };
    let given = Given::orders(Shape::Sqs, false, 1);
    let (first, second) = (id(&given, 1), id(&given, 2));
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1, "a receipt is an attempt's");
    assert_ne!(first.0, id(&Given::new(Shape::Sqs, false, [order("other")]), 1).0);
}

#[test]
fn an_attempt_is_told_as_a_count_of_receives() {
    let given = Given::orders(Shape::Sqs, false, 1);
    let request: Value = serde_json::from_slice(&given.request(3)).unwrap();
    assert_eq!(request["Records"][0]["attributes"]["ApproximateReceiveCount"], "3");
    let given = Given::orders(Shape::Rmq, false, 1);
    let redelivered = |attempt| {
        let request: Value = serde_json::from_slice(&given.request(attempt)).unwrap();
        request["rmqMessagesByQueue"]["weft.validate::/"][0]["redelivered"].clone()
    };
    assert_eq!((redelivered(1), redelivered(2)), (json!(false), json!(true)));
}

#[test]
fn an_event_without_a_time_was_sent_when_it_was_received() {
    let mut event = order("e");
    event.time = None;
    let request = Given::new(Shape::Sqs, false, [event]).json();
    assert_eq!(request["Records"][0]["attributes"]["SentTimestamp"], "1795359850000");
}

#[test]
fn rabbitmq_messages_stand_under_their_queue_and_virtual_host() {
    let given = Given::orders(Shape::Rmq, true, 2);
    let request = given.json();
    assert_eq!(request["eventSource"], "aws:rmq");
    assert!(
        request["eventSourceArn"].as_str().unwrap().starts_with("arn:aws:mq:us-east-1:000000000000:broker:weft:b-")
    );
    let queues = request["rmqMessagesByQueue"].as_object().unwrap();
    assert_eq!(queues.keys().collect::<Vec<_>>(), ["weft.validate::/"]);
    let messages = queues["weft.validate::/"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    let mut first = messages[0].clone();
    let headers = first["basicProperties"]["headers"].take();
    assert_eq!(headers["cloudEvents_source"], json!({ "bytes": b"/shop" }));
    assert_eq!(
        first,
        json!({
            "basicProperties": {
                "contentType": "application/json",
                "contentEncoding": null,
                "headers": null,
                "deliveryMode": 2,
                "priority": null,
                "correlationId": null,
                "replyTo": null,
                "expiration": null,
                "messageId": "e0",
                "timestamp": "Nov 22, 2026, 3:04:05 PM",
                "type": null,
                "userId": null,
                "appId": null,
                "clusterId": null,
                "bodySize": 17,
            },
            "redelivered": false,
            "data": BASE64.encode(br#"{ "total": 1.10 }"#),
        })
    );
}

#[test]
fn a_notification_has_the_form_of_sns() {
    let mut request = Given::orders(Shape::Sns, false, 1).json();
    let mut record = request["Records"][0].take();
    let id = record["Sns"]["MessageId"].take();
    assert!(id.is_string());
    let attributes = record["Sns"]["MessageAttributes"].take();
    assert_eq!(attributes["cloudEvents_id"], json!({ "Type": "String", "Value": "e0" }));
    assert_eq!(
        record,
        json!({
            "EventVersion": "1.0",
            "EventSubscriptionArn": "arn:aws:sns:us-east-1:000000000000:orders-placed:validate",
            "EventSource": "aws:sns",
            "Sns": {
                "SignatureVersion": "1",
                "Timestamp": "2026-11-22T15:04:05.678Z",
                "Signature": "",
                "SigningCertUrl": "https://sns.invalid/",
                "MessageId": null,
                "Message": "{ \"total\": 1.10 }",
                "MessageAttributes": null,
                "Type": "Notification",
                "UnsubscribeUrl": "https://sns.invalid/",
                "TopicArn": "arn:aws:sns:us-east-1:000000000000:orders-placed",
                "Subject": "o-1",
            },
        })
    );
}

#[test]
fn an_eventbridge_event_carries_the_data_as_its_detail() {
    let given = Given::orders(Shape::EventBridge, false, 1);
    assert_eq!(
        given.json(),
        json!({
            "version": "0",
            "id": "e0",
            "detail-type": "orders.placed",
            "source": "/shop",
            "account": "000000000000",
            "time": "2026-11-22T15:04:05Z",
            "region": "us-east-1",
            "resources": ["o-1"],
            "detail": { "total": 1.1 },
        })
    );
    assert!(given.text().contains(r#""detail":{ "total": 1.10 }"#), "{}", given.text());
    for (content_type, data, detail) in [
        (None, b"".as_slice(), json!({})),
        (None, b"[1]", json!({ "data": [1] })),
        (Some("text/plain"), b"hello", json!({ "data": "hello" })),
    ] {
        assert_eq!(Given::new(Shape::EventBridge, false, [event("e", content_type, data)]).json()["detail"], detail);
    }
}

proptest! {
    #[test]
    fn every_request_is_json_and_loses_no_data(events in prop::collection::vec(sample::event(), 1..4), batch: bool) {
        let events: Vec<Event> = events.into_iter().filter(|event| event.default_key().is_ok()).collect();
        prop_assume!(!events.is_empty());
        for shape in Shape::ALL {
            let events = if batch && shape.takes_batches() { events.clone() } else { vec![events[0].clone()] };
            let given = Given::new(shape, batch, events.clone());
            let request = given.json();
            let bytes = |data: &Value| {
                let text = data.as_str().unwrap();
                if shape == Shape::Rmq { BASE64.decode(text).unwrap() } else { text.as_bytes().to_vec() }
            };
            for (n, event) in events.iter().enumerate() {
                let as_text = match std::str::from_utf8(&event.data) {
                    Ok(text) => text.as_bytes().to_vec(),
                    Err(_) => BASE64.encode(&event.data).into_bytes(),
                };
                match shape {
                    Shape::Sqs => prop_assert_eq!(bytes(&request["Records"][n]["body"]), as_text),
                    Shape::Sns => prop_assert_eq!(bytes(&request["Records"][n]["Sns"]["Message"]), as_text),
                    Shape::Rmq => {
                        prop_assert_eq!(bytes(&request["rmqMessagesByQueue"]["weft.validate::/"][n]["data"]), event.data.to_vec());
                    }
                    Shape::CloudEvent | Shape::Data => prop_assert_eq!(request.is_array() || !batch, true),
                    Shape::EventBridge => prop_assert!(request["detail"].is_object()),
                }
            }
            prop_assert_eq!(given.request(1), given.request(1));
        }
    }
}
