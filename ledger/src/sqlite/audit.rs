//! The audit in one read transaction, which keeps no writer out.

use sqlx::{AssertSqlSafe, Connection};

use super::{Sqlite, now};
use crate::audit::{AT_BROKER, Books, Late, NUMBERS, Numbers, ODD, OVERDUE, OVERDUE_MICROS, Odd, Waits};
use crate::codec::{limit, timestamp};
use crate::{Audit, Error};

/// The statement without the schema, which SQLite has not.
fn plain(statement: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(statement.replace("weft.", ""))
}

impl Sqlite {
    pub(super) async fn audit_tables(&self, most: u32) -> Result<Audit, Error> {
        let failed = self.map("audit the ledger");
        let most = limit(most);
        let mut connection = self.readers.acquire().await.map_err(&failed)?;
        let mut snapshot = connection.begin().await.map_err(&failed)?;
        let at = now();
        let mut books = Books::new(timestamp(at)?, most);
        let numbers: Vec<Numbers> =
            sqlx::query_as(plain(NUMBERS)).bind(at).fetch_all(&mut *snapshot).await.map_err(&failed)?;
        numbers.iter().try_for_each(|row| books.numbers(row))?;
        let waits: Vec<Waits<i64>> =
            sqlx::query_as(plain(AT_BROKER)).bind(at).bind(most).fetch_all(&mut *snapshot).await.map_err(&failed)?;
        for (function, key, state, fence, updated_at, total) in waits {
            books.at_broker(&(function, key, state, fence, timestamp(updated_at)?, total))?;
        }
        for (statement, difference) in ODD {
            let rows: Vec<Odd> =
                sqlx::query_as(plain(statement)).bind(most).fetch_all(&mut *snapshot).await.map_err(&failed)?;
            books.odd(&rows, difference)?;
        }
        let late: Vec<Late<i64>> = sqlx::query_as(plain(OVERDUE))
            .bind(at - OVERDUE_MICROS)
            .bind(most)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(&failed)?;
        books.overdue(&late)?;
        snapshot.commit().await.map_err(&failed)?;
        Ok(books.close())
    }
}
