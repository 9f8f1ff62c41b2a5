// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The Ethernet device of a cable: what the system sees of it, above its [`Lane`]s. Packets go by the first; the
//! second, if it is open, has trains of queue pairs alone.

use crate::{
    counters::{self, CableCounters, RxCounters, TxCounters},
    kapi::{
        ndo::{Coalesce, NetDevice, Registration, RingSizes, Totals, Unregistered, Xmit, SPEED_UNKNOWN},
        netdev::Netdev,
        skb::TxSkb,
        xdomain::Xdomain,
    },
    lane::{Lane, Lanes},
    port::Port,
    requested::RING_SIZE_MAX,
};
use kernel::{prelude::*, sync::Arc};
use tbip::steer::LANES;

/// The cable that a device is on, or the place where one may be plugged in. What it is told takes effect later, in a
/// worker, unless it says otherwise.
pub(crate) trait Cable: Send + Sync {
    /// The cable as the kernel names it, such as `0-1`; the next one has the same name.
    fn name(&self) -> &str;
    /// The interface is set up: the cable is to carry. Returns at once.
    fn open(&self, mac: [u8; 6]);
    /// The interface is set down. Returns when nobody uses the rings; the goodbye goes on. Sleeps.
    fn close(&self);
    /// The interface has another address.
    fn set_mac(&self, mac: [u8; 6]);
    /// The user lets go of the interface. Whether he may: no cable is in. Then it ends soon.
    fn let_go(&self) -> bool;
    /// The rings do not work any more: begin anew. Any context.
    fn fault(&self);
    /// Megabits per second, all lanes of the cable together; `None` while no cable is in.
    fn speed_mbps(&self) -> Option<u32>;
    /// Lanes of the cable; none while no cable is in.
    fn width(&self) -> u32;
    /// What it counts beside the device.
    fn counters(&self) -> CableCounters;
    /// Descriptors that are asked for.
    fn ring_sizes(&self) -> RingSizes;
    /// Asks for other descriptors; a cable in use begins anew.
    ///
    /// # Errors
    ///
    /// `EINVAL` for sizes that cannot be.
    fn set_ring_sizes(&self, sizes: RingSizes) -> Result;
}

/// The Ethernet device of a cable.
pub struct Netif {
    netdev: Netdev,
    lanes: Lanes,
    cable: Arc<dyn Cable>,
}

impl Netif {
    /// Makes the device of the cable to `xd` and shows it to the system. Sleeps, takes RTNL.
    pub(crate) fn new(cable: Arc<dyn Cable>, xd: &Xdomain, mac: [u8; 6]) -> Result<(Arc<Self>, Registration<Self>)> {
        let device = Unregistered::<Self>::new(xd.router(), &mac)?;
        let netdev = device.netdev().clone();
        let lanes = Lane::both(&netdev, xd.dma())?;
        let netif = Arc::new(Self { netdev, lanes, cable }, GFP_KERNEL)?;
        let registration = device
            .register(netif.clone(), xd.number())
            .inspect_err(|_| netif.end())?;
        Ok((netif, registration))
    }

    /// The lanes, for the link.
    pub(crate) fn rail(&self) -> &Lanes {
        &self.lanes
    }

    /// Where its packets go.
    fn lane(&self) -> &Lane {
        let [first, _] = &self.lanes;
        first
    }

    /// Ends for good; it is not registered any more. Sleeps.
    pub(crate) fn end(&self) {
        for lane in &self.lanes {
            lane.end();
        }
    }

    /// The lanes, for a client; of those that are not open none reaches anybody ([`Port::reaches`]).
    pub fn ports(&self) -> [Port; LANES] {
        self.lanes.each_ref().map(|lane| Port::new(lane.clone()))
    }

    fn lane_counters(&self) -> (TxCounters, RxCounters) {
        let [first, second] = self.lanes.each_ref().map(|lane| lane.counters());
        (first.0.plus(second.0), first.1.plus(second.1))
    }

    /// The interface's name.
    pub(crate) fn name(&self) -> &str {
        self.netdev.name().to_str().unwrap_or("?")
    }

    /// No cable is in, and the user may let go of it; or one is.
    pub(crate) fn set_loose(&self, loose: bool) {
        self.netdev.set_loose(loose);
    }

    /// The host is about to sleep.
    pub(crate) fn suspend(&self) {
        self.netdev.set_present(false);
    }

    /// The host is awake again.
    pub(crate) fn resume(&self) {
        self.netdev.set_present(true);
    }
}

impl NetDevice for Netif {
    const STATISTICS: &'static [&'static str] = counters::NAMES;
    const TESTS: &'static [&'static str] = &[
        "round trip, shortest, ns",
        "round trip, median, ns",
        "round trip, p99, ns",
        "round trips begun",
        "round trips ended",
    ];
    const MAX_RING_SIZE: u32 = RING_SIZE_MAX;

    fn open(&self) {
        self.cable.open(self.netdev.mac());
    }

    fn stop(&self) {
        self.cable.close();
    }

    fn mac_changed(&self) {
        self.cable.set_mac(self.netdev.mac());
    }

    fn let_go(&self) -> bool {
        self.cable.let_go()
    }

    fn xmit(&self, skb: TxSkb) -> Xmit {
        self.lane().xmit(skb)
    }

    fn can_send_whole(&self, len: usize, gso_type: u8) -> bool {
        self.lane().can_send_whole(len, gso_type)
    }

    fn on_tx_timeout(&self) {
        self.lane().count_timeout();
        pr_warn!("{}: nothing goes out, beginning anew\n", self.name());
        self.cable.fault();
    }

    fn totals(&self) -> Totals {
        let (tx, rx) = self.lane_counters();
        let rx_errors = rx.crc + rx.overrun + rx.length + rx.missed + rx.stray + rx.bad_meta;
        Totals {
            rx_packets: rx.packets,
            rx_bytes: rx.bytes,
            rx_errors,
            rx_length_errors: rx.length,
            rx_over_errors: rx.overrun,
            rx_crc_errors: rx.crc,
            rx_missed_errors: rx.missed,
            rx_dropped: rx.no_memory + rx.other_kind,
            tx_packets: tx.packets,
            tx_bytes: tx.bytes,
            tx_errors: tx.errors + tx.map_errors,
            tx_dropped: tx.dropped,
        }
    }

    fn speed_mbps(&self) -> u32 {
        self.cable.speed_mbps().unwrap_or(SPEED_UNKNOWN)
    }

    fn cable(&self) -> &str {
        self.cable.name()
    }

    fn lanes(&self) -> u32 {
        self.cable.width()
    }

    fn statistics(&self, to: &mut [u64]) {
        let (tx, rx) = self.lane_counters();
        let usecs = u64::from(self.lane().coalesce().rx_usecs);
        counters::fill(to, &tx, &rx, &self.cable.counters(), usecs, self.lane().is_native());
    }

    fn test(&self, to: &mut [u64]) -> bool {
        let outcome = self.lane().measure().inspect_err(|err| {
            pr_info!("{}: no round trips were measured: {:?}\n", self.name(), err);
        });
        let found = outcome.unwrap_or_default();
        let numbers = [found.min.0, found.median.0, found.p99.0, found.sent, found.answered];
        for (to, number) in to.iter_mut().zip(numbers) {
            *to = number;
        }
        found.sent != 0 && found.answered == found.sent
    }

    fn set_coalesce(&self, to: Coalesce) -> Result {
        self.lanes.iter().try_for_each(|lane| lane.set_coalesce(to))
    }

    fn coalesce(&self) -> Coalesce {
        self.lane().coalesce()
    }

    fn ring_sizes(&self) -> RingSizes {
        self.cable.ring_sizes()
    }

    fn set_ring_sizes(&self, sizes: RingSizes) -> Result {
        self.cable.set_ring_sizes(sizes)
    }
}
