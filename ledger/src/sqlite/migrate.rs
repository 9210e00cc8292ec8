//! Creating and upgrading the tables.

use sqlx::{Connection, SqliteConnection};

use super::File;
use crate::Error;

/// Every migration, oldest first. A released one is never edited.
const MIGRATIONS: [(i64, &str); 1] = [(1, include_str!("../../migrations/sqlite/0001_ledger.sql"))];

/// The version that this program knows. Kept in the file's `user_version`.
pub(crate) const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await
}

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
