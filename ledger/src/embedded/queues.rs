//! Durable queues with AMQP's routing: topic exchanges by pattern, the default exchange by queue name.
//!
//! It holds messages and nothing else: who consumes, what is unacked and when to look again is the broker's.

use std::path::Path;

use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Connection, SqlitePool};
use weft_schemas::{Message, topic};

use crate::Error;
use crate::codec::{corrupt, decode, encode};
use crate::sqlite::{BUSY, File, map, options};

/// What feeds a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub queue: String,
    /// Empty: the default exchange, which routes by the queue's name and needs no binding; the queue is only declared.
    pub exchange: String,
    /// Words separated by dots; `*` is one word, `#` any number of words.
    pub pattern: String,
}

/// The queues in a SQLite file. Several processes may publish; one consumes.
pub struct Queues {
    file: File,
    readers: SqlitePool,
}

impl Queues {
    /// Opens the file and creates its tables where they are missing. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, [`Error::Newer`] when its tables are of a newer program.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).await?;
        file.migrate().await?;
        let readers =
            SqlitePoolOptions::new().max_connections(2).acquire_timeout(BUSY).connect_lazy_with(options(path));
        Ok(Self { file, readers })
    }

    fn map(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |error| map(&self.file.address, doing, error)
    }

    /// Declares every queue that is named, and replaces the bindings of just those queues. A queue that is not named
    /// keeps its bindings, and what lies in a queue stays. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then nothing was changed.
    pub async fn declare(&self, bindings: &[Binding]) -> Result<(), Error> {
        let failed = self.map("declare queues");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for binding in bindings {
            sqlx::query("INSERT INTO queue (name) VALUES (?1) ON CONFLICT DO NOTHING")
                .bind(&binding.queue)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            sqlx::query("DELETE FROM binding WHERE queue = ?1")
                .bind(&binding.queue)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        for binding in bindings.iter().filter(|binding| !binding.exchange.is_empty()) {
            sqlx::query("INSERT INTO binding (queue, exchange, pattern) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")
                .bind(&binding.queue)
                .bind(&binding.exchange)
                .bind(&binding.pattern)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// Says whether a queue's messages have an order; `false` when it holds messages that came in while that was not so.
    /// The queue has to be declared. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn order(&self, queue: &str, ordered: bool) -> Result<bool, Error> {
        let failed = self.map("declare queues");
        let done = sqlx::query(
            "UPDATE queue SET ordered = ?2
             WHERE name = ?1 AND (ordered = ?2 OR NOT EXISTS (SELECT 1 FROM message WHERE queue = ?1))",
        )
        .bind(queue)
        .bind(ordered)
        .execute(&mut *self.file.writer().await)
        .await
        .map_err(&failed)?;
        Ok(done.rows_affected() > 0)
    }

    /// Names the queue that takes what `exchange` routes nowhere, and declares it. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn declare_alternate(&self, exchange: &str, queue: &str) -> Result<(), Error> {
        let failed = self.map("declare queues");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        sqlx::query("INSERT INTO queue (name) VALUES (?1) ON CONFLICT DO NOTHING")
            .bind(queue)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        sqlx::query(
            "INSERT INTO alternate (exchange, queue) VALUES (?1, ?2)
             ON CONFLICT (exchange) DO UPDATE SET queue = excluded.queue",
        )
        .bind(exchange)
        .bind(queue)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// Routes messages, in order, in one durable transaction. Answers for each how many queues took it, an alternate
    /// included; 0 means that none did and the message is gone.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then nothing was published. Repeating it publishes again.
    pub async fn publish(&self, messages: &[Message]) -> Result<Vec<usize>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let encoded = messages.iter().map(encode).collect::<Result<Vec<_>, Error>>()?;
        let failed = self.map("publish to queues");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let queues: Vec<String> =
            sqlx::query_scalar("SELECT name FROM queue").fetch_all(&mut *transaction).await.map_err(&failed)?;
        let bindings: Vec<(String, String, String)> =
            sqlx::query_as("SELECT exchange, queue, pattern FROM binding ORDER BY exchange, queue")
                .fetch_all(&mut *transaction)
                .await
                .map_err(&failed)?;
        let alternates: Vec<(String, String)> = sqlx::query_as("SELECT exchange, queue FROM alternate")
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        let mut reached = Vec::with_capacity(messages.len());
        for (message, bytes) in messages.iter().zip(&encoded) {
            let targets = route(message, &queues, &bindings, &alternates);
            for queue in &targets {
                sqlx::query("INSERT INTO message (queue, message) VALUES (?1, ?2)")
                    .bind(*queue)
                    .bind(bytes)
                    .execute(&mut *transaction)
                    .await
                    .map_err(&failed)?;
            }
            reached.push(targets.len());
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(reached)
    }

    /// Up to `limit` messages of a queue with an id above `after`, oldest first, with their ids. They stay until acked.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Corrupt`].
    pub async fn fetch(&self, queue: &str, after: i64, limit: u32) -> Result<Vec<(i64, Message)>, Error> {
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT id, message FROM message WHERE queue = ?1 AND id > ?2 ORDER BY id LIMIT ?3")
                .bind(queue)
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await
                .map_err(self.map("fetch from a queue"))?;
        rows.into_iter().map(|(id, bytes)| Ok((id, decode("a queued message", &bytes)?))).collect()
    }

    /// Deletes messages for good. Unknown ids are ignored, so that it may be repeated. Survives kill -9; a power cut may
    /// bring acked messages back.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then none was deleted.
    pub async fn ack(&self, ids: &[i64]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let failed = self.map("ack messages");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for id in ids {
            sqlx::query("DELETE FROM message WHERE id = ?1")
                .bind(id)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// How many messages a queue holds, unacked ones included; 0 for an unknown queue.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM message WHERE queue = ?1")
            .bind(queue)
            .fetch_one(&self.readers)
            .await
            .map_err(self.map("count a queue"))?;
        u64::try_from(count).map_err(|_| corrupt("a count is negative"))
    }

    /// The highest id that any queue has held; 0 at first. Ids are never used twice, so that a growing one means that
    /// something was published.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn max_id(&self) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'message'")
            .fetch_one(&self.readers)
            .await
            .map_err(self.map("look for new messages"))
    }
}

/// The queues that take a message, each once.
fn route<'a>(
    message: &Message,
    queues: &'a [String],
    bindings: &'a [(String, String, String)],
    alternates: &'a [(String, String)],
) -> Vec<&'a str> {
    if message.exchange.is_empty() {
        return queues.iter().filter(|name| **name == message.routing_key).map(String::as_str).collect();
    }
    let mut targets: Vec<&str> = bindings
        .iter()
        .filter(|(exchange, _, pattern)| *exchange == message.exchange && topic::matches(pattern, &message.routing_key))
        .map(|(_, queue, _)| queue.as_str())
        .collect();
    // Ordered by queue.
    targets.dedup();
    if targets.is_empty() {
        let alternate = alternates.iter().find(|(exchange, _)| *exchange == message.exchange);
        targets.extend(alternate.map(|(_, queue)| queue.as_str()));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_each_queue_once_or_the_alternate() {
        let bindings = [
            ("weft.events".to_owned(), "a".to_owned(), "x.*".to_owned()),
            ("weft.events".to_owned(), "a".to_owned(), "#".to_owned()),
            ("weft.events".to_owned(), "b".to_owned(), "y".to_owned()),
        ];
        let queues = ["a".to_owned(), "b".to_owned()];
        let alternates = [("other".to_owned(), "lost".to_owned())];
        let to = |exchange: &str, key: &str| Message {
            exchange: exchange.to_owned(),
            routing_key: key.to_owned(),
            ..Message::default()
        };
        assert_eq!(route(&to("weft.events", "x.1"), &queues, &bindings, &alternates), ["a"]);
        assert_eq!(route(&to("weft.events", "y"), &queues, &bindings, &alternates), ["a", "b"]);
        assert_eq!(route(&to("", "b"), &queues, &bindings, &alternates), ["b"]);
        assert_eq!(route(&to("", "c"), &queues, &bindings, &alternates), [""; 0]);
        assert_eq!(route(&to("other", "z"), &queues, &bindings, &alternates), ["lost"]);
    }
}
