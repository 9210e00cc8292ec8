//! `notify-customer`: tells a customer that their order is paid.

use serde::{Deserialize, Serialize};
use weft_worker::{Context, Failure, params};

use crate::events::PaymentSettled;

/// What `notify-customer` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notified {
    pub order_id: String,
    /// The key that the mail service would be handed, so that it can drop a repeat.
    pub mail_key: String,
}

/// Writes a notification for the mail service to send, with a key that is the same in every attempt: mail goes out at
/// least once, and a service that honours the key sends it once.
///
/// # Errors
/// A database that fails is retryable.
pub async fn notify_customer(ctx: Context, payment: PaymentSettled) -> Result<Notified, Failure> {
    let mail_key = ctx.downstream_key("mail");
    let mut tx = ctx.transaction().await?;
    tx.execute(
        "insert into notifications (order_id, customer_id, mail_key, body) values ($1, $2, $3, $4)",
        params![
            payment.order_id.as_str(),
            payment.customer_id.as_str(),
            mail_key.as_str(),
            format!(
                "Your order {} is paid: {} {} (minor units). ✓",
                payment.order_id, payment.amount_minor, payment.currency
            )
        ],
    )
    .await?;
    tx.commit(Notified { order_id: payment.order_id, mail_key }).await
}
