//! Whether what a publisher says it published is known: the one question that ledger and broker cannot answer alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use weft_ledger::{DeadLetterQuery, InvocationQuery, Ledger};
use weft_schemas::manifest::Manifest;
use weft_schemas::{DeadLetterId, FunctionName, Key, Message, Reason, topic};

use crate::admission::Admission;

/// An event that a function should have, and that the ledger does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Missing {
    pub function: FunctionName,
    /// Absent for a message that could not have become an invocation.
    pub key: Option<Key>,
    /// The dead letter that a message which is no event should have become.
    pub dead_letter: Option<DeadLetterId>,
}

/// What became of published messages.
#[derive(Debug, Default)]
pub struct Published {
    /// Different keys and refused messages, over all functions that are bound to them.
    pub expected: u64,
    pub missing: BTreeSet<Missing>,
    seen: BTreeSet<Missing>,
}

/// Reads messages as the functions of a manifest would have.
pub struct Reader {
    functions: Vec<(Arc<weft_schemas::manifest::Function>, Admission)>,
}

impl Reader {
    /// # Errors
    /// A function's schema is none; the manifest's own check refuses such a file.
    pub fn new(manifest: &Manifest) -> Result<Self, String> {
        let functions = manifest.functions.values().map(|function| {
            let function = Arc::new(function.clone());
            Ok((Arc::clone(&function), Admission::new(function)?))
        });
        Ok(Self { functions: functions.collect::<Result<_, String>>()? })
    }
}

impl Published {
    /// Asks the ledger for one published message. A message twice is asked for once.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn check(
        &mut self,
        reader: &Reader,
        ledger: &dyn Ledger,
        message: &Message,
    ) -> Result<(), weft_ledger::Error> {
        for (function, admission) in &reader.functions {
            let bound = function.source.is_none()
                && function.events.iter().any(|pattern| topic::matches(pattern, &message.routing_key));
            if !bound {
                continue;
            }
            // Its age when it arrived is not known, so it is read as a redelivery, which is refused for nothing but a key.
            let admitted = admission.admit(message.clone(), true, Timestamp::now());
            let (key, reason) = match admitted {
                Ok(admitted) => (Some(admitted.key), admitted.doom.map_or(Reason::TooOld, |doom| doom.reason)),
                Err(refusal) => (None, refusal.reason),
            };
            let letter = DeadLetterId::of_message(&function.name, reason, message);
            let dead_letter = (reason != Reason::TooOld).then(|| letter.clone());
            let wanted = Missing { function: function.name.clone(), key, dead_letter };
            if self.seen.contains(&wanted) {
                continue;
            }
            // One with a key may still have been too old when it came, and be a dead letter without an invocation.
            let known = invoked(ledger, &wanted).await? || buried(ledger, letter).await?;
            self.expected += 1;
            if !known {
                self.missing.insert(wanted.clone());
            }
            self.seen.insert(wanted);
        }
        Ok(())
    }

    /// How many are missing, by function.
    pub fn by_function(&self) -> BTreeMap<&FunctionName, u64> {
        let mut counts = BTreeMap::new();
        for missing in &self.missing {
            *counts.entry(&missing.function).or_default() += 1;
        }
        counts
    }
}

async fn invoked(ledger: &dyn Ledger, wanted: &Missing) -> Result<bool, weft_ledger::Error> {
    let Some(key) = wanted.key.clone() else { return Ok(false) };
    let function = Some(wanted.function.clone());
    let query = InvocationQuery { function, key: Some(key), limit: 1, ..InvocationQuery::default() };
    Ok(!ledger.invocations(&query).await?.is_empty())
}

async fn buried(ledger: &dyn Ledger, id: DeadLetterId) -> Result<bool, weft_ledger::Error> {
    let query = DeadLetterQuery { id: Some(id), include_closed: true, limit: 1, ..DeadLetterQuery::default() };
    Ok(!ledger.dead_letters(&query).await?.is_empty())
}
