// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Virtual time: hosts, links and endpoints, driven by one ordered queue of events.
//!
//! A host treats an engine as the kernel does: after every call it drains completions, sends while
//! the link takes packets, drains completions and events again, and keeps one timer.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::direct::{Data, Lane, Tally};
use crate::endpoint::{Endpoint, Engine, Lent, User};
use crate::link::{Link, LinkSpec};
use crate::oracle::{self, Failure};
use crate::rng::Rng;
use crate::scenario::{Connection, EndPlan, Scenario, Twist, QKEY};
use crate::Outcome;
use roce::completion::{Completion, Queue, WcStatus};
use roce::grants::{Asks, Went};
use roce::limits;
use roce::lost::Sent;
use roce::psn::{Psn, Qpn};
use roce::qp::{Modify, Posted, Qp, QpConfig, QpKind, ReadResource, SendMessage, Slots, State};
use roce::time::Instant;
use roce::wire::icrc::Icrc;
use roce::wire::udp::{parse_ip_udp, Addresses, Path, PathHeaders, PORT};
use roce::wire::{Bth, Packet};
use roce::wqe::{Fault, Room, Transmit};

/// Number of the first queue pair; endpoint `e` is `FIRST_QPN + e`.
pub const FIRST_QPN: u32 = 0x11;

/// Packets a link queues before its sender has to wait, in nanoseconds of wire time.
const BACKLOG: u64 = 20_000;

/// Longest time in nanoseconds that a host holds an acknowledgement back: packets that come together take no longer.
const MOST_PATIENCE: u64 = 3_000;

/// Longest time after a round trip in nanoseconds until a lane tells what it has lost: at the tail it has to ask.
const WORD: u64 = 150_000;

/// Payload of a run at most: an IP datagram of this world carries it.
const MOST_OF_RUN: u64 = 48 << 10;

/// The same where windows are asked for.
const MOST_OF_TRAIN: u32 = 15 << 12;

/// Events after which a run is called a livelock.
const MAX_EVENTS: u64 = 2_000_000;

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Deliver(usize, Vec<u8>),
    Transmit(usize),
    Timer(usize),
    PostSends(usize, usize),
    PostRecvs(usize, usize),
    Die(usize),
    Modify(usize, u8),
    Acknowledge(usize),
    Lost(usize, u64),
    // Windows of a link's direct lane ([`crate::direct`]).
    Asked(usize, Vec<u8>),
    Question(usize, Vec<u8>),
    Granted(usize, Vec<u8>),
    Frame(usize, Data),
    Poll(usize),
    Restart(usize),
    Clock(usize),
}

/// The world of one scenario.
pub struct World {
    pub connections: Vec<Connection>,
    pub endpoints: Vec<Endpoint>,
    pub links: Vec<Link>,
    /// The direct lane of each link that has one.
    pub direct: Vec<Option<Lane>>,
    /// The memories as they were at the start.
    pub initial: Vec<Vec<u8>>,
    /// A number on every host that all queue pairs of it share.
    pub shared: Vec<Rc<Cell<u64>>>,
    pub(crate) hosts: usize,
    pub(crate) now: u64,
    pub(crate) finished: u64,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(crate) sequence: u64,
    trace: u64,
    pub(crate) packets: u64,
    pub(crate) transmitted: u64,
    /// How long hosts hold acknowledgements back.
    patience: Rng,
    /// Sends are posted one by one, and corked.
    corked: bool,
    /// Probability that a host's own queue has no room for a packet.
    full: f64,
    /// Probability that a host has no memory for a packet.
    short: f64,
    /// Packets that a user keeps at most.
    room: usize,
    /// How often it had none of either, and how often a timeout was put off for it.
    pub unsent: u64,
    /// See `unsent`.
    pub postponed: u64,
    /// Which accesses find a page absent.
    paging: Rng,
    /// Whether packets go in runs, and how long the next one may be.
    runs: Option<Rng>,
    /// Print what happens (`SIM_TRACE` in the environment).
    pub(crate) chatty: bool,
}

impl World {
    /// Build the world and schedule what its users do.
    pub fn new(scenario: &Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed ^ 0x00c0_ffee);
        let links = scenario.links.iter().map(|spec| Link::new(*spec, rng.fork())).collect();
        let has_direct = |link: usize| link / scenario.hosts != link % scenario.hosts;
        let mut lane = |link| {
            let spec = scenario.windows.filter(|_| has_direct(link))?;
            Some(Lane::new(
                spec,
                Rng::new(scenario.seed ^ 0xd1_7ec7 ^ (link as u64) << 32),
            ))
        };
        let mut world = Self {
            direct: (0..scenario.links.len()).map(&mut lane).collect(),
            connections: scenario.connections.clone(),
            endpoints: Vec::new(),
            links,
            initial: Vec::new(),
            shared: (0..scenario.hosts).map(|_| Rc::default()).collect(),
            hosts: scenario.hosts,
            now: 0,
            finished: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            packets: 0,
            transmitted: 0,
            patience: Rng::new(scenario.seed ^ 0xacc),
            full: if scenario.seed % 5 == 3 { 0.03 } else { 0.0 },
            room: [usize::MAX, usize::MAX, 5, 0][scenario.seed as usize % 4],
            short: if scenario.seed % 7 == 2 { 0.03 } else { 0.0 },
            unsent: 0,
            postponed: 0,
            paging: Rng::new(scenario.seed ^ 0x0dd),
            runs: (scenario.seed % 2 == 1 || scenario.windows.is_some()).then(|| Rng::new(scenario.seed ^ 0x9a11)),
            corked: scenario.seed % 3 == 1,
            chatty: std::env::var_os("SIM_TRACE").is_some(),
        };
        for connection in &scenario.connections {
            for end in 0..2 {
                world.add(connection, end, &mut rng);
            }
            let first = world.endpoints.len() - 2;
            match connection.twist {
                Twist::Death { end, at } => world.at(at, Event::Die(first + end)),
                Twist::LocalError { end, at } => world.at(at, Event::Modify(first + end, State::Err as u8)),
                Twist::Drain { end, at, resume } => {
                    world.at(at, Event::Modify(first + end, State::Sqd as u8));
                    world.at(resume, Event::Modify(first + end, State::Rts as u8));
                }
                Twist::None | Twist::BadOp { .. } | Twist::Leave { .. } => {}
            }
        }
        world.open_direct();
        world
    }

    /// Run until nothing more happens.
    ///
    /// # Errors
    ///
    /// A rule broken on the way, or no end.
    pub fn run(&mut self) -> Result<(), Failure> {
        let mut events = 0;
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            events += 1;
            if events > MAX_EVENTS {
                return Err(Failure::new(format!("livelock at {at} ns")));
            }
            self.now = at;
            self.happen(event)?;
        }
        Ok(())
    }

    /// Figures of the run.
    pub fn outcome(&self) -> Outcome {
        let told = self.full == 0.0 && self.short == 0.0 && self.links.iter().any(|link| link.spec.told);
        let of_told = |n: u64| if told && self.keeps_all() { n } else { 0 };
        let scarce = told && !self.keeps_all();
        let lost = self.links.iter().map(|l| l.lost).sum();
        Outcome {
            told: of_told(lost),
            told_timeouts: of_told(self.timeouts()),
            scarce_timeouts: if scarce { self.timeouts() } else { 0 },
            trace: self.trace,
            elapsed: self.now,
            packets: self.packets,
            lost,
            timeouts: self.timeouts(),
            completions: self
                .endpoints
                .iter()
                .map(|e| (e.user.send_completions.len() + e.user.recv_completions.len()) as u64)
                .sum(),
            windows: self.direct.iter().flatten().fold(Tally::default(), |mut all, lane| {
                all.add(&lane.tally);
                all
            }),
        }
    }

    /// Whether users keep all that comes before its turn.
    pub fn keeps_all(&self) -> bool {
        self.room == usize::MAX
    }

    /// Timeouts of the connections on which nobody fails and packets follow each other.
    fn timeouts(&self) -> u64 {
        let plain = |c: &Connection| matches!(c.twist, Twist::None | Twist::Drain { .. });
        let ends = self.endpoints.iter().enumerate();
        ends.filter(|(e, _)| plain(&self.connections[e / 2]))
            .filter(|(_, end)| end.user.plan.slots > 2 && end.user.plan.window > 2)
            .map(|(_, end)| end.engine.counters().timeouts)
            .sum()
    }

    /// When the last packet came, left or the last work request completed. A timer may still have run
    /// for nothing.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// Packets put on a wire.
    pub fn transmitted(&self) -> u64 {
        self.transmitted
    }

    /// Move an endpoint to ERR and drain it, as a user who has enough.
    ///
    /// # Errors
    ///
    /// A rule broken on the way.
    pub fn flush(&mut self, endpoint: usize) -> Result<(), Failure> {
        self.change(endpoint, State::Err);
        self.drain(endpoint)
    }

    fn add(&mut self, connection: &Connection, end: usize, rng: &mut Rng) {
        let index = self.endpoints.len();
        let plan = &connection.ends[end];
        let shared = self.shared[connection.hosts[end]].clone();
        let mut user = User::new(plan, shared, rng);
        user.room = self.room;
        self.initial.push(user.memory.clone());
        for (at, n) in &plan.post_sends {
            self.at(*at, Event::PostSends(index, *n));
        }
        for (at, n) in &plan.post_recvs {
            self.at(*at, Event::PostRecvs(index, *n));
        }
        let [here, there] = [connection.hosts[end], connection.hosts[1 - end]];
        self.endpoints.push(Endpoint {
            engine: engine(connection, end, index),
            user,
            asks: Asks::default(),
            host: here,
            link: here * self.hosts + there,
            armed: None,
            silent_until: 0,
            begun: 0,
            alive: true,
            tombstone: None,
        });
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        self.note(self.now);
        match event {
            Event::Deliver(host, bytes) => self.deliver(host, bytes),
            Event::Transmit(link) => {
                self.links[link].scheduled = false;
                self.pump(link)
            }
            Event::Timer(e) => {
                if self.full > 0.0 && self.patience.chance(0.3) {
                    self.postponed += 1;
                    self.with_host(e, |engine, now, _| engine.handle_backlog(now));
                }
                if self.chatty {
                    println!("{:>10} {e} timer", self.now);
                }
                self.endpoints[e].armed = None;
                self.with_host(e, |engine, now, host| engine.handle_timeout(now, host));
                self.service(e)
            }
            Event::PostSends(e, n) => {
                if self.corked {
                    return (0..n).try_for_each(|_| self.post_corked(e));
                }
                self.endpoints[e].user.posted_sends += n;
                self.with_host(e, |engine, now, host| engine.handle_doorbell(now, host));
                self.service(e)
            }
            Event::PostRecvs(e, n) => {
                self.endpoints[e].user.posted_recvs += n;
                // Receives have no doorbell; an engine in ERR is visited at the next event.
                self.service(e)
            }
            Event::Die(e) => {
                self.endpoints[e].alive = false;
                Ok(())
            }
            Event::Acknowledge(e) => self.service(e),
            Event::Asked(link, bytes) => self.asked(link, bytes),
            Event::Question(link, bytes) => self.question(link, bytes),
            Event::Granted(back, bytes) => self.granted(self.back(back), bytes),
            Event::Frame(link, data) => self.frame(link, data),
            Event::Poll(link) => self.poll(link),
            Event::Restart(link) => self.restart(link),
            Event::Clock(link) => self.clock(link),
            Event::Lost(e, token) => {
                let sent = Sent::of_token(token);
                if self.chatty {
                    println!("{:>10} {e} lost {sent:?}", self.now);
                }
                self.with_host(e, |engine, _, _| engine.handle_lost(&sent));
                self.service(e)
            }
            Event::Modify(e, state) => {
                let state = if state == State::Err as u8 {
                    State::Err
                } else if state == State::Sqd as u8 {
                    State::Sqd
                } else {
                    State::Rts
                };
                self.change(e, state);
                self.with_host(e, |engine, now, host| engine.handle_doorbell(now, host));
                self.service(e)
            }
        }
    }

    /// A program posts one send, and looks at its completions now and then.
    fn post_corked(&mut self, e: usize) -> Result<(), Failure> {
        let user = &mut self.endpoints[e].user;
        let length = user.plan.ops[user.posted_sends].length;
        user.posted_sends += 1;
        let posted = Posted {
            length,
            waiting: (user.posted_sends - user.taken_sends) as u32,
            read: [
                user.send_completions.len() as u32 / 8,
                user.recv_completions.len() as u32 / 8,
            ],
        };
        self.with_host(e, |engine, now, _| engine.handle_post(now, posted));
        self.service(e)
    }

    fn change(&mut self, e: usize, state: State) {
        let modify = Modify {
            state: Some(state),
            sqd_event: state == State::Sqd,
            ..Modify::default()
        };
        // A queue pair in ERR refuses to drain or resume, and rightly so.
        let _ = self.endpoints[e].engine.modify(Instant(self.now), &modify);
    }

    pub(crate) fn with_host<R>(&mut self, e: usize, call: impl FnOnce(&mut Engine, Instant, &mut Lent<'_>) -> R) -> R {
        let now = Instant(self.now);
        let peer: &EndPlan = &self.connections[e / 2].ends[1 - e % 2];
        let Endpoint { engine, user, .. } = &mut self.endpoints[e];
        let peer_qpn = Qpn::new(FIRST_QPN + (e ^ 1) as u32);
        call(engine, now, &mut Lent { user, peer, peer_qpn })
    }

    /// A packet arrives at a host: what the kernel does from the IP header to the engine.
    fn deliver(&mut self, host: usize, mut bytes: Vec<u8>) -> Result<(), Failure> {
        self.packets += 1;
        self.finished = self.now;
        let Some((e, start, packet)) = self.accept(host, &bytes) else {
            return Ok(());
        };
        self.note(u64::from(packet.bth.psn.value()) << 8 | u64::from(packet.bth.opcode));
        if self.chatty {
            println!(
                "{:>10} -> {e} {:?} {} {:?}",
                self.now,
                packet.opcode,
                packet.bth.psn.value(),
                packet.aeth
            );
        }
        if let Some(tombstone) = self.endpoints[e].tombstone {
            if let Some(answer) = tombstone.answer(&packet) {
                self.transmit(e, &answer);
            }
            return Ok(());
        }
        bytes.drain(..start);
        self.endpoints[e].user.packet = bytes;
        let connection = &self.connections[e / 2];
        self.endpoints[e].user.heard = oracle::sender_of(connection, 1 - e % 2, packet.bth.psn);
        self.handle(e, &packet)?;
        self.take_early(e)?;
        if self.endpoints[e].engine.may_wait() && self.patience.chance(0.7) {
            let at = self.now + self.patience.below(MOST_PATIENCE);
            self.at(at, Event::Acknowledge(e));
            return self.drain(e);
        }
        self.service(e)
    }

    /// The engine is handed what came early and whose turn has come.
    pub(crate) fn take_early(&mut self, e: usize) -> Result<(), Failure> {
        while let Some(early) = self.endpoints[e].engine.poll_early() {
            let user = &mut self.endpoints[e].user;
            let Some(at) = user.early.iter().position(|(kept, _)| *kept == early) else {
                return Err(Failure::new(format!("end {e}: {early:?} was never kept")));
            };
            let (_, bytes) = user.early.swap_remove(at);
            let transport = &bytes[..bytes.len() - Icrc::LEN];
            let packet = Packet::parse(transport, transport.len());
            user.packet = bytes;
            self.handle(e, &packet.expect("it has been parsed before"))?;
        }
        let Endpoint { engine, user, .. } = &mut self.endpoints[e];
        user.early.retain(|(early, _)| engine.is_early(*early));
        if user.early.len() > 2 * limits::MAX_KEPT as usize {
            return Err(Failure::new(format!("end {e}: {} packets are kept", user.early.len())));
        }
        Ok(())
    }

    /// The engine handles a packet, whose payload its user has.
    fn handle(&mut self, e: usize, packet: &Packet) -> Result<(), Failure> {
        let before = *self.endpoints[e].engine.counters();
        // A packet that meets an absent page has not come, and comes again when the page is there.
        loop {
            self.endpoints[e].user.absent = self.paging.chance(0.05);
            let absent = self.endpoints[e].user.absent;
            self.with_host(e, |engine, now, host| engine.handle_packet(now, packet, host));
            // It needed no memory, so it has been dealt with.
            if !absent || std::mem::take(&mut self.endpoints[e].user.absent) {
                break;
            }
        }
        oracle::after_packet(&mut self.endpoints[e], self.now, packet, &before);
        self.drain(e)
    }

    fn accept(&self, host: usize, bytes: &[u8]) -> Option<(usize, usize, Packet)> {
        let datagram = parse_ip_udp(bytes, bytes.len()).ok()?;
        let start = datagram.transport.offset as usize;
        let end = start + datagram.transport.len as usize;
        let transport = bytes.get(start..end)?;
        let icrc = Icrc::seed(&bytes[..start]).ok()?.transport(transport).ok()?.finish();
        if datagram.dst_port != PORT || bytes.get(end..end + 4)? != icrc {
            return None;
        }
        let packet = Packet::parse(transport, transport.len()).ok()?;
        let e = packet.bth.dest.value().checked_sub(FIRST_QPN)? as usize;
        let endpoint = self.endpoints.get(e)?;
        let there = endpoint.alive || endpoint.tombstone.is_some();
        (there && endpoint.host == host).then_some((e, start, packet))
    }

    /// Everything a call to an engine may have made possible.
    pub(crate) fn service(&mut self, e: usize) -> Result<(), Failure> {
        if !self.endpoints[e].alive {
            return Ok(());
        }
        self.drain(e)?;
        let leaves = self.leaves(e);
        if leaves == Some(true) {
            self.leave(e);
        }
        self.pump(self.endpoints[e].link)?;
        if leaves == Some(false) {
            self.leave(e);
        }
        Ok(())
    }

    /// Whether the user of `e` has done all it wanted and goes, and whether without another packet.
    fn leaves(&self, e: usize) -> Option<bool> {
        let user = &self.endpoints[e].user;
        let complete =
            user.send_completions.len() == user.plan.ops.len() && user.recv_completions.len() == user.plan.recvs.len();
        match self.connections[e / 2].twist {
            Twist::Leave { end, abruptly } if end == e % 2 && complete => Some(abruptly),
            _ => None,
        }
    }

    fn leave(&mut self, e: usize) {
        let endpoint = &mut self.endpoints[e];
        endpoint.tombstone = endpoint.engine.tombstone();
        endpoint.alive = false;
    }

    /// Poll completions and events, re-arm the timer, check the rules that hold at any time.
    pub(crate) fn drain(&mut self, e: usize) -> Result<(), Failure> {
        while let Some(completion) = self.with_host(e, |engine, _, host| engine.poll_completion(host)) {
            self.note(completion.wr_id << 16 | (completion.status as u64) << 8 | completion.queue as u64);
            self.record(e, completion)?;
        }
        let endpoint = &mut self.endpoints[e];
        while let Some(event) = endpoint.engine.poll_event() {
            oracle::on_event(endpoint, event);
            endpoint.user.events.push(event);
        }
        if let Some(broken) = endpoint.user.broken.take() {
            return Err(Failure::new(broken));
        }
        let due = endpoint.engine.poll_timeout().map(|at| at.0.max(self.now + 1));
        if let Some(due) = due {
            if endpoint.armed.is_none_or(|armed| armed > due) {
                endpoint.armed = Some(due);
                self.at(due, Event::Timer(e));
            }
        }
        Ok(())
    }

    fn record(&mut self, e: usize, completion: Completion) -> Result<(), Failure> {
        self.finished = self.now;
        if self.chatty {
            println!("{:>10} {e} {completion:?}", self.now);
        }
        match completion.queue {
            Queue::Send => {
                oracle::on_send_completion(self, e, &completion)?;
                self.endpoints[e].user.send_completions.push(completion);
            }
            Queue::Recv => {
                oracle::on_recv_completion(self, e, &completion)?;
                if completion.status == WcStatus::Success {
                    let user = &mut self.endpoints[e].user;
                    user.received.extend(user.heard.take());
                }
                self.endpoints[e].user.recv_completions.push(completion);
            }
        }
        Ok(())
    }

    /// Send from the endpoints behind `link`, in turn, until it is full or they have nothing.
    pub(crate) fn pump(&mut self, link: usize) -> Result<(), Failure> {
        let senders: Vec<usize> = (0..self.endpoints.len())
            .filter(|e| self.endpoints[*e].link == link && self.endpoints[*e].alive)
            .collect();
        let mut idle = 0;
        while idle < senders.len() {
            if self.links[link].busy_until > self.now + BACKLOG {
                if !self.links[link].scheduled {
                    self.links[link].scheduled = true;
                    let at = self.links[link].busy_until - BACKLOG / 2;
                    self.at(at, Event::Transmit(link));
                }
                return Ok(());
            }
            let e = senders[self.links[link].turn % senders.len()];
            self.links[link].turn += 1;
            let room = self.room_of_lane(link);
            let waits = self.waits_for_window(e);
            match self.with_host(e, |engine, now, host| match waits {
                // Else its peer, which may wait for it, would stop.
                true => engine.poll_acknowledgement(),
                false => engine.poll_transmit(now, room, host),
            }) {
                Some(transmit) => {
                    idle = 0;
                    self.transmit(e, &transmit);
                    self.drain(e)?;
                }
                None => {
                    idle += 1;
                    self.drain(e)?;
                }
            }
        }
        Ok(())
    }

    /// What whoever carries the next packets takes: wires change from one moment to the next.
    fn room_of_lane(&mut self, link: usize) -> Room {
        let spec = &self.links[link].spec;
        let lanes = u32::from(spec.told) << u32::from(spec.stripe != 0);
        let packet = Room { lanes, ..Room::PACKET };
        let Some(rng) = &mut self.runs else {
            return packet;
        };
        match rng.chance(0.8) {
            false => packet,
            true => Room {
                packets: 1 + rng.below(64) as u32,
                bytes: match self.direct[link] {
                    // A window and what comes with it.
                    Some(_) if rng.chance(0.9) => MOST_OF_TRAIN,
                    _ => rng.below(MOST_OF_RUN) as u32,
                },
                lanes,
            },
        }
    }

    fn transmit(&mut self, e: usize, transmit: &Transmit) {
        oracle::before_transmit(&mut self.endpoints[e], self.now, transmit);
        // What has begun has begun, whether or not it has left.
        if let (true, Some(psn)) = (self.patience.chance(self.full), transmit.request_psn()) {
            self.unsent += 1;
            self.with_host(e, |engine, now, _| engine.handle_unsent(now, psn));
            return;
        }
        let reliable = self.connections[e / 2].kind == QpKind::Rc;
        let bad = matches!(self.connections[e / 2].twist, Twist::BadOp { .. });
        // What is wrong with an unreliable send may be in the part that is given up.
        if (reliable || !bad) && self.patience.chance(self.short) {
            self.unsent += 1;
            self.links[self.endpoints[e].link].lost += u64::from(!reliable);
            self.with_host(e, |engine, now, host| {
                if now.0 % 4 == 0 {
                    engine.handle_gather_fault(now, transmit, Fault::Absent, host);
                } else {
                    engine.handle_unbuilt(now, transmit);
                }
            });
            return;
        }
        let payload = match self.endpoints[e].user.gather(&transmit.payload) {
            Ok(payload) => payload.to_vec(),
            Err(fault) => {
                self.with_host(e, |engine, now, host| {
                    engine.handle_gather_fault(now, transmit, fault, host)
                });
                return;
            }
        };
        let went = self.ask(e, transmit);
        let now = Instant(self.now);
        self.endpoints[e]
            .asks
            .on_sent(now, went, transmit.request_psn().is_some());
        if went == Went::Asking {
            return;
        }
        self.transmitted += 1;
        self.finished = self.now;
        if self.chatty {
            println!("{:>10} {e} -> {:02x?}", self.now, transmit.header.as_bytes());
        }
        let connection = &self.connections[e / 2];
        let path = path(connection, self.endpoints[e].host, connection.hosts[1 - e % 2]);
        // The host's wire is made for runs, but for the ICRC, which tells this world what its links have damaged.
        let run = self.runs.is_some();
        let pad = if run { 0 } else { usize::from(transmit.pad) };
        let len = transmit.transport_len() - usize::from(transmit.pad) + pad;
        let headers = PathHeaders::build(&path, self.transmitted as u16, len);
        let Ok(headers) = headers else { return };
        let mut bytes = headers.ip_udp().to_vec();
        let start = bytes.len();
        bytes.extend(transmit.header.as_bytes());
        if run {
            Bth::mark_run(&mut bytes[start..]);
        }
        bytes.extend(payload);
        bytes.resize(bytes.len() + pad, 0);
        let icrc = Icrc::seed(headers.ip_udp()).and_then(|i| i.transport(&bytes[start..]));
        bytes.extend(icrc.map_or([0; 4], Icrc::finish));
        let link = self.endpoints[e].link;
        let host = connection.hosts[1 - e % 2];
        let now = self.now;
        let (queue, sequence) = (&mut self.queue, &mut self.sequence);
        let lost = self.links[link].send(now, bytes, |at, bytes| {
            *sequence += 1;
            queue.push(Reverse((at, *sequence, Event::Deliver(host, bytes))));
        });
        let spec = self.links[link].spec;
        let sent = Sent::new(Qpn::new(FIRST_QPN + e as u32), transmit).filter(|_| spec.told);
        if let Some((at, sent)) = lost.zip(sent) {
            let told = at + spec.latency + self.patience.below(WORD);
            self.at(told, Event::Lost(e, sent.token()));
        }
    }
}

/// An engine in RTS.
fn engine(connection: &Connection, end: usize, index: usize) -> Engine {
    let [mine, peer] = [&connection.ends[end], &connection.ends[1 - end]];
    let config = QpConfig {
        window_packets: mine.window,
        read_window_packets: mine.read_window,
        kind: connection.kind,
        srq: mine.srq,
        ..QpConfig::new(Qpn::new(FIRST_QPN + index as u32))
    };
    let storage = Slots {
        sends: vec![SendMessage::EMPTY; mine.slots],
        reads: vec![ReadResource::EMPTY; usize::from(peer.reads)],
    };
    let mut engine = Qp::new(config, storage);
    let steps = [
        Modify {
            state: Some(State::Init),
            access: Some(mine.access),
            qkey: Some(QKEY),
            ..Modify::default()
        },
        Modify {
            state: Some(State::Rtr),
            path_mtu: Some(connection.mtu),
            dest_qpn: Some(Qpn::new(FIRST_QPN + (index ^ 1) as u32)),
            rq_psn: Some(Psn::new(peer.psn)),
            max_dest_rd_atomic: Some(peer.reads),
            min_rnr_timer: Some(mine.rnr_timer),
            ..Modify::default()
        },
        Modify {
            state: Some(State::Rts),
            sq_psn: Some(Psn::new(mine.psn)),
            max_rd_atomic: Some(mine.reads),
            timeout: Some(connection.timeout),
            retry_cnt: Some(connection.retry),
            rnr_retry: Some(connection.rnr_retry),
            ..Modify::default()
        },
    ];
    for step in &steps {
        engine.modify(Instant(0), step).expect("the plan is valid");
    }
    engine
}

fn path(connection: &Connection, src: usize, dst: usize) -> Path {
    let mac = |host: usize| [2, 0, 0, 0, 0, host as u8];
    let v6 = |host: usize| {
        let mut address = [0; 16];
        (address[0], address[1], address[15]) = (0xfe, 0x80, host as u8);
        address
    };
    let addresses = if connection.v6 {
        Addresses::V6 {
            src: v6(src),
            dst: v6(dst),
        }
    } else {
        Addresses::V4 {
            src: [10, 0, 0, src as u8],
            dst: [10, 0, 0, dst as u8],
        }
    };
    Path {
        src_mac: mac(src),
        dst_mac: mac(dst),
        addresses,
        src_port: 0xc000,
        traffic_class: 0,
        hop_limit: 64,
        flow_label: 0,
        tag: 0,
    }
}

/// The links' faults, for the time the oracle grants.
pub fn spec_of(world: &World, e: usize) -> LinkSpec {
    world.links[world.endpoints[e].link].spec
}
