//! Claiming a batch in one transaction.

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row, SqliteConnection};
use weft_schemas::{Attempt, Epoch, Fence, FunctionName};

use super::{Sqlite, now};
use crate::codec::{count, digest_matches, duration, state, timestamp};
use crate::state::{Facts, VANISHED};
use crate::verdict::{Standing, of_loser};
use crate::{Claim, ClaimRequest, Error, FailedAttempt, Owner, Verdict};

/// The guards of the Postgres statement, for one key. ?6 is now, ?7 the fence of the retry, ?8 whether an earlier claim
/// of this owner got no answer, ?9 whether this node cancelled the attempt itself.
const CLAIM: &str = "
    INSERT INTO invocation AS i
        (function, key, state, attempt, crashes, epoch, fence, owner, incarnation, digest, first_seen_at, updated_at)
    SELECT ?1, ?2, 'claimed', 1, 0, 0, max(1 + coalesce((SELECT fence FROM swept WHERE function = ?1), 0), ?6 / 1000), ?3, ?4, ?5, ?6, ?6
    WHERE EXISTS (SELECT 1 FROM node WHERE id = ?3 AND incarnation = ?4 AND lease_until > ?6)
    ON CONFLICT (function, key) DO UPDATE SET
        state = 'claimed',
        attempt = CASE
            WHEN i.state = 'succeeded' THEN 1
            WHEN i.state = 'claimed' AND i.owner = ?3 AND (i.incarnation = ?4 OR ?9) THEN i.attempt
            ELSE i.attempt + 1 END,
        crashes = CASE
            WHEN i.state = 'succeeded' THEN 0
            WHEN i.state = 'waiting' THEN i.crashes
            WHEN i.owner = ?3 AND (i.incarnation = ?4 OR ?9) THEN i.crashes
            ELSE i.crashes + 1 END,
        failures = CASE
            WHEN i.state = 'succeeded' THEN NULL
            WHEN i.state = 'waiting' THEN i.failures
            WHEN i.owner = ?3 AND (i.incarnation = ?4 OR ?9) THEN i.failures
            ELSE json_insert(
                CASE WHEN json_array_length(i.failures) >= 32 THEN json_remove(i.failures, '$[0]')
                     ELSE coalesce(i.failures, '[]') END,
                '$[#]', json_object(
                    'epoch', i.epoch, 'attempt', i.attempt, 'crashed', json('true'), 'kind', ?10, 'message', ?11,
                    'ended_us', ?6, 'node', i.owner)) END,
        first_seen_at = CASE WHEN i.state = 'succeeded' THEN excluded.first_seen_at ELSE i.first_seen_at END,
        fence = max(i.fence + 1, excluded.fence),
        owner = excluded.owner,
        incarnation = excluded.incarnation,
        digest = excluded.digest,
        updated_at = excluded.updated_at,
        due_at = NULL,
        expires_at = NULL,
        result = NULL
    WHERE (i.state = 'succeeded' AND i.expires_at <= ?6)
       OR (i.digest = excluded.digest AND CASE i.state
            WHEN 'waiting' THEN i.due_at <= ?6 OR i.fence IS ?7
            WHEN 'claimed' THEN (i.owner = ?3 AND i.incarnation = ?4 AND ?8)
                             OR coalesce((SELECT n.incarnation > i.incarnation
                                              OR (n.incarnation = i.incarnation AND n.lease_until <= ?6)
                                          FROM node n WHERE n.id = i.owner), false)
            ELSE false END)
    RETURNING fence, attempt, crashes, epoch, first_seen_at,
        coalesce(json_extract(failures, '$[#-1].kind') = ?10
                 AND json_extract(failures, '$[#-1].epoch') = epoch
                 AND json_extract(failures, '$[#-1].attempt') = attempt - 1, false) AS vanished";

/// SQLite does not tell an insert from an update, but within the write lock the rows of before can be asked for.
const KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM invocation WHERE function = ?1 AND key = ?2)";

const COUNT: &str = "
    INSERT INTO tally (function, node, accepted) VALUES (?1, ?2, ?3)
    ON CONFLICT (function, node) DO UPDATE SET accepted = accepted + excluded.accepted";

const LOOK: &str = "
    SELECT i.state, i.epoch, i.fence, i.digest, i.result,
           coalesce(i.expires_at <= ?3, false) AS expired,
           coalesce(i.due_at - ?3, 0) AS due_in,
           coalesce(n.incarnation < i.incarnation
                    OR (n.incarnation = i.incarnation AND n.lease_until > ?3), true) AS owner_live,
           coalesce(n.lease_until - ?3, 0) AS lease_left
    FROM invocation i LEFT JOIN node n ON n.id = i.owner
    WHERE i.function = ?1 AND i.key = ?2";

impl Sqlite {
    pub(super) async fn claim_batch(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<Vec<Verdict>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.file.writer().await;
        let asked = self.doubts.ask(function, requests);
        let failed = self.map("claim invocations");
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let mut verdicts = Vec::with_capacity(requests.len());
        let mut accepted = 0i64;
        for request in requests {
            let retake = asked.retake.contains(&request.key);
            let known: bool = sqlx::query_scalar(KNOWN)
                .bind(function.as_str())
                .bind(request.key.as_str())
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
            let verdict = self.claim_one(&mut transaction, owner, function, request, retake).await?;
            accepted += i64::from(!known && matches!(verdict, Verdict::Run(_)));
            verdicts.push(verdict);
        }
        if accepted > 0 {
            sqlx::query(COUNT)
                .bind(function.as_str())
                .bind(owner.node.as_str())
                .bind(accepted)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        asked.answered();
        Ok(verdicts)
    }

    async fn claim_one(
        &self,
        connection: &mut SqliteConnection,
        owner: &Owner,
        function: &FunctionName,
        request: &ClaimRequest,
        retake: bool,
    ) -> Result<Verdict, Error> {
        let failed = self.map("claim invocations");
        let at = now();
        let granted = sqlx::query(CLAIM)
            .bind(function.as_str())
            .bind(request.key.as_str())
            .bind(owner.node.as_str())
            .bind(owner.incarnation)
            .bind(request.digest.0.as_slice())
            .bind(at)
            .bind(request.resume.map(|fence| fence.0))
            .bind(retake)
            .bind(request.interrupted)
            .bind(FailedAttempt::VANISHED)
            .bind(VANISHED)
            .fetch_optional(&mut *connection)
            .await
            .map_err(&failed)?;
        if let Some(row) = granted {
            let claim = read_claim(&row).map_err(&failed)?;
            return Ok(Verdict::Run(claim?));
        }
        let row = sqlx::query(LOOK)
            .bind(function.as_str())
            .bind(request.key.as_str())
            .bind(at)
            .fetch_optional(connection)
            .await
            .map_err(&failed)?;
        let standing = match row {
            Some(row) => Some(read_standing(&row, request).map_err(&failed)??),
            None => None,
        };
        Ok(of_loser(standing))
    }
}

fn read_claim(row: &SqliteRow) -> sqlx::Result<Result<Claim, Error>> {
    let (attempt, crashes, epoch): (i64, i64, i64) =
        (row.try_get("attempt")?, row.try_get("crashes")?, row.try_get("epoch")?);
    let (fence, first_seen_at): (i64, i64) = (row.try_get("fence")?, row.try_get("first_seen_at")?);
    let vanished = row.try_get("vanished")?;
    let claim = || {
        Ok(Claim {
            fence: Fence(fence),
            attempt: Attempt(count("an attempt", attempt)?),
            crashes: count("crashes", crashes)?,
            epoch: Epoch(count("an epoch", epoch)?),
            first_seen_at: timestamp(first_seen_at)?,
            vanished,
        })
    };
    Ok(claim())
}

fn read_standing(row: &SqliteRow, request: &ClaimRequest) -> sqlx::Result<Result<Standing, Error>> {
    let text: String = row.try_get("state")?;
    let (epoch, fence): (i64, i64) = (row.try_get("epoch")?, row.try_get("fence")?);
    let digest: Vec<u8> = row.try_get("digest")?;
    let result: Option<Vec<u8>> = row.try_get("result")?;
    let (expired, owner_live): (bool, bool) = (row.try_get("expired")?, row.try_get("owner_live")?);
    let (due_in, lease_left): (i64, i64) = (row.try_get("due_in")?, row.try_get("lease_left")?);
    let standing = || {
        Ok(Standing {
            state: state(&text)?,
            facts: Facts {
                same_payload: digest_matches(&digest, &request.digest),
                owner_live,
                due: due_in <= 0 || request.resume == Some(Fence(fence)),
                expired,
            },
            epoch: Epoch(count("an epoch", epoch)?),
            result: result.map(Bytes::from),
            lease_left: duration(lease_left),
            due_in: duration(due_in),
        })
    };
    Ok(standing())
}
