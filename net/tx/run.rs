// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A train of the lane's client: from a run of its packets to frames.
//!
//! ```text
//!   headers -> slot (head frame, last)    payload -> page frames, read by the DMA where they are
//!                                         or -> copied: behind the headers, or into slots of their own
//! ```

use super::{Mode, Owner, Tx};
use crate::{
    client::{Held, NotSent, Outbound},
    counters::TxCounters,
    kapi::pages::Mapping,
};
use kernel::prelude::*;
use tbip::{
    cut::cut_run,
    frame::{self, Account, Header, Kind, Roce, Seq},
    limits::{MAX_FRAME, MAX_PAGES, MAX_TRAIN},
    time::Instant,
    train::Train,
};

impl Tx {
    /// Posts a train of the client; the hardware is told of it by [`Self::doorbell`]. `credit`, and what we `have` of
    /// the peer's trains, go along. `copy` copies payload from an offset.
    pub(crate) fn send_train<E>(
        &mut self,
        out: &Outbound<'_>,
        held: Option<KBox<dyn Held>>,
        (credit, have): (Seq, Seq),
        mut copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
        counters: &mut TxCounters,
    ) -> Result<(), NotSent<E>> {
        let (inline, pages) = cut_run(out.payload, out.pieces.len());
        let frames = pages + 1;
        let fixed = out.meta.wire_len();
        let body = fixed + out.front.len() + inline;
        if !self.takes_pages(pages) || body > frame::MAX_INLINE || self.ring.room() < frames || self.credit() < frames {
            return Err(NotSent::Busy);
        }
        // All that can fail comes first: a sequence once taken must be sent.
        let mut mappings = [const { None::<Mapping> }; MAX_PAGES];
        for (to, piece) in mappings.iter_mut().zip(out.pieces) {
            *to = piece.map(self.dma);
            if to.is_none() {
                counters.map_errors += 1;
                return Err(NotSent::Busy);
            }
        }
        let head = self.slot_after(self.next, pages);
        if let Some((headers, payload)) = self.slots.bytes(head).get_mut(Header::LEN + fixed..).and_then(|rest| {
            let rest = rest.get_mut(..out.front.len() + inline)?;
            rest.split_at_mut_checked(out.front.len())
        }) {
            headers.copy_from_slice(out.front);
            if inline != 0 {
                copy(0, payload).map_err(NotSent::Uncopied)?;
            }
        }
        let copied = out.pieces.is_empty();
        for (index, at) in (inline..out.payload).step_by(MAX_FRAME).enumerate().filter(|_| copied) {
            let slot = self.slot_after(self.next, index);
            let len = (out.payload - at).min(MAX_FRAME);
            if let Some(to) = self.slots.bytes(slot).get_mut(..len) {
                copy(at, to).map_err(NotSent::Uncopied)?;
            }
        }
        let Mode::Native {
            spender, shown, ledger, ..
        } = &mut self.mode
        else {
            return Err(NotSent::Busy);
        };
        ledger.handle_untold(spender.next());
        let floor = ledger.floor();
        let Some(first) = spender.take(Instant(0), frames as u32) else {
            return Err(NotSent::Busy);
        };
        *shown = credit;
        let page_bytes = (out.payload - inline) as u32;
        let train = Train::new(Kind::Roce, first, body as u16, pages as u8, page_bytes, credit);
        let mut kept = |token| ledger.handle_sent(Instant(out.now), first, train.header.seq, token);
        let meta = Roce {
            account: out
                .token
                .filter(|token| kept(*token))
                .map(|_| Account { floor, carried: have }),
            ..out.meta
        };
        if let Some((header, rest)) = self.slots.bytes(head).split_first_chunk_mut::<{ Header::LEN }>() {
            *header = train.header.bytes();
            if let Some((to, rest)) = rest.split_first_chunk_mut::<{ Roce::LEN }>() {
                *to = meta.bytes();
                if let (Some(window), Some(to)) = (&meta.window, rest.first_chunk_mut()) {
                    *to = window.bytes();
                }
            }
        }
        for index in 0..pages {
            let eof = train.page_eof(index as u8);
            let (address, len, owner) = match (out.pieces.get(index), mappings.get_mut(index).and_then(Option::take)) {
                (Some(piece), Some(mapping)) => (mapping.address(), piece.len(), Owner::Fragment(mapping)),
                _ => {
                    let len = (out.payload - inline - index * MAX_FRAME).min(MAX_FRAME);
                    (self.slots.ready(self.next, len), len, Owner::Nothing)
                }
            };
            let _ = self.post(address, len, eof, false, owner);
        }
        let bytes = out.front.len() + out.payload;
        let zerocopy = if copied { 0 } else { out.payload };
        counters.trains += 1;
        counters.train_bytes += (bytes + out.meta.window.map_or(0, |window| window.byte_len())) as u64;
        counters.copied += (bytes - zerocopy) as u64;
        counters.zerocopy += zerocopy as u64;
        counters.frames += frames as u64;
        self.held += usize::from(held.is_some());
        self.share.handle_posted(frames);
        // The client waits after this train, or the queue would: one descriptor more goes with the head.
        let waits = !self.has_train_room() || self.ring.room() <= MAX_TRAIN;
        let interrupt = self.reaper.handle_packet(bytes, waits);
        counters.interrupts += u64::from(interrupt);
        let len = Header::LEN + body;
        let address = self.slots.ready(head, len);
        let owner = Owner::Train {
            frames: frames as u16,
            held,
        };
        let _ = self.post(address, len, frame::EOF_HEAD, interrupt, owner);
        Ok(())
    }
}
