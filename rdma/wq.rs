// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work queues in memory shared with user space: rxe's `rxe_send_wqe` and `rxe_recv_wqe` (verbs.md section 2).
//!
//! A request is copied once, when it is taken, and checked; user space may write its slot as it likes afterwards.
//! What was copied stays in a place of ours until its completion, which is also when user space gets the slot back.

mod recv;

pub(crate) use recv::{RecvQueue, RecvRing};

use crate::{
    ah::Vector,
    context,
    kapi::{
        queue::{Mapping, Ring},
        uverbs::Udata,
    },
    mr::Memory,
    post::Poster,
    window::{Bind, Local},
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use roce::{
    keys::{Access, Key},
    limits::MAX_MESSAGE_LEN,
    psn::Qpn,
    wqe::{AtomicOp, Datagram, Fault, FlushKind, SendOp, SendWqe},
};

/// `rxe_send_wqe` before its scatter list or inline data.
pub(crate) const SEND_HEADER: usize = 208;
/// `rxe_av` in an `rxe_send_wqe`.
pub(crate) const VECTOR: usize = 56;
/// `rxe_recv_wqe` before its scatter list.
pub(crate) const RECV_HEADER: usize = 40;
/// `rxe_sge`: address, length, lkey.
pub(crate) const SGE_LEN: usize = 16;
/// Fewer slots than this look full for ever to librxe before v39.
const MIN_SEND_SLOTS: u32 = 4;
/// Places for sends taken and not yet completed; the engine's window is not larger.
pub(crate) const SEND_PLACES: u32 = 256;
/// Receives are taken one at a time, and flushed one at a time.
const RECV_PLACES: u32 = 4;

/// Bytes of an atomic.
const WORD: u32 = 8;

const FENCE: u32 = 1;
const SIGNALED: u32 = 2;
const SOLICITED: u32 = 4;
pub(crate) const INLINE: u32 = 8;

/// One scatter entry.
#[derive(Clone, Copy, Default)]
struct Sge {
    addr: u64,
    len: u32,
    lkey: Key,
}

/// What is kept of a taken request.
#[derive(Clone, Copy, Default)]
struct Place {
    sges: usize,
    inline_len: Option<usize>,
    local: Option<Local>,
}

/// Bytes of requests taken, in places reused in turn.
pub(crate) struct Places {
    places: KVVec<Place>,
    sges: KVVec<Sge>,
    inline: KVVec<u8>,
    sges_each: usize,
    inline_each: usize,
    /// Taken and not completed.
    busy: u32,
    next: u32,
    count: u32,
}

impl Places {
    fn new(count: u32, sges_each: usize, inline_each: usize) -> Result<Self> {
        let slots = usize::try_from(count)?;
        let mut this = Self {
            places: KVVec::new(),
            sges: KVVec::new(),
            inline: KVVec::new(),
            sges_each,
            inline_each,
            busy: 0,
            next: 0,
            count,
        };
        this.places.resize(slots, Place::default(), GFP_KERNEL)?;
        this.sges.resize(slots * sges_each, Sge::default(), GFP_KERNEL)?;
        this.inline.resize(slots * inline_each, 0, GFP_KERNEL)?;
        Ok(this)
    }

    fn is_full(&self) -> bool {
        self.busy == self.count
    }

    /// The place for the next request.
    fn take(&mut self) -> u32 {
        let slot = self.next;
        self.next = (slot + 1) % self.count;
        self.busy += 1;
        slot
    }

    /// The oldest place is free again.
    fn complete(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    fn clear(&mut self) {
        self.busy = 0;
    }

    fn sges_mut(&mut self, slot: u32, count: usize) -> &mut [Sge] {
        let start = slot as usize * self.sges_each;
        self.sges.get_mut(start..start + count).unwrap_or(&mut [])
    }

    fn inline_mut(&mut self, slot: u32, len: usize) -> &mut [u8] {
        let start = slot as usize * self.inline_each;
        self.inline.get_mut(start..start + len).unwrap_or(&mut [])
    }

    /// Calls `each` with the parts of the scatter list under `offset..offset + len`: key, address, length.
    fn parts(
        &self,
        slot: u32,
        offset: u32,
        len: usize,
        mut each: impl FnMut(Key, u64, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let place = self.places.get(slot as usize).ok_or(Fault::LocalQpOp)?;
        let start = slot as usize * self.sges_each;
        let list = self.sges.get(start..start + place.sges).ok_or(Fault::LocalQpOp)?;
        let mut skip = offset as usize;
        let mut left = len;
        for sge in list {
            let size = sge.len as usize;
            if left == 0 {
                break;
            }
            if skip >= size {
                skip -= size;
                continue;
            }
            let part = left.min(size - skip);
            each(sge.lkey, sge.addr.wrapping_add(skip as u64), part)?;
            skip = 0;
            left -= part;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(Fault::LocalLength)
        }
    }

    /// Copies message bytes out of the user's buffers.
    fn gather(&self, slot: u32, offset: u32, to: &mut [u8], memory: Memory<'_>) -> Result<(), Fault> {
        let place = self.places.get(slot as usize).ok_or(Fault::LocalQpOp)?;
        if let Some(len) = place.inline_len {
            let start = slot as usize * self.inline_each;
            let data = self.inline.get(start..start + len).ok_or(Fault::LocalQpOp)?;
            let from = (offset as usize)
                .checked_add(to.len())
                .and_then(|end| data.get(offset as usize..end));
            to.copy_from_slice(from.ok_or(Fault::LocalLength)?);
            return Ok(());
        }
        let mut done = 0;
        self.parts(slot, offset, to.len(), |key, va, len| {
            let part = to.get_mut(done..done + len).ok_or(Fault::LocalLength)?;
            done += len;
            memory.read(key, va, part, Access::NONE)
        })
    }

    /// Copies message bytes into the user's buffers.
    fn scatter(&self, slot: u32, offset: u32, from: &[u8], memory: Memory<'_>) -> Result<(), Fault> {
        let mut done = 0;
        self.parts(slot, offset, from.len(), |key, va, len| {
            let part = from.get(done..done + len).ok_or(Fault::LocalLength)?;
            done += len;
            memory.write(key, va, part, Access::LOCAL_WRITE)
        })
    }
}

/// A send queue.
pub(crate) struct SendQueue {
    ring: Ring,
    places: Places,
    max_sge: usize,
    max_inline: usize,
    signal_all: bool,
    /// The address vectors of taken requests, on datagram queues.
    vectors: KVVec<Vector>,
    /// Next slot to take.
    taken: u32,
    /// Next slot to give back.
    consumer: u32,
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
        if *wr > context::MAX_WR || *sge > context::MAX_SGE || *inline > context::MAX_INLINE {
            return Err(EINVAL);
        }
        let room = (usize::try_from(*sge)? * SGE_LEN).max(usize::try_from(*inline)?);
        let room = room.div_ceil(SGE_LEN) * SGE_LEN;
        let (ring, mapping) = Ring::offered(udata, *wr, SEND_HEADER + room, MIN_SEND_SLOTS)?;
        let max_sge = room / SGE_LEN;
        let places = Places::new(ring.capacity().min(SEND_PLACES), max_sge, room)?;
        *wr = ring.capacity();
        *sge = u32::try_from(max_sge)?;
        *inline = u32::try_from(room)?;
        let queue = Self {
            ring,
            places,
            max_sge,
            max_inline: room,
            signal_all,
            vectors: KVVec::new(),
            taken: 0,
            consumer: 0,
        };
        Ok((queue, mapping))
    }

    /// The ring, for a kernel caller to post to.
    pub(crate) fn poster(&self) -> Poster {
        Poster::new(self.ring.share(), self.max_sge)
    }

    /// Keeps the address vectors of requests from now on.
    pub(crate) fn keep_vectors(&mut self) -> Result {
        self.vectors
            .resize(usize::try_from(self.places.count)?, Vector::default(), GFP_KERNEL)?;
        Ok(())
    }

    /// The address vector of a taken request.
    pub(crate) fn vector(&self, slot: u32) -> Option<Vector> {
        self.vectors.get(slot as usize).copied()
    }

    /// Most requests in flight at once.
    pub(crate) fn places(&self) -> u32 {
        self.places.count
    }

    /// The next request, copied and checked.
    pub(crate) fn take(&mut self) -> Option<SendWqe> {
        if self.places.is_full() || self.taken == self.ring.producer() {
            return None;
        }
        let from = self.taken;
        self.taken = self.ring.next(from);
        let slot = self.places.take();
        let mut raw = [0; SEND_HEADER];
        self.ring.read(from, 0, &mut raw);
        Some(self.snapshot(from, slot, &raw))
    }

    fn snapshot(&mut self, from: u32, slot: u32, raw: &[u8; SEND_HEADER]) -> SendWqe {
        let flags = u32_at(raw, 16);
        let is_inline = flags & INLINE != 0;
        let op = operation(raw);
        let kept = match op {
            None => Err(Fault::LocalQpOp),
            Some(SendOp::Read | SendOp::Atomic(_)) if is_inline => Err(Fault::LocalQpOp),
            Some(op) if op.is_local() => self.keep_local(slot, local(raw)),
            Some(SendOp::Flush(_)) => self.keep_local(slot, None).map(|_| u32_at(raw, 32)),
            Some(SendOp::AtomicWrite) => self.keep_inline(from, slot, WORD),
            Some(SendOp::Atomic(_)) => match self.keep_sges(from, slot, u32_at(raw, 196)) {
                Ok(len) if len < WORD => Err(Fault::LocalLength),
                kept => kept.map(|_| WORD),
            },
            Some(_) if is_inline => self.keep_inline(from, slot, u32_at(raw, 184)),
            Some(_) => self.keep_sges(from, slot, u32_at(raw, 196)),
        };
        let op = op.unwrap_or(SendOp::Send);
        let rkey_at = match op {
            SendOp::Atomic(_) => 48,
            SendOp::Flush(_) => 36,
            _ => 32,
        };
        if let Some(vector) = self.vectors.get_mut(slot as usize) {
            *vector = Vector::parse(&bytes_at(raw, VECTOR));
        }
        SendWqe {
            wr_id: u64_at(raw, 0),
            op,
            length: kept.unwrap_or(0),
            remote_va: u64_at(raw, 24),
            rkey: Key(u32_at(raw, rkey_at)),
            imm: bytes_at(raw, 20),
            signalled: self.signal_all || flags & SIGNALED != 0,
            solicited: flags & SOLICITED != 0,
            fence: flags & FENCE != 0,
            datagram: Datagram {
                dest: Qpn::new(u32_at(raw, 24)),
                qkey: u32_at(raw, 28),
                ah: u32_at(raw, 36),
            },
            slot,
            fault: kept.err(),
        }
    }

    fn keep_local(&mut self, slot: u32, local: Option<Local>) -> Result<u32, Fault> {
        if let Some(place) = self.places.places.get_mut(slot as usize) {
            *place = Place {
                local,
                ..Place::default()
            };
        }
        Ok(0)
    }

    fn keep_inline(&mut self, from: u32, slot: u32, len: u32) -> Result<u32, Fault> {
        let size = len as usize;
        if size > self.max_inline {
            return Err(Fault::LocalLength);
        }
        self.ring.read(from, SEND_HEADER, self.places.inline_mut(slot, size));
        if let Some(place) = self.places.places.get_mut(slot as usize) {
            *place = Place {
                sges: 0,
                inline_len: Some(size),
                local: None,
            };
        }
        Ok(len)
    }

    fn keep_sges(&mut self, from: u32, slot: u32, count: u32) -> Result<u32, Fault> {
        let count = count as usize;
        if count > self.max_sge {
            return Err(Fault::LocalQpOp);
        }
        let total = read_sges(&self.ring, from, SEND_HEADER, self.places.sges_mut(slot, count));
        if let Some(place) = self.places.places.get_mut(slot as usize) {
            *place = Place {
                sges: count,
                inline_len: None,
                local: None,
            };
        }
        message_len(total)
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
        self.places.clear();
        self.ring.publish_consumer(self.consumer);
    }

    /// Copies message bytes of a taken request.
    pub(crate) fn gather(&self, slot: u32, offset: u32, to: &mut [u8], memory: Memory<'_>) -> Result<(), Fault> {
        self.places.gather(slot, offset, to, memory)
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
        self.places.places.get(slot as usize)?.local
    }

    /// Copies bytes of a READ's answer to where the request wants them.
    pub(crate) fn scatter(&self, slot: u32, offset: u32, from: &[u8], memory: Memory<'_>) -> Result<(), Fault> {
        self.places.scatter(slot, offset, from, memory)
    }
}

/// What a request asks for, if we know it.
fn operation(raw: &[u8; SEND_HEADER]) -> Option<SendOp> {
    Some(match u32_at(raw, 12) {
        0 => SendOp::Write,
        1 => SendOp::WriteImm,
        2 => SendOp::Send,
        3 => SendOp::SendImm,
        4 => SendOp::Read,
        5 => SendOp::Atomic(AtomicOp::CompareSwap {
            compare: u64_at(raw, 32),
            swap: u64_at(raw, 40),
        }),
        6 => SendOp::Atomic(AtomicOp::FetchAdd { add: u64_at(raw, 32) }),
        7 => SendOp::LocalInvalidate,
        8 => SendOp::BindWindow,
        9 => SendOp::SendInvalidate {
            key: Key(u32_at(raw, 20)),
        },
        14 => {
            let [placement, level] = bytes_at(raw, 40);
            SendOp::Flush(FlushKind { placement, level })
        }
        15 => SendOp::AtomicWrite,
        _ => return None,
    })
}

/// The rest of a request that is carried out here.
fn local(raw: &[u8; SEND_HEADER]) -> Option<Local> {
    match u32_at(raw, 12) {
        7 => Some(Local::Invalidate(Key(u32_at(raw, 20)))),
        8 => Some(Local::Bind(Bind {
            base: u64_at(raw, 24),
            length: u64_at(raw, 32),
            region: Key(u32_at(raw, 40)),
            window: Key(u32_at(raw, 44)),
            new: Key(u32_at(raw, 48)),
            access: u32_at(raw, 52),
        })),
        _ => None,
    }
}

/// Copies a scatter list; the result is the sum of its lengths.
fn read_sges(ring: &Ring, slot: u32, at: usize, list: &mut [Sge]) -> u64 {
    let mut total = 0;
    for (index, sge) in list.iter_mut().enumerate() {
        let mut raw = [0; SGE_LEN];
        ring.read(slot, at + index * SGE_LEN, &mut raw);
        *sge = Sge {
            addr: u64_at(&raw, 0),
            len: u32_at(&raw, 8),
            lkey: Key(u32_at(&raw, 12)),
        };
        total += u64::from(sge.len);
    }
    total
}

fn message_len(total: u64) -> Result<u32, Fault> {
    match u32::try_from(total) {
        Ok(len) if len <= MAX_MESSAGE_LEN => Ok(len),
        _ => Err(Fault::LocalLength),
    }
}

pub(crate) fn bytes_at<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; N])
}

pub(crate) fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(raw, at))
}

pub(crate) fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes_at(raw, at))
}
