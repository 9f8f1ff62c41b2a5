// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pages that are not there when a QP needs them.
//!
//! A packet that meets an absent page changes nothing in the engine (`Fault::Absent`). It is parked, and those that
//! come after it, while a work item brings the page; then all are handled as if they came now. A send whose buffer is
//! absent waits untaken in its queue. One page fault is under way for a QP at a time, and it ends with the QP's RESET
//! or destruction: `roce::parking` decides.

use crate::{
    kapi::paged,
    needs::{Missing, Needs},
    payload::Kept,
};
use kernel::prelude::*;
use roce::parking::{Errand, Parking};

/// The page fault of a QP. Guarded by the QP's lock.
pub(crate) struct Paging {
    state: Parking,
    parked: KVec<Kept>,
}

impl Paging {
    pub(crate) const fn new() -> Self {
        Self {
            state: Parking::new(),
            parked: KVec::new(),
        }
    }

    /// Whether packets have to queue behind others.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.is_busy()
    }

    /// For the next call of the engine.
    pub(crate) fn needs(&self) -> Needs {
        Needs::new(self.state.is_hopeless())
    }

    /// Has `missing` brought, and `then` called with the errand that did, and whether they are there. False if nothing
    /// is under way; then somebody has to come again.
    pub(crate) fn bring(
        &mut self,
        missing: Missing,
        then: impl FnOnce(&Errand, bool) + Send + Unpin + 'static,
    ) -> bool {
        if let Some(errand) = self.state.begin() {
            let act = move || {
                let done = missing.bring();
                then(&errand, done.is_ok());
            };
            if paged::run_errand(act).is_err() {
                self.state.give_up();
            }
        }
        self.is_busy()
    }

    /// Keeps a packet for later. Without memory it is lost.
    pub(crate) fn park(&mut self, frame: Kept) {
        if self.state.has_room(self.parked.len()) {
            let _ = self.parked.push(frame, GFP_ATOMIC);
        }
    }

    /// Whether an errand is of this life of the QP.
    pub(crate) fn is_current(&self, errand: &Errand) -> bool {
        self.state.is_current(errand)
    }

    /// The page fault is over: what waits.
    pub(crate) fn finish(&mut self, errand: &Errand, done: bool) -> KVec<Kept> {
        if self.state.finish(errand, done) {
            core::mem::take(&mut self.parked)
        } else {
            KVec::new()
        }
    }

    /// What waited for the page fault has been handled.
    pub(crate) fn settle(&mut self, errand: &Errand) {
        self.state.settle(errand);
    }

    /// The QP is reset, or no more. What waited, to be dropped.
    pub(crate) fn renew(&mut self) -> KVec<Kept> {
        self.state.renew();
        core::mem::take(&mut self.parked)
    }
}
