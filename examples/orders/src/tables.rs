//! The shop's own tables, which live in the ledger's database so that handlers can join its transactions.
//!
//! No table has a unique constraint on the order: the ledger is what makes an effect happen once, and a constraint would
//! hide it if it did not. (A shop of your own is free to have both.)

use weft_ledger::join::{JoinError, Joiner, Value};

use crate::dataset::accounts;

/// Every table, with `$ID` where the databases differ. Money is in minor units.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS orders (
    id $ID,
    order_id TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    customer_name TEXT NOT NULL,
    currency TEXT NOT NULL,
    total_minor BIGINT NOT NULL,
    placed_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS order_lines (
    id $ID,
    order_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    name TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    unit_price_minor BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS audit (
    id $ID,
    order_id TEXT NOT NULL,
    action TEXT NOT NULL,
    attempt BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS balances (
    customer_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS payments (
    id $ID,
    order_id TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    provider TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS notifications (
    id $ID,
    order_id TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    mail_key TEXT NOT NULL,
    body TEXT NOT NULL
);
";

/// Creates the shop's tables in the ledger's database and fills the accounts of new customers. Safe to repeat, also from
/// several processes at once: what is there is left as it is.
///
/// `ledger_url` is `postgres://…` or `sqlite://path`; the file is created if it is missing, its folder is not.
///
/// # Errors
/// The address cannot be understood, the database cannot be used, or it refuses the tables.
pub async fn prepare(ledger_url: &str) -> Result<(), JoinError> {
    let joiner = Joiner::connect(ledger_url)?;
    let done = fill(&joiner, ledger_url.starts_with("postgres")).await;
    joiner.close().await;
    done
}

async fn fill(joiner: &Joiner, postgres: bool) -> Result<(), JoinError> {
    let script = if postgres {
        // In Postgres two who create a table at once collide in the catalogue, IF NOT EXISTS or not; they take turns.
        let tables = TABLES.replace("$ID", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
        format!("SELECT pg_advisory_xact_lock(hashtext('weft-example-orders'));{tables}")
    } else {
        TABLES.replace("$ID", "INTEGER PRIMARY KEY AUTOINCREMENT")
    };
    joiner.run_script(&script).await?;
    let mut places = Vec::new();
    let mut params: Vec<Value> = Vec::new();
    for account in accounts() {
        let n = params.len();
        places.push(format!("(${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4));
        params.extend([
            account.customer_id.into(),
            account.name.into(),
            account.currency.into(),
            account.opening_minor.into(),
        ]);
    }
    let sql = format!(
        "INSERT INTO balances (customer_id, name, currency, amount_minor) VALUES {} ON CONFLICT DO NOTHING",
        places.join(", ")
    );
    joiner.execute(&sql, &params).await?;
    Ok(())
}
