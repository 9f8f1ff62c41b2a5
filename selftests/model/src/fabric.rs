// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The fabric: several hosts' NHIs and the cables between them, driven by MMIO, time and commands.
//!
//! One value holds everything and each call says what time it is, so a run is a pure function of its inputs. The parts:
//! [`config`] answers the control channel, [`link`] trains cables and tells of plugs,
//! [`data`] moves frames by [`route`] and [`deliver`].

mod config;
mod data;
mod deliver;
mod link;
mod route;

use crate::adapter::Kind;
use crate::cable::{Cable, PortId};
use crate::calendar::{Calendar, Event};
use crate::fault::Rules;
use crate::irq::Signals;
use crate::memory::Memory;
use crate::nhi::Nhi;
use crate::notice::{Notice, What};
use crate::profile::{Profile, Usb4Version};
use crate::regs::{self, Register, RingField, DISABLE_AUTO_CLEAR, MAX_HOPS};
use crate::time::Instant;

/// Hosts with more NHIs than this offer half the vectors on each, for User-mode Linux has 32 for all of its devices.
const FULL_NHIS: usize = 2;
/// Most notices kept until somebody takes them.
const NOTICES: usize = 4096;

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    pub profile: Profile,
    pub version: Usb4Version,
    pub hosts: Vec<HostShape>,
    pub cables: Vec<CableShape>,
    pub seed: u64,
    /// Overrides the profile's hop count.
    pub hops: Option<usize>,
    /// Bits per second that the DMA of each ring moves, whatever its cable's rate; `None`: as many as the cable takes.
    /// Bytes of frames count, without the cable's own overhead; ring 0, which has no bulk, is not held to it.
    pub ring_rate: Option<u64>,
    /// Overrides the profile's number of HopIDs of each lane adapter.
    pub hop_ids: Option<usize>,
}

/// A host: how many NHIs, and ports on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostShape {
    pub nhis: usize,
    pub ports_per_nhi: usize,
}

/// A cable between two ports, each named by host, NHI and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CableShape {
    pub ends: [(usize, usize, usize); 2],
    /// Bits per second; `None`: frames take no time.
    pub rate: Option<u64>,
    pub latency_ns: u64,
}

/// Why a topology cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// More hops than the register map has room for, or fewer than two.
    Hops(usize),
    /// A host has no NHI, or an NHI no port or more than four.
    Host(usize),
    NoSuchPort {
        cable: usize,
    },
    PortTaken {
        cable: usize,
    },
}

impl core::fmt::Display for TopologyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            TopologyError::Hops(hops) => write!(f, "{hops} hops: 2 to {MAX_HOPS} are possible"),
            TopologyError::Host(host) => write!(f, "host {host}: it needs an NHI at least, with 1 to 4 ports"),
            TopologyError::NoSuchPort { cable } => write!(f, "cable {cable} ends at a port that is not there"),
            TopologyError::PortTaken { cable } => write!(f, "cable {cable} ends at a port that has a cable"),
        }
    }
}

/// A message-signalled interrupt for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub nhi: usize,
    pub vector: usize,
}

/// Everything there is.
#[derive(Debug)]
pub struct Fabric<M> {
    now: Instant,
    nhis: Vec<Nhi<M>>,
    /// Host and index in it of each NHI.
    places: Vec<(usize, usize)>,
    cables: Vec<Cable>,
    calendar: Calendar,
    interrupts: Vec<Interrupt>,
    notices: Vec<Notice>,
    /// Counts changes of paths and links: a route found earlier is stale.
    route_epoch: u64,
    /// How much before its time a frame may be sent or arrive.
    slack_ns: u64,
    /// Bits per second of each ring's DMA.
    ring_rate: Option<u64>,
    /// Tx rings that wait for a receiver, in the order they began to.
    stalled: Vec<(usize, usize)>,
    held: Vec<deliver::Held>,
    spare: Vec<Vec<u8>>,
}

impl<M: Memory> Fabric<M> {
    /// Builds a fabric without guests.
    ///
    /// # Errors
    /// [`TopologyError`] if the topology makes no sense.
    pub fn new(topology: &Topology) -> Result<Self, TopologyError> {
        let (mut nhis, mut places) = (Vec::new(), Vec::new());
        for (host, shape) in topology.hosts.iter().enumerate() {
            if shape.nhis == 0 || !(1..=4).contains(&shape.ports_per_nhi) {
                return Err(TopologyError::Host(host));
            }
            for index in 0..shape.nhis {
                let mut profile = topology.profile.nhi(index, topology.version);
                profile.hops = topology.hops.unwrap_or(profile.hops);
                profile.hop_ids = topology.hop_ids.unwrap_or(profile.hop_ids);
                if shape.nhis > FULL_NHIS {
                    profile.vectors /= 2;
                }
                if !(2..=MAX_HOPS).contains(&profile.hops) {
                    return Err(TopologyError::Hops(profile.hops));
                }
                // Any constant would do that makes the routers of a fabric differ.
                let uid = 0x0080_8751_0000_0000 | (host as u64 + 1) << 16 | (index as u64 + 1);
                nhis.push(Nhi::new(profile, shape.ports_per_nhi, uid));
                places.push((host, index));
            }
        }
        let mut fabric = Fabric {
            now: Instant::ZERO,
            nhis,
            places,
            cables: Vec::new(),
            calendar: Calendar::default(),
            interrupts: Vec::new(),
            notices: Vec::new(),
            route_epoch: 1,
            slack_ns: 0,
            ring_rate: topology.ring_rate.filter(|&rate| rate > 0),
            stalled: Vec::new(),
            held: Vec::new(),
            spare: Vec::new(),
        };
        for (index, shape) in topology.cables.iter().enumerate() {
            let mut ends = [PortId { nhi: 0, adapter: 0 }; 2];
            for (end, &place) in ends.iter_mut().zip(&shape.ends) {
                *end = fabric
                    .port_at(place)
                    .ok_or(TopologyError::NoSuchPort { cable: index })?;
            }
            let taken = |port: &PortId| fabric.cables.iter().any(|cable| cable.ends.contains(port));
            if ends[0] == ends[1] || ends.iter().any(taken) {
                return Err(TopologyError::PortTaken { cable: index });
            }
            let seed = topology.seed.wrapping_add(index as u64);
            fabric
                .cables
                .push(Cable::new(ends, shape.rate, shape.latency_ns, topology.version, seed));
        }
        Ok(fabric)
    }

    fn port_at(&self, (host, nhi, port): (usize, usize, usize)) -> Option<PortId> {
        let nhi = self.nhi_at(host, nhi)?;
        let adapter = port.checked_mul(2)?.checked_add(1)?;
        let there = self.nhis[nhi].adapters.get(adapter)?.kind() == Kind::Lane0;
        there.then_some(PortId { nhi, adapter })
    }

    /// Number of a host's NHI, as all other calls want it.
    pub fn nhi_at(&self, host: usize, index: usize) -> Option<usize> {
        self.places.iter().position(|&place| place == (host, index))
    }

    /// Host and index in it of NHI number `nhi`.
    pub fn place_of(&self, nhi: usize) -> (usize, usize) {
        self.places[nhi]
    }

    pub fn nhis(&self) -> &[Nhi<M>] {
        &self.nhis
    }

    pub fn cables(&self) -> &[Cable] {
        &self.cables
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// A guest appeared behind an NHI: the router starts afresh with its memory.
    pub fn connect(&mut self, now: Instant, nhi: usize, memory: M) {
        self.step(now);
        self.reset(nhi);
        self.nhis[nhi].memory = Some(memory);
        self.notice(What::GuestCame { nhi });
        self.evaluate_links();
    }

    /// The guest is gone: its memory is given back, its links go down.
    pub fn disconnect(&mut self, now: Instant, nhi: usize) -> Option<M> {
        self.step(now);
        let memory = self.nhis[nhi].memory.take()?;
        self.reset(nhi);
        self.notice(What::GuestGone { nhi });
        self.evaluate_links();
        Some(memory)
    }

    /// Replaces the memory of a guest that stays (its memory map changed).
    pub fn set_memory(&mut self, nhi: usize, memory: M) -> Option<M> {
        self.nhis[nhi].memory.replace(memory)
    }

    /// The guest's memory, if a guest is there.
    pub fn memory(&mut self, nhi: usize) -> Option<&mut M> {
        self.nhis[nhi].memory.as_mut()
    }

    fn reset(&mut self, nhi: usize) {
        for ring in 0..self.nhis[nhi].hops() {
            self.void_wire(nhi, ring);
        }
        self.nhis[nhi].reset();
        self.held.retain(|held| held.from.0 != nhi);
        for index in 0..self.cables.len() {
            if self.cables[index].ends.iter().any(|end| end.nhi == nhi) {
                self.link_down(index);
            }
        }
        self.route_epoch += 1;
    }

    /// Does everything that is due at `now` or before, in order.
    pub fn step(&mut self, now: Instant) {
        let now = now.max(self.now);
        while let Some((at, event)) = self.calendar.take(now) {
            self.now = self.now.max(at);
            match event {
                Event::Links => self.evaluate_links(),
                Event::LineFree { cable, end } => self.on_line_free(cable, end),
                Event::RingFree { nhi, ring } => self.on_ring_free(nhi, ring),
                Event::Arrival { nhi, ring, generation } => self.on_arrival(nhi, ring, generation),
                Event::VectorFree { nhi, vector } => {
                    let signals = self.nhis[nhi].irq.on_interval_end(self.now, vector);
                    self.signal(nhi, signals);
                }
                Event::Release => self.release_held(),
            }
        }
        self.now = now;
    }

    /// When [`Fabric::step`] next has something to do.
    pub fn next_event(&self) -> Option<Instant> {
        self.calendar.next()
    }

    /// Moves the interrupts to be sent into `into`, oldest first.
    pub fn take_interrupts(&mut self, into: &mut Vec<Interrupt>) {
        into.append(&mut self.interrupts);
    }

    /// The log since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    fn notice(&mut self, what: What) {
        if self.notices.len() < NOTICES {
            self.notices.push(Notice { at: self.now, what });
        }
    }

    /// A guest reads a register of BAR 0.
    pub fn mmio_read(&mut self, now: Instant, nhi: usize, offset: u32) -> u32 {
        self.step(now);
        let state = &mut self.nhis[nhi];
        state.counters.mmio_reads += 1;
        match regs::decode(offset, state.hops()) {
            Register::Ring {
                transmit: true,
                ring,
                field,
            } => state.tx[ring].ring.read(field, true),
            Register::Ring {
                transmit: false,
                ring,
                field,
            } => state.rx[ring].ring.read(field, false),
            Register::Options { transmit: true, ring } => state.tx[ring].ring.options(),
            Register::Options { transmit: false, ring } => state.rx[ring].ring.options(),
            Register::Mask { transmit: false, ring } => state.rx[ring].markers,
            Register::Status(word) => {
                let auto_clear = state.dma_misc & DISABLE_AUTO_CLEAR == 0;
                state.irq.read_status(word, auto_clear)
            }
            Register::Enable(word) => state.irq.read_enable(word),
            Register::Throttle(vector) => state.irq.throttle(vector),
            Register::VectorOf(word) => state.irq.read_vectors(word),
            Register::Caps => state.caps(),
            Register::DmaMisc => state.dma_misc,
            // A reset is over at once.
            Register::Reset => 0,
            Register::Mask { transmit: true, .. }
            | Register::StatusClear(_)
            | Register::EnableClear(_)
            | Register::Reserved => 0,
        }
    }

    /// A guest writes a register of BAR 0.
    pub fn mmio_write(&mut self, now: Instant, nhi: usize, offset: u32, value: u32) {
        self.step(now);
        let now = self.now;
        let state = &mut self.nhis[nhi];
        if state.memory.is_none() {
            // The last words of a guest that is gone.
            return;
        }
        state.counters.mmio_writes += 1;
        let signals = match regs::decode(offset, state.hops()) {
            Register::Ring { transmit, ring, field } => {
                self.write_ring(nhi, transmit, ring, field, value);
                Signals::default()
            }
            Register::Options { transmit, ring } => {
                self.set_ring_options(nhi, transmit, ring, value);
                Signals::default()
            }
            Register::Mask { transmit, ring } => {
                if !transmit {
                    state.rx[ring].markers = value;
                }
                Signals::default()
            }
            Register::StatusClear(word) => state.irq.clear_status(now, word, value),
            Register::Enable(word) => state.irq.write_enable(now, word, value),
            Register::EnableClear(word) => {
                state.irq.clear_enable(word, value);
                Signals::default()
            }
            Register::Throttle(vector) => {
                state.irq.set_throttle(now, vector, value);
                Signals::default()
            }
            Register::VectorOf(word) => {
                state.irq.write_vectors(word, value);
                Signals::default()
            }
            Register::DmaMisc => {
                state.dma_misc = value;
                Signals::default()
            }
            Register::Reset => {
                if value & 1 != 0 {
                    self.notice(What::RouterReset { nhi });
                    self.reset(nhi);
                    self.evaluate_links();
                }
                Signals::default()
            }
            Register::Status(_) | Register::Caps | Register::Reserved => Signals::default(),
        };
        self.signal(nhi, signals);
    }

    fn write_ring(&mut self, nhi: usize, transmit: bool, ring: usize, field: RingField, value: u32) {
        let state = &mut self.nhis[nhi];
        let target = if transmit {
            &mut state.tx[ring].ring
        } else {
            &mut state.rx[ring].ring
        };
        target.write(field, transmit, value);
        if field != RingField::Doorbell || !target.is_enabled() {
            return;
        }
        match (transmit, ring) {
            (true, 0) => self.receive_control(nhi),
            (false, 0) => self.flush_control(nhi),
            (true, _) => self.transmit(nhi, ring),
            (false, _) => self.retry_stalled(),
        }
    }

    fn set_ring_options(&mut self, nhi: usize, transmit: bool, ring: usize, value: u32) {
        let state = &mut self.nhis[nhi];
        if transmit {
            let tx = &mut state.tx[ring];
            if tx.ring.set_options(value) || !tx.ring.is_enabled() {
                self.void_wire(nhi, ring);
            }
        } else {
            let rx = &mut state.rx[ring];
            if rx.ring.set_options(value) {
                rx.promised = 0;
            }
            if ring == 0 && !rx.ring.is_enabled() {
                state.backlog.clear();
            }
        }
        self.notice(What::RingSet {
            nhi,
            transmit,
            ring,
            options: value,
        });
        if ring == 0 {
            self.evaluate_links();
        } else {
            self.retry_stalled();
        }
    }

    /// Sends the signals an interrupt state asked for.
    fn signal(&mut self, nhi: usize, signals: Signals) {
        if signals.is_empty() {
            return;
        }
        for vector in 0..regs::VECTORS {
            if signals.now >> vector & 1 != 0 {
                self.interrupts.push(Interrupt { nhi, vector });
            }
            if signals.later >> vector & 1 != 0 {
                let at = self.nhis[nhi].irq.quiet_until(vector);
                self.calendar.put(at, Event::VectorFree { nhi, vector });
            }
        }
    }

    /// Raises the event of a ring.
    fn raise(&mut self, nhi: usize, transmit: bool, ring: usize) {
        let now = self.now;
        let state = &mut self.nhis[nhi];
        let counters = if transmit {
            &mut state.tx[ring].ring.counters
        } else {
            &mut state.rx[ring].ring.counters
        };
        counters.interrupts += 1;
        let bit = state.irq.ring_bit(transmit, ring);
        let signals = state.irq.raise(now, bit);
        self.signal(nhi, signals);
    }

    fn bad_dma(&mut self, nhi: usize, address: u64) {
        self.nhis[nhi].counters.bad_dma += 1;
        self.notice(What::BadDma { nhi, address });
    }

    /// Sets the faults of one cable, or of all of them.
    pub fn set_faults(&mut self, cable: Option<usize>, rules: Rules, seed: Option<u64>) {
        for (index, entry) in self.cables.iter_mut().enumerate() {
            if cable.is_none_or(|wanted| wanted == index) {
                entry
                    .faults
                    .set(rules, seed.map(|seed| seed.wrapping_add(index as u64)));
            }
        }
    }

    /// Lets frames on timed cables be sent and arrive this much early. 0, the start value, keeps times exact.
    pub fn set_slack(&mut self, slack_ns: u64) {
        self.slack_ns = slack_ns;
    }

    /// Sets a cable's line rate (`None`: frames take no time) from the next frame on.
    pub fn set_rate(&mut self, cable: usize, rate: Option<u64>) {
        if let Some(cable) = self.cables.get_mut(cable) {
            cable.rate = rate;
        }
    }

    /// Sets a cable's latency from the next frame on.
    pub fn set_latency(&mut self, cable: usize, latency_ns: u64) {
        if let Some(cable) = self.cables.get_mut(cable) {
            cable.latency_ns = latency_ns;
        }
    }
}
