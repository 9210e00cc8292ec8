//! `create-order`: takes an order.

use weft_worker::{Context, Failure, params};

use crate::events::{OrderPlaced, PAYMENTS_REQUESTED, PaymentRequested, Receipt};

/// Writes the order, its lines and an audit record, and asks for the payment: all of it together with the ledger's own
/// row, so exactly once per order. A repeat is answered with the same receipt and does not come here.
///
/// # Errors
/// A total that is not the sum of the lines is terminal; a database that fails is retryable.
pub async fn create_order(ctx: Context, order: OrderPlaced) -> Result<Receipt, Failure> {
    if order.is_poison() {
        // The bug that this order stands for takes the whole process with it.
        std::process::abort();
    }
    if order.sum_minor() != Some(order.total_minor) {
        let text = format!("the lines of {} do not add up to {}", order.order_id, order.total_minor);
        return Err(Failure::terminal("WrongTotal", text));
    }
    let mut tx = ctx.transaction().await?;
    tx.execute(
        "insert into orders (order_id, customer_id, customer_name, currency, total_minor, placed_at) \
         values ($1, $2, $3, $4, $5, $6)",
        params![
            order.order_id.as_str(),
            order.customer.id.as_str(),
            order.customer.name.as_str(),
            order.currency.as_str(),
            order.total_minor,
            order.placed_at.as_str()
        ],
    )
    .await?;
    for line in &order.lines {
        tx.execute(
            "insert into order_lines (order_id, sku, name, quantity, unit_price_minor) values ($1, $2, $3, $4, $5)",
            params![
                order.order_id.as_str(),
                line.sku.as_str(),
                line.name.as_str(),
                line.quantity,
                line.unit_price_minor
            ],
        )
        .await?;
    }
    tx.execute(
        "insert into audit (order_id, action, attempt) values ($1, $2, $3)",
        params![order.order_id.as_str(), "created", i64::from(ctx.attempt().0)],
    )
    .await?;
    tx.emit(
        PAYMENTS_REQUESTED,
        &PaymentRequested {
            order_id: order.order_id.clone(),
            customer_id: order.customer.id,
            currency: order.currency.clone(),
            amount_minor: order.total_minor,
            provider: order.provider,
        },
    )?;
    tx.commit(Receipt {
        order_id: order.order_id,
        lines: order.lines.len(),
        currency: order.currency,
        total_minor: order.total_minor,
    })
    .await
}
