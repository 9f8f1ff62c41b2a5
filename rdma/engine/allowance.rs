// SPDX-License-Identifier: GPL-2.0 OR MIT
//! How much of a processor packets may take from programs that have no part in them.
//!
//! Softirqs run in whatever program they meet, and nobody is charged. What a queue pair does while its owner runs, or
//! while nobody would, is no harm; all else is taken from somebody and is spent here. An allowance that is spent comes
//! back with time, and until enough of it has, what can wait waits: acknowledgements, responses, requests. A peer that
//! gets no acknowledgement stops at the end of its window, so what comes in is slowed down as well.

use crate::limits;
use crate::time::{Duration, Instant};

/// What is left for one processor, in nanoseconds, and when that was so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Below zero: a debt.
    pub left: i64,
    /// When `left` was right.
    pub at: Instant,
    /// Spent, and not enough of it is back yet.
    pub resting: bool,
}

impl Allowance {
    /// What has come back by `now`.
    fn refill(&mut self, now: Instant) {
        let back = now.since(self.at).0.saturating_mul(limits::STOLEN_PERCENT) / 100;
        let back = i64::try_from(back).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(back).min(span(limits::STOLEN_BURST));
        self.at = self.at.max(now);
        if self.left >= span(limits::STOLEN_RESUME) {
            self.resting = false;
        }
    }

    /// Time was taken from somebody, until `now`.
    pub fn spend(&mut self, now: Instant, taken: Duration) {
        self.refill(now);
        let left = self.left.saturating_sub(span(taken));
        self.left = left.max(span(limits::STOLEN_DEBT).saturating_neg());
        self.resting |= self.left < 0;
    }

    /// Until when what can wait waits; `None` if it need not.
    pub fn rest(&mut self, now: Instant) -> Option<Instant> {
        self.refill(now);
        if !self.resting {
            return None;
        }
        let missing = span(limits::STOLEN_RESUME).saturating_sub(self.left);
        let wait = missing
            .unsigned_abs()
            .saturating_mul(100)
            .div_ceil(limits::STOLEN_PERCENT);
        Some(now.after(Duration(wait)))
    }
}

fn span(of: Duration) -> i64 {
    i64::try_from(of.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn full(at: u64) -> Allowance {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.rest(Instant(at)), None);
        allowance
    }

    #[test]
    fn a_short_burst_costs_nothing() {
        let mut allowance = full(1000 * MS);
        allowance.spend(Instant(1002 * MS), Duration(2 * MS));
        assert_eq!(allowance.rest(Instant(1002 * MS)), None);
    }

    #[test]
    fn what_is_spent_comes_back_with_time() {
        let mut allowance = full(1000 * MS);
        let now = Instant(1010 * MS);
        allowance.spend(now, Duration(10 * MS));
        let until = allowance.rest(now).expect("10 ms of 10 is too much");
        assert!(until > now);
        let early = Instant(until.0 - 1000);
        assert_eq!(allowance.rest(early).map(|at| at.0.abs_diff(until.0) < 10), Some(true));
        assert_eq!(allowance.rest(until), None);
        assert!(allowance.left >= span(limits::STOLEN_RESUME));
    }

    #[test]
    fn a_debt_has_an_end() {
        let mut allowance = full(1000 * MS);
        let now = Instant(9000 * MS);
        allowance.spend(now, Duration(8000 * MS));
        let until = allowance.rest(now).unwrap();
        assert!(until.since(now).0 < 100 * MS, "{until:?}");
    }

    /// Whoever takes as much as he may, in pieces of any size that end in time, leaves more than half.
    #[test]
    fn more_than_half_is_left_to_others() {
        for piece in [50_000, 300_000, 2 * MS, 9 * MS] {
            let mut allowance = full(1000 * MS);
            let (mut now, mut taken) = (Instant(1000 * MS), 0);
            while now.0 < 3000 * MS {
                match allowance.rest(now) {
                    Some(until) => now = until,
                    None => {
                        now = now.after(Duration(piece));
                        allowance.spend(now, Duration(piece));
                        taken += piece;
                    }
                }
            }
            let share = taken * 100 / (now.0 - 1000 * MS);
            assert!(
                (limits::STOLEN_PERCENT - 5..=limits::STOLEN_PERCENT + 1).contains(&share),
                "{piece}: {share} %"
            );
        }
    }

    #[test]
    fn a_clock_that_goes_back_is_no_gift() {
        let mut allowance = full(1000 * MS);
        allowance.spend(Instant(1010 * MS), Duration(10 * MS));
        let left = allowance.left;
        let _ = allowance.rest(Instant(500 * MS));
        assert_eq!((allowance.left, allowance.at), (left, Instant(1010 * MS)));
    }
}
