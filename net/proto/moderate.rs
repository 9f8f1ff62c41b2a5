// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Interrupt moderation: the shortest time between two receive interrupts, by load.
//!
//! ```text
//!   frames a second      below QUIET           between            above BUSY, and several a poll, or one way, or both
//!   interval             IDLE_USECS       as it was before        BUSY_USECS                            ways at once
//! ```
//!
//! An interval delays what follows closely on an interrupt. Under load that gathers frames, one poll for many. Between
//! requests and answers it is nothing but delay. These are told from load by what leaves meanwhile: a host that answers
//! sends about as much as it receives, and has sent it all when the next request comes. Where frames come while others
//! still leave it is load both ways. A flood finds a poll for each frame where interrupts are cheap, and takes the
//! processor from everybody: four cables both ways at 20 Gb/s made 2.4 million interrupts a second, and a program that
//! shared their processor ran for the first time after 2 ms (virtual time, 2026-11-30).

use crate::time::{Duration, Instant};

/// Interval of a ring with little to do: none. An answer follows its request by less than any interval, and would wait
/// for its end. Measured in virtual time, 20 Gb/s and 500 ns each way, where the processor takes no time:
/// `ibv_rc_pingpong -e` of 64 bytes 2.64 us a round with none and 17.46 with 8 us, of 16 KiB 17.2 and 30.3
/// (2026-11-30).
pub const IDLE_USECS: u32 = 0;

/// Interval of a ring under load. A ring of 512 frames at 80 Gb/s fills in 210 us. Measured in the lab, where an
/// interrupt is dear: from a stock peer 1.60 Gbit/s with 32 us, 1.50 with 64, 1.39 with 128, as its window waits for
/// our ACKs; between two of ours 7.3, 7.0 with 64 (medians of four, 2026-11-29).
pub const BUSY_USECS: u32 = 32;

/// Frames a second below which a ring has little to do: 0.16 Gb/s of full frames.
const QUIET: u64 = 5_000;

/// Frames a second above which it may be under load: 0.5 Gb/s.
const BUSY: u64 = 15_000;

/// Frames of a poll, on average, from which it is load and not requests and answers.
const BULK: u64 = 3;

/// Frames received for each one sent from which it goes one way. A READ of a page is two for one.
const ONE_WAY: u64 = 4;

/// Of so many looks at the transmit ring, ...
const LOOKS: u32 = 4;
/// ... so many or more that see frames leave make load of what comes meanwhile.
const LEAVING: u32 = 3;

/// Shortest time over which the load is measured.
const WINDOW: Duration = Duration::from_millis(1);

/// Time after which what was counted says nothing any more.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls between two looks at the clock.
const POLLS: u32 = 8;

/// The load of one receive ring.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    frames: u64,
    polls: u64,
    /// Frames sent, ever, when the window began.
    sent: u64,
    /// Polls since the clock was looked at.
    due: u32,
    /// Looks at the clock, and how many of them saw frames leave.
    looks: u32,
    leaving: u32,
    since: Instant,
    usecs: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

impl Load {
    /// A ring that has received nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            frames: 0,
            polls: 0,
            sent: 0,
            due: 0,
            looks: 0,
            leaving: 0,
            since: Instant(0),
            usecs: IDLE_USECS,
        }
    }

    /// Whether the poll that begins is one after which [`Load::decide`] is called.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due.saturating_add(1) >= POLLS
    }

    /// A poll found `frames`. Whether [`Load::decide`] is to be called.
    #[must_use]
    pub fn add(&mut self, frames: usize) -> bool {
        self.frames = self.frames.saturating_add(frames as u64);
        self.polls = self.polls.saturating_add(u64::from(frames != 0));
        self.due = self.due.saturating_add(1);
        self.due >= POLLS
    }

    /// The interval from `now` on, in microseconds. `sent`: frames that the lane has sent, ever. `leaving`: some of
    /// them were on their way when the poll began; what it has answered since does not count.
    pub fn decide(&mut self, now: Instant, sent: u64, leaving: bool) -> u32 {
        self.due = 0;
        self.looks = self.looks.saturating_add(1);
        self.leaving = self.leaving.saturating_add(u32::from(leaving));
        let span = now.since(self.since);
        if span < WINDOW {
            return self.usecs;
        }
        let rate = self
            .frames
            .saturating_mul(1_000_000_000)
            .checked_div(span.0)
            .unwrap_or(0);
        let several = self.frames >= self.polls.saturating_mul(BULK);
        let one_way = self.frames >= sent.saturating_sub(self.sent).saturating_mul(ONE_WAY);
        let both_ways = self.leaving.saturating_mul(LOOKS) >= self.looks.saturating_mul(LEAVING);
        if rate < QUIET || span > PAUSE {
            self.usecs = IDLE_USECS;
        } else if rate > BUSY && (several || one_way || both_ways) {
            self.usecs = BUSY_USECS;
        }
        self.frames = 0;
        self.polls = 0;
        self.looks = 0;
        self.leaving = 0;
        self.sent = sent;
        self.since = now;
        self.usecs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every `gap` microseconds that find `frames` each, for `n` polls, each answered by one frame.
    fn run(load: &mut Load, from: u64, n: u64, gap: u64, frames: usize) -> u32 {
        answered(load, from, n, gap, frames, 1)
    }

    /// The same with that many frames sent each time, before the poll.
    fn answered(load: &mut Load, from: u64, n: u64, gap: u64, frames: usize, answers: u64) -> u32 {
        let mut usecs = load.usecs;
        let sent = load.sent;
        for i in 0..n {
            if load.add(frames) {
                usecs = load.decide(Instant((from + i * gap) * 1000), sent + i * answers, false);
            }
        }
        usecs
    }

    #[test]
    fn a_flood_that_nobody_answers_is_load_however_few_a_poll_finds() {
        let mut load = Load::new();
        assert_eq!(answered(&mut load, 0, 10_000, 4, 1, 0), BUSY_USECS);
        let mut load = Load::new();
        assert_eq!(answered(&mut load, 0, 10_000, 4, 1, 1), IDLE_USECS);
        let mut load = Load::new();
        assert_eq!(answered(&mut load, 0, 10_000, 4, 2, 1), IDLE_USECS);
    }

    #[test]
    fn frames_that_come_one_by_one_while_others_leave_are_load() {
        for (leaving, usecs) in [(4, BUSY_USECS), (3, BUSY_USECS), (2, IDLE_USECS), (0, IDLE_USECS)] {
            let mut load = Load::new();
            let mut got = IDLE_USECS;
            for i in 0..10_000_u64 {
                if load.add(1) {
                    got = load.decide(Instant(i * 2000), i, i / u64::from(POLLS) % 4 < leaving);
                }
            }
            assert_eq!(got, usecs, "{leaving} of 4");
        }
    }

    #[test]
    fn a_ping_is_not_load_and_a_stream_is() {
        let mut load = Load::new();
        assert_eq!(run(&mut load, 0, 1000, 100, 1), IDLE_USECS);
        assert_eq!(run(&mut load, 200_000, 1000, 100, 17), BUSY_USECS);
        assert_eq!(run(&mut load, 400_000, 1000, 250, 1), IDLE_USECS);
    }

    #[test]
    fn in_between_it_stays_as_it_was() {
        let mut load = Load::new();
        assert_eq!(run(&mut load, 0, 1000, 100, 1), IDLE_USECS);
        run(&mut load, 200_000, 1000, 100, 17);
        assert_eq!(run(&mut load, 300_000, 1000, 100, 1), BUSY_USECS);
    }

    #[test]
    fn many_requests_one_by_one_are_not_load() {
        let mut load = Load::new();
        assert_eq!(run(&mut load, 0, 10_000, 20, 1), IDLE_USECS);
    }

    #[test]
    fn a_long_pause_is_forgotten() {
        let mut load = Load::new();
        run(&mut load, 0, 1000, 100, 17);
        // A second later: 8 polls of 17 in what counts as 20 ms are no load.
        assert_eq!(run(&mut load, 1_100_000, 8, 10, 17), IDLE_USECS);
    }
}
