// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The direct lane of a cable: windows of pages that the DMA reads here and writes there ([`tbip::direct`]).
//!
//! ```text
//!   out   Direct::ask: train with a request, by the message lane      its pages wait in `asked`
//!         hear: a grant ... fill: one descriptor a page               what they hold goes with the last of them
//!   in    grant: the target's pages posted, the train waits in `parked`
//!         receive: the last one is there ... the client carries the train out, then lets go of the pages
//! ```
//!
//! All under the lock of the lane's direct side, which comes after the client's and before the transmit side's. The
//! client is never called under it.

use crate::{
    client::{Client, Held, NotSent, Outbound, Train, WindowOut},
    counters::{RxCounters, TxCounters},
    kapi::{
        napi::RawNapi,
        pages::{Mapping, Piece, Pool, RxPage, Slots, Target},
        ring::{RxRing, TxRing},
        timer,
        xdomain::Device,
    },
    rings::Rings,
    tx::Tx,
};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    direct::{Asker, Frame, Granter, Heard, Told, Window, EOF_VOID},
    frame::{Ctrl, Roce, Seq, SOF},
    limits::{MAX_FRAME, MAX_WINDOWS},
    reaper::{Reaper, LOOK_AFTER},
    time::Instant,
    train::Arrival,
};

/// Slots for the first frames of generations, of which several may be on their way.
const STARTS: usize = 8;

/// Pages of ours that frames of former lives go to: one at a time.
const OWN_PAGES: usize = 64;

/// What a descriptor of the transmit ring holds.
enum Sent {
    /// Nothing: the bytes are in a slot.
    Nothing,
    /// A page of a window.
    Page(#[expect(dead_code, reason = "held until it is dropped")] Mapping),
    /// The last one of a window, and what its client holds.
    Last(
        #[expect(dead_code, reason = "held until it is dropped")] Option<Mapping>,
        #[expect(dead_code, reason = "held until it is dropped")] KBox<dyn Held>,
    ),
}

/// What a descriptor of the receive ring holds.
enum Posted {
    /// A page of a window.
    Page(Target),
    /// One of ours.
    Own(RxPage),
}

/// A request whose client has not been told what became of it.
struct Asked {
    number: u32,
    /// Its payload, until that has been posted.
    pieces: [Option<Piece>; WindowOut::MOST],
    held: Option<KBox<dyn Held>>,
    client: Arc<dyn Client>,
}

/// A train whose window is open.
struct Parked {
    number: u32,
    train: Arc<Train>,
    held: KBox<dyn Held>,
    /// Who let it be posted, and is to be told: a queue pair that did not hear of it would wait for it for ever.
    client: Arc<dyn Client>,
}

/// A window that is over.
pub(crate) struct Over {
    pub(crate) number: u32,
    /// All of it is there.
    pub(crate) whole: bool,
    train: Arc<Train>,
    /// What keeps the pages.
    held: KBox<dyn Held>,
    client: Arc<dyn Client>,
}

impl Over {
    /// Tells the client. Whether the train was carried out. The client's locks are taken.
    pub(crate) fn tell(self) -> bool {
        self.client.on_window(&self.train, self.held, self.whole)
    }
}

/// What is wrong with a direct lane.
pub(crate) struct Fault {
    /// The receive ring is to be stopped, for [`Direct::reset`].
    pub(crate) broken: bool,
    /// Nothing of what is sent goes: the link is to begin anew.
    pub(crate) stuck: bool,
}

/// A direct lane in use.
pub(crate) struct Direct {
    tx: TxRing<Sent>,
    rx: RxRing<Posted>,
    slots: Slots,
    start: usize,
    dma: Device,
    /// Sees that what is sent goes: whoever lends a page waits for it.
    reaper: Reaper,
    /// When that looks next.
    look: Option<Instant>,
    asker: Asker<u64>,
    granter: Granter,
    /// [`MAX_WINDOWS`] places each.
    asked: KVec<Option<KBox<Asked>>>,
    parked: KVec<Option<Parked>>,
    // Last: pages go back before their pool.
    pool: Pool,
}

impl Direct {
    /// The direct lane of `rings`, which do not run yet; its first generation is `generation`. Sleeps. Not inlined: it
    /// is large, and the stack of whoever opens a cable is also that of the softirqs that meet him there.
    #[inline(never)]
    pub(crate) fn new(rings: &Rings, dma: Device, napi: &RawNapi, generation: u32) -> Result<KBox<Self>> {
        let direct = Self {
            tx: TxRing::new(rings.tx.clone())?,
            rx: RxRing::new(rings.rx.clone())?,
            slots: Slots::new(dma, STARTS + 1)?,
            start: 0,
            dma,
            reaper: Reaper::new(),
            look: None,
            asker: Asker::new(),
            granter: Granter::new(Instant(timer::now()), generation),
            asked: places()?,
            parked: places()?,
            pool: Pool::new(napi, dma, OWN_PAGES)?,
        };
        Ok(KBox::new(direct, GFP_KERNEL)?)
    }

    // Out. ----------------------------------------------------------------------------------------------------------

    /// Whether windows are worth asking for.
    pub(crate) fn is_worth(&self, now: Instant) -> bool {
        self.asker.is_worth(now)
    }

    /// Whether another window may be asked for now.
    pub(crate) fn has_room(&self) -> bool {
        self.asker.has_room()
    }

    /// Posts a train whose payload goes by `window`, but for what `out` has.
    pub(crate) fn ask<E>(
        &mut self,
        tx: &mut Tx,
        out: &Outbound<'_>,
        (window, held): (WindowOut<'_>, Option<KBox<dyn Held>>),
        heads: (Seq, Seq),
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
        counters: &mut TxCounters,
    ) -> Result<(), NotSent<E>> {
        let frames = window.pieces.len();
        let place = self.asked.iter_mut().find(|place| place.is_none());
        let (Some(place), Some(token), true) = (place, out.token, tx.has_train_room()) else {
            return Err(NotSent::Busy);
        };
        if frames == 0 || frames > WindowOut::MOST || !window.pieces.iter().all(Piece::is_page) {
            return Err(NotSent::Unfit);
        }
        let asked = Asked {
            number: 0,
            pieces: [None; WindowOut::MOST],
            held: Some(window.held),
            client: window.client,
        };
        let Ok(mut asked) = KBox::new(asked, GFP_ATOMIC | __GFP_NOWARN) else {
            return Err(NotSent::Busy);
        };
        for (to, piece) in asked.pieces.iter_mut().zip(window.pieces) {
            *to = Some(*piece);
        }
        let Some(request) = self.asker.request(Instant(out.now), frames as u16, token) else {
            return Err(NotSent::Busy);
        };
        let (key, address) = window.target;
        let request = request.for_target(key, address);
        let train = Outbound {
            meta: Roce {
                window: Some(request),
                ..out.meta
            },
            // Grants tell of it, and the ledger does not.
            token: None,
            ..*out
        };
        if let Err(why) = tx.send_train(&train, held, heads, copy, counters) {
            self.asker.handle_unsent(&request);
            return Err(why);
        }
        asked.number = request.number;
        *place = Some(asked);
        Ok(())
    }

    /// The peer has told what became of windows. Then poll [`Self::told`].
    pub(crate) fn hear(&mut self, now: Instant, grant: &tbip::direct::Grant) {
        if self.asker.handle_grant(now, grant) == Heard::Reset {
            // What is on the ring goes to a page that nobody reads.
            self.asked.iter_mut().flatten().for_each(|asked| asked.held = None);
        }
    }

    fn asked(&mut self, number: u32) -> Option<&mut Option<KBox<Asked>>> {
        let is_it = |place: &&mut Option<KBox<Asked>>| place.as_ref().is_some_and(|asked| asked.number == number);
        self.asked.iter_mut().find(is_it)
    }

    /// The next train that asked and whose fate is known, and who is to be told.
    pub(crate) fn told(&mut self, now: Instant) -> Option<(Told<u64>, Arc<dyn Client>)> {
        let told = self.asker.poll_told().or_else(|| self.asker.poll_late(now))?;
        let asked = self.asked(told.number)?.take()?;
        Some((told, asked.client.clone()))
    }

    /// Sends what has been granted.
    pub(crate) fn fill(&mut self, now: Instant, counters: &mut TxCounters) {
        self.reap();
        if self.tx.room() > 0 {
            if let Some(start) = self.asker.take_start() {
                self.start = (self.start + 1) % STARTS;
                let bytes = start.bytes();
                if let Some(to) = self.slots.bytes(self.start).first_chunk_mut() {
                    *to = bytes;
                }
                let address = self.slots.ready(self.start, bytes.len());
                let _ = self.tx.post(address, bytes.len(), SOF, EOF_VOID, false, Sent::Nothing);
            }
        }
        while let Some(window) = self.asker.poll_window() {
            if self.tx.room() < usize::from(window.frames) {
                break;
            }
            self.fill_one(window, counters);
        }
        self.tx.doorbell();
        if self.reaper.poll_timer(self.tx.in_flight() != 0) {
            self.look = Some(now.after(LOOK_AFTER));
        }
    }

    fn reap(&mut self) {
        let mut frames = 0;
        while self.tx.reap().is_some() {
            frames += 1;
        }
        self.reaper.handle_reaped(frames);
    }

    fn fill_one(&mut self, window: Window<u64>, counters: &mut TxCounters) {
        let dma = self.dma;
        // None once its client has been told.
        let asked = self.asked(window.number).and_then(Option::as_mut);
        let mut held = None;
        let mut mappings = [const { None::<Mapping> }; WindowOut::MOST];
        let mut mapped = 0;
        if let Some(asked) = asked {
            held = asked.held.take();
            for (to, piece) in mappings.iter_mut().zip(asked.pieces.iter().flatten()) {
                *to = piece.map(dma);
                mapped += u16::from(to.is_some());
            }
        }
        let whole = held.is_some() && mapped == window.frames;
        let window = if whole { window } else { window.void() };
        for index in 0..window.frames {
            let mapping = mappings
                .get_mut(usize::from(index))
                .and_then(Option::take)
                .filter(|_| whole);
            let (address, len) = match &mapping {
                Some(mapping) => (mapping.address(), MAX_FRAME),
                None => (self.slots.ready(STARTS, 1), 1),
            };
            let last = index + 1 == window.frames;
            let owner = match (held.take_if(|_| last), mapping) {
                (Some(held), mapping) => Sent::Last(mapping, held),
                (None, Some(mapping)) => Sent::Page(mapping),
                (None, None) => Sent::Nothing,
            };
            let _ = self.tx.post(address, len, SOF, window.eof(index), false, owner);
        }
        self.asker.handle_filled(&window);
        counters.frames += u64::from(window.frames);
        if whole {
            counters.window_bytes += u64::from(window.frames) * MAX_FRAME as u64;
        }
    }

    // In. -----------------------------------------------------------------------------------------------------------

    /// Refuses what `train` asks for, if that has not been decided.
    pub(crate) fn refuse(&mut self, train: &Train) {
        if let Some(request) = &train.meta().window {
            let _ = self.granter.handle_request(request);
        }
    }

    /// Grants what `train` asks for: the DMA writes the next frames to `pieces`; `tail` is written when the train is
    /// carried out, by `client`. False, and nothing has changed, if it cannot be.
    pub(crate) fn grant(
        &mut self,
        now: Instant,
        train: &Arc<Train>,
        (pieces, tail): (&[Piece], &[Piece]),
        held: KBox<dyn Held>,
        client: &Arc<dyn Client>,
    ) -> bool {
        let Some(request) = train.meta().window else {
            return false;
        };
        if !self.granter.handle_request(&request) {
            return false;
        }
        let room = self.rx.room().min(WindowOut::MOST);
        let fits = self.granter.fits(
            &request,
            pieces.iter().map(Piece::part),
            tail.iter().map(Piece::part),
            room,
        );
        let place = self.parked.iter_mut().find(|place| place.is_none());
        let (Some(place), true) = (place, fits) else {
            return false;
        };
        // All that can fail comes first.
        let mut targets = [const { None::<Target> }; WindowOut::MOST];
        for (to, piece) in targets.iter_mut().zip(pieces) {
            *to = piece.map_target(self.dma);
            if to.is_none() {
                return false;
            }
        }
        for (index, target) in targets.iter_mut().filter_map(Option::take).enumerate() {
            let (address, owner) = (target.address(), Posted::Page(target));
            let _ = match index + 1 < pieces.len() {
                true => self.rx.post_quiet(address, owner),
                false => self.rx.post(address, owner),
            };
        }
        *place = Some(Parked {
            number: request.number,
            train: train.clone(),
            held,
            client: client.clone(),
        });
        let tail = tail.first().map(|piece| piece.part().page);
        self.granter.grant(now, &request, tail);
        self.rx.doorbell();
        true
    }

    /// Takes what has come, until a window is over.
    pub(crate) fn receive(&mut self, now: Instant, counters: &mut RxCounters) -> Option<Over> {
        loop {
            let (owner, completion) = self.rx.reap()?;
            counters.frames += 1;
            let arrival = Arrival {
                sof: completion.sof,
                eof: completion.eof,
                len: usize::from(completion.len),
                spoiled: completion.crc_error || completion.overrun,
            };
            let frame = match owner {
                Posted::Page(target) => {
                    drop(target);
                    self.granter.handle_frame(now, arrival, &[])
                }
                Posted::Own(mut page) => {
                    let frame = self.granter.handle_frame(now, arrival, page.bytes(arrival.len));
                    page.recycle(arrival.len);
                    if self.granter.wants_page() && self.rx.post(page.address(), Posted::Own(page)).is_ok() {
                        self.rx.doorbell();
                    }
                    frame
                }
            };
            if let Frame::Last { number, whole } = frame {
                let over = self.unpark(number, whole)?;
                let bytes = over.train.by_window().1 as u64;
                counters.window_bytes += if whole { bytes } else { 0 };
                counters.void_windows += u64::from(!whole);
                return Some(over);
            }
        }
    }

    fn unpark(&mut self, number: u32, whole: bool) -> Option<Over> {
        let is_it = |place: &&mut Option<Parked>| place.as_ref().is_some_and(|parked| parked.number == number);
        let Parked {
            train, held, client, ..
        } = self.parked.iter_mut().find(is_it)?.take()?;
        Some(Over {
            number,
            whole,
            train,
            held,
            client,
        })
    }

    /// The train of a whole window was not carried out.
    pub(crate) fn handle_undelivered(&mut self, number: u32) {
        self.granter.handle_undelivered(number);
    }

    /// Has a page posted for frames of former lives, while they are waited for. In the poll.
    pub(crate) fn post_own(&mut self) {
        if self.granter.wants_page() && self.rx.is_empty() {
            if let Some(page) = self.pool.page() {
                let _ = self.rx.post(page.address(), Posted::Own(page));
                self.rx.doorbell();
            }
        }
    }

    /// A window that was open when the ring was stopped, if there is one: nothing is written to it any more.
    pub(crate) fn take_open(&mut self) -> Option<Over> {
        let number = self.parked.iter().flatten().map(|parked| parked.number).next()?;
        self.unpark(number, false)
    }

    /// The receive ring has been stopped: what was posted is given up, and the lane begins anew.
    pub(crate) fn reset(&mut self, now: Instant, counters: &mut RxCounters) {
        self.rx.restart();
        self.granter.handle_reset(now);
        counters.lane_resets += 1;
    }

    // Both. ---------------------------------------------------------------------------------------------------------

    /// The peer asks what became of its requests.
    pub(crate) fn handle_ask(&mut self, ask: &tbip::direct::Ask) {
        self.granter.handle_ask(ask);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Fault {
        self.granter.handle_timeout(now);
        let mut stuck = false;
        if self.look.is_some_and(|at| at <= now) {
            self.reap();
            let look = self.reaper.handle_timer(now, self.tx.in_flight() != 0);
            self.look = look.again.then(|| now.after(LOOK_AFTER));
            stuck = look.stuck;
        }
        Fault {
            broken: self.granter.is_broken(),
            stuck,
        }
    }

    /// When the timer is to come.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timers = [self.asker.poll_timeout(), self.granter.poll_timeout(), self.look];
        timers.into_iter().flatten().min()
    }

    /// Sends the peer what is to be told and asked.
    pub(crate) fn speak(&mut self, now: Instant, tx: &mut Tx, credit: Seq, counters: &mut TxCounters) {
        if self.granter.is_due() && tx.can_speak() {
            let grant = self.granter.take_grant();
            let _ = tx.send_direct(Ctrl::Grant, credit, &grant.bytes(), counters);
        }
        if tx.can_speak() {
            if let Some(ask) = self.asker.take_ask(now) {
                let _ = tx.send_direct(Ctrl::Ask, credit, &ask.bytes(), counters);
            }
        }
    }

    /// The rings have been stopped: what was posted to receive is given up, and the requests are lost.
    pub(crate) fn lose(&mut self) {
        self.rx.restart();
        self.asker.handle_dead();
    }

    /// Whether a poll would find something.
    pub(crate) fn has_completed(&self) -> bool {
        self.rx.has_completed()
    }

    /// Lets interrupts through again.
    pub(crate) fn poll_complete(&self) {
        self.rx.poll_complete();
        self.tx.poll_complete();
    }
}

/// A place for each window.
fn places<T>() -> Result<KVec<Option<T>>> {
    let mut places = KVec::with_capacity(MAX_WINDOWS, GFP_KERNEL)?;
    for _ in 0..MAX_WINDOWS {
        places.push(None, GFP_KERNEL)?;
    }
    Ok(places)
}
