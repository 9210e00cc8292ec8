//! AWS Signature Version 4: whether a request was signed by somebody who has one of our keys. Pure: time comes in.
//!
//! The algorithm is public (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
//! Only the `Authorization` header is read; a signature in the query, or one over chunks, is refused as none. The body's
//! hash is always that of the body, whatever a header says of it.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderValue};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::credentials::Credentials;
use super::error::ApiError;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the clocks of a caller may be off, in seconds; a signature is good for as long.
const SKEW_SECONDS: i64 = 300;
/// What is left as it is: the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request as it arrived, with path and query as they were sent.
pub(super) struct Signed<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What the header says.
#[derive(Debug)]
struct Authorization<'a> {
    access_key: &'a str,
    /// Date, region, service and the last word.
    scope: [&'a str; 4],
    signed_headers: Vec<&'a str>,
    signature: Vec<u8>,
}

/// Checks a signature.
///
/// # Errors
/// The exception that AWS's clients expect: there is none, it cannot be read, its key is not known, its time is too far
/// from ours, or it is not the request's.
pub(super) fn verify(request: &Signed<'_>, credentials: &Credentials, now: Timestamp) -> Result<(), ApiError> {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let Some(authorization) = header("authorization") else {
        let text = "the request is not signed: this API wants Signature Version 4 in the header Authorization";
        return Err(ApiError::signature("MissingAuthenticationTokenException", text));
    };
    let incomplete = |what: &str| ApiError::signature("IncompleteSignatureException", what.to_owned());
    let authorization = parse(authorization).map_err(incomplete)?;
    let date = header("x-amz-date").ok_or_else(|| incomplete("header x-amz-date is missing"))?;
    let signed_at = time_of(date).ok_or_else(|| incomplete("header x-amz-date is no time such as 20150830T123600Z"))?;
    if !date.starts_with(authorization.scope[0]) {
        return Err(incomplete("the credential's date is not that of x-amz-date"));
    }
    if !["host", "x-amz-date"].iter().all(|name| authorization.signed_headers.contains(name)) {
        return Err(incomplete("the headers host and x-amz-date have to be signed"));
    }
    let Some(secret) = credentials.secret(authorization.access_key) else {
        let text = "the access key is none of this dispatcher's";
        return Err(ApiError::signature("UnrecognizedClientException", text));
    };
    let canonical = canonical(request, &authorization.signed_headers);
    let to_sign =
        format!("{ALGORITHM}\n{date}\n{}\n{}", authorization.scope.join("/"), hex(&Sha256::digest(canonical)));
    let key = signing_key(secret, &authorization.scope);
    // In constant time, and before the clock is looked at: nobody learns of a key what its owner does not know.
    if keyed(&key, to_sign.as_bytes()).verify_slice(&authorization.signature).is_err() {
        let text = "the signature is not the request's; check the secret key and what signs the request";
        return Err(ApiError::signature("InvalidSignatureException", text));
    }
    let apart = now.as_second().saturating_sub(signed_at.as_second());
    if apart.abs() > SKEW_SECONDS {
        let how = if apart > 0 { "expired" } else { "not yet current" };
        let text = format!("the signature is {how}: it is {} s from this machine's clock", apart.abs());
        return Err(ApiError::signature("InvalidSignatureException", text));
    }
    Ok(())
}

/// A request that is to be signed: with no query, and no headers but the host and the date.
pub struct ToSign<'a> {
    pub method: &'a str,
    /// As the header `Host` will have it.
    pub host: &'a str,
    pub path: &'a str,
    pub body: &'a [u8],
}

/// The headers that sign a request; `None` where there is no key to sign with. Good for five minutes.
pub fn sign(credentials: &Credentials, request: &ToSign<'_>, now: Timestamp) -> Option<Vec<(&'static str, String)>> {
    let (access_key, secret) = credentials.any()?;
    let date = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = date.get(..8)?;
    let scope = [day, "us-east-1", "lambda", "aws4_request"];
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_str(request.host).ok()?);
    headers.insert("x-amz-date", HeaderValue::from_str(&date).ok()?);
    let signed_headers = ["host", "x-amz-date"];
    let ToSign { method, path, body, .. } = *request;
    let canonical = canonical(&Signed { method, path, query: "", headers: &headers, body }, &signed_headers);
    let to_sign = format!("{ALGORITHM}\n{date}\n{}\n{}", scope.join("/"), hex(&Sha256::digest(canonical)));
    let signature = hex(&keyed(&signing_key(secret, &scope), to_sign.as_bytes()).finalize().into_bytes());
    let authorization = format!(
        "{ALGORITHM} Credential={access_key}/{}, SignedHeaders={}, Signature={signature}",
        scope.join("/"),
        signed_headers.join(";"),
    );
    Some(vec![("x-amz-date", date), ("authorization", authorization)])
}

fn parse(header: &str) -> Result<Authorization<'_>, &'static str> {
    let rest = header.strip_prefix(ALGORITHM).ok_or("the signature's algorithm is not AWS4-HMAC-SHA256")?;
    let parts: BTreeMap<&str, &str> = rest.split(',').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().ok_or("Credential, SignedHeaders or Signature is missing");
    let mut credential = part("Credential")?.split('/');
    let mut next = || credential.next().filter(|part| !part.is_empty()).ok_or("the credential has not five parts");
    let access_key = next()?;
    let scope = [next()?, next()?, next()?, next()?];
    if credential.next().is_some() || scope[3] != "aws4_request" {
        return Err("the credential does not end in aws4_request");
    }
    let signature = unhex(part("Signature")?).ok_or("the signature is not hexadecimal")?;
    Ok(Authorization { access_key, scope, signed_headers: part("SignedHeaders")?.split(';').collect(), signature })
}

/// `20150830T123600Z`.
fn time_of(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn canonical(request: &Signed<'_>, signed_headers: &[&str]) -> String {
    let mut text =
        format!("{}\n{}\n{}\n", request.method, canonical_path(request.path), canonical_query(request.query));
    for name in signed_headers {
        let values: Vec<String> = request
            .headers
            .get_all(*name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        text.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    text.push_str(&format!("\n{}\n{}", signed_headers.join(";"), hex(&Sha256::digest(request.body))));
    text
}

/// Each segment encoded once more than it was sent.
fn canonical_path(path: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    path.split('/').map(|segment| utf8_percent_encode(segment, ENCODED).to_string()).collect::<Vec<_>>().join("/")
}

fn canonical_query(query: &str) -> String {
    let anew = |text: &str| utf8_percent_encode(&percent_decode_str(text).decode_utf8_lossy(), ENCODED).to_string();
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (anew(name), anew(value)))
        .collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn keyed(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    // A key of any length will do for an HMAC, so there is no error that could come; an empty one signs nothing of ours.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(text);
    mac
}

fn signing_key(secret: &str, scope: &[&str; 4]) -> Vec<u8> {
    let first = format!("AWS4{secret}").into_bytes();
    scope.iter().fold(first, |key, part| keyed(&key, part.as_bytes()).finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::HeaderName;

    use super::*;

    /// The key of the published examples.
    fn known() -> Credentials {
        Credentials::parse("AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap()
    }

    fn headers(entries: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn authorization(headers: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={headers}, Signature={signature}"
        )
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The published suite's `get-vanilla`, `get-vanilla-query-order-key-case` and `post-vanilla`.
    #[test]
    fn the_published_examples_verify() {
        let now = at("2015-08-30T12:36:00Z");
        for (method, query, signature) in [
            ("GET", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("GET", "Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
            ("POST", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let headers = headers(&[
                ("host", "example.amazonaws.com"),
                ("x-amz-date", "20150830T123600Z"),
                ("authorization", &authorization("host;x-amz-date", signature)),
            ]);
            let request = Signed { method, path: "/", query, headers: &headers, body: b"" };
            assert_eq!(verify(&request, &known(), now), Ok(()), "{method} {query}");
        }
    }

    #[test]
    fn what_is_signed_here_verifies_here() {
        let now = at("2026-01-02T03:04:05Z");
        let request = ToSign { method: "POST", host: "127.0.0.1:9001", path: "/a/b%20c", body: b"{}" };
        let signed = sign(&known(), &request, now).unwrap();
        let mut entries: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        entries.push(("host", "127.0.0.1:9001"));
        let headers = headers(&entries);
        let request = Signed { method: "POST", path: "/a/b%20c", query: "", headers: &headers, body: b"{}" };
        assert_eq!(verify(&request, &known(), now), Ok(()));
    }

    fn kind(request: &Signed<'_>, now: &str) -> &'static str {
        verify(request, &known(), at(now)).unwrap_err().kind
    }

    #[test]
    fn another_body_path_header_key_or_time_does_not_verify() {
        let signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let good = [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("authorization", &authorization("host;x-amz-date", signature)),
        ];
        let headers_of = |change: &[(usize, &'static str)]| {
            let mut entries: Vec<(&str, String)> = good.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
            for (at, value) in change {
                entries[*at].1 = (*value).to_owned();
            }
            headers(&entries.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>())
        };
        let now = "2015-08-30T12:36:00Z";
        fn request<'a>(headers: &'a HeaderMap, path: &'a str, body: &'a [u8]) -> Signed<'a> {
            Signed { method: "GET", path, query: "", headers, body }
        }
        let plain = headers_of(&[]);
        assert_eq!(kind(&request(&plain, "/", b"x"), now), "InvalidSignatureException");
        assert_eq!(kind(&request(&plain, "/other", b""), now), "InvalidSignatureException");
        let moved = headers_of(&[(0, "example.org")]);
        assert_eq!(kind(&request(&moved, "/", b""), now), "InvalidSignatureException");
        for (signed, now, known) in [
            (&plain, "2015-08-30T12:41:00Z", true),
            (&plain, "2015-08-30T12:41:01Z", false),
            (&plain, "2015-08-30T12:31:00Z", true),
            (&plain, "2015-08-30T12:30:59Z", false),
        ] {
            let verified = verify(&request(signed, "/", b""), &self::known(), at(now));
            assert_eq!(verified.is_ok(), known, "{now}: {verified:?}");
        }
        let unsigned = headers(&good[..2]);
        assert_eq!(kind(&request(&unsigned, "/", b""), now), "MissingAuthenticationTokenException");
        for (at, value, wanted) in [
            (2, "Bearer x", "IncompleteSignatureException"),
            (2, "AWS4-HMAC-SHA256 Credential=a/b/c", "IncompleteSignatureException"),
            (
                2,
                "AWS4-HMAC-SHA256 Credential=SOMEBODY/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=00",
                "UnrecognizedClientException",
            ),
            (
                2,
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host, Signature=00",
                "IncompleteSignatureException",
            ),
            (
                2,
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=0g",
                "IncompleteSignatureException",
            ),
            (1, "20150831T123600Z", "IncompleteSignatureException"),
            (1, "yesterday", "IncompleteSignatureException"),
        ] {
            let changed = headers_of(&[(at, value)]);
            assert_eq!(kind(&request(&changed, "/", b""), now), wanted, "{value}");
        }
    }
}
