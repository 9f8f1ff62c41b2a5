// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Requests with an answer of their own: READs, atomics and their like, carried out, answered, and kept
//! ([`crate::resources`]) to be answered again. IBTA 9.7.4.1. A READ is read again, an atomic is never carried out
//! again.
//!
//! Responses leave in PSN order, whatever the order in which parts are asked for again.

use super::Refusal;
use crate::counters::Counters;
use crate::keys::Access;
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::psn::Psn;
use crate::qp::{Qp, Storage};
use crate::resources::{Kind, ReadSlot};
use crate::wire::{Packet, Reth, Syndrome};
use crate::wqe::{AtomicOp, Host, Room, Source, Transmit};

impl<S: Storage> Qp<S> {
    /// A READ request: remember it, its responses are polled out.
    pub(super) fn read(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        let reth = packet.reth.ok_or(Refusal::INVALID)?;
        if !self.attrs.access.allows(Access::REMOTE_READ)
            || reth.length > limits::MAX_MESSAGE_LEN
            || packet.payload.len != 0
        {
            return Err(Refusal::INVALID);
        }
        if reth.length > 0 {
            host.check(reth.rkey, reth.va, reth.length, Access::REMOTE_READ)
                .map_err(|fault| Refusal::fault(fault, None))?;
        }
        self.make_room()?;
        self.keep(
            packet.bth.psn,
            self.attrs.path_mtu.packets(reth.length),
            reth,
            Kind::Read,
        );
        Ok(())
    }

    /// An atomic: carry it out and remember what to answer.
    pub(super) fn atomic(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        let operands = packet.atomic.ok_or(Refusal::INVALID)?;
        if !self.attrs.access.allows(Access::REMOTE_ATOMIC) || packet.payload.len != 0 || !is_aligned(operands.va) {
            return Err(Refusal::INVALID);
        }
        self.make_room()?;
        let op = match packet.opcode {
            Opcode::CompareSwap => AtomicOp::CompareSwap {
                compare: operands.compare,
                swap: operands.swap_add,
            },
            _ => AtomicOp::FetchAdd { add: operands.swap_add },
        };
        let original = host
            .atomic(op, operands.rkey, operands.va)
            .map_err(|fault| Refusal::fault(fault, None))?;
        let target = Reth {
            va: operands.va,
            rkey: operands.rkey,
            length: 0,
        };
        self.keep(packet.bth.psn, 1, target, Kind::Atomic(original));
        Ok(())
    }

    /// An ATOMIC WRITE.
    pub(super) fn atomic_write(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        let reth = packet.reth.ok_or(Refusal::INVALID)?;
        if !self.attrs.access.allows(Access::REMOTE_WRITE)
            || reth.length != limits::ATOMIC_LEN
            || packet.payload.len != limits::ATOMIC_LEN
            || !is_aligned(reth.va)
        {
            return Err(Refusal::INVALID);
        }
        self.make_room()?;
        host.atomic_write(reth.rkey, reth.va, packet.payload)
            .map_err(|fault| Refusal::fault(fault, None))?;
        self.keep(packet.bth.psn, 1, Reth { length: 0, ..reth }, Kind::Empty);
        Ok(())
    }

    /// A FLUSH.
    pub(super) fn flush(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        let reth = packet.reth.ok_or(Refusal::INVALID)?;
        let kind = packet.flush.ok_or(Refusal::INVALID)?;
        let rights = match kind.placement {
            1 => Access::FLUSH_GLOBAL,
            2 => Access::FLUSH_PERSISTENT,
            3 => Access::FLUSH_GLOBAL.with(Access::FLUSH_PERSISTENT),
            _ => return Err(Refusal::INVALID),
        };
        if !self.attrs.access.allows(rights) || packet.payload.len != 0 || kind.level > 1 {
            return Err(Refusal::INVALID);
        }
        self.make_room()?;
        host.flush(reth.rkey, reth.va, reth.length, kind)
            .map_err(|fault| Refusal::fault(fault, None))?;
        self.keep(packet.bth.psn, 1, Reth { length: 0, ..reth }, Kind::Empty);
        Ok(())
    }

    /// A resource for the request at hand, before it is carried out.
    fn make_room(&mut self) -> Result<(), Refusal> {
        let resources = usize::from(self.attrs.max_dest_rd_atomic);
        if resources == 0 {
            return Err(Refusal::INVALID);
        }
        let slots = self.storage.reads();
        let reads = &mut self.responder.reads;
        if reads.len() >= resources {
            // A peer that keeps to the limit has the response of the oldest.
            if reads.at(slots, 0).is_none_or(|oldest| !oldest.answered) {
                return Err(Refusal::INVALID);
            }
            reads.forget_oldest(slots);
        }
        Ok(())
    }

    /// Remember a request that was carried out; its responses are polled out.
    fn keep(&mut self, psn: Psn, packets: u32, reth: Reth, kind: Kind) {
        self.responder.reads.push(
            self.storage.reads_mut(),
            ReadSlot {
                first: psn,
                packets,
                kind,
                reth,
                rest: reth,
                next: psn,
                left: packets,
                starts: true,
                again: false,
                answered: false,
            },
        );
        self.responder.on_expected(psn.plus(packets), true);
    }

    /// A duplicate of a request with an answer of its own: send the answer again, of a READ the part
    /// asked for. IBTA C9-106 ff.
    pub(super) fn answer_again(&mut self, packet: &Packet) {
        let psn = packet.bth.psn;
        let reth = match (packet.reth, packet.atomic) {
            (Some(reth), _) if packet.opcode == Opcode::ReadRequest => reth,
            (Some(reth), _) => Reth { length: 0, ..reth },
            (None, Some(operands)) => Reth {
                va: operands.va,
                rkey: operands.rkey,
                length: 0,
            },
            (None, None) => return Counters::bump(&mut self.counters.dropped),
        };
        let mtu = self.attrs.path_mtu;
        let slots = self.storage.reads_mut();
        let reads = &mut self.responder.reads;
        // The newest are asked again most; the ring holds at most `MAX_RD_ATOMIC`.
        for index in (0..reads.len()).rev() {
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
            let same = match slot.kind {
                Kind::Read => packet.opcode == Opcode::ReadRequest,
                Kind::Atomic(_) => packet.opcode.has_atomic(),
                Kind::Empty => matches!(packet.opcode, Opcode::AtomicWrite | Opcode::Flush),
            };
            if !same || reth.rkey != slot.reth.rkey || !inside || packets > slot.packets.saturating_sub(skipped) {
                break;
            }
            slot.rest = reth;
            slot.next = psn;
            slot.left = packets;
            slot.starts = true;
            slot.again = true;
            reads.rewind(index);
            return;
        }
        Counters::bump(&mut self.counters.dropped);
    }

    /// The next packet, or run of as many as have room, of the oldest request that has responses to send.
    pub(crate) fn poll_read_response(&mut self, room: Room) -> Option<Transmit> {
        if self.responder.wait_until.is_some() {
            return None;
        }
        if let Some(again) = self.lost_response(room) {
            return Some(again);
        }
        let (index, psn) = self.next_read()?;
        let mtu = self.attrs.path_mtu;
        let reads = &mut self.responder.reads;
        let slot = reads.at_mut(self.storage.reads_mut(), index)?;
        let most = if slot.again {
            limits::MAX_RUN_AGAIN
        } else {
            limits::MAX_RUN
        };
        let packets = room.packets_of(mtu).min(slot.left).min(most);
        let len = slot.rest.length.min(mtu.bytes_of(packets));
        let part = Reth {
            length: len,
            ..slot.rest
        };
        slot.left = slot.left.saturating_sub(packets);
        let ends = slot.left == 0;
        let (kind, place) = (slot.kind, Place::of(slot.starts, ends));
        slot.starts = false;
        slot.answered |= ends;
        slot.next = psn.plus(packets);
        slot.rest.va = slot.rest.va.wrapping_add(u64::from(len));
        slot.rest.length = slot.rest.length.saturating_sub(len);
        Some(self.response(kind, (psn, packets), place, part))
    }

    /// The response of so many packets from `psn` on, which brings `part` of the region.
    pub(crate) fn response(&mut self, kind: Kind, (psn, packets): (Psn, u32), place: Place, part: Reth) -> Transmit {
        let opcode = match kind {
            Kind::Atomic(_) => Opcode::AtomicResponse,
            Kind::Read | Kind::Empty => Opcode::ReadResponse { place },
        };
        let Reth { va, rkey, length: len } = part;
        let pad = (len.wrapping_neg() & 3) as u8;
        let mut header = self.response_header(opcode, psn, pad, Syndrome::ACK);
        if let Kind::Atomic(original) = kind {
            header.push(&original.to_be_bytes());
        }
        let payload = match len {
            0 => Source::None,
            _ => Source::Region { rkey, va, len },
        };
        Transmit {
            header,
            payload,
            pad,
            psn,
            packets,
            route: None,
        }
    }

    /// Packets of responses to send; counting ends where they are many.
    pub(super) fn waiting_responses(&mut self) -> u32 {
        if self.next_read().is_none() {
            return 0;
        }
        self.responder.reads.waiting(self.storage.reads())
    }

    /// Index and next PSN of the oldest request that has responses to send.
    pub(super) fn next_read(&mut self) -> Option<(usize, Psn)> {
        // In ERR only a responder with a last word is not silenced, and silence forgets the READs.
        self.responder.reads.next_pending(self.storage.reads())
    }
}

/// Whether an atomic may act on `va`.
const fn is_aligned(va: u64) -> bool {
    va & 7 == 0
}
