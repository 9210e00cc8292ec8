//! The environment of a Lambda worker, as AWS's own has it.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;

use jiff::Timestamp;
use weft_schemas::manifest::Function;

/// Where a function is said to be that names no region: AWS's own default.
const DEFAULT_REGION: &str = "us-east-1";
/// The account of a function that has none.
pub(super) const ACCOUNT: &str = "000000000000";

/// Adds what is the same for all workers of a function. What the manifest declares goes before defaults, and not before
/// what says which function it is.
pub(crate) fn of_function(function: &Function, root: &Path, env: &mut Vec<(OsString, OsString)>) {
    let region = region(env);
    let declared = |name: &str| env.iter().any(|(known, _)| known.as_os_str() == OsStr::new(name));
    let defaults = [
        ("AWS_REGION", region.clone()),
        ("AWS_DEFAULT_REGION", region),
        ("TZ", "UTC".to_owned()),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()),
        ("AWS_LAMBDA_LOG_LEVEL", "INFO".to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
    ];
    let given = function.env.contains_key("TZ");
    // One that the dispatcher has handed on is not declared.
    let missing: Vec<_> =
        defaults.into_iter().filter(|(name, _)| if *name == "TZ" { !given } else { !declared(name) }).collect();
    let mut ours: Vec<(&str, OsString)> = missing.into_iter().map(|(name, value)| (name, value.into())).collect();
    let mebibytes = (function.memory_bytes >> 20).max(1);
    ours.extend([
        ("AWS_LAMBDA_FUNCTION_NAME", function.name.as_str().into()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", mebibytes.to_string().into()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", function.name).into()),
        ("_HANDLER", function.handler.as_str().into()),
        ("LAMBDA_TASK_ROOT", root.as_os_str().to_owned()),
    ]);
    if function.slots > 1 {
        ours.push(("AWS_LAMBDA_MAX_CONCURRENCY", function.slots.to_string().into()));
    }
    for (name, value) in ours {
        env.retain(|(known, _)| known.as_os_str() != OsStr::new(name));
        env.push((name.into(), value));
    }
}

/// The name of a function as AWS's clients know it.
pub(crate) fn arn(function: &Function, env: &[(OsString, OsString)]) -> String {
    format!("arn:aws:lambda:{}:{ACCOUNT}:function:{}", region(env), function.name)
}

/// The region that is declared, or the default.
pub(super) fn region(env: &[(OsString, OsString)]) -> String {
    let declared = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| {
        let (_, value) = env.iter().find(|(known, _)| known.as_os_str() == OsStr::new(name))?;
        value.to_str().filter(|value| !value.is_empty()).map(str::to_owned)
    });
    declared.unwrap_or_else(|| DEFAULT_REGION.to_owned())
}

/// What is one worker's own: where its Runtime API is, and its log stream.
pub(crate) fn of_worker(api: SocketAddr, worker: &str, now: Timestamp) -> Vec<(OsString, OsString)> {
    let day = now.strftime("%Y/%m/%d");
    vec![
        ("AWS_LAMBDA_RUNTIME_API".into(), api.to_string().into()),
        ("AWS_LAMBDA_LOG_STREAM_NAME".into(), format!("{day}/[$LATEST]{worker}").into()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    use weft_schemas::manifest::Manifest;

    fn of(lines: &str, mut env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
        let text = format!(
            "[functions.f]\ncommand = [\"python3\", \"app.handler\"]\nruntime = \"lambda\"\nevents = [\"a.b\"]\n{lines}\n"
        );
        let function = Manifest::parse(&text, Path::new("/app")).unwrap().functions.into_values().next().unwrap();
        for (name, value) in &function.env {
            env.push((name.into(), value.into()));
        }
        of_function(&function, Path::new("/app/fn"), &mut env);
        env
    }

    fn value<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
        let mut found = env.iter().filter(|(known, _)| known.as_os_str() == OsStr::new(name));
        let value = found.next().map(|(_, value)| value.to_str().unwrap());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    #[test]
    fn a_worker_finds_every_variable_that_its_client_cannot_do_without() {
        let env = of("memory = \"128MiB\"", vec![("TZ".into(), "Europe/Berlin".into())]);
        for (name, wanted) in [
            ("AWS_LAMBDA_FUNCTION_NAME", "f"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("_HANDLER", "app.handler"),
            ("LAMBDA_TASK_ROOT", "/app/fn"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("TZ", "UTC"),
        ] {
            assert_eq!(value(&env, name), Some(wanted), "{name}");
        }
        assert_eq!(value(&env, "AWS_LAMBDA_MAX_CONCURRENCY"), None);
        assert_eq!(value(&of("slots = 4", vec![]), "AWS_LAMBDA_MAX_CONCURRENCY"), Some("4"));
    }

    #[test]
    fn what_is_declared_goes_before_defaults_and_not_before_who_it_is() {
        let lines =
            "env = { AWS_REGION = \"eu-central-1\", TZ = \"Asia/Tokyo\", AWS_LAMBDA_FUNCTION_NAME = \"other\" }";
        let env = of(lines, vec![]);
        assert_eq!(value(&env, "AWS_DEFAULT_REGION"), Some("eu-central-1"));
        assert_eq!((value(&env, "TZ"), value(&env, "AWS_LAMBDA_FUNCTION_NAME")), (Some("Asia/Tokyo"), Some("f")));
    }

    #[test]
    fn a_worker_finds_its_own_api_and_log_stream() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let env = of_worker("127.1.2.3:4567".parse().unwrap(), "f-7", now);
        assert_eq!(value(&env, "AWS_LAMBDA_RUNTIME_API"), Some("127.1.2.3:4567"));
        assert_eq!(value(&env, "AWS_LAMBDA_LOG_STREAM_NAME"), Some("2026/11/22/[$LATEST]f-7"));
    }
}
