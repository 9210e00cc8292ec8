//! Creating and upgrading the tables.

use sqlx::{Connection, SqliteConnection};

use super::File;
use crate::Error;
use crate::letter::{read_out, whose};

/// Every migration, oldest first. A released one is never edited.
const MIGRATIONS: [(i64, &str); 5] = [
    (1, include_str!("../../migrations/sqlite/0001_ledger.sql")),
    (2, include_str!("../../migrations/sqlite/0002_failures.sql")),
    (3, include_str!("../../migrations/sqlite/0003_closed.sql")),
    (4, include_str!("../../migrations/sqlite/0004_usage.sql")),
    (5, include_str!("../../migrations/sqlite/0005_permits.sql")),
];

/// The version that this program knows. Kept in the file's `user_version`.
pub(crate) const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await
}

/// Fills the columns of version 2 for the rows of version 1. A row that cannot be read keeps them empty: it is no worse
/// off than it was, and a migration that stops at it would help nobody.
async fn fill(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let mut from = String::new();
    loop {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT id, letter FROM dead_letter WHERE id > ?1 ORDER BY id LIMIT ?2")
                .bind(&from)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
        let Some((last, _)) = rows.last() else { break };
        from.clone_from(last);
        for (id, (entry, settled)) in rows.iter().filter_map(|(id, letter)| Some((id, read_out(letter).ok()?))) {
            sqlx::query(
                "UPDATE dead_letter SET error_kind = ?2, error_message = ?3, fingerprint = ?4, settled = ?5
                 WHERE id = ?1",
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
            sqlx::query_as("SELECT id, kind, message FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2")
                .bind(from)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
        let Some((last, ..)) = rows.last() else { return Ok(()) };
        from = *last;
        for (id, (function, key)) in
            rows.iter().filter_map(|(id, kind, message)| Some((id, whose(kind, message).ok()?)))
        {
            sqlx::query("UPDATE outbox SET function = ?2, key = ?3 WHERE id = ?1")
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

impl File {
    /// All missing migrations in one transaction.
    pub async fn migrate(&self) -> Result<Vec<i64>, Error> {
        let failed = self.map("create the ledger's tables");
        let mut writer = self.writer().await;
        let connection = &mut *writer;
        // Looked at first without the write lock: the usual case at start.
        let found = version(connection).await.map_err(&failed)?;
        if found > KNOWN {
            return Err(Error::Newer { found, known: KNOWN });
        }
        if found == KNOWN {
            return Ok(Vec::new());
        }
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
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
            // A pragma takes no parameters; the number is ours.
            let mark = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {number}"));
            sqlx::raw_sql(mark).execute(&mut *transaction).await.map_err(&failed)?;
            applied.push(number);
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(applied)
    }

    pub async fn check(&self) -> Result<(), Error> {
        let found = version(&mut *self.writer().await).await.map_err(self.map("check the ledger's version"))?;
        match found {
            KNOWN => Ok(()),
            found if found > KNOWN => Err(Error::Newer { found, known: KNOWN }),
            found => Err(Error::Older { found, needed: KNOWN }),
        }
    }
}
