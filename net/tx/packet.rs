// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A packet of the stack: from an skb to frames.
//!
//! ```text
//!   native   headers -> slot (head frame, last)       fragments -> page frames, read by the DMA where they are
//!   stock    all bytes -> slots, 4084 behind each header, summed on the way
//! ```

use super::{Mode, Owner, Refused, Tx};
use crate::{
    counters::TxCounters,
    kapi::{
        netdev::Netdev,
        pages::Mapping,
        skb::{Sum, TxSkb, TxView},
    },
};
use tbip::{
    cut::{cut, pieces, Cut},
    frame::{self, Checksum, Eth, Header, Kind, Seq},
    limits::{MAX_FRAME, MAX_PAGES, MAX_SUPER_PACKET, MAX_TRAIN},
    stock::{self, frame::Segments},
    time::Instant,
    train::Train,
};

impl Tx {
    /// Sends a packet; the hardware is told of it by [`Self::doorbell`]. `credit` goes along. Returns whether the
    /// hardware is to be told now.
    pub(crate) fn send(
        &mut self,
        netdev: &Netdev,
        skb: TxSkb,
        credit: Seq,
        counters: &mut TxCounters,
    ) -> Result<bool, Refused> {
        let Some(view) = skb.view() else {
            counters.errors += 1;
            return Err(Refused::Dropped);
        };
        match self.mode {
            Mode::Stock { settings, id } => {
                let now = self.send_stock(netdev, skb, &view, id, counters)?;
                self.mode = Mode::Stock {
                    settings,
                    id: settings.next_id(id),
                };
                Ok(now)
            }
            Mode::Native { max_pages, .. } => self.send_native(netdev, skb, &view, max_pages, credit, counters),
        }
    }

    fn send_native(
        &mut self,
        netdev: &Netdev,
        skb: TxSkb,
        view: &TxView,
        max_pages: u8,
        credit: Seq,
        counters: &mut TxCounters,
    ) -> Result<bool, Refused> {
        skb.set_pacing(self.share.pacing());
        let segments = view.segments();
        let Some(how) =
            cut(segments, view.headers, Eth::MAX_INLINE, max_pages).filter(|_| view.len <= MAX_SUPER_PACKET)
        else {
            counters.errors += 1;
            return Err(Refused::Dropped);
        };
        let (inline, pages) = how.shape();
        let frames = Train::frames(pages);
        if self.ring.room() < frames as usize {
            return Err(Refused::Busy(skb));
        }
        // All mappings first: a sequence once taken must be sent.
        let mut mappings = [const { None::<Mapping> }; MAX_PAGES];
        if let Cut::Direct { .. } = how {
            let firsts = pieces(segments, inline).filter(|piece| piece.first);
            for (to, piece) in mappings.iter_mut().zip(firsts) {
                let end = segments.get(piece.segment).map_or(0, |len| *len as usize);
                *to = skb.map(self.dma, piece.segment, piece.offset, end.saturating_sub(piece.offset));
                if to.is_none() {
                    counters.map_errors += 1;
                    return Err(Refused::Dropped);
                }
            }
        }
        let Mode::Native { spender, shown, .. } = &mut self.mode else {
            return Err(Refused::Dropped);
        };
        if spender.room() < frames {
            return Err(Refused::Busy(skb));
        }
        let Some(first) = spender.take(Instant(0), frames) else {
            return Err(Refused::Busy(skb));
        };
        *shown = credit;
        let inline_len = (Eth::LEN + inline) as u16;
        let train = Train::new(Kind::Eth, first, inline_len, pages, (view.len - inline) as u32, credit);

        // The head frame's bytes, before anything of the train is posted.
        let head = self.slot_after(self.next, usize::from(pages));
        let front = Header::LEN + Eth::LEN;
        let bytes = self.slots.bytes(head);
        if let Some((header, rest)) = bytes.split_first_chunk_mut::<{ Header::LEN }>() {
            *header = train.header.bytes();
            if let Some((meta, _)) = rest.split_first_chunk_mut::<{ Eth::LEN }>() {
                *meta = view.meta.bytes();
            }
        }
        let mut whole = bytes.get_mut(front..front + inline).is_some_and(|to| skb.copy(0, to));

        match how {
            Cut::Direct { .. } => whole &= self.post_pieces(segments, inline, &train, &mut mappings),
            Cut::Copied { .. } => {
                counters.scattered += 1;
                whole &= self.post_copies(&skb, view.len, inline, &train);
            }
        }
        skb.timestamp();
        let direct = matches!(how, Cut::Direct { .. }) && pages != 0;
        let zerocopy = if direct { view.len - inline } else { 0 };
        counters.copied += (view.len - zerocopy) as u64;
        counters.zerocopy += zerocopy as u64;
        counters.errors += u64::from(!whole);
        let skb = direct.then_some(skb);
        Ok(self.post_last(
            netdev,
            head,
            front + inline,
            frame::EOF_HEAD,
            skb,
            view.len,
            frames,
            counters,
        ))
    }

    /// Posts the page frames of a packet. Room has been seen to.
    fn post_pieces(
        &mut self,
        segments: &[u32],
        inline: usize,
        train: &Train,
        mappings: &mut [Option<Mapping>],
    ) -> bool {
        let mut whole = true;
        let mut mappings = mappings.iter_mut();
        let mut mapping = None;
        let (mut address, mut base) = (0, 0);
        for (index, piece) in pieces(segments, inline).enumerate() {
            if piece.first {
                mapping = mappings.next().and_then(Option::take);
                address = mapping.as_ref().map_or(0, Mapping::address);
                base = piece.offset;
            }
            let owner = match mapping.take_if(|_| piece.last) {
                Some(mapping) => Owner::Fragment(mapping),
                None => Owner::Nothing,
            };
            let at = address + (piece.offset - base) as u64;
            whole &= self.post(at, piece.len, train.page_eof(index as u8), false, owner);
        }
        whole
    }

    /// Posts copies of what is behind the inline part. Room has been seen to.
    fn post_copies(&mut self, skb: &TxSkb, len: usize, inline: usize, train: &Train) -> bool {
        let mut whole = true;
        let mut at = inline;
        let mut index = 0;
        while at < len {
            let n = (len - at).min(MAX_FRAME);
            let slot = self.next;
            whole &= self.slots.bytes(slot).get_mut(..n).is_some_and(|to| skb.copy(at, to));
            let address = self.slots.ready(slot, n);
            whole &= self.post(address, n, train.page_eof(index), false, Owner::Nothing);
            at += n;
            index += 1;
        }
        whole
    }

    fn send_stock(
        &mut self,
        netdev: &Netdev,
        skb: TxSkb,
        view: &TxView,
        id: u16,
        counters: &mut TxCounters,
    ) -> Result<bool, Refused> {
        const FRONT: usize = stock::frame::Header::LEN;
        let Some(frames) = Segments::new(view.len, id).filter(|frames| frames.count() <= MAX_TRAIN as u32) else {
            counters.errors += 1;
            return Err(Refused::Dropped);
        };
        let total = Segments::count(&frames);
        if self.ring.room() < total as usize {
            return Err(Refused::Busy(skb));
        }
        let mut sum = Sum::default();
        let mut whole = true;
        let mut slot = self.next;
        for frame in frames {
            let len = frame.header.size as usize;
            let Some((header, rest)) = self.slots.bytes(slot).split_first_chunk_mut::<FRONT>() else {
                whole = false;
                break;
            };
            *header = frame.header.bytes();
            let Some(to) = rest.get_mut(..len) else {
                whole = false;
                break;
            };
            match view.meta.checksum {
                Checksum::Partial { start, .. } if frame.offset + len > usize::from(start) => {
                    let plain = usize::from(start).saturating_sub(frame.offset);
                    let (before, summed) = to.split_at_mut(plain.min(len));
                    whole &= before.is_empty() || skb.copy(frame.offset, before);
                    let from = frame.offset + plain;
                    sum = sum.add(skb.copy_sum(from, summed), from - usize::from(start));
                }
                _ => whole &= skb.copy(frame.offset, to),
            }
            slot = self.slot_after(slot, 1);
        }
        if let Checksum::Partial { start, offset } = view.meta.checksum {
            // In the first frame: headers are never so long.
            let at = FRONT + usize::from(start) + usize::from(offset);
            match self.slots.bytes(self.next).get_mut(at..at + 2) {
                Some(field) => field.copy_from_slice(&sum.field()),
                None => whole = false,
            }
        }
        if !whole {
            counters.errors += 1;
            return Err(Refused::Dropped);
        }
        skb.timestamp();
        counters.copied += view.len as u64;
        for frame in frames {
            let len = FRONT + frame.header.size as usize;
            if u32::from(frame.header.index) + 1 == total {
                let slot = self.next;
                skb.done(false);
                return Ok(self.post_last(netdev, slot, len, stock::EOF, None, view.len, total, counters));
            }
            let address = self.slots.ready(self.next, len);
            let _ = self.post(address, len, stock::EOF, false, Owner::Nothing);
        }
        Ok(true)
    }

    /// Posts the last frame of a packet of `bytes`, which is in slot `slot` and holds `skb`. Whether the hardware is to
    /// be told now.
    #[allow(clippy::too_many_arguments, reason = "one caller for each wire")]
    fn post_last(
        &mut self,
        netdev: &Netdev,
        slot: usize,
        len: usize,
        eof: u8,
        skb: Option<TxSkb>,
        bytes: usize,
        frames: u32,
        counters: &mut TxCounters,
    ) -> bool {
        let counted = bytes as u32;
        let now = netdev.sent(counted);
        counters.packets += 1;
        counters.bytes += bytes as u64;
        counters.frames += u64::from(frames);
        self.held += usize::from(skb.is_some());
        // The queue stops after this frame, which takes one descriptor more.
        let waits = self.ring.room() <= MAX_TRAIN || !self.has_credit() || netdev.is_throttled();
        let interrupt = self.reaper.handle_packet(bytes, waits);
        counters.interrupts += u64::from(interrupt);
        let address = self.slots.ready(slot, len);
        let owner = Owner::Packet { skb, bytes: counted };
        let _ = self.post(address, len, eof, interrupt, owner);
        now || interrupt
    }
}
