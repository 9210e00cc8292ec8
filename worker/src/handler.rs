//! Handlers by name, with their types erased to bytes in, bytes out.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::BatchHandler;
use crate::context::Context;
use crate::failure::Failure;
use crate::warm_up;

type Run = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// A handler whose event data and result are JSON bytes.
pub(crate) type Handler = Arc<dyn Fn(Context) -> Run + Send + Sync>;

/// The handlers and warm-ups that a program registers.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    handlers: BTreeMap<String, Handler>,
    batch_handlers: BTreeMap<String, BatchHandler>,
    /// Names that were registered more than once, in order of registration.
    duplicates: Vec<String>,
    /// In order of registration, which is the order in which they run.
    warm_ups: Vec<warm_up::Step>,
}

impl Registry {
    pub(crate) fn add(&mut self, name: &str, handler: Handler) {
        if self.is_new(name) {
            self.handlers.insert(name.to_owned(), handler);
        }
    }

    pub(crate) fn add_warm_up(&mut self, step: warm_up::Step) {
        self.warm_ups.push(step);
    }

    pub(crate) fn warm_ups(&self) -> &[warm_up::Step] {
        &self.warm_ups
    }

    pub(crate) fn add_batch(&mut self, name: &str, handler: BatchHandler) {
        if self.is_new(name) {
            self.batch_handlers.insert(name.to_owned(), handler);
        }
    }

    /// A name is one handler's, of either kind.
    fn is_new(&mut self, name: &str) -> bool {
        let known = self.handlers.contains_key(name) || self.batch_handlers.contains_key(name);
        if known {
            self.duplicates.push(name.to_owned());
        }
        !known
    }

    /// What is wrong with the registrations, for a person to read.
    pub(crate) fn fault(&self) -> Option<String> {
        let names = |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        if !self.duplicates.is_empty() {
            return Some(format!("handler registered more than once: {}", names(&self.duplicates)));
        }
        (self.handlers.is_empty() && self.batch_handlers.is_empty())
            .then(|| "the program registers no handler".to_owned())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Handler> {
        self.handlers.get(name).cloned()
    }

    pub(crate) fn get_batch(&self, name: &str) -> Option<BatchHandler> {
        self.batch_handlers.get(name).cloned()
    }

    /// Of the handlers of single events; sorted, without repetition.
    pub(crate) fn names(&self) -> Vec<String> {
        self.handlers.keys().cloned().collect()
    }

    /// Of the batch handlers; sorted, without repetition.
    pub(crate) fn batch_names(&self) -> Vec<String> {
        self.batch_handlers.keys().cloned().collect()
    }
}

/// Erases the types of a handler function.
pub(crate) fn erase<T, R, F, Fut>(f: F) -> Handler
where
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Failure>> + Send + 'static,
    T: DeserializeOwned,
    R: Serialize,
{
    Arc::new(move |ctx: Context| match parse::<T>(&ctx.event().data) {
        Ok(data) => {
            let most = ctx.services().max_result;
            let run = f(ctx, data);
            Box::pin(async move { to_json(&run.await?, most) }) as Run
        }
        Err(failure) => Box::pin(std::future::ready(Err(failure))),
    })
}

/// An event without data reads as JSON `null`, so that a handler that needs none may take `()`.
pub(crate) fn parse<T: DeserializeOwned>(data: &[u8]) -> Result<T, Failure> {
    let data = if data.is_empty() { b"null" } else { data };
    let mut json = serde_json::Deserializer::from_slice(data);
    let invalid = |message: String| Failure::terminal("InvalidData", message);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        invalid(format!("event data at {path}: {}", error.into_inner()))
    })?;
    json.end().map_err(|error| invalid(format!("event data: {error}")))?;
    Ok(value)
}

/// The stored form of a result.
///
/// # Errors
/// It does not serialise (retryable: a corrected program may be on its way), or is larger than `most` bytes (terminal).
pub(crate) fn to_json<R: Serialize>(result: &R, most: u64) -> Result<Bytes, Failure> {
    let json =
        serde_json::to_vec(result).map_err(|error| Failure::retry("ResultNotSerializable", error.to_string()))?;
    if json.len() as u64 > most {
        let text = format!("the result has {} bytes, max_result allows {most}", json.len());
        return Err(Failure::terminal("ResultTooLarge", text));
    }
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Order {
        #[expect(dead_code, reason = "only the shape matters here")]
        items: Vec<u32>,
    }

    #[test]
    fn invalid_data_is_terminal_and_names_the_place() {
        let failure = parse::<Order>(br#"{"items":[1,"two"]}"#).unwrap_err();
        assert!(failure.is_terminal());
        assert_eq!(failure.kind(), "InvalidData");
        assert!(failure.message().contains("items[1]"), "{}", failure.message());
    }

    #[test]
    fn no_data_reads_as_null_and_trailing_bytes_are_refused() {
        parse::<()>(b"").unwrap();
        assert_eq!(parse::<()>(b"null x").unwrap_err().kind(), "InvalidData");
    }

    #[test]
    fn a_result_that_cannot_be_kept_is_a_failure() {
        let map = std::collections::HashMap::from([(vec![1u8], 1)]);
        let failure = to_json(&map, 100).unwrap_err();
        assert_eq!(failure.kind(), "ResultNotSerializable");
        assert!(!failure.is_terminal());
        let failure = to_json(&"x".repeat(100), 100).unwrap_err();
        assert_eq!(failure.kind(), "ResultTooLarge");
        assert!(failure.is_terminal());
        assert_eq!(to_json(&"x".repeat(98), 100).unwrap().len(), 100);
    }
}
