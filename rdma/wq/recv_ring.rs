// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Posted receives in memory shared with whoever posts them.

use super::Places;
use crate::{
    caps,
    kapi::{
        queue::{Mapping, Ring},
        uverbs::Udata,
    },
    post::Poster,
};
use kernel::prelude::*;
use roce::{
    abi::{RECV_HEADER, SGE_LEN},
    wqe::RecvWqe,
};

/// Posted receives in shared memory: of one QP, or of a shared receive queue.
pub(crate) struct RecvRing {
    ring: Ring,
    max_sge: usize,
    /// Next slot to take.
    taken: u32,
    /// Next slot to give back.
    consumer: u32,
}

impl RecvRing {
    /// A ring for `wr` requests of `sge` entries; `wr` is raised to what is really there.
    pub(crate) fn new(wr: &mut u32, sge: u32, udata: Option<&Udata>) -> Result<(Self, Option<Mapping>)> {
        if *wr > caps::MAX_WR || sge > caps::MAX_SGE {
            return Err(EINVAL);
        }
        let max_sge = usize::try_from(sge)?;
        let (ring, mapping) = Ring::offered(udata, *wr, RECV_HEADER + max_sge * SGE_LEN, 2)?;
        *wr = ring.capacity();
        let this = Self {
            ring,
            max_sge,
            taken: 0,
            consumer: 0,
        };
        Ok((this, mapping))
    }

    /// Scatter entries of a request at most.
    pub(crate) fn max_sge(&self) -> usize {
        self.max_sge
    }

    /// The ring, for a kernel caller to post to.
    pub(crate) fn poster(&self) -> Poster {
        Poster::new(self.ring.share(), self.max_sge, 0)
    }

    /// Posted and not taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.ring.distance(self.taken, self.ring.producer())
    }

    /// The next request, copied into a free place and checked.
    pub(super) fn take(&mut self, places: &mut Places) -> Option<RecvWqe> {
        if places.is_full() || self.taken == self.ring.producer() {
            return None;
        }
        let from = self.taken;
        self.taken = self.ring.next(from);
        let mut raw = [0; RECV_HEADER];
        self.ring.read(from, 0, &mut raw);
        Some(places.take_recv(&raw, |at, to| self.ring.read(from, at, to)))
    }

    /// As [`Self::take`]; user space gets the slot back at once.
    pub(crate) fn fetch(&mut self, places: &mut Places) -> Option<RecvWqe> {
        let taken = self.take(places)?;
        self.complete();
        Some(taken)
    }

    /// The oldest taken request is complete: its slot goes back.
    pub(super) fn complete(&mut self) {
        self.consumer = self.ring.next(self.consumer);
        self.ring.publish_consumer(self.consumer);
    }

    /// Forgets everything posted, without completions.
    pub(super) fn reset(&mut self) {
        self.taken = self.ring.producer();
        self.consumer = self.taken;
        self.ring.publish_consumer(self.consumer);
    }

    /// Goes on in another ring of the same entry size, with what was posted here and not taken. False if it is too
    /// small; then nothing has changed.
    #[must_use]
    pub(crate) fn move_to(&mut self, to: &mut Self) -> bool {
        let count = self.waiting();
        if count > to.ring.capacity() {
            return false;
        }
        let mut raw = [0; RECV_HEADER + caps::MAX_SGE as usize * SGE_LEN];
        let Some(entry) = raw.get_mut(..RECV_HEADER + self.max_sge * SGE_LEN) else {
            return false;
        };
        for slot in 0..count {
            self.ring.read(self.taken, 0, entry);
            to.ring.write(slot, 0, entry);
            self.taken = self.ring.next(self.taken);
        }
        to.ring.publish_user_producer(count);
        core::mem::swap(self, to);
        true
    }
}
