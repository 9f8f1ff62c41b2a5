// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Responder resources: the READs of the peer, answered and kept to be answered again. IBTA 9.7.4.1.
//!
//! Responses leave in PSN order, whatever the order in which parts are asked for again.

use super::Refusal;
use crate::counters::Counters;
use crate::keys::{Access, Key};
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::psn::Psn;
use crate::qp::{Qp, Storage};
use crate::wire::{Packet, Reth, Syndrome};
use crate::wqe::{Host, Source, Transmit};

/// One responder resource: a READ that may be asked for again. Opaque to the caller, who supplies
/// the memory.
#[derive(Clone, Copy, Debug)]
pub struct ReadSlot {
    first: Psn,
    packets: u32,
    reth: Reth,
    /// What is still to be sent of the newest request for it.
    rest: Reth,
    /// PSN of the next response packet.
    next: Psn,
    /// Response packets still to be sent.
    left: u32,
    /// The next response packet starts the response.
    starts: bool,
    /// The response to the first request for it has been sent whole.
    answered: bool,
}

impl ReadSlot {
    /// A slot that holds nothing.
    pub const EMPTY: Self = Self {
        first: Psn::new(0),
        packets: 0,
        reth: Reth {
            va: 0,
            rkey: Key(0),
            length: 0,
        },
        rest: Reth {
            va: 0,
            rkey: Key(0),
            length: 0,
        },
        next: Psn::new(0),
        left: 0,
        starts: false,
        answered: false,
    };
}

impl Default for ReadSlot {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// READs in PSN order, oldest first; `scan` is the first that may have responses to send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reads {
    head: usize,
    len: usize,
    scan: usize,
}

impl<S: Storage> Qp<S> {
    /// A READ request: remember it, its responses are polled out.
    pub(super) fn read(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        let reth = packet.reth.ok_or(Refusal::INVALID)?;
        let resources = usize::from(self.attrs.max_dest_rd_atomic);
        if !self.attrs.access.allows(Access::REMOTE_READ)
            || reth.length > limits::MAX_MESSAGE_LEN
            || packet.payload.len != 0
            || resources == 0
        {
            return Err(Refusal::INVALID);
        }
        if reth.length > 0 {
            host.check(reth.rkey, reth.va, reth.length, Access::REMOTE_READ)
                .map_err(|fault| Refusal::fault(fault, None))?;
        }
        let slots = self.storage.reads_mut();
        let reads = &mut self.responder.reads;
        if reads.len >= resources {
            // A peer that keeps to the limit has the response of the oldest.
            if reads.at(slots, 0).is_none_or(|oldest| !oldest.answered) {
                return Err(Refusal::INVALID);
            }
            reads.forget_oldest(slots);
        }
        let packets = self.attrs.path_mtu.packets(reth.length);
        reads.push(
            slots,
            ReadSlot {
                first: packet.bth.psn,
                packets,
                reth,
                rest: reth,
                next: packet.bth.psn,
                left: packets,
                starts: true,
                answered: false,
            },
        );
        self.responder.on_expected(packet.bth.psn.plus(packets), true);
        Ok(())
    }

    /// A duplicate READ request: send the asked part again, if it is one. IBTA C9-106 ff.
    pub(super) fn read_again(&mut self, psn: Psn, reth: &Reth) {
        let mtu = self.attrs.path_mtu;
        let slots = self.storage.reads_mut();
        let reads = &mut self.responder.reads;
        // The newest are asked again most; the ring holds at most `MAX_RD_ATOMIC`.
        for index in (0..reads.len).rev() {
            let Some(slot) = reads.at_mut(slots, index) else { break };
            let skipped = psn.distance(slot.first);
            if skipped >= slot.packets {
                continue;
            }
            let offset = reth.va.wrapping_sub(slot.reth.va);
            let inside = offset
                .checked_add(u64::from(reth.length))
                .is_some_and(|end| end <= u64::from(slot.reth.length));
            let packets = mtu.packets(reth.length);
            if reth.rkey != slot.reth.rkey || !inside || packets > slot.packets.saturating_sub(skipped) {
                break;
            }
            slot.rest = *reth;
            slot.next = psn;
            slot.left = packets;
            slot.starts = true;
            reads.scan = reads.scan.min(index);
            return;
        }
        Counters::bump(&mut self.counters.dropped);
    }

    /// The next packet of the oldest READ that has responses to send.
    pub(crate) fn poll_read_response(&mut self) -> Option<Transmit> {
        let (index, psn) = self.next_read()?;
        let mtu = self.attrs.path_mtu;
        let reads = &mut self.responder.reads;
        let slot = reads.at_mut(self.storage.reads_mut(), index)?;
        let len = slot.rest.length.min(mtu.bytes());
        let Reth { va, rkey, .. } = slot.rest;
        slot.left = slot.left.saturating_sub(1);
        let ends = slot.left == 0;
        let opcode = Opcode::ReadResponse {
            place: Place::of(slot.starts, ends),
        };
        slot.starts = false;
        slot.answered |= ends;
        slot.next = psn.next();
        slot.rest.va = va.wrapping_add(u64::from(len));
        slot.rest.length = slot.rest.length.saturating_sub(len);
        let pad = (len.wrapping_neg() & 3) as u8;
        let header = self.response_header(opcode, psn, pad, Syndrome::ACK);
        let payload = match len {
            0 => Source::None,
            _ => Source::Region { rkey, va, len },
        };
        Some(Transmit {
            header,
            payload,
            pad,
            psn,
            route: None,
        })
    }

    /// Index and next PSN of the oldest READ that has responses to send.
    pub(super) fn next_read(&mut self) -> Option<(usize, Psn)> {
        // In ERR only a responder with a last word is not silenced, and silence forgets the READs.
        self.responder.reads.next_pending(self.storage.reads())
    }
}

impl Reads {
    fn at<'a>(&self, slots: &'a [ReadSlot], index: usize) -> Option<&'a ReadSlot> {
        slots.get(self.position(slots.len(), index))
    }

    fn at_mut<'a>(&self, slots: &'a mut [ReadSlot], index: usize) -> Option<&'a mut ReadSlot> {
        let position = self.position(slots.len(), index);
        slots.get_mut(position)
    }

    fn push(&mut self, slots: &mut [ReadSlot], slot: ReadSlot) {
        if let Some(place) = self.at_mut(slots, self.len) {
            *place = slot;
            self.len = self.len.wrapping_add(1);
        }
    }

    /// The oldest READ from `scan` on that has responses to send; `scan` remembers where it was found.
    fn next_pending(&mut self, slots: &[ReadSlot]) -> Option<(usize, Psn)> {
        while self.scan < self.len {
            let slot = self.at(slots, self.scan)?;
            if slot.left > 0 {
                return Some((self.scan, slot.next));
            }
            self.scan = self.scan.wrapping_add(1);
        }
        None
    }

    fn forget_oldest(&mut self, slots: &[ReadSlot]) {
        self.head = self.position(slots.len(), 1);
        self.len = self.len.saturating_sub(1);
        self.scan = self.scan.saturating_sub(1);
    }

    fn position(&self, capacity: usize, index: usize) -> usize {
        let position = self.head.wrapping_add(index);
        if position >= capacity {
            position.wrapping_sub(capacity)
        } else {
            position
        }
    }
}
