//! The two nets at the broker, emptied into the ledger: what the broker itself gave up (`<prefix>.crashed`) and what no
//! function is bound to (`<prefix>.unrouted`). Both become dead letters like any other, so that there is one place to
//! look for what was not done.
//!
//! A message is acked only when the ledger has it; until then a crash brings it again, and taking it again is harmless:
//! a burial repeated is one letter, a settle repeated is refused by its fence and the next claim says `dead`. An
//! invocation is never run from here: the right to it is claimed only to write that it is dead.
//!
//! Nothing is asked of the ledger while the node's lease is lost. What cannot be done now is held (at most the prefetch)
//! and tried again with backoff.

mod caught;
pub(crate) mod copies;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_ledger::{
    ClaimRequest, Error, InvocationQuery, Ledger, OutboxKind, OutboxMessage, Owner, Settle, Settled, Settlement, State,
    Verdict,
};
use weft_process::crash::{Point, point};
use weft_schemas::{Attempt, DeadLetter, DeadLetterId, ErrorInfo, FunctionName, Key, Message, Reason, requeue};

use self::caught::Caught;
use crate::admission::{Admission, Admitted};
use crate::broker::{Acks, Broker, BrokerError, Delivery, DeliveryId, Names, Subscription};
use crate::status::Stats;

/// How many messages of each net are held at most.
const PREFETCH: u16 = 64;
/// The shortest and the longest wait for an invocation that somebody else holds, and for a ledger that fails.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How long the last settles may take at a stop.
const LAST_TRY: Duration = Duration::from_secs(2);
/// Of how many routing keys it is told that no function is bound to them.
const TOLD: usize = 64;

/// What empties the nets.
pub(crate) struct Nets {
    pub names: Names,
    pub prefix: String,
    /// The functions of this dispatcher.
    pub functions: BTreeMap<FunctionName, Admission>,
    pub ledger: Arc<dyn Ledger>,
    pub owner: watch::Receiver<Option<Owner>>,
    pub relay: Arc<Notify>,
    pub stats: Stats,
}

/// Which net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Crashed,
    Unrouted,
}

/// A message that is not acked yet.
struct Held {
    net: Net,
    id: DeliveryId,
    step: Step,
    /// Not before this.
    again: Instant,
    /// How often it was put off.
    waits: u32,
    /// A claim was asked for and not answered, so that the invocation may be ours without anybody's knowing.
    in_doubt: bool,
}

/// What comes next for a message.
enum Step {
    /// Ask for the right to write that it is dead.
    Claim(Box<Case>),
    /// Write it.
    Settle(Box<Case>, Box<Settle>),
    /// Bury it without an invocation.
    Bury(Box<(DeadLetter, OutboxMessage)>),
}

/// An invocation that the broker gave up.
struct Case {
    function: FunctionName,
    admitted: Admitted,
    reason: Reason,
    error: ErrorInfo,
}

/// What a step came to.
enum Next {
    /// The ledger has it; the reason if it was told just now.
    Known(Option<Reason>),
    Go(Step),
    Later(Duration),
}

/// Starts consuming both nets.
///
/// # Errors
/// The broker's.
pub(crate) async fn subscribe(broker: &dyn Broker, names: &Names) -> Result<(Subscription, Subscription), BrokerError> {
    Ok((broker.subscribe(&names.crashed(), PREFETCH).await?, broker.subscribe(&names.unrouted(), PREFETCH).await?))
}

impl Nets {
    /// Runs until stopped; what is not in the ledger by then goes back to the broker.
    pub(crate) async fn run(mut self, nets: (Subscription, Subscription), stop: CancellationToken) {
        let (mut crashed, mut unrouted) = nets;
        let mut work = Work::new(crashed.acks.clone(), unrouted.acks.clone());
        loop {
            let next = work.next(self.owner.borrow().is_some());
            let (net, delivery) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = self.owner.changed() => continue,
                delivery = crashed.deliveries.recv() => (Net::Crashed, delivery),
                delivery = unrouted.deliveries.recv() => (Net::Unrouted, delivery),
                () = at(next) => {
                    let owner = self.owner.borrow().clone();
                    if let Some(owner) = owner {
                        self.work(&mut work, &owner).await;
                    }
                    continue;
                }
            };
            // The end comes only with the broker's own.
            let Some(delivery) = delivery else { break };
            self.take(&mut work, net, delivery);
        }
        crashed.acks.stop();
        unrouted.acks.stop();
        let last = async {
            for held in &work.held {
                if let Step::Settle(case, settle) = &held.step
                    && let Ok(Next::Known(_)) = self.settle(case, settle).await
                {
                    work.acks(held.net).ack(vec![held.id]);
                }
            }
            crashed.acks.flush().await;
            unrouted.acks.flush().await;
        };
        // What is claimed and not settled is free when the node's lease is given up.
        let _ = tokio::time::timeout(LAST_TRY, last).await;
    }

    /// Decides what a message is.
    fn take(&self, work: &mut Work, net: Net, delivery: Delivery) {
        let step = match net {
            Net::Crashed => self.sort(caught::read(delivery.message, &self.names)),
            Net::Unrouted => {
                let (exchange, routing_key) = delivery.message.origin();
                work.tell(exchange, routing_key);
                let error = ErrorInfo::new(
                    "Unroutable",
                    format!(
                        "no function is bound to {routing_key:?} at exchange {exchange:?}; name it in the `events` of \
                         a function, start that, and redrive this"
                    ),
                );
                self.stats.unrouted();
                self.bury(FunctionName::unrouted(), None, Reason::Unroutable, error, delivery.message)
            }
        };
        work.held.push(Held { net, id: delivery.id, step, again: Instant::now(), waits: 0, in_doubt: false });
    }

    fn sort(&self, caught: Caught) -> Step {
        self.stats.caught();
        let Caught { function, reason, error, message } = caught;
        let Some(function) = function else {
            return self.bury(FunctionName::unrouted(), None, reason, error, message);
        };
        tracing::warn!(%function, reason = reason.as_str(), kind = error.kind, error = error.message, "the broker gave up an event");
        let Some(admission) = self.functions.get(&function) else {
            return self.bury(function, None, reason, error, message);
        };
        // It is given up already: how old it has become meanwhile is no reason of its own.
        match admission.admit(message, true, Timestamp::MIN) {
            Ok(admitted) => Step::Claim(Box::new(Case { function, admitted, reason, error })),
            Err(refusal) => self.bury(function, None, refusal.reason, refusal.error, refusal.message),
        }
    }

    fn bury(
        &self,
        function: FunctionName,
        key: Option<Key>,
        reason: Reason,
        error: ErrorInfo,
        message: Message,
    ) -> Step {
        let now = Timestamp::now();
        Step::Bury(Box::new(self.with_copy(DeadLetter {
            id: DeadLetterId::of_message(&function, reason, &message),
            function,
            key,
            epoch: requeue::epoch(&message),
            reason,
            error,
            attempts: Attempt(0),
            first_at: now,
            last_at: now,
            trace_id: trace_id(&message),
            message,
        })))
    }

    fn with_copy(&self, letter: DeadLetter) -> (DeadLetter, OutboxMessage) {
        let message = letter.to_message(&self.prefix);
        (letter, OutboxMessage { kind: OutboxKind::DeadLetter, due_in: Duration::ZERO, message })
    }

    /// Does what is due: all burials in one statement, then one of the others.
    async fn work(&self, work: &mut Work, owner: &Owner) {
        let now = Instant::now();
        let due: Vec<usize> =
            (0..work.held.len()).filter(|&at| work.held.get(at).is_some_and(|h| h.again <= now)).collect();
        let burials: Vec<(usize, (DeadLetter, OutboxMessage))> = due
            .iter()
            .filter_map(|&at| match &work.held.get(at)?.step {
                Step::Bury(letter) => Some((at, letter.as_ref().clone())),
                _ => None,
            })
            .take(work.batch)
            .collect();
        if !burials.is_empty() {
            let (places, letters): (Vec<usize>, Vec<_>) = burials.into_iter().unzip();
            point(Point::BeforeBury);
            match self.ledger.bury(&letters).await {
                Ok(()) => {
                    point(Point::AfterBury);
                    work.answered();
                    for (letter, _) in &letters {
                        self.count(&letter.function, letter.reason);
                    }
                    self.relay.notify_one();
                    work.done(&places);
                }
                Err(error) => work.failed(&places, "bury dead letters", &error),
            }
            return;
        }
        let Some(place) = due.first().copied() else { return };
        self.advance(work, place, owner).await;
    }

    /// Takes one message as far as it goes now.
    async fn advance(&self, work: &mut Work, place: usize, owner: &Owner) {
        loop {
            let Some(held) = work.held.get_mut(place) else { return };
            let result = match &held.step {
                Step::Claim(case) => {
                    let result = self.claim(case, owner, &mut held.in_doubt).await;
                    result.map_err(|error| ("claim", error))
                }
                Step::Settle(case, settle) => self.settle(case, settle).await.map_err(|error| ("settle", error)),
                Step::Bury(_) => return,
            };
            match result {
                Ok(Next::Known(reason)) => {
                    if let (Some(reason), Step::Settle(case, _)) = (reason, &held.step) {
                        self.count(&case.function, reason);
                        self.relay.notify_one();
                    }
                    work.answered();
                    work.done(&[place]);
                    return;
                }
                Ok(Next::Go(step)) => {
                    held.step = step;
                    work.answered();
                }
                Ok(Next::Later(wait)) => {
                    held.put_off(wait);
                    work.answered();
                    return;
                }
                Err((doing, error)) => {
                    work.failed(&[place], doing, &error);
                    return;
                }
            }
        }
    }

    /// Claims the invocation to end it.
    ///
    /// A claim without an answer is taken back by the next claim of the same owner (see the ledger), which is this
    /// dispatcher's functions' owner too. So nothing is asked while a function of ours holds the key: a lost answer
    /// would take it away from there.
    async fn claim(&self, case: &Case, owner: &Owner, in_doubt: &mut bool) -> Result<Next, Error> {
        let Case { function, admitted, .. } = case;
        if !*in_doubt && self.held_here(function, &admitted.key, owner).await? {
            return Ok(Next::Later(WAITS.0));
        }
        let request = ClaimRequest {
            key: admitted.key.clone(),
            digest: admitted.digest,
            resume: admitted.resume,
            interrupted: false,
        };
        *in_doubt = true;
        let verdicts = self.ledger.claim(owner, function, &[request]).await?;
        *in_doubt = false;
        let Some(verdict) = verdicts.into_iter().next() else {
            return Err(Error::Corrupt { what: "no verdict for a claim".to_owned() });
        };
        Ok(match verdict {
            Verdict::Run(claim) => {
                point(Point::AfterClaim);
                let letter = DeadLetter {
                    id: DeadLetterId::of_invocation(function, &admitted.key, claim.epoch),
                    function: function.clone(),
                    key: Some(admitted.key.clone()),
                    epoch: claim.epoch,
                    reason: case.reason,
                    error: case.error.clone(),
                    // This claim starts none.
                    attempts: Attempt(claim.attempt.0.saturating_sub(1)),
                    first_at: claim.first_seen_at,
                    last_at: Timestamp::now(),
                    trace_id: trace_id(&admitted.message),
                    message: admitted.message.clone(),
                };
                let (letter, copy) = self.with_copy(letter);
                let to = Settlement::Dead { letter: Box::new(letter), copy };
                let settle = Settle { key: admitted.key.clone(), fence: claim.fence, to };
                Next::Go(Step::Settle(Box::new(case.again()), Box::new(settle)))
            }
            // Its retry waits with the broker's other copy, in its lane; this one may yet be the last.
            Verdict::Deferred { due_in } if admitted.lane.is_some() => Next::Later(due_in),
            // It succeeded, its retry is in the outbox, or its dead letter is there: this copy is superfluous.
            Verdict::Replay { .. } | Verdict::Deferred { .. } | Verdict::Dead => Next::Known(None),
            Verdict::Busy { retry_in } => Next::Later(retry_in),
            Verdict::Mismatch => {
                let key = &admitted.key;
                let error = ErrorInfo::new("Mismatch", format!("key {:?} is known with another payload", key.as_str()));
                let message = admitted.message.clone();
                Next::Go(self.bury(function.clone(), Some(key.clone()), Reason::Mismatch, error, message))
            }
        })
    }

    async fn held_here(&self, function: &FunctionName, key: &Key, owner: &Owner) -> Result<bool, Error> {
        let query = InvocationQuery {
            function: Some(function.clone()),
            key: Some(key.clone()),
            state: Some(State::Claimed),
            limit: 1,
            ..InvocationQuery::default()
        };
        let ours = format!("{}/{}", owner.node, owner.incarnation);
        let found = self.ledger.invocations(&query).await?;
        Ok(found.first().is_some_and(|invocation| invocation.owner.as_ref() == Some(&ours)))
    }

    async fn settle(&self, case: &Case, settle: &Settle) -> Result<Next, Error> {
        point(Point::BeforeSettle);
        let answers = self.ledger.settle(&case.function, std::slice::from_ref(settle)).await?;
        point(Point::AfterSettle);
        match answers.first() {
            Some(Settled::Done) => Ok(Next::Known(Some(case.reason))),
            // Somebody took it over, or it was written and the answer was lost: the next claim tells.
            Some(Settled::AuthorityLost) => Ok(Next::Go(Step::Claim(Box::new(case.again())))),
            None => Err(Error::Corrupt { what: "no answer for a settle".to_owned() }),
        }
    }

    fn count(&self, function: &FunctionName, reason: Reason) {
        if let Some(stats) = self.stats.functions().get(function) {
            stats.died(reason);
        }
    }
}

impl Case {
    fn again(&self) -> Self {
        Self {
            function: self.function.clone(),
            admitted: self.admitted.clone(),
            reason: self.reason,
            error: self.error.clone(),
        }
    }
}

impl Held {
    /// Waits at least this long, and longer each time.
    fn put_off(&mut self, wait: Duration) {
        let grown = WAITS.0.saturating_mul(1 << self.waits.min(12));
        self.waits = self.waits.saturating_add(1);
        let wait = wait.max(grown).min(WAITS.1).mul_f64(0.8 + 0.4 * fastrand::f64());
        self.again = Instant::now() + wait;
    }
}

/// Everything that is held, and how the ledger does.
struct Work {
    crashed: Acks,
    unrouted: Acks,
    held: Vec<Held>,
    /// Burials in one statement: one after a statement was refused, so that one bad letter does not hold up the others.
    batch: usize,
    failures: u32,
    /// The ledger is left alone until then.
    pause: Option<Instant>,
    told: BTreeSet<String>,
}

impl Work {
    fn new(crashed: Acks, unrouted: Acks) -> Self {
        let (held, told) = (Vec::new(), BTreeSet::new());
        Self { crashed, unrouted, held, batch: usize::from(PREFETCH), failures: 0, pause: None, told }
    }

    fn acks(&self, net: Net) -> &Acks {
        match net {
            Net::Crashed => &self.crashed,
            Net::Unrouted => &self.unrouted,
        }
    }

    /// When to work next; never while the lease is lost.
    fn next(&self, allowed: bool) -> Option<Instant> {
        let first = self.held.iter().map(|held| held.again).min().filter(|_| allowed)?;
        Some(self.pause.map_or(first, |pause| first.max(pause)))
    }

    /// Acks and forgets. `places` is in growing order.
    fn done(&mut self, places: &[usize]) {
        for &place in places.iter().rev() {
            if place < self.held.len() {
                let held = self.held.swap_remove(place);
                self.acks(held.net).ack(vec![held.id]);
            }
        }
    }

    fn answered(&mut self) {
        self.batch = usize::from(PREFETCH).min(self.batch.saturating_mul(2));
        self.pause = None;
        if self.failures > 0 {
            self.failures = 0;
            tracing::info!("the broker's nets are emptied again");
        }
    }

    fn failed(&mut self, places: &[usize], doing: &'static str, error: &Error) {
        if self.failures == 0 {
            let error = weft_process::report::chain(error);
            tracing::warn!(doing, error, "the broker's nets are not emptied now, will try again");
        }
        self.failures = self.failures.saturating_add(1);
        if error.is_transient() {
            let wait = WAITS.0.saturating_mul(1 << self.failures.min(6)).mul_f64(0.8 + 0.4 * fastrand::f64());
            self.pause = Some(Instant::now() + wait);
            return;
        }
        // Of many, each alone; one alone waits, so that the others come before it.
        self.batch = 1;
        if let [place] = places
            && let Some(held) = self.held.get_mut(*place)
        {
            held.put_off(WAITS.0);
        }
    }

    /// Once for each routing key, up to a bound: a publisher's mistake is no reason for a line with each event.
    fn tell(&mut self, exchange: &str, routing_key: &str) {
        if self.told.len() < TOLD && self.told.insert(routing_key.chars().take(255).collect()) {
            tracing::warn!(exchange, routing_key, "events that no function is bound to become dead letters");
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn trace_id(message: &Message) -> Option<String> {
    message.trace_context().and_then(|context| context.trace_id().map(str::to_owned))
}
