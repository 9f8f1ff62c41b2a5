// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Links: one for each cable with a peer, from its first service to the end of the XDomain.
//!
//! ```text
//!   bus (probe, remove, suspend, ...) --wish-->  Link  --worker--> Session --> Rig, Netif
//!   control channel               --letters-->    |
//!   netdev (open, stop)              --wish-->     |  <--wait: settled
//! ```
//!
//! Nobody but the worker acts. Others say what they wish, and wait for it to be so where they must. The netdev lives as
//! long as the cable: a peer that reloads its driver takes its services away and brings them back, and the addresses
//! stay.
//!
//! Nothing on the bus waits for RTNL under a lock that the worker may want: netdevs are made by the worker and removed
//! when a device of the bus goes, which is outside of the domain's lock.

use crate::{
    kapi::{
        links,
        ring::{Look, Wake},
        sync::{new_irq_lock, IrqLock},
        timer::{self, new_timer, sleep_ms, Timed, Timer},
        work::{Worker, Works},
        xdomain::{Device, Xdomain},
    },
    lane::Lane,
    netif::Netif,
    session::{now, Session},
};
use core::{
    mem, ptr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, Mutex},
};
use tbip::{
    stock::Settings,
    time::Instant,
    wire::{Ends, Message, MessageBuf},
};

/// Messages that wait for a worker. More are dropped: peers repeat theirs.
const LETTERS: usize = 8;

/// Longest wait for the end of a goodbye.
const GOODBYE_MS: u32 = 400;

/// Nanoseconds after which a netdev that could not be made is tried for again.
const NETIF_RETRY: u64 = 1_000_000_000;

/// Re-scan of the rings: at first, and at most when nothing moves.
const RESCAN_MIN: u64 = 4_000_000;
const RESCAN_MAX: u64 = 64_000_000;

/// Descriptors of a ring, if nobody says otherwise.
const RING_SIZE: u32 = 512;
const RING_SIZE_MIN: u32 = 64;
const RING_SIZE_MAX: u32 = 4096;

/// Whether end-to-end flow control is offered; set before the first link.
static OFFER_E2E: AtomicBool = AtomicBool::new(false);

/// Messages that were of no cable of ours.
static STRAYS: AtomicU64 = AtomicU64::new(0);

/// What a service of the peer stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ThunderboltIP, with what the peer offers.
    Stock(Settings),
    /// Ours.
    Native,
}

/// What everybody else wishes of the worker.
#[derive(Clone)]
pub(crate) struct Wish {
    generation: u64,
    stock: Option<Settings>,
    native: bool,
    open: bool,
    suspended: bool,
    dying: bool,
    /// The cable's ends.
    pub(crate) ends: Option<Ends>,
    /// Our Ethernet address.
    pub(crate) mac: [u8; 6],
    /// Transmit descriptors.
    pub(crate) tx: u32,
    /// Receive descriptors.
    pub(crate) rx: u32,
    /// Stop and start: something that is fixed while it runs has changed. Once.
    pub(crate) restart: bool,
    /// The rings do not work. Once.
    pub(crate) fault: bool,
}

impl Wish {
    /// Which wire is to be spoken: ours if the peer speaks it.
    pub(crate) fn kind(&self) -> Option<Kind> {
        if self.native {
            Some(Kind::Native)
        } else {
            self.stock.map(Kind::Stock)
        }
    }

    /// Whether the link is to be up.
    pub(crate) fn runs(&self) -> bool {
        self.open && !self.suspended && !self.dying && self.kind().is_some()
    }
}

/// What the worker has made of a wish.
struct Settled {
    generation: u64,
    closed: bool,
    silent: bool,
}

/// Messages that wait, oldest first.
struct Letters {
    /// A ring of [`LETTERS`] places, on the heap: they are large.
    waiting: KVec<Option<MessageBuf>>,
    first: usize,
    count: usize,
}

/// The rings that are looked at now and then.
struct Watch {
    lane: Option<Lane>,
    tx: Look,
    rx: Look,
    period: u64,
}

/// What a link counts beside its netdev.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Completions found by the re-scan.
    pub(crate) stranded: u64,
    /// Control messages dropped because too many waited.
    pub(crate) letters_dropped: u64,
    /// Control messages that could not be sent.
    pub(crate) send_errors: u64,
    /// Control messages of no cable of ours; all cables together.
    pub(crate) strays: u64,
}

/// A cable with a peer.
#[pin_data]
pub(crate) struct Link {
    xd: Xdomain,
    ends: Ends,
    #[pin]
    wish: IrqLock<Wish>,
    #[pin]
    letters: IrqLock<Letters>,
    #[pin]
    session: Mutex<Session>,
    #[pin]
    netif: Mutex<Option<Arc<Netif>>>,
    #[pin]
    settled: Mutex<Settled>,
    /// Whether [`Link::end`] is through. Held meanwhile.
    #[pin]
    ended: Mutex<bool>,
    #[pin]
    changed: CondVar,
    #[pin]
    watch: IrqLock<Watch>,
    #[pin]
    rescan: Timer<Link>,
    #[pin]
    worker: Worker<Link>,
    /// No netdev could be made: not before then. 0 if none was tried for in vain.
    barren: AtomicU64,
    traffic: AtomicBool,
    up: AtomicBool,
    stranded: AtomicU64,
    letters_dropped: AtomicU64,
    send_errors: AtomicU64,
}

impl Wake for Netif {
    fn wake(&self) -> bool {
        Netif::wake(self)
    }
}

// Registry. ---------------------------------------------------------------------------------------------------------

/// Before anything of the bus can come in. `e2e`: end-to-end flow control is offered.
pub(crate) fn start(e2e: bool) {
    OFFER_E2E.store(e2e, Ordering::Relaxed);
    links::start();
}

/// Every link ends. Nothing of the bus comes in any more.
pub(crate) fn stop() {
    gone(|_| true);
    // Statics are not dropped: the empty vector's memory goes here.
    drop(links::with(mem::take));
}

fn find(is: impl Fn(&Link) -> bool) -> Option<Arc<Link>> {
    links::with(|links| links.iter().find(|link| is(link)).cloned())
}

/// The one link of a cable: `link`, or the one that another service's probe has put on the list meanwhile.
fn share(link: Arc<Link>) -> Result<Arc<Link>> {
    links::with(|links| match links.iter().find(|other| other.xd == link.xd) {
        Some(other) => Ok(other.clone()),
        None => {
            links.push(link.clone(), GFP_KERNEL)?;
            Ok(link)
        }
    })
}

/// The peer at `xd` offers a service.
pub(crate) fn bind(xd: Xdomain, kind: Kind) -> Result {
    let link = match find(|link| link.xd == xd) {
        Some(link) => link,
        None => {
            let ends = xd.ends().ok_or(ENODEV)?;
            let mut waiting = KVec::with_capacity(LETTERS, GFP_KERNEL)?;
            for _ in 0..LETTERS {
                waiting.push(None, GFP_KERNEL)?;
            }
            let link = Arc::pin_init(Link::new(xd, ends, waiting), GFP_KERNEL)?;
            link.worker.own(&link);
            link.rescan.own(&link);
            share(link)?
        }
    };
    link.ask(|wish| match kind {
        Kind::Stock(settings) => wish.stock = Some(settings),
        Kind::Native => wish.native = true,
    });
    Ok(())
}

/// The service is no more: the peer has taken it back, the cable is out, or we leave the bus.
pub(crate) fn unbind(xd: &Xdomain, kind: Kind) {
    if let Some(link) = find(|link| link.xd == *xd) {
        link.ask(|wish| match kind {
            Kind::Stock(_) => wish.stock = None,
            Kind::Native => wish.native = false,
        });
    }
}

/// Links to which `is` applies end: the device that they are on goes away. When this returns they have ended, whoever
/// ended them. Sleeps.
pub(crate) fn gone(is: impl Fn(&Xdomain) -> bool) {
    while let Some(link) = find(|link| is(&link.xd)) {
        // On the list until it has ended: answers to its goodbye are heard, and who comes meanwhile waits as well.
        link.end();
        let listed = links::with(|links| {
            let at = links.iter().position(|other| Arc::ptr_eq(other, &link))?;
            let last = links.len() - 1;
            links.swap(at, last);
            links.pop()
        });
        drop(listed);
    }
}

/// The host is about to sleep or to go down: nothing is on the cable from the return on.
pub(crate) fn suspend(xd: &Xdomain) {
    if let Some(link) = find(|link| link.xd == *xd) {
        let netif = link.netif.lock().clone();
        if let Some(netif) = netif {
            netif.suspend();
        }
        let generation = link.ask(|wish| wish.suspended = true);
        link.wait_closed(generation);
        link.wait_silent(generation);
    }
}

/// The host is awake again.
pub(crate) fn resume(xd: &Xdomain) {
    if let Some(link) = find(|link| link.xd == *xd) {
        link.ask(|wish| wish.suspended = false);
        let netif = link.netif.lock().clone();
        if let Some(netif) = netif {
            netif.resume();
        }
    }
}

/// A control message has come, from anyone on any cable.
pub(crate) fn hear(bytes: &[u8]) {
    let link = Message::parse(bytes)
        .ok()
        .and_then(|message| find(|link| link.ends.received(message.header())));
    match link {
        Some(link) => link.deliver(bytes),
        None => {
            STRAYS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// A link. -----------------------------------------------------------------------------------------------------------

impl Link {
    fn new(xd: Xdomain, ends: Ends, waiting: KVec<Option<MessageBuf>>) -> impl PinInit<Self> {
        let mac = mac_of(&ends);
        let wish = Wish {
            generation: 0,
            stock: None,
            native: false,
            open: false,
            suspended: false,
            dying: false,
            ends: Some(ends),
            mac,
            tx: RING_SIZE,
            rx: RING_SIZE,
            restart: false,
            fault: false,
        };
        let watch = Watch {
            lane: None,
            tx: Look::default(),
            rx: Look::default(),
            period: RESCAN_MIN,
        };
        let letters = Letters {
            waiting,
            first: 0,
            count: 0,
        };
        let settled = Settled {
            generation: 0,
            closed: true,
            silent: true,
        };
        pin_init!(Self {
            xd,
            ends,
            wish <- new_irq_lock!(wish, c"usb4_link_wish"),
            letters <- new_irq_lock!(letters, c"usb4_link_letters"),
            session <- new_mutex!(Session::new(), "usb4_link_session"),
            netif <- new_mutex!(None, "usb4_link_netif"),
            settled <- new_mutex!(settled, "usb4_link_settled"),
            ended <- new_mutex!(false, "usb4_link_ended"),
            changed <- new_condvar!("usb4_link_changed"),
            watch <- new_irq_lock!(watch, c"usb4_link_watch"),
            rescan <- new_timer!(c"usb4_rescan"),
            worker <- Worker::new(),
            barren: AtomicU64::new(0),
            traffic: AtomicBool::new(false),
            up: AtomicBool::new(false),
            stranded: AtomicU64::new(0),
            letters_dropped: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
        })
    }

    /// Changes the wish and has the worker look at it. Any context.
    fn ask(&self, change: impl FnOnce(&mut Wish)) -> u64 {
        let generation = {
            let mut wish = self.wish.lock();
            change(&mut wish);
            wish.generation += 1;
            wish.generation
        };
        self.worker.kick();
        generation
    }

    fn wait_closed(&self, generation: u64) {
        let mut settled = self.settled.lock();
        while settled.generation < generation || !settled.closed {
            self.changed.wait(&mut settled);
        }
    }

    /// Waits for the end of the goodbye, but not for a peer that does not answer.
    fn wait_silent(&self, generation: u64) {
        for _ in 0..GOODBYE_MS / 2 {
            {
                let settled = self.settled.lock();
                if settled.generation >= generation && settled.silent {
                    return;
                }
            }
            if self.xd.is_dead() {
                return;
            }
            sleep_ms(2);
        }
    }

    /// The end: netdev, rings, goodbye, worker. Once; who comes second waits for it.
    fn end(&self) {
        let mut ended = self.ended.lock();
        if *ended {
            return;
        }
        let generation = self.ask(|wish| wish.dying = true);
        // Whether there is a netdev is certain from here on.
        self.worker.flush();
        let netif = self.netif.lock().clone();
        if let Some(netif) = netif {
            netif.remove();
        }
        self.wait_closed(generation);
        self.wait_silent(generation);
        self.worker.close();
        self.rescan.close();
        // The netdev's share in the link, and the link's in the netdev.
        let netif = self.netif.lock().take();
        drop(netif);
        *ended = true;
    }

    fn deliver(&self, bytes: &[u8]) {
        let Some(letter) = MessageBuf::copy_of(bytes) else {
            return;
        };
        {
            let mut letters = self.letters.lock();
            if letters.count == LETTERS {
                self.letters_dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let at = (letters.first + letters.count) % LETTERS;
            if let Some(slot) = letters.waiting.get_mut(at) {
                *slot = Some(letter);
            }
            letters.count += 1;
        }
        self.worker.kick();
    }

    /// The oldest message that waits. The worker's.
    pub(crate) fn next_letter(&self) -> Option<MessageBuf> {
        let mut letters = self.letters.lock();
        if letters.count == 0 {
            return None;
        }
        let first = letters.first;
        letters.first = (first + 1) % LETTERS;
        letters.count -= 1;
        letters.waiting.get_mut(first).and_then(Option::take)
    }

    /// Sends a control message; the machines repeat what is lost. Sleeps.
    pub(crate) fn send(&self, message: &MessageBuf) {
        if self.xd.is_dead() || self.xd.send(message.as_bytes()).is_err() {
            self.send_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks at the rings from time to time: an interrupt may be lost.
    pub(crate) fn watch(&self, lane: &Lane) {
        {
            let mut watch = self.watch.lock();
            watch.lane = Some(lane.clone());
            watch.tx = Look::default();
            watch.rx = Look::default();
            watch.period = RESCAN_MIN;
        }
        self.rescan.arm(timer::now() + RESCAN_MIN);
    }

    /// Undoes [`Link::watch`].
    pub(crate) fn unwatch(&self) {
        let lane = self.watch.lock().lane.take();
        // Not under the lock: the last share may sleep.
        drop(lane);
    }

    /// Whether something has come over a stock link since the last call.
    pub(crate) fn take_traffic(&self) -> bool {
        self.traffic.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn xdomain(&self) -> &Xdomain {
        &self.xd
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Whether we offer end-to-end flow control.
    pub(crate) fn offers_e2e(&self) -> bool {
        OFFER_E2E.load(Ordering::Relaxed)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// The cable as the kernel names it, such as `0-1`.
    pub(crate) fn name(&self) -> &str {
        self.xd.name().to_str().unwrap_or("?")
    }

    // For the netdev. -----------------------------------------------------------------------------------------------

    /// The interface is set up: bring the link up. Returns at once.
    pub(crate) fn open(&self, mac: [u8; 6]) {
        self.ask(|wish| {
            wish.open = true;
            wish.mac = mac;
        });
    }

    /// The interface has another address.
    pub(crate) fn set_mac(&self, mac: [u8; 6]) {
        self.ask(|wish| wish.mac = mac);
    }

    /// The interface is set down. Returns when nobody uses the rings; the goodbye goes on. Sleeps.
    pub(crate) fn close(&self) {
        let generation = self.ask(|wish| wish.open = false);
        self.wait_closed(generation);
    }

    /// The netdev's parent.
    pub(crate) fn parent(&self) -> Device {
        self.xd.router()
    }

    /// The device that buffers are mapped for.
    pub(crate) fn dma(&self) -> Device {
        self.xd.dma()
    }

    /// An address of our own making: the same for this cable at every boot.
    pub(crate) fn default_mac(&self) -> [u8; 6] {
        mac_of(&self.ends)
    }

    /// Megabits per second of the cable, all lanes together.
    pub(crate) fn speed_mbps(&self) -> u32 {
        self.xd.lane_gbps() * 1_000 * self.xd.width()
    }

    /// Lanes of the cable.
    pub(crate) fn width(&self) -> u32 {
        self.xd.width()
    }

    /// Something has come over the rings of a stock link. Any context.
    pub(crate) fn note_traffic(&self) {
        self.traffic.store(true, Ordering::Relaxed);
    }

    /// The rings do not work any more: begin anew. Any context.
    pub(crate) fn fault(&self) {
        self.ask(|wish| {
            wish.fault = true;
            // A stock link knows no epochs; it logs out and in.
            wish.restart |= !wish.native;
        });
    }

    /// Descriptors: transmit, receive.
    pub(crate) fn ring_sizes(&self) -> (u32, u32) {
        let wish = self.wish.lock();
        (wish.tx, wish.rx)
    }

    /// Most descriptors of a ring.
    pub(crate) const fn max_ring_size() -> u32 {
        RING_SIZE_MAX
    }

    /// Sets the descriptors; a link that is up goes down and up again.
    ///
    /// # Errors
    ///
    /// `EINVAL` for sizes that cannot be.
    pub(crate) fn set_ring_sizes(&self, tx: u32, rx: u32) -> Result {
        let fits = |size: u32| (RING_SIZE_MIN..=RING_SIZE_MAX).contains(&size) && size.is_power_of_two();
        if !fits(tx) || !fits(rx) {
            return Err(EINVAL);
        }
        self.ask(|wish| {
            wish.restart |= (wish.tx, wish.rx) != (tx, rx);
            wish.tx = tx;
            wish.rx = rx;
        });
        Ok(())
    }

    /// What a link counts beside its netdev.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            stranded: self.stranded.load(Ordering::Relaxed),
            letters_dropped: self.letters_dropped.load(Ordering::Relaxed),
            send_errors: self.send_errors.load(Ordering::Relaxed),
            strays: STRAYS.load(Ordering::Relaxed),
        }
    }

    // The worker. ---------------------------------------------------------------------------------------------------

    /// The netdev; made if there is none and there may be one.
    fn netif(&self, wish: &Wish) -> Option<Arc<Netif>> {
        if let Some(netif) = &*self.netif.lock() {
            return Some(netif.clone());
        }
        let barren = self.barren.load(Ordering::Relaxed);
        if wish.dying || wish.kind().is_none() || timer::now() < barren {
            return None;
        }
        let this = find(|link| ptr::eq(link, self))?;
        match Netif::new(this) {
            Ok(netif) => {
                self.barren.store(0, Ordering::Relaxed);
                *self.netif.lock() = Some(netif.clone());
                Some(netif)
            }
            Err(err) => {
                self.barren.store(timer::now() + NETIF_RETRY, Ordering::Relaxed);
                if barren == 0 {
                    pr_err!("{}: no network device: {:?}; trying again\n", self.name(), err);
                }
                None
            }
        }
    }
}

impl Works for Link {
    fn on_work(&self) {
        let mut session = self.session.lock();
        let wish = {
            let mut wish = self.wish.lock();
            let now = wish.clone();
            wish.restart = false;
            wish.fault = false;
            now
        };
        let netif = self.netif(&wish);
        let mut due = session.run(self, netif.as_ref(), &wish);
        let barren = self.barren.load(Ordering::Relaxed);
        if barren != 0 && !wish.dying {
            due = Some(due.map_or(Instant(barren), |due| due.min(Instant(barren))));
        }
        {
            let mut settled = self.settled.lock();
            settled.generation = wish.generation;
            settled.closed = session.is_closed();
            settled.silent = session.is_silent();
        }
        self.changed.notify_all();
        let more = self.letters.lock().count > 0;
        if let Some(due) = due {
            self.worker.after(due.since(now()).0);
        }
        if more {
            self.worker.kick();
        }
    }
}

impl Timed for Link {
    fn on_timer(&self) {
        let mut watch = self.watch.lock();
        let Watch { lane, tx, rx, period } = &mut *watch;
        let Some(lane) = lane else {
            return;
        };
        let before = (*tx, *rx);
        // What was sent and holds nothing may lie there for long; it is taken back, but nothing was lost.
        lane.tx.rescan(tx);
        if lane.rx.rescan(rx) {
            self.stranded.fetch_add(1, Ordering::Relaxed);
        }
        if (*tx, *rx) == before {
            *period = (*period * 2).min(RESCAN_MAX);
        } else {
            *period = RESCAN_MIN;
        }
        let next = timer::now() + *period;
        drop(watch);
        self.rescan.arm(next);
    }
}

/// A locally administered address out of what names this end of the cable.
fn mac_of(ends: &Ends) -> [u8; 6] {
    // FNV-1a, 64 bits.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [&ends.local.0[..], &ends.route.0.to_le_bytes()] {
        for byte in part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let [b0, b1, b2, b3, b4, b5, ..] = hash.to_le_bytes();
    [(b0 & 0xfc) | 0x02, b1, b2, b3, b4, b5]
}
