//! A shop on Weft: four functions that take an order, charge for it, tell the customer and count.
//!
//! It is three things: a program that a user runs (`orders`), the worker inside `weft demo`, and an oracle: a file of
//! orders with known trouble in it ([`dataset`]), the end state that must follow ([`model`]), and a judge that compares
//! that with what is there ([`judge`]).

pub mod dataset;
pub mod events;
pub mod handlers;
pub mod judge;
pub mod model;
mod tables;

use std::process::ExitCode;

use weft_worker::Worker;

pub use tables::prepare;

/// The whole worker program: serves the dispatcher that started this process. Call it first thing in `main`, outside of
/// any async runtime; [`Worker::run`] says what the exit status means.
pub fn worker_main() -> ExitCode {
    Worker::new()
        .handler("create-order", handlers::create_order)
        .handler("charge-payment", handlers::charge_payment)
        .handler("notify-customer", handlers::notify_customer)
        .handler("update-analytics", handlers::update_analytics)
        .run()
}
