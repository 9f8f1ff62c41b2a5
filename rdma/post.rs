// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work requests of kernel callers.
//!
//! They go into a ring of the same form as user space's, so there is one way of taking them. Posting may happen with
//! interrupts off and under the caller's locks: it writes the ring and kicks the QP's timer, and everything else
//! happens in that softirq.

use crate::{
    ah::Vector,
    kapi::{kernel_memory::Inline, queue::Ring},
};
use kernel::prelude::*;
use roce::abi::{RECV_HEADER, SEND_HEADER, SEND_LENGTH, SGE_LEN, VECTOR};
use usb4_bindings as c;

/// Where a send of the kernel's goes.
pub(crate) enum Destination {
    /// To the peer as a message.
    Peer,
    /// To the peer's memory.
    Remote { va: u64, rkey: u32 },
    /// To eight bytes of the peer's memory.
    Atomic {
        va: u64,
        compare_add: u64,
        swap: u64,
        rkey: u32,
    },
    /// To this host alone: memory is put under a key.
    Register {
        key: u32,
        base: u64,
        length: u64,
        access: u32,
    },
    /// As a datagram.
    Datagram { qpn: u32, qkey: u32, vector: Vector },
}

/// What a send of the kernel's carries.
pub(crate) enum Data<'a> {
    /// What its entries name by keys.
    Named(&'a [c::ib_sge]),
    /// Bytes that the caller may use again at once.
    Inline(Inline<'a>),
}

/// A send of the kernel's.
pub(crate) struct Send<'a> {
    pub(crate) wr_id: u64,
    pub(crate) opcode: u32,
    pub(crate) flags: u32,
    /// Immediate data, or the key to invalidate.
    pub(crate) ex: [u8; 4],
    pub(crate) to: Destination,
    pub(crate) data: Data<'a>,
}

/// The kernel caller's side of a work queue.
pub(crate) struct Poster {
    ring: Ring,
    max_sge: usize,
    max_inline: usize,
    producer: u32,
}

impl Poster {
    /// For an empty ring, and requests of `max_sge` entries or `max_inline` bytes.
    pub(crate) fn new(ring: Ring, max_sge: usize, max_inline: usize) -> Self {
        Self {
            ring,
            max_sge,
            max_inline,
            producer: 0,
        }
    }

    /// Posts a send.
    pub(crate) fn send(&mut self, send: &Send<'_>) -> Result {
        let mut raw = [0; SEND_HEADER];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = raw.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &send.wr_id.to_ne_bytes());
        put(12, &send.opcode.to_ne_bytes());
        put(16, &send.flags.to_ne_bytes());
        put(20, &send.ex);
        match &send.to {
            Destination::Peer => {}
            Destination::Remote { va, rkey } => {
                put(24, &va.to_ne_bytes());
                put(32, &rkey.to_ne_bytes());
            }
            Destination::Atomic {
                va,
                compare_add,
                swap,
                rkey,
            } => {
                put(24, &va.to_ne_bytes());
                put(32, &compare_add.to_ne_bytes());
                put(40, &swap.to_ne_bytes());
                put(48, &rkey.to_ne_bytes());
            }
            Destination::Register {
                key,
                base,
                length,
                access,
            } => {
                put(20, &key.to_ne_bytes());
                put(24, &base.to_ne_bytes());
                put(32, &length.to_ne_bytes());
                put(52, &access.to_ne_bytes());
            }
            Destination::Datagram { qpn, qkey, vector } => {
                put(24, &qpn.to_ne_bytes());
                put(28, &qkey.to_ne_bytes());
                put(VECTOR, &vector.bytes());
            }
        }
        let entries = match &send.data {
            Data::Named(entries) => entries,
            Data::Inline(inline) => inline.entries(),
        };
        let length = entries.iter().map(|sge| u64::from(sge.length)).sum::<u64>();
        put(SEND_LENGTH, &u32::try_from(length).map_err(|_| EINVAL)?.to_ne_bytes());
        put(196, &u32::try_from(entries.len())?.to_ne_bytes());
        match &send.data {
            Data::Named(entries) => self.post(&raw, entries),
            Data::Inline(inline) => self.post_inline(&raw, usize::try_from(length)?, inline),
        }
    }

    /// Posts a send with the bytes that it brings.
    fn post_inline(&mut self, header: &[u8], length: usize, inline: &Inline<'_>) -> Result {
        if length > self.max_inline {
            return Err(EINVAL);
        }
        let next = self.room()?;
        self.ring.write(self.producer, 0, header);
        let mut at = header.len();
        inline.pieces(|piece| {
            self.ring.write(self.producer, at, piece);
            at += piece.len();
        })?;
        self.publish(next);
        Ok(())
    }

    /// The producer's index after the next request, if there is room for it.
    fn room(&self) -> Result<u32> {
        let next = self.ring.next(self.producer);
        if next == self.ring.consumer() {
            return Err(ENOMEM);
        }
        Ok(next)
    }

    fn publish(&mut self, next: u32) {
        self.producer = next;
        self.ring.publish_producer(next);
    }

    /// Posts a receive.
    pub(crate) fn recv(&mut self, wr_id: u64, sges: &[c::ib_sge]) -> Result {
        let mut raw = [0; RECV_HEADER];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = raw.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &wr_id.to_ne_bytes());
        put(28, &u32::try_from(sges.len())?.to_ne_bytes());
        self.post(&raw, sges)
    }

    fn post(&mut self, header: &[u8], sges: &[c::ib_sge]) -> Result {
        if sges.len() > self.max_sge {
            return Err(EINVAL);
        }
        let next = self.room()?;
        self.ring.write(self.producer, 0, header);
        for (index, sge) in sges.iter().enumerate() {
            let mut raw = [0; SGE_LEN];
            let (addr, rest) = raw.split_at_mut(8);
            addr.copy_from_slice(&sge.addr.to_ne_bytes());
            let (length, lkey) = rest.split_at_mut(4);
            length.copy_from_slice(&sge.length.to_ne_bytes());
            lkey.copy_from_slice(&sge.lkey.to_ne_bytes());
            self.ring.write(self.producer, header.len() + index * SGE_LEN, &raw);
        }
        self.publish(next);
        Ok(())
    }
}
