//! What a request asks for, by its method and path.

use hyper::Method;

use super::machine::Refused;

/// One endpoint of the Runtime API, the Extensions API and the two that are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    InitError,
    Ping,
    Register,
    ExtensionNext,
    ExtensionInitError,
    ExtensionExitError,
    Logs,
    Telemetry,
}

impl<'a> Route<'a> {
    /// # Errors
    /// There is no such path, or it takes another method.
    pub(crate) fn of(method: &Method, path: &'a str) -> Result<Self, Refused> {
        let (route, wanted) = Self::by_path(path).ok_or(Refused::NotFound)?;
        if *method == wanted { Ok(route) } else { Err(Refused::Method) }
    }

    fn by_path(path: &'a str) -> Option<(Self, Method)> {
        if let Some(of_invocation) = path.strip_prefix("/2018-06-01/runtime/invocation/") {
            if of_invocation == "next" {
                return Some((Self::Next, Method::GET));
            }
            return match of_invocation.split_once('/')? {
                (id, "response") => Some((Self::Response(id), Method::POST)),
                (id, "error") => Some((Self::Error(id), Method::POST)),
                _ => None,
            };
        }
        Some(match path {
            "/2018-06-01/runtime/init/error" => (Self::InitError, Method::POST),
            "/2018-06-01/ping" => (Self::Ping, Method::GET),
            "/2020-01-01/extension/register" => (Self::Register, Method::POST),
            "/2020-01-01/extension/event/next" => (Self::ExtensionNext, Method::GET),
            "/2020-01-01/extension/init/error" => (Self::ExtensionInitError, Method::POST),
            "/2020-01-01/extension/exit/error" => (Self::ExtensionExitError, Method::POST),
            "/2020-08-15/logs" => (Self::Logs, Method::PUT),
            "/2022-07-01/telemetry" => (Self::Telemetry, Method::PUT),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_endpoint_has_its_path_and_its_method() {
        let base = "/2018-06-01/runtime";
        assert_eq!(Route::of(&Method::GET, &format!("{base}/invocation/next")), Ok(Route::Next));
        assert_eq!(Route::of(&Method::POST, &format!("{base}/invocation/a-b/response")), Ok(Route::Response("a-b")));
        assert_eq!(Route::of(&Method::POST, &format!("{base}/invocation//error")), Ok(Route::Error("")));
        assert_eq!(Route::of(&Method::POST, &format!("{base}/invocation/next")), Err(Refused::Method));
        for path in ["", "/", "/2018-06-01", "/2018-06-01/runtime/invocation/", "/2018-06-01/runtime/invocation/a/b/c"]
        {
            assert_eq!(Route::of(&Method::GET, path), Err(Refused::NotFound), "{path}");
        }
    }
}
