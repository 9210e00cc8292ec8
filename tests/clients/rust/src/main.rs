//! `weft-test-lambda-rust`: a Lambda function as its author would write it, on AWS's own client, also with its graceful
//! shutdown.

use std::io::Write as _;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[derive(Debug)]
struct ValidationError(String);

impl std::fmt::Display for ValidationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ValidationError {}

impl From<ValidationError> for lambda_runtime::Diagnostic {
    fn from(error: ValidationError) -> Self {
        Self { error_type: "orders::ValidationError".to_owned(), error_message: error.0 }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if let Ok(marker) = std::env::var("TEST_SHUTDOWN") {
        lambda_runtime::spawn_graceful_shutdown_handler(move || async move {
            // It cannot tell anybody that it failed.
            let _ = std::fs::write(marker, "ended well");
        })
        .await;
    }
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, ValidationError> {
    let (payload, context) = event.into_parts();
    let ask = &payload["data"];
    let mut runs = 0;
    if let Some(path) = ask["runs"].as_str() {
        let line = format!("{}\n", context.request_id);
        let wrote = std::fs::File::options().create(true).append(true).open(path);
        // The test misses the line.
        let _ = wrote.and_then(|mut file| file.write_all(line.as_bytes()));
        runs = std::fs::read_to_string(path).unwrap_or_default().lines().count();
    }
    match ask["do"].as_str() {
        Some("fail") => Err(ValidationError("no customer".to_owned())),
        Some("retry") if runs < 2 => Err(ValidationError("not yet".to_owned())),
        Some("hang") => std::future::pending().await,
        _ => Ok(json!({
            "id": payload["id"], "function": context.env_config.function_name, "trace": context.xray_trace_id,
            "request": context.request_id, "runs": runs,
        })),
    }
}
