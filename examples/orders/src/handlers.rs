//! The shop's handlers, one to a file.

mod charge_payment;
mod create_order;
mod notify_customer;
mod update_analytics;

pub use charge_payment::charge_payment;
pub use create_order::create_order;
pub use notify_customer::{Notified, notify_customer};
pub use update_analytics::{Counted, update_analytics};
