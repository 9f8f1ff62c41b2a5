// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Interrupt moderation: the shortest time between two receive interrupts, by load.
//!
//! ```text
//!   frames a second      below QUIET           between            above BUSY
//!   interval             IDLE_USECS       as it was before        BUSY_USECS
//! ```
//!
//! An interval delays only what follows closely on an interrupt, so a request that is alone on the cable is told of at once
//! under any of them. Under load it is what gathers frames: one poll for many.

use crate::time::{Duration, Instant};

/// Interval of a ring with little to do.
pub const IDLE_USECS: u32 = 8;

/// Interval of a ring under load. A ring of 512 frames at 80 Gb/s fills in 210 us.
pub const BUSY_USECS: u32 = 64;

/// Frames a second below which a ring has little to do: 0.8 Gb/s of full frames.
const QUIET: u64 = 25_000;

/// Frames a second above which it is under load: 1.6 Gb/s.
const BUSY: u64 = 50_000;

/// Shortest time over which the load is measured.
const WINDOW: Duration = Duration::from_millis(2);

/// Longest time that counts: after a pause the load is that since the pause.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls between two looks at the clock.
const POLLS: u32 = 8;

/// The load of one receive ring.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    frames: u64,
    polls: u32,
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
            since: Instant(0),
            usecs: IDLE_USECS,
        }
    }

    /// A poll found `frames`. Whether [`Load::decide`] is to be called.
    #[must_use]
    pub fn add(&mut self, frames: usize) -> bool {
        self.frames = self.frames.saturating_add(frames as u64);
        self.polls = self.polls.saturating_add(1);
        self.polls >= POLLS
    }

    /// The interval from `now` on, in microseconds.
    pub fn decide(&mut self, now: Instant) -> u32 {
        self.polls = 0;
        let span = now.since(self.since);
        if span < WINDOW {
            return self.usecs;
        }
        let span = span.min(PAUSE);
        let rate = self
            .frames
            .saturating_mul(1_000_000_000)
            .checked_div(span.0)
            .unwrap_or(0);
        if rate < QUIET {
            self.usecs = IDLE_USECS;
        } else if rate > BUSY {
            self.usecs = BUSY_USECS;
        }
        self.frames = 0;
        self.since = now;
        self.usecs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every `gap` microseconds that find `frames` each, for `n` polls.
    fn run(load: &mut Load, from: u64, n: u64, gap: u64, frames: usize) -> u32 {
        let mut usecs = load.usecs;
        for i in 0..n {
            if load.add(frames) {
                usecs = load.decide(Instant((from + i * gap) * 1000));
            }
        }
        usecs
    }

    #[test]
    fn a_ping_is_not_load_and_a_stream_is() {
        let mut load = Load::new();
        assert_eq!(run(&mut load, 0, 1000, 100, 1), IDLE_USECS);
        assert_eq!(run(&mut load, 200_000, 1000, 100, 17), BUSY_USECS);
        assert_eq!(run(&mut load, 400_000, 1000, 100, 1), IDLE_USECS);
    }

    #[test]
    fn in_between_it_stays_as_it_was() {
        let mut load = Load::new();
        assert_eq!(run(&mut load, 0, 1000, 100, 4), IDLE_USECS);
        run(&mut load, 200_000, 1000, 100, 17);
        assert_eq!(run(&mut load, 300_000, 1000, 100, 4), BUSY_USECS);
    }

    #[test]
    fn a_long_pause_is_forgotten() {
        let mut load = Load::new();
        run(&mut load, 0, 1000, 100, 17);
        // A second later: 8 polls of 17 in what counts as 20 ms are no load.
        assert_eq!(run(&mut load, 1_100_000, 8, 10, 17), IDLE_USECS);
    }
}
