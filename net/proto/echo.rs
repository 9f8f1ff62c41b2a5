// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Round trips over a lane, measured: a CTRL head that the peer's poll answers at once, one after the other.
//!
//! ```text
//!   ours   begin(now) -> token ---- CTRL 4, token ---->  peer's poll
//!          handle_answer(now, token) <- CTRL 5, token -  sends it back
//! ```
//!
//! Nothing but rings, interrupt and poll of both hosts is in such a round trip: no packet, no stack, no queue pair. It
//! is the floor of every latency over the cable.

use crate::time::{Duration, Instant};
use core::ops::DerefMut;

/// Round trips of a trial.
pub const ROUNDS: usize = 1000;

/// After that an answer is not waited for any more. A busy host may let its poll wait for some time slices.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Answers that a trial waits for in vain before it gives up: an older peer skips what it does not know.
pub const LOST: usize = 5;

/// What a trial has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Heads sent.
    pub sent: u64,
    /// Heads answered.
    pub answered: u64,
    /// The shortest round trip; 0 if there was none.
    pub min: Duration,
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

/// Round trips being measured, kept in `S`, one number each.
#[derive(Debug)]
pub struct Trial<S> {
    samples: S,
    answered: usize,
    sent: usize,
    lost: usize,
    token: u64,
    /// When the head was sent whose answer is waited for.
    waits: Option<Instant>,
}

impl<S: DerefMut<Target = [u32]>> Trial<S> {
    /// None yet, of at most as many as `samples` has room for. Nobody can foretell `token`, so no late answer of
    /// another trial is taken for one of this.
    #[must_use]
    pub const fn new(samples: S, token: u64) -> Self {
        Self {
            samples,
            answered: 0,
            sent: 0,
            lost: 0,
            token,
            waits: None,
        }
    }

    /// The next round begins now: the token to send. `None` at the end of the trial.
    pub fn begin(&mut self, now: Instant) -> Option<u64> {
        if self.waits.take().is_some() {
            self.lost = self.lost.saturating_add(1);
        }
        if self.sent == self.samples.len() || self.lost == LOST {
            return None;
        }
        self.sent = self.sent.saturating_add(1);
        self.token = self.token.wrapping_add(1);
        self.waits = Some(now);
        Some(self.token)
    }

    /// An answer has come. One that is not waited for counts for nothing.
    pub fn handle_answer(&mut self, now: Instant, token: u64) {
        if token != self.token {
            return;
        }
        let Some(since) = self.waits.take() else {
            return;
        };
        if let Some(place) = self.samples.get_mut(self.answered) {
            *place = u32::try_from(now.since(since).0).unwrap_or(u32::MAX);
            self.answered = self.answered.saturating_add(1);
        }
    }

    /// Whether the round is still to be waited for.
    #[must_use]
    pub fn is_waiting(&self, now: Instant) -> bool {
        self.waits.is_some_and(|since| now.since(since) < PATIENCE)
    }

    /// What was found.
    pub fn outcome(&mut self) -> Outcome {
        let (sent, answered) = (self.sent as u64, self.answered as u64);
        let samples = self.samples.get_mut(..self.answered).unwrap_or_default();
        samples.sort_unstable();
        let at = |percent: usize| {
            let place = samples.len().saturating_mul(percent).div_ceil(100).saturating_sub(1);
            Duration(samples.get(place).copied().map_or(0, u64::from))
        };
        Outcome {
            sent,
            answered,
            min: at(0),
            median: at(50),
            p99: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_measures_what_is_answered() {
        let mut trial = Trial::new(vec![0; 100], 7);
        let mut now = Instant(1_000);
        for round in 1..=100 {
            let token = trial.begin(now).unwrap();
            assert!(trial.is_waiting(now));
            trial.handle_answer(now, token.wrapping_sub(1));
            now = now.after(Duration(round));
            trial.handle_answer(now, token);
            // The same once more, by a frame that was doubled.
            trial.handle_answer(now.after(Duration(9)), token);
            assert!(!trial.is_waiting(now));
        }
        assert_eq!(trial.begin(now), None);
        assert_eq!(
            trial.outcome(),
            Outcome {
                sent: 100,
                answered: 100,
                min: Duration(1),
                median: Duration(50),
                p99: Duration(99),
            }
        );
    }

    #[test]
    fn a_peer_that_never_answers_is_soon_given_up() {
        let mut trial = Trial::new(vec![0; ROUNDS], u64::MAX);
        let mut now = Instant(0);
        let mut sent = 0;
        while trial.begin(now).is_some() {
            sent += 1;
            assert!(trial.is_waiting(now));
            now = now.after(PATIENCE);
            assert!(!trial.is_waiting(now));
        }
        assert_eq!(sent, LOST);
        assert_eq!(
            trial.outcome(),
            Outcome {
                sent: LOST as u64,
                ..Outcome::default()
            }
        );
    }

    #[test]
    fn what_comes_too_late_is_no_answer_of_the_next_round() {
        let mut trial = Trial::new(vec![0; 10], 1);
        let old = trial.begin(Instant(0)).unwrap();
        let now = Instant(0).after(PATIENCE);
        let new = trial.begin(now).unwrap();
        trial.handle_answer(now, old);
        assert!(trial.is_waiting(now));
        trial.handle_answer(now.after(Duration(5)), new);
        assert_eq!(trial.outcome().answered, 1);
        assert_eq!(trial.outcome().min, Duration(5));
    }
}
