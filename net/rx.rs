// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets in: from descriptors to an skb.
//!
//! ```text
//!   native   page frames -> held -> fragments of the skb, as they are     head frame -> copied, its page posted again
//!            of a train for queue pairs: frames -> held together, given to the lane's client, then to the ring again
//!   stock    first frame: headers copied, the rest a fragment           later frames: fragments, behind their header
//! ```
//!
//! Short packets are copied whole, and their page goes back to the ring at once. All in the poll, under the lock of the
//! device's receive side.

use crate::{
    client::Train,
    counters::RxCounters,
    kapi::{
        napi::RawNapi,
        netdev::Netdev,
        pages::{Pool, RxPage},
        ring::{Completion, Ring, RxRing},
        skb::{header_len, Batch, RxSkb},
        xdomain::Device,
    },
    rings::Wire,
};
use kernel::{
    prelude::*,
    sync::{Arc, UniqueArc},
};
use tbip::{
    direct::{Ask, Grant},
    frame::{Account, Ctrl, Head, Header, Kind, Seq},
    ledger::{Record, Report},
    limits::MAX_PAGES,
    stock::{
        self,
        reassembly::{self, Reassembler},
    },
    train::{self, Frame, Inbound},
};

/// Bytes up to which a packet in one frame is copied.
const COPY_WHOLE: usize = 1024;

/// Most frames of one poll.
const MAX_FRAMES: usize = 512;

/// Free descriptors are given to the hardware when they are this part of the ring.
const REFILL_PART: usize = 8;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Length of a VLAN tag.
const VLAN: usize = 4;

/// Page frames of a train that is not complete.
struct Held {
    pages: [Option<(RxPage, usize)>; MAX_PAGES],
    count: usize,
}

impl Held {
    fn push(&mut self, page: RxPage, len: usize) {
        if let Some(to) = self.pages.get_mut(self.count) {
            *to = Some((page, len));
            self.count += 1;
        }
    }

    fn take(&mut self) -> impl Iterator<Item = (RxPage, usize)> + '_ {
        let count = core::mem::take(&mut self.count);
        self.pages.iter_mut().take(count).filter_map(Option::take)
    }

    fn clear(&mut self) {
        self.take().for_each(drop);
    }
}

enum Mode {
    Stock {
        frames: Reassembler,
        open: Option<RxSkb>,
        /// Bytes and fragments of `open`.
        len: usize,
        frags: usize,
    },
    Native {
        inbound: Inbound,
        held: Held,
        record: KBox<Record>,
    },
}

/// What a poll found.
#[derive(Default)]
pub(crate) struct Polled {
    /// Packets for the stack.
    pub(crate) packets: i32,
    /// Frames of all kinds.
    pub(crate) frames: usize,
    /// There may be more.
    pub(crate) more: bool,
    /// Credit for our own sending.
    pub(crate) credit: Option<Seq>,
    /// Credit to give to the peer from now on, with a native peer.
    pub(crate) give: Option<Seq>,
    /// It is worth a frame of its own.
    pub(crate) give_now: bool,
    /// What the peer has of our trains: as heads say it, and a report.
    pub(crate) carried: Option<Seq>,
    pub(crate) heard: Option<Report>,
    /// What we have of the peer's: for heads, and a report if one is due.
    pub(crate) have: Option<Seq>,
    pub(crate) tell: Option<Report>,
    /// What the peer wants back, the last if it wants several: one answer a poll.
    pub(crate) echo: Option<u64>,
    /// What the peer has sent back.
    pub(crate) answer: Option<u64>,
    /// What the peer says of the direct lanes.
    pub(crate) grant: Option<Grant>,
    pub(crate) ask: Option<Ask>,
    /// Descriptors could not be posted for want of memory.
    pub(crate) starved: bool,
}

/// The receive side of a lane in use.
pub(crate) struct Rx {
    ring: RxRing<RxPage>,
    mode: Mode,
    /// Posted since the hardware was last told.
    untold: u32,
    /// For the next train of queue pairs: an empty one, if the last is not kept.
    spare: Option<Pin<UniqueArc<Train>>>,
    // Last: pages go back before their pool.
    pool: Pool,
}

impl Rx {
    /// The receive side of `ring`, which does not run yet, with all descriptors posted, and the credit that they are
    /// worth. Sleeps.
    pub(crate) fn new(ring: Arc<Ring>, wire: &Wire, dma: Device, napi: &RawNapi) -> Result<(Self, Seq)> {
        let ring = RxRing::new(ring)?;
        let pool = Pool::new(napi, dma, ring.size())?;
        let (mode, credit) = match *wire {
            Wire::Stock { .. } => (
                Mode::Stock {
                    frames: Reassembler::new(),
                    open: None,
                    len: 0,
                    frags: 0,
                },
                Seq(0),
            ),
            Wire::Native { plan, lane, .. } => {
                let depth = plan.local_depth.get(usize::from(lane)).copied().ok_or(EINVAL)?;
                let first = Seq::first(plan.remote_epoch, plan.local_epoch, lane);
                let mut inbound = Inbound::new(first, depth);
                let credit = inbound.credit();
                let held = Held {
                    pages: [const { None }; MAX_PAGES],
                    count: 0,
                };
                let record = KBox::new(Record::new(first), GFP_KERNEL)?;
                (Mode::Native { inbound, held, record }, credit)
            }
        };
        let mut rx = Self {
            ring,
            mode,
            untold: 0,
            spare: None,
            pool,
        };
        while rx.ring.room() > 0 {
            let page = rx.pool.page().ok_or(ENOMEM)?;
            rx.ring.post(page.address(), page).map_err(|_| ENOSPC)?;
        }
        Ok((rx, credit))
    }

    /// Everything below was delivered, but for gaps that were told.
    pub(crate) fn have(&self) -> Seq {
        match &self.mode {
            Mode::Native { record, .. } => record.carried(),
            Mode::Stock { .. } => Seq(0),
        }
    }

    /// The ring runs: tells the hardware of what was posted.
    pub(crate) fn begin(&mut self) {
        self.ring.doorbell();
    }

    /// Posts the frames of a train again that the client has seen, and did not keep.
    pub(crate) fn take_back(&mut self, mut train: Pin<UniqueArc<Train>>) {
        for (mut page, len) in train.as_mut().get_mut().take() {
            page.recycle(len);
            self.untold += u32::from(self.ring.post(page.address(), page).is_ok());
        }
        self.spare = Some(train);
    }

    /// Takes what has come, until `budget` packets are complete or a train for queue pairs is. That is the result: the
    /// caller hands it over, without the lock, and goes on. `found` has all that was found since it was empty.
    #[inline(never)]
    pub(crate) fn poll(
        &mut self,
        budget: i32,
        netdev: &Netdev,
        napi: &RawNapi,
        batch: &mut Batch,
        found: &mut Polled,
        counters: &mut RxCounters,
    ) -> Option<Arc<Train>> {
        // Between two trains the client copies. Credit at the poll's end alone left the peer idle for as long as all
        // that had come was copied: a stream of 1 MiB had half of its rate.
        if self.post_free(found, counters) {
            self.give(found);
        }
        while found.packets < budget {
            if found.frames >= MAX_FRAMES {
                found.more = true;
                break;
            }
            let Some((page, completion)) = self.ring.reap() else {
                break;
            };
            found.frames += 1;
            let mut train = None;
            let mut sink = Sink {
                netdev,
                napi,
                batch,
                counters,
                found,
                spare: &mut self.spare,
                train: &mut train,
            };
            let back = match &mut self.mode {
                Mode::Native { inbound, held, record } => sink.native(inbound, held, record, page, &completion),
                Mode::Stock {
                    frames,
                    open,
                    len,
                    frags,
                } => sink.stock(frames, open, len, frags, page, &completion),
            };
            if let Some(page) = back {
                self.untold += u32::from(self.ring.post(page.address(), page).is_ok());
            }
            if train.is_some() {
                found.have = Some(self.have());
                return train;
            }
        }
        found.more |= found.packets >= budget;
        if found.frames != 0 {
            counters.polls += 1;
            counters.frames += found.frames as u64;
        }
        let _ = self.post_free(found, counters);
        self.give(found);
        if let Mode::Native { record, .. } = &mut self.mode {
            found.have = Some(record.carried());
            if record.is_due() {
                found.tell = Some(record.take_report());
            }
        }
        None
    }

    /// Posts and tells the hardware of the free descriptors, if they are many: telling costs a register write, and it
    /// has enough until then.
    fn post_free(&mut self, found: &mut Polled, counters: &mut RxCounters) -> bool {
        if self.ring.room() + (self.untold as usize) < self.ring.size() / REFILL_PART {
            return false;
        }
        self.untold += self.refill(found, counters);
        self.ring.doorbell();
        let posted = core::mem::take(&mut self.untold);
        if let Mode::Native { inbound, .. } = &mut self.mode {
            inbound.handle_posted(posted);
        }
        true
    }

    /// Finds what credit there is to give.
    fn give(&mut self, found: &mut Polled) {
        if let Mode::Native { inbound, .. } = &mut self.mode {
            found.give_now |= inbound.credit_due();
            found.give = Some(inbound.credit());
        }
    }

    /// Posts pages for all free descriptors.
    fn refill(&mut self, found: &mut Polled, counters: &mut RxCounters) -> u32 {
        let mut posted = 0;
        while self.ring.room() > 0 {
            let Some(page) = self.pool.page() else {
                counters.no_page += 1;
                found.starved = true;
                break;
            };
            if self.ring.post(page.address(), page).is_err() {
                break;
            }
            posted += 1;
        }
        posted
    }

    /// Whether a poll would find something.
    pub(crate) fn has_completed(&self) -> bool {
        self.ring.has_completed()
    }

    /// Lets interrupts through again.
    pub(crate) fn poll_complete(&self) {
        self.ring.poll_complete();
    }
}

/// A train to be filled. `None` when memory is short.
fn empty_train() -> Option<Pin<UniqueArc<Train>>> {
    UniqueArc::new(Train::EMPTY, GFP_ATOMIC | __GFP_NOWARN)
        .ok()
        .map(Into::into)
}

/// Where packets and counts of one poll go.
struct Sink<'a> {
    netdev: &'a Netdev,
    napi: &'a RawNapi,
    batch: &'a mut Batch,
    counters: &'a mut RxCounters,
    found: &'a mut Polled,
    spare: &'a mut Option<Pin<UniqueArc<Train>>>,
    train: &'a mut Option<Arc<Train>>,
}

impl Sink<'_> {
    /// Handles a frame of a native peer. Returns the page if it can be posted again.
    fn native(
        &mut self,
        inbound: &mut Inbound,
        held: &mut Held,
        record: &mut Record,
        mut page: RxPage,
        completion: &Completion,
    ) -> Option<RxPage> {
        let len = usize::from(completion.len);
        let arrival = train::Arrival {
            sof: completion.sof,
            eof: completion.eof,
            len,
            spoiled: completion.crc_error || completion.overrun,
        };
        self.counters.crc += u64::from(completion.crc_error);
        self.counters.overrun += u64::from(completion.overrun);
        // Only a head frame is looked at.
        let head = completion.eof == tbip::frame::EOF_HEAD && !arrival.spoiled;
        let lost = inbound.counters().lost;
        let verdict = inbound.handle_frame(if head { page.bytes(len) } else { &[] }, arrival);
        self.counters.missed += inbound.counters().lost.wrapping_sub(lost);
        if verdict.drop_held.is_some() {
            held.clear();
        }
        if verdict.credit.is_some() {
            self.found.credit = verdict.credit;
        }
        match verdict.frame {
            Frame::Page => {
                held.push(page, len);
                return None;
            }
            Frame::Train(header) if header.kind == Kind::Roce => {
                return self.roce(&header, held, record, page, len);
            }
            Frame::Train(header) if header.kind == Kind::Ctrl => self.control(&header, record, page.bytes(len)),
            Frame::Train(header) => {
                record.handle_untold(header.first(), header.seq);
                self.packet(&header, held, &mut page, len);
                held.clear();
            }
            Frame::Dropped(why) => self.count(why),
        }
        page.recycle(len);
        Some(page)
    }

    /// Counts a dropped frame.
    fn count(&mut self, why: train::Drop) {
        match why {
            train::Drop::Spoiled => {}
            train::Drop::Gap | train::Drop::Count => self.counters.missed += 1,
            train::Drop::Bytes => self.counters.length += 1,
            train::Drop::Marker | train::Drop::Header | train::Drop::Stale => self.counters.stray += 1,
        }
    }

    /// Makes a train for queue pairs ready to be handed over. Returns the head's page if there is none.
    fn roce(
        &mut self,
        header: &Header,
        held: &mut Held,
        record: &mut Record,
        mut page: RxPage,
        len: usize,
    ) -> Option<RxPage> {
        let meta = match Head::parse(header, page.bytes(len)) {
            Ok(Head::Roce(meta, _)) => Some(meta),
            _ => {
                self.counters.bad_meta += 1;
                None
            }
        };
        let spare = meta.and_then(|_| self.spare.take().or_else(empty_train));
        self.counters.no_memory += u64::from(meta.is_some() && spare.is_none());
        // What is recorded as having come is handed over.
        let taken = meta.zip(spare).filter(|(meta, _)| match meta.account {
            Some(Account { floor, carried }) => {
                self.found.carried = Some(carried);
                record.handle_train(header.first(), header.seq, floor)
            }
            None => {
                record.handle_untold(header.first(), header.seq);
                true
            }
        });
        let Some((meta, mut train)) = taken else {
            held.clear();
            page.recycle(len);
            return Some(page);
        };
        train.as_mut().get_mut().fill(meta, header, (page, len), held.take());
        self.found.packets += 1;
        self.counters.trains += 1;
        self.counters.train_bytes += train.byte_len() as u64;
        *self.train = Some(train.into());
        None
    }

    /// Takes note of a head without a packet.
    fn control(&mut self, header: &Header, record: &mut Record, frame: &[u8]) {
        let mut floor = None;
        match Head::parse(header, frame) {
            Ok(Head::Ctrl(Ctrl::Echo, rest)) => self.found.echo = Ctrl::token(rest).or(self.found.echo),
            Ok(Head::Ctrl(Ctrl::Answer, rest)) => self.found.answer = Ctrl::token(rest).or(self.found.answer),
            // Each of them tells all that the ones before told.
            Ok(Head::Ctrl(Ctrl::Grant, rest)) => self.found.grant = Ctrl::grant(rest).ok().or(self.found.grant),
            Ok(Head::Ctrl(Ctrl::Ask, rest)) => self.found.ask = Ctrl::ask(rest).ok().or(self.found.ask),
            Ok(Head::Ctrl(Ctrl::Report, rest)) => match Ctrl::report(rest) {
                Ok((of_sender, report)) => {
                    floor = Some(of_sender);
                    self.found.heard = Some(report);
                }
                Err(_) => self.counters.bad_meta += 1,
            },
            Ok(_) => {}
            Err(_) => self.counters.bad_meta += 1,
        }
        record.handle_control(header.seq, floor, header.probe);
    }

    /// Makes the packet of a train.
    fn packet(&mut self, header: &Header, held: &mut Held, page: &mut RxPage, len: usize) {
        let (meta, front) = match Head::parse(header, page.bytes(len)) {
            Ok(Head::Eth(meta, front)) => (meta, front),
            Ok(Head::Roce(..) | Head::Ctrl(..)) | Err(_) => {
                self.counters.bad_meta += 1;
                return;
            }
        };
        let Some(mut skb) = RxSkb::new(self.napi, front.len()) else {
            self.counters.no_memory += 1;
            return;
        };
        skb.copy(front);
        let mut total = front.len();
        self.counters.copied += total as u64;
        for (page, len) in held.take() {
            skb.page(page, 0, len);
            total += len;
            self.counters.zerocopy += len as u64;
        }
        if !skb.set_meta(&meta) {
            self.counters.bad_meta += 1;
            return;
        }
        self.deliver(skb, total);
    }

    fn deliver(&mut self, skb: RxSkb, len: usize) {
        self.counters.packets += 1;
        self.counters.bytes += len as u64;
        self.found.packets += 1;
        self.batch.push(self.netdev, skb);
    }

    /// Handles a frame of a stock peer. Returns the page if it can be posted again.
    fn stock(
        &mut self,
        frames: &mut Reassembler,
        open: &mut Option<RxSkb>,
        packet_len: &mut usize,
        frags: &mut usize,
        mut page: RxPage,
        completion: &Completion,
    ) -> Option<RxPage> {
        const FRONT: usize = stock::frame::Header::LEN;
        let frame_len = usize::from(completion.len);
        let arrival = reassembly::Arrival {
            len: frame_len,
            crc_error: completion.crc_error,
            overrun: completion.overrun,
        };
        let bytes = page.bytes(frame_len);
        let verdict = frames.handle_frame(bytes, arrival);
        if let Some(why) = verdict.abort {
            *open = None;
            self.count_stock(why);
        }
        let (offset, len, last) = match verdict.frame {
            reassembly::Frame::Piece { offset, len, last } => (offset, len, last),
            reassembly::Frame::Dropped(why) => {
                if verdict.abort.is_none() {
                    self.count_stock(why);
                }
                page.recycle(frame_len);
                return Some(page);
            }
        };
        let mut back = None;
        if offset == 0 {
            *open = None;
            *packet_len = 0;
            *frags = 0;
            let front = bytes.get(FRONT..FRONT + len).unwrap_or(&[]);
            // With 18 frames, one more than an skb has fragments, the first is copied.
            let crowded = stock::frame::Header::parse(bytes).is_ok_and(|header| header.count > MAX_PAGES as u32);
            let linear = if front.len() <= COPY_WHOLE || crowded {
                front.len()
            } else {
                header_len(self.netdev, front).max(ETHERNET)
            };
            let Some(mut skb) = (front.len() >= ETHERNET)
                .then(|| RxSkb::new(self.napi, linear))
                .flatten()
            else {
                self.counters.no_memory += u64::from(front.len() >= ETHERNET);
                self.counters.length += u64::from(front.len() < ETHERNET);
                page.recycle(frame_len);
                return Some(page);
            };
            skb.copy(front.get(..linear).unwrap_or(&[]));
            self.counters.copied += linear as u64;
            if linear < len {
                skb.page(page, FRONT + linear, len - linear);
                self.counters.zerocopy += (len - linear) as u64;
                *frags = 1;
            } else {
                page.recycle(frame_len);
                back = Some(page);
            }
            *open = Some(skb);
        } else {
            let Some(skb) = open.as_mut().filter(|_| *frags < MAX_PAGES) else {
                *open = None;
                page.recycle(frame_len);
                return Some(page);
            };
            skb.page(page, FRONT, len);
            self.counters.zerocopy += len as u64;
            *frags += 1;
        }
        *packet_len += len;
        if last {
            if let Some(mut skb) = open.take() {
                if *packet_len > self.netdev.mtu() as usize + ETHERNET + VLAN {
                    skb.set_super(self.netdev.mtu());
                }
                self.deliver(skb, *packet_len);
            }
        }
        back
    }

    /// Counts a dropped frame or packet.
    fn count_stock(&mut self, why: reassembly::Drop) {
        match why {
            reassembly::Drop::Crc => self.counters.crc += 1,
            reassembly::Drop::Overrun => self.counters.overrun += 1,
            reassembly::Drop::Size | reassembly::Drop::Count | reassembly::Drop::TooLong => self.counters.length += 1,
            reassembly::Drop::Index | reassembly::Drop::Id => self.counters.missed += 1,
        }
    }
}
