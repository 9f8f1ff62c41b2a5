// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A small driver in the test: the register sequences of Linux's `drivers/thunderbolt`, against the model alone.

#![allow(dead_code)] // each test file uses a part

use usb4_model::control::{pdf, Packet};
use usb4_model::*;

/// Memory of a guest.
const MEMORY: usize = 4 << 20;
/// Descriptors in a ring.
pub const RING: u32 = 16;
/// Interrupt vectors: Tx ring n has 2n, Rx ring n has 2n + 1.
pub fn vector(transmit: bool, ring: u32) -> usize {
    (2 * ring + u32::from(!transmit)) as usize
}

pub const E2E: u32 = 1 << 28;
const ENABLE: u32 = 1 << 31;
const RAW: u32 = 1 << 30;
const FRAME_MARKERS: u32 = 0x0002_0004; // start 1, end 2
pub const START: u32 = 1;
pub const END: u32 = 2;

/// Everything in one place: the fabric, its clock and a driver per NHI.
pub struct World {
    pub fabric: Fabric<TestMemory>,
    pub now: Instant,
    pub drivers: Vec<Driver>,
    pub interrupts: Vec<Interrupt>,
}

/// One guest's driver state.
pub struct Driver {
    pub memory: TestMemory,
    hops: u32,
    /// Next descriptor to fill and to look at, per direction (0 Tx, 1 Rx) and ring.
    head: [Vec<u32>; 2],
    tail: [Vec<u32>; 2],
    buffers: [Vec<Vec<u64>>; 2],
    /// Control packets that came unasked.
    pub inbox: Vec<Packet>,
}

/// A frame taken from an Rx ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub start: u32,
    pub end: u32,
    pub flags: u32,
}

/// A pair of hosts with as many NHIs each, cable n between their NHI n.
pub fn pair(profile: Profile, nhis: usize, rate: Option<u64>, latency_ns: u64) -> Topology {
    let (_, ports_per_nhi) = profile.shape();
    let cable = |nhi: usize| CableShape {
        ends: [(0, nhi, 0), (1, nhi, 0)],
        rate,
        latency_ns,
    };
    Topology {
        profile,
        hosts: vec![HostShape { nhis, ports_per_nhi }; 2],
        cables: (0..nhis).map(cable).collect(),
        seed: 1,
        ..Topology::default()
    }
}

impl World {
    pub fn new(topology: &Topology) -> World {
        let mut fabric = Fabric::new(topology).expect("a topology that makes sense");
        let count = fabric.nhis().len();
        let mut drivers = Vec::new();
        for nhi in 0..count {
            let hops = fabric.nhis()[nhi].hops() as u32;
            let memory = TestMemory::new(MEMORY);
            fabric.connect(Instant::ZERO, nhi, memory.clone());
            drivers.push(Driver::new(memory, hops));
        }
        World {
            fabric,
            now: Instant::ZERO,
            drivers,
            interrupts: Vec::new(),
        }
    }

    /// A pair with enumerated routers, links up and told of.
    pub fn linked(topology: &Topology) -> World {
        let mut world = World::new(topology);
        for nhi in 0..world.drivers.len() {
            world.enumerate(nhi);
        }
        world.run_ms(600);
        for nhi in 0..world.drivers.len() {
            world.take_control(nhi);
        }
        world
    }

    /// Replaces a guest: as kill -9 and a restart on the same socket.
    pub fn restart(&mut self, nhi: usize) {
        self.fabric.disconnect(self.now, nhi);
        let memory = TestMemory::new(MEMORY);
        self.fabric.connect(self.now, nhi, memory.clone());
        self.drivers[nhi] = Driver::new(memory, self.drivers[nhi].hops);
    }

    pub fn run_ns(&mut self, nanoseconds: u64) {
        let end = self.now.after_ns(nanoseconds);
        while let Some(next) = self.fabric.next_event().filter(|&next| next <= end) {
            self.fabric.step(next);
            self.fabric.take_interrupts(&mut self.interrupts);
        }
        self.now = end;
        self.fabric.step(end);
        self.fabric.take_interrupts(&mut self.interrupts);
    }

    pub fn run_ms(&mut self, milliseconds: u64) {
        self.run_ns(milliseconds * 1_000_000);
    }

    pub fn read(&mut self, nhi: usize, offset: u32) -> u32 {
        self.fabric.mmio_read(self.now, nhi, offset)
    }

    pub fn write(&mut self, nhi: usize, offset: u32, value: u32) {
        self.fabric.mmio_write(self.now, nhi, offset, value);
        self.fabric.take_interrupts(&mut self.interrupts);
    }

    /// Interrupts of a ring since the last call.
    pub fn interrupts_of(&mut self, nhi: usize, transmit: bool, ring: u32) -> usize {
        let wanted = Interrupt {
            nhi,
            vector: vector(transmit, ring),
        };
        let before = self.interrupts.len();
        self.interrupts.retain(|&interrupt| interrupt != wanted);
        before - self.interrupts.len()
    }

    /// Starts a ring as tb_ring_start does.
    pub fn start_ring(&mut self, nhi: usize, transmit: bool, ring: u32, flags: u32, throttle: u32) {
        let driver = &mut self.drivers[nhi];
        let direction = usize::from(!transmit);
        driver.head[direction][ring as usize] = 0;
        driver.tail[direction][ring as usize] = 0;
        let base = driver.descriptors(transmit, ring);
        driver.memory.write(base, &[0; 16 * RING as usize]).unwrap();
        let (registers, options) = blocks(transmit, ring);
        let raw = flags & RAW != 0;
        self.write(nhi, registers, base as u32);
        self.write(nhi, registers + 4, (base >> 32) as u32);
        let buffer = if transmit || !raw { 0 } else { 256 };
        self.write(nhi, registers + 12, buffer << 16 | RING);
        self.write(nhi, options + 4, if transmit || raw { 0 } else { FRAME_MARKERS });
        self.write(nhi, options, ENABLE | flags & RAW);
        if flags & E2E != 0 {
            self.write(nhi, options, ENABLE | flags);
        }
        self.interrupt_on(nhi, transmit, ring, throttle);
    }

    fn interrupt_on(&mut self, nhi: usize, transmit: bool, ring: u32, throttle: u32) {
        const DISABLE_AUTO_CLEAR: u32 = 1 << 17;
        let hops = self.drivers[nhi].hops;
        let bit = if transmit { ring } else { hops + ring };
        let misc = self.read(nhi, 0x39864);
        self.write(nhi, 0x39864, misc | DISABLE_AUTO_CLEAR);
        let (register, shift) = (0x38c40 + bit / 8 * 4, bit % 8 * 4);
        let vectors = self.read(nhi, register) & !(0xf << shift);
        let vector = vector(transmit, ring) as u32;
        self.write(nhi, register, vectors | vector << shift);
        self.write(nhi, 0x38c00 + 4 * vector, throttle);
        let enable = 0x38200 + bit / 32 * 4;
        let old = self.read(nhi, enable);
        self.write(nhi, enable, old | 1 << (bit % 32));
    }

    pub fn stop_ring(&mut self, nhi: usize, transmit: bool, ring: u32) {
        let (registers, options) = blocks(transmit, ring);
        let bit = if transmit { ring } else { self.drivers[nhi].hops + ring };
        self.write(nhi, 0x38208 + bit / 32 * 4, 1 << (bit % 32));
        for (offset, value) in [(options, 0), (registers, 0), (registers + 4, 0), (registers + 8, 0)] {
            self.write(nhi, offset, value);
        }
        self.write(nhi, registers + 12, 0);
    }

    /// The driver's handling of an interrupt: clear the status bit.
    pub fn acknowledge(&mut self, nhi: usize, transmit: bool, ring: u32) {
        let bit = if transmit { ring } else { self.drivers[nhi].hops + ring };
        self.write(nhi, 0x37808 + bit / 32 * 4, 1 << (bit % 32));
    }

    /// Puts a frame on a Tx ring and rings the doorbell.
    pub fn send(&mut self, nhi: usize, ring: u32, bytes: &[u8]) {
        self.post_tx(nhi, ring, bytes, START, END);
    }

    fn post_tx(&mut self, nhi: usize, ring: u32, bytes: &[u8], start: u32, end: u32) {
        let driver = &mut self.drivers[nhi];
        let slot = driver.head[0][ring as usize];
        let buffer = driver.buffers[0][ring as usize][slot as usize];
        driver.memory.write(buffer, bytes).unwrap();
        let word = (bytes.len() as u32 & 0xfff) | end << 12 | start << 16 | 0xc << 20;
        driver.post(true, ring, buffer, word);
        let head = driver.head[0][ring as usize];
        self.write(nhi, blocks(true, ring).0 + 8, head << 16);
    }

    /// Posts Rx buffers, all but one of them.
    pub fn fill(&mut self, nhi: usize, ring: u32, count: u32) {
        for _ in 0..count {
            let driver = &mut self.drivers[nhi];
            let slot = driver.head[1][ring as usize];
            let buffer = driver.buffers[1][ring as usize][slot as usize];
            driver.post(false, ring, buffer, 0xc << 20);
        }
        let head = self.drivers[nhi].head[1][ring as usize];
        self.write(nhi, blocks(false, ring).0 + 8, head);
    }

    /// Tx descriptors completed since the last call.
    pub fn reap(&mut self, nhi: usize, ring: u32) -> usize {
        let driver = &mut self.drivers[nhi];
        let mut count = 0;
        while driver.completion(true, ring).is_some() {
            count += 1;
        }
        count
    }

    /// Frames received on a ring since the last call.
    pub fn receive(&mut self, nhi: usize, ring: u32) -> Vec<Frame> {
        let driver = &mut self.drivers[nhi];
        let mut frames = Vec::new();
        while let Some((slot, word)) = driver.completion(false, ring) {
            let length = match word & 0xfff {
                0 => 4096,
                length => length as usize,
            };
            let buffer = driver.buffers[1][ring as usize][slot as usize];
            let bytes = driver.memory.bytes(buffer, length);
            frames.push(Frame {
                bytes,
                start: word >> 16 & 0xf,
                end: word >> 12 & 0xf,
                flags: word >> 20,
            });
        }
        frames
    }

    /// Sends a control packet.
    pub fn send_control(&mut self, nhi: usize, kind: u8, words: &[u32]) {
        let bytes = Packet {
            pdf: kind,
            words: words.to_vec(),
        }
        .to_bytes();
        self.post_tx(nhi, 0, &bytes, 0, kind.into());
        assert_eq!(self.reap(nhi, 0), 1, "a control packet is sent at once");
    }

    /// Control packets that came, answers and others.
    pub fn take_control(&mut self, nhi: usize) -> Vec<Packet> {
        let frames = self.receive(nhi, 0);
        let count = frames.len() as u32;
        let parse = |frame: Frame| {
            assert_eq!((frame.start, frame.flags), (0, 2));
            Packet::parse(frame.end as u8, &frame.bytes).expect("a good checksum")
        };
        let mut packets: Vec<Packet> = std::mem::take(&mut self.drivers[nhi].inbox);
        packets.extend(frames.into_iter().map(parse));
        self.fill(nhi, 0, count);
        packets
    }

    /// A request and its answer; whatever else came in between goes to the inbox.
    pub fn request(&mut self, nhi: usize, kind: u8, words: &[u32]) -> Packet {
        let mut waiting = self.take_control(nhi);
        self.send_control(nhi, kind, words);
        let answer = self.take_control(nhi);
        let is_answer = |packet: &&Packet| packet.pdf == kind || packet.pdf == pdf::NOTIFY;
        let found = answer.iter().find(is_answer).expect("an answer at once").clone();
        waiting.extend(answer.into_iter().filter(|packet| *packet != found));
        self.drivers[nhi].inbox = waiting;
        found
    }

    /// Reads words of a configuration space: `Err` is the code of an error reply.
    pub fn config_read(&mut self, nhi: usize, space: u32, adapter: u32, at: u32, count: u32) -> Result<Vec<u32>, u32> {
        let address = at | count << 13 | adapter << 19 | space << 25;
        let answer = self.request(nhi, pdf::READ, &[0, 0, address]);
        if answer.pdf == pdf::NOTIFY {
            return Err(answer.words[2] & 0xff);
        }
        Ok(answer.words[3..].to_vec())
    }

    pub fn config_write(&mut self, nhi: usize, space: u32, adapter: u32, at: u32, data: &[u32]) {
        let address = at | (data.len() as u32) << 13 | adapter << 19 | space << 25;
        let words = [&[0, 0, address], data].concat();
        assert_eq!(self.request(nhi, pdf::WRITE, &words).pdf, pdf::WRITE);
    }

    /// Brings a router up as the driver does: control rings, enumeration, hotplug allowed.
    pub fn enumerate(&mut self, nhi: usize) {
        self.write(nhi, 0x39898, 1);
        assert_eq!(self.read(nhi, 0x39898), 0);
        self.start_ring(nhi, true, 0, RAW, 0);
        self.start_ring(nhi, false, 0, RAW, 0);
        self.fill(nhi, 0, RING - 1);
        let identity = self.config_read(nhi, 2, 0, 0, 5).expect("router space");
        self.config_write(nhi, 2, 0, 1, &[identity[1], 0, 1 << 31, 0x2000_10ff]);
        let last = identity[1] >> 14 & 0x3f;
        for adapter in 1..=last {
            let basic = self.config_read(nhi, 1, adapter, 0, 8).expect("adapter space");
            if basic[2] == 1 && adapter % 2 == 1 {
                self.config_write(nhi, 1, adapter, 5, &[basic[5] & 0x7fff_ffff]);
            }
        }
    }

    /// Sets up both directions of a path between Tx and Rx rings `ring` of two NHIs, hop 7 + ring on the cable.
    pub fn connect_rings(&mut self, a: usize, b: usize, ring: u32) {
        for nhi in [a, b] {
            let own = self.fabric.nhis()[nhi].nhi_adapter() as u32;
            let hop = 7 + ring;
            self.config_write(nhi, 0, 1, 2 * hop, &[1 << 31 | 14 << 17 | own << 11 | ring]);
            self.config_write(nhi, 0, 1, 2 * hop + 1, &[0x017f_f501]);
            self.config_write(nhi, 0, own, 2 * ring, &[1 << 31 | 1 << 11 | hop]);
            self.config_write(nhi, 0, own, 2 * ring + 1, &[0x027f_f501]);
        }
    }

    /// A linked pair with started and connected data rings on every cable.
    pub fn talking(topology: &Topology, flags: u32, throttle: u32) -> World {
        let mut world = World::linked(topology);
        let half = world.drivers.len() / 2;
        for nhi in 0..half {
            for side in [nhi, half + nhi] {
                world.start_ring(side, true, 1, flags & E2E, throttle);
                // The ring's credits go by Tx hop 1.
                let paired = if flags & E2E != 0 { 1 << 12 } else { 0 };
                world.start_ring(side, false, 1, flags | paired, throttle);
                world.fill(side, 1, RING - 1);
            }
            world.connect_rings(nhi, half + nhi, 1);
        }
        world.interrupts.clear();
        world
    }
}

fn blocks(transmit: bool, ring: u32) -> (u32, u32) {
    if transmit {
        (16 * ring, 0x19800 + 32 * ring)
    } else {
        (0x8000 + 16 * ring, 0x29800 + 32 * ring)
    }
}

impl Driver {
    fn new(memory: TestMemory, hops: u32) -> Driver {
        // Descriptors in the first 64 KiB, then a page for every descriptor.
        let buffer = |direction: u64, ring: u64, slot: u64| {
            0x1_0000 + ((direction * u64::from(hops) + ring) * u64::from(RING) + slot) * 4096
        };
        let rings = |direction: u64| -> Vec<Vec<u64>> {
            let slots = |ring: u64| (0..u64::from(RING)).map(|slot| buffer(direction, ring, slot)).collect();
            (0..u64::from(hops)).map(slots).collect()
        };
        let zeros = || [vec![0; hops as usize], vec![0; hops as usize]];
        let buffers = [rings(0), rings(1)];
        Driver {
            memory,
            hops,
            head: zeros(),
            tail: zeros(),
            buffers,
            inbox: Vec::new(),
        }
    }

    pub fn descriptors(&self, transmit: bool, ring: u32) -> u64 {
        let index = if transmit { ring } else { self.hops + ring };
        u64::from(16 * RING * index)
    }

    /// Tx descriptors posted and not yet reaped.
    pub fn in_flight(&self, ring: u32) -> u32 {
        (self.head[0][ring as usize] + RING - self.tail[0][ring as usize]) % RING
    }

    fn post(&mut self, transmit: bool, ring: u32, buffer: u64, word: u32) {
        let head = &mut self.head[usize::from(!transmit)][ring as usize];
        let at = u64::from(*head) * 16;
        *head = (*head + 1) % RING;
        let at = self.descriptors(transmit, ring) + at;
        let bytes = [buffer.to_le_bytes(), u64::from(word).to_le_bytes()].concat();
        self.memory.write(at, &bytes).unwrap();
    }

    /// Takes the next completed descriptor: its slot and its word.
    fn completion(&mut self, transmit: bool, ring: u32) -> Option<(u32, u32)> {
        let direction = usize::from(!transmit);
        let slot = self.tail[direction][ring as usize];
        let at = self.descriptors(transmit, ring) + u64::from(slot) * 16 + 8;
        let word = self.memory.load_u32(at).unwrap();
        if slot == self.head[direction][ring as usize] || word >> 20 & 2 == 0 {
            return None;
        }
        self.tail[direction][ring as usize] = (slot + 1) % RING;
        Some((slot, word))
    }
}
