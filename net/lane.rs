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

mod client;
mod poll;
mod session;
mod trial;
mod windows;

use crate::{
    client::Client,
    counters::{RxCounters, TxCounters},
    direct::Direct,
    kapi::{
        napi::Napi,
        ndo::{Coalesce, Xmit},
        netdev::Netdev,
        ring::Ring,
        skb::TxSkb,
        sync::{lock_in_any_context, new_bh_lock, BhLock},
        timer::{self, new_timer, Timer},
        xdomain::Device,
    },
    rings::{Kick, Rings},
    rx::Rx,
    tx::{Refused, Tx},
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    echo::Trial,
    frame::Seq,
    limits::{MAX_PACKET, MAX_SUPER_PACKET, MAX_TRAIN},
    moderate::{self, Load},
    reaper::LOOK_AFTER,
    steer::LANES,
    time::Instant,
};

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
    /// Trains that had gone when the client came.
    before: u64,
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

/// The lanes of a cable, open or not: the first, and one for trains of queue pairs alone.
pub(crate) type Lanes = [Arc<Lane>; LANES];

/// A lane, whether it is open or not.
#[pin_data]
pub(crate) struct Lane {
    netdev: Netdev,
    /// It is a cable's first: the netdev's carrier, queue and packets are its own.
    is_first: bool,
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
    /// There is a direct lane: what each poll asks before it takes that side's lock.
    has_direct: AtomicBool,
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
    /// The next poll is one after which the interval between interrupts is decided.
    decides: AtomicBool,
    /// What we have of the peer's trains, as heads carry it.
    have: AtomicU32,
    peer: AtomicU8,
    /// The timer has come for what the peer has not said of our trains.
    ask: AtomicBool,
    /// When the peer last said something new of our trains.
    answered: AtomicU64,
    /// It does not, though it does on another lane: trains go by that, as long as there is one.
    silent: AtomicBool,
    /// Since when it has not, after it was asked once more; else 0.
    unanswered: AtomicU64,
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
    /// The lanes of the cable that `netdev` is on, closed. Sleeps.
    pub(crate) fn both(netdev: &Netdev, dma: Device) -> Result<Lanes> {
        Ok([Self::new(netdev, dma, true)?, Self::new(netdev, dma, false)?])
    }

    fn new(netdev: &Netdev, dma: Device, is_first: bool) -> Result<Arc<Self>> {
        let tx = TxSide {
            path: None,
            live: false,
            stopped: false,
            runs: false,
            wanted: false,
            before: 0,
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
                is_first,
                dma,
                napi <- Napi::new(netdev.clone()),
                rx <- new_bh_lock!(rx, c"usb4_lane_rx"),
                tx <- new_bh_lock!(tx, c"usb4_lane_tx"),
                direct <- new_bh_lock!(DirectSide { path: None, runs: false }, c"usb4_lane_direct"),
                has_direct: AtomicBool::new(false),
                kick <- new_bh_lock!(None, c"usb4_lane_kick"),
                broken: AtomicBool::new(false),
                config <- new_bh_lock!(config, c"usb4_lane_config"),
                timer <- new_timer!(c"usb4_lane_timer"),
                starved: AtomicBool::new(false),
                credit: AtomicU32::new(0),
                decides: AtomicBool::new(false),
                have: AtomicU32::new(0),
                peer: AtomicU8::new(Peer::None as u8),
                ask: AtomicBool::new(false),
                answered: AtomicU64::new(0),
                silent: AtomicBool::new(false),
                unanswered: AtomicU64::new(0),
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

    /// Whether packets have come since the last call.
    pub(crate) fn take_traffic(&self) -> bool {
        self.traffic.swap(false, Ordering::Relaxed)
    }

    /// Whether the rings have got stuck since the last call.
    pub(crate) fn take_stuck(&self) -> bool {
        self.stuck.swap(false, Ordering::Relaxed)
    }

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
}

const fn mac_number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 1, a, b, c, d, e, f])
}

/// The other way.
const fn number_mac(number: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
    [a, b, c, d, e, f]
}

fn set_throttle(ring: &Ring, usecs: u32) {
    ring.set_throttle(usecs * 1_000);
}
