// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The ThunderboltIP login against a model of `thunderbolt_net`, and against ourselves, under loss,
//! reordering, duplicates, delay and restarts of either side at any moment.
//!
//! The model is written from the behaviour of `drivers/net/thunderbolt/main.c` of Linux 7.3, flaws
//! included: it gives up after 60 logins, keeps its old path when a login comes on a running link,
//! forgets a login that comes while it tears down.
//!
//! For every seed: after the last fault both sides are up within a bounded time and each receives on
//! the path that the other sends on.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Channel, Rng, Weather, MS};
use tbip::login::{Action, Config, Login};
use tbip::stock::control::Control;
use tbip::time::Instant;
use tbip::wire::{Ends, HopId, Mac, Message, Route, Uuid};

const UUIDS: [Uuid; 2] = [Uuid([0xa1; 16]), Uuid([0xb2; 16])];
const ROUTES: [u64; 2] = [1, 3];

/// Time after the last fault within which both are up: ten unanswered logouts, two login rounds of
/// the stock peer (5 s each), a silent link noticed (5 s).
const CONVERGE: u64 = 25_000 * MS;

fn ends(i: usize) -> Ends {
    Ends {
        local: UUIDS[i],
        remote: UUIDS[1 - i],
        route: Route(ROUTES[i]),
    }
}

/// One side of the cable, whoever it is.
trait Side {
    fn start(&mut self, now: u64, path: HopId);
    fn stop(&mut self, now: u64);
    /// Stopped, and may be started.
    fn stopped(&self) -> bool;
    fn receive(&mut self, now: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>);
    fn tick(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Vec<u8>>);
    fn next(&self) -> Option<u64>;
    /// The path it receives on, if it is up.
    fn up(&self) -> Option<HopId>;
    /// The other side's frames arrive.
    fn traffic(&mut self, now: u64);
}

/// Our machine with a driver that takes its time.
struct Ours {
    login: Login,
    busy: Option<(u64, Action)>,
    open: Option<HopId>,
    calm: u64,
}

impl Ours {
    fn new(i: usize, nonce: u32, calm: u64) -> Self {
        let config = Config {
            ends: ends(i),
            mac: Mac([2; 6]),
            path: HopId(8),
        };
        Self {
            login: Login::new(config, nonce),
            busy: None,
            open: None,
            calm,
        }
    }
}

impl Side for Ours {
    fn start(&mut self, now: u64, path: HopId) {
        self.login.start(Instant(now), path);
    }

    fn stop(&mut self, now: u64) {
        self.login.stop(Instant(now));
    }

    fn stopped(&self) -> bool {
        self.login.stopped()
    }

    fn receive(&mut self, now: u64, bytes: &[u8], _: &mut Vec<Vec<u8>>) {
        self.login.handle_message(Instant(now), bytes).unwrap();
    }

    fn tick(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Vec<u8>>) {
        self.login.handle_timeout(Instant(now));
        loop {
            if let Some((_, action)) = self.busy.take_if(|(at, _)| *at <= now) {
                match action {
                    Action::Open { receive_path } => {
                        assert_eq!(self.open, None, "opened twice");
                        let ok = now >= self.calm || !rng.chance(0.2);
                        if ok {
                            self.open = Some(receive_path);
                        }
                        self.login.handle_opened(Instant(now), ok);
                    }
                    Action::Close => {
                        assert!(self.open.take().is_some(), "closed twice");
                        self.login.handle_closed(Instant(now));
                    }
                }
            } else if let Some(action) = self.login.poll_action() {
                assert!(self.busy.is_none(), "two actions at once");
                self.busy = Some((now + rng.pick(&[0, MS, 200 * MS]), action));
            } else {
                break;
            }
        }
        let mut burst = 0;
        while let Some(buf) = self.login.poll_transmit(Instant(now)) {
            burst += 1;
            assert!(burst < 10, "a storm of messages");
            out.push(buf.as_bytes().to_vec());
        }
    }

    fn next(&self) -> Option<u64> {
        let timeout = self.login.poll_timeout().map(|t| t.0);
        timeout.into_iter().chain(self.busy.map(|(at, _)| at)).min()
    }

    fn up(&self) -> Option<HopId> {
        self.login.up().inspect(|path| assert_eq!(self.open, Some(*path)))
    }

    fn traffic(&mut self, now: u64) {
        self.login.handle_traffic(Instant(now));
    }
}

/// `thunderbolt_net`: its work items as times, its flags as they are.
struct Stock {
    ends: Ends,
    running: bool,
    carrier: Option<HopId>,
    login_sent: bool,
    login_received: bool,
    local_path: HopId,
    remote_path: HopId,
    retries: u32,
    command: u32,
    /// login_work is due.
    login_work: Option<u64>,
    /// A login waits for any response until then.
    waiting: Option<u64>,
    connected_work: Option<u64>,
    disconnect_work: Option<u64>,
    /// Logouts left, and when the next is due; the link is closed when over.
    logout: Option<(u32, u64)>,
    opens_fail: bool,
}

impl Stock {
    fn new(i: usize) -> Self {
        Self {
            ends: ends(i),
            running: false,
            carrier: None,
            login_sent: false,
            login_received: false,
            local_path: HopId(8),
            remote_path: HopId(0),
            retries: 0,
            command: 0,
            login_work: None,
            waiting: None,
            connected_work: None,
            disconnect_work: None,
            logout: None,
            opens_fail: false,
        }
    }

    fn send(&mut self, control: Control, sequence: u8, command: u32, out: &mut Vec<Vec<u8>>) {
        out.push(control.message(&self.ends, sequence, command).as_bytes().to_vec());
    }

    fn tear_down(&mut self) {
        self.carrier = None;
        self.login_work = None;
        self.waiting = None;
        self.connected_work = None;
        self.retries = 0;
        self.login_sent = false;
        self.login_received = false;
    }
}

impl Side for Stock {
    fn start(&mut self, now: u64, path: HopId) {
        if !self.running {
            self.running = true;
            self.local_path = path;
            self.login_sent = false;
            self.login_received = false;
            self.login_work = Some(now + 1_000 * MS);
        }
    }

    fn stop(&mut self, now: u64) {
        if self.running && self.logout.is_none() {
            let connected = self.login_sent && self.login_received;
            self.disconnect_work = None;
            self.login_work = None;
            self.waiting = None;
            self.connected_work = None;
            self.carrier = None;
            self.logout = Some((if connected { 10 } else { 0 }, now));
        }
    }

    fn stopped(&self) -> bool {
        !self.running
    }

    fn receive(&mut self, now: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>) {
        let message = Message::parse(bytes).unwrap();
        let h = *message.header();
        assert!(self.ends.received(&h));
        match Control::parse(&message).unwrap() {
            Control::Login { path, .. } => {
                if !self.running || self.logout.is_some() {
                    return;
                }
                let mac = Mac([4; 6]);
                self.send(Control::LoginResponse { status: 0, mac }, h.sequence, h.command, out);
                self.login_received = true;
                self.remote_path = path;
                if self.retries >= 60 || !self.login_sent {
                    self.retries = 0;
                    self.login_work = Some(self.login_work.map_or(now, |at| at.min(now)));
                }
                self.connected_work = Some(now);
            }
            Control::Logout => {
                self.command += 1;
                self.send(Control::Status { status: 0 }, h.sequence, self.command, out);
                if self.running && self.logout.is_none() {
                    // The work runs some time later.
                    self.disconnect_work = Some(now + 2 * MS);
                }
            }
            // Any response of this protocol ends whatever request is waiting.
            Control::LoginResponse { .. } | Control::Status { .. } => {
                if self.waiting.take().is_some() {
                    self.retries = 0;
                    self.login_sent = true;
                    self.connected_work = Some(now);
                } else if let Some((_, at)) = &mut self.logout {
                    *at = now;
                    self.logout = Some((0, now));
                }
            }
        }
    }

    fn tick(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Vec<u8>>) {
        let due = |at: &mut Option<u64>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.disconnect_work) && self.running {
            self.tear_down();
        }
        if due(&mut self.waiting) {
            self.retries += 1;
            self.login_work = (self.retries <= 60).then_some(now + 4_500 * MS);
        }
        if self.waiting.is_none() && due(&mut self.login_work) && self.carrier.is_none() && self.running {
            self.command += 1;
            let (sequence, command) = ((self.retries % 4) as u8, self.command);
            self.send(Control::login(self.local_path), sequence, command, out);
            self.waiting = Some(now + 500 * MS);
        }
        if due(&mut self.connected_work) && self.carrier.is_none() && self.login_sent && self.login_received {
            if self.opens_fail && rng.chance(0.3) {
                self.login_sent = false;
            } else {
                self.carrier = Some(self.remote_path);
            }
        }
        if let Some((left, at)) = self.logout {
            if at <= now {
                if left == 0 {
                    self.logout = None;
                    self.tear_down();
                    self.running = false;
                } else {
                    self.command += 1;
                    self.send(Control::Logout, 0, self.command, out);
                    self.logout = Some((left - 1, now + 1_000 * MS));
                }
            }
        }
    }

    fn next(&self) -> Option<u64> {
        let works = [
            self.login_work.filter(|_| self.waiting.is_none()),
            self.waiting,
            self.connected_work,
            self.disconnect_work,
            self.logout.map(|(_, at)| at),
        ];
        works.into_iter().flatten().min()
    }

    fn up(&self) -> Option<HopId> {
        self.carrier
    }

    fn traffic(&mut self, _: u64) {}
}

struct World<A: Side, B: Side> {
    now: u64,
    rng: Rng,
    channel: Channel,
    a: A,
    b: B,
    path: [HopId; 2],
    start: [Option<u64>; 2],
}

impl<A: Side, B: Side> World<A, B> {
    fn sides(&mut self) -> [&mut dyn Side; 2] {
        [&mut self.a, &mut self.b]
    }

    fn step(&mut self) {
        let now = self.now;
        let mut out = [vec![], vec![]];
        while let Some((to, bytes)) = self.channel.receive(now) {
            self.sides()[to].receive(now, &bytes, &mut out[to]);
        }
        for (i, out) in out.iter_mut().enumerate() {
            let mut rng = self.rng.clone();
            if self.start[i].is_some_and(|at| at <= now) && self.sides()[i].stopped() {
                self.start[i] = None;
                self.path[i] = HopId(8 + rng.below(3) as u16);
                let path = self.path[i];
                self.sides()[i].start(now, path);
            }
            self.sides()[i].tick(now, &mut rng, out);
            self.rng = rng;
        }
        // Frames flow where a sender that is up sends on the path that the other receives on.
        for i in 0..2 {
            let path = self.path[i];
            let sends = self.sides()[i].up().is_some();
            if sends && self.sides()[1 - i].up() == Some(path) {
                self.sides()[1 - i].traffic(now);
            }
        }
        for (i, out) in out.iter().enumerate() {
            for bytes in out {
                self.channel.send(&mut self.rng, now, i, bytes);
            }
        }
    }

    fn run(&mut self, until: u64) {
        let mut steps = 0u64;
        while self.now < until {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "time does not pass");
            let now = self.now;
            let start = self.start;
            let mut times: Vec<u64> = self.channel.next().into_iter().collect();
            for (i, side) in self.sides().into_iter().enumerate() {
                times.extend(side.next().map(|at| at.max(now + 1)));
                times.extend(start[i].map(|at| at.max(now + MS)));
            }
            self.now = times
                .into_iter()
                .filter(|at| *at > now)
                .min()
                .unwrap_or(until)
                .min(until);
        }
    }

    fn verdict(&mut self) {
        let path = self.path;
        for (i, path) in path.into_iter().enumerate() {
            let receives = self.sides()[1 - i].up();
            assert_eq!(
                receives,
                Some(path),
                "side {} does not receive where side {i} sends",
                1 - i
            );
        }
    }
}

/// Faults until `calm`, made by `crash` (a new life without goodbye) and by stop and start.
fn torment<A: Side, B: Side>(world: &mut World<A, B>, calm: u64, crash: impl Fn(&mut World<A, B>, usize)) {
    let mut times: Vec<u64> = (0..world.rng.below(6)).map(|_| world.rng.below(calm)).collect();
    times.sort_unstable();
    for at in times {
        world.run(at);
        let i = world.rng.below(2) as usize;
        let again = (world.now + world.rng.below(3_000 * MS)).min(calm);
        if world.rng.chance(0.5) {
            crash(world, i);
        } else {
            let now = world.now;
            world.sides()[i].stop(now);
        }
        world.start[i] = Some(again);
    }
    world.run(calm);
    world.channel.weather = Weather::FAIR;
}

fn world<A: Side, B: Side>(seed: u64, sides: impl Fn(&mut Rng, u64) -> (A, B)) -> (World<A, B>, u64) {
    let mut rng = Rng::new(seed);
    let calm = 200 * MS + rng.below(8_000 * MS);
    let (a, b) = sides(&mut rng, calm);
    let start = [
        Some(rng.below(4_000 * MS).min(calm)),
        Some(rng.below(4_000 * MS).min(calm)),
    ];
    let weather = Weather::foul(&mut rng);
    let world = World {
        now: 0,
        channel: Channel::new(weather, ROUTES),
        a,
        b,
        path: [HopId(0); 2],
        start,
        rng,
    };
    (world, calm)
}

#[test]
fn we_and_a_stock_peer_find_each_other_after_any_faults() {
    seeds("login_sim", 4_000, &[2, 2_581, 3_714, 3_820, 56_809], |seed| {
        let (mut world, calm) = world(seed, |rng, calm| {
            let mut stock = Stock::new(1);
            stock.opens_fail = rng.chance(0.3);
            (Ours::new(0, rng.next() as u32, calm), stock)
        });
        torment(&mut world, calm, |world, i| {
            // A peer that crashes takes the cable down, so only our module dies without goodbye.
            if i == 0 {
                world.a = Ours::new(0, world.rng.next() as u32, calm);
            } else {
                let now = world.now;
                world.b.stop(now);
            }
        });
        world.b.opens_fail = false;
        world.run(calm + CONVERGE);
        world.verdict();
    });
}

#[test]
fn two_of_us_find_each_other_by_the_stock_protocol_too() {
    seeds("login_sim", 4_000, &[], |seed| {
        let (mut world, calm) = world(seed, |rng, calm| {
            let a = Ours::new(0, rng.next() as u32, calm);
            (a, Ours::new(1, rng.next() as u32, calm))
        });
        torment(&mut world, calm, |world, i| {
            let nonce = world.rng.next() as u32;
            let side = if i == 0 { &mut world.a } else { &mut world.b };
            *side = Ours::new(i, nonce, calm);
        });
        world.run(calm + CONVERGE);
        world.verdict();
        let sent = world.a.login.counters().sent;
        world.run(calm + CONVERGE + 60_000 * MS);
        world.verdict();
        assert_eq!(world.a.login.counters().sent, sent, "chatter on a link that is up");
    });
}
