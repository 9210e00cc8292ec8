//! The audit's questions, which are the same SQL in both databases, and how the answers become books.
//!
//! All of them are asked in one snapshot. `$1` is the snapshot's time; `$2` bounds a list.

use std::collections::BTreeMap;

use jiff::Timestamp;
use weft_schemas::{DeadLetterId, Fence, FunctionName};

use crate::codec::{corrupt, count, function, key, state};
use crate::{AtBroker, Audit, Difference, Error, FunctionAudit, OutboxId, OutboxKind};

/// How long an outbox row may have been due before that is a difference.
pub(crate) const OVERDUE_MICROS: i64 = 60_000_000;

/// Whether a claim's owner is live, as the claim's second look judges it.
macro_rules! live {
    () => {
        "coalesce(n.incarnation < i.incarnation OR (n.incarnation = i.incarnation AND n.lease_until > $1), true)"
    };
}

/// One row for each function: everything that is a number.
pub(crate) const NUMBERS: &str = concat!(
    "SELECT function,
            CAST(sum(accepted) AS bigint), CAST(sum(swept) AS bigint), CAST(sum(claimed) AS bigint),
            CAST(sum(lapsed) AS bigint), CAST(sum(waiting) AS bigint), CAST(sum(succeeded) AS bigint),
            CAST(sum(dead) AS bigint), CAST(sum(letters) AS bigint), CAST(sum(runs) AS bigint),
            CAST(sum(copies) AS bigint)
     FROM (
         SELECT function, accepted, 0 AS swept, 0 AS claimed, 0 AS lapsed, 0 AS waiting, 0 AS succeeded, 0 AS dead,
                0 AS letters, 0 AS runs, 0 AS copies
         FROM weft.tally
         UNION ALL
         SELECT function, 0, deleted, 0, 0, 0, 0, 0, 0, 0, 0 FROM weft.swept
         UNION ALL
         SELECT i.function, 0, 0,
                count(*) FILTER (WHERE i.state = 'claimed' AND ",
    live!(),
    "), count(*) FILTER (WHERE i.state = 'claimed' AND NOT ",
    live!(),
    "), count(*) FILTER (WHERE i.state = 'waiting'), count(*) FILTER (WHERE i.state = 'succeeded'),
                count(*) FILTER (WHERE i.state = 'dead'), 0, 0, 0
         FROM weft.invocation i LEFT JOIN weft.node n ON n.id = i.owner GROUP BY i.function
         UNION ALL
         SELECT function, 0, 0, 0, 0, 0, 0, 0, count(*), 0, 0
         FROM weft.dead_letter WHERE redriven_at IS NULL AND purged_at IS NULL GROUP BY function
         UNION ALL
         SELECT function, 0, 0, 0, 0, 0, 0, 0, 0,
                count(*) FILTER (WHERE kind <> 'dead_letter'), count(*) FILTER (WHERE kind = 'dead_letter')
         FROM weft.outbox WHERE function IS NOT NULL GROUP BY function
     ) AS books
     GROUP BY function ORDER BY function"
);

/// Function, key, state, fence, last change, and how many the function has of them.
pub(crate) const AT_BROKER: &str = concat!(
    "SELECT function, key, state, fence, updated_at, total FROM (
         SELECT i.function, i.key, i.state, i.fence, i.updated_at,
                row_number() OVER (PARTITION BY i.function ORDER BY i.updated_at, i.key) AS place,
                count(*) OVER (PARTITION BY i.function) AS total
         FROM weft.invocation i LEFT JOIN weft.node n ON n.id = i.owner
         WHERE (i.state = 'waiting' OR (i.state = 'claimed' AND NOT ",
    live!(),
    ")) AND NOT EXISTS (
             SELECT 1 FROM weft.outbox o
             WHERE o.function = i.function AND o.key = i.key AND o.kind IN ('retry', 'redrive'))
     ) AS waits
     WHERE place <= $2 ORDER BY function, place"
);

/// Function, key, nothing, and how many there are.
pub(crate) const DEAD_WITHOUT_LETTER: &str = "
    SELECT i.function, i.key, '', count(*) OVER () FROM weft.invocation i
    WHERE i.state = 'dead' AND NOT EXISTS (
        SELECT 1 FROM weft.dead_letter d
        WHERE d.function = i.function AND d.key = i.key AND d.epoch = i.epoch AND d.settled)
    ORDER BY i.function, i.key LIMIT $1";

/// Function, key, id, and how many there are. A redriven letter's invocation may have succeeded and been swept since.
pub(crate) const LETTER_WITHOUT_INVOCATION: &str = "
    SELECT d.function, d.key, d.id, count(*) OVER () FROM weft.dead_letter d
    WHERE d.settled AND d.redriven_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM weft.invocation i WHERE i.function = d.function AND i.key = d.key)
    ORDER BY d.function, d.key, d.id LIMIT $1";

/// Function, key, nothing, and how many there are.
pub(crate) const RETRY_WITHOUT_INVOCATION: &str = "
    SELECT o.function, o.key, '', count(*) OVER () FROM weft.outbox o
    WHERE o.kind IN ('retry', 'redrive') AND o.key IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM weft.invocation i WHERE i.function = o.function AND i.key = o.key)
    ORDER BY o.function, o.key, o.id LIMIT $1";

/// Id, kind, function, key, tries, and how many there are. `$1` is the time before which a row should have left.
pub(crate) const OVERDUE: &str = "
    SELECT id, kind, function, key, tries, count(*) OVER () FROM weft.outbox
    WHERE coalesce(failing_since, due_at) < $1
    ORDER BY coalesce(failing_since, due_at), id LIMIT $2";

pub(crate) type Numbers = (String, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);
pub(crate) type Waits<Time> = (String, String, String, i64, Time, i64);
pub(crate) type Odd = (String, String, String, i64);
pub(crate) type Late<Tries> = (i64, String, Option<String>, Option<String>, Tries, i64);

/// The books while they are written.
pub(crate) struct Books {
    at: Timestamp,
    limit: usize,
    functions: BTreeMap<FunctionName, FunctionAudit>,
    differences: Vec<Difference>,
    found: u64,
}

fn number(raw: i64) -> Result<u64, Error> {
    u64::try_from(raw).map_err(|_| corrupt("a count is negative"))
}

impl Books {
    pub fn new(at: Timestamp, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { at, limit, functions: BTreeMap::new(), differences: Vec::new(), found: 0 }
    }

    fn differ(&mut self, difference: Difference) {
        if self.differences.len() < self.limit {
            self.differences.push(difference);
        }
    }

    pub fn numbers(&mut self, row: &Numbers) -> Result<(), Error> {
        let books = FunctionAudit {
            function: function(&row.0)?,
            accepted: number(row.1)?,
            swept: number(row.2)?,
            claimed: number(row.3)?,
            lapsed: number(row.4)?,
            waiting: number(row.5)?,
            succeeded: number(row.6)?,
            dead: number(row.7)?,
            open_letters: number(row.8)?,
            outbox_runs: number(row.9)?,
            outbox_copies: number(row.10)?,
            at_broker: Vec::new(),
            at_broker_count: 0,
        };
        let present = books.claimed + books.lapsed + books.waiting + books.succeeded + books.dead;
        if books.accepted != present + books.swept {
            let (function, accepted, swept) = (books.function.clone(), books.accepted, books.swept);
            self.found += 1;
            self.differ(Difference::Rows { function, accepted, present, swept });
        }
        self.functions.insert(books.function.clone(), books);
        Ok(())
    }

    pub fn at_broker(&mut self, row: &Waits<Timestamp>) -> Result<(), Error> {
        let waits = AtBroker { key: key(&row.1)?, state: state(&row.2)?, fence: Fence(row.3), updated_at: row.4 };
        let total = number(row.5)?;
        if let Some(books) = self.functions.get_mut(&function(&row.0)?) {
            books.at_broker_count = total;
            books.at_broker.push(waits);
        }
        Ok(())
    }

    /// Rows of one kind of difference, each with how many there are of the kind.
    pub fn odd(
        &mut self,
        rows: &[Odd],
        of: fn(FunctionName, weft_schemas::Key, String) -> Difference,
    ) -> Result<(), Error> {
        self.found += rows.first().map_or(Ok(0), |row| number(row.3))?;
        for (name, of_key, id, _) in rows {
            let difference = of(function(name)?, key(of_key)?, id.clone());
            self.differ(difference);
        }
        Ok(())
    }

    pub fn overdue<Tries: Copy + TryInto<u32>>(&mut self, rows: &[Late<Tries>]) -> Result<(), Error> {
        self.found += rows.first().map_or(Ok(0), |row| number(row.5))?;
        for (id, kind, name, of_key, tries, _) in rows {
            let difference = Difference::Overdue {
                kind: OutboxKind::read(kind)?,
                id: OutboxId(*id),
                function: name.as_deref().map(function).transpose()?,
                key: of_key.as_deref().map(key).transpose()?,
                tries: count("tries", *tries)?,
            };
            self.differ(difference);
        }
        Ok(())
    }

    pub fn close(self) -> Audit {
        Audit {
            at: self.at,
            functions: self.functions.into_values().collect(),
            differences: self.differences,
            differences_found: self.found,
        }
    }
}

/// What a row of function, key and id means.
type Meaning = fn(FunctionName, weft_schemas::Key, String) -> Difference;

/// What the rows of each statement mean.
pub(crate) const ODD: [(&str, Meaning); 3] = [
    (DEAD_WITHOUT_LETTER, |function, key, _| Difference::DeadWithoutLetter { function, key }),
    (LETTER_WITHOUT_INVOCATION, |function, key, id| Difference::LetterWithoutInvocation {
        function,
        key,
        id: DeadLetterId(id),
    }),
    (RETRY_WITHOUT_INVOCATION, |function, key, _| Difference::RetryWithoutInvocation { function, key }),
];
