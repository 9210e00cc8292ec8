//! What a caller names its request: pure.

use axum::http::HeaderMap;

/// Where an idempotency key may stand, the first that is there. The last is what AWS's SDKs send with each of the tries
/// that one call of theirs makes, so that a try again is none of its own.
const HEADERS: [&str; 3] = ["idempotency-key", "x-amz-client-token", "amz-sdk-invocation-id"];
/// Longest key, in bytes. With the request's source it is the invocation's key.
pub(super) const MOST_BYTES: usize = 255;

/// The caller's own key; `None`: it gave none.
///
/// # Errors
/// What is wrong with it, as a clause.
pub(super) fn given(headers: &HeaderMap) -> Result<Option<String>, String> {
    for name in HEADERS {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(format!("{name} is there more than once"));
        }
        let text = value.to_str().map_err(|_| format!("{name} holds more than printable ASCII"))?;
        return checked(name, text.trim()).map(Some);
    }
    Ok(None)
}

/// A key may stand in quotes, as the draft standard of the header has it
/// (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>), or without.
fn checked(name: &str, text: &str) -> Result<String, String> {
    let inner = match text.strip_prefix('"') {
        None => text,
        Some(rest) => rest.strip_suffix('"').ok_or_else(|| format!("{name} begins with a quote and ends without"))?,
    };
    let fits = (1..=MOST_BYTES).contains(&inner.len()) && inner.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if !fits || inner.contains(['"', '\\']) {
        return Err(format!("{name} is not 1 to {MOST_BYTES} characters of printable ASCII without quotes"));
    }
    Ok(inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, axum::http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_key_is_read_with_and_without_quotes_and_the_callers_own_before_the_clients() {
        let of = |entries: &[(&'static str, &'static str)]| given(&headers(entries));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("idempotency-key", "\"8e03978e\"")]), Ok(Some("8e03978e".to_owned())));
        assert_eq!(of(&[("idempotency-key", "8e03978e")]), Ok(Some("8e03978e".to_owned())));
        assert_eq!(of(&[("amz-sdk-invocation-id", "i"), ("x-amz-client-token", "t")]), Ok(Some("t".to_owned())));
        assert_eq!(of(&[("amz-sdk-invocation-id", "i")]), Ok(Some("i".to_owned())));
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_not_replaced() {
        for value in ["", "\"", "\"\"", "\"a", "a\"b", "\"a\\b\"", "\u{9}"] {
            assert!(given(&headers(&[("idempotency-key", value)])).is_err(), "{value:?}");
        }
        assert!(given(&headers(&[("idempotency-key", "a"), ("idempotency-key", "a")])).is_err());
        let long: &'static str = Box::leak("x".repeat(MOST_BYTES + 1).into_boxed_str());
        assert!(given(&headers(&[("idempotency-key", long)])).is_err());
    }
}
