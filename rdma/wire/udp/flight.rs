// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Frames in the stack: how many a QP may have there, and how it hears that there are fewer.

use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// Frames of one QP in the stack at most. The queue below stays short, and the READ responder cannot fill it.
const MOST: i32 = 96;
/// The same while all QPs of the device together have [`ALL`] there: a netdev's queue has 1000 places.
const LEAST: i32 = 4;
/// See [`LEAST`].
const ALL: i32 = 192;

/// The frames of a QP in the stack. `all` are those of its device's QPs.
pub(crate) struct Flight {
    frames: Atomic<i32>,
    /// Sending waits until fewer frames are in the stack; 0: it does not wait.
    stalled: Atomic<i32>,
}

impl Flight {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            frames: Atomic::new(0),
            stalled: Atomic::new(0),
        }
    }

    /// How many.
    pub(crate) fn frames(&self) -> i32 {
        self.frames.load(Relaxed)
    }

    /// Whether the stack holds few enough of our frames. If not, [`Self::on_done`] tells when.
    pub(crate) fn may_send(&self, all: &Atomic<i32>) -> bool {
        let most = match all.load(Relaxed) {
            ..ALL => MOST,
            _ => LEAST,
        };
        if self.frames.load(Relaxed) < most {
            return true;
        }
        self.stalled.xchg(most / 2 + 1, Full);
        // The last frame may have come back before it could see the mark.
        self.frames.load(Relaxed) <= most / 2 && self.stalled.xchg(0, Full) != 0
    }

    /// A frame will go to the stack.
    pub(crate) fn on_built(&self, all: &Atomic<i32>) {
        self.frames.fetch_add(1, Full);
        all.fetch_add(1, Relaxed);
    }

    /// The stack has let go of a frame. Whether sending, which waited for that, goes on.
    #[must_use]
    pub(crate) fn on_done(&self, all: &Atomic<i32>) -> bool {
        all.fetch_sub(1, Relaxed);
        let left = self.frames.fetch_sub(1, Full) - 1;
        left < self.stalled.load(Relaxed) && self.stalled.xchg(0, Full) != 0
    }
}
