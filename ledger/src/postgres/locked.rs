//! Keys whose row somebody holds locked: a worker that was paused between its settle and its commit may do so for long.
//!
//! A function has one claim under way, so a claim that waited for such a row would keep all its events waiting. Claims wait
//! shortly instead. A batch that ran into a lock is asked again without the rows that are locked, which are answered as
//! busy; and those are looked at beforehand from then on, so that none is waited for twice.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weft_schemas::{FunctionName, Key};

use super::{Postgres, code};
use crate::{ClaimRequest, Error};

/// How long a claim waits for a row's lock. Settles are done with theirs long before.
pub(super) const PATIENCE: &str = "1s";
/// How soon to ask again for a key whose row is locked.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How often a batch that runs into locks is tried, before that is an outage.
pub(super) const TRIES: u32 = 4;
/// More keys are never behind locks; what was remembered and not asked for again is forgotten then.
const MOST: usize = 1_000;

/// The keys that a claim has run into. One that is forgotten costs a claim its patience once more.
#[derive(Default)]
pub(super) struct Stuck(Mutex<HashSet<(FunctionName, Key)>>);

impl Stuck {
    fn among(&self, function: &FunctionName, requests: &[ClaimRequest]) -> Vec<Key> {
        let stuck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.is_empty() {
            return Vec::new();
        }
        let keys = requests.iter().map(|request| &request.key);
        keys.filter(|key| stuck.contains(&(function.clone(), (*key).clone()))).cloned().collect()
    }

    fn note(&self, function: &FunctionName, asked: &[Key], locked: &HashSet<Key>) {
        let mut stuck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.len() + locked.len() > MOST {
            stuck.clear();
        }
        for key in asked {
            let entry = (function.clone(), key.clone());
            if locked.contains(key) {
                stuck.insert(entry)
            } else {
                stuck.remove(&entry)
            };
        }
    }
}

/// Whether a statement waited too long for a lock. It has changed nothing then.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// A lock that is taken for a moment, and only where nobody holds one: what is there and was not taken is locked. Each row
/// is reached by its whole key: of an empty table the planner would as soon read all of a function's rows.
pub(super) const LOCKED: &str = "
    WITH free AS MATERIALIZED (
        SELECT i.key FROM unnest($2::text[]) AS r(key)
        CROSS JOIN LATERAL (
            SELECT v.key FROM weft.invocation v WHERE v.function = $1 AND v.key = r.key
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS i
    )
    SELECT i.key FROM unnest($2::text[]) AS r(key)
    CROSS JOIN LATERAL (SELECT v.key FROM weft.invocation v WHERE v.function = $1 AND v.key = r.key OFFSET 0) AS i
    WHERE i.key <> ALL (ARRAY(SELECT f.key FROM free f))";

impl Postgres {
    /// Those of the requests that an earlier claim ran into and that are locked still.
    pub(super) async fn still_locked(
        &self,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<HashSet<Key>, Error> {
        let keys = self.stuck.among(function, requests);
        if keys.is_empty() { Ok(HashSet::new()) } else { self.which_are_locked(function, keys).await }
    }

    /// Which of the keys' rows somebody else holds locked right now; remembered for the next claim.
    pub(super) async fn which_are_locked(
        &self,
        function: &FunctionName,
        keys: Vec<Key>,
    ) -> Result<HashSet<Key>, Error> {
        let texts: Vec<&str> = keys.iter().map(Key::as_str).collect();
        let rows: Vec<String> = sqlx::query_scalar(LOCKED)
            .bind(function.as_str())
            .bind(texts)
            .fetch_all(&self.claims)
            .await
            .map_err(self.map("look for locked invocations"))?;
        let rows: HashSet<String> = rows.into_iter().collect();
        let locked: HashSet<Key> = keys.iter().filter(|key| rows.contains(key.as_str())).cloned().collect();
        self.stuck.note(function, &keys, &locked);
        Ok(locked)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weft_schemas::Digest;

    use super::*;

    #[test]
    fn a_key_is_looked_at_until_its_lock_is_gone() {
        let (stuck, function) = (Stuck::default(), FunctionName::new("f").unwrap());
        let keys = ["a", "b"].map(|key| Key::new(key).unwrap());
        let requests =
            keys.clone().map(|key| ClaimRequest { key, digest: Digest::of(&[b"x"]), resume: None, interrupted: false });
        assert!(stuck.among(&function, &requests).is_empty());
        stuck.note(&function, &keys, &HashSet::from([keys[1].clone()]));
        assert_eq!(stuck.among(&function, &requests), keys[1..]);
        assert!(stuck.among(&FunctionName::new("g").unwrap(), &requests).is_empty());
        stuck.note(&function, &keys[1..], &HashSet::new());
        assert!(stuck.among(&function, &requests).is_empty());
    }
}
