//! `update-analytics`: counts what is sold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_worker::{Context, Failure};

use crate::events::OrderPlaced;

/// What `update-analytics` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub order_id: String,
    /// How many counters the order moved.
    pub counters: usize,
}

/// Counts orders and units by article, and the turnover by currency, in the function's state. Each counter is moved
/// once per order, also when an attempt dies between two of them.
///
/// # Errors
/// A store that fails is retryable; amounts that do not fit are terminal.
pub async fn update_analytics(ctx: Context, order: OrderPlaced) -> Result<Counted, Failure> {
    let counters = counters(&order).ok_or_else(|| {
        Failure::terminal("TooLarge", format!("the amounts of {} do not fit a counter", order.order_id))
    })?;
    let state = ctx.state().await?.once();
    for (name, &by) in &counters {
        state.increment(name, by).await?;
    }
    Ok(Counted { order_id: order.order_id, counters: counters.len() })
}

/// The counters that an order moves, and by how much. Each stands once: the same name twice would count once.
fn counters(order: &OrderPlaced) -> Option<BTreeMap<String, i64>> {
    let mut counters = BTreeMap::from([(format!("turnover:{}", order.currency), order.total_minor)]);
    for line in &order.lines {
        counters.insert(format!("orders:{}", line.sku), 1);
        let units = counters.entry(format!("units:{}", line.sku)).or_default();
        *units = units.checked_add(line.quantity)?;
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Customer, OrderLine};

    #[test]
    fn an_article_on_two_lines_is_one_order_and_the_sum_of_its_units() {
        let line = |quantity| OrderLine { sku: "cup".into(), name: "Cup".into(), quantity, unit_price_minor: 5 };
        let order = OrderPlaced {
            order_id: "A-0001".into(),
            placed_at: String::new(),
            customer: Customer { id: "C-101".into(), name: "N".into() },
            currency: "EUR".into(),
            lines: vec![line(2), line(3)],
            total_minor: 25,
            provider: "p".into(),
            note: None,
        };
        let expected = [("orders:cup", 1), ("turnover:EUR", 25), ("units:cup", 5)];
        assert_eq!(counters(&order), Some(expected.map(|(name, n)| (name.to_owned(), n)).into()));
    }
}
