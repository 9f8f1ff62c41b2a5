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

/// How many lanes lead to a queue pair's peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leading(u32);

impl Leading {
    /// Of the device's lanes, each of which `leads` there or not. One that is unplugged leads nowhere, and is none of
    /// them, though the device keeps it.
    pub fn of(leads: impl Iterator<Item = bool>) -> Self {
        Self(leads.filter(|leads| *leads).fold(0, |count, _| count.saturating_add(1)))
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0
    }

    /// Whether these are so many cables that one ring of each is used, though they may have two: a queue pair has
    /// windows for [`limits::MAX_WINDOWS`] lanes, and where many lanes of unequal cables overtake each other what is
    /// ahead waits for the slowest. Measured in virtual time, by both rings of four cables: READs of 64 KiB 0.75 of
    /// their rate where one ring of each has 0.95, WRITEs over unequal ones 0.92 and 0.94.
    #[must_use]
    pub const fn has_rings_enough(self) -> bool {
        self.0 > 2
    }

    /// Whether a train that goes by one of them might hold back what goes by another: then each has few at a time
    /// (`tbip::share`).
    #[must_use]
    pub const fn are_several(self) -> bool {
        self.0 > 1
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

    #[test]
    fn a_cable_that_is_out_is_none_of_several() {
        assert!(Leading::of([true, false, true].into_iter()).are_several());
        let one = Leading::of([false, true, false].into_iter());
        assert_eq!((one.count(), one.are_several()), (1, false));
        assert_eq!(Leading::of([false].into_iter()).count(), 0);
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
}
