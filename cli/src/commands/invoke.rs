//! `weft invoke`: one invocation by the Invoke API of a running dispatcher, and what it cost.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use weft_dispatcher::http::{Credentials, ToSign};
use weft_process::report::{Code, Exit, Report};

use crate::args;
use crate::show;

/// Longer than any function may take, and its start.
const LIMIT: Duration = Duration::from_secs(35 * 60);
/// How long a dispatcher may take to take the connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What the API answered.
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The last of its log; `None`: it was not run for this call.
    fn log(&self) -> Option<String> {
        let bytes = BASE64.decode(self.header("x-amz-log-result")?).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A measure that is a number in a header.
    fn measure(&self, name: &str) -> Option<f64> {
        self.header(name)?.parse().ok()
    }
}

pub async fn run(args: args::Invoke) -> Result<Exit, Report> {
    let address = match args.invoke {
        Some(args::Listening::At(address)) => address,
        Some(args::Listening::Off) | None => super::run::INVOKE,
    };
    let payload = super::publish::read_data(args.data.as_deref())?;
    let answered = call(&args, &address.to_string(), payload.to_vec()).await?;
    match answered.status {
        200 | 202 | 204 => {}
        _ => return Err(refused(&args, &answered)),
    }
    let failed = answered.header("x-amz-function-error").is_some();
    if args.json {
        let body: Value = serde_json::from_str(&answered.body).unwrap_or_else(|_| answered.body.clone().into());
        show::json(&json!({
            "status": answered.status,
            "function_error": answered.header("x-amz-function-error"),
            "payload": body,
            "key": answered.header("x-weft-key"),
            "request_id": answered.header("x-amzn-requestid"),
            "duration_ms": answered.measure("x-weft-duration-ms"),
            "billed_duration_ms": answered.measure("x-weft-billed-duration-ms"),
            "init_duration_ms": answered.measure("x-weft-init-duration-ms"),
            "memory_size_mb": answered.measure("x-weft-memory-size-mb"),
            "max_memory_used_mb": answered.measure("x-weft-max-memory-used-mb"),
            "log": answered.log(),
        }))?;
    } else {
        if !answered.body.is_empty() {
            show::line(&answered.body)?;
        }
        match answered.log() {
            Some(log) => eprint!("{log}"),
            None => eprintln!("{}", report_line(&answered)),
        }
    }
    if failed {
        let key = answered.header("x-weft-key").unwrap_or_default();
        return Err(Report::new(Code::InvocationFailed, format!("function {} failed", args.name))
            .help(format!("`weft invocations {key:?}` shows its attempts, `weft dlq ls` the dead letter")));
    }
    Ok(Exit::Ok)
}

async fn call(args: &args::Invoke, address: &str, payload: Vec<u8>) -> Result<Answered, Report> {
    let path = format!("/2015-03-31/functions/{}/invocations", args.name);
    let unreachable = |error: reqwest::Error| {
        Report::new(Code::ApiUnreachable, format!("failed to reach the Invoke API at {address}: {error}"))
            .help("start a dispatcher with --invoke HOST:PORT (`weft dev` opens 127.0.0.1:9001), or name its address with --invoke")
    };
    let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).timeout(LIMIT).build();
    let client = client.map_err(unreachable)?;
    let mut request = client.post(format!("http://{address}{path}"));
    if let Some(credentials) = super::run::credentials(args.invoke_credentials_file.as_deref())? {
        let now = Timestamp::now();
        let to_sign = ToSign { method: "POST", host: address, path: &path, body: &payload };
        for (name, value) in sign(&credentials, &to_sign, now)? {
            request = request.header(name, value);
        }
    }
    if args.asynchronous {
        request = request.header("x-amz-invocation-type", "Event");
    }
    if !args.asynchronous {
        request = request.header("x-amz-log-type", "Tail");
    }
    if let Some(key) = &args.key {
        request = request.header("idempotency-key", format!("\"{key}\""));
    }
    let response = request.body(payload).send().await.map_err(unreachable)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answered { status, headers, body: response.text().await.map_err(unreachable)? })
}

fn sign(
    credentials: &Credentials,
    request: &ToSign<'_>,
    now: Timestamp,
) -> Result<Vec<(&'static str, String)>, Report> {
    let signed = weft_dispatcher::http::sign(credentials, request, now);
    signed.ok_or_else(|| Report::new(Code::Setting, "failed to sign the call: there is no access key"))
}

/// What the API said instead of an answer.
fn refused(args: &args::Invoke, answered: &Answered) -> Report {
    let body: Value = serde_json::from_str(&answered.body).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or(&answered.body);
    let kind = answered.header("x-amzn-errortype").unwrap_or_default();
    let code = match answered.status {
        404 => Code::FunctionUnknown,
        401 | 403 => Code::ApiRefused,
        _ => Code::InvocationRefused,
    };
    let report = Report::new(code, format!("failed to invoke {}: {message} ({} {kind})", args.name, answered.status));
    match answered.status {
        404 => report.help("`weft functions` lists the functions of the manifest"),
        401 | 403 => report.help("name the API's access keys with --invoke-credentials-file"),
        429 | 503 | 504 => report.help("try again, with the same --key if it must not run twice"),
        _ => report,
    }
}

/// As Lambda logs it; what nobody has measured is left out.
fn report_line(answered: &Answered) -> String {
    let mut line = format!("REPORT RequestId: {}", answered.header("x-amzn-requestid").unwrap_or_default());
    let mut put = |what: &str, header: &str, unit: &str| {
        if let Some(value) = answered.header(header) {
            line.push_str(&format!("\t{what}: {value} {unit}"));
        }
    };
    put("Duration", "x-weft-duration-ms", "ms");
    put("Billed Duration", "x-weft-billed-duration-ms", "ms");
    put("Memory Size", "x-weft-memory-size-mb", "MB");
    put("Init Duration", "x-weft-init-duration-ms", "ms");
    if answered.status == 200 && answered.header("x-weft-duration-ms").is_none() {
        line.push_str("\tReplayed: from the ledger");
    }
    line
}
