// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Jacks under cables, hubs, users and modules that come and go in any order.
//!
//! A host with places, each below a router. Events come as the bus sends them, each in the middle of what the others
//! have begun: a session closes some time after its cable is out, a device goes some time after its jack has begun to
//! end. At each step: no two sessions in one jack; no session in a jack whose device has gone; one device a place that
//! has a name; a cable that finds nobody's session in its way has a jack at once. In the end nothing is left.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng};
use tbip::jack::{choose, Choice, Jack, Refusal};

const PLACES: u64 = 3;
const STEPS: usize = 400;

struct Held {
    place: (u64, u64),
    jack: Jack,
    device: bool,
    session: bool,
    gone: bool,
}

#[derive(Default)]
struct Host {
    jacks: Vec<Held>,
    /// The router above each place: another number after each return of a hub.
    routers: [u64; PLACES as usize],
}

impl Host {
    fn live(&self) -> Vec<usize> {
        (0..self.jacks.len()).filter(|n| !self.jacks[*n].gone).collect()
    }

    fn plug(&mut self, place: u64) {
        let place = (place, self.routers[place as usize]);
        let live = self.live();
        let all = live
            .iter()
            .map(|n| (self.jacks[*n].place == place, self.jacks[*n].jack));
        let busy = self.jacks.iter().any(|j| j.place == place && j.session);
        let taken = match choose(all) {
            Choice::Take(n) => live[n],
            Choice::Make => {
                self.jacks.push(Held {
                    place,
                    jack: Jack::Empty,
                    device: false,
                    session: false,
                    gone: false,
                });
                self.jacks.len() - 1
            }
            Choice::Busy => {
                assert!(busy, "a cable was refused where none was in");
                return;
            }
        };
        assert!(!busy, "two cables at one place");
        assert_eq!(self.jacks[taken].jack.plug(), Ok(()));
        self.jacks[taken].session = true;
    }

    /// A session's worker makes the device, after the end of those before it.
    fn make(&mut self, n: usize) {
        if !self.jacks[n].session || self.jacks[n].device {
            return;
        }
        let place = self.jacks[n].place;
        for before in self.live() {
            if self.jacks[before].place == place {
                self.end(before);
            }
        }
        let named = self.jacks.iter().any(|j| j.place == place && j.device);
        assert!(!named, "the name is taken");
        self.jacks[n].device = true;
    }

    fn end(&mut self, n: usize) {
        if self.jacks[n].jack.is_ending() {
            assert!(!self.jacks[n].session, "a device goes under a session");
            self.jacks[n].device = false;
            self.jacks[n].gone = true;
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let place = rng.below(PLACES);
        let live = self.live();
        let some = (!live.is_empty()).then(|| live[rng.below(live.len() as u64) as usize]);
        match (rng.below(7), some) {
            (0 | 1, _) => self.plug(place),
            (2, Some(n)) if self.jacks[n].session => {
                self.jacks[n].session = false;
                self.jacks[n].jack.unplug();
            }
            (3, Some(n)) => {
                let was = self.jacks[n].jack;
                match self.jacks[n].jack.let_go() {
                    Ok(()) => assert!(!self.jacks[n].session),
                    Err(Refusal::Plugged) => assert!(self.jacks[n].session && self.jacks[n].jack == was),
                    Err(Refusal::Ending) => assert!(was.is_ending()),
                }
            }
            (4, Some(n)) => self.end(n),
            (5, Some(n)) => self.make(n),
            (6, _) if rng.chance(0.2) => {
                let router = self.routers[place as usize];
                for held in &mut self.jacks {
                    if held.place == (place, router) {
                        held.jack.lose();
                    }
                }
                self.routers[place as usize] += 1;
            }
            _ => {}
        }
        for held in &self.jacks {
            assert_eq!(held.session, held.jack.is_plugged());
            assert!(!held.gone || held.jack.is_ending());
        }
    }
}

#[test]
fn no_order_of_events_confuses_a_jack() {
    seeds("jack_sim", 2_000, &[], |seed| {
        let mut rng = Rng::new(seed);
        let mut host = Host::default();
        for _ in 0..STEPS {
            host.step(&mut rng);
        }
        // The module leaves.
        for n in host.live() {
            host.jacks[n].jack.lose();
            if host.jacks[n].session {
                assert!(!host.jacks[n].jack.is_ending());
                host.jacks[n].session = false;
                host.jacks[n].jack.unplug();
            }
            host.end(n);
        }
        assert!(host.jacks.iter().all(|held| held.gone && !held.device && !held.session));
    });
}
