//! Which operation a request asks for, and of which function: pure.

use axum::http::Method;
use percent_encoding::percent_decode_str;
use weft_schemas::FunctionName;

use super::error::ApiError;

/// The only version that a function has.
pub(super) const LATEST: &str = "$LATEST";

/// An operation, with the function that it is about as the caller named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Invoke(Named),
    /// The deprecated operation of its own: an invocation of type `Event`.
    InvokeAsync(Named),
    List,
    Get(Named),
    GetConfiguration(Named),
    GetConcurrency(Named),
    PutConcurrency(Named),
    DeleteConcurrency(Named),
}

/// A function as the caller named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// `None`: no name that a function here can have.
    pub function: Option<FunctionName>,
    /// As given, for messages.
    pub text: String,
    /// A version or an alias behind the name.
    pub qualifier: Option<String>,
}

/// Reads method and raw path.
///
/// # Errors
/// There is no such operation.
pub(super) fn call(method: &Method, path: &str) -> Result<Call, ApiError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (calls, allowed): (Vec<Call>, Vec<Method>) = match segments.as_slice() {
        ["2015-03-31", "functions"] => (vec![Call::List], vec![Method::GET]),
        ["2015-03-31", "functions", name] => (vec![Call::Get(named(name)?)], vec![Method::GET]),
        ["2015-03-31", "functions", name, "configuration"] => {
            (vec![Call::GetConfiguration(named(name)?)], vec![Method::GET])
        }
        ["2015-03-31", "functions", name, "invocations"] => (vec![Call::Invoke(named(name)?)], vec![Method::POST]),
        ["2014-11-13", "functions", name, "invoke-async"] => {
            (vec![Call::InvokeAsync(named(name)?)], vec![Method::POST])
        }
        ["2019-09-30", "functions", name, "concurrency"] => {
            (vec![Call::GetConcurrency(named(name)?)], vec![Method::GET])
        }
        ["2017-10-31", "functions", name, "concurrency"] => (
            vec![Call::PutConcurrency(named(name)?), Call::DeleteConcurrency(named(name)?)],
            vec![Method::PUT, Method::DELETE],
        ),
        _ => return Err(ApiError::unknown_operation()),
    };
    let found = calls.into_iter().zip(allowed).find(|(_, allowed)| allowed == method);
    found.map(|(call, _)| call).ok_or_else(ApiError::method)
}

/// Reads a name as clients send it: `NAME`, `NAME:QUALIFIER`, `ACCOUNT:function:NAME[:QUALIFIER]`, or a whole ARN
/// (`arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]`). Account and region are not looked at: there is one of each.
///
/// # Errors
/// It is none of these.
pub(super) fn named(raw: &str) -> Result<Named, ApiError> {
    let bad = || ApiError::parameter("the function's name is neither a name nor an ARN of a function");
    let text = percent_decode_str(raw).decode_utf8().map_err(|_| bad())?.into_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let rest = match parts.as_slice() {
        ["arn", _, "lambda", _, _, "function", rest @ ..] | [_, "function", rest @ ..] | ["function", rest @ ..] => {
            rest
        }
        rest => rest,
    };
    let (name, qualifier) = match rest {
        [name] => (*name, None),
        [name, qualifier] => (*name, Some((*qualifier).to_owned())),
        _ => return Err(bad()),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = !name.is_empty() && name.len() <= 140 && name.chars().all(plain);
    if !fits || qualifier.as_ref().is_some_and(String::is_empty) {
        return Err(bad());
    }
    Ok(Named { function: FunctionName::new(name).ok(), text: name.to_owned(), qualifier })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_function_is_named_in_every_way_in_which_clients_do() {
        for (text, name, qualifier) in [
            ("work", "work", None),
            ("work:$LATEST", "work", Some("$LATEST")),
            ("work%3Alive", "work", Some("live")),
            ("123456789012:function:work", "work", None),
            ("123456789012:function:work:7", "work", Some("7")),
            ("arn:aws:lambda:us-east-1:123456789012:function:work", "work", None),
            ("arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Awork%3Alive", "work", Some("live")),
            ("arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:work:%24LATEST", "work", Some("$LATEST")),
            ("function:work", "work", None),
        ] {
            let got = named(text).unwrap();
            assert_eq!((got.text.as_str(), got.qualifier.as_deref()), (name, qualifier), "{text}");
            assert_eq!(got.function.unwrap().as_str(), name);
        }
        // Fit for AWS, and none of ours can have it.
        assert_eq!(named("MyFunction").unwrap().function, None);
        for text in ["", ":", "a:b:c", "a%2Fb", "%ff", "work:", "arn:aws:s3:::function:x:y:z", "a b"] {
            let kind = named(text).unwrap_err().kind;
            assert_eq!(kind, "InvalidParameterValueException", "{text}");
        }
    }

    #[test]
    fn an_operation_is_told_by_method_and_path() {
        let of = |method: &Method, path: &str| call(method, path).map_err(|error| error.status.as_u16());
        let work = || named("work").unwrap();
        assert_eq!(of(&Method::GET, "/2015-03-31/functions/"), Ok(Call::List));
        assert_eq!(of(&Method::GET, "/2015-03-31/functions"), Ok(Call::List));
        assert_eq!(of(&Method::GET, "/2015-03-31/functions/work"), Ok(Call::Get(work())));
        assert_eq!(of(&Method::GET, "/2015-03-31/functions/work/configuration"), Ok(Call::GetConfiguration(work())));
        assert_eq!(of(&Method::POST, "/2015-03-31/functions/work/invocations"), Ok(Call::Invoke(work())));
        assert_eq!(of(&Method::POST, "/2014-11-13/functions/work/invoke-async/"), Ok(Call::InvokeAsync(work())));
        assert_eq!(of(&Method::GET, "/2019-09-30/functions/work/concurrency"), Ok(Call::GetConcurrency(work())));
        assert_eq!(of(&Method::PUT, "/2017-10-31/functions/work/concurrency"), Ok(Call::PutConcurrency(work())));
        assert_eq!(of(&Method::DELETE, "/2017-10-31/functions/work/concurrency"), Ok(Call::DeleteConcurrency(work())));
        assert_eq!(of(&Method::GET, "/2015-03-31/functions/work/invocations"), Err(405));
        assert_eq!(of(&Method::POST, "/2015-03-31/functions"), Err(405));
        for path in ["/", "", "/health", "/2015-03-31/functions/work/policy", "/2015-03-31/event-source-mappings"] {
            assert_eq!(of(&Method::GET, path), Err(404), "{path}");
        }
    }
}
