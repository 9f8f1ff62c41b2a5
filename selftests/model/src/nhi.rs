// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One NHI with the host router behind it: what belongs to a single socket of the fabric.

use std::collections::VecDeque;

use crate::adapter::{Adapter, Kind};
use crate::control::Packet;
use crate::irq::Interrupts;
use crate::profile::{NhiProfile, Usb4Version};
use crate::ring::{RxRing, TxRing};
use crate::router::Router;

/// Most control packets that wait for the guest to post buffers; more are dropped.
const CONTROL_BACKLOG: usize = 256;

/// An NHI, its rings and its host router. `M` is the guest's memory while a guest is there.
#[derive(Debug)]
pub struct Nhi<M> {
    profile: NhiProfile,
    ports: usize,
    uid: u64,
    pub memory: Option<M>,
    pub tx: Vec<TxRing>,
    pub rx: Vec<RxRing>,
    pub irq: Interrupts,
    pub router: Router,
    pub adapters: Vec<Adapter>,
    /// Packets for the host that no receive buffer was there for.
    pub backlog: VecDeque<Packet>,
    pub dma_misc: u32,
    pub counters: Counters,
}

/// What an NHI did since the fabric was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub mmio_reads: u64,
    pub mmio_writes: u64,
    pub control_packets: u64,
    pub control_dropped: u64,
    pub bad_dma: u64,
}

impl<M> Nhi<M> {
    /// An NHI without a guest.
    pub fn new(profile: NhiProfile, ports: usize, uid: u64) -> Self {
        let hops = profile.hops;
        let mut nhi = Nhi {
            profile,
            ports,
            uid,
            memory: None,
            tx: Vec::new(),
            rx: Vec::new(),
            irq: Interrupts::new(hops),
            router: Router::new(profile.version, uid, 0),
            adapters: Vec::new(),
            backlog: VecDeque::new(),
            dma_misc: 0,
            counters: Counters::default(),
        };
        nhi.reset();
        nhi
    }

    /// Everything as after power-on, but the guest stays.
    pub fn reset(&mut self) {
        let NhiProfile {
            hops, version, hop_ids, ..
        } = self.profile;
        let last = self.nhi_adapter();
        // Generations go on, so that work begun before the reset stays void.
        let generations: Vec<u32> = self.tx.iter().map(|tx| tx.ring.generation.wrapping_add(1)).collect();
        self.tx = vec![TxRing::default(); hops];
        for (tx, generation) in self.tx.iter_mut().zip(generations) {
            tx.ring.generation = generation;
        }
        self.rx = vec![RxRing::default(); hops];
        self.irq = Interrupts::new(hops);
        self.router = Router::new(version, self.uid, last);
        let kind = |number: usize| match number {
            0 => Kind::Control,
            _ if number == last => Kind::Nhi,
            _ if number % 2 == 1 => Kind::Lane0,
            _ => Kind::Lane1,
        };
        self.adapters = (0..=last)
            .map(|number| {
                let mut adapter = Adapter::new(kind(number), number, hops, version);
                if matches!(kind(number), Kind::Lane0 | Kind::Lane1) {
                    adapter.set_hop_ids(hop_ids);
                }
                adapter
            })
            .collect();
        self.backlog.clear();
        self.dma_misc = 0;
    }

    pub fn profile(&self) -> NhiProfile {
        self.profile
    }

    pub fn hops(&self) -> usize {
        self.profile.hops
    }

    /// Number of the NHI adapter, which is also the router's upstream adapter.
    pub fn nhi_adapter(&self) -> usize {
        2 * self.ports + 1
    }

    /// The capabilities register: hops and version.
    pub fn caps(&self) -> u32 {
        let version = match self.profile.version {
            Usb4Version::V1 => 0x20,
            Usb4Version::V2 => 0x40,
        };
        version << 16 | self.profile.hops as u32
    }

    /// The adapter `number` if it is a port's first lane.
    pub fn port(&self, number: usize) -> Option<&Adapter> {
        self.adapters
            .get(number)
            .filter(|adapter| adapter.kind() == Kind::Lane0)
    }

    /// A connection manager is there to be told of plug events.
    pub fn listens(&self) -> bool {
        self.memory.is_some()
            && self.router.is_enumerated()
            && self.tx[0].ring.is_enabled()
            && self.rx[0].ring.is_enabled()
    }

    /// Queues a packet for the host.
    pub fn queue(&mut self, packet: Packet) {
        if self.backlog.len() < CONTROL_BACKLOG {
            self.backlog.push_back(packet);
        } else {
            self.counters.control_dropped += 1;
        }
    }
}
