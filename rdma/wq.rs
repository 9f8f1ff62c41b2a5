// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work queues in memory shared with user space: rxe's `rxe_send_wqe` and `rxe_recv_wqe` (verbs.md section 2).
//!
//! A request is copied once, when it is taken, and checked by `roce::abi`; user space may write its slot as it likes
//! afterwards. What was copied stays in a place of ours until its completion, which is also when user space gets the
//! slot back.

mod recv;
mod recv_ring;

pub(crate) use {recv::RecvQueue, recv_ring::RecvRing};

use crate::{
    ah::Vector,
    caps,
    kapi::{
        netdev::Borrower,
        queue::{Mapping, Ring},
        uverbs::Udata,
    },
    memory::Memory,
    mr::Lenders,
    post::Poster,
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use roce::{
    abi::{self, bytes_at, Local, Place, Sge, SEND_HEADER, SEND_LENGTH, SGE_LEN, VECTOR},
    keys::Access,
    qp::Posted,
    wqe::{Fault, SendOp, SendWqe},
};

/// Fewer slots than this look full for ever to librxe before v39.
const MIN_SEND_SLOTS: u32 = 4;
/// Places for sends taken and not yet completed; the engine's window is not larger.
pub(crate) const SEND_PLACES: u32 = 256;
/// Receives are taken one at a time, and flushed one at a time.
const RECV_PLACES: u32 = 4;

/// Requests taken and not yet complete.
pub(crate) type Places = abi::Places<KVVec<Place>, KVVec<Sge>, KVVec<u8>>;

/// Room for `count` requests of `sges_each` scatter entries or `inline_each` bytes.
fn new_places(count: u32, sges_each: usize, inline_each: usize) -> Result<Places> {
    let slots = usize::try_from(count)?;
    let (mut places, mut sges, mut inline) = (KVVec::new(), KVVec::new(), KVVec::new());
    places.resize(slots, Place::default(), GFP_KERNEL)?;
    sges.resize(slots * sges_each, Sge::default(), GFP_KERNEL)?;
    inline.resize(slots * inline_each, 0, GFP_KERNEL)?;
    Ok(Places::new(places, sges, inline, sges_each, inline_each))
}

/// Copies message bytes into the user's buffers.
fn scatter(places: &Places, slot: u32, offset: u32, from: &[u8], memory: Memory<'_>) -> Result<(), Fault> {
    places.scatter(slot, offset, from, |key, va, part| {
        memory.write(key, va, part, Access::LOCAL_WRITE)
    })
}

/// A send queue.
pub(crate) struct SendQueue {
    ring: Ring,
    places: Places,
    max_sge: usize,
    signal_all: bool,
    /// The address vectors of taken requests, on datagram queues.
    vectors: KVVec<Vector>,
    /// Next slot to take.
    taken: u32,
    /// Next slot to give back.
    consumer: u32,
    /// Taken from the ring, waiting for its pages.
    held: Option<SendWqe>,
}

impl SendQueue {
    /// A queue for `wr` requests of `sge` entries or `inline` bytes; all three are raised to what is really there.
    pub(crate) fn new(
        wr: &mut u32,
        sge: &mut u32,
        inline: &mut u32,
        signal_all: bool,
        udata: Option<&Udata>,
    ) -> Result<(Self, Option<Mapping>)> {
        if *wr > caps::MAX_WR || *sge > caps::MAX_SGE || *inline > caps::MAX_INLINE {
            return Err(EINVAL);
        }
        let room = (usize::try_from(*sge)? * SGE_LEN).max(usize::try_from(*inline)?);
        let room = room.div_ceil(SGE_LEN) * SGE_LEN;
        let (ring, mapping) = Ring::offered(udata, *wr, SEND_HEADER + room, MIN_SEND_SLOTS)?;
        let max_sge = room / SGE_LEN;
        let places = new_places(ring.capacity().min(SEND_PLACES), max_sge, room)?;
        let places = if udata.is_none() { places.for_kernel() } else { places };
        *wr = ring.capacity();
        *sge = u32::try_from(max_sge)?;
        *inline = u32::try_from(room)?;
        let queue = Self {
            ring,
            places,
            max_sge,
            signal_all,
            vectors: KVVec::new(),
            taken: 0,
            consumer: 0,
            held: None,
        };
        Ok((queue, mapping))
    }

    /// The ring, for a kernel caller to post to.
    pub(crate) fn poster(&self) -> Poster {
        Poster::new(self.ring.share(), self.max_sge, self.max_sge * SGE_LEN)
    }

    /// Keeps the address vectors of requests from now on.
    pub(crate) fn keep_vectors(&mut self) -> Result {
        self.vectors
            .resize(usize::try_from(self.places.count())?, Vector::default(), GFP_KERNEL)?;
        Ok(())
    }

    /// The address vector of a taken request.
    pub(crate) fn vector(&self, slot: u32) -> Option<Vector> {
        self.vectors.get(slot as usize).copied()
    }

    /// Most requests in flight at once.
    pub(crate) fn places(&self) -> u32 {
        self.places.count()
    }

    /// What waits here, for a program that has read its completion queues up to `read`.
    pub(crate) fn posted(&self, read: [u32; 2]) -> Posted {
        let producer = self.ring.producer();
        let mut length = [0; 4];
        self.ring.read(producer.wrapping_sub(1), SEND_LENGTH, &mut length);
        Posted {
            length: u32::from_ne_bytes(length),
            waiting: self.ring.distance(self.taken, producer),
            read,
        }
    }

    /// The next request, copied and checked, once the memory that it sends from is there.
    pub(crate) fn take(&mut self, memory: Memory<'_>) -> Option<SendWqe> {
        let mut wqe = match self.held.take() {
            Some(held) => held,
            None => self.fetch()?,
        };
        if memory.may_be_absent() {
            match self.is_there(&wqe, memory) {
                Ok(()) => {}
                Err(Fault::Absent) => {
                    self.held = Some(wqe);
                    return None;
                }
                Err(fault) => wqe.fault = Some(fault),
            }
        }
        Some(wqe)
    }

    /// Whether what a request sends can be read.
    fn is_there(&self, wqe: &SendWqe, memory: Memory<'_>) -> Result<(), Fault> {
        let sends = !wqe.op.is_local() && (!wqe.op.is_answered() || wqe.op == SendOp::AtomicWrite);
        if wqe.fault.is_some() || !sends || self.places.is_inline(wqe.slot) {
            return Ok(());
        }
        self.places.parts(wqe.slot, 0, wqe.length as usize, |key, va, len| {
            let len = u32::try_from(len).map_err(|_| Fault::LocalLength)?;
            memory.check(key, va, len, Access::NONE)
        })
    }

    fn fetch(&mut self) -> Option<SendWqe> {
        if self.places.is_full() || self.taken == self.ring.producer() {
            return None;
        }
        let from = self.taken;
        self.taken = self.ring.next(from);
        let mut raw = [0; SEND_HEADER];
        self.ring.read(from, 0, &mut raw);
        let ring = &self.ring;
        let taken = self
            .places
            .take_send(&raw, self.signal_all, |at, to| ring.read(from, at, to));
        if let Some(vector) = self.vectors.get_mut(taken.slot as usize) {
            *vector = Vector::parse(&bytes_at(&raw, VECTOR));
        }
        Some(taken)
    }

    /// The oldest taken request is complete: its slot goes back.
    pub(crate) fn complete(&mut self) {
        self.places.complete();
        self.consumer = self.ring.next(self.consumer);
        self.ring.publish_consumer(self.consumer);
    }

    /// Forgets everything posted, without completions.
    pub(crate) fn reset(&mut self) {
        self.taken = self.ring.producer();
        self.consumer = self.taken;
        self.held = None;
        self.places.clear();
        self.ring.publish_consumer(self.consumer);
    }

    /// Copies message bytes of a taken request.
    pub(crate) fn gather(&self, slot: u32, offset: u32, to: &mut [u8], memory: Memory<'_>) -> Result<(), Fault> {
        self.places.gather(slot, offset, to, |key, va, part| {
            memory.read(key, va, part, Access::NONE)
        })
    }

    /// Lends message bytes of a taken request to a frame. False as [`Memory::lend`], or for what is in the request
    /// itself.
    pub(crate) fn lend(
        &self,
        slot: u32,
        offset: u32,
        len: usize,
        to: &mut impl Borrower,
        lenders: &mut Lenders,
        memory: Memory<'_>,
    ) -> Result<bool, Fault> {
        let mut lent = !self.places.is_inline(slot);
        if lent {
            self.places.parts(slot, offset, len, |key, va, len| {
                lent = lent && memory.lend(key, va, len, Access::NONE, to, lenders)?;
                Ok(())
            })?;
        }
        Ok(lent)
    }

    /// Puts the result of an atomic where the request wants it, as one if that can be.
    pub(crate) fn store(&self, slot: u32, value: u64, memory: Memory<'_>) -> Result<(), Fault> {
        let bytes = value.to_ne_bytes();
        let mut done = 0;
        self.places.parts(slot, 0, bytes.len(), |key, va, len| {
            let store = |word: &AtomicU64| word.store(value, Ordering::Relaxed);
            if len == bytes.len() && memory.word(key, va, Access::LOCAL_WRITE, store).is_ok() {
                return Ok(());
            }
            let part = bytes.get(done..done + len).ok_or(Fault::LocalLength)?;
            done += len;
            memory.write(key, va, part, Access::LOCAL_WRITE)
        })
    }

    /// What a taken request asks of this host alone.
    pub(crate) fn local(&self, slot: u32) -> Option<Local> {
        self.places.local(slot)
    }

    /// Copies bytes of a READ's answer to where the request wants them.
    pub(crate) fn scatter(&self, slot: u32, offset: u32, from: &[u8], memory: Memory<'_>) -> Result<(), Fault> {
        scatter(&self.places, slot, offset, from, memory)
    }
}
