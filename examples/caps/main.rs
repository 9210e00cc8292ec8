//! Orders of a customer one after the other, and documents a hundred at a time.

use serde::Deserialize;
use weft_worker::{BatchContext, BatchEvent, Context, Failure, Worker};

#[derive(Deserialize)]
struct Order {
    customer_id: String,
    number: u32,
}

/// The first order is declined at first: the customer's others wait until it has been charged, another customer's do not.
async fn charge(ctx: Context, order: Order) -> Result<(), Failure> {
    let Order { customer_id, number } = order;
    if number == 1 && ctx.attempt().0 == 1 {
        tracing::info!("declined {customer_id} {number}");
        return Err(Failure::retry("Declined", "the bank asks for another try"));
    }
    tracing::info!("charged {customer_id} {number}");
    Ok(())
}

#[derive(Deserialize)]
struct Document {
    text: String,
}

/// An answer for each event, in their order. What fails is tried again, or given up, without the others.
async fn index(_: BatchContext, events: Vec<BatchEvent<Document>>) -> Result<Vec<Result<usize, Failure>>, Failure> {
    tracing::info!("{} documents in one call", events.len());
    let words = |event: &BatchEvent<Document>| match event.data.text.split_whitespace().count() {
        0 => Err(Failure::terminal("Empty", "there is nothing to index")),
        words => Ok(words),
    };
    Ok(events.iter().map(words).collect())
}

fn main() -> std::process::ExitCode {
    Worker::new().handler("charge", charge).batch_handler("index", index).run()
}
