//! Creating and upgrading the tables.

use sqlx::{Connection, PgConnection};

use super::{Postgres, preflight};
use crate::Error;
use crate::letter::{read_out, whose};

/// Every migration, oldest first. A released one is never edited.
const MIGRATIONS: [(i64, &str); 5] = [
    (1, include_str!("../../migrations/postgres/0001_ledger.sql")),
    (2, include_str!("../../migrations/postgres/0002_failures.sql")),
    (3, include_str!("../../migrations/postgres/0003_closed.sql")),
    (4, include_str!("../../migrations/postgres/0004_usage.sql")),
    (5, include_str!("../../migrations/postgres/0005_permits.sql")),
];

/// The version that this program knows.
pub(crate) const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Names the migration's lock among the advisory locks of the database ("weft", "migr").
const LOCK: i64 = 0x7765_6674_6d69_6772;

async fn version(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('weft.migration') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM weft.migration").fetch_one(connection).await
}

/// Fills the columns of version 2 for the rows of version 1. A row that cannot be read keeps them empty: it is no worse
/// off than it was, and a migration that stops at it would help nobody.
async fn fill(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut from = String::new();
    loop {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT id, letter FROM weft.dead_letter WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(&from)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
        let Some((last, _)) = rows.last() else { break };
        from.clone_from(last);
        for (id, (entry, settled)) in rows.iter().filter_map(|(id, letter)| Some((id, read_out(letter).ok()?))) {
            sqlx::query(
                "UPDATE weft.dead_letter SET error_kind = $2, error_message = $3, fingerprint = $4, settled = $5
                 WHERE id = $1",
            )
            .bind(id)
            .bind(entry.error_kind)
            .bind(entry.error_message)
            .bind(entry.fingerprint)
            .bind(settled)
            .execute(&mut *connection)
            .await?;
        }
    }
    let mut from = i64::MIN;
    loop {
        let rows: Vec<(i64, String, Vec<u8>)> =
            sqlx::query_as("SELECT id, kind, message FROM weft.outbox WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(from)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
        let Some((last, ..)) = rows.last() else { return Ok(()) };
        from = *last;
        for (id, (function, key)) in
            rows.iter().filter_map(|(id, kind, message)| Some((id, whose(kind, message).ok()?)))
        {
            sqlx::query("UPDATE weft.outbox SET function = $2, key = $3 WHERE id = $1")
                .bind(id)
                .bind(function)
                .bind(key)
                .execute(&mut *connection)
                .await?;
        }
    }
}

/// Rows that a migration holds in memory at once.
const PAGE: i64 = 500;

impl Postgres {
    /// All missing migrations in one transaction, under a lock, on a connection of its own without time limits.
    pub(super) async fn run_migrations(&self) -> Result<Vec<i64>, Error> {
        let failed = self.map("create the ledger's tables");
        let mut connection = preflight(&self.address, &self.connect).await?;
        // Looked at first without any lock or right to create: the usual case at start.
        let found = version(&mut connection).await.map_err(&failed)?;
        if found > KNOWN {
            return Err(Error::Newer { found, known: KNOWN });
        }
        if found == KNOWN {
            return Ok(Vec::new());
        }
        let mut transaction = connection.begin().await.map_err(&failed)?;
        sqlx::query("SET LOCAL lock_timeout = '60s'").execute(&mut *transaction).await.map_err(&failed)?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await.map_err(&failed)?;
        sqlx::raw_sql(
            "CREATE SCHEMA IF NOT EXISTS weft;
             CREATE TABLE IF NOT EXISTS weft.migration (
                 version bigint PRIMARY KEY,
                 applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
             );",
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let found = version(&mut transaction).await.map_err(&failed)?;
        if found > KNOWN {
            return Err(Error::Newer { found, known: KNOWN });
        }
        let mut applied = Vec::new();
        for (number, script) in MIGRATIONS.into_iter().filter(|(number, _)| *number > found) {
            sqlx::raw_sql(script).execute(&mut *transaction).await.map_err(&failed)?;
            if number == 2 {
                fill(&mut transaction).await.map_err(&failed)?;
            }
            sqlx::query("INSERT INTO weft.migration (version) VALUES ($1)")
                .bind(number)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            applied.push(number);
        }
        transaction.commit().await.map_err(&failed)?;
        let _ = connection.close().await;
        Ok(applied)
    }

    pub(super) async fn check_version(&self) -> Result<(), Error> {
        let mut connection = self.general.acquire().await.map_err(self.map("check the ledger's version"))?;
        let found = version(&mut connection).await.map_err(self.map("check the ledger's version"))?;
        match found {
            KNOWN => Ok(()),
            found if found > KNOWN => Err(Error::Newer { found, known: KNOWN }),
            found => Err(Error::Older { found, needed: KNOWN }),
        }
    }
}
