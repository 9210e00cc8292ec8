//! Turns an order into an invoice. A function for AWS Lambda on AWS's own client; nothing here knows of Weft.

use std::fmt;

use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

/// An order that will never have an invoice.
#[derive(Debug)]
struct InvalidOrder(String);

impl fmt::Display for InvalidOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidOrder {}

/// What the caller sees of it: the name that `terminal_errors` in weft.toml means.
impl From<InvalidOrder> for Diagnostic {
    fn from(error: InvalidOrder) -> Self {
        Self { error_type: "InvalidOrder".to_owned(), error_message: error.0 }
    }
}

async fn invoice(event: LambdaEvent<Value>) -> Result<Value, InvalidOrder> {
    let order = event.payload;
    let id = order["order_id"].as_str().ok_or_else(|| InvalidOrder("the order has no order_id".to_owned()))?;
    let lines = order["lines"].as_array().filter(|lines| !lines.is_empty());
    let lines = lines.ok_or_else(|| InvalidOrder(format!("order {id} has no lines")))?;
    let mut net = 0u64;
    for line in lines {
        let amount = line["quantity"].as_u64().zip(line["cents"].as_u64()).and_then(|(n, cents)| n.checked_mul(cents));
        let sum = amount.and_then(|amount| net.checked_add(amount));
        net = sum.ok_or_else(|| InvalidOrder(format!("order {id} has a line without quantity and cents")))?;
    }
    let vat = net.saturating_mul(19) / 100;
    println!("invoice for {id}, request {}", event.context.request_id);
    Ok(
        json!({ "invoice": format!("I-{id}"), "net_cents": net, "vat_cents": vat, "gross_cents": net.saturating_add(vat) }),
    )
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // Asks to be told before its worker is stopped. What has to be flushed then is flushed here.
    lambda_runtime::spawn_graceful_shutdown_handler(|| async { println!("stopping in good order") }).await;
    lambda_runtime::run(service_fn(invoice)).await
}
