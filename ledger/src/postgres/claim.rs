//! Claiming a batch: one statement, and a second look at those that it did not grant, if there are any.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::Row;
use weft_schemas::{Attempt, Epoch, Fence, FunctionName, Key};

use super::instant::Instant;
use super::locked::{RETRY, TRIES, is_locked};
use super::{Postgres, retried};
use crate::codec::{count, digest_matches, duration, state};
use crate::state::{Facts, VANISHED};
use crate::verdict::{Standing, of_loser};
use crate::{Claim, ClaimRequest, Error, FailedAttempt, Owner, Verdict};

/// Grants what [`crate::state::next`] allows, and returns those rows alone.
///
/// - An owner that never entered, was superseded or let its lease lapse inserts and takes nothing.
/// - Locks are taken in the order of the keys, so that two batches do not deadlock; the tally's row comes after all of
///   them, because what is counted is known only when they are through.
/// - Node rows are read from the statement's snapshot, while the conflicting row is its latest version. So leases are
///   judged by the time of the snapshot (`statement_timestamp()`), and an incarnation that the snapshot does not know
///   yet counts as live. Both err towards "busy".
/// - A key that comes back after the sweep starts above every fence that the sweep has deleted.
/// - A fence is at least the database clock in milliseconds. Claims do not wait for the disk, so a crash of the database may
///   forget the last of them; the next claim of such a key must not get a fence that is out in the world.
/// - $7 holds keys whose earlier claim by this very owner got no answer; no attempt was started for them. $8 holds keys
///   whose attempt this node cancelled itself. Neither counts an attempt: see [`crate::state::toll`].
/// - Any other claim that is taken over vanished with its dispatcher, which the row remembers as a failed attempt.
/// - Whether the attempt before vanished is read from the row's latest failed attempt: `$9` is its kind.
/// - `xmax` of a row that was inserted rather than updated is zero.
pub(super) const CLAIM: &str = "
    WITH granted AS (
        INSERT INTO weft.invocation AS i
            (function, key, state, attempt, crashes, epoch, fence, owner, incarnation, digest, first_seen_at, updated_at)
        SELECT $1::text, r.key, 'claimed', 1, 0, 0,
               greatest(1 + coalesce((SELECT s.fence FROM weft.swept s WHERE s.function = $1), 0),
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
               $2::text, $3::bigint, r.digest, clock_timestamp(), clock_timestamp()
        FROM unnest($4::text[], $5::bytea[]) AS r(key, digest)
        WHERE (SELECT true FROM weft.node n
               WHERE n.id = $2 AND n.incarnation = $3 AND n.lease_until > statement_timestamp())
        ORDER BY r.key COLLATE \"C\"
        ON CONFLICT (function, key) DO UPDATE SET
            state = 'claimed',
            attempt = CASE
                WHEN i.state = 'succeeded' THEN 1
                WHEN i.state = 'claimed' AND i.owner = $2 AND (i.incarnation = $3 OR i.key = ANY ($8::text[]))
                    THEN i.attempt
                ELSE i.attempt + 1 END,
            crashes = CASE
                WHEN i.state = 'succeeded' THEN 0
                WHEN i.state = 'waiting' THEN i.crashes
                WHEN i.owner = $2 AND (i.incarnation = $3 OR i.key = ANY ($8::text[])) THEN i.crashes
                ELSE i.crashes + 1 END,
            failures = CASE
                WHEN i.state = 'succeeded' THEN NULL
                WHEN i.state = 'waiting' THEN i.failures
                WHEN i.owner = $2 AND (i.incarnation = $3 OR i.key = ANY ($8::text[])) THEN i.failures
                ELSE CASE WHEN jsonb_array_length(i.failures) >= 32 THEN i.failures - 0
                          ELSE coalesce(i.failures, '[]') END
                     || jsonb_build_object(
                        'epoch', i.epoch, 'attempt', i.attempt, 'crashed', true, 'kind', $9::text, 'message', $10::text,
                        'ended_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 'node', i.owner) END,
            first_seen_at = CASE WHEN i.state = 'succeeded' THEN excluded.first_seen_at ELSE i.first_seen_at END,
            fence = greatest(i.fence + 1, excluded.fence),
            owner = excluded.owner,
            incarnation = excluded.incarnation,
            digest = excluded.digest,
            updated_at = excluded.updated_at,
            due_at = NULL,
            expires_at = NULL,
            result = NULL
        WHERE (i.state = 'succeeded' AND i.expires_at <= clock_timestamp())
           OR (i.digest = excluded.digest AND CASE i.state
                WHEN 'waiting' THEN i.due_at <= clock_timestamp()
                                 OR i.fence = ($6::bigint[])[array_position($4::text[], i.key)]
                WHEN 'claimed' THEN (i.owner = $2 AND i.incarnation = $3 AND i.key = ANY ($7::text[]))
                                 OR (SELECT n.incarnation > i.incarnation
                                         OR (n.incarnation = i.incarnation AND n.lease_until <= statement_timestamp())
                                     FROM weft.node n WHERE n.id = i.owner)
                ELSE false END)
        RETURNING i.key, i.fence, i.attempt, i.crashes, i.epoch, i.first_seen_at, i.xmax = 0 AS fresh,
            coalesce((i.failures -> -1 ->> 'kind') = $9
                     AND (i.failures -> -1 ->> 'epoch')::int = i.epoch
                     AND (i.failures -> -1 ->> 'attempt')::int = i.attempt - 1, false) AS vanished
    ), counted AS (
        INSERT INTO weft.tally AS t (function, node, accepted)
        SELECT $1, $2, count(*) FROM granted WHERE fresh HAVING count(*) > 0
        ON CONFLICT (function, node) DO UPDATE SET accepted = t.accepted + excluded.accepted
    )
    SELECT key, fence, attempt, crashes, epoch, first_seen_at, vanished FROM granted";

/// What stands in the way of the rest. The sub-select is there for the plan: see the settle.
pub(super) const LOOK: &str = "
    SELECT i.key, i.state, i.epoch, i.fence, i.digest, i.result,
           coalesce(i.expires_at <= now.at, false) AS expired,
           coalesce(extract(epoch FROM i.due_at - now.at) * 1000000, 0)::bigint AS due_in,
           coalesce(n.incarnation < i.incarnation
                    OR (n.incarnation = i.incarnation AND n.lease_until > now.at), true) AS owner_live,
           coalesce(extract(epoch FROM n.lease_until - now.at) * 1000000, 0)::bigint AS lease_left
    FROM (SELECT clock_timestamp() AS at OFFSET 0) now
    CROSS JOIN unnest($2::text[]) AS r(key)
    CROSS JOIN LATERAL (
        SELECT v.* FROM weft.invocation v WHERE v.function = $1 AND v.key = r.key OFFSET 0
    ) AS i
    LEFT JOIN weft.node n ON n.id = i.owner";

impl Postgres {
    pub(super) async fn claim_batch(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<Vec<Verdict>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.doubts.ask(function, requests);
        let retake: Vec<&str> = asked.retake.iter().map(Key::as_str).collect();
        let mut locked = self.still_locked(function, requests).await?;
        let mut tries = 1;
        let granted = loop {
            let open: Vec<&ClaimRequest> = requests.iter().filter(|request| !locked.contains(&request.key)).collect();
            match retried!(self.grant(owner, function, &open, &retake)) {
                Err(error) if is_locked(&error) && tries < TRIES => {
                    tries += 1;
                    let keys = open.iter().map(|request| request.key.clone()).collect();
                    locked.extend(self.which_are_locked(function, keys).await?);
                }
                result => break result.map_err(self.map("claim invocations"))?,
            }
        };
        let mut claims = HashMap::with_capacity(granted.len());
        for row in &granted {
            let (key, claim) = read_claim(row).map_err(self.map("claim invocations"))?;
            claims.insert(key, claim?);
        }
        let lost: Vec<&ClaimRequest> = requests
            .iter()
            .filter(|request| !claims.contains_key(request.key.as_str()) && !locked.contains(&request.key))
            .collect();
        let mut standings = self.look(function, &lost).await?;
        asked.answered_but(&locked);
        Ok(requests
            .iter()
            .map(|request| match claims.get(request.key.as_str()) {
                Some(claim) => Verdict::Run(*claim),
                // Whoever holds the row is about to change it, or is held up; either way it is not ours to take now.
                None if locked.contains(&request.key) => Verdict::Busy { retry_in: RETRY },
                None => of_loser(standings.remove(request.key.as_str())),
            })
            .collect())
    }

    async fn grant(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[&ClaimRequest],
        retake: &[&str],
    ) -> sqlx::Result<Vec<sqlx::postgres::PgRow>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&str> = requests.iter().map(|request| request.key.as_str()).collect();
        let digests: Vec<&[u8]> = requests.iter().map(|request| request.digest.0.as_slice()).collect();
        let interrupted: Vec<&str> =
            requests.iter().filter(|request| request.interrupted).map(|request| request.key.as_str()).collect();
        let resumes: Vec<Option<i64>> = requests.iter().map(|request| request.resume.map(|fence| fence.0)).collect();
        sqlx::query(CLAIM)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(owner.incarnation)
            .bind(keys)
            .bind(digests)
            .bind(resumes)
            .bind(retake)
            .bind(interrupted)
            .bind(FailedAttempt::VANISHED)
            .bind(VANISHED)
            .fetch_all(&self.claims)
            .await
    }

    async fn look(&self, function: &FunctionName, lost: &[&ClaimRequest]) -> Result<HashMap<String, Standing>, Error> {
        let mut standings = HashMap::with_capacity(lost.len());
        if lost.is_empty() {
            return Ok(standings);
        }
        let keys: Vec<&str> = lost.iter().map(|request| request.key.as_str()).collect();
        let rows = sqlx::query(LOOK)
            .bind(function.as_str())
            .bind(keys)
            .fetch_all(&self.claims)
            .await
            .map_err(self.map("read invocations"))?;
        let requests: HashMap<&str, &ClaimRequest> =
            lost.iter().map(|request| (request.key.as_str(), *request)).collect();
        for row in rows {
            let seen = read_seen(&row).map_err(self.map("read invocations"))?;
            let Some(request) = requests.get(seen.key.as_str()) else { continue };
            let due = seen.due_in <= 0 || request.resume.is_some_and(|fence| fence.0 == seen.fence);
            let standing = Standing {
                state: state(&seen.state)?,
                facts: Facts {
                    same_payload: digest_matches(&seen.digest, &request.digest),
                    owner_live: seen.owner_live,
                    due,
                    expired: seen.expired,
                },
                epoch: Epoch(count("an epoch", seen.epoch)?),
                result: seen.result.map(Bytes::from),
                lease_left: duration(seen.lease_left),
                due_in: duration(seen.due_in),
            };
            standings.insert(seen.key, standing);
        }
        Ok(standings)
    }
}

struct Seen {
    key: String,
    state: String,
    epoch: i32,
    fence: i64,
    digest: Vec<u8>,
    result: Option<Vec<u8>>,
    expired: bool,
    due_in: i64,
    owner_live: bool,
    lease_left: i64,
}

fn read_seen(row: &sqlx::postgres::PgRow) -> sqlx::Result<Seen> {
    Ok(Seen {
        key: row.try_get("key")?,
        state: row.try_get("state")?,
        epoch: row.try_get("epoch")?,
        fence: row.try_get("fence")?,
        digest: row.try_get("digest")?,
        result: row.try_get("result")?,
        expired: row.try_get("expired")?,
        due_in: row.try_get("due_in")?,
        owner_live: row.try_get("owner_live")?,
        lease_left: row.try_get("lease_left")?,
    })
}

fn read_claim(row: &sqlx::postgres::PgRow) -> sqlx::Result<(String, Result<Claim, Error>)> {
    let (attempt, crashes, epoch): (i32, i32, i32) =
        (row.try_get("attempt")?, row.try_get("crashes")?, row.try_get("epoch")?);
    let (fence, first_seen_at): (i64, Instant) = (row.try_get("fence")?, row.try_get("first_seen_at")?);
    let vanished = row.try_get("vanished")?;
    let claim = || {
        Ok(Claim {
            fence: Fence(fence),
            attempt: Attempt(count("an attempt", attempt)?),
            crashes: count("crashes", crashes)?,
            epoch: Epoch(count("an epoch", epoch)?),
            first_seen_at: first_seen_at.0,
            vanished,
        })
    };
    Ok((row.try_get("key")?, claim()))
}
