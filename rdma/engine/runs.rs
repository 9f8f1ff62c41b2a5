// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Whether a queue pair sends its packets in runs, which only the CRC of a cable covers, or one by one with an ICRC.
//!
//! The netdev knows whether the host at the other end of its cable takes runs. It does not know whether that host is
//! the end of the queue pair's path: it may route or bridge for somebody behind it, who drops what has no ICRC. So the
//! peer's own packets decide: who hears runs may send them, whatever comes after: a peer that sends a packet then has
//! no way for runs at that moment, and takes them all the same. Whoever begins tries runs first, and goes back to
//! single packets if nothing is heard but its own timer. That may have been the way's fault, which was not there yet:
//! once the peer is heard, runs are tried once more.
//!
//! ```text
//!   the way carries runs      heard        timeouts in a row
//!   no                        -            -                    packets
//!   yes                       a run        -                    runs
//!   yes                       packets      -                    packets; runs, if it is the first after a refusal
//!   yes                       nothing      fewer than 2         runs
//!   yes                       nothing      2 or more, once      packets: a refusal
//! ```

use crate::wqe::Room;

/// Timeouts in a row, with nothing heard, after which runs count as refused. Ours: one may be a loss.
const REFUSED_AFTER: u8 = 2;

/// What a queue pair knows of its peer and of the way there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    carried: bool,
    heard: Option<bool>,
    refused: bool,
    /// Runs were tried once more.
    tried: bool,
    /// The host had no memory for the last run: the next is a single packet.
    short: bool,
}

impl Runs {
    /// Forget what was heard: the path is another.
    pub fn handle_path(&mut self) {
        *self = Self::default();
    }

    /// A packet has come from the peer: a run, or one with an ICRC.
    pub fn handle_packet(&mut self, run: bool) {
        self.heard = Some(run || self.heard == Some(true));
        if self.refused && !run && !self.tried {
            (self.heard, self.refused, self.tried) = (None, false, true);
        }
    }

    /// How much a run may have now, of `most`.
    #[must_use]
    pub const fn room(&self, most: Room) -> Room {
        if self.short {
            most.one()
        } else {
            most
        }
    }

    /// A run has been built, or could not be for want of memory.
    pub fn handle_built(&mut self, built: bool) {
        self.short = !built;
    }

    /// Whether what is sent now may be runs. `carried`: the way does, that is a lane leads to the peer, or the netdev
    /// carries them; `timeouts`: of the requester, in a row ([`crate::qp::Qp::timeouts`]).
    pub fn poll(&mut self, carried: bool, timeouts: u8) -> bool {
        if carried != self.carried {
            // What was heard before says nothing of another cable, or of another driver at its end.
            *self = Self {
                carried,
                ..Self::default()
            };
        }
        self.refused |= carried && self.heard.is_none() && timeouts >= REFUSED_AFTER;
        carried && self.heard.unwrap_or(!self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_run_that_found_no_memory_comes_a_single_packet() {
        let most = Room {
            packets: 15,
            bytes: 61_440,
            lanes: 1,
        };
        let mut runs = Runs::default();
        assert_eq!(runs.room(most), most);
        runs.handle_built(false);
        assert_eq!(runs.room(most), Room { packets: 1, ..most });
        runs.handle_built(true);
        assert_eq!(runs.room(most), most);
    }

    #[test]
    fn who_hears_runs_sends_them_and_who_hears_packets_does_not() {
        let mut runs = Runs::default();
        assert!(!runs.poll(false, 0) && runs.poll(true, 0) && runs.poll(true, 1));
        runs.handle_packet(false);
        assert!(!runs.poll(true, 0));
        runs.handle_packet(true);
        assert!(
            runs.poll(true, 0) && runs.poll(true, 9),
            "timeouts are losses once runs were heard"
        );
    }

    #[test]
    fn who_has_heard_a_run_sends_runs_though_packets_come_until_the_way_is_another() {
        let mut runs = Runs::default();
        assert!(runs.poll(true, 0));
        runs.handle_packet(true);
        runs.handle_packet(false);
        assert!(runs.poll(true, 0));
        assert!(!runs.poll(false, 0));
        runs.handle_packet(false);
        assert!(runs.poll(true, 0), "the way is another");
        runs.handle_packet(false);
        assert!(!runs.poll(true, 0));
    }

    #[test]
    fn two_timeouts_without_a_word_are_a_refusal_until_the_way_changes() {
        let mut runs = Runs::default();
        assert!(!runs.poll(true, 2) && !runs.poll(true, 0));
        runs.handle_packet(false);
        assert!(
            runs.poll(true, 0) && runs.poll(true, 1),
            "it was silent for another reason, perhaps"
        );
        assert!(!runs.poll(true, 2));
        for _ in 0..3 {
            runs.handle_packet(false);
            assert!(!runs.poll(true, 0), "it was not");
        }
        runs.handle_path();
        assert!(runs.poll(true, 0));
        assert!(!runs.poll(true, 7));
        assert!(!runs.poll(false, 0) && runs.poll(true, 0), "another cable");
    }

    #[test]
    fn a_way_that_was_not_there_when_runs_were_tried_carries_them_in_the_end() {
        let [mut a, mut b] = [Runs::default(); 2];
        assert!(!a.poll(true, 2));
        b.handle_packet(false);
        a.handle_packet(b.poll(true, 0));
        b.handle_packet(a.poll(true, 0));
        a.handle_packet(b.poll(true, 0));
        assert!(a.poll(true, 0) && b.poll(true, 0));
    }

    #[test]
    fn both_ends_agree_whoever_begins_and_whatever_is_lost() {
        // Each end: what it sends, the other hears, unless it is lost.
        for first in 0..2 {
            for lost in 0..16_u32 {
                let mut ends = [Runs::default(); 2];
                for turn in 0..8 {
                    let (from, to) = ((first + turn) % 2, (first + turn + 1) % 2);
                    let run = ends[from].poll(true, 0);
                    if lost >> turn & 1 == 0 {
                        ends[to].handle_packet(run);
                    }
                }
                let [a, b] = &mut ends;
                assert!(a.poll(true, 0) && b.poll(true, 0));
            }
        }
    }
}
