// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets out: from an skb to descriptors.
//!
//! ```text
//!   native   headers -> slot (head frame, last)       fragments -> page frames, read by the DMA where they are
//!   stock    all bytes -> slots, 4084 behind each header, summed on the way
//! ```
//!
//! All under the lock of the device's transmit side. A descriptor in flight owns what the hardware reads: the last page
//! frame of a fragment its mapping, the head frame the skb.

use crate::{
    counters::TxCounters,
    kapi::{
        netdev::Netdev,
        pages::Slots,
        ring::{Ring, TxRing},
        skb::{Mapping, Sum, TxSkb, TxView},
        xdomain::Device,
    },
    rings::Wire,
};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    credit::Spender,
    cut::{cut, pieces, Cut},
    frame::{self, Checksum, Ctrl, Eth, Header, Kind, Seq},
    limits::{MAX_FRAME, MAX_PAGES, MAX_SUPER_PACKET},
    reaper::{Look, Reaper},
    stock::{self, frame::Segments, Settings},
    time::Instant,
    train::Train,
};

/// Most frames of one packet, on either wire.
pub(crate) const MAX_TRAIN: usize = MAX_PAGES + 1;

/// What a descriptor in flight holds: who sends on a lane has a variant of its own, which comes back to it when the frame
/// has gone.
pub(crate) enum Owner {
    /// Nothing: the frame's bytes are in a slot, or a later descriptor holds what they are in.
    Nothing,
    /// Last page frame of a fragment: its mapping, which goes before the packet that it maps.
    Fragment(#[expect(dead_code, reason = "held until it is dropped")] Mapping),
    /// Last frame of a packet of the stack.
    Packet {
        /// The packet, if the DMA reads it where it is.
        skb: Option<TxSkb>,
        /// What the stack counts for it.
        bytes: u32,
    },
}

enum Mode {
    Stock {
        settings: Settings,
        id: u16,
    },
    Native {
        spender: Spender,
        max_pages: u8,
        shown: Seq,
        depth: u32,
    },
}

/// Why a packet was not sent.
pub(crate) enum Refused {
    /// No room now; the packet is whole.
    Busy(TxSkb),
    /// It cannot be sent at all and is gone.
    Dropped,
}

/// The transmit side of a lane in use.
pub(crate) struct Tx {
    ring: TxRing<Owner>,
    slots: Slots,
    /// Slot of the next descriptor.
    next: usize,
    dma: Device,
    mode: Mode,
    /// Packets of the stack that descriptors in flight hold.
    held: usize,
    /// Something was posted since the hardware was last told.
    untold: bool,
    reaper: Reaper,
}

impl Tx {
    /// The transmit side of `ring`. Sleeps.
    pub(crate) fn new(ring: Arc<Ring>, wire: &Wire, dma: Device) -> Result<Self> {
        let ring = TxRing::new(ring)?;
        let slots = Slots::new(dma, ring.size())?;
        let mode = match *wire {
            Wire::Stock { settings } => Mode::Stock { settings, id: 0 },
            Wire::Native { plan } => {
                let [depth, ..] = plan.remote_depth;
                let [ours, ..] = plan.local_depth;
                Mode::Native {
                    spender: Spender::new(Seq::first(plan.local_epoch, plan.remote_epoch, 0), depth),
                    max_pages: plan.max_pages,
                    shown: tbip::credit::initial(Seq::first(plan.remote_epoch, plan.local_epoch, 0), ours),
                    depth: u32::from(ours),
                }
            }
        };
        Ok(Self {
            ring,
            slots,
            next: 0,
            dma,
            mode,
            held: 0,
            untold: false,
            reaper: Reaper::new(),
        })
    }

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

    /// Posts the last frame of a packet of `bytes`, which is in slot `slot` and holds `skb`. Whether the hardware is to be told now.
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

    /// The slot `n` after `slot`, with `n` below the ring's size.
    fn slot_after(&self, slot: usize, n: usize) -> usize {
        let (at, size) = (slot.wrapping_add(n), self.ring.size());
        if at >= size {
            at.wrapping_sub(size)
        } else {
            at
        }
    }

    /// Posts a frame. False if there is no room, which callers have seen to.
    fn post(&mut self, address: u64, len: usize, eof: u8, interrupt: bool, owner: Owner) -> bool {
        let posted = self.ring.post(address, len, frame::SOF, eof, interrupt, owner).is_ok();
        if posted {
            self.untold = true;
            self.next = self.slot_after(self.next, 1);
        }
        posted
    }

    /// Sends a head frame without a packet.
    fn send_bare(&mut self, seq: Seq, credit: Seq, probe: bool) {
        let mut train = Train::new(Kind::Ctrl, seq, Ctrl::LEN as u16, 0, 0, credit);
        train.header.probe = probe;
        let slot = self.next;
        if let Some((header, rest)) = self.slots.bytes(slot).split_first_chunk_mut::<{ Header::LEN }>() {
            *header = train.header.bytes();
            if let Some((body, _)) = rest.split_first_chunk_mut::<{ Ctrl::LEN }>() {
                *body = Ctrl::Credit.bytes();
            }
        }
        let len = Header::LEN + Ctrl::LEN;
        let address = self.slots.ready(slot, len);
        let _ = self.post(address, len, frame::EOF_HEAD, false, Owner::Nothing);
        if let Mode::Native { shown, .. } = &mut self.mode {
            *shown = credit;
        }
    }

    /// Sends `credit` in a frame of its own if that is worth it: the receive side wants it, or too much is unknown to
    /// the peer.
    pub(crate) fn give_credit(&mut self, credit: Seq, wanted: bool, counters: &mut TxCounters) {
        let Mode::Native {
            spender, shown, depth, ..
        } = &mut self.mode
        else {
            return;
        };
        if !wanted && credit.offset(*shown) < (*depth / 4) as i32 || self.ring.room() == 0 {
            return;
        }
        if let Some(seq) = spender.take_control() {
            counters.credits += 1;
            counters.frames += 1;
            self.send_bare(seq, credit, false);
        }
    }

    /// Sends a probe, if one is due.
    pub(crate) fn probe(&mut self, now: Instant, credit: Seq, counters: &mut TxCounters) {
        let Mode::Native { spender, .. } = &mut self.mode else {
            return;
        };
        if self.ring.room() == 0 {
            return;
        }
        if let Some(seq) = spender.take_probe(now) {
            counters.probes += 1;
            counters.frames += 1;
            self.send_bare(seq, credit, true);
        }
    }

    /// The peer gives credit.
    pub(crate) fn handle_credit(&mut self, limit: Seq) {
        if let Mode::Native { spender, .. } = &mut self.mode {
            spender.handle_credit(limit);
        }
    }

    /// When [`Self::probe`] is to be called.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Native { spender, .. } => spender.poll_timeout(),
            Mode::Stock { .. } => None,
        }
    }

    /// The queue stops for want of credit, if that is why: probing begins.
    pub(crate) fn blocked(&mut self, now: Instant, counters: &mut TxCounters) {
        match &mut self.mode {
            Mode::Native { spender, .. } if spender.room() < MAX_TRAIN as u32 => {
                counters.no_credit += 1;
                let _ = spender.take(now, MAX_TRAIN as u32);
            }
            _ => counters.ring_full += 1,
        }
    }

    /// Whether any packet can be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.ring.room() >= MAX_TRAIN && self.has_credit()
    }

    /// Whether it is worth to go on after the queue was stopped.
    pub(crate) fn has_much_room(&self) -> bool {
        self.ring.room() >= (self.ring.size() / 4).max(MAX_TRAIN) && self.has_credit()
    }

    fn has_credit(&self) -> bool {
        match &self.mode {
            Mode::Native { spender, .. } => spender.room() >= MAX_TRAIN as u32,
            Mode::Stock { .. } => true,
        }
    }

    /// Takes back what the hardware has sent. `napi`: in the poll.
    pub(crate) fn reap(&mut self, netdev: &Netdev, napi: bool) {
        let (mut frames, mut packets, mut bytes) = (0, 0, 0u32);
        while let Some(owner) = self.ring.reap() {
            frames += 1;
            match owner {
                Owner::Nothing | Owner::Fragment(_) => {}
                Owner::Packet { skb, bytes: counted } => {
                    packets += 1;
                    bytes = bytes.saturating_add(counted);
                    if let Some(skb) = skb {
                        self.held = self.held.saturating_sub(1);
                        skb.done(napi);
                    }
                }
            }
        }
        if packets != 0 {
            netdev.completed(packets, bytes);
        }
        self.reaper.handle_reaped(frames);
    }

    /// Whether somebody waits for frames on their way: the stack, for packets that they hold or because the queue is
    /// stopped, be it by us or by the limit of bytes on their way.
    fn is_waited_for(&self, netdev: &Netdev) -> bool {
        self.held != 0 || self.in_flight() != 0 && netdev.is_throttled()
    }

    /// Whether the timer is to be armed, for [`tbip::reaper::LOOK_AFTER`] from now.
    #[must_use]
    pub(crate) fn poll_timer(&mut self, netdev: &Netdev) -> bool {
        let waited_for = self.is_waited_for(netdev);
        self.reaper.poll_timer(waited_for)
    }

    /// The timer has fired.
    #[must_use]
    pub(crate) fn handle_timer(&mut self, netdev: &Netdev) -> Look {
        let waited_for = self.is_waited_for(netdev);
        self.reaper.handle_timer(waited_for)
    }

    /// Tells the hardware of what was posted.
    pub(crate) fn doorbell(&mut self, counters: &mut TxCounters) {
        if core::mem::take(&mut self.untold) {
            counters.doorbells += 1;
            self.ring.doorbell();
        }
    }

    /// Frames that are not taken back yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    /// Whether [`Self::reap`] would find something.
    pub(crate) fn has_completed(&self) -> bool {
        self.ring.has_completed()
    }

    /// Lets interrupts through again.
    pub(crate) fn poll_complete(&self) {
        self.ring.poll_complete();
    }
}
