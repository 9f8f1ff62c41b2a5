// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Receive queues: of one QP, or shared by several.

use super::{new_places, scatter, Places, RECV_PLACES};
use crate::{
    caps,
    kapi::{
        queue::{Mapping, Ring},
        umem::KernelMemory,
        uverbs::Udata,
    },
    memory::Memory,
    post::Poster,
    srq::Srq,
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    abi::{RECV_HEADER, SGE_LEN},
    wqe::{Fault, RecvWqe},
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
    pub(crate) fn poster(&self, memory: KernelMemory) -> Poster {
        Poster::new(self.ring.share(), self.max_sge, 0, memory)
    }

    /// Posted and not taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.ring.distance(self.taken, self.ring.producer())
    }

    /// The next request, copied into a free place and checked.
    fn take(&mut self, places: &mut Places) -> Option<RecvWqe> {
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
    fn complete(&mut self) {
        self.consumer = self.ring.next(self.consumer);
        self.ring.publish_consumer(self.consumer);
    }

    fn reset(&mut self) {
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

/// Where a QP's receives come from.
enum RecvSource {
    Own(RecvRing),
    Shared(Arc<Srq>),
}

/// A receive queue.
pub(crate) struct RecvQueue {
    source: RecvSource,
    places: Places,
}

impl RecvQueue {
    /// A queue for `wr` requests of `sge` entries; `wr` is raised to what is really there.
    pub(crate) fn new(wr: &mut u32, sge: u32, udata: Option<&Udata>) -> Result<(Self, Option<Mapping>)> {
        let (ring, mapping) = RecvRing::new(wr, sge, udata)?;
        let queue = Self {
            places: new_places(RECV_PLACES, ring.max_sge(), 0)?,
            source: RecvSource::Own(ring),
        };
        Ok((queue, mapping))
    }

    /// The ring, for a kernel caller to post to.
    pub(crate) fn poster(&self, memory: KernelMemory) -> Option<Poster> {
        match &self.source {
            RecvSource::Own(ring) => Some(ring.poster(memory)),
            RecvSource::Shared(_) => None,
        }
    }

    /// A queue without requests of its own.
    pub(crate) fn shared(srq: Arc<Srq>) -> Result<Self> {
        Ok(Self {
            places: new_places(RECV_PLACES, srq.max_sge(), 0)?,
            source: RecvSource::Shared(srq),
        })
    }

    /// The next request, copied and checked.
    pub(crate) fn take(&mut self) -> Option<RecvWqe> {
        match &mut self.source {
            RecvSource::Own(ring) => ring.take(&mut self.places),
            RecvSource::Shared(srq) => srq.fetch(&mut self.places),
        }
    }

    /// The oldest taken request is complete.
    pub(crate) fn complete(&mut self) {
        self.places.complete();
        if let RecvSource::Own(ring) = &mut self.source {
            ring.complete();
        }
    }

    /// Forgets everything posted, without completions.
    pub(crate) fn reset(&mut self) {
        self.places.clear();
        if let RecvSource::Own(ring) = &mut self.source {
            ring.reset();
        }
    }

    /// Copies bytes of a message to where the request wants them.
    pub(crate) fn scatter(&self, slot: u32, offset: u32, from: &[u8], memory: Memory<'_>) -> Result<(), Fault> {
        let memory = match &self.source {
            RecvSource::Own(_) => memory,
            RecvSource::Shared(srq) => Memory { pd: srq.pd(), ..memory },
        };
        scatter(&self.places, slot, offset, from, memory)
    }
}
