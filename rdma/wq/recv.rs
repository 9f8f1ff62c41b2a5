// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Receive queues: of one QP, or shared by several.

use super::{new_places, recv_ring::RecvRing, scatter, Places, RECV_PLACES};
use crate::{
    kapi::{queue::Mapping, uverbs::Udata},
    memory::Memory,
    post::Poster,
    srq::Srq,
};
use kernel::{prelude::*, sync::Arc};
use roce::{fault::Fault, wqe::RecvWqe};

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
    pub(crate) fn poster(&self) -> Option<Poster> {
        match &self.source {
            RecvSource::Own(ring) => Some(ring.poster()),
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
