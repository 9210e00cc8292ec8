//! The audit in one snapshot, which reads and blocks nobody.

use sqlx::Connection;

use super::Postgres;
use super::instant::Instant;
use crate::audit::{AT_BROKER, Books, Late, NUMBERS, Numbers, ODD, OVERDUE, OVERDUE_MICROS, Odd, Waits};
use crate::codec::{limit, timestamp};
use crate::{Audit, Error};

impl Postgres {
    pub(super) async fn audit_tables(&self, most: u32) -> Result<Audit, Error> {
        let failed = self.map("audit the ledger");
        let most = limit(most);
        let mut connection = self.general.acquire().await.map_err(&failed)?;
        let mut snapshot =
            connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(&failed)?;
        // Every join here is of whole tables. A table that was never analysed is believed to be small, and reading it
        // once for each row of the other would never end.
        sqlx::raw_sql("SET LOCAL enable_nestloop = off").execute(&mut *snapshot).await.map_err(&failed)?;
        // The first query takes the snapshot.
        let at: Instant =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *snapshot).await.map_err(&failed)?;
        let mut books = Books::new(at.0, most);
        let numbers: Vec<Numbers> =
            sqlx::query_as(NUMBERS).bind(at).fetch_all(&mut *snapshot).await.map_err(&failed)?;
        numbers.iter().try_for_each(|row| books.numbers(row))?;
        let waits: Vec<Waits<Instant>> =
            sqlx::query_as(AT_BROKER).bind(at).bind(most).fetch_all(&mut *snapshot).await.map_err(&failed)?;
        for (function, key, state, fence, updated_at, total) in waits {
            books.at_broker(&(function, key, state, fence, updated_at.0, total))?;
        }
        for (statement, difference) in ODD {
            let rows: Vec<Odd> =
                sqlx::query_as(statement).bind(most).fetch_all(&mut *snapshot).await.map_err(&failed)?;
            books.odd(&rows, difference)?;
        }
        let before = Instant(timestamp(at.0.as_microsecond() - OVERDUE_MICROS)?);
        let late: Vec<Late<i32>> =
            sqlx::query_as(OVERDUE).bind(before).bind(most).fetch_all(&mut *snapshot).await.map_err(&failed)?;
        books.overdue(&late)?;
        snapshot.commit().await.map_err(&failed)?;
        Ok(books.close())
    }
}
