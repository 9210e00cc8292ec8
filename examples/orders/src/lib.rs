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

use std::io;
use std::path::Path;
use std::process::ExitCode;

use weft_schemas::manifest::{Faults, Manifest};
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

/// The example's `weft.toml` as it was built in, schema included, so that it needs no files. Its commands are the
/// file's own: who runs it elsewhere puts others in their place.
///
/// # Errors
/// The file has faults: a defect, which a test excludes.
pub fn manifest() -> Result<Manifest, Faults> {
    let schema = |path: &Path| {
        if path.ends_with("schemas/order-placed.json") {
            Ok(include_str!("../schemas/order-placed.json").to_owned())
        } else {
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    };
    Manifest::parse_with(include_str!("../weft.toml"), Path::new("weft.toml"), Path::new("/"), &schema)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manifest_that_is_built_in_has_no_faults() {
        let faults = super::manifest().err().map(|faults| faults.to_string());
        assert_eq!(faults, None);
    }
}
