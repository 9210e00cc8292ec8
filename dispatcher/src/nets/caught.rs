//! What the broker's crash net caught: from which queue, why, and the message as it lay there. Pure.

use weft_schemas::message::Headers;
use weft_schemas::{ErrorInfo, FunctionName, HeaderValue, Message, Reason};

use crate::broker::Names;

/// A message that the broker gave up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caught {
    /// Whose queue it came from; `None` when that cannot be told, or when it was no function's.
    pub function: Option<FunctionName>,
    pub reason: Reason,
    pub error: ErrorInfo,
    /// With the exchange and the routing key that it lay in the queue with: the net's own say nothing.
    pub message: Message,
}

/// Reads the broker's account of a death: the newest entry of `x-death`.
///
/// A publisher may have forged older entries, which stand behind it.
pub(super) fn read(mut message: Message, names: &Names) -> Caught {
    let Some(death) = newest(&message.headers) else {
        let error =
            ErrorInfo::new("Stray", "somebody published it to the crash net, or the broker does not say whence");
        return Caught { function: None, reason: Reason::Unroutable, error, message };
    };
    let (queue, why) = (text(&death, "queue").unwrap_or_default(), text(&death, "reason").unwrap_or_default());
    let (reason, error) = explain(why, queue);
    let function = names.of_function(queue);
    let came_by = text(&death, "exchange").map(str::to_owned);
    let came_with = match death.get("routing-keys") {
        Some(HeaderValue::Array(keys)) => keys.first().and_then(HeaderValue::as_str).map(str::to_owned),
        _ => None,
    };
    if let Some(exchange) = came_by {
        message.exchange = exchange;
    }
    if let Some(routing_key) = came_with {
        message.routing_key = routing_key;
    }
    Caught { function, reason, error, message }
}

fn newest(headers: &Headers) -> Option<Headers> {
    match headers.get("x-death")? {
        HeaderValue::Array(deaths) => match deaths.first()? {
            HeaderValue::Table(death) => Some(death.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn text<'a>(table: &'a Headers, name: &str) -> Option<&'a str> {
    table.get(name).and_then(HeaderValue::as_str)
}

fn explain(why: &str, queue: &str) -> (Reason, ErrorInfo) {
    let (reason, kind, message) = match why {
        "delivery_limit" => (
            Reason::Crashed,
            "DeliveryLimit",
            format!(
                "the broker handed it out of {queue} as often as its delivery limit allows, and it was never settled"
            ),
        ),
        "rejected" => (Reason::Crashed, "Rejected", format!("somebody rejected it out of {queue}")),
        "expired" => (
            Reason::TooOld,
            "Expired",
            format!("the expiration that its publisher had set passed while it waited in {queue}"),
        ),
        "maxlen" => (Reason::Crashed, "QueueFull", format!("{queue} was full")),
        other => {
            (Reason::Crashed, "BrokerGaveUp", format!("the broker took it out of {queue}, giving as reason {other:?}"))
        }
    };
    (reason, ErrorInfo::new(kind, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn death(queue: &str, reason: &str) -> HeaderValue {
        let entries = [
            ("count", HeaderValue::I64(1)),
            ("reason", HeaderValue::from(reason)),
            ("queue", HeaderValue::from(queue)),
            ("exchange", HeaderValue::from("weft.events")),
            ("routing-keys", HeaderValue::Array(vec![HeaderValue::from("orders.placed"), HeaderValue::from("cc")])),
        ];
        HeaderValue::Table(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn caught(deaths: Option<HeaderValue>) -> Caught {
        let mut message = Message { exchange: "weft.crashed".into(), routing_key: "x".into(), ..Message::default() };
        message.headers.extend(deaths.map(|deaths| ("x-death".to_owned(), deaths)));
        read(message, &Names::new("weft"))
    }

    #[test]
    fn the_newest_death_names_the_function_and_where_the_message_lay() {
        let deaths = vec![death("weft.fn.charge", "delivery_limit"), death("weft.fn.forged", "rejected")];
        let caught = caught(Some(HeaderValue::Array(deaths)));
        assert_eq!(caught.function, Some(FunctionName::new("charge").unwrap()));
        assert_eq!((caught.reason, caught.error.kind.as_str()), (Reason::Crashed, "DeliveryLimit"));
        assert_eq!(
            (caught.message.exchange.as_str(), caught.message.routing_key.as_str()),
            ("weft.events", "orders.placed")
        );
    }

    #[test]
    fn each_of_the_broker_s_reasons_has_its_kind() {
        for (why, reason, kind) in [
            ("delivery_limit", Reason::Crashed, "DeliveryLimit"),
            ("rejected", Reason::Crashed, "Rejected"),
            ("expired", Reason::TooOld, "Expired"),
            ("maxlen", Reason::Crashed, "QueueFull"),
            ("of tomorrow", Reason::Crashed, "BrokerGaveUp"),
        ] {
            let caught = caught(Some(HeaderValue::Array(vec![death("weft.fn.charge", why)])));
            assert_eq!((caught.reason, caught.error.kind.as_str()), (reason, kind));
        }
    }

    #[test]
    fn what_has_no_death_or_none_of_a_function_is_nobody_s() {
        for deaths in [
            None,
            Some(HeaderValue::from("x")),
            Some(HeaderValue::Array(vec![])),
            Some(HeaderValue::Array(vec![HeaderValue::Void])),
            Some(HeaderValue::Array(vec![death("weft.dlq.charge", "rejected")])),
            Some(HeaderValue::Array(vec![death("weft.fn.NOT", "rejected")])),
            Some(HeaderValue::Array(vec![death("weft.fn.unrouted", "rejected")])),
        ] {
            assert_eq!(caught(deaths.clone()).function, None, "{deaths:?}");
        }
    }
}
