//! Falsifying what a run left behind, where it is, so that the judge can be seen to refuse it.

use std::io::Write as _;

use serde_json::json;

use crate::stand::{PREFIX, Stand};

/// What is falsified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// One event is said to be published and is not.
    LostEvent,
    /// A success vanishes from the ledger.
    DeletedRow,
    DeletedEffect,
    DoubleEffect,
    /// The success has another fence than its effect.
    OtherFence,
    /// A shipment's effect goes to another order.
    OtherOrder,
    /// A success becomes a claim again.
    Unsettled,
    /// A message lies in a work queue.
    LeftMessage,
    LeftOutbox,
    /// An attempt is written down twice.
    SameFence,
    /// An innocent event has a dead letter in a queue.
    StrangeCopy,
    /// A dead letter's copy is taken away.
    MissingCopy,
    /// A dead letter's row is deleted.
    MissingLetter,
    /// Redis counts one more.
    OtherCounter,
    /// An answer has not come.
    MissingAnswer,
    /// The ledger has another result than was answered.
    OtherResult,
}

impl Plant {
    pub const ALL: [Self; 16] = [
        Self::LostEvent,
        Self::DeletedRow,
        Self::DeletedEffect,
        Self::DoubleEffect,
        Self::OtherFence,
        Self::OtherOrder,
        Self::Unsettled,
        Self::LeftMessage,
        Self::LeftOutbox,
        Self::SameFence,
        Self::StrangeCopy,
        Self::MissingCopy,
        Self::MissingLetter,
        Self::OtherCounter,
        Self::MissingAnswer,
        Self::OtherResult,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LostEvent => "lost-event",
            Self::DeletedRow => "deleted-row",
            Self::DeletedEffect => "deleted-effect",
            Self::DoubleEffect => "double-effect",
            Self::OtherFence => "other-fence",
            Self::OtherOrder => "other-order",
            Self::Unsettled => "unsettled",
            Self::LeftMessage => "left-message",
            Self::LeftOutbox => "left-outbox",
            Self::SameFence => "same-fence",
            Self::StrangeCopy => "strange-copy",
            Self::MissingCopy => "missing-copy",
            Self::MissingLetter => "missing-letter",
            Self::OtherCounter => "other-counter",
            Self::MissingAnswer => "missing-answer",
            Self::OtherResult => "other-result",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.as_str() == text)
    }

    /// Falsifies it, after the dispatchers have stopped.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn put(self, stand: &Stand) -> Result<(), String> {
        // Each its own, so that all may be put together.
        let own = Self::ALL.iter().position(|plant| *plant == self).unwrap_or_default();
        let one_payment = format!(
            "(select key from weft.invocation where function = 'pay' and state = 'succeeded' order by key desc limit 1 offset {own})"
        );
        let sql = match self {
            // The publisher and the reader do these.
            Self::LostEvent | Self::OtherCounter | Self::MissingAnswer => return Ok(()),
            Self::OtherResult => "update weft.invocation set result = '{}'::bytea where function = 'flaky' and key = \
                 (select min(key) from weft.invocation where function = 'flaky' and state = 'succeeded')"
                .to_owned(),
            Self::DeletedRow => format!("delete from weft.invocation where function = 'pay' and key = {one_payment}"),
            Self::DeletedEffect => format!("delete from effects where function = 'pay' and key = {one_payment}"),
            Self::DoubleEffect => {
                format!("insert into effects select * from effects where function = 'pay' and key = {one_payment}")
            }
            Self::OtherFence => {
                format!("update weft.invocation set fence = fence + 1 where function = 'pay' and key = {one_payment}")
            }
            Self::OtherOrder => "update effects set about = (select max(about) from effects where function = 'ship') \
                 where function = 'ship' and about = (select min(about) from effects where function = 'ship')"
                .to_owned(),
            Self::Unsettled => format!(
                "update weft.invocation set state = 'claimed', expires_at = null where function = 'pay' and key = {one_payment}"
            ),
            Self::LeftOutbox => {
                "insert into weft.outbox (due_at, kind, message) values (now(), 'emit', '\\x00')".to_owned()
            }
            Self::MissingLetter => {
                "delete from weft.dead_letter where id = (select min(id) from weft.dead_letter)".to_owned()
            }
            Self::LeftMessage => {
                let properties = json!({ "message_id": "left" });
                stand.vhost.publish("", &format!("{PREFIX}.fn.pay"), properties, "{}").await;
                return Ok(());
            }
            Self::StrangeCopy => {
                let headers = json!({ "weft-id": "strange", "weft-function": "pay", "weft-reason": "exhausted" });
                let properties = json!({ "message_id": "e0", "headers": headers });
                stand.vhost.publish("", &format!("{PREFIX}.dlq.pay"), properties, "{}").await;
                return Ok(());
            }
            Self::MissingCopy => {
                stand.vhost.take(&format!("{PREFIX}.dlq.doomed"), 1).await;
                return Ok(());
            }
            Self::SameFence => {
                let path = stand.folder.join("runs");
                let runs = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
                let first = runs.lines().find(|line| line.starts_with("begin")).unwrap_or_default();
                let file = std::fs::File::options().append(true).open(path);
                return file.and_then(|mut file| writeln!(file, "{first}")).map_err(|error| error.to_string());
            }
        };
        stand.sql(&sql).await.map(drop)
    }
}
