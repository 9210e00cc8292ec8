//! The shapes of events, judged by AWS's own models of them: those of Powertools for Python.

use std::time::Duration;

use jiff::Timestamp;
use weft_schemas::shape::{Envelope, Item, Shape};
use weft_schemas::{Attempt, Event, FunctionName};
use weft_tests::Process;

const LIMIT: Duration = Duration::from_secs(60);

/// Reads one request, checks it with the model of its shape and prints what a function sees of the event.
const JUDGE: &str = r#"
import json, sys
from aws_lambda_powertools.utilities.parser.models import EventBridgeModel, SnsModel, SqsModel
from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.data_classes.rabbit_mq_event import RabbitMQEvent

shape, request = sys.argv[1], json.loads(sys.argv[2])
if shape == "aws:sqs":
    seen = [record.body for record in SqsModel(**request).Records]
    raw = list(SQSEvent(request).records)
    assert [r.attributes.approximate_receive_count for r in raw] == ["2"] * len(seen)
    assert raw[0].message_attributes["cloudEvents_type"].string_value == "orders.placed"
    assert raw[0].queue_url == "https://sqs.us-east-1.amazonaws.com/000000000000/weft.validate"
elif shape == "aws:sns":
    seen = [record.Sns.Message for record in SnsModel(**request).Records]
elif shape == "aws:eventbridge":
    event = EventBridgeModel(**request)
    assert event.detail_type == "orders.placed"
    seen = [json.dumps(event.detail)]
elif shape == "aws:rmq":
    event = RabbitMQEvent(request)
    messages = event.rmq_messages_by_queue["weft.validate::/"]
    assert messages[0].basic_properties.delivery_mode == 2 and messages[0].redelivered is True
    seen = [message.decoded_data for message in messages]
print(json.dumps([json.loads(text) for text in seen]))
"#;

#[tokio::test]
async fn aws_own_models_accept_every_shape() {
    let event = |id: &str| {
        let text = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"orders.placed","subject":"o-1",
                "time":"2026-11-22T15:04:05.678Z","datacontenttype":"application/json","data":{{"order":"{id}"}}}}"#
        );
        Event::from_structured_json(text.as_bytes()).unwrap()
    };
    let events = [event("a"), event("b")].map(|event| (event.default_key().unwrap(), event));
    let function = FunctionName::new("validate").unwrap();
    let python = weft_tests::python();
    for shape in [Shape::Sqs, Shape::Rmq, Shape::Sns, Shape::EventBridge] {
        let count = if shape.takes_batches() { 2 } else { 1 };
        let envelope = Envelope {
            shape,
            batch: shape.takes_batches(),
            function: &function,
            queue: "weft.validate",
            vhost: "/",
            region: "us-east-1",
            account: "000000000000",
        };
        let items = events.iter().take(count).map(|(key, event)| Item {
            event,
            key,
            attempt: Attempt(2),
            received: Timestamp::from_second(1_795_359_850).unwrap(),
            trace: None,
        });
        let request = envelope.request(&items.collect::<Vec<_>>());
        let request = std::str::from_utf8(&request).unwrap();
        let judge = Process::at(&python).args(["-c", JUDGE, shape.as_str(), request]);
        let seen = judge.run(LIMIT).await.success().text();
        let expected = if count == 2 { r#"[{"order": "a"}, {"order": "b"}]"# } else { r#"[{"order": "a"}]"# };
        assert_eq!(seen.trim(), expected, "{shape:?}");
    }
}
