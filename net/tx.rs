// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Frames out: the transmit ring of a lane in use, the credit that is spent and given on it, and what its descriptors
//! hold.
//!
//! All under the lock of the lane's transmit side. A descriptor in flight holds what the hardware reads. How a packet
//! of the stack becomes frames is in `tx/packet.rs`.

mod packet;
mod run;

use crate::{
    client::Held,
    counters::TxCounters,
    kapi::{
        netdev::Netdev,
        pages::{Mapping, Slots},
        ring::{Ring, TxRing},
        skb::TxSkb,
        xdomain::Device,
    },
    rings::Wire,
};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    credit::Spender,
    frame::{self, Ctrl, Header, Kind, Seq},
    ledger::{self, Report},
    limits::{LEDGER_TRAINS, MAX_PAGES, MAX_TRAIN},
    reaper::{Look, Reaper},
    share::Share,
    stock::Settings,
    time::Instant,
    train::Train,
};

/// What a descriptor in flight holds: who sends on a lane has a variant of its own, which comes back to it when the
/// frame has gone.
pub(crate) enum Owner {
    /// Nothing: the frame's bytes are in a slot, or a later descriptor holds what they are in.
    Nothing,
    /// Last page frame of a fragment: its mapping, which goes before the packet that it maps.
    Fragment(#[expect(dead_code, reason = "held until it is dropped")] Mapping),
    /// Last frame of a train of the lane's client, which has as many.
    Train {
        frames: u16,
        /// What the client holds until it has gone.
        held: Option<KBox<dyn Held>>,
    },
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
        ledger: KBox<Ledger>,
    },
}

/// The client's tokens of the trains in flight.
type Ledger = ledger::Ledger<KVVec<Option<ledger::Sent<u64>>>>;

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
    /// Packets of the stack, and trains whose memory is their client's, that descriptors in flight hold.
    held: usize,
    /// What the client has of the ring.
    share: Share,
    /// Something was posted since the hardware was last told.
    untold: bool,
    reaper: Reaper,
    /// The timer will come for [`Self::ask`].
    watches: bool,
}

impl Tx {
    /// The transmit side of `ring`. Sleeps.
    pub(crate) fn new(ring: Arc<Ring>, wire: &Wire, dma: Device) -> Result<Self> {
        let ring = TxRing::new(ring)?;
        let slots = Slots::new(dma, ring.size())?;
        let mode = match *wire {
            Wire::Stock { settings } => Mode::Stock { settings, id: 0 },
            Wire::Native { plan, lane, .. } => {
                let depth = |of: &[u16]| of.get(usize::from(lane)).copied().ok_or(EINVAL);
                let (depth, ours) = (depth(&plan.remote_depth)?, depth(&plan.local_depth)?);
                let first = Seq::first(plan.local_epoch, plan.remote_epoch, lane);
                let mut places = KVVec::new();
                places.resize(LEDGER_TRAINS, None, GFP_KERNEL)?;
                Mode::Native {
                    ledger: KBox::new(Ledger::new(first, places), GFP_KERNEL)?,
                    spender: Spender::new(first, depth),
                    max_pages: plan.max_pages,
                    shown: tbip::credit::initial(Seq::first(plan.remote_epoch, plan.local_epoch, lane), ours),
                    depth: u32::from(ours),
                }
            }
        };
        let mut share = Share::new(ring.size());
        if let Wire::Native {
            lane: 0, has_two: true, ..
        } = wire
        {
            share.set_yields();
        }
        Ok(Self {
            ring,
            slots,
            next: 0,
            dma,
            mode,
            held: 0,
            share,
            untold: false,
            reaper: Reaper::new(),
            watches: false,
        })
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

    /// Sends a head frame without a packet: an operation, and what follows it.
    fn send_bare(&mut self, seq: Seq, credit: Seq, probe: bool, (what, rest): (Ctrl, &[u8])) {
        let body = Ctrl::LEN + rest.len();
        let mut train = Train::new(Kind::Ctrl, seq, body as u16, 0, 0, credit);
        train.header.probe = probe;
        let slot = self.next;
        if let Some((header, to)) = self.slots.bytes(slot).split_first_chunk_mut::<{ Header::LEN }>() {
            *header = train.header.bytes();
            if let Some((operation, to)) = to.split_first_chunk_mut::<{ Ctrl::LEN }>() {
                *operation = what.bytes();
                if let Some(to) = to.get_mut(..rest.len()) {
                    to.copy_from_slice(rest);
                }
            }
        }
        let len = Header::LEN + body;
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
            self.send_bare(seq, credit, false, (Ctrl::Credit, &[]));
        }
    }

    /// Takes note of what the peer has of our trains: as heads say it, and a report.
    pub(crate) fn handle_account(&mut self, now: Instant, carried: Option<Seq>, report: Option<&Report>) {
        let Mode::Native { ledger, spender, .. } = &mut self.mode else {
            return;
        };
        ledger.handle_untold(spender.next());
        if let Some(carried) = carried {
            ledger.handle_carried(now, carried);
        }
        if let Some(report) = report {
            ledger.handle_report(now, report);
        }
    }

    /// Frames have come.
    pub(crate) fn heard(&mut self) {
        if let Mode::Native { ledger, .. } = &mut self.mode {
            ledger.handle_heard();
        }
    }

    /// When the peer last said something new of our trains, and whether the lane was given up and it has not since.
    pub(crate) fn answers(&self) -> (Instant, bool) {
        match &self.mode {
            Mode::Native { ledger, .. } => (ledger.answered_at(), ledger.is_given_up()),
            Mode::Stock { .. } => (Instant(0), false),
        }
    }

    /// Since when the peer has not answered, if it was asked.
    pub(crate) fn unanswered_since(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Native { ledger, .. } => ledger.unanswered_since(),
            Mode::Stock { .. } => None,
        }
    }

    /// Whether the lane carries is to be asked.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if let Mode::Native { ledger, .. } = &mut self.mode {
            ledger.handle_doubt(now);
        }
    }

    /// The lane carries nothing, if it seems so: the trains in flight are lost. So it is until the peer answers.
    pub(crate) fn give_up(&mut self, counters: &mut TxCounters) -> bool {
        match &mut self.mode {
            Mode::Native { ledger, .. } if ledger.is_suspect() => {
                ledger.handle_given_up();
                counters.given_up += 1;
                true
            }
            _ => false,
        }
    }

    /// No frame goes any more: the trains in flight are lost.
    pub(crate) fn lose(&mut self) {
        if let Mode::Native { ledger, .. } = &mut self.mode {
            ledger.handle_dead();
        }
    }

    /// The token of the next train that is lost.
    pub(crate) fn take_lost(&mut self, counters: &mut TxCounters) -> Option<u64> {
        let Mode::Native { ledger, .. } = &mut self.mode else {
            return None;
        };
        // Each turn ends a train in flight.
        while let Some(told) = ledger.poll_told() {
            if !told.carried {
                counters.lost_trains += 1;
                return Some(told.token);
            }
        }
        None
    }

    /// When the timer is to come for [`Self::ask`], unless it will anyway.
    pub(crate) fn arm_to_ask(&mut self) -> Option<Instant> {
        let at = self.ask_at().filter(|_| !self.watches);
        self.watches |= at.is_some();
        at
    }

    /// The timer has come. When [`Self::ask`] is to be called.
    pub(crate) fn timer_to_ask(&mut self) -> Option<Instant> {
        self.watches = self.ask_at().is_some();
        self.ask_at()
    }

    fn ask_at(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Native { ledger, .. } => ledger.poll_timeout(),
            Mode::Stock { .. } => None,
        }
    }

    /// Asks the peer what it has of our trains, if that is due.
    pub(crate) fn ask(&mut self, now: Instant, credit: Seq, have: Seq, counters: &mut TxCounters) {
        let Mode::Native { ledger, .. } = &mut self.mode else {
            return;
        };
        if ledger.take_probe(now) {
            counters.asks += 1;
            self.send_report(credit, &Report::carried(have), true, counters);
        }
    }

    /// Tells the peer what has come of its trains. Where there is no room for that the peer asks.
    pub(crate) fn report(&mut self, credit: Seq, report: &Report, counters: &mut TxCounters) {
        counters.reports += 1;
        self.send_report(credit, report, false, counters);
    }

    fn send_report(&mut self, credit: Seq, report: &Report, probe: bool, counters: &mut TxCounters) {
        let Mode::Native { ledger, spender, .. } = &mut self.mode else {
            return;
        };
        if self.ring.room() == 0 {
            return;
        }
        ledger.handle_untold(spender.next());
        let Some(seq) = spender.take_control() else {
            return;
        };
        let mut rest = [0; Ctrl::REPORT];
        let (bytes, len) = report.bytes();
        let end = Ctrl::FLOOR + len;
        if let Some((floor, to)) = rest.split_first_chunk_mut::<{ Ctrl::FLOOR }>() {
            *floor = ledger.floor().0.to_le_bytes();
            to.copy_from_slice(&bytes);
        }
        counters.frames += 1;
        self.send_bare(seq, credit, probe, (Ctrl::Report, rest.get(..end).unwrap_or(&[])));
    }

    /// Whether a head frame without a packet has room.
    pub(crate) fn can_speak(&self) -> bool {
        match &self.mode {
            Mode::Native { spender, .. } => self.ring.room() > 0 && spender.can_control(),
            Mode::Stock { .. } => false,
        }
    }

    /// Sends business of the direct lane. False if there is no room now.
    pub(crate) fn send_direct(&mut self, what: Ctrl, credit: Seq, rest: &[u8], counters: &mut TxCounters) -> bool {
        let Mode::Native { spender, .. } = &mut self.mode else {
            return false;
        };
        if self.ring.room() == 0 {
            return false;
        }
        let Some(seq) = spender.take_control() else {
            return false;
        };
        counters.grants += 1;
        counters.frames += 1;
        self.send_bare(seq, credit, false, (what, rest));
        true
    }

    /// Sends an echo, or the answer to one. False if there is no room now, or the peer is not ours.
    pub(crate) fn send_echo(&mut self, what: Ctrl, token: u64, credit: Seq, counters: &mut TxCounters) -> bool {
        let Mode::Native { spender, .. } = &mut self.mode else {
            return false;
        };
        if self.ring.room() == 0 || spender.room() == 0 {
            return false;
        }
        let Some(seq) = spender.take(Instant(0), 1) else {
            return false;
        };
        counters.echoes += 1;
        counters.frames += 1;
        self.send_bare(seq, credit, false, (what, &token.to_le_bytes()));
        true
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
            self.send_bare(seq, credit, true, (Ctrl::Credit, &[]));
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

    /// The queue stops, or the client waits, for want of credit for so many `frames`, if that is why: probing begins.
    pub(crate) fn blocked(&mut self, now: Instant, frames: usize, counters: &mut TxCounters) {
        let frames = frames as u32;
        match &mut self.mode {
            Mode::Native { spender, .. } if spender.room() < frames => {
                counters.no_credit += 1;
                let _ = spender.take(now, frames);
            }
            _ => counters.ring_full += 1,
        }
    }

    /// Whether any packet can be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.ring.room() >= MAX_TRAIN && self.has_credit()
    }

    /// Whether any train of the client can be sent now.
    pub(crate) fn has_train_room(&self) -> bool {
        self.share.admits(self.ring.room(), self.credit())
    }

    /// Whether the client has other lanes beside this one.
    pub(crate) fn set_several(&mut self, several: Option<usize>) {
        self.share.set_several(several);
    }

    /// Whether trains of so many page frames can go at all.
    fn takes_pages(&self, pages: usize) -> bool {
        matches!(self.mode, Mode::Native { max_pages, .. } if pages <= usize::from(max_pages).min(MAX_PAGES))
    }

    /// Whether it is worth to go on after the queue was stopped.
    pub(crate) fn has_much_room(&self) -> bool {
        self.ring.room() >= (self.ring.size() / 4).max(MAX_TRAIN) && self.has_credit()
    }

    fn has_credit(&self) -> bool {
        self.credit() >= MAX_TRAIN
    }

    /// Frames for which there is credit.
    fn credit(&self) -> usize {
        match &self.mode {
            Mode::Native { spender, .. } => spender.room() as usize,
            Mode::Stock { .. } => usize::MAX,
        }
    }

    /// Takes back what the hardware has sent. `napi`: in the poll.
    pub(crate) fn reap(&mut self, netdev: &Netdev, napi: bool) {
        let (mut frames, mut packets, mut bytes) = (0, 0, 0u32);
        while let Some(owner) = self.ring.reap() {
            frames += 1;
            match owner {
                Owner::Nothing | Owner::Fragment(_) => {}
                Owner::Train { frames, held } => {
                    self.share.handle_gone(usize::from(frames));
                    self.held = self.held.saturating_sub(usize::from(held.is_some()));
                }
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
    /// stopped, be it by us or by the limit of bytes on their way; the client, for what they hold or, if it `wanted`
    /// some, for room.
    fn is_waited_for(&self, netdev: &Netdev, wanted: bool) -> bool {
        self.held != 0 || self.in_flight() != 0 && (wanted || netdev.is_throttled())
    }

    /// Whether the timer is to be armed, for [`tbip::reaper::LOOK_AFTER`] from now.
    #[must_use]
    pub(crate) fn poll_timer(&mut self, netdev: &Netdev, wanted: bool) -> bool {
        let waited_for = self.is_waited_for(netdev, wanted);
        self.reaper.poll_timer(waited_for)
    }

    /// The timer has fired.
    #[must_use]
    pub(crate) fn handle_timer(&mut self, now: Instant, netdev: &Netdev, wanted: bool) -> Look {
        let waited_for = self.is_waited_for(netdev, wanted);
        self.reaper.handle_timer(now, waited_for)
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

    /// Whether the hardware still has frames to send.
    pub(crate) fn is_sending(&self) -> bool {
        self.ring.is_busy()
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
