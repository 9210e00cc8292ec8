//! What functions have used: written again and again, and summed by whoever asks.

use jiff::Timestamp;
use weft_schemas::{FunctionName, NodeName};

use super::*;
use crate::{Owner, Usage, Used};

fn hour(nth: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 / 3_600 * 3_600 + nth * 3_600).unwrap()
}

fn usage(function: &str, nth: i64, node: &str, incarnation: i64, attempts: u64) -> Usage {
    let used = Used {
        attempts,
        cold_starts: 1,
        billed_ms: attempts * 10,
        billed_mb_ms: attempts * 1_280,
        worker_ms: 60_000,
        worker_mb_ms: 60_000 * 128,
    };
    let by = Owner { node: NodeName::new(node).unwrap(), incarnation };
    Usage { function: FunctionName::new(function).unwrap(), hour: hour(nth), by, used }
}

pub async fn usage_is_kept_by_function_hour_and_dispatcher(subject: &Subject) {
    subject.ledger.write_usage(&[]).await.unwrap();
    let rows = [
        usage("a", 0, "n1", 1, 5),
        usage("a", 0, "n1", 2, 6),
        usage("a", 0, "n2", 1, 7),
        usage("a", 1, "n1", 1, 8),
        usage("b", 0, "n1", 1, 9),
    ];
    let mut shuffled = rows.to_vec();
    shuffled.reverse();
    subject.ledger.write_usage(&shuffled).await.unwrap();
    assert_eq!(subject.ledger.usage(hour(-1)).await.unwrap(), rows);
    // From that hour on.
    assert_eq!(subject.ledger.usage(hour(1)).await.unwrap(), rows[3..4]);
    assert_eq!(subject.ledger.usage(hour(2)).await.unwrap(), []);
}

pub async fn usage_that_is_written_again_is_not_counted_again(subject: &Subject) {
    let (early, late) = (usage("a", 0, "n1", 1, 5), usage("a", 0, "n1", 1, 8));
    subject.ledger.write_usage(std::slice::from_ref(&early)).await.unwrap();
    subject.ledger.write_usage(std::slice::from_ref(&late)).await.unwrap();
    subject.ledger.write_usage(std::slice::from_ref(&late)).await.unwrap();
    assert_eq!(subject.ledger.usage(hour(0)).await.unwrap(), std::slice::from_ref(&late));
    // What was written first and arrives last lowers nothing.
    subject.ledger.write_usage(&[early]).await.unwrap();
    assert_eq!(subject.ledger.usage(hour(0)).await.unwrap(), [late]);
}
