// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Credits of a lane: how many frames may be sent so that every one finds a posted descriptor.
//!
//! A credit is an absolute ring sequence: "frames below this may come". A lost credit is made good
//! by any later one. [`Spender`] is the sending side. The receiving side is
//! [`crate::train::Inbound`], which knows what has come.
//!
//! ```text
//!        next                    limit           limit + reserve
//!   -------|-----------------------|-----------------|------>  ring sequence
//!     sent |  trains, heads, CTRL  |  CTRL only      |  probes only
//! ```
//!
//! A sender that is blocked probes: it sends a CTRL head without credit, which shows the receiver
//! all that was lost on the way and is answered with credit. Probes are spaced, and never end: the
//! descriptors in reserve receive them.

use crate::frame::Seq;
use crate::limits::{CREDIT_PROBE, CREDIT_PROBE_MAX, CREDIT_RESERVE};
use crate::time::{Duration, Instant};
use crate::wire::bump;

/// The credit that a side with `depth` posted descriptors gives before any frame has come.
#[must_use]
pub const fn initial(first: Seq, depth: u16) -> Seq {
    first.plus((depth as u32).saturating_sub(CREDIT_RESERVE))
}

/// What a spender counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken.
    pub frames: u64,
    /// Times there was too little credit.
    pub blocked: u64,
    /// Probes sent.
    pub probes: u64,
    /// Credits that are more than the peer ever promised; ignored.
    pub excess: u64,
}

/// The sending side of a lane's credits.
#[derive(Clone, Copy, Debug)]
pub struct Spender {
    next: Seq,
    limit: Seq,
    depth: u32,
    /// Blocked: when to probe, and how long to wait after that.
    probe: Option<(Instant, Duration)>,
    counters: Counters,
}

impl Spender {
    /// A lane on which nothing has been sent, to a peer that has posted `depth` descriptors.
    #[must_use]
    pub const fn new(first: Seq, depth: u16) -> Self {
        Self {
            next: first,
            limit: initial(first, depth),
            depth: depth as u32,
            probe: None,
            counters: Counters {
                frames: 0,
                blocked: 0,
                probes: 0,
                excess: 0,
            },
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sequence of the next frame.
    #[must_use]
    pub const fn next(&self) -> Seq {
        self.next
    }

    /// Frames that may be sent now.
    #[must_use]
    pub fn room(&self) -> u32 {
        u32::try_from(self.limit.offset(self.next)).unwrap_or(0)
    }

    /// Take `frames` frames for a train: the sequence of the first, or `None` if there is too little
    /// credit; the lane is then blocked and probes until there is enough.
    pub fn take(&mut self, now: Instant, frames: u32) -> Option<Seq> {
        if frames > self.room() {
            if self.probe.is_none() {
                bump(&mut self.counters.blocked);
                self.probe = Some((now.after(CREDIT_PROBE), CREDIT_PROBE));
            }
            return None;
        }
        self.probe = None;
        Some(self.advance(frames))
    }

    /// Take one frame for a CTRL head, which may use the reserve.
    pub fn take_control(&mut self) -> Option<Seq> {
        self.can_control().then(|| self.advance(1))
    }

    /// Whether there is one.
    #[must_use]
    pub fn can_control(&self) -> bool {
        self.next.offset(self.limit) < CREDIT_RESERVE as i32
    }

    /// Take one frame for a probe, if one is due.
    pub fn take_probe(&mut self, now: Instant) -> Option<Seq> {
        let (at, wait) = self.probe?;
        if now < at {
            return None;
        }
        let wait = Duration(wait.0.saturating_mul(2)).min(CREDIT_PROBE_MAX);
        self.probe = Some((now.after(wait), wait));
        bump(&mut self.counters.probes);
        Some(self.advance(1))
    }

    /// When [`Spender::take_probe`] is to be called.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.probe {
            Some((at, _)) => Some(at),
            None => None,
        }
    }

    /// A credit has come. Whether there is more room than before.
    pub fn handle_credit(&mut self, limit: Seq) -> bool {
        if limit.offset(self.limit) <= 0 {
            return false;
        }
        if limit.offset(self.next) > self.depth as i32 {
            bump(&mut self.counters.excess);
            return false;
        }
        self.limit = limit;
        true
    }

    fn advance(&mut self, frames: u32) -> Seq {
        let first = self.next;
        self.next = first.plus(frames);
        self.counters.frames = self.counters.frames.wrapping_add(u64::from(frames));
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    #[test]
    fn a_new_lane_may_send_what_the_peer_has_posted_less_the_reserve() {
        let mut s = Spender::new(Seq(u32::MAX), 64);
        assert_eq!(s.room(), 60);
        assert_eq!(s.take(ms(0), 60), Some(Seq(u32::MAX)));
        assert_eq!(s.next(), Seq(59));
        assert_eq!(s.take(ms(0), 1), None);
    }

    #[test]
    fn credit_is_absolute_so_a_late_or_repeated_one_gives_nothing() {
        let mut s = Spender::new(Seq(0), 64);
        s.take(ms(0), 60);
        assert!(s.handle_credit(Seq(70)));
        assert!(!s.handle_credit(Seq(70)));
        assert!(!s.handle_credit(Seq(65)));
        assert_eq!(s.room(), 10);
    }

    #[test]
    fn more_credit_than_was_ever_promised_is_ignored() {
        let mut s = Spender::new(Seq(0), 64);
        assert!(!s.handle_credit(Seq(65)));
        assert!(!s.handle_credit(Seq(0x7fff_ffff)));
        assert_eq!((s.room(), s.counters().excess), (60, 2));
    }

    #[test]
    fn control_heads_use_the_reserve_and_no_more() {
        let mut s = Spender::new(Seq(0), 40);
        s.take(ms(0), 36);
        assert_eq!((0..9).filter(|_| s.take_control().is_some()).count(), 4);
        assert_eq!(s.room(), 0);
    }

    #[test]
    fn a_blocked_lane_probes_at_growing_distance_for_ever() {
        let mut s = Spender::new(Seq(0), 40);
        assert_eq!(s.take(ms(0), 99), None);
        let mut at = vec![];
        for _ in 0..9 {
            let now = s.poll_timeout().unwrap();
            assert!(s.take_probe(now).is_some());
            assert_eq!(s.take_probe(now), None);
            at.push(now.0 / 1_000_000);
        }
        assert_eq!(at, [2, 6, 14, 30, 62, 126, 190, 254, 318]);
        s.handle_credit(Seq(40));
        assert!(s.take(ms(400), 5).is_some());
        assert_eq!(s.poll_timeout(), None);
    }

    proptest! {
        #[test]
        fn no_more_is_ever_sent_than_was_promised(
            first: u32,
            steps in proptest::collection::vec((0u32..30, any::<u32>(), 0u32..80), 0..200),
        ) {
            let (first, depth) = (Seq(first), 64);
            let mut s = Spender::new(first, depth);
            let mut promised = 60i64;
            for (frames, wild, near) in steps {
                let before = i64::from(s.next().offset(first));
                if s.take(ms(0), frames).is_some() {
                    prop_assert!(before + i64::from(frames) <= promised);
                }
                for credit in [Seq(wild), s.next().plus(near)] {
                    if s.handle_credit(credit) {
                        promised = i64::from(credit.offset(first));
                        prop_assert!(s.room() <= u32::from(depth));
                    }
                }
            }
        }
    }
}
