// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A lane: a pair of rings in use, and who sends and receives on it.
//!
//! ```text
//!   stack --xmit--> tx lock: Tx::send ... doorbell          poll: Rx::poll under the rx lock
//!                      ^                                          then tx lock: credit, reap, wake the queue
//!                      +------------------------------------------ then, without a lock, packets to the stack
//! ```
//!
//! One NAPI serves both rings. A session, from [`Lane::prepare`] to [`Lane::finish`], is the link's: it says when there
//! are rings. Frames sent are taken back when the next packet goes out or comes in; a timer sees to the last ones, if
//! they hold packets of the stack. An interrupt is asked for only when the queue waits for it.
//!
//! What a descriptor in flight holds is its [`crate::tx::Owner`]. Whoever sends does so under the transmit side's lock,
//! takes room and credit there and has its share given back by [`Tx::reap`].
//!
//! Locks: the receive side's, then the transmit side's. Neither is held while packets go up.
//!
//! netpoll, which is netconsole's, calls [`Lane::xmit`] and the poll from any context, with interrupts off: both then
//! try for the transmit side's lock, as who has it may be what was interrupted, and touch no other.

use crate::{
    client::{Client, Held, NotSent, Outbound, Train, WindowOut},
    counters::{RxCounters, TxCounters},
    direct::Direct,
    kapi::{
        napi::{Napi, Polls},
        ndo::{Coalesce, Xmit},
        netdev::Netdev,
        pages::Piece,
        random::random_u64,
        ring::{Ring, Wake},
        skb::{Batch, TxSkb},
        sync::{lock_in_any_context, new_bh_lock, BhLock},
        timer::{self, new_timer, Timed, Timer},
        xdomain::Device,
    },
    rings::{Kick, Rings, Wire},
    rx::{Polled, Rx},
    tx::{Refused, Tx},
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta},
};
use tbip::{
    echo::{self, Outcome, Trial},
    frame::{Ctrl, Seq},
    limits::{MAX_PACKET, MAX_SUPER_PACKET, MAX_TRAIN},
    moderate::{self, Load},
    native::Features,
    reaper::{Look, LOOK_AFTER},
    share::Share,
    stock::Settings,
    time::{Duration, Instant},
};

/// Nanoseconds after which a ring that could not be filled for want of memory is filled again.
const REFILL_AFTER: u64 = 10_000_000;

/// Nanoseconds after which a timer of the direct lane that is due and could not be served comes again.
const DIRECT_PAUSE: u64 = 1_000_000;

/// Whom we speak to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Peer {
    /// Nobody yet.
    None = 0,
    /// ThunderboltIP, packets no longer than the MTU.
    Stock = 1,
    /// ThunderboltIP, packets up to 64 KiB.
    Stock64k = 2,
    /// Ours.
    Native = 3,
}

/// How long a measured round trip is waited for without sleeping.
const SPIN: Duration = Duration::from_micros(200);

/// Pause between two looks for an answer that takes longer.
const PAUSE: Delta = Delta::from_micros(50);

/// Shortest time between two transmit interrupts, which are few and never urgent.
const TX_USECS: u32 = 64;

/// Longest time between two interrupts that can be set: the register has 16 bits of 256 ns.
const MAX_USECS: u32 = 16_000;

/// Frames in flight from which a sender takes back what is done.
const REAP_BATCH: usize = 64;

struct TxSide {
    path: Option<Tx>,
    /// The peer takes frames.
    live: bool,
    /// We stopped the queue.
    stopped: bool,
    /// Between [`Lane::begin`] and [`Lane::quiesce`]: the rings run.
    runs: bool,
    /// The client waits for room.
    wanted: bool,
    /// The client has other lanes beside this one.
    several: bool,
    counters: TxCounters,
}

struct RxSide {
    path: Option<Rx>,
    /// As the transmit side's.
    runs: bool,
    load: Load,
    counters: RxCounters,
}

/// The direct lane, where there is one.
struct DirectSide {
    path: Option<KBox<Direct>>,
    /// As the transmit side's.
    runs: bool,
}

struct Config {
    coalesce: Coalesce,
    rings: Option<Rings>,
}

/// A lane, whether it is open or not.
#[pin_data]
pub(crate) struct Lane {
    netdev: Netdev,
    /// The device that buffers are mapped for.
    dma: Device,
    #[pin]
    napi: Napi<Lane>,
    #[pin]
    rx: BhLock<RxSide>,
    #[pin]
    tx: BhLock<TxSide>,
    #[pin]
    direct: BhLock<DirectSide>,
    /// Whom it concerns that the direct lane is to begin anew, while there is one.
    #[pin]
    kick: BhLock<Option<Arc<dyn Kick>>>,
    broken: AtomicBool,
    #[pin]
    config: BhLock<Config>,
    #[pin]
    timer: Timer<Lane>,
    /// The receive ring waits for memory.
    starved: AtomicBool,
    /// The credit that heads carry.
    credit: AtomicU32,
    /// What we have of the peer's trains, as heads carry it.
    have: AtomicU32,
    peer: AtomicU8,
    /// The timer has come for what the peer has not said of our trains.
    ask: AtomicBool,
    /// Packets have come since the session last asked.
    traffic: AtomicBool,
    /// What was waited for has not gone for long.
    stuck: AtomicBool,
    /// Whose trains go by the lane. Held over its calls.
    #[pin]
    client: BhLock<Option<Arc<dyn Client>>>,
    /// The peer's Ethernet address, while trains may go to it; else 0.
    reaches: AtomicU64,
    /// Most page frames of a train that it takes.
    most_pages: AtomicU8,
    /// Round trips that are being measured.
    #[pin]
    trial: BhLock<Option<Trial<KVVec<u32>>>>,
}

impl Lane {
    /// A lane that carries the packets of `netdev`, and is closed. Sleeps.
    pub(crate) fn new(netdev: &Netdev, dma: Device) -> Result<Arc<Self>> {
        let tx = TxSide {
            path: None,
            live: false,
            stopped: false,
            runs: false,
            wanted: false,
            several: false,
            counters: TxCounters::default(),
        };
        let rx = RxSide {
            path: None,
            runs: false,
            load: Load::new(),
            counters: RxCounters::default(),
        };
        let config = Config {
            coalesce: Coalesce {
                rx_usecs: moderate::IDLE_USECS,
                tx_usecs: TX_USECS,
                adaptive: true,
            },
            rings: None,
        };
        let lane = Arc::pin_init(
            pin_init!(Self {
                netdev: netdev.clone(),
                dma,
                napi <- Napi::new(netdev.clone()),
                rx <- new_bh_lock!(rx, c"usb4_lane_rx"),
                tx <- new_bh_lock!(tx, c"usb4_lane_tx"),
                direct <- new_bh_lock!(DirectSide { path: None, runs: false }, c"usb4_lane_direct"),
                kick <- new_bh_lock!(None, c"usb4_lane_kick"),
                broken: AtomicBool::new(false),
                config <- new_bh_lock!(config, c"usb4_lane_config"),
                timer <- new_timer!(c"usb4_lane_timer"),
                starved: AtomicBool::new(false),
                credit: AtomicU32::new(0),
                have: AtomicU32::new(0),
                peer: AtomicU8::new(Peer::None as u8),
                ask: AtomicBool::new(false),
                traffic: AtomicBool::new(false),
                stuck: AtomicBool::new(false),
                client <- new_bh_lock!(None, c"usb4_lane_client"),
                reaches: AtomicU64::new(0),
                most_pages: AtomicU8::new(0),
                trial <- new_bh_lock!(None, c"usb4_lane_trial"),
            }),
            GFP_KERNEL,
        )?;
        lane.napi.own(&lane);
        lane.timer.own(&lane);
        Ok(lane)
    }

    /// Ends for good; the lane is closed and its netdev has stopped. Sleeps.
    pub(crate) fn end(&self) {
        self.timer.close();
    }

    // The link's session. -------------------------------------------------------------------------------------------

    /// There are rings, which do not run yet: makes all that they need and posts the receive buffers. What can fail
    /// fails here, where no hardware knows of a page.
    /// `direct` are those of the direct lane; `kick` is kicked when [`Self::take_broken`] has something to tell.
    pub(crate) fn prepare(&self, rings: Rings, direct: Option<&Rings>, wire: Wire, kick: &Arc<dyn Kick>) -> Result {
        let dma = self.dma;
        let direct = match direct {
            Some(rings) => Some(Direct::new(rings, dma, self.napi.raw(), random_u64() as u32)?),
            None => None,
        };
        let tx = Tx::new(rings.tx.clone(), &wire, dma)?;
        let (rx, credit) = Rx::new(rings.rx.clone(), &wire, dma, self.napi.raw())?;
        let peer = match wire {
            Wire::Native { .. } => Peer::Native,
            Wire::Stock { settings } if settings.has(Settings::FRAMES_64K) => Peer::Stock64k,
            Wire::Stock { .. } => Peer::Stock,
        };
        self.peer.store(peer as u8, Ordering::Relaxed);
        let runs = matches!(wire, Wire::Native { plan } if plan.features.has(Features::RUNS));
        self.netdev.set_runs(runs);
        if let Wire::Native { plan } = wire {
            self.most_pages.store(plan.max_pages, Ordering::Relaxed);
        }
        self.credit.store(credit.0, Ordering::Relaxed);
        self.have.store(rx.have().0, Ordering::Relaxed);
        {
            let mut side = self.rx.lock();
            side.path = Some(rx);
            side.load = Load::new();
        }
        {
            let mut side = self.tx.lock();
            let TxSide { path, several, .. } = &mut *side;
            path.insert(tx).set_several(*several);
            side.live = false;
            side.stopped = true;
        }
        self.config.lock().rings = Some(rings);
        if direct.is_some() {
            *self.kick.lock() = Some(kick.clone());
        }
        self.direct.lock().path = direct;
        Ok(())
    }

    /// The rings run: the hardware is told of the buffers. Frames may come from the return on.
    pub(crate) fn begin(&self) {
        {
            let mut side = self.rx.lock();
            side.runs = true;
            if let Some(rx) = &mut side.path {
                rx.begin();
            }
        }
        self.tx.lock().runs = true;
        self.direct.lock().runs = true;
        {
            let config = self.config.lock();
            if let Some(rings) = &config.rings {
                set_throttle(&rings.rx, config.coalesce.rx_usecs);
                set_throttle(&rings.tx, config.coalesce.tx_usecs);
            }
        }
        self.napi.enable();
        self.napi.schedule();
    }

    /// The peer takes frames.
    pub(crate) fn go(&self) {
        let wanted = {
            let mut side = self.tx.lock();
            side.live = true;
            side.stopped = false;
            core::mem::take(&mut side.wanted)
        };
        self.netdev.set_carrier(true);
        self.netdev.wake_queue();
        if let (true, Some(client)) = (wanted, &*self.client.lock()) {
            client.on_room();
        }
    }

    /// Trains may go to the peer, which has this Ethernet address; or none may.
    pub(crate) fn set_reach(&self, mac: Option<[u8; 6]>) {
        self.reaches.store(mac.map_or(0, mac_number), Ordering::Relaxed);
    }

    /// The peer takes no frames any more.
    pub(crate) fn halt(&self) {
        self.netdev.set_carrier(false);
        // Before the queue is stopped: a poll on another processor wakes a live one that has room.
        {
            let mut side = self.tx.lock();
            side.live = false;
            side.stopped = true;
        }
        self.set_reach(None);
        self.netdev.disable_queue();
    }

    /// From the return on nobody touches the rings.
    pub(crate) fn quiesce(&self) {
        self.halt();
        self.napi.disable();
        // The last poll lets interrupts through after the core has counted it as done, perhaps on another processor,
        // and the timer looks at what is on its way: both see under the locks that the rings are about to stop.
        self.rx.lock().runs = false;
        self.tx.lock().runs = false;
        self.direct.lock().runs = false;
        let rings = self.config.lock().rings.take();
        drop(rings);
    }

    /// The rings are stopped: gives up what they had.
    pub(crate) fn finish(&self) {
        if let Some(tx) = &mut self.tx.lock().path {
            tx.lose();
        }
        self.tell_lost();
        if let Some(direct) = &mut self.direct.lock().path {
            direct.lose();
        }
        self.end_windows();
        self.tell_direct();
        let rx = self.rx.lock().path.take();
        let tx = self.tx.lock().path.take();
        let direct = self.direct.lock().path.take();
        let kick = self.kick.lock().take();
        // Not under the locks: this sleeps.
        drop((rx, tx, direct, kick));
        self.netdev.reset_sent();
        self.peer.store(Peer::None as u8, Ordering::Relaxed);
        self.netdev.set_runs(false);
    }

    /// Whether the direct lane is to begin anew, since the last call.
    pub(crate) fn take_broken(&self) -> bool {
        self.broken.swap(false, Ordering::Relaxed)
    }

    /// From the return on nobody touches the rings of the direct lane.
    pub(crate) fn quiesce_direct(&self) {
        self.direct.lock().runs = false;
    }

    /// The receive ring of the direct lane has been stopped: its windows end. Sleeps not, but is long.
    pub(crate) fn reset_direct(&self) {
        {
            let mut side = self.direct.lock();
            let counters = &mut self.rx.lock().counters;
            if let Some(direct) = &mut side.path {
                direct.reset(Instant(timer::now()), counters);
            }
        }
        self.end_windows();
    }

    /// The ring runs again.
    pub(crate) fn begin_direct(&self) {
        self.direct.lock().runs = true;
        self.napi.schedule();
    }

    /// Tells the client of windows that were open when the ring was stopped.
    fn end_windows(&self) {
        // Each turn ends a window.
        loop {
            let over = self.direct.lock().path.as_mut().and_then(|direct| direct.take_open());
            let Some(over) = over else {
                return;
            };
            if let Some(client) = &*self.client.lock() {
                client.on_window(&over.train, over.held, false);
            }
        }
    }

    /// Tells the client what became of trains that asked for windows. No lock of the lane is held.
    fn tell_direct(&self) {
        // Each turn ends a request.
        loop {
            let told = {
                let mut side = self.direct.lock();
                side.path.as_mut().and_then(|direct| direct.told(Instant(timer::now())))
            };
            let Some(told) = told else {
                return;
            };
            if let Some(client) = &*self.client.lock() {
                client.on_told(told);
            }
        }
    }

    /// Whether packets have come since the last call.
    pub(crate) fn take_traffic(&self) -> bool {
        self.traffic.swap(false, Ordering::Relaxed)
    }

    /// Whether the rings have got stuck since the last call. Counted as a timeout.
    pub(crate) fn take_stuck(&self) -> bool {
        let stuck = self.stuck.swap(false, Ordering::Relaxed);
        if stuck {
            self.count_timeout();
        }
        stuck
    }

    // The stack. ----------------------------------------------------------------------------------------------------

    /// Sends a packet. Softirqs are off; for netpoll, interrupts too.
    pub(crate) fn xmit(&self, skb: TxSkb) -> Xmit {
        let Some(mut side) = lock_in_any_context(&self.tx) else {
            return Xmit::Busy(skb);
        };
        let TxSide {
            path,
            live,
            stopped,
            wanted,
            counters,
            ..
        } = &mut *side;
        let Some(tx) = path.as_mut().filter(|_| *live) else {
            counters.dropped += 1;
            return Xmit::Taken;
        };
        // What was sent before is taken back at the sender's cost, when there is enough of it to be worth a look.
        if tx.in_flight() >= REAP_BATCH {
            tx.reap(&self.netdev, false);
        }
        let credit = Seq(self.credit.load(Ordering::Relaxed));
        let (told, back) = match tx.send(&self.netdev, skb, credit, counters) {
            Ok(now) => (now, None),
            Err(Refused::Dropped) => (!self.netdev.more(), None),
            Err(Refused::Busy(skb)) => (true, Some(skb)),
        };
        if !tx.has_room() {
            tx.reap(&self.netdev, false);
        }
        if !tx.has_room() {
            self.netdev.stop_queue();
            *stopped = true;
            tx.blocked(Instant(timer::now()), MAX_TRAIN, counters);
            if let Some(at) = tx.probe_at() {
                self.timer.arm(at.0);
            }
        }
        if told || *stopped {
            tx.doorbell(counters);
        }
        if tx.poll_timer(&self.netdev, *wanted) {
            self.timer.arm(timer::now() + LOOK_AFTER.0);
        }
        back.map_or(Xmit::Taken, Xmit::Busy)
    }

    /// Whether a packet that stands for several can go as it is. Types as virtio-net has them.
    pub(crate) fn can_send_whole(&self, len: usize, gso_type: u8) -> bool {
        let peer = self.peer.load(Ordering::Relaxed);
        if peer == Peer::Native as u8 {
            len <= MAX_SUPER_PACKET && matches!(gso_type, 1 | 4 | 5)
        } else {
            // A stock peer takes it for one long packet, as its own kind sends them.
            peer == Peer::Stock64k as u8 && len <= MAX_PACKET && matches!(gso_type, 1 | 4)
        }
    }

    /// Whether the peer is ours.
    pub(crate) fn is_native(&self) -> bool {
        self.peer.load(Ordering::Relaxed) == Peer::Native as u8
    }

    /// The stack complains that nothing goes out.
    pub(crate) fn count_timeout(&self) {
        self.tx.lock().counters.timeouts += 1;
    }

    /// What has been counted.
    pub(crate) fn counters(&self) -> (TxCounters, RxCounters) {
        let rx = self.rx.lock().counters;
        let tx = self.tx.lock().counters;
        (tx, rx)
    }

    /// When interrupts come.
    pub(crate) fn coalesce(&self) -> Coalesce {
        self.config.lock().coalesce
    }

    /// Sets when interrupts come.
    ///
    /// # Errors
    ///
    /// `EINVAL` for times that the hardware does not know.
    pub(crate) fn set_coalesce(&self, to: Coalesce) -> Result {
        if to.rx_usecs > MAX_USECS || to.tx_usecs > MAX_USECS {
            return Err(EINVAL);
        }
        let mut config = self.config.lock();
        config.coalesce = to;
        if let Some(rings) = &config.rings {
            set_throttle(&rings.rx, to.rx_usecs);
            set_throttle(&rings.tx, to.tx_usecs);
        }
        Ok(())
    }

    /// Measures round trips to the peer's poll and back. A second at most. Sleeps, under RTNL, so one at a time.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` with a peer that is not ours, `ENETDOWN` while the cable does not carry, `ENOMEM`.
    pub(crate) fn measure(&self) -> Result<Outcome> {
        let mut samples = KVVec::new();
        samples.resize(echo::ROUNDS, 0, GFP_KERNEL)?;
        *self.trial.lock() = Some(Trial::new(samples, random_u64()));
        let done = self.rounds();
        let trial = self.trial.lock().take();
        done?;
        Ok(trial.map_or_else(Outcome::default, |mut trial| trial.outcome()))
    }

    fn rounds(&self) -> Result {
        loop {
            {
                let mut side = self.tx.lock();
                let TxSide {
                    path, live, counters, ..
                } = &mut *side;
                let tx = path.as_mut().filter(|_| *live).ok_or(ENETDOWN)?;
                if !self.is_native() {
                    return Err(EOPNOTSUPP);
                }
                let begun = match &mut *self.trial.lock() {
                    Some(trial) => trial.begin(Instant(timer::now())),
                    None => None,
                };
                let Some(token) = begun else {
                    return Ok(());
                };
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                tx.reap(&self.netdev, false);
                if tx.send_echo(Ctrl::Echo, token, credit, counters) {
                    tx.doorbell(counters);
                }
            }
            let begun = Instant(timer::now());
            loop {
                let now = Instant(timer::now());
                let waits = match &*self.trial.lock() {
                    Some(trial) => trial.is_waiting(now),
                    None => false,
                };
                if !waits {
                    break;
                }
                // As a program that polls: whoever sleeps measures how long it takes to wake him.
                if now.since(begun) < SPIN {
                    core::hint::spin_loop();
                } else {
                    fsleep(PAUSE);
                }
            }
        }
    }

    // The client. ---------------------------------------------------------------------------------------------------

    /// The client's place.
    pub(crate) fn client(&self) -> &BhLock<Option<Arc<dyn Client>>> {
        &self.client
    }

    /// Whether trains may go to the host with this Ethernet address.
    pub(crate) fn reaches(&self, mac: [u8; 6]) -> bool {
        self.reaches.load(Ordering::Relaxed) == mac_number(mac)
    }

    /// Whether the client has other lanes beside this one.
    pub(crate) fn set_several(&self, several: bool) {
        let mut side = self.tx.lock();
        side.several = several;
        if let Some(tx) = &mut side.path {
            tx.set_several(several);
        }
    }

    /// Most page frames of a train.
    pub(crate) fn most_pages(&self) -> usize {
        usize::from(self.most_pages.load(Ordering::Relaxed))
    }

    /// Whether any train has room. If not, the client is told when it has; or when the peer is there again.
    pub(crate) fn has_room(&self) -> bool {
        let mut side = self.tx.lock();
        let TxSide {
            path,
            live,
            wanted,
            counters,
            ..
        } = &mut *side;
        let Some(tx) = path.as_mut().filter(|_| *live) else {
            *wanted = true;
            return false;
        };
        if tx.in_flight() >= REAP_BATCH {
            tx.reap(&self.netdev, false);
        }
        if tx.has_train_room() {
            return true;
        }
        *wanted = true;
        tx.blocked(Instant(timer::now()), Share::NEEDED, counters);
        if let Some(at) = tx.probe_at() {
            self.timer.arm(at.0);
        }
        if tx.poll_timer(&self.netdev, true) {
            self.timer.arm(timer::now() + LOOK_AFTER.0);
        }
        false
    }

    /// See [`crate::port::Port::post`].
    pub(crate) fn post<E>(
        &self,
        train: &Outbound<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        let mut side = self.tx.lock();
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        let tx = path.as_mut().filter(|_| *live).ok_or(NotSent::Busy)?;
        let credit = Seq(self.credit.load(Ordering::Relaxed));
        let have = Seq(self.have.load(Ordering::Relaxed));
        tx.send_train(train, held, (credit, have), copy, counters)
    }

    /// Whether windows are worth asking for, if perhaps there is no room for one now.
    pub(crate) fn has_windows(&self) -> bool {
        let side = self.direct.lock();
        let now = Instant(timer::now());
        side.path
            .as_ref()
            .is_some_and(|direct| side.runs && direct.is_worth(now))
    }

    /// Whether a window may be asked for now. If not, the client is told of room when there may be.
    pub(crate) fn has_window_room(&self) -> bool {
        let room = {
            let side = self.direct.lock();
            side.path.as_ref().is_some_and(|direct| side.runs && direct.has_room())
        };
        if !room {
            self.tx.lock().wanted = true;
        }
        room
    }

    /// See [`crate::port::Port::post_window`].
    pub(crate) fn post_window<E>(
        &self,
        train: &Outbound<'_>,
        window: WindowOut<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        let mut direct = self.direct.lock();
        let runs = direct.runs;
        let direct = direct.path.as_mut().filter(|_| runs).ok_or(NotSent::Busy)?;
        let mut side = self.tx.lock();
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        let tx = path.as_mut().filter(|_| *live).ok_or(NotSent::Busy)?;
        let credit = Seq(self.credit.load(Ordering::Relaxed));
        let have = Seq(self.have.load(Ordering::Relaxed));
        direct.ask(tx, train, (window, held), (credit, have), copy, counters)?;
        if let Some(at) = direct.poll_timeout() {
            self.timer.arm(at.0);
        }
        Ok(())
    }

    /// Tells the hardware of what the client has posted.
    pub(crate) fn ring(&self) {
        let mut side = self.tx.lock();
        let TxSide {
            path, wanted, counters, ..
        } = &mut *side;
        if let Some(tx) = path.as_mut() {
            tx.doorbell(counters);
            if tx.poll_timer(&self.netdev, *wanted) {
                self.timer.arm(timer::now() + LOOK_AFTER.0);
            }
            if let Some(at) = tx.arm_to_ask() {
                self.timer.arm(at.0);
            }
        }
    }

    /// Tells the client of the trains that are lost. No lock of the lane is held.
    #[inline(never)]
    fn tell_lost(&self) {
        // Each turn ends a train in flight.
        loop {
            let lost = {
                let mut side = self.tx.lock();
                let TxSide { path, counters, .. } = &mut *side;
                path.as_mut().and_then(|tx| tx.take_lost(counters))
            };
            let Some(token) = lost else {
                return;
            };
            if let Some(client) = &*self.client.lock() {
                client.on_lost(token);
            }
        }
    }

    /// A train asks for a window.
    #[inline(never)]
    fn asked(&self, train: &Arc<Train>) {
        let mut decided = false;
        let mut post = |pieces: &[Piece], tail: &[Piece], held: KBox<dyn Held>| {
            decided = true;
            let mut side = self.direct.lock();
            let runs = side.runs;
            let direct = side.path.as_mut().filter(|_| runs);
            direct.is_some_and(|direct| direct.grant(Instant(timer::now()), train, (pieces, tail), held))
        };
        if let Some(client) = &*self.client.lock() {
            client.on_ask(train, &mut post);
        }
        if !decided {
            if let Some(direct) = &mut self.direct.lock().path {
                direct.refuse(train);
            }
        }
    }

    /// The direct lane's part of a poll.
    #[inline(never)]
    fn serve_direct(&self, found: &Polled) {
        let now = Instant(timer::now());
        {
            let mut side = self.direct.lock();
            let runs = side.runs;
            let Some(direct) = side.path.as_mut().filter(|_| runs) else {
                return;
            };
            if let Some(grant) = &found.grant {
                direct.hear(now, grant);
            }
            if let Some(ask) = &found.ask {
                direct.handle_ask(ask);
            }
            let mut tx = self.tx.lock();
            direct.fill(&mut tx.counters);
        }
        // Each turn ends a window.
        loop {
            let over = {
                let mut side = self.direct.lock();
                let runs = side.runs;
                let counters = &mut self.rx.lock().counters;
                let direct = side.path.as_mut().filter(|_| runs);
                direct.and_then(|direct| direct.receive(now, counters))
            };
            let Some(over) = over else {
                break;
            };
            // Not under the lock, as with trains.
            let done = match &*self.client.lock() {
                Some(client) => client.on_window(&over.train, over.held, over.whole),
                None => false,
            };
            if over.whole && !done {
                if let Some(direct) = &mut self.direct.lock().path {
                    direct.handle_undelivered(over.number);
                }
            }
        }
        let (broken, at) = {
            let mut side = self.direct.lock();
            let runs = side.runs;
            let Some(direct) = side.path.as_mut().filter(|_| runs) else {
                return;
            };
            direct.post_own();
            let broken = direct.handle_timeout(now);
            let mut tx = self.tx.lock();
            let TxSide {
                path, live, counters, ..
            } = &mut *tx;
            if let Some(tx) = path.as_mut().filter(|_| *live) {
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                direct.speak(now, tx, credit, counters);
            }
            (broken, direct.poll_timeout())
        };
        if broken && !self.broken.swap(true, Ordering::Relaxed) {
            let kick = self.kick.lock().clone();
            if let Some(kick) = kick {
                kick.kick();
            }
        }
        if let Some(at) = at {
            self.timer.arm(at.0.max(now.0 + DIRECT_PAUSE));
        }
        self.tell_direct();
    }

    fn hand_over(&self, train: &Arc<Train>) {
        match &*self.client.lock() {
            Some(client) => client.on_train(train),
            None => self.rx.lock().counters.other_kind += 1,
        }
    }

    // The poll. -----------------------------------------------------------------------------------------------------

    /// Gives credit while there are trains to hand over. Whether it could.
    fn give_credit(&self, give: Seq, wanted: bool) -> bool {
        self.credit.store(give.0, Ordering::Relaxed);
        let Some(mut side) = lock_in_any_context(&self.tx) else {
            return false;
        };
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        if let Some(tx) = path.as_mut().filter(|_| *live) {
            tx.give_credit(give, wanted, counters);
            tx.doorbell(counters);
        }
        true
    }

    /// The transmit side's part of a poll; `napi`: not netpoll's. Whether the client is to be told of room.
    #[inline(never)]
    fn serve_tx(&self, found: &Polled, napi: bool) -> bool {
        if let Some(give) = found.give {
            self.credit.store(give.0, Ordering::Relaxed);
        }
        let Some(mut side) = lock_in_any_context(&self.tx) else {
            return false;
        };
        let TxSide {
            path,
            live,
            stopped,
            wanted,
            counters,
            ..
        } = &mut *side;
        let Some(tx) = path.as_mut() else {
            return false;
        };
        if let Some(limit) = found.credit {
            tx.handle_credit(limit);
        }
        if found.carried.is_some() || found.heard.is_some() {
            tx.handle_account(Instant(timer::now()), found.carried, found.heard.as_ref());
        }
        tx.reap(&self.netdev, napi);
        if *live {
            if let Some(token) = found.echo {
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                tx.send_echo(Ctrl::Answer, token, credit, counters);
            }
            if let Some(give) = found.give {
                tx.give_credit(give, found.give_now, counters);
                if let Some(at) = tx.probe_at() {
                    tx.probe(Instant(timer::now()), give, counters);
                    self.timer.arm(tx.probe_at().unwrap_or(at).0);
                }
            }
            let credit = Seq(self.credit.load(Ordering::Relaxed));
            if let Some(report) = &found.tell {
                tx.report(credit, report, counters);
            }
            if self.ask.load(Ordering::Relaxed) {
                self.ask.store(false, Ordering::Relaxed);
                let have = Seq(self.have.load(Ordering::Relaxed));
                tx.ask(Instant(timer::now()), credit, have, counters);
                if let Some(at) = tx.timer_to_ask() {
                    self.timer.arm(at.0);
                }
            }
            tx.doorbell(counters);
            if *stopped && tx.has_much_room() {
                *stopped = false;
                self.netdev.wake_queue();
            }
            return tx.has_train_room() && core::mem::take(wanted);
        }
        false
    }

    /// Lets interrupts through again, and looks once more: what came meanwhile may have raised none.
    fn let_interrupts(&self) {
        let again = {
            let side = self.rx.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|rx| {
                rx.poll_complete();
                rx.has_completed()
            })
        };
        let more = {
            let side = self.tx.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|tx| {
                tx.poll_complete();
                // Stopped by us, or by the stack's limit of bytes on their way; or the client waits.
                (self.netdev.is_throttled() || side.wanted) && side.live && tx.has_completed()
            })
        };
        let direct = {
            let side = self.direct.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|direct| {
                direct.poll_complete();
                direct.has_completed()
            })
        };
        if again || more || direct {
            self.napi.schedule();
        }
    }

    /// Before a poll after which the interval is decided: what has been sent ever, by the client's other lanes too, as
    /// they may have the answers to what comes by this one; and whether frames leave now.
    #[inline(never)]
    fn look(&self) -> Option<(u64, bool)> {
        if !self.rx.lock().load.is_due() {
            return None;
        }
        let (sent, trains, several, leaving) = lock_in_any_context(&self.tx).map(|side| {
            let TxCounters { frames, trains, .. } = side.counters;
            (
                frames,
                trains,
                side.several,
                side.path.as_ref().is_some_and(Tx::is_sending),
            )
        })?;
        let others = match &*self.client.lock() {
            Some(client) if several => client.sent().saturating_sub(trains),
            _ => 0,
        };
        Some((sent.saturating_add(others), leaving))
    }

    fn moderate(&self, usecs: u32) {
        let mut config = self.config.lock();
        if config.coalesce.adaptive && config.coalesce.rx_usecs != usecs {
            config.coalesce.rx_usecs = usecs;
            if let Some(rings) = &config.rings {
                set_throttle(&rings.rx, usecs);
            }
        }
    }
}

impl Polls for Lane {
    fn poll(&self, budget: i32) -> i32 {
        if budget == 0 {
            let _ = self.serve_tx(&Polled::default(), false);
            return 0;
        }
        let mut batch = Batch::new();
        let mut found = Polled::default();
        let mut seen = None;
        let looked = self.look();
        loop {
            let train = {
                let mut side = self.rx.lock();
                let RxSide {
                    path, load, counters, ..
                } = &mut *side;
                let train = path.as_mut().and_then(|rx| {
                    if let Some(seen) = seen.take() {
                        rx.take_back(seen);
                    }
                    rx.poll(budget, &self.netdev, self.napi.raw(), &mut batch, &mut found, counters)
                });
                if train.is_none() && load.add(found.frames) {
                    // Where the transmit side is busy the next poll asks.
                    if let Some((sent, leaving)) = looked {
                        let usecs = load.decide(Instant(timer::now()), sent, leaving);
                        self.moderate(usecs);
                    }
                }
                train
            };
            if let Some(have) = found.have {
                self.have.store(have.0, Ordering::Relaxed);
            }
            let Some(train) = train else {
                break;
            };
            if let Some(give) = found.give.take() {
                if self.give_credit(give, found.give_now) {
                    found.give_now = false;
                }
            }
            // Not under the lock: the client's locks come before the transmit side's, and it copies.
            if train.meta().window.is_some() {
                self.asked(&train);
            } else {
                self.hand_over(&train);
            }
            seen = Arc::into_unique_or_drop(train);
        }
        if let Some(token) = found.answer {
            if let Some(trial) = &mut *self.trial.lock() {
                trial.handle_answer(Instant(timer::now()), token);
            }
        }
        self.serve_direct(&found);
        let room = self.serve_tx(&found, true);
        if found.carried.is_some() || found.heard.is_some() {
            self.tell_lost();
        }
        if found.packets != 0 || found.credit.is_some() {
            self.traffic.store(true, Ordering::Relaxed);
        }
        if found.starved {
            self.starved.store(true, Ordering::Relaxed);
            self.timer.arm(timer::now() + REFILL_AFTER);
        }
        batch.deliver(self.napi.raw());
        if room {
            if let Some(client) = &*self.client.lock() {
                client.on_room();
            }
        }
        if found.more {
            return budget;
        }
        let work = found.packets.min(budget - 1);
        if self.napi.done(work) {
            self.let_interrupts();
        }
        work
    }
}

impl Wake for Lane {
    fn wake(&self) -> bool {
        self.napi.schedule()
    }
}

const fn mac_number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 1, a, b, c, d, e, f])
}

fn set_throttle(ring: &Ring, usecs: u32) {
    ring.set_throttle(usecs * 1_000);
}

impl Timed for Lane {
    fn on_timer(&self) {
        let now = Instant(timer::now());
        let (look, probe, ask_at) = {
            let mut side = self.tx.lock();
            let TxSide { path, wanted, live, .. } = &mut *side;
            path.as_mut().map_or((Look::default(), false, None), |tx| {
                (
                    tx.handle_timer(now, &self.netdev, *wanted),
                    tx.probe_at().is_some(),
                    tx.timer_to_ask().filter(|_| *live),
                )
            })
        };
        // Trains that are told move the time to ask, and not the timer.
        let ask = ask_at.is_some_and(|at| at <= now);
        if ask {
            self.ask.store(true, Ordering::Relaxed);
        } else if let Some(at) = ask_at {
            self.timer.arm(at.0);
        }
        if look.stuck {
            self.stuck.store(true, Ordering::Relaxed);
        }
        if look.again {
            self.timer.arm(timer::now() + LOOK_AFTER.0);
        }
        let starved = self.starved.swap(false, Ordering::Relaxed);
        let direct_at = {
            let side = self.direct.lock();
            let direct = side.path.as_ref().filter(|_| side.runs);
            direct.and_then(|direct| direct.poll_timeout())
        };
        let direct = direct_at.is_some_and(|at| at <= now);
        if let Some(at) = direct_at.filter(|_| !direct) {
            self.timer.arm(at.0);
        }
        if look.poll || probe || ask || starved || direct {
            self.wake();
        }
    }
}
