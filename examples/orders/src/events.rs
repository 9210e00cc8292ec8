//! The events of the shop, typed. Money is in minor units of its currency (cents; whole yen).

use serde::{Deserialize, Serialize};

/// Type of the event that a shop front publishes; data: [`OrderPlaced`].
pub const ORDERS_PLACED: &str = "orders.placed";
/// Type of the event that `create-order` emits; data: [`PaymentRequested`].
pub const PAYMENTS_REQUESTED: &str = "payments.requested";
/// Type of the event that `charge-payment` emits; data: [`PaymentSettled`].
pub const PAYMENTS_SETTLED: &str = "payments.settled";

/// The article that makes `create-order` kill its own process, every time: a stand-in for a bug that takes the worker
/// with it (an abort in a native library, a stack overflow).
pub const POISON_SKU: &str = "poison-pill";
/// The payment provider that answers only at the third attempt.
pub const FLAKY_PROVIDER: &str = "flaky-bank";
/// The attempt at which [`FLAKY_PROVIDER`] answers.
pub const FLAKY_ANSWERS_AT: u32 = 3;

/// A customer has placed an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    pub order_id: String,
    /// RFC 3339, by the shop front's clock.
    pub placed_at: String,
    pub customer: Customer,
    /// ISO 4217.
    pub currency: String,
    /// At least one.
    pub lines: Vec<OrderLine>,
    /// Must be the sum of the lines.
    pub total_minor: i64,
    /// The payment provider's name.
    pub provider: String,
    /// For the courier. No effect depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Who ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    pub id: String,
    pub name: String,
}

/// One article of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    pub sku: String,
    pub name: String,
    /// From 1.
    pub quantity: i64,
    pub unit_price_minor: i64,
}

/// An order was taken and is to be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRequested {
    pub order_id: String,
    pub customer_id: String,
    pub currency: String,
    pub amount_minor: i64,
    pub provider: String,
}

/// An order has been paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentSettled {
    pub order_id: String,
    pub customer_id: String,
    pub currency: String,
    pub amount_minor: i64,
}

/// What `create-order` answers, to the first event of an order and to every repeat of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub order_id: String,
    pub lines: usize,
    pub currency: String,
    pub total_minor: i64,
}

impl OrderPlaced {
    /// The sum of the lines, or `None` when it does not fit.
    pub fn sum_minor(&self) -> Option<i64> {
        self.lines
            .iter()
            .try_fold(0_i64, |sum, line| sum.checked_add(line.quantity.checked_mul(line.unit_price_minor)?))
    }

    /// Whether it holds the article that kills the worker.
    pub fn is_poison(&self) -> bool {
        self.lines.iter().any(|line| line.sku == POISON_SKU)
    }
}
