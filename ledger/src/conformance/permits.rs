//! A bound over all dispatchers.

use super::*;
use crate::{Owner, PERMIT_GRACE, PermitAsk, Permits};

async fn ask(subject: &Subject, owner: &Owner, total: u32, keep: u32, wanted: u32) -> Permits {
    subject.ledger.permits(owner, &function(), PermitAsk { total, keep, wanted }).await.unwrap()
}

pub async fn permits_are_given_up_to_the_bound_and_taken_back(subject: &Subject) {
    let a = subject.enter("a").await;
    assert_eq!(ask(subject, a.owner(), 3, 0, 2).await.held, 2);
    assert_eq!(ask(subject, a.owner(), 3, 2, 9).await, Permits { held: 3, share: 3 });
    assert_eq!(ask(subject, a.owner(), 3, 1, 1).await.held, 1);
    assert_eq!(ask(subject, a.owner(), 3, 0, 0).await.held, 0);
    // What runs stays counted, also above a bound that was lowered.
    assert_eq!(ask(subject, a.owner(), 9, 0, 5).await.held, 5);
    assert_eq!(ask(subject, a.owner(), 3, 5, 9).await, Permits { held: 5, share: 3 });
    let other = FunctionName::new("other").unwrap();
    let free = PermitAsk { total: 3, keep: 0, wanted: 3 };
    assert_eq!(subject.ledger.permits(a.owner(), &other, free).await.unwrap().held, 3, "functions are independent");
}

/// Two dispatchers, one after the other where only one can have the ledger open: the first is silent, its lease is not over.
pub async fn the_sum_of_permits_is_never_more_than_the_bound(subject: &Subject) {
    let a = subject.enter("a").await;
    assert_eq!(ask(subject, a.owner(), 3, 0, 2).await.held, 2);
    let first = a.owner().clone();
    drop(a);
    let b = subject.enter("b").await;
    assert_eq!(ask(subject, b.owner(), 3, 0, 3).await.held, 1, "the rest is the other's");
    // The other is told that it has more than is fair once that is so, and gives it back when it can.
    let told = ask(subject, &first, 3, 2, 3).await;
    assert_eq!(told.held, 2, "nothing is taken from it");
    assert!(told.share <= 2, "{told:?}");
    assert_eq!(ask(subject, &first, 3, 0, 0).await.held, 0);
    assert_eq!(ask(subject, b.owner(), 3, 1, 3).await.held, 3);
}

pub async fn permits_of_a_vanished_node_are_free_after_its_lease(subject: &Subject) {
    let a = subject.enter("a").await;
    assert_eq!(ask(subject, a.owner(), 3, 0, 3).await.held, 3);
    drop(a);
    let b = subject.enter("b").await;
    assert_eq!(ask(subject, b.owner(), 3, 0, 3).await.held, 0);
    subject.ledger.advance(LEASE).await.unwrap();
    assert!(b.renew().await.unwrap());
    assert_eq!(ask(subject, b.owner(), 3, 0, 3).await.held, 0, "what it had to stop may just be ending");
    subject.ledger.advance(PERMIT_GRACE).await.unwrap();
    assert_eq!(ask(subject, b.owner(), 3, 0, 3).await.held, 3);
}

pub async fn permits_of_a_predecessor_are_free_soon_after_its_successor_began(subject: &Subject) {
    let a = subject.enter("a").await;
    assert_eq!(ask(subject, a.owner(), 3, 0, 3).await.held, 3);
    drop(a);
    let a = subject.enter("a").await;
    let again = a.owner().clone();
    drop(a);
    let b = subject.enter("b").await;
    assert_eq!(ask(subject, b.owner(), 3, 0, 3).await.held, 0);
    subject.ledger.advance(PERMIT_GRACE).await.unwrap();
    assert_eq!(ask(subject, b.owner(), 3, 0, 2).await.held, 2);
    // The successor's own first word takes the place of what its predecessor had.
    assert_eq!(ask(subject, &again, 3, 0, 3).await.held, 1);
}

pub async fn an_owner_without_a_live_lease_gets_no_permit(subject: &Subject) {
    let a = subject.enter("a").await;
    subject.ledger.advance(LEASE).await.unwrap();
    assert_eq!(ask(subject, a.owner(), 3, 0, 3).await, Permits { held: 0, share: 0 });
    assert!(a.renew().await.unwrap());
    assert_eq!(ask(subject, a.owner(), 3, 0, 3).await.held, 3);
    let stale = Owner { incarnation: a.owner().incarnation - 1, ..a.owner().clone() };
    assert_eq!(ask(subject, &stale, 9, 0, 3).await.held, 0);
}

pub async fn racing_dispatchers_never_hold_more_than_the_bound(subject: &Subject) {
    let a = subject.enter("a").await;
    let first = a.owner().clone();
    drop(a);
    let b = subject.enter("b").await;
    let mut tasks = tokio::task::JoinSet::new();
    for owner in [first, b.owner().clone()] {
        let ledger = Arc::clone(&subject.ledger);
        tasks.spawn(async move {
            let mut most = 0;
            for round in 0..20_u32 {
                let wanted = (round * 7) % 9;
                let ask = PermitAsk { total: 5, keep: 0, wanted };
                most = ledger.permits(&owner, &function(), ask).await.unwrap().held;
            }
            (owner, most)
        });
    }
    let held: u32 = tasks.join_all().await.into_iter().map(|(_, held)| held).sum();
    assert!(held <= 5, "{held}");
}
