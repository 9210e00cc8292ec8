//! Which acks to write. Pure: no channel, no clock.
//!
//! AMQP settles by delivery tag, and a `multiple` frame settles every unsettled tag up to its own. The book knows what
//! is unsettled on one channel incarnation, so that a `multiple` frame never covers a delivery that still runs, and no
//! tag that the broker does not know is ever written (that would close the channel with 406).

use std::collections::BTreeMap;

use crate::broker::DeliveryId;

/// One settle to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub tag: u64,
    /// Settles every unsettled tag up to `tag`.
    pub multiple: bool,
}

/// What to write, in this order: the broker must see every requeue before the acks, because an ack with `multiple` may
/// pass over requeued tags.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Frames {
    pub requeues: Vec<Frame>,
    pub acks: Vec<Frame>,
}

impl Frames {
    pub fn is_empty(&self) -> bool {
        self.requeues.is_empty() && self.acks.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// Delivered, and its owner has said nothing yet.
    Open,
    Ack,
    Requeue,
}

/// The unsettled deliveries of one channel incarnation.
#[derive(Debug)]
pub struct AckBook {
    generation: u64,
    /// At most the prefetch.
    tags: BTreeMap<u64, Tag>,
    /// What the owner has decided and no frame has said.
    decided: usize,
}

impl AckBook {
    /// An empty book for a channel incarnation.
    pub fn new(generation: u64) -> Self {
        Self { generation, tags: BTreeMap::new(), decided: 0 }
    }

    /// Notes a delivery and names it.
    pub fn delivered(&mut self, tag: u64) -> DeliveryId {
        self.tags.insert(tag, Tag::Open);
        DeliveryId { generation: self.generation, tag }
    }

    /// Decides to ack. Ids of another generation, unknown ids and repeats are ignored.
    pub fn ack(&mut self, ids: &[DeliveryId]) {
        self.decide(ids, Tag::Ack);
    }

    /// Decides to hand back. Ids of another generation, unknown ids and repeats are ignored.
    pub fn requeue(&mut self, ids: &[DeliveryId]) {
        self.decide(ids, Tag::Requeue);
    }

    fn decide(&mut self, ids: &[DeliveryId], to: Tag) {
        for id in ids.iter().filter(|id| id.generation == self.generation) {
            if let Some(tag) = self.tags.get_mut(&id.tag)
                && *tag == Tag::Open
            {
                *tag = to;
                self.decided += 1;
            }
        }
    }

    /// How many deliveries are not settled.
    #[cfg(test)]
    pub fn outstanding(&self) -> usize {
        self.tags.len()
    }

    /// Acks that [`AckBook::take_joined`] has kept.
    pub fn kept(&self) -> usize {
        self.decided
    }

    /// The oldest delivery that is not settled: after a take, the one that acks are kept behind.
    pub fn oldest(&self) -> Option<u64> {
        self.tags.keys().next().copied()
    }

    /// Takes what has been decided as the fewest frames: the longest run of decided tags from the oldest on becomes at
    /// most one `multiple` ack (with its requeues before it), the rest are single.
    pub fn take(&mut self) -> Frames {
        self.frames(true)
    }

    /// As [`AckBook::take`], but keeps the acks that would be single, behind a delivery that still runs: once that one is
    /// decided, one `multiple` frame says all of them. To a quorum queue each frame is a command in its replicated log.
    pub fn take_joined(&mut self) -> Frames {
        self.frames(false)
    }

    fn frames(&mut self, singles: bool) -> Frames {
        let mut frames = Frames::default();
        if self.decided == 0 {
            return frames;
        }
        let mut kept = 0;
        // Past the first open tag no frame may be `multiple`.
        let mut prefix = true;
        let (mut last, mut acks) = (None, 0_usize);
        self.tags.retain(|&tag, state| {
            match state {
                Tag::Open => {
                    prefix = false;
                    return true;
                }
                Tag::Requeue => frames.requeues.push(Frame { tag, multiple: false }),
                Tag::Ack if prefix => {
                    last = Some(tag);
                    acks += 1;
                }
                Tag::Ack if singles => frames.acks.push(Frame { tag, multiple: false }),
                Tag::Ack => {
                    kept += 1;
                    return true;
                }
            }
            false
        });
        self.decided = kept;
        if let Some(tag) = last {
            frames.acks.insert(0, Frame { tag, multiple: acks > 1 });
        }
        // Everything from the oldest on goes back, and nothing is acked among it: one frame does it.
        if frames.acks.is_empty()
            && frames.requeues.len() > 1
            && let Some(&Frame { tag, .. }) = frames.requeues.last()
            && self.tags.keys().next().is_none_or(|&open| open > tag)
        {
            frames.requeues = vec![Frame { tag, multiple: true }];
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(tag: u64) -> DeliveryId {
        DeliveryId { generation: 7, tag }
    }

    fn book(tags: u64) -> AckBook {
        let mut book = AckBook::new(7);
        for tag in 1..=tags {
            assert_eq!(book.delivered(tag), id(tag));
        }
        book
    }

    fn single(tag: u64) -> Frame {
        Frame { tag, multiple: false }
    }

    #[test]
    fn a_contiguous_run_is_one_frame() {
        let mut book = book(4);
        book.ack(&[id(2), id(1), id(3)]);
        assert_eq!(book.take(), Frames { requeues: vec![], acks: vec![Frame { tag: 3, multiple: true }] });
        assert_eq!(book.outstanding(), 1);
        assert!(book.take().is_empty());
    }

    #[test]
    fn an_ack_never_covers_a_delivery_that_runs() {
        let mut book = book(4);
        book.ack(&[id(1), id(3), id(4)]);
        assert_eq!(book.take().acks, vec![single(1), single(3), single(4)]);
        book.ack(&[id(2)]);
        assert_eq!(book.take().acks, vec![single(2)]);
    }

    #[test]
    fn an_ack_behind_a_delivery_that_runs_is_kept_for_a_joint_frame() {
        let mut book = book(5);
        book.ack(&[id(1), id(3), id(4)]);
        assert_eq!((book.take_joined().acks, book.kept()), (vec![single(1)], 2));
        assert_eq!((book.take_joined(), book.kept()), (Frames::default(), 2));
        book.requeue(&[id(5)]);
        assert_eq!((book.take_joined().requeues, book.kept()), (vec![single(5)], 2));
        book.ack(&[id(2)]);
        assert_eq!((book.take_joined().acks, book.kept()), (vec![Frame { tag: 4, multiple: true }], 0));
        assert_eq!(book.outstanding(), 0);
    }

    #[test]
    fn what_was_kept_can_still_be_said_one_by_one() {
        let mut book = book(3);
        book.ack(&[id(2), id(3)]);
        assert!(book.take_joined().is_empty());
        assert_eq!((book.take().acks, book.kept()), (vec![single(2), single(3)], 0));
    }

    #[test]
    fn a_requeue_is_written_before_the_ack_that_passes_over_it() {
        let mut book = book(3);
        book.ack(&[id(1), id(3)]);
        book.requeue(&[id(2)]);
        assert_eq!(book.take(), Frames { requeues: vec![single(2)], acks: vec![Frame { tag: 3, multiple: true }] });
    }

    #[test]
    fn requeuing_all_is_one_frame() {
        let mut book = book(3);
        book.requeue(&[id(1), id(2), id(3)]);
        assert_eq!(book.take().requeues, vec![Frame { tag: 3, multiple: true }]);
    }

    #[test]
    fn stale_unknown_and_repeated_ids_are_ignored() {
        let mut book = book(2);
        book.ack(&[DeliveryId { generation: 6, tag: 1 }, id(9)]);
        assert!(book.take().is_empty());
        book.ack(&[id(1)]);
        book.requeue(&[id(1)]);
        assert_eq!(book.take(), Frames { requeues: vec![], acks: vec![single(1)] });
        book.ack(&[id(1)]);
        assert!(book.take().is_empty());
    }

    proptest! {
        /// Whatever is decided in whatever order, a broker that applies the frames settles exactly what was decided.
        #[test]
        fn the_frames_settle_what_was_decided_and_nothing_else(
            rounds in prop::collection::vec(
                (1_u64..6, prop::collection::vec((any::<bool>(), 1_u64..40), 0..12), any::<bool>()),
                1..8,
            )
        ) {
            let mut book = AckBook::new(7);
            let mut next = 1_u64;
            let mut unsettled = BTreeSet::new();
            let mut kept = BTreeSet::new();
            for (new, decisions, joined) in rounds {
                for _ in 0..new {
                    book.delivered(next);
                    unsettled.insert(next);
                    next += 1;
                }
                let (mut acked, mut requeued) = (std::mem::take(&mut kept), BTreeSet::new());
                for (ack, tag) in decisions {
                    if !unsettled.contains(&tag) || acked.contains(&tag) || requeued.contains(&tag) {
                        continue;
                    }
                    if ack {
                        book.ack(&[id(tag)]);
                        acked.insert(tag);
                    } else {
                        book.requeue(&[id(tag)]);
                        requeued.insert(tag);
                    }
                }
                let frames = if joined { book.take_joined() } else { book.take() };
                if joined {
                    let open = |tag: &u64| !acked.contains(tag) && !requeued.contains(tag);
                    let first_open = unsettled.iter().copied().find(open).unwrap_or(u64::MAX);
                    kept = acked.split_off(&first_open);
                }
                prop_assert_eq!(book.kept(), kept.len());
                prop_assert!(frames.requeues.len() + frames.acks.len() <= acked.len() + requeued.len());
                for (frames, expected) in [(&frames.requeues, &requeued), (&frames.acks, &acked)] {
                    let mut settled = BTreeSet::new();
                    for frame in frames {
                        let hit: Vec<u64> = unsettled
                            .iter()
                            .copied()
                            .filter(|&tag| tag == frame.tag || frame.multiple && tag < frame.tag)
                            .collect();
                        prop_assert!(hit.contains(&frame.tag), "the broker closes the channel on an unknown tag");
                        for tag in hit {
                            unsettled.remove(&tag);
                            settled.insert(tag);
                        }
                    }
                    prop_assert_eq!(&settled, expected);
                }
                prop_assert_eq!(book.outstanding(), unsettled.len());
            }
        }
    }
}
