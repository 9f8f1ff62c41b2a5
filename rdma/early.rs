// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets that came before their turn, kept until it comes.
//!
//! The engine says which to keep, and when one is due or not wanted any more; the frames are here. They are counted for
//! all QPs together, by the pages that they take, so that peers that leave gaps cannot hold the host's memory.

use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};
use roce::wqe::Early;

/// Frames that all QPs together keep at most: what comes early beyond that counts as lost.
const MOST: u32 = 4096;

/// Bytes for which a frame counts as one more: a run counts for the packets that it stands for.
const PAGE: u64 = 4096;

/// Frames kept.
static KEPT: Atomic<u32> = Atomic::new(0);

/// A frame that is kept.
pub(crate) struct Kept<F> {
    early: Early,
    frame: F,
    /// What it counts for.
    cost: u32,
}

impl<F> Kept<F> {
    /// The frame.
    pub(crate) fn frame(&self) -> &F {
        &self.frame
    }
}

impl<F> Drop for Kept<F> {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.cost, Relaxed);
    }
}

/// The early packets of a QP. Guarded by its lock.
pub(crate) struct Waiting<F>(KVec<Kept<F>>);

impl<F> Waiting<F> {
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Keeps the frame of `len` bytes that `take` gets hold of. False if there is no room or no memory.
    pub(crate) fn keep(&mut self, early: Early, len: u64, take: impl FnOnce() -> F) -> bool {
        let cost = u32::try_from(len / PAGE).map_or(MOST, |pages| pages.saturating_add(1).min(MOST));
        if KEPT.fetch_add(cost, Relaxed) >= MOST {
            KEPT.fetch_sub(cost, Relaxed);
            return false;
        }
        let frame = take();
        self.0.push(Kept { early, frame, cost }, GFP_ATOMIC).is_ok()
    }

    /// Takes out the packet whose turn it is.
    pub(crate) fn take(&mut self, early: Early) -> Option<Kept<F>> {
        let at = self.0.iter().position(|kept| kept.early == early)?;
        self.0.remove(at).ok()
    }

    /// Lets go of those that are not wanted.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(Early) -> bool) {
        if !self.0.is_empty() {
            self.0.retain(|kept| is_wanted(kept.early));
        }
    }
}
