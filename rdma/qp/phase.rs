// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where a QP is in its life, and how often one in ERR looks for receives to flush.
//!
//! ```text
//!   Idle <----> Sending     one CPU at a time sends; whoever comes meanwhile leaves the work to it
//!     |            |
//!     +-> Closed <-+        destruction
//! ```

use crate::kapi::uverbs::QpHandle;
use core::mem::replace;

/// Times in a row that flushing goes on at once: enough for the longest queues. Who posts more to a QP in ERR, for
/// which he needs no system call, has it flushed by the timer.
const FLUSHES: u32 = 32;
/// Nanoseconds to the first look for receives: posting one rings no doorbell.
const FIRST: u64 = 1_000_000;
/// The longest between two looks.
const LAST: u64 = 256_000_000;

/// Where a QP is in its life.
pub(crate) enum Phase {
    /// Nobody is sending.
    Idle(QpHandle),
    /// Somebody is sending, and will look again before it stops.
    Sending(QpHandle),
    /// Being destroyed: nothing happens any more.
    Closed,
}

impl Phase {
    /// The core's half, which is there until the QP is closed.
    pub(crate) fn handle(&self) -> Option<&QpHandle> {
        match self {
            Self::Idle(handle) | Self::Sending(handle) => Some(handle),
            Self::Closed => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    pub(crate) fn is_sending(&self) -> bool {
        matches!(self, Self::Sending(_))
    }

    /// The caller sends from now on.
    pub(crate) fn on_send(&mut self) {
        *self = match replace(self, Self::Closed) {
            Self::Idle(handle) => Self::Sending(handle),
            other => other,
        };
    }

    /// The caller sends no more.
    pub(crate) fn on_sent(&mut self) {
        *self = match replace(self, Self::Closed) {
            Self::Sending(handle) => Self::Idle(handle),
            other => other,
        };
    }

    /// The QP is being destroyed.
    pub(crate) fn on_close(&mut self) {
        *self = Self::Closed;
    }
}

/// How often a QP in ERR looks for receives to flush: soon at first, then less and less often.
pub(crate) struct Pace {
    /// Nanoseconds to the next look.
    delay: u64,
    /// Times in a row that flushing went on at once.
    at_once: u32,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self {
            delay: FIRST,
            at_once: 0,
        }
    }

    /// As many completions as may be without a break were written, and there may be more. Whether to go on at once.
    pub(crate) fn goes_on(&mut self, flushes: bool) -> bool {
        self.at_once += u32::from(flushes);
        self.at_once <= FLUSHES
    }

    /// Nanoseconds to the next look.
    pub(crate) fn delay(&self) -> u64 {
        self.delay
    }

    /// A look comes in [`Self::delay`]; the next one takes longer.
    pub(crate) fn on_look(&mut self) {
        self.delay = (self.delay * 2).min(LAST);
    }

    /// There is nothing to flush.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}
