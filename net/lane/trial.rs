// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Round trips over the bare rings, for `ethtool -t`.

use super::{Lane, TxSide};
use crate::kapi::{
    kernels::{net_down, not_supported},
    random::random_u64,
    timer,
};
use core::sync::atomic::Ordering;
use kernel::{
    prelude::*,
    time::{delay::fsleep, Delta},
};
use tbip::{
    echo::{self, Outcome, Trial},
    frame::{Ctrl, Seq},
    time::{Duration, Instant},
};

/// How long a measured round trip is waited for without sleeping.
const SPIN: Duration = Duration::from_micros(200);

/// Pause between two looks for an answer that takes longer.
const PAUSE: Delta = Delta::from_micros(50);

impl Lane {
    /// Measures round trips to the peer's poll and back. A second at most. Sleeps, under RTNL, so one at a time.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` with a peer that is not ours, `ENETDOWN` while the cable does not carry, `ENOMEM`.
    pub(crate) fn measure(&self) -> Result<Outcome> {
        let mut samples = KVVec::new();
        samples.resize(echo::ROUNDS, 0, GFP_KERNEL)?;
        *self.trial.lock() = Some(Trial::new(samples, random_u64()));
        let done = self.rounds();
        let trial = self.trial.lock().take();
        done?;
        Ok(trial.map_or_else(Outcome::default, |mut trial| trial.outcome()))
    }

    pub(super) fn rounds(&self) -> Result {
        loop {
            {
                let mut side = self.tx.lock();
                let TxSide {
                    path, live, counters, ..
                } = &mut *side;
                let tx = path.as_mut().filter(|_| *live).ok_or_else(net_down)?;
                if !self.is_native() {
                    return Err(not_supported());
                }
                let begun = match &mut *self.trial.lock() {
                    Some(trial) => trial.begin(Instant(timer::now())),
                    None => None,
                };
                let Some(token) = begun else {
                    return Ok(());
                };
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                tx.reap(&self.netdev, false);
                if tx.send_echo(Ctrl::Echo, token, credit, counters) {
                    tx.doorbell(counters);
                }
            }
            let begun = Instant(timer::now());
            loop {
                let now = Instant(timer::now());
                let waits = match &*self.trial.lock() {
                    Some(trial) => trial.is_waiting(now),
                    None => false,
                };
                if !waits {
                    break;
                }
                // As a program that polls: whoever sleeps measures how long it takes to wake him.
                if now.since(begun) < SPIN {
                    core::hint::spin_loop();
                } else {
                    fsleep(PAUSE);
                }
            }
        }
    }
}
