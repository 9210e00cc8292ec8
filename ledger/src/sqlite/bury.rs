//! Burying what never became an invocation.

use sqlx::Connection;
use weft_schemas::DeadLetter;

use super::{Sqlite, now, post};
use crate::codec::encode;
use crate::letter::Entry;
use crate::{Error, OutboxMessage};

/// A letter that is new, or that comes back after it was closed, sends its copy; any other arrival is only counted.
const BURY: &str = "
    INSERT INTO dead_letter AS d
        (id, function, key, epoch, reason, buried_at, arrivals, copied, letter, error_kind, error_message, fingerprint)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 1, ?7, ?8, ?9, ?10)
    ON CONFLICT (id) DO UPDATE SET
        arrivals = d.arrivals + 1,
        copied = CASE WHEN d.redriven_at IS NULL AND d.purged_at IS NULL THEN d.copied ELSE d.arrivals + 1 END,
        letter = CASE WHEN d.redriven_at IS NULL AND d.purged_at IS NULL THEN d.letter ELSE excluded.letter END,
        buried_at = excluded.buried_at,
        redriven_at = NULL, redriven_by = NULL, redriven_as = NULL, purged_at = NULL, purged_by = NULL
    RETURNING copied = arrivals";

impl Sqlite {
    pub(super) async fn bury_batch(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let encoded = letters.iter().map(|(letter, copy)| Ok((encode(letter)?, encode(&copy.message)?)));
        let encoded = encoded.collect::<Result<Vec<_>, Error>>()?;
        let failed = self.map("bury messages");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for ((letter, copy), (letter_bytes, message_bytes)) in letters.iter().zip(encoded) {
            let at = now();
            let entry = Entry::of(&letter.error);
            let fresh: bool = sqlx::query_scalar(BURY)
                .bind(&letter.id.0)
                .bind(letter.function.as_str())
                .bind(letter.key.as_ref().map(|key| key.as_str()))
                .bind(i64::from(letter.epoch.0))
                .bind(letter.reason.as_str())
                .bind(at)
                .bind(letter_bytes)
                .bind(entry.error_kind)
                .bind(entry.error_message)
                .bind(entry.fingerprint)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
            if fresh {
                let whose = Some((&letter.function, letter.key.as_ref()));
                post(&mut transaction, at, whose, &[(copy, message_bytes)]).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)
    }
}
