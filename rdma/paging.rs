// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pages that are not there when a QP needs them.
//!
//! A packet that meets an absent page changes nothing in the engine ([`Fault::Absent`]). It is parked, and those that
//! come after it, while a work item brings the page; then all are handled as if they came now. A send whose buffer is
//! absent waits untaken in its queue. One page fault is under way for a QP at a time.

use crate::{
    kapi::{netdev::KeptFrame, paged},
    mr::Region,
    qp::Qp,
};
use core::cell::Cell;
use kernel::{prelude::*, sync::Arc};
use roce::wqe::Fault;

/// Packets of one QP that wait; what comes after them counts as lost.
const PARKED: usize = 128;
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
    busy: bool,
    /// The page fault that just ended was in vain: while its packets and sends are handled again.
    hopeless: bool,
    parked: KVec<KeptFrame>,
}

impl Paging {
    pub(crate) const fn new() -> Self {
        Self {
            busy: false,
            hopeless: false,
            parked: KVec::new(),
        }
    }

    /// Whether packets have to queue behind others.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// For the next call of the engine.
    pub(crate) fn needs(&self) -> Needs {
        Needs::new(self.hopeless)
    }

    /// What waited for the page fault has been handled.
    pub(crate) fn settle(&mut self) {
        self.hopeless = false;
    }

    /// Has `missing` brought for `qp`. False if nothing is under way; then somebody has to come again.
    pub(crate) fn bring(&mut self, qp: &Arc<Qp>, missing: Missing) -> bool {
        if !self.busy {
            let qp = qp.clone();
            let errand = move || {
                let Missing { region, at, len, write } = missing;
                let done = region.bring(at, len, write);
                drop(region);
                Qp::on_paged(&qp, done.is_ok());
            };
            self.busy = paged::run_errand(errand).is_ok();
        }
        self.busy
    }

    /// Keeps a packet for later. Without memory it is lost.
    pub(crate) fn park(&mut self, frame: KeptFrame) {
        if self.parked.len() < PARKED {
            let _ = self.parked.push(frame, GFP_ATOMIC);
        }
    }

    /// The page fault is over: what waits.
    pub(crate) fn finish(&mut self, done: bool) -> KVec<KeptFrame> {
        self.busy = false;
        self.hopeless = !done;
        core::mem::take(&mut self.parked)
    }
}
