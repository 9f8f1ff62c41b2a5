// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work requests of kernel callers.
//!
//! They go into a ring of the same form as user space's, so there is one way of taking them. Posting may happen with
//! interrupts off and under the caller's locks: it writes the ring and kicks the QP's timer, and everything else
//! happens in that softirq.

use crate::kapi::{kernel_memory::Inline, queue::Ring};
use kernel::prelude::*;
use roce::{
    abi::{recv_header, Destination, SendHeader, Sge, SGE_LEN},
    keys::Key,
};
use usb4_bindings as c;

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
        let entries = match &send.data {
            Data::Named(entries) => entries,
            Data::Inline(inline) => inline.entries(),
        };
        let length = entries.iter().map(|sge| u64::from(sge.length)).sum::<u64>();
        let header = SendHeader {
            wr_id: send.wr_id,
            opcode: send.opcode,
            flags: send.flags,
            ex: send.ex,
            to: send.to,
            length: u32::try_from(length).map_err(|_| EINVAL)?,
            sges: u32::try_from(entries.len())?,
        };
        let raw = header.bytes();
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
        let raw = recv_header(wr_id, u32::try_from(sges.len())?);
        self.post(&raw, sges)
    }

    fn post(&mut self, header: &[u8], sges: &[c::ib_sge]) -> Result {
        if sges.len() > self.max_sge {
            return Err(EINVAL);
        }
        let next = self.room()?;
        self.ring.write(self.producer, 0, header);
        for (index, sge) in sges.iter().enumerate() {
            let entry = Sge {
                addr: sge.addr,
                len: sge.length,
                lkey: Key(sge.lkey),
            };
            let at = header.len() + index * SGE_LEN;
            self.ring.write(self.producer, at, &entry.bytes());
        }
        self.publish(next);
        Ok(())
    }
}
