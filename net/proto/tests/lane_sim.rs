// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Message lanes of both directions under loss, bursts of loss, corruption, duplicates and swaps.
//!
//! Both sides send trains with random bytes as fast as their credit allows, over a ring with posted
//! descriptors that are given back in batches. For every seed: what is delivered is what was sent,
//! in order, never twice and never with a hole; every frame is accounted for on both sides; no
//! descriptor is overrun on a ring without duplicates; after the faults traffic flows again and
//! nothing more is lost.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng, MS};
use std::collections::VecDeque;
use tbip::credit::Spender;
use tbip::frame::{Ctrl, Eth, Head, Header, Kind, Seq, EOF_HEAD, SOF};
use tbip::limits::{CREDIT_PROBE_MAX, MAX_PAGES};
use tbip::time::Instant;
use tbip::train::{Arrival, Frame, Inbound, Train};

/// A frame on the wire.
#[derive(Clone)]
struct Wire {
    /// Place on the ring, as the sender counts.
    number: u64,
    sof: u8,
    eof: u8,
    spoiled: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Weather {
    loss: f64,
    /// Chance that a burst of loss begins, and its longest length.
    burst: f64,
    burst_len: u64,
    corrupt: f64,
    dup: f64,
    swap: f64,
}

impl Weather {
    fn foul(rng: &mut Rng) -> Self {
        Self {
            loss: rng.pick(&[0.0, 0.001, 0.02, 0.2]),
            burst: rng.pick(&[0.0, 0.002, 0.02]),
            burst_len: rng.pick(&[13, 26, 40, 400]),
            corrupt: rng.pick(&[0.0, 0.01, 0.1]),
            dup: rng.pick(&[0.0, 0.0, 0.02]),
            swap: rng.pick(&[0.0, 0.0, 0.02]),
        }
    }
}

/// One direction: a transmit ring, the wire, a receive ring.
struct Ring {
    queue: VecDeque<Wire>,
    weather: Weather,
    burst: u64,
    /// Descriptors free at the receiver.
    free: u32,
    /// Frames sent, lost, added by duplication, dropped for want of a descriptor.
    sent: u64,
    lost: u64,
    added: u64,
    overrun: u64,
}

impl Ring {
    fn send(&mut self, rng: &mut Rng, frame: Wire) {
        self.sent += 1;
        let w = self.weather;
        if self.burst == 0 && rng.chance(w.burst) {
            self.burst = 1 + rng.below(w.burst_len);
        }
        if self.burst > 0 {
            self.burst -= 1;
            self.lost += 1;
            return;
        }
        if rng.chance(w.loss) {
            self.lost += 1;
            return;
        }
        let mut frame = frame;
        frame.spoiled = rng.chance(w.corrupt);
        if frame.spoiled {
            // Nothing of it can be believed.
            let at = rng.below(frame.bytes.len() as u64) as usize;
            frame.bytes[at] ^= 1 + rng.below(255) as u8;
            frame.eof = rng.below(16) as u8;
        }
        if rng.chance(w.dup) {
            self.added += 1;
            self.queue.push_back(frame.clone());
        }
        self.queue.push_back(frame);
        // Frames that were neighbours change places. Farther is beyond what is promised: a frame that
        // takes the very place of one that is lost 13 before it cannot be told from it.
        let n = self.queue.len();
        if n > 1 && self.queue[n - 2].number + 1 == self.queue[n - 1].number && rng.chance(w.swap) {
            self.queue.swap(n - 1, n - 2);
        }
    }
}

/// One host: the sending half of one ring and the receiving half of the other.
struct Host {
    spender: Spender,
    inbound: Inbound,
    /// Trains sent and not yet delivered or given up.
    sent: VecDeque<(u64, Vec<u8>)>,
    number: u64,
    held: Vec<Vec<u8>>,
    /// Number of the last train delivered here.
    last: Option<u64>,
    delivered: u64,
    consumed: u32,
}

struct World {
    now: u64,
    rng: Rng,
    hosts: [Host; 2],
    rings: [Ring; 2],
    idle: [bool; 2],
}

/// The bytes of train `number`: any, but known to both ends.
fn payload(seed: u64, number: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ number.wrapping_mul(0x1234_5678_9abc_def1));
    (0..len).map(|_| rng.next() as u8).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let epochs = [rng.next() | 1, rng.next() | 1];
        let depths = [rng.pick(&[40, 64, 256]), rng.pick(&[40, 64, 256])];
        let host = |i: usize| Host {
            spender: Spender::new(Seq::first(epochs[i], epochs[1 - i], 0), depths[1 - i]),
            inbound: Inbound::new(Seq::first(epochs[1 - i], epochs[i], 0), depths[i]),
            sent: VecDeque::new(),
            number: 0,
            held: vec![],
            last: None,
            delivered: 0,
            consumed: 0,
        };
        let mut ring = |i: usize| Ring {
            queue: VecDeque::new(),
            weather: Weather::foul(&mut rng),
            burst: 0,
            free: u32::from(depths[1 - i]),
            sent: 0,
            lost: 0,
            added: 0,
            overrun: 0,
        };
        Self {
            now: 0,
            hosts: [host(0), host(1)],
            rings: [ring(0), ring(1)],
            idle: [false, seed % 2 == 0],
            rng,
        }
    }

    /// Put the frames of a train on ring `i`.
    fn put(&mut self, i: usize, train: Train, meta: &[u8], inline: &[u8], pages: &[&[u8]]) {
        let mut frame = |eof: u8, bytes: Vec<u8>| {
            let wire = Wire {
                number: self.rings[i].sent,
                sof: SOF,
                eof,
                spoiled: false,
                bytes,
            };
            self.rings[i].send(&mut self.rng, wire);
        };
        for (page, index) in pages.iter().zip(0..) {
            frame(train.page_eof(index), page.to_vec());
        }
        frame(EOF_HEAD, [&train.header.bytes()[..], meta, inline].concat());
    }

    fn control(&mut self, i: usize, first: Seq, probe: bool) {
        let credit = self.hosts[i].inbound.credit();
        let mut train = Train::new(Kind::Ctrl, first, Ctrl::LEN as u16, 0, 0, credit);
        train.header.probe = probe;
        self.put(i, train, &Ctrl::Credit.bytes(), &[], &[]);
    }

    /// Host `i` sends what it can.
    fn transmit(&mut self, i: usize) {
        let now = Instant(self.now);
        for _ in 0..self.rng.below(8) {
            if self.idle[i] {
                break;
            }
            // The same few shapes again and again, so that losses can hide.
            let pages = self.rng.pick(&[0u8, 0, 1, 3, 3, 12, MAX_PAGES as u8]);
            let Some(first) = self.hosts[i].spender.take(now, Train::frames(pages)) else {
                break;
            };
            let host = &mut self.hosts[i];
            let page_len = 64;
            let total = 22 + usize::from(pages) * page_len;
            let mut bytes = payload(i as u64, host.number, total);
            bytes[..8].copy_from_slice(&host.number.to_le_bytes());
            host.sent.push_back((host.number, bytes.clone()));
            host.number += 1;
            let credit = host.inbound.credit();
            let (inline, rest) = bytes.split_at(22);
            let chunks: Vec<&[u8]> = rest.chunks(page_len).collect();
            let inline_len = (Eth::LEN + inline.len()) as u16;
            let train = Train::new(Kind::Eth, first, inline_len, pages, rest.len() as u32, credit);
            self.put(i, train, &Eth::default().bytes(), inline, &chunks);
        }
        if let Some(first) = self.hosts[i].spender.take_probe(now) {
            self.control(i, first, true);
        } else if self.hosts[i].inbound.credit_due() {
            if let Some(first) = self.hosts[i].spender.take_control() {
                self.control(i, first, false);
            }
        }
    }

    /// Host `i` takes what has come over the other's ring.
    fn receive(&mut self, i: usize) {
        let budget = self.rng.below(64);
        for _ in 0..budget {
            let ring = &mut self.rings[1 - i];
            let Some(wire) = ring.queue.pop_front() else { break };
            if ring.free == 0 {
                ring.overrun += 1;
                continue;
            }
            ring.free -= 1;
            self.hosts[i].consumed += 1;
            self.frame(i, wire);
        }
        // Buffers go back in batches.
        if self.rng.chance(0.5) {
            let host = &mut self.hosts[i];
            self.rings[1 - i].free += host.consumed;
            host.inbound.handle_posted(host.consumed);
            host.consumed = 0;
        }
    }

    fn frame(&mut self, i: usize, wire: Wire) {
        let arrival = Arrival {
            sof: wire.sof,
            eof: wire.eof,
            len: wire.bytes.len(),
            spoiled: wire.spoiled,
        };
        let host = &mut self.hosts[i];
        let verdict = host.inbound.handle_frame(&wire.bytes, arrival);
        if verdict.drop_held.is_some() {
            host.held.clear();
        }
        if let Some(credit) = verdict.credit {
            host.spender.handle_credit(credit);
        }
        match verdict.frame {
            Frame::Page => host.held.push(wire.bytes),
            Frame::Dropped(_) => assert!(host.held.is_empty(), "pages kept behind a dropped frame"),
            Frame::Train(header) => {
                let pages = std::mem::take(&mut host.held);
                assert_eq!(pages.len(), usize::from(header.pages));
                self.deliver(i, &header, &wire.bytes, pages);
            }
        }
        assert!(self.hosts[i].held.len() <= MAX_PAGES);
    }

    fn deliver(&mut self, i: usize, header: &Header, head: &[u8], pages: Vec<Vec<u8>>) {
        let Head::Eth(_, inline) = Head::parse(header, head).unwrap() else {
            return;
        };
        let bytes = [inline, &pages.concat()].concat();
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let host = &mut self.hosts[i];
        assert!(
            host.last.is_none_or(|last| number > last),
            "train {number} twice or out of order"
        );
        host.last = Some(number);
        host.delivered += 1;
        let sent = &mut self.hosts[1 - i].sent;
        while sent.front().is_some_and(|(n, _)| *n < number) {
            sent.pop_front();
        }
        let (n, want) = sent.pop_front().expect("a train that was not sent");
        assert_eq!(n, number);
        assert!(want == bytes, "train {number} was changed on the way");
    }

    fn run(&mut self, rounds: u64) {
        for _ in 0..rounds {
            for i in 0..2 {
                self.transmit(i);
                self.receive(i);
            }
            self.now += 1 + self.rng.below(MS);
        }
    }

    fn books(&self) {
        for i in 0..2 {
            let ring = &self.rings[i];
            let c = self.hosts[1 - i].inbound.counters();
            let held = u64::from(self.hosts[1 - i].inbound.held());
            let arrived = ring.sent - ring.lost + ring.added - ring.overrun - ring.queue.len() as u64;
            assert_eq!(c.frames, arrived);
            assert_eq!(c.frames, c.trains + c.pages + c.dropped_frames + c.dropped_held + held);
            assert_eq!(self.hosts[i].spender.counters().frames, ring.sent);
            assert_eq!(self.hosts[i].spender.counters().excess, 0);
        }
    }
}

#[test]
fn nothing_is_delivered_wrong_or_twice_or_with_a_hole() {
    seeds("lane_sim", 250, &[], |seed| {
        let mut world = World::new(seed);
        world.run(250);
        world.books();
        for ring in &world.rings {
            if ring.weather.dup == 0.0 && ring.weather.swap == 0.0 {
                // A probe that finds no descriptor is lost like any frame; nothing else may be.
                assert!(ring.overrun <= world.hosts.iter().map(|h| h.spender.counters().probes).sum());
            }
        }
        // Fair weather: after a moment nothing is lost any more and everything flows.
        world.rings.iter_mut().for_each(|ring| {
            ring.weather = Weather::default();
            ring.burst = 0;
        });
        world.run(4 * CREDIT_PROBE_MAX.0 / MS + 100);
        // A probe that finds no descriptor is lost; it carries nothing that another does not.
        let spared = |w: &World, i: usize| w.rings[i].overrun.saturating_sub(w.hosts[i].spender.counters().probes);
        let before = [0, 1].map(|i| (world.rings[i].lost, spared(&world, i)));
        let numbers: Vec<_> = world.hosts.iter().map(|h| (h.number, h.delivered)).collect();
        world.run(150);
        world.idle = [true; 2];
        world.run(100);
        for (i, (lost, overrun)) in before.into_iter().enumerate() {
            let (number, _) = numbers[i];
            assert_eq!(world.rings[i].lost, lost);
            assert!(spared(&world, i) <= overrun);
            let sent = world.hosts[i].number - number;
            assert!(sent > 50 || (i == 1 && seed % 2 == 0), "host {i} sent only {sent}");
            assert!(world.rings[i].queue.is_empty());
            let arrived = world.hosts[1 - i].delivered - numbers[1 - i].1;
            assert!(arrived >= sent, "{arrived} of {sent} arrived");
            assert!(world.hosts[i].sent.is_empty());
        }
        world.books();
    });
}

#[test]
fn a_lane_on_which_nothing_passes_for_a_while_comes_back() {
    seeds("lane_sim", 100, &[], |seed| {
        let mut world = World::new(seed);
        for ring in &mut world.rings {
            ring.weather = Weather::default();
        }
        world.run(50);
        for ring in &mut world.rings {
            ring.weather.loss = 1.0;
        }
        world.run(2_000);
        for ring in &mut world.rings {
            ring.weather.loss = 0.0;
        }
        world.run(4 * CREDIT_PROBE_MAX.0 / MS + 100);
        let delivered = world.hosts[1].delivered;
        world.run(100);
        assert!(world.hosts[1].delivered > delivered + 10);
        world.books();
    });
}
