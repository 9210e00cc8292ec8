//! `charge-payment`: takes the money for an order.

use std::time::Duration;

use weft_worker::{Context, Failure, params};

use crate::events::{FLAKY_ANSWERS_AT, FLAKY_PROVIDER, PAYMENTS_SETTLED, PaymentRequested, PaymentSettled};

/// Takes the amount from the customer's account and writes the payment, together with the ledger's own row, so exactly
/// once per order; then says that it is paid.
///
/// # Errors
/// An account that holds too little is terminal. A provider that does not answer is retryable.
pub async fn charge_payment(ctx: Context, request: PaymentRequested) -> Result<PaymentSettled, Failure> {
    if request.provider == FLAKY_PROVIDER && ctx.attempt().0 < FLAKY_ANSWERS_AT {
        let text = format!("{FLAKY_PROVIDER} does not answer; it asks to be tried again in 100 ms");
        return Err(Failure::retry("ProviderUnavailable", text).after(Duration::from_millis(100)));
    }
    let mut tx = ctx.transaction().await?;
    // The condition stands in the statement, so two payments at once cannot both see enough.
    let taken = tx
        .execute(
            "update balances set amount_minor = amount_minor - $1 \
             where customer_id = $2 and currency = $3 and amount_minor >= $1",
            params![request.amount_minor, request.customer_id.as_str(), request.currency.as_str()],
        )
        .await?;
    if taken == 0 {
        tx.rollback().await;
        let text = format!(
            "the account of {} does not hold {} {}",
            request.customer_id, request.amount_minor, request.currency
        );
        return Err(Failure::terminal("InsufficientFunds", text));
    }
    tx.execute(
        "insert into payments (order_id, customer_id, currency, amount_minor, provider) values ($1, $2, $3, $4, $5)",
        params![
            request.order_id.as_str(),
            request.customer_id.as_str(),
            request.currency.as_str(),
            request.amount_minor,
            request.provider.as_str()
        ],
    )
    .await?;
    let settled = PaymentSettled {
        order_id: request.order_id,
        customer_id: request.customer_id,
        currency: request.currency,
        amount_minor: request.amount_minor,
    };
    tx.emit(PAYMENTS_SETTLED, &settled)?;
    tx.commit(settled).await
}
