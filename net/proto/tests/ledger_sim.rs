// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ledgers of both directions of a lane under loss and bursts of loss, in virtual time.
//!
//! Both sides send trains with and without tokens over a ring that loses whole trains (which frame of a train is lost
//! is the business of `lane_sim`). For every seed: each token is told once, in the order of sending, and truly; after
//! the last fault each is told within three round trips and the wait for a probe; the floor never passes what was not
//! told. A lane that dies tells everything.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng};
use std::collections::{BTreeMap, HashSet, VecDeque};
use tbip::frame::Seq;
use tbip::ledger::{Ledger, Record, Report, Sent};
use tbip::limits::{LEDGER_PROBE_MAX, LEDGER_PROBE_MIN};
use tbip::time::Instant;

const US: u64 = 1_000;

/// What a head carries for the ledgers.
#[derive(Clone)]
enum Body {
    /// A train with a token: the sender's floor, and what it has received.
    Token { token: u64, floor: Seq, carried: Seq },
    /// A train of the Ethernet device.
    Untold,
    /// A CTRL head.
    Control { floor: Seq, probe: bool, report: Report },
}

#[derive(Clone)]
struct Train {
    first: Seq,
    last: Seq,
    body: Body,
}

struct Host {
    ledger: Ledger<Vec<Option<Sent<u64>>>>,
    record: Record,
    next: Seq,
    token: u64,
    /// Tokens in flight, in order of sending.
    waiting: VecDeque<u64>,
    /// Tokens of the peer that were delivered here.
    delivered: HashSet<u64>,
    told: u64,
    lost: u64,
}

struct World {
    now: u64,
    rng: Rng,
    delay: u64,
    loss: f64,
    burst: f64,
    bursts: [u64; 2],
    hosts: [Host; 2],
    wire: BTreeMap<(u64, u64), (usize, Train)>,
    /// Nothing overtakes on a ring.
    latest: [u64; 2],
    serial: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let first = [Seq(rng.next() as u32), Seq(rng.next() as u32)];
        let host = |i: usize| Host {
            ledger: Ledger::new(first[i], vec![None; 64]),
            record: Record::new(first[1 - i]),
            next: first[i],
            token: 0,
            waiting: VecDeque::new(),
            delivered: HashSet::new(),
            told: 0,
            lost: 0,
        };
        Self {
            now: 0,
            delay: rng.pick(&[2 * US, 20 * US, 300 * US]),
            loss: rng.pick(&[0.0, 0.001, 0.02, 0.3]),
            burst: rng.pick(&[0.0, 0.002, 0.02]),
            bursts: [0; 2],
            hosts: [host(0), host(1)],
            wire: BTreeMap::new(),
            latest: [0; 2],
            serial: 0,
            rng,
        }
    }

    fn put(&mut self, i: usize, frames: u32, body: Body) {
        let host = &mut self.hosts[i];
        let first = host.next;
        host.next = first.plus(frames);
        let train = Train {
            first,
            last: host.next.minus(1),
            body,
        };
        if let Body::Token { token, .. } = &train.body {
            assert!(host
                .ledger
                .handle_sent(Instant(self.now), train.first, train.last, *token));
            host.waiting.push_back(*token);
        } else {
            host.ledger.handle_untold(host.next);
        }
        if self.bursts[i] == 0 && self.rng.chance(self.burst) {
            self.bursts[i] = 1 + self.rng.below(40);
        }
        if self.bursts[i] > 0 {
            self.bursts[i] -= 1;
            return;
        }
        if self.rng.chance(self.loss) {
            return;
        }
        self.latest[i] = self.latest[i].max(self.now + self.delay + self.rng.below(self.delay));
        self.serial += 1;
        self.wire.insert((self.latest[i], self.serial), (1 - i, train));
    }

    fn control(&mut self, i: usize, probe: bool) {
        let host = &mut self.hosts[i];
        let body = Body::Control {
            floor: host.ledger.floor(),
            probe,
            report: host.record.take_report(),
        };
        // The report crosses the wire as bytes.
        let Body::Control { report, .. } = &body else {
            unreachable!()
        };
        let (bytes, len) = report.bytes();
        assert_eq!(Report::parse(&bytes[..len]).as_ref(), Ok(report));
        self.put(i, 1, body);
    }

    fn send(&mut self, i: usize) {
        for _ in 0..self.rng.below(6) {
            let frames = 1 + self.rng.below(18) as u32;
            let host = &mut self.hosts[i];
            if self.rng.chance(0.3) {
                self.put(i, frames, Body::Untold);
            } else if host.ledger.has_room() {
                let token = host.token;
                host.token += 1;
                let body = Body::Token {
                    token,
                    floor: host.ledger.floor(),
                    carried: host.record.carried(),
                };
                self.put(i, frames, body);
            }
        }
    }

    /// What is told must be true, in order, and of a train in flight.
    fn told(&mut self, i: usize) {
        let (a, b) = self.hosts.split_at_mut(1);
        let (host, peer) = if i == 0 { (&mut a[0], &b[0]) } else { (&mut b[0], &a[0]) };
        while let Some(told) = host.ledger.poll_told() {
            assert_eq!(host.waiting.pop_front(), Some(told.token), "told twice or out of order");
            assert_eq!(
                told.carried,
                peer.delivered.contains(&told.token),
                "token {} told wrongly",
                told.token
            );
            host.told += 1;
            host.lost += u64::from(!told.carried);
        }
        assert_eq!(host.ledger.is_empty(), host.waiting.is_empty());
    }

    fn receive(&mut self, i: usize, train: Train) {
        let now = Instant(self.now);
        let host = &mut self.hosts[i];
        match train.body {
            Body::Token { token, floor, carried } => {
                if host.record.handle_train(train.first, train.last, floor) {
                    assert!(host.delivered.insert(token));
                }
                host.ledger.handle_carried(now, carried);
            }
            Body::Untold => host.record.handle_untold(train.first, train.last),
            Body::Control { floor, probe, report } => {
                host.record.handle_control(train.last, Some(floor), probe);
                host.ledger.handle_report(now, &report);
            }
        }
        self.told(i);
    }

    /// Both sides live for `span`; they send new trains if `busy`.
    fn run(&mut self, span: u64, busy: bool) {
        let end = self.now + span;
        while self.now < end {
            if busy {
                for i in 0..2 {
                    self.send(i);
                }
            }
            let step = if busy {
                self.now + 1 + self.rng.below(self.delay)
            } else {
                end
            };
            let probe = self
                .hosts
                .iter()
                .filter_map(|h| h.ledger.poll_timeout())
                .map(|t| t.0)
                .min();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            self.now = [Some(step), probe, arrival]
                .into_iter()
                .flatten()
                .min()
                .unwrap()
                .max(self.now);
            let mut polled = [false; 2];
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (i, train) = entry.remove();
                polled[i] = true;
                self.receive(i, train);
            }
            for (i, polled) in polled.into_iter().enumerate() {
                if self.hosts[i].ledger.take_probe(Instant(self.now)) {
                    self.control(i, true);
                } else if polled && self.hosts[i].record.is_due() {
                    self.control(i, false);
                }
            }
        }
    }
}

#[test]
fn each_token_is_told_once_truly_and_soon_after_the_last_fault() {
    seeds("ledger_sim", 80, &[], |seed| {
        let mut world = World::new(seed);
        world.run(150 * world.delay, true);
        (world.loss, world.burst, world.bursts) = (0.0, 0.0, [0; 2]);
        // What a probe may still have to wait for from before, and then nothing else is lost.
        let round_trip = 4 * world.delay;
        world.run(LEDGER_PROBE_MAX.0 + 3 * round_trip, false);
        for host in &world.hosts {
            assert!(host.waiting.is_empty(), "{:?} not told", host.waiting);
            assert_eq!(host.told, host.token);
            assert_eq!(host.ledger.counters().excess, 0);
        }
        if seed % 8 == 0 {
            assert!(world.hosts[0].told > 30);
        }
    });
}

#[test]
fn a_single_loss_is_told_within_three_round_trips() {
    seeds("ledger_sim", 200, &[], |seed| {
        let mut world = World::new(seed);
        (world.loss, world.burst) = (0.0, 0.0);
        world.run(200 * world.delay, true);
        // The last one is told by an answer to a probe.
        world.run(20 * world.delay + 2 * LEDGER_PROBE_MIN.0, false);
        let before = world.hosts[0].lost;
        assert!(world.hosts.iter().all(|h| h.waiting.is_empty()));
        // The next train of host 0 is lost, and nothing follows it.
        world.loss = 1.0;
        while world.hosts[0].waiting.is_empty() {
            world.send(0);
        }
        world.loss = 0.0;
        let (sent, probe) = (world.now, world.hosts[0].ledger.poll_timeout().unwrap().0);
        let round_trip = 4 * world.delay;
        assert!(
            probe - sent <= (2 * round_trip).max(LEDGER_PROBE_MIN.0),
            "the probe comes after {} us",
            (probe - sent) / US
        );
        world.run(probe - sent + round_trip, false);
        assert!(world.hosts[0].waiting.is_empty());
        assert!(world.hosts[0].lost > before);
    });
}

#[test]
fn a_lane_that_dies_tells_everything() {
    seeds("ledger_sim", 200, &[], |seed| {
        let mut world = World::new(seed);
        world.run(world.rng.clone().below(300) * world.delay, true);
        // What is on the wire arrives nowhere.
        world.wire.clear();
        for i in 0..2 {
            let host = &mut world.hosts[i];
            host.ledger.handle_dead();
            let mut told = 0;
            while let Some(t) = host.ledger.poll_told() {
                assert_eq!(host.waiting.pop_front(), Some(t.token));
                told += 1;
            }
            assert!(told <= 64 && host.waiting.is_empty());
        }
    });
}
