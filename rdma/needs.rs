// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pages that the engine's host misses while the engine runs.

use crate::mr::Region;
use core::cell::Cell;
use kernel::{prelude::*, sync::Arc};
use roce::fault::Fault;

/// Brought at once, where the region is that long: a stream of packets faults once in so many pages.
const AHEAD: usize = 1 << 20;

/// Pages to be brought.
pub(crate) struct Missing {
    region: Arc<Region>,
    at: usize,
    len: usize,
    write: bool,
}

impl Missing {
    /// Brings them. Sleeps.
    pub(crate) fn bring(self) -> Result {
        self.region.bring(self.at, self.len, self.write)
    }
}

/// What the engine's host missed during a call.
pub(crate) struct Needs {
    missing: Cell<Option<Missing>>,
    /// A miss is a fault: the page cannot be brought, or nobody would wait for it.
    hopeless: bool,
}

impl Needs {
    /// Nothing yet. `hopeless`: a miss is a fault.
    pub(crate) fn new(hopeless: bool) -> Self {
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

    /// What is to be brought, if anything.
    pub(crate) fn take(&self) -> Option<Missing> {
        self.missing.take()
    }
}
