// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Unit tests of the rail machine: two machines back to back, without loss.

use super::*;
use crate::wire::Uuid;

const A: Uuid = Uuid([0xa; 16]);
const B: Uuid = Uuid([0xb; 16]);

fn config(local: Uuid, remote: Uuid, lanes: u8) -> Config {
    Config {
        ends: Ends {
            local,
            remote,
            route: Route(1),
        },
        abilities: Abilities::ours(Mac([local.0[0]; 6]), 65_522, lanes, 256, Features(0)),
    }
}

struct Pair {
    rails: [Rail; 2],
    now: Instant,
    log: Vec<(usize, Action)>,
    events: Vec<(usize, Event)>,
    open: Result<(), OpenError>,
}

impl Pair {
    fn new(configs: [Config; 2]) -> Self {
        let [a, b] = configs;
        let mut rails = [Rail::new(a, 1_000), Rail::new(b, 2_000)];
        rails.iter_mut().for_each(|r| r.start(Instant(0)));
        Self {
            rails,
            now: Instant(0),
            log: vec![],
            events: vec![],
            open: Ok(()),
        }
    }

    /// Deliver everything at once until `until`.
    fn run(&mut self, until: Instant) {
        loop {
            let mut busy = false;
            for i in 0..2 {
                while let Some(action) = self.rails[i].poll_action() {
                    busy = true;
                    self.log.push((i, action));
                    match action {
                        Action::Allocate { lanes, avoid } => {
                            let free = (8..40).filter(|h| avoid & (1 << (h - 8)) == 0);
                            let hops: Vec<_> = free.take(lanes.into()).map(HopId).collect();
                            self.rails[i].handle_allocated(self.now, Some(&hops));
                        }
                        Action::Open(_) => {
                            self.rails[i].handle_opened(self.now, std::mem::replace(&mut self.open, Ok(())))
                        }
                        Action::Close => self.rails[i].handle_closed(self.now),
                    }
                }
                while let Some(event) = self.rails[i].poll_event() {
                    self.events.push((i, event));
                }
                while let Some(buf) = self.rails[i].poll_transmit(self.now) {
                    busy = true;
                    self.rails[1 - i].handle_message(self.now, buf.as_bytes()).unwrap();
                }
            }
            if !busy {
                let next = self.rails.iter().filter_map(|r| r.poll_timeout()).min();
                match next {
                    Some(at) if at <= until => {
                        self.now = at.max(self.now);
                        let now = self.now;
                        self.rails.iter_mut().for_each(|r| r.handle_timeout(now));
                    }
                    _ => break,
                }
            }
        }
        self.now = until;
    }

    fn agreed(&self) -> (Plan, Plan) {
        let (a, b) = (*self.rails[0].up().unwrap(), *self.rails[1].up().unwrap());
        assert_eq!((a.local_epoch, a.remote_epoch), (b.remote_epoch, b.local_epoch));
        assert_eq!((a.transmit, a.receive), (b.receive, b.transmit));
        assert_eq!((a.lanes, a.features, a.rail), (b.lanes, b.features, b.rail));
        (a, b)
    }
}

const fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

#[test]
fn two_sides_agree_within_a_few_messages() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 7)]);
    pair.run(ms(100));
    let (a, _) = pair.agreed();
    assert_eq!(a.lanes, 2);
    assert!(pair.rails[0].counters().sent < 12);
}

#[test]
fn a_rail_that_is_up_says_little() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    let before = pair.rails[0].counters().sent;
    pair.run(ms(10_100));
    pair.agreed();
    let sent = pair.rails[0].counters().sent - before;
    assert!((18..=22).contains(&sent), "{sent}");
}

#[test]
fn a_new_life_of_one_side_voids_the_old_pair_on_both() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    pair.rails[1] = Rail::new(config(B, A, 2), 77_000);
    let now = pair.now;
    pair.rails[1].start(now);
    pair.run(ms(300));
    let (a, _) = pair.agreed();
    assert_eq!(a.remote_epoch, 77_001);
    assert!(pair.log.contains(&(0, Action::Close)));
    assert!(pair.events.contains(&(0, Event::Down)));
}

#[test]
fn a_goodbye_closes_both_sides_at_once() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    let now = pair.now;
    pair.rails[1].stop(now);
    pair.run(ms(101));
    assert!(pair.rails[1].stopped());
    assert_eq!(pair.rails[0].up(), None);
    pair.rails[1].start(ms(101));
    pair.run(ms(1_000));
    pair.agreed();
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    let at = ms(100).after(DEAD);
    pair.rails[0].handle_timeout(at);
    assert_eq!(pair.rails[0].up(), None);
    assert_eq!(pair.rails[0].poll_event(), Some(Event::Down));
}

#[test]
fn a_peer_whose_frames_come_is_not_silent() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    let [mut a, _] = pair.rails;
    let mut now = ms(100);
    for _ in 0..20 {
        now = now.after(Duration::from_millis(1_000));
        a.handle_traffic(now);
        a.handle_timeout(now);
        while a.poll_transmit(now).is_some() {}
    }
    assert!(a.up().is_some() && a.counters().silences == 0);
    a.handle_timeout(now.after(DEAD));
    assert_eq!((a.up(), a.counters().silences), (None, 1));
    // What comes late of the old pair does not make it alive.
    a.handle_traffic(now.after(DEAD));
    assert!(a.up().is_none());
}

#[test]
fn other_hop_ids_are_agreed_when_one_is_taken() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.open = Err(OpenError::Busy(1));
    pair.run(ms(2_000));
    let (a, b) = pair.agreed();
    assert!(a.receive[0] == HopId(9) || b.receive[0] == HopId(9));
}

#[test]
fn who_can_have_fewer_lanes_than_were_agreed_says_so_and_comes_up_at_once() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.open = Err(OpenError::Lanes(1));
    pair.run(ms(100));
    let (a, _) = pair.agreed();
    assert_eq!(a.lanes, 1);
    // For as long as the cable is in.
    let now = pair.now;
    pair.rails[1].handle_fault(now);
    pair.run(ms(1_500));
    assert_eq!(pair.agreed().0.lanes, 1);
    let opened = pair.log.iter().filter(|(_, action)| matches!(action, Action::Open(_)));
    assert!(opened.count() <= 6);
}

#[test]
fn who_can_have_no_lane_more_says_no_such_thing() {
    let mut pair = Pair::new([config(A, B, 1), config(B, A, 1)]);
    pair.open = Err(OpenError::Lanes(0));
    pair.run(ms(100));
    assert!(pair.rails.iter().all(|rail| rail.up().is_none()));
    pair.run(ms(3_000));
    assert_eq!(pair.agreed().0.lanes, 1);
}

#[test]
fn no_common_version_is_refused_once_and_in_words() {
    let mut theirs = config(B, A, 2);
    theirs.abilities.version = 3;
    theirs.abilities.oldest = 2;
    let mut pair = Pair::new([config(A, B, 2), theirs]);
    pair.run(ms(5_000));
    let refusals: Vec<_> = pair.events.iter().filter(|(i, _)| *i == 0).collect();
    assert_eq!(
        refusals,
        [&(0, Event::Refused(Refusal::Version { theirs: 3, oldest: 2 }))]
    );
    assert!(pair.log.iter().all(|(i, _)| *i == 1));
}

#[test]
fn a_required_feature_that_is_not_offered_is_refused_on_both_sides() {
    let mut theirs = config(B, A, 2);
    theirs.abilities.required = Features::SACK;
    let mut pair = Pair::new([config(A, B, 2), theirs]);
    pair.run(ms(5_000));
    assert!(pair
        .events
        .contains(&(0, Event::Refused(Refusal::WeLack(Features::SACK)))));
    assert!(pair
        .events
        .contains(&(1, Event::Refused(Refusal::PeerLacks(Features::SACK)))));
    assert_eq!(pair.events.len(), 2);
    assert!(pair.log.is_empty());
}

#[test]
fn a_late_message_of_a_former_life_voids_nothing() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    let old = Status {
        kind: Kind::At(Level::Hello),
        seen: Level::None,
        epoch: 55,
        peer_epoch: 44,
        route: Route(1),
        abilities: config(B, A, 2).abilities,
        busy: 0,
        paths: [HopId(0); MAX_LANES],
    };
    let ends = config(B, A, 2).ends;
    let now = pair.now;
    pair.rails[0]
        .handle_message(now, old.message(&ends, 0).as_bytes())
        .unwrap();
    assert!(pair.rails[0].up().is_some());
    pair.run(ms(5_000));
    pair.agreed();
    assert_eq!(pair.rails[0].counters().downs, 0);
}

#[test]
fn a_former_life_adopted_by_mistake_is_left_again() {
    let ends = config(B, A, 1).ends;
    let mut a = Rail::new(config(A, B, 1), 1_000_000);
    a.start(ms(0));
    let hello = |epoch: u64, rail: &Rail| Status {
        kind: Kind::At(Level::Hello),
        seen: Level::Hello,
        epoch,
        peer_epoch: rail.epoch(),
        route: Route(1),
        abilities: config(B, A, 1).abilities,
        busy: 0,
        paths: [HopId(0); MAX_LANES],
    };
    let take = |a: &mut Rail, now: Instant, epoch: u64| {
        let status = hello(epoch, a);
        a.handle_message(now, status.message(&ends, 0).as_bytes()).unwrap();
    };
    // The peer is in its life 9 000 000 when a message of its life 50 comes late.
    take(&mut a, ms(1), 9_000_000);
    take(&mut a, ms(2), 50);
    assert_eq!(a.counters().adopted, 2);
    take(&mut a, ms(3), 9_000_000);
    assert_eq!((a.counters().adopted, a.counters().stale), (2, 1));
    // That life says nothing more.
    a.handle_timeout(ms(2).after(DEAD));
    take(&mut a, ms(4_000), 9_000_000);
    assert_eq!(a.counters().adopted, 3);
}

#[test]
fn hop_ids_that_cannot_be_are_not_opened() {
    let mut pair = Pair::new([config(A, B, 1), config(B, A, 1)]);
    pair.rails[0].handle_timeout(ms(0));
    let (a_epoch, ends) = (pair.rails[0].epoch(), config(B, A, 1).ends);
    let mut status = Status {
        kind: Kind::At(Level::Paths),
        seen: Level::None,
        epoch: 9,
        peer_epoch: a_epoch,
        route: Route(1),
        abilities: config(B, A, 1).abilities,
        busy: 0,
        paths: [HopId(0); MAX_LANES],
    };
    status.paths[0] = HopId(7);
    let a = &mut pair.rails[0];
    a.handle_message(ms(1), status.message(&ends, 0).as_bytes()).unwrap();
    assert!(matches!(a.poll_action(), Some(Action::Allocate { .. })));
    a.handle_allocated(ms(1), Some(&[HopId(8)]));
    assert_eq!(a.poll_action(), Some(Action::Close));
}

#[test]
fn a_message_of_another_cable_is_not_ours() {
    let mut pair = Pair::new([config(A, B, 1), config(B, A, 1)]);
    let mut other = config(B, A, 1).ends;
    other.route = Route(3);
    let status = Status {
        kind: Kind::Bye { answer: false },
        seen: Level::None,
        epoch: 9,
        peer_epoch: 0,
        route: Route(3),
        abilities: config(B, A, 1).abilities,
        busy: 0,
        paths: [HopId(0); MAX_LANES],
    };
    let bytes = status.message(&other, 0);
    assert_eq!(
        pair.rails[0].handle_message(ms(0), bytes.as_bytes()),
        Err(WireError::Protocol)
    );
}

#[test]
fn another_address_is_told_and_ends_nothing() {
    let mut pair = Pair::new([config(A, B, 2), config(B, A, 2)]);
    pair.run(ms(100));
    pair.rails[0].set_mac(ms(100), Mac([6; 6]));
    let events = pair.events.len();
    pair.run(ms(120));
    assert_eq!(
        pair.rails[1].peer_mac(),
        Some(Mac([6; 6])),
        "at once, not with the next keepalive"
    );
    pair.run(ms(5_000));
    assert_eq!(pair.events.len(), events, "still up");
    pair.rails[0].handle_fault(ms(5_000));
    pair.run(ms(6_000));
    let (_, b) = pair.agreed();
    assert_eq!(b.mac, Mac([6; 6]));
}
