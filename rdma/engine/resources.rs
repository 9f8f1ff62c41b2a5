// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The ring of responder resources: requests that the peer may ask for again, in PSN order. IBTA 9.7.4.1.
//!
//! A ring over the caller's slots; all index arithmetic of it is here.

use crate::keys::Key;
use crate::limits;
use crate::opcode::Opcode;
use crate::psn::Psn;
use crate::wire::Reth;
use crate::wqe::{Source, Transmit};

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// READ: by data.
    Read,
    /// Atomic: by the value there was before.
    Atomic(u64),
    /// ATOMIC WRITE and FLUSH: by an empty READ response.
    Empty,
}

/// One responder resource: a request that may be asked for again. Opaque to the caller, who supplies
/// the memory.
#[derive(Clone, Copy, Debug)]
pub struct ReadSlot {
    pub(crate) first: Psn,
    pub(crate) packets: u32,
    pub(crate) kind: Kind,
    pub(crate) reth: Reth,
    /// What is still to be sent of the newest request for it.
    pub(crate) rest: Reth,
    /// PSN of the next response packet.
    pub(crate) next: Psn,
    /// Response packets still to be sent.
    pub(crate) left: u32,
    /// The next response packet starts the response.
    pub(crate) starts: bool,
    /// It has been asked for again.
    pub(crate) again: bool,
    /// The response to the first request for it has been sent whole.
    pub(crate) answered: bool,
}

impl ReadSlot {
    /// A slot that holds nothing.
    pub const EMPTY: Self = Self {
        first: Psn::new(0),
        packets: 0,
        kind: Kind::Read,
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
        again: false,
        answered: false,
    };
}

impl Default for ReadSlot {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Resources in PSN order, oldest first; `scan` is the first that may have responses to send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    head: usize,
    len: usize,
    scan: usize,
}

impl Reads {
    /// Requests that are kept.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The request at `index`, counted from the oldest.
    pub(crate) fn at<'a>(&self, slots: &'a [ReadSlot], index: usize) -> Option<&'a ReadSlot> {
        slots.get(self.position(slots.len(), index))
    }

    /// As [`Reads::at`].
    pub(crate) fn at_mut<'a>(&self, slots: &'a mut [ReadSlot], index: usize) -> Option<&'a mut ReadSlot> {
        let position = self.position(slots.len(), index);
        slots.get_mut(position)
    }

    /// Keep one more; the caller has made room.
    pub(crate) fn push(&mut self, slots: &mut [ReadSlot], slot: ReadSlot) {
        if let Some(place) = self.at_mut(slots, self.len) {
            *place = slot;
            self.len = self.len.wrapping_add(1);
        }
    }

    /// Whether any may have responses to send.
    pub(crate) const fn may_be_pending(&self) -> bool {
        self.scan < self.len
    }

    /// The oldest request from `scan` on that has responses to send; `scan` remembers where it was found.
    pub(crate) fn next_pending(&mut self, slots: &[ReadSlot]) -> Option<(usize, Psn)> {
        while self.scan < self.len {
            let slot = self.at(slots, self.scan)?;
            if slot.left > 0 {
                return Some((self.scan, slot.next));
            }
            self.scan = self.scan.wrapping_add(1);
        }
        None
    }

    /// The request at `index` has responses to send again.
    pub(crate) fn rewind(&mut self, index: usize) {
        self.scan = self.scan.min(index);
    }

    /// Packets of responses to send; counting ends where they are many.
    pub(crate) fn waiting(&self, slots: &[ReadSlot]) -> u32 {
        let mut waiting = 0_u32;
        for index in self.scan..self.len {
            let left = self.at(slots, index).map_or(0, |slot| slot.left);
            waiting = waiting.saturating_add(left);
            if waiting >= limits::MAX_HELD_RESPONSES {
                break;
            }
        }
        waiting
    }

    /// The response packet `transmit`, polled last, is still to be sent. False if it was not one in its turn.
    pub(crate) fn take_back(&mut self, slots: &mut [ReadSlot], transmit: &Transmit, opcode: Opcode) -> bool {
        // The packet polled last is of the request where looking ended.
        let Some(slot) = self.at_mut(slots, self.scan) else {
            return false;
        };
        let inside = transmit.psn.distance(slot.first) < slot.packets;
        if !inside || slot.next != transmit.psn.plus(transmit.packets) {
            return false;
        }
        if let Source::Region { va, len, .. } = transmit.payload {
            slot.rest.va = va;
            slot.rest.length = slot.rest.length.wrapping_add(len);
        }
        slot.next = transmit.psn;
        slot.left = slot.left.wrapping_add(transmit.packets);
        slot.starts = match opcode {
            Opcode::ReadResponse { place } => place.starts(),
            _ => true,
        };
        true
    }

    /// Nothing is to be sent until it is asked for again.
    pub(crate) fn give_up(&mut self, slots: &mut [ReadSlot]) {
        for index in 0..self.len {
            if let Some(slot) = self.at_mut(slots, index) {
                slot.left = 0;
            }
        }
        self.scan = self.len;
    }

    /// Forget the oldest request.
    pub(crate) fn forget_oldest(&mut self, slots: &[ReadSlot]) {
        self.head = self.position(slots.len(), 1);
        self.len = self.len.saturating_sub(1);
        self.scan = self.scan.saturating_sub(1);
    }

    /// Copy what is remembered from one ring to a longer one.
    pub(crate) fn move_to(&mut self, from: &[ReadSlot], to: &mut [ReadSlot]) {
        for (index, place) in (0..self.len).zip(to) {
            if let Some(slot) = self.at(from, index) {
                *place = *slot;
            }
        }
        self.head = 0;
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
