//! Every event in every state, through the real statements, against [`crate::state::next`].

use weft_schemas::Epoch;

use super::*;
use crate::State;
use crate::state::{Before, Event, Facts, Illegal, Toll, next, toll};
use crate::{Redrive, Redriven, state};

/// Where an invocation can stand, with what depends on time and leases spelt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Absent,
    ClaimedLive,
    ClaimedLapsed,
    WaitingEarly,
    WaitingDue,
    SucceededKept,
    SucceededExpired,
    Dead,
}

const STANDS: [Stand; 8] = [
    Stand::Absent,
    Stand::ClaimedLive,
    Stand::ClaimedLapsed,
    Stand::WaitingEarly,
    Stand::WaitingDue,
    Stand::SucceededKept,
    Stand::SucceededExpired,
    Stand::Dead,
];

#[derive(Debug, Clone, Copy)]
enum Act {
    Claim { same_payload: bool, resumes: bool, interrupted: bool },
    Succeed { current: bool },
    Park { current: bool },
    Bury { current: bool },
    Release { current: bool },
    Redrive,
    Sweep,
}

fn acts() -> Vec<Act> {
    let mut acts = vec![Act::Redrive, Act::Sweep];
    for fact in [false, true] {
        for (resumes, interrupted) in [(false, false), (false, true), (true, false), (true, true)] {
            acts.push(Act::Claim { same_payload: fact, resumes, interrupted });
        }
        let current = fact;
        acts.extend([Act::Succeed { current }, Act::Park { current }, Act::Bury { current }, Act::Release { current }]);
    }
    acts
}

impl Stand {
    fn state(self) -> Option<State> {
        match self {
            Self::Absent => None,
            Self::ClaimedLive | Self::ClaimedLapsed => Some(State::Claimed),
            Self::WaitingEarly | Self::WaitingDue => Some(State::Waiting),
            Self::SucceededKept | Self::SucceededExpired => Some(State::Succeeded),
            Self::Dead => Some(State::Dead),
        }
    }

    /// What a granted claim finds here. The lapsed claim is one of the same node.
    fn before(self, interrupted: bool) -> Before {
        match self {
            Self::Absent | Self::SucceededExpired => Before::Nothing,
            Self::WaitingEarly | Self::WaitingDue => Before::Parked,
            Self::ClaimedLapsed if interrupted => Before::Interrupted,
            Self::ClaimedLapsed => Before::Vanished,
            Self::ClaimedLive | Self::SucceededKept | Self::Dead => panic!("no claim is granted here: {self:?}"),
        }
    }

    fn event(self, act: Act) -> Event {
        let expired = self == Self::SucceededExpired;
        match act {
            Act::Claim { same_payload, resumes, interrupted: _ } => Event::Claim(Facts {
                same_payload,
                owner_live: self == Self::ClaimedLive,
                due: self == Self::WaitingDue || resumes,
                expired,
            }),
            Act::Succeed { current } => Event::Succeed { current },
            Act::Park { current } => Event::Park { current },
            Act::Bury { current } => Event::Bury { current },
            Act::Release { current } => Event::Release { current },
            Act::Redrive => Event::Redrive,
            Act::Sweep => Event::Sweep { expired },
        }
    }
}

pub async fn every_event_in_every_state_does_what_the_function_says(subject: &Subject) {
    let mut walked = 0;
    let mut session = subject.enter("a").await;
    for stand in STANDS {
        for act in acts() {
            let key = format!("k{walked}");
            let case = format!("{stand:?} {act:?}");
            let claim = arrange(subject, &mut session, stand, &key).await;
            let expected = next(stand.state(), stand.event(act));
            let earlier = subject.record(&key).await;
            let answer = perform(subject, &*session, act, &key, claim).await;
            assert_eq!(answer, expected.map(drop), "{case}");
            let after = subject.record(&key).await;
            let state = after.as_ref().map(|record| record.state);
            assert_eq!(state, expected.unwrap_or(stand.state()), "{case}");
            if let (Act::Claim { interrupted, .. }, Ok(_), Some(after)) = (act, expected, after) {
                assert_eq!(counts(&after), charged(earlier.as_ref(), toll(stand.before(interrupted))), "{case}");
            }
            walked += 1;
        }
    }
    assert_eq!(walked, 8 * 18);
}

/// Attempt, crashes and how many failed attempts are remembered.
fn counts(record: &InvocationRecord) -> (u32, u32, usize) {
    (record.attempt.0, record.crashes, record.failures.len())
}

/// What the counts are after a granted claim.
fn charged(earlier: Option<&InvocationRecord>, toll: Toll) -> (u32, u32, usize) {
    let (attempt, crashes, failures) = earlier.filter(|_| !toll.anew).map_or((0, 0, 0), counts);
    (attempt + u32::from(toll.attempt), crashes + u32::from(toll.crash), failures + usize::from(toll.crash))
}

/// Brings a key to where it is to stand; the claim is the last that was granted, if any.
async fn arrange(subject: &Subject, session: &mut Box<dyn NodeSession>, stand: Stand, key: &str) -> Option<Claim> {
    if stand == Stand::Absent {
        return None;
    }
    let claim = subject.run(&**session, key, "x").await;
    let to = match stand {
        Stand::Absent | Stand::ClaimedLive => None,
        Stand::ClaimedLapsed => {
            session.leave().await.unwrap();
            *session = subject.enter("a").await;
            None
        }
        Stand::WaitingEarly => Some(waiting(HOUR)),
        Stand::WaitingDue => Some(waiting(Duration::ZERO)),
        Stand::SucceededKept => Some(succeeded("1", HOUR)),
        Stand::SucceededExpired => Some(succeeded("1", Duration::ZERO)),
        Stand::Dead => Some(dead(key, &claim)),
    };
    if let Some(to) = to {
        assert_eq!(subject.settle(key, claim.fence, to).await, Settled::Done);
    }
    Some(claim)
}

async fn perform(
    subject: &Subject,
    session: &dyn NodeSession,
    act: Act,
    key: &str,
    claim: Option<Claim>,
) -> Result<(), Illegal> {
    let fence = claim.map_or(Fence(1), |claim| claim.fence);
    let settle = async |current: bool, to: Settlement| {
        let fence = if current { fence } else { Fence(fence.0 + 1) };
        match subject.settle(key, fence, to).await {
            Settled::Done => Ok(()),
            Settled::AuthorityLost => Err(state::Illegal::AuthorityLost),
        }
    };
    let placeholder = Claim {
        fence,
        attempt: Attempt(1),
        crashes: 0,
        epoch: Epoch(0),
        first_seen_at: jiff::Timestamp::UNIX_EPOCH,
        vanished: false,
    };
    match act {
        Act::Claim { same_payload, resumes, interrupted } => {
            let data = if same_payload { "x" } else { "y" };
            let request = ClaimRequest { resume: resumes.then_some(fence), interrupted, ..request(key, data) };
            match subject.claim_all(session, &[request]).await.remove(0) {
                Verdict::Run(_) => Ok(()),
                Verdict::Replay { .. } => Err(Illegal::Replay),
                Verdict::Busy { .. } => Err(Illegal::Busy),
                Verdict::Deferred { .. } => Err(Illegal::Deferred),
                Verdict::Mismatch => Err(Illegal::Mismatch),
                Verdict::Dead => Err(Illegal::Dead),
            }
        }
        Act::Succeed { current } => settle(current, succeeded("2", HOUR)).await,
        Act::Park { current } => settle(current, waiting(HOUR)).await,
        Act::Bury { current } => settle(current, dead(key, &placeholder)).await,
        Act::Release { current } => settle(current, Settlement::Released).await,
        Act::Redrive => {
            let id = DeadLetterId::of_invocation(&function(), &Key::new(key).unwrap(), Epoch(0));
            let message = outgoing(OutboxKind::Redrive, "again", Duration::ZERO);
            match subject.ledger.redrive(&id, &Redrive { by: "op".to_owned(), message, successor: None }).await.unwrap()
            {
                Redriven::Done => Ok(()),
                Redriven::Already | Redriven::NotFound => Err(Illegal::NotDead),
            }
        }
        Act::Sweep => {
            let before = subject.record(key).await.is_some();
            subject.ledger.sweep(1000).await.unwrap();
            let gone = before && subject.record(key).await.is_none();
            if gone { Ok(()) } else { Err(Illegal::Kept) }
        }
    }
}
