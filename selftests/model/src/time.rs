// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The model's clock: an instant is given by the caller with every call, never read from the machine.

use core::time::Duration;

/// A point in time, in nanoseconds since the fabric was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);

    /// Later by `nanoseconds`; stays at the end of time instead of wrapping.
    pub fn after_ns(self, nanoseconds: u64) -> Instant {
        Instant(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds from `earlier` to `self`, 0 if it is not earlier.
    pub fn ns_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        self.after_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}
