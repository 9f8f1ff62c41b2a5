// SPDX-License-Identifier: GPL-2.0 OR MIT
//! When the frames of a transmit ring are taken back: by whom, and what sees to the last ones.
//!
//! ```text
//!   next packet in or out     usually, at no cost of its own
//!   interrupt                 for a last frame behind many bytes, or when the queue waits after it
//!   timer                     while somebody waits for frames: packets that they hold, or the stopped queue
//! ```
//!
//! An interrupt alone is not enough where somebody waits: one that is lost leaves the queue stopped, and nothing comes
//! by that would look. So the timer watches whatever is waited for, whether or not an interrupt was asked for as well.
//! Where nothing goes for long the rings count as stuck, and the link begins anew: memory of others is read by frames
//! on their way, and its owners wait.

use crate::time::{Duration, Instant};

/// Bytes on their way after which one frame raises an interrupt, if nothing else has the ring looked at before.
pub const UNSEEN_BYTES: usize = 512 * 1024;

/// Time between two looks of the timer. What is waited for is taken back two of them after it has gone, at the latest.
pub const LOOK_AFTER: Duration = Duration::from_millis(1);

/// Time without a frame that goes, while some are waited for, after which the ring is stuck: as long as the stack waits
/// for a transmit queue (the netdev's watchdog).
pub const STUCK_AFTER: Duration = Duration::from_millis(5_000);

/// What the timer is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Have the ring polled.
    pub poll: bool,
    /// Come again after [`LOOK_AFTER`].
    pub again: bool,
    /// The ring is stuck.
    pub stuck: bool,
}

/// The taking back of one ring's frames. All calls under the lock of the transmit side, the timer's too: else a packet
/// that is posted while the timer decides to rest finds it armed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reaper {
    /// Bytes posted since the ring was last looked at or an interrupt was asked for.
    unseen: usize,
    /// Frames were taken back since the timer last looked.
    reaped: bool,
    /// The timer is armed.
    watched: bool,
    /// Since when the timer has found nothing to go that is waited for.
    silent: Option<Instant>,
}

impl Reaper {
    /// Nothing is on its way.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            unseen: 0,
            reaped: false,
            watched: false,
            silent: None,
        }
    }

    /// A packet of `bytes` is about to be posted. `waits`: the queue stops after it. Returns whether its last frame is
    /// to raise an interrupt.
    #[must_use]
    pub fn handle_packet(&mut self, bytes: usize, waits: bool) -> bool {
        self.unseen = self.unseen.saturating_add(bytes);
        let interrupt = waits || self.unseen >= UNSEEN_BYTES;
        if interrupt {
            self.unseen = 0;
        }
        interrupt
    }

    /// Frames have been taken back.
    pub fn handle_reaped(&mut self, frames: usize) {
        if frames != 0 {
            self.unseen = 0;
            self.reaped = true;
        }
    }

    /// Something was posted, or the queue has stopped. `waited_for`: somebody waits for frames on their way. Returns
    /// whether the timer is to be armed, for [`LOOK_AFTER`] from now.
    #[must_use]
    pub fn poll_timer(&mut self, waited_for: bool) -> bool {
        let arm = waited_for && !self.watched;
        self.watched |= arm;
        arm
    }

    /// The timer has fired, for whatever reason.
    #[must_use]
    pub fn handle_timer(&mut self, now: Instant, waited_for: bool) -> Look {
        self.watched = waited_for;
        // Under way by itself: no need to look, but to look again later.
        let reaped = core::mem::take(&mut self.reaped);
        let poll = waited_for && !reaped;
        let since = poll.then(|| self.silent.unwrap_or(now));
        let stuck = since.is_some_and(|since| now.since(since) >= STUCK_AFTER);
        self.silent = since.filter(|_| !stuck);
        Look {
            poll,
            again: waited_for,
            stuck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_asked_for_when_the_queue_waits_or_much_is_unseen() {
        let mut reaper = Reaper::new();
        assert!(!reaper.handle_packet(1500, false));
        assert!(reaper.handle_packet(1500, true));
        assert!(!reaper.handle_packet(UNSEEN_BYTES - 1, false));
        assert!(reaper.handle_packet(1, false));
        assert!(!reaper.handle_packet(UNSEEN_BYTES - 1, false));
        reaper.handle_reaped(1);
        assert!(!reaper.handle_packet(1, false));
    }

    #[test]
    fn the_timer_rests_when_nobody_waits() {
        let mut reaper = Reaper::new();
        assert!(!reaper.poll_timer(false));
        assert!(reaper.poll_timer(true));
        assert!(!reaper.poll_timer(true), "armed already");
        assert_eq!(reaper.handle_timer(Instant(0), false), Look::default());
        assert!(reaper.poll_timer(true), "armed anew");
    }

    #[test]
    fn a_ring_of_which_nothing_goes_is_stuck_after_five_seconds() {
        let ms = |n: u64| Instant(n * 1_000_000);
        let mut reaper = Reaper::new();
        assert!((0..5_000).all(|n| !reaper.handle_timer(ms(n), true).stuck));
        assert!(reaper.handle_timer(ms(5_000), true).stuck);
        assert!(!reaper.handle_timer(ms(5_001), true).stuck, "said once");
        reaper.handle_reaped(1);
        assert!((5_002..10_001).all(|n| !reaper.handle_timer(ms(n), true).stuck));
        assert!(!reaper.handle_timer(ms(10_001), false).stuck, "nobody waits");
        assert!(!reaper.handle_timer(ms(15_000), true).stuck);
    }

    /// A queue of a few frames whose interrupts are lost at random: what is waited for is taken back in time.
    #[test]
    fn a_stopped_queue_goes_on_when_its_interrupt_is_lost() {
        const LOOK: u64 = LOOK_AFTER.0;
        for seed in 0..500u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let limit = 1 + next(8);
            let mut reaper = Reaper::new();
            // Completion times of frames on their way, oldest first, and whether an interrupt comes and arrives.
            let mut way: std::collections::VecDeque<(u64, bool)> = std::collections::VecDeque::new();
            let mut timer: Option<u64> = None;
            let (mut now, mut sent) = (0, 0);
            let mut stopped_at: Option<u64> = None;
            while sent < 200 {
                now += 10_000;
                if stopped_at.is_none() {
                    let waits = way.len() as u64 + 1 >= limit;
                    let interrupt = reaper.handle_packet(1_000, waits);
                    way.push_back((now + next(200_000), interrupt && next(2) == 0));
                    sent += 1;
                    stopped_at = waits.then_some(now);
                    if reaper.poll_timer(stopped_at.is_some()) {
                        timer = Some(now + LOOK);
                    }
                }
                let interrupted = way.iter().any(|(at, arrives)| *at <= now && *arrives);
                let mut poll = interrupted;
                if timer.is_some_and(|at| at <= now) {
                    let look = reaper.handle_timer(Instant(now), stopped_at.is_some());
                    timer = look.again.then_some(now + LOOK);
                    poll |= look.poll;
                }
                if poll {
                    let before = way.len();
                    while way.front().is_some_and(|(at, _)| *at <= now) {
                        way.pop_front();
                    }
                    reaper.handle_reaped(before - way.len());
                    if (way.len() as u64) < limit {
                        stopped_at = None;
                    }
                }
                if let Some(at) = stopped_at {
                    assert!(now - at <= 3 * LOOK, "seed {seed}: stopped for {} ns", now - at);
                }
            }
        }
    }
}
