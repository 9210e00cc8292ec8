//! Any message is an event or is refused; what was read can be written and is read back as the same event; and a
//! requeued message is still the same event, whatever its publisher wrote.
//!
//! An input is text headers, an empty line, and the body. `content-type`, `message-id`, `exchange` and `routing-key` set
//! the message's own; every other name is a header, a number where its value begins with `#`.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use weft_schemas::{Event, Fence, FunctionName, HeaderValue, Message, requeue};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(message) = message(input) else { return Corpus::Reject };
    check(&message);
    Corpus::Keep
});

fn message(input: &[u8]) -> Option<Message> {
    let end = input.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = (std::str::from_utf8(&input[..end]).ok()?, &input[end + 2..]);
    let mut message = Message { body: body.to_vec().into(), ..Message::default() };
    for line in head.lines() {
        let (name, value) = line.split_once(": ")?;
        match name {
            "content-type" => message.properties.content_type = Some(value.to_owned()),
            "message-id" => message.properties.message_id = Some(value.to_owned()),
            "exchange" => message.exchange = value.to_owned(),
            "routing-key" => message.routing_key = value.to_owned(),
            name => {
                let number = value.strip_prefix('#').and_then(|digits| digits.parse().ok());
                let value = number.map_or_else(|| HeaderValue::Text(value.to_owned()), HeaderValue::I64);
                message.headers.insert(name.to_owned(), value);
            }
        }
    }
    Some(message)
}

fn check(message: &Message) {
    let function = FunctionName::new("f").expect("a name");
    let retry = requeue::retry_message(message, "weft", &function, Fence(7));
    assert_eq!(requeue::resume_fence(&retry), Some(Fence(7)));
    assert_eq!(requeue::original(&retry), requeue::original(message), "a retry brings the original back");
    let Ok(event) = Event::decode(message) else { return };
    event.check().expect("what was read is valid");
    let _ = (event.default_key(), event.pointer("/a/0"), event.data_json());
    let again = Event::decode(&retry).expect("a retry of what was read can be read");
    assert_eq!(again.digest(), event.digest(), "a retry is the same event");
    assert_eq!(again.default_key().ok(), event.default_key().ok(), "a retry has the same key");
    let written = Event::decode(&event.to_message("weft.events", &event.kind)).expect("what was written can be read");
    assert_eq!(written.digest(), event.digest(), "what is written is read back");
}
