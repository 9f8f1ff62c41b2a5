// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The rail handshake under every fault: loss, reordering, duplicates, delay, crashes and restarts
//! of either side at any moment, rings and HopIDs that cannot be had.
//!
//! For every seed: after the last fault both sides are up within a bounded time, agree on everything
//! and stay up; at no time does a side think a rail is up whose other end was never opened for it.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Channel, Rng, Weather, MS};
use std::collections::HashMap;
use tbip::native::{Abilities, Features};
use tbip::rail::{Action, Config, Event, OpenError, Plan, Rail};
use tbip::time::Instant;
use tbip::wire::{Ends, HopId, Mac, Route, Uuid};

const UUIDS: [Uuid; 2] = [Uuid([0xa1; 16]), Uuid([0xb2; 16])];
const ROUTES: [u64; 2] = [1, 3];

/// Time after the last fault within which both are up: the peer's death noticed (3 s), one failed
/// opening (1 s), slow drivers and the longest retry.
const CONVERGE: u64 = 7_000 * MS;

/// What a driver is doing and what it has.
#[derive(Default)]
struct Driver {
    busy: Option<(u64, Action)>,
    hops: Vec<HopId>,
    open: Option<Plan>,
}

struct Side {
    config: Config,
    rail: Rail,
    driver: Driver,
    /// Lanes that the host has transmit HopIDs for, and paths: perhaps fewer than rings, which the machine knows of.
    most: [usize; 2],
    /// Crashed until then.
    dead: Option<u64>,
    /// To be started again then.
    start: Option<u64>,
    up: bool,
    /// Receive HopIDs left behind by a former life.
    stale: u32,
}

#[derive(Clone, Copy)]
enum Fault {
    Crash(usize),
    Stop(usize),
    Rings(usize),
    Blackout(u64),
}

struct World {
    now: u64,
    rng: Rng,
    channel: Channel,
    sides: [Side; 2],
    faults: Vec<(u64, Fault)>,
    calm: u64,
    blackout: u64,
    /// Pairs for which a side's rings have been open, with its plan.
    opened: [HashMap<(u64, u64), Plan>; 2],
    downs_after: u32,
    quiet_from: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let calm = 200 * MS + rng.below(6_000 * MS);
        let mut faults: Vec<_> = (0..rng.below(8))
            .map(|_| {
                let side = rng.below(2) as usize;
                let fault = match rng.below(6) {
                    0..3 => Fault::Crash(side),
                    3 => Fault::Stop(side),
                    4 => Fault::Rings(side),
                    _ => Fault::Blackout(rng.below(5_000 * MS)),
                };
                (rng.below(calm), fault)
            })
            .collect();
        faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let config = |i: usize, rng: &mut Rng| Config {
            ends: Ends {
                local: UUIDS[i],
                remote: UUIDS[1 - i],
                route: Route(ROUTES[i]),
            },
            abilities: Abilities::ours(
                Mac([2 + i as u8; 6]),
                65_522,
                rng.pick(&[1, 2, 2, 7]),
                rng.pick(&[64, 256, 1024]),
                Features(rng.below(8) as u32),
            ),
        };
        let weather = Weather::foul(&mut rng);
        let mut side = |i: usize| {
            let config = config(i, &mut rng);
            Side {
                config,
                rail: Rail::new(config, rng.next()),
                driver: Driver::default(),
                most: [rng.pick(&[1, 2, 7, 7]), rng.pick(&[1, 2, 7, 7])],
                dead: None,
                start: Some(rng.below(2_000 * MS).min(calm)),
                up: false,
                stale: 0,
            }
        };
        let sides = [side(0), side(1)];
        Self {
            now: 0,
            channel: Channel::new(weather, ROUTES),
            sides,
            faults,
            calm,
            blackout: 0,
            opened: [HashMap::new(), HashMap::new()],
            downs_after: 0,
            quiet_from: u64::MAX,
            rng,
        }
    }

    fn calm(&self) -> bool {
        self.now >= self.calm
    }

    fn fault(&mut self, fault: Fault) {
        let (now, calm) = (self.now, self.calm);
        let later = (now + self.rng.below(2_000 * MS)).min(calm);
        match fault {
            Fault::Crash(i) => {
                let side = &mut self.sides[i];
                // Rings and HopIDs die with the module; sometimes the other half of a path stays.
                if self.rng.chance(0.3) {
                    side.stale = 1 << self.rng.below(3);
                }
                side.driver = Driver::default();
                side.up = false;
                side.dead = Some(later);
                side.start = None;
            }
            Fault::Stop(i) if self.sides[i].dead.is_none() => {
                self.sides[i].rail.stop(Instant(now));
                self.sides[i].start = Some(later);
            }
            Fault::Rings(i) if self.sides[i].dead.is_none() => self.sides[i].rail.handle_fault(Instant(now)),
            Fault::Blackout(span) => self.blackout = (now + span).min(calm),
            Fault::Stop(_) | Fault::Rings(_) => {}
        }
    }

    /// Everything that happens at `now`.
    fn step(&mut self) {
        while self.faults.last().is_some_and(|(at, _)| *at <= self.now) {
            let (_, fault) = self.faults.pop().unwrap();
            self.fault(fault);
        }
        if self.calm() {
            self.channel.weather = Weather::FAIR;
        }
        while let Some((to, bytes)) = self.channel.receive(self.now) {
            let side = &mut self.sides[to];
            if side.dead.is_none() {
                side.rail.handle_message(Instant(self.now), &bytes).unwrap();
            }
        }
        for i in 0..2 {
            self.revive(i);
            if self.sides[i].dead.is_none() {
                self.sides[i].rail.handle_timeout(Instant(self.now));
                self.drive(i);
                self.transmit(i);
            }
        }
    }

    fn revive(&mut self, i: usize) {
        let now = self.now;
        let side = &mut self.sides[i];
        if side.dead.is_some_and(|at| at <= now) {
            side.dead = None;
            side.rail = Rail::new(side.config, self.rng.next());
            side.rail.start(Instant(now));
        }
        if side.dead.is_none() && side.start.is_some_and(|at| at <= now) {
            side.start = None;
            side.rail.start(Instant(now));
        }
    }

    /// The driver of side `i`: finishes what is due, begins what it is given.
    fn drive(&mut self, i: usize) {
        let now = Instant(self.now);
        loop {
            while let Some(event) = self.sides[i].rail.poll_event() {
                self.event(i, event);
            }
            if self.sides[i].driver.busy.is_some_and(|(at, _)| at <= self.now) {
                let (_, action) = self.sides[i].driver.busy.take().unwrap();
                self.finish(i, action, now);
            } else if let Some(action) = self.sides[i].rail.poll_action() {
                assert!(self.sides[i].driver.busy.is_none(), "two actions at once");
                let took = self.rng.pick(&[0, MS, 30 * MS, 300 * MS]);
                self.sides[i].driver.busy = Some((self.now + took, action));
            } else {
                break;
            }
        }
    }

    fn finish(&mut self, i: usize, action: Action, now: Instant) {
        let flaky = !self.calm() && self.rng.chance(0.1);
        let side = &mut self.sides[i];
        let driver = &mut side.driver;
        match action {
            Action::Allocate { lanes, avoid } => {
                assert!(driver.hops.is_empty() && driver.open.is_none(), "HopIDs leaked");
                if flaky {
                    side.rail.handle_allocated(now, None);
                    return;
                }
                let free = (8..40).filter(|h| avoid & (1 << (h - 8)) == 0);
                driver.hops = free.take(usize::from(lanes).min(side.most[0])).map(HopId).collect();
                side.rail.handle_allocated(now, Some(&driver.hops));
            }
            Action::Open(plan) => {
                let lanes = usize::from(plan.lanes);
                assert!(driver.open.is_none(), "opened twice");
                assert_eq!(plan.transmit[..lanes], driver.hops);
                let taken = plan.receive[..lanes]
                    .iter()
                    .map(|h| 1u32 << (h.0 - 8))
                    .fold(0, |a, b| a | b)
                    & side.stale;
                if taken != 0 {
                    side.rail.handle_opened(now, Err(OpenError::Busy(taken)));
                } else if lanes > side.most[1] {
                    side.rail.handle_opened(now, Err(OpenError::Lanes(side.most[1] as u8)));
                } else if flaky {
                    side.rail.handle_opened(now, Err(OpenError::Other));
                } else {
                    driver.open = Some(plan);
                    let pair = (plan.local_epoch, plan.remote_epoch);
                    assert!(self.opened[i].insert(pair, plan).is_none(), "pair opened twice");
                    side.rail.handle_opened(now, Ok(()));
                }
            }
            Action::Close => {
                driver.open = None;
                driver.hops.clear();
                side.rail.handle_closed(now);
            }
        }
    }

    fn event(&mut self, i: usize, event: Event) {
        match event {
            Event::Up(plan) => {
                assert!(!self.sides[i].up, "up twice");
                self.sides[i].up = true;
                let pair = (plan.remote_epoch, plan.local_epoch);
                let theirs = self.opened[1 - i]
                    .get(&pair)
                    .expect("up, and the other end was never open");
                agree(&plan, theirs);
            }
            Event::Down => {
                assert!(self.sides[i].up, "down twice");
                self.sides[i].up = false;
                if self.now >= self.quiet_from {
                    self.downs_after += 1;
                }
            }
            Event::Refused(why) => panic!("refused: {why:?}"),
        }
    }

    fn transmit(&mut self, i: usize) {
        let mut burst = 0;
        while let Some(buf) = self.sides[i].rail.poll_transmit(Instant(self.now)) {
            burst += 1;
            assert!(burst < 10, "a storm of messages");
            if self.now >= self.blackout {
                self.channel.send(&mut self.rng, self.now, i, buf.as_bytes());
            }
        }
    }

    fn next(&self) -> u64 {
        let mut times = vec![self.calm];
        times.extend(self.channel.next());
        times.extend(self.faults.last().map(|(at, _)| *at));
        for side in &self.sides {
            match side.dead {
                Some(at) => times.push(at),
                None => {
                    times.extend(side.rail.poll_timeout().map(|t| t.0));
                    times.extend(side.driver.busy.map(|(at, _)| at));
                    times.extend(side.start);
                }
            }
        }
        times.into_iter().filter(|at| *at > self.now).min().unwrap_or(u64::MAX)
    }

    fn run(&mut self, until: u64) {
        let mut steps = 0u64;
        while self.now < until {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "time does not pass");
            self.now = self.next().min(until);
        }
    }
}

/// Both ends of one plan.
fn agree(a: &Plan, b: &Plan) {
    let lanes = usize::from(a.lanes);
    assert_eq!((a.local_epoch, a.remote_epoch), (b.remote_epoch, b.local_epoch));
    assert_eq!((a.lanes, a.features, a.version), (b.lanes, b.features, b.version));
    assert_eq!((a.rail, a.max_pages), (b.rail, b.max_pages));
    assert_eq!(a.transmit[..lanes], b.receive[..lanes]);
    assert_eq!(a.receive[..lanes], b.transmit[..lanes]);
    assert_eq!((a.local_depth, a.remote_depth), (b.remote_depth, b.local_depth));
}

#[test]
fn both_sides_converge_and_agree_after_any_faults() {
    seeds("rail_sim", 4_000, &[253, 1_835], |seed| {
        let mut world = World::new(seed);
        let calm = world.calm;
        world.run(calm + CONVERGE);
        for side in &world.sides {
            assert!(
                side.rail.up().is_some(),
                "not up {} ms after the last fault",
                CONVERGE / MS
            );
            assert!(side.driver.open.is_some());
        }
        agree(world.sides[0].rail.up().unwrap(), world.sides[1].rail.up().unwrap());
        world.quiet_from = world.now;
        let sent = world.sides[0].rail.counters().sent;
        world.run(calm + CONVERGE + 10_000 * MS);
        assert_eq!(world.downs_after, 0, "not stable");
        assert!(world.sides.iter().all(|side| side.up));
        assert!(world.sides[0].rail.counters().sent - sent <= 25, "chatter");
    });
}

#[test]
fn a_side_that_stops_for_good_leaves_nothing_behind() {
    seeds("rail_sim", 1_000, &[], |seed| {
        let mut world = World::new(seed);
        let calm = world.calm;
        world.run(calm + CONVERGE);
        let gone = (seed % 2) as usize;
        world.sides[gone].rail.stop(Instant(world.now));
        world.run(calm + CONVERGE + 2_000 * MS);
        assert!(world.sides[gone].rail.stopped());
        for side in &world.sides {
            assert!(!side.up && side.driver.open.is_none() && side.driver.hops.is_empty());
        }
    });
}
