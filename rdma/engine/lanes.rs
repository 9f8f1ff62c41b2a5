// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which of the lanes to its peer takes a queue pair's next train.
//!
//! Each in its turn, if it has room: a slow lane is full the longer, and has the fewer. Short trains stay on one lane,
//! where none overtakes another, but for the parts of a message that is spread ([`limits::IN_PARTS`]). So do all of an
//! unreliable connection, whose peer takes what is overtaken for lost. What follows a pause begins with the pair's own
//! lane, which is the same at both ends where they number the lanes alike: then messages and their answers come by one
//! interrupt.

use crate::attrs::QpKind;
use crate::limits;

/// Packets of a train from which on the next lane has the next train. A peer keeps [`crate::limits::MAX_KEPT`] trains
/// ahead of their turn, and so many of them have the packets of all windows ([`crate::limits::MAX_WINDOWS`]).
pub const LONG: u32 = 4;
const _: () = assert!(limits::DEFAULT_WINDOW_PACKETS * limits::MAX_WINDOWS / LONG <= limits::MAX_KEPT);

/// Most cables to a peer of which both rings are used: a queue pair has windows for [`limits::MAX_WINDOWS`] lanes, and
/// where many lanes of unequal cables overtake each other what is ahead waits for the slowest. Measured in virtual
/// time, by both rings of four cables of 20, 20, 10 and 5 Gb/s: 0.92 of their sum, where one ring of each has 0.94.
const BOTH_RINGS: u32 = 2;

/// A lane of a device, of which each cable has one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// It is the first of its cable.
    pub is_first: bool,
    /// It leads to the queue pair's peer. One that is unplugged leads nowhere, though the device keeps it.
    pub leads: bool,
    /// The peer answers by it, as far as is known. One by which it does not may carry nothing.
    pub answers: bool,
}

impl Lane {
    /// Whether trains go by it, if the peer `answers` by any.
    const fn takes(self, answers: bool) -> bool {
        self.leads && (self.answers || !answers)
    }
}

/// What of a device's lanes a queue pair uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// So many, from the first of them on.
    pub lanes: usize,
    /// How many of these lead to the peer.
    pub count: u32,
    /// There are several cables to the peer, and trains go by so many rings of each: what goes by one cable might hold
    /// back what goes by another, so each has few trains at a time (`tbip::share`). Both rings of a cable move as fast.
    pub several: Option<usize>,
    /// The peer answers by one of the lanes: those by which it does not are passed over.
    answers: bool,
}

impl Used {
    /// Of `lanes`: the first of all cables, then the second of those that have two.
    #[must_use]
    pub fn of(lanes: impl Iterator<Item = Lane> + Clone) -> Self {
        let answers = lanes.clone().any(|lane| lane.leads && lane.answers);
        let (mut all, mut firsts) = (0usize, 0usize);
        let (mut cables, mut count) = (0u32, 0u32);
        for lane in lanes {
            all = all.saturating_add(1);
            firsts = firsts.saturating_add(usize::from(lane.is_first));
            let takes = lane.takes(answers);
            count = count.saturating_add(u32::from(takes));
            cables = cables.saturating_add(u32::from(takes && lane.is_first));
        }
        let (lanes, count) = match cables > BOTH_RINGS {
            true => (firsts, cables),
            false => (all, count),
        };
        let rings = if count > cables { 2 } else { 1 };
        Self {
            lanes,
            count,
            several: (cables > 1).then_some(rings),
            answers,
        }
    }

    /// Whether trains go by a lane of these.
    #[must_use]
    pub const fn takes(&self, lane: Lane) -> bool {
        lane.takes(self.answers)
    }
}

/// The turn of a queue pair among the lanes, which are numbered from 0 on.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    next: usize,
    spreads: bool,
}

impl Turn {
    /// Begins with lane `first`, or the one that this is modulo their number.
    #[must_use]
    pub const fn new(first: usize, kind: QpKind) -> Self {
        Self {
            next: first,
            spreads: matches!(kind, QpKind::Rc),
        }
    }

    /// Nothing is under way: the next train begins with the lane of the pair `own` and `peer`, if this is reliable.
    pub fn rest(&mut self, own: u32, peer: u32) {
        if self.spreads {
            self.next = (own ^ peer) as usize;
        }
    }

    /// The lane of `count` that has the next train, of those that lead to the peer. None if it has to wait for room.
    pub fn pick(&self, count: usize, leads: impl Fn(usize) -> bool, has_room: impl Fn(usize) -> bool) -> Option<usize> {
        let mut lanes = (0..count)
            .filter_map(|step| self.next.wrapping_add(step).checked_rem(count))
            .filter(|at| leads(*at));
        match self.spreads {
            true => lanes.find(|at| has_room(*at)),
            false => lanes.next().filter(|at| has_room(*at)),
        }
    }

    /// A train of so many packets has gone by lane `at`; `ends`: it ends its message. What goes on, of a message that
    /// is spread in short trains, goes by the next lane.
    pub fn on_sent(&mut self, at: usize, packets: u32, ends: bool) {
        if self.spreads && (packets >= LONG || !ends) {
            self.next = at.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_trains_go_round_and_short_ones_stay() {
        let mut turn = Turn::new(6, QpKind::Rc);
        let mut lanes = Vec::new();
        for packets in [16, 16, 1, LONG - 1, LONG, 2, 2, 16, 16] {
            let at = turn.pick(4, |_| true, |_| true).unwrap();
            turn.on_sent(at, packets, packets != 2);
            lanes.push(at);
        }
        assert_eq!(lanes, [2, 3, 0, 0, 0, 1, 2, 3, 0]);
    }

    #[test]
    fn what_follows_a_pause_begins_with_one_lane_at_both_ends() {
        let (mut here, mut there) = (Turn::new(4, QpKind::Rc), Turn::new(7, QpKind::Rc));
        here.on_sent(1, 16, true);
        here.rest(4, 7);
        there.rest(7, 4);
        let pick = |turn: &Turn| turn.pick(2, |_| true, |_| true);
        assert_eq!(pick(&here), pick(&there));
        let mut unreliable = Turn::new(4, QpKind::Uc);
        unreliable.rest(4, 7);
        assert_eq!(
            pick(&unreliable),
            Some(0),
            "nothing of it may overtake what went before"
        );
    }

    #[test]
    fn a_full_lane_and_one_that_leads_elsewhere_are_passed_over() {
        let turn = Turn::new(1, QpKind::Rc);
        assert_eq!(turn.pick(4, |at| at != 2, |at| at != 1), Some(3));
        assert_eq!(turn.pick(4, |_| true, |_| false), None);
        assert_eq!(turn.pick(4, |_| false, |_| true), None);
        assert_eq!(turn.pick(0, |_| true, |_| true), None);
    }

    /// Of cables that lead to the peer or not, with so many lanes each.
    fn used(cables: &[bool], rings: usize) -> (usize, u32, Option<usize>) {
        let lanes = (0..rings).flat_map(|ring| {
            cables.iter().map(move |leads| Lane {
                is_first: ring == 0,
                leads: *leads,
                answers: true,
            })
        });
        let used = Used::of(lanes);
        (used.lanes, used.count, used.several)
    }

    #[test]
    fn both_rings_are_used_of_one_cable_and_of_two() {
        assert_eq!(used(&[true], 2), (2, 2, None));
        assert_eq!(used(&[true; 2], 2), (4, 4, Some(2)));
        assert_eq!(used(&[true; 3], 2), (3, 3, Some(1)));
        assert_eq!(used(&[true; 4], 2), (4, 4, Some(1)));
        for cables in 1..4 {
            let count = cables as u32;
            assert_eq!(used(&vec![true; cables], 1), (cables, count, (cables > 1).then_some(1)));
        }
    }

    #[test]
    fn a_cable_that_is_out_is_none_of_several() {
        assert_eq!(used(&[false, true, false], 1), (3, 1, None));
        assert_eq!(used(&[true, false, true, false], 2), (8, 4, Some(2)));
        assert_eq!(used(&[true, true, true, false], 2), (4, 3, Some(1)));
        assert_eq!(used(&[false], 2), (2, 0, None));
        assert_eq!(used(&[], 2), (0, 0, None));
    }

    #[test]
    fn an_unreliable_connection_waits_for_its_own_lane() {
        let mut turn = Turn::new(1, QpKind::Uc);
        turn.on_sent(1, 16, true);
        assert_eq!(turn.pick(2, |_| true, |_| true), Some(1));
        assert_eq!(turn.pick(2, |_| true, |at| at != 1), None);
        // A lane that is gone is its own no more.
        assert_eq!(turn.pick(2, |at| at != 1, |_| true), Some(0));
    }

    #[test]
    fn a_lane_by_which_the_peer_does_not_answer_is_passed_over_while_it_answers_by_another() {
        let lane = |answers| Lane {
            is_first: true,
            leads: true,
            answers,
        };
        let used = Used::of([lane(false), lane(true), lane(true)].into_iter());
        assert!(!used.takes(lane(false)) && used.takes(lane(true)));
        assert_eq!((used.count, used.several), (2, Some(1)));
        let none = Used::of([lane(false), lane(false)].into_iter());
        assert!(none.takes(lane(false)) && none.count == 2);
        let elsewhere = Lane {
            leads: false,
            ..lane(true)
        };
        assert!(Used::of([elsewhere, lane(false)].into_iter()).takes(lane(false)));
    }
}
