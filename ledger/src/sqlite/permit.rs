//! Permits, with the guards of the Postgres statements. One dispatcher has the file, so that usually nobody else holds any.

use sqlx::Connection;
use weft_schemas::FunctionName;

use super::{Sqlite, now};
use crate::codec::micros;
use crate::permit::{Other, PERMIT_GRACE, TURN, exchange};
use crate::{Error, Owner, PermitAsk, Permits};

const OTHERS: &str = "
    SELECT p.node, p.held, p.wanted FROM permit p JOIN node n ON n.id = p.node
    WHERE p.function = ?1 AND p.node <> ?2 AND (p.held > 0 OR p.wanted > 0)
      AND CASE WHEN n.incarnation = p.incarnation THEN n.lease_until ELSE coalesce(n.entered_at, 0) END > ?3";

const TAKE: &str = "
    INSERT INTO permit (function, node, incarnation, held, wanted) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (function, node) DO UPDATE SET
        incarnation = excluded.incarnation, held = excluded.held, wanted = excluded.wanted";

impl Sqlite {
    pub(super) async fn take_permits(
        &self,
        owner: &Owner,
        function: &FunctionName,
        ask: PermitAsk,
    ) -> Result<Permits, Error> {
        let failed = self.map("take permits");
        let at = now();
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let live: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM node WHERE id = ?1 AND incarnation = ?2 AND lease_until > ?3)",
        )
        .bind(owner.node.as_str())
        .bind(owner.incarnation)
        .bind(at)
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        if !live {
            transaction.rollback().await.map_err(&failed)?;
            return Ok(Permits { held: 0, share: 0 });
        }
        let others: Vec<(String, u32, u32)> = sqlx::query_as(OTHERS)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(at - micros(PERMIT_GRACE))
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        let others = others.into_iter().map(|(node, held, wanted)| Other { node, held, wanted });
        let turn = u64::try_from(at / micros(TURN)).unwrap_or(0);
        let given = exchange(ask, owner.node.as_str(), others.collect(), turn);
        sqlx::query(TAKE)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(owner.incarnation)
            .bind(given.held)
            .bind(ask.wanted)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(given)
    }
}
