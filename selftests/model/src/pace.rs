// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What has a rate: it takes one thing after the other, each for a time, and no rounding of these times adds up.

use crate::time::Instant;

/// The state of a line or of a ring with a rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Busy until then.
    pub free_at: Instant,
    /// A wake-up for `free_at` is on the calendar.
    pub scheduled: bool,
    /// Part of a nanosecond that the rounding left over, in units of 1/rate.
    carry: u64,
}

impl Pace {
    /// Is busy from `start` on for what `nanobits` (bits times 10^9) take at `rate` bits per second; `None`: no time.
    pub fn take(&mut self, start: Instant, nanobits: u128, rate: Option<u64>) {
        let nanoseconds = rate.filter(|&rate| rate > 0).map_or(0, |rate| {
            let scaled = nanobits + u128::from(self.carry);
            self.carry = (scaled % u128::from(rate)) as u64;
            (scaled / u128::from(rate)) as u64
        });
        self.free_at = start.after_ns(nanoseconds);
    }

    /// Starts anew: not busy, nothing left over. A wake-up on the calendar stays there.
    pub fn clear(&mut self) {
        self.free_at = Instant::ZERO;
        self.carry = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_does_not_add_up() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            let start = pace.free_at;
            pace.take(start, 8 * 4096 * 1_000_000_000, Some(12_000_000_000));
        }
        assert_eq!(pace.free_at.0, 1000 * 4096 * 8 / 12);
    }

    #[test]
    fn no_rate_takes_no_time() {
        let mut pace = Pace::default();
        pace.take(Instant(5), 1 << 60, None);
        assert_eq!(pace.free_at, Instant(5));
    }
}
