//! Names, incarnations and leases.

use crate::{ClaimRequest, Owner};

use super::*;

fn busy(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Busy { .. })
}

pub async fn a_live_nodes_name_is_taken(subject: &Subject) {
    let session = subject.enter("a").await;
    let second = subject.ledger.enter(&NodeName::new("a").unwrap(), LEASE).await;
    assert!(matches!(second, Err(Error::NodeTaken { node }) if node == "a"));
    assert!(session.renew().await.unwrap());
    assert_eq!(session.owner().incarnation, 1);
}

pub async fn a_name_left_is_free_at_once(subject: &Subject) {
    for incarnation in 1..4 {
        let session = subject.enter("a").await;
        assert_eq!(session.owner().incarnation, incarnation);
        session.leave().await.unwrap();
    }
}

pub async fn case_05_a_new_incarnation_frees_its_predecessors_claims_at_once(subject: &Subject) {
    let first = subject.enter("a").await;
    let stale = subject.run(&*first, "k", "x").await;
    // As kill -9 does: nothing is said, the connection is gone.
    drop(first);
    let second = subject.enter("a").await;
    assert_eq!(second.owner().incarnation, 2);
    let taken = subject.run(&*second, "k", "x").await;
    assert_eq!(taken.attempt, Attempt(2));
    assert!(taken.fence > stale.fence, "{taken:?}");
    assert_eq!(subject.settle("k", stale.fence, succeeded("1", HOUR)).await, Settled::AuthorityLost);
}

pub async fn a_superseded_session_is_told_so(subject: &Subject) {
    let first = subject.enter("a").await;
    let owner = first.owner().clone();
    // The database says that a later incarnation has the name, however that came about.
    let raise = if subject.url.starts_with("sqlite:") {
        "UPDATE node SET incarnation = incarnation + 1 WHERE id = $1"
    } else {
        "UPDATE weft.node SET incarnation = incarnation + 1 WHERE id = $1"
    };
    assert_eq!(subject.joiner().execute(raise, &["a".into()]).await.unwrap(), 1);
    assert!(!first.renew().await.unwrap());
    let verdicts = subject.ledger.claim(&owner, &function(), &[request("k", "x")]).await.unwrap();
    assert!(verdicts.iter().all(busy), "{verdicts:?}");
}

pub async fn case_15_an_owner_without_a_live_lease_claims_nothing(subject: &Subject) {
    let nobody = Owner { node: NodeName::new("nobody").unwrap(), incarnation: 1 };
    let requests: [ClaimRequest; 1] = [request("k", "x")];
    let verdicts = subject.ledger.claim(&nobody, &function(), &requests).await.unwrap();
    assert!(verdicts.iter().all(busy), "{verdicts:?}");

    let session = subject.enter("a").await;
    subject.ledger.advance(LEASE).await.unwrap();
    assert!(busy(&subject.claim(&*session, "k", "x").await));
    assert!(subject.record("k").await.is_none());
    assert!(session.renew().await.unwrap());
    subject.run(&*session, "k", "x").await;
}

pub async fn leaving_frees_what_is_still_claimed(subject: &Subject) {
    let first = subject.enter("a").await;
    subject.run(&*first, "k", "x").await;
    first.leave().await.unwrap();
    let second = subject.enter("b").await;
    assert_eq!(subject.run(&*second, "k", "x").await.attempt, Attempt(2));
}
