// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pages that are not there when a QP needs them.
//!
//! A packet that meets an absent page changes nothing in the engine ([`Fault::Absent`]). It is parked, and those that
//! come after it, while a work item brings the page; then all are handled as if they came now. A send whose buffer is
//! absent waits untaken in its queue. One page fault is under way for a QP at a time, and it ends with the QP's RESET
//! or destruction: `roce::parking` decides.

use crate::{
    kapi::{netdev::KeptFrame, paged},
    mr::Region,
    qp::Qp,
};
use core::cell::Cell;
use kernel::{prelude::*, sync::Arc};
use roce::{
    parking::{Errand, Parking},
    wqe::Fault,
};

/// Brought at once, where the region is that long: a stream of packets faults once in so many pages.
const AHEAD: usize = 1 << 20;

/// Pages to be brought.
pub(crate) struct Missing {
    region: Arc<Region>,
    at: usize,
    len: usize,
    write: bool,
}

/// What the engine's host missed during a call.
pub(crate) struct Needs {
    missing: Cell<Option<Missing>>,
    /// A miss is a fault: the page cannot be brought, or nobody would wait for it.
    hopeless: bool,
}

impl Needs {
    fn new(hopeless: bool) -> Self {
        Self {
            missing: Cell::new(None),
            hopeless,
        }
    }

    /// For a call whose misses do not matter.
    pub(crate) fn deaf() -> Self {
        Self::new(true)
    }

    /// A miss: [`Fault::Absent`], unless there is no hope.
    pub(crate) fn miss(&self, region: &Arc<Region>, at: usize, len: usize, write: bool) -> Fault {
        if self.hopeless {
            return Fault::LocalProtection;
        }
        let len = len.max(AHEAD).min(region.len_from(at));
        self.missing.set(Some(Missing {
            region: region.clone(),
            at,
            len,
            write,
        }));
        Fault::Absent
    }

    pub(crate) fn take(&self) -> Option<Missing> {
        self.missing.take()
    }
}

/// The page fault of a QP. Guarded by the QP's lock.
pub(crate) struct Paging {
    state: Parking,
    parked: KVec<KeptFrame>,
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

    /// Has `missing` brought for `qp`. False if nothing is under way; then somebody has to come again.
    pub(crate) fn bring(&mut self, qp: &Arc<Qp>, missing: Missing) -> bool {
        if let Some(errand) = self.state.begin() {
            let qp = qp.clone();
            let act = move || {
                let Missing { region, at, len, write } = missing;
                let done = region.bring(at, len, write);
                drop(region);
                Qp::on_paged(&qp, &errand, done.is_ok());
            };
            if paged::run_errand(act).is_err() {
                self.state.give_up();
            }
        }
        self.is_busy()
    }

    /// Keeps a packet for later. Without memory it is lost.
    pub(crate) fn park(&mut self, frame: KeptFrame) {
        if self.state.has_room(self.parked.len()) {
            let _ = self.parked.push(frame, GFP_ATOMIC);
        }
    }

    /// Whether an errand is of this life of the QP.
    pub(crate) fn is_current(&self, errand: &Errand) -> bool {
        self.state.is_current(errand)
    }

    /// The page fault is over: what waits.
    pub(crate) fn finish(&mut self, errand: &Errand, done: bool) -> KVec<KeptFrame> {
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
    pub(crate) fn renew(&mut self) -> KVec<KeptFrame> {
        self.state.renew();
        core::mem::take(&mut self.parked)
    }
}
