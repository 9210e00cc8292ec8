//! Reads what is there: ledger, tables, counters.

use std::collections::BTreeMap;

use weft_ledger::join::{JoinError, Joiner};
use weft_ledger::{DeadLetterQuery, InvocationQuery, Ledger};
use weft_process::secret::Address;
use weft_schemas::FunctionName;
use weft_schemas::name::NameError;

use super::{ANALYTICS, FUNCTIONS, Observed, TABLES};
use crate::dataset;

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The ledger could not be read.
    #[error("read the ledger's invocations and dead letters")]
    Ledger(#[from] weft_ledger::Error),
    /// The shop's tables could not be read: the database cannot be used, or was not prepared.
    #[error("read the shop's tables (has the database been prepared?)")]
    Tables(#[from] JoinError),
    /// The counters could not be read.
    #[error("read the counters: {what}")]
    State { what: String },
    /// A defect: a function's name is none.
    #[error("name a function")]
    Name(#[from] NameError),
}

/// Reads everything that the judge wants to know. Changes nothing; the parts are read one after the other, so nothing
/// should be under way.
///
/// `ledger` is the ledger at `ledger_url`; `prefix` is the installation's, as the workers were given it.
///
/// # Errors
/// See [`ObserveError`].
pub async fn observe(
    ledger_url: &str,
    state_url: &str,
    ledger: &dyn Ledger,
    prefix: &str,
) -> Result<Observed, ObserveError> {
    let mut observed = Observed::default();
    for name in FUNCTIONS {
        let function = FunctionName::new(name)?;
        let query = InvocationQuery { function: Some(function.clone()), limit: u32::MAX, ..InvocationQuery::default() };
        let invocations = ledger.invocations(&query).await?;
        let by_key = invocations.into_iter().map(|record| (record.key.as_str().to_owned(), record.state)).collect();
        observed.invocations.insert(name.to_owned(), by_key);
        let query = DeadLetterQuery { function: Some(function), limit: u32::MAX, ..DeadLetterQuery::default() };
        let by_reason: &mut BTreeMap<String, u64> = observed.dead.entry(name.to_owned()).or_default();
        for record in ledger.dead_letters(&query).await? {
            *by_reason.entry(record.letter.reason.as_str().to_owned()).or_default() += 1;
        }
    }
    let joiner = Joiner::connect(ledger_url)?;
    let read = tables(&joiner, &mut observed).await;
    joiner.close().await;
    read?;
    observed.counters = counters(state_url, prefix).await?;
    Ok(observed)
}

async fn tables(joiner: &Joiner, observed: &mut Observed) -> Result<(), JoinError> {
    for (table, _) in TABLES {
        let rows = joiner.query(&format!("SELECT order_id, count(*) FROM {table} GROUP BY order_id"), &[]).await?;
        let by_order = observed.rows.entry(table.to_owned()).or_default();
        for row in rows {
            by_order.insert(row.get(0)?, u64::try_from(row.get::<i64>(1)?).unwrap_or(0));
        }
    }
    for row in joiner.query("SELECT customer_id, amount_minor FROM balances", &[]).await? {
        observed.balances.insert(row.get(0)?, row.get(1)?);
    }
    // A sum of bigints is numeric in Postgres.
    let sums = "SELECT customer_id, CAST(sum(amount_minor) AS BIGINT) FROM payments GROUP BY customer_id";
    for row in joiner.query(sums, &[]).await? {
        observed.paid.insert(row.get(0)?, row.get(1)?);
    }
    Ok(())
}

async fn counters(state_url: &str, prefix: &str) -> Result<BTreeMap<String, i64>, ObserveError> {
    let function = FunctionName::new(ANALYTICS)?;
    let state = |what: String| ObserveError::State { what };
    let address = Address::new(state_url);
    let mut counters = BTreeMap::new();
    for name in dataset::counter_names() {
        let value = weft_worker::peek_state(&address, prefix, &function, &name).await;
        if let Some(json) = value.map_err(|failure| state(failure.message().to_owned()))? {
            let number = serde_json::from_slice(&json).map_err(|_| state(format!("{name} is no number")))?;
            counters.insert(name, number);
        }
    }
    Ok(counters)
}
