// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One RDMA device over one netdev: its tables, and the way in for packets.

use crate::{
    ah::Ahs,
    counters,
    graves::Graves,
    kapi::{
        ibdev::IbDev,
        netdev::{Hook, Netdev, Rtnl},
        sync::{lock_class, new_bh_lock, new_irq_lock, BhLock, IrqLock},
        timer::now,
        uverbs::is_our_gid,
    },
    mcast::Groups,
    memory::Keyed,
    ports::Ports,
    qp::Qp,
    table::Table,
    waiting::Waiting,
};
use kernel::{
    debugfs::{self, Dir, File},
    fmt, new_mutex,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc, Mutex,
    },
};
use roce::{hops::Hops, wire::udp::Path};

/// QPs by QPN: 17 bits of slot, 6 random bits and the top bit, which keeps our numbers away from those of an rxe
/// device over the same netdev.
pub(crate) type Qps = Table<Qp, 17>;

/// Nanoseconds that a netdev's speed is believed; not every change of it is an event (`ethtool -s`, a bond's cables).
const SPEED_AGE: u64 = 1_000_000_000;

/// The QPs of a device, as a file that lists them.
struct Listing(Arc<Device>);

impl debugfs::Writer for Listing {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slot = 0;
        while let Some((next, qp)) = self.0.qps.next_from(slot) {
            Qp::describe(&qp, f)?;
            slot = next;
        }
        Ok(())
    }
}

/// Our half of an RDMA device.
#[pin_data]
pub(crate) struct Device {
    ib: IbDev,
    /// None once the netdev has gone.
    #[pin]
    netdev: IrqLock<Option<Netdev>>,
    #[pin]
    hook: Mutex<Option<Hook<Device>>>,
    /// The listing in debugfs; it holds the device.
    #[pin]
    listing: Mutex<Option<Pin<KBox<File<Listing>>>>>,
    #[pin]
    pub(crate) qps: Qps,
    #[pin]
    pub(crate) graves: Graves,
    #[pin]
    pub(crate) groups: Groups,
    #[pin]
    pub(crate) keyed: Keyed,
    #[pin]
    pub(crate) ahs: Ahs,
    /// The number in `qps` of the queue pair that is 1 to the world, or 0.
    gsi: Atomic<u32>,
    /// 1 while an rxe device over the same netdev may be older.
    second: Atomic<u32>,
    /// The next number that is given to nothing else ever.
    serials: Atomic<u64>,
    srqs: Atomic<u32>,
    /// 1 once the core has the device.
    registered: Atomic<u32>,
    /// 1 once somebody with a right to it has asked for the device's end.
    leaving: Atomic<u32>,
    /// 1 once there is no listing any more. Written under the listing's lock.
    stopped: Atomic<u32>,
    icrc_errors: Atomic<u64>,
    /// Times that the port went down, and whether it is.
    downs: Atomic<u64>,
    down: Atomic<u32>,
    /// Mb/s of the netdev, and until when, in nanoseconds, that is believed.
    speed: Atomic<u32>,
    speed_until: Atomic<u64>,
    /// Frames of its QPs in the stack.
    pub(crate) in_flight: Atomic<i32>,
    /// The lanes of the netdev's cables, as far as they are ours, while the netdev is there.
    #[pin]
    pub(crate) ports: Ports,
    #[pin]
    pub(crate) waiting: Waiting,
    /// Counts of QPs that are no more.
    #[pin]
    retired: BhLock<[u64; counters::NAMES.len()]>,
}

impl Device {
    /// A device that hears nothing yet.
    pub(crate) fn new(ib: IbDev, netdev: &Netdev) -> Result<Arc<Self>> {
        let netdev = netdev.clone();
        let waiting = Waiting::new()?;
        let graves = Graves::new()?;
        let second = u32::from(netdev.has_rxe());
        Arc::pin_init(
            pin_init!(Self {
                ib,
                netdev <- new_irq_lock!(Some(netdev), c"usb4_netdev"),
                hook <- new_mutex!(None, "usb4_hook"),
                listing <- new_mutex!(None, "usb4_listing"),
                qps <- Table::new(lock_class!(c"usb4_qps")),
                graves <- graves,
                groups <- Groups::new(),
                keyed <- Keyed::new(),
                ahs <- Table::new(lock_class!(c"usb4_ahs")),
                gsi: Atomic::new(0),
                second: Atomic::new(second),
                serials: Atomic::new(1),
                srqs: Atomic::new(1),
                registered: Atomic::new(0),
                leaving: Atomic::new(0),
                stopped: Atomic::new(0),
                icrc_errors: Atomic::new(0),
                downs: Atomic::new(0),
                down: Atomic::new(1),
                speed: Atomic::new(0),
                speed_until: Atomic::new(0),
                in_flight: Atomic::new(0),
                ports <- Ports::new(),
                waiting <- waiting,
                retired <- new_bh_lock!([0; counters::NAMES.len()], c"usb4_counters"),
            }),
            GFP_KERNEL,
        )
    }

    /// Keeps the hook that brings packets.
    pub(crate) fn listen(&self, hook: Hook<Self>) {
        *self.hook.lock() = Some(hook);
    }

    /// Looks which lanes there are: takes what they bring, and sends by them. Without memory for that they stay as they
    /// are.
    pub(crate) fn look_for_lanes(this: &Arc<Self>, rtnl: &Rtnl, netdev: &Netdev) {
        let set = netdev.ports(rtnl).and_then(|ports| this.ports.set(&ports, this));
        if set.is_err() {
            pr_warn!("{:?}: no memory to look for its cables\n", this.ib.name());
        }
        // They may have waited for a lane that is gone, or for one that has come.
        this.wake_waiting();
    }

    /// Tells the queue pairs that wait for room.
    pub(crate) fn wake_waiting(&self) {
        self.waiting.wake(|number| {
            if let Some(qp) = self.qps.find(number) {
                qp.on_room();
            }
        });
    }

    /// Lists the device's QPs in a directory of debugfs, unless [`Self::stop`] came first. Without memory for it there
    /// is no list.
    pub(crate) fn list(this: &Arc<Self>, dir: &Dir) {
        let mut listing = this.listing.lock();
        // The file holds the device: made after the end it would keep both for ever.
        if this.stopped.load(Relaxed) == 0 {
            let file = KBox::pin_init(dir.read_only_file(c"qps", Listing(this.clone())), GFP_KERNEL);
            *listing = file.ok();
        }
    }

    /// The device's end is wanted: by the user, with its netdev, or with the module.
    pub(crate) fn leave(&self) {
        self.leaving.store(1, Relaxed);
    }

    /// Whether [`Self::leave`] came first. If not, the device's end is a side effect of somebody else's.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed) == 1
    }

    /// Hears and sends nothing any more. May be called again.
    pub(crate) fn stop(&self) {
        let listing = {
            let mut listing = self.listing.lock();
            self.stopped.store(1, Relaxed);
            listing.take()
        };
        drop(listing);
        let hook = self.hook.lock().take();
        drop(hook);
        self.ports.end();
        let netdev = self.netdev.lock().take();
        drop(netdev);
    }

    /// The core's half.
    pub(crate) fn ib(&self) -> &IbDev {
        &self.ib
    }

    /// The netdev, while it is there.
    pub(crate) fn netdev(&self) -> Option<Netdev> {
        self.netdev.lock().clone()
    }

    /// Registered with the core, whose table of addresses is there from now on.
    pub(crate) fn on_registered(&self) {
        self.registered.store(1, Release);
    }

    /// Whether `gid` is an address of the device on its netdev, or on the VLAN `tag` above it. Any context.
    pub(crate) fn has_address(&self, gid: &[u8; 16], tag: u32) -> bool {
        if self.registered.load(Acquire) == 0 {
            return false;
        }
        let netdev = self.netdev().and_then(|netdev| netdev.tagged(tag));
        netdev.is_some_and(|netdev| is_our_gid(&self.ib, &netdev, gid))
    }

    /// Has the paths of queue pairs, address handles and graves lead to where their next hops are now: `all`, or those
    /// of queue pairs whose peer was late.
    pub(crate) fn renew(&self, all: bool) {
        let Some(netdev) = self.netdev() else {
            return;
        };
        let mut hops = Hops::new();
        let mut look_up =
            |path: &Path, doubt| hops.find(path, doubt, |path, doubt| self.next_hop(&netdev, path, doubt));
        let mut slot = 0;
        while let Some((next, qp)) = self.qps.next_from(slot) {
            qp.renew(all, &mut look_up);
            slot = next;
        }
        slot = 0;
        while let Some((next, ah)) = self.ahs.next_from(slot).filter(|_| all) {
            ah.renew(&mut look_up);
            slot = next;
        }
        if all {
            self.graves.renew(&mut look_up);
        }
    }

    /// The Ethernet address where a path out of the device's netdev leads now, if that is known. `doubt`: its peer was
    /// late.
    pub(crate) fn next_hop(&self, netdev: &Netdev, path: &Path, doubt: bool) -> Option<[u8; 6]> {
        let out = netdev.tagged(path.tag)?;
        if path.is_multicast() {
            return None;
        }
        // To an address of the netdev itself: what has its own Ethernet address as destination is looped.
        if self.has_address(&path.addresses.dst_gid(), path.tag) {
            return Some(out.mac());
        }
        out.next_hop(&path.addresses, doubt)
    }

    /// Who is queue pair 1 from now on.
    pub(crate) fn set_gsi(&self, number: u32) {
        self.gsi.store(number, Relaxed);
    }

    /// A QP goes. If it is queue pair 1 there is none from now on; if another has come after it, that one stays.
    pub(crate) fn leave_gsi(&self, number: u32) {
        let _ = self.gsi.cmpxchg(number, 0, Relaxed);
    }

    /// Who is queue pair 1 for packets of the netdev. Nobody while an rxe device that was there first is over it as
    /// well: `rdma_cm` listens on the first device that has the address. Answers to the other's requests find their
    /// way, as the core's connection manager knows them whichever device brings them.
    pub(crate) fn gsi(&self) -> Option<u32> {
        if self.second.load(Relaxed) == 1 {
            if self.netdev().is_none_or(|netdev| netdev.has_rxe()) {
                return None;
            }
            self.second.store(0, Relaxed);
        }
        let number = self.gsi.load(Relaxed);
        (number != 0).then_some(number)
    }

    /// A number for a protection domain, or for a queue pair's life. What is not to open for others carries it, so it
    /// does not come again: 64 bits last longer than a host.
    pub(crate) fn new_serial(&self) -> u64 {
        self.serials.fetch_add(1, Relaxed)
    }

    /// A number for a shared receive queue.
    pub(crate) fn new_srq(&self) -> u32 {
        self.srqs.fetch_add(1, Relaxed) & 0x00ff_ffff
    }

    /// Counts a packet whose ICRC was wrong.
    pub(crate) fn on_icrc_error(&self) {
        self.icrc_errors.fetch_add(1, Relaxed);
    }

    /// The port is up or down now. Under RTNL.
    pub(crate) fn on_port(&self, up: bool) {
        let was_down = self.down.load(Relaxed) != 0;
        self.down.store(u32::from(!up), Relaxed);
        if !up && !was_down {
            self.downs.fetch_add(1, Relaxed);
        }
        if up && was_down {
            let mut slot = 0;
            while let Some((next, qp)) = self.qps.next_from(slot) {
                Qp::on_port_up(&qp);
                slot = next;
            }
        }
    }

    /// Mb/s of the netdev. Whoever asks, and as often as he likes, RTNL is taken for it once in [`SPEED_AGE`] at most,
    /// and not waited for: while others have it, what was known is the answer. Sleeps.
    pub(crate) fn speed(&self, netdev: &Netdev) -> u32 {
        if self.speed_until.load(Relaxed) <= now() {
            if let Some(rtnl) = Rtnl::try_lock() {
                self.note_speed(&rtnl, netdev);
            }
        }
        self.speed.load(Relaxed)
    }

    /// Looks how fast the netdev is. Sleeps.
    pub(crate) fn note_speed(&self, rtnl: &Rtnl, netdev: &Netdev) {
        self.speed_until.store(now().saturating_add(SPEED_AGE), Relaxed);
        self.speed.store(netdev.speed(rtnl), Relaxed);
    }

    /// The netdev may be faster or slower from now on.
    pub(crate) fn doubt_speed(&self) {
        self.speed_until.store(0, Relaxed);
    }

    /// Keeps the counts of a QP that goes.
    pub(crate) fn retire(&self, qp: &Qp) {
        let (counts, tally) = qp.counters();
        counters::add(&mut self.retired.lock(), &counts, &tally);
    }

    /// All counts, in the order of [`counters::NAMES`].
    pub(crate) fn totals(&self) -> [u64; counters::NAMES.len()] {
        let mut totals = *self.retired.lock();
        let mut slot = 0;
        while let Some((next, qp)) = self.qps.next_from(slot) {
            let (counts, tally) = qp.counters();
            counters::add(&mut totals, &counts, &tally);
            slot = next;
        }
        counters::set_own(&mut totals, self.icrc_errors.load(Relaxed), self.downs.load(Relaxed));
        totals
    }
}
