use lambda_runtime::{run, service_fn, Error, LambdaEvent};
use serde_json::{json, Value};

/// One event in, one answer out. An error is tried again, as weft.toml says.
async fn hello(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let name = event.payload.pointer("/data/name").and_then(Value::as_str).unwrap_or("world");
    println!("greeting {name}, request {}", event.context.request_id);
    Ok(json!({ "greeting": format!("hello {name}") }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // Asks to be told before its worker is stopped.
    lambda_runtime::spawn_graceful_shutdown_handler(|| async {}).await;
    run(service_fn(hello)).await
}
