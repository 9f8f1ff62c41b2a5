// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Both sides of a direct lane over rings that lose, spoil and repeat frames, in virtual time.
//!
//! The receiving ring uses its descriptors up in order, as the hardware does, and writes each frame where the
//! descriptor says: a page of a window, or one of the driver's own. For every seed:
//!
//! - nothing is written to a page whose window is not open, and a window that is over has no descriptor left;
//! - a window that is told whole has every page of its own payload, whatever tails of earlier ones have been written;
//! - each token is told once, and truly: carried if and only if its train was delivered;
//! - after the last fault everything is told within bounded time, and the lane carries again;
//! - a lane that dies, whenever, gives every window back and tells every token.
//!
//! The hostile peers are worlds of their own: one that sends any frames, requests and questions, one that never grants,
//! grants twice, or grants what nobody asked for.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng, MS};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use tbip::direct::{Ask, Asker, Fate, Frame, Grant, Granter, Heard, Part, Request, Start, EOF_VOID};
use tbip::frame::SOF;
use tbip::limits::{MAX_FRAME, START_REPEAT_MAX, WINDOW_ASK_MAX, WINDOW_LIMIT, WINDOW_STALL};
use tbip::time::Instant;
use tbip::train::Arrival;

const US: u64 = 1_000;

/// Pages of the granter's memory, and descriptors of its ring.
const PAGES: usize = 1024;
const DESCRIPTORS: usize = 511;

/// What crosses the message lanes, as bytes.
#[derive(Clone)]
enum Message {
    Request([u8; Request::LEN], u64),
    Ask([u8; Ask::LEN]),
    Grant([u8; Grant::LEN]),
}

/// A frame of the direct lane: what the ring says, what is in it, whose it is.
#[derive(Clone)]
struct Data {
    arrival: Arrival,
    bytes: Vec<u8>,
    content: (u64, u16),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Descriptor {
    Page { number: u32, page: usize },
    Own,
}

struct Window {
    token: u64,
    first: usize,
    frames: u16,
    /// The page that is written when it is carried out.
    tail: usize,
}

/// In place of the index of a page: the tail of a train.
const TAIL: u16 = u16::MAX;

/// What an event concerns.
enum Event {
    ToGranter(Message),
    ToAsker(Message),
    Frame(Data),
}

#[derive(Clone, Copy)]
struct Faults {
    loss: f64,
    frame_loss: f64,
    spoil: f64,
    dup: f64,
    burst: f64,
}

impl Faults {
    const NONE: Self = Self {
        loss: 0.0,
        frame_loss: 0.0,
        spoil: 0.0,
        dup: 0.0,
        burst: 0.0,
    };
}

struct World {
    now: u64,
    rng: Rng,
    delay: u64,
    faults: Faults,
    burst: u64,
    /// A frame that finds no descriptor waits for one instead of being dropped.
    e2e: bool,
    asker: Asker<u64>,
    granter: Granter,
    memory: Vec<Option<(u64, u16)>>,
    ring: VecDeque<Descriptor>,
    /// Descriptors that the ring has used up, which the next poll finds.
    completions: VecDeque<(Descriptor, Data)>,
    backlog: VecDeque<Data>,
    windows: HashMap<u32, Window>,
    /// The ring is stopped then.
    resets: Option<u64>,
    token: u64,
    waiting: HashSet<u64>,
    late: HashSet<u64>,
    delivered: HashSet<u64>,
    carried: u64,
    wire: BTreeMap<(u64, u64), Event>,
    latest: [u64; 3],
    serial: u64,
    asks_for_denial: f64,
    /// Chance that a window is filled with void frames.
    voids: f64,
    stalls: bool,
    /// Requests refused, windows filled with void frames, windows that were not whole, lanes opened.
    denied: u64,
    filled_void: u64,
    void: u64,
    resets_heard: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            now: 0,
            delay: rng.pick(&[2 * US, 20 * US, 300 * US]),
            faults: Faults {
                loss: rng.pick(&[0.0, 0.01, 0.1, 0.3]),
                frame_loss: rng.pick(&[0.0, 0.0001, 0.01, 0.1]),
                spoil: rng.pick(&[0.0, 0.001, 0.02]),
                dup: rng.pick(&[0.0, 0.0, 0.001]),
                burst: rng.pick(&[0.0, 0.0, 0.002]),
            },
            burst: 0,
            e2e: rng.chance(0.3),
            asker: Asker::new(),
            granter: Granter::new(Instant(0), rng.next() as u32),
            memory: vec![None; PAGES],
            ring: VecDeque::new(),
            completions: VecDeque::new(),
            backlog: VecDeque::new(),
            windows: HashMap::new(),
            resets: None,
            token: 0,
            waiting: HashSet::new(),
            late: HashSet::new(),
            delivered: HashSet::new(),
            carried: 0,
            wire: BTreeMap::new(),
            latest: [0; 3],
            serial: 0,
            asks_for_denial: rng.pick(&[0.0, 0.05, 0.3]),
            voids: rng.pick(&[0.0, 0.02, 0.2]),
            stalls: false,
            denied: 0,
            filled_void: 0,
            void: 0,
            resets_heard: 0,
            rng,
        }
    }

    fn put(&mut self, lane: usize, event: Event) {
        self.latest[lane] = self.latest[lane].max(self.now + self.delay + self.rng.below(self.delay));
        self.serial += 1;
        self.wire.insert((self.latest[lane], self.serial), event);
    }

    fn tell_granter(&mut self, message: Message) {
        if !self.rng.chance(self.faults.loss) {
            self.put(0, Event::ToGranter(message));
        }
    }

    fn frame(&mut self, eof: u8, bytes: Vec<u8>, len: usize, content: (u64, u16)) {
        let mut data = Data {
            arrival: Arrival {
                sof: SOF,
                eof,
                len,
                spoiled: false,
            },
            bytes,
            content,
        };
        if self.burst == 0 && self.rng.chance(self.faults.burst) {
            self.burst = 1 + self.rng.below(200);
        }
        if self.burst > 0 {
            self.burst -= 1;
            return;
        }
        if self.rng.chance(self.faults.frame_loss) {
            return;
        }
        if self.rng.chance(self.faults.spoil) {
            data.arrival.spoiled = true;
            data.content.0 = u64::MAX;
        }
        if self.rng.chance(self.faults.dup) {
            self.put(2, Event::Frame(data.clone()));
        }
        self.put(2, Event::Frame(data));
    }

    // The asker's host. ---------------------------------------------------------------------------------------------

    fn request(&mut self) {
        let frames = 1 + self.rng.below(16) as u16;
        let token = self.token;
        let Some(mut request) = self.asker.request(Instant(self.now), frames, token) else {
            return;
        };
        self.token += 1;
        self.waiting.insert(token);
        request.address = self.rng.below((PAGES - 64) as u64) * MAX_FRAME as u64;
        request.key = self.rng.below(PAGES as u64) as u32;
        self.tell_granter(Message::Request(request.bytes(), token));
    }

    /// Fills what is granted, sometimes later.
    fn fill(&mut self) {
        if let Some(start) = self.asker.take_start() {
            self.frame(EOF_VOID, start.bytes().to_vec(), Start::LEN, (u64::MAX, 0));
        }
        while let Some(window) = self.asker.poll_window() {
            if self.rng.chance(0.3) || self.stalls {
                break;
            }
            let window = if self.rng.chance(self.voids) {
                window.void()
            } else {
                window
            };
            self.filled_void += u64::from(window.token.is_none());
            for index in 0..window.frames {
                let (len, content) = match window.token {
                    Some(token) => (MAX_FRAME, (token, index)),
                    None => (1, (u64::MAX, 0)),
                };
                self.frame(window.eof(index), Vec::new(), len, content);
            }
            self.asker.handle_filled(&window);
        }
    }

    fn told(&mut self) {
        while let Some(told) = self.asker.poll_told() {
            assert!(self.waiting.remove(&told.token), "token {} told twice", told.token);
            let delivered = self.delivered.contains(&told.token);
            assert_eq!(told.fate == Fate::Carried, delivered, "{told:?} is not true");
            self.carried += u64::from(delivered);
        }
        while let Some(told) = self.asker.poll_late(Instant(self.now)) {
            assert!(self.waiting.remove(&told.token), "token {} told twice", told.token);
            self.late.insert(told.token);
        }
    }

    // The granter's host. -------------------------------------------------------------------------------------------

    fn asked(&mut self, request: &Request, token: u64) {
        if !self.granter.handle_request(request) {
            self.denied += 1;
            return;
        }
        let frames = usize::from(request.frames);
        let first = (request.address / MAX_FRAME as u64) as usize;
        // The memory is the granter's, whatever the peer says.
        let inside = first.checked_add(frames).is_some_and(|end| end <= PAGES);
        let tail = request.key as usize % PAGES;
        let part = |page: usize| Part {
            page: page as u64,
            len: MAX_FRAME,
        };
        let room = DESCRIPTORS - self.ring.len() - self.completions.len();
        let fits = inside && {
            let pages = (first..first + frames).map(part);
            self.granter.fits(request, pages, [part(tail)].into_iter(), room)
        };
        if !fits || self.rng.chance(self.asks_for_denial) {
            self.denied += 1;
            return;
        }
        for page in first..first + frames {
            self.ring.push_back(Descriptor::Page {
                number: request.number,
                page,
            });
        }
        let window = Window {
            token,
            first,
            frames: request.frames,
            tail,
        };
        assert!(self.windows.insert(request.number, window).is_none(), "a window twice");
        self.granter.grant(Instant(self.now), request, Some(tail as u64));
    }

    /// A frame has come: the ring writes it. Nobody knows yet.
    fn written(&mut self, data: Data) {
        let Some(descriptor) = self.ring.pop_front() else {
            return;
        };
        if let Descriptor::Page { number, page } = descriptor {
            let window = self.windows.get(&number).expect("a write to a window that is over");
            assert!((window.first..window.first + usize::from(window.frames)).contains(&page));
            self.memory[page] = Some(data.content);
        }
        self.completions.push_back((descriptor, data));
    }

    /// The poll finds what has been written since the last one.
    fn poll(&mut self, honest: bool) {
        while let Some((descriptor, data)) = self.completions.pop_front() {
            self.completed(descriptor, &data, honest);
        }
    }

    fn completed(&mut self, descriptor: Descriptor, data: &Data, honest: bool) {
        let bytes: &[u8] = match descriptor {
            Descriptor::Page { .. } => &[],
            Descriptor::Own => &data.bytes,
        };
        match self.granter.handle_frame(Instant(self.now), data.arrival, bytes) {
            Frame::Other | Frame::Page => {}
            Frame::Last { number, whole } => {
                let window = self.over(number);
                if whole && honest {
                    for index in 0..window.frames {
                        let found = self.memory[window.first + usize::from(index)];
                        // Windows may overlap: then the later one, which is behind it on the ring, has written over it,
                        // be it with void frames.
                        let own = found == Some((window.token, index));
                        let later = found.is_some_and(|(token, _)| token > window.token);
                        assert!(own || later, "window {number}: page {index} has {found:?}");
                        assert!(own || self.overlapped(&window), "window {number} has another's page");
                    }
                }
                self.void += u64::from(!whole);
                if whole && self.rng.chance(0.01) {
                    self.granter.handle_undelivered(number);
                } else if whole {
                    assert!(self.delivered.insert(window.token) || !honest, "delivered twice");
                    self.memory[window.tail] = Some((window.token, TAIL));
                }
            }
        }
    }

    /// Whether a window that is still open, or was, begins in this one. Only those behind it can have written.
    fn overlapped(&self, window: &Window) -> bool {
        let end = window.first + usize::from(window.frames);
        let meets = |other: &Window| other.first < end && window.first < other.first + usize::from(other.frames);
        self.windows.values().any(meets)
    }

    fn over(&mut self, number: u32) -> Window {
        let left = |descriptor: &Descriptor| matches!(descriptor, Descriptor::Page { number: n, .. } if *n == number);
        assert!(
            !self.ring.iter().any(left),
            "window {number} is over and has descriptors"
        );
        self.windows.remove(&number).expect("over twice")
    }

    fn serve_granter(&mut self, honest: bool) {
        let now = Instant(self.now);
        // While pages of the driver's own are waited for, a poll for each.
        self.refill();
        while !self.completions.is_empty() {
            self.poll(honest);
            self.refill();
        }
        self.granter.handle_timeout(now);
        if self.granter.is_broken() && self.resets.is_none() {
            // A worker does it.
            self.resets = Some(self.now + self.rng.below(5 * MS));
        }
        if self.resets.is_some_and(|at| at <= self.now) {
            self.resets = None;
            self.ring.clear();
            self.completions.clear();
            let open: Vec<u32> = self.windows.keys().copied().collect();
            for number in open {
                self.over(number);
            }
            self.granter.handle_reset(now);
        }
        self.post_own();
        if self.granter.is_due() {
            let grant = self.granter.take_grant();
            if !self.rng.chance(self.faults.loss) {
                self.put(1, Event::ToAsker(Message::Grant(grant.bytes())));
            }
        }
    }

    fn event(&mut self, event: Event, honest: bool) {
        match event {
            Event::ToGranter(Message::Request(bytes, token)) => {
                if let Ok(request) = Request::parse(&bytes) {
                    self.asked(&request, token);
                }
            }
            Event::ToGranter(Message::Ask(bytes)) => self.granter.handle_ask(&Ask::parse(&bytes).unwrap()),
            Event::ToGranter(Message::Grant(_)) | Event::ToAsker(Message::Request(..) | Message::Ask(_)) => {
                unreachable!()
            }
            Event::ToAsker(Message::Grant(bytes)) => {
                let heard = self
                    .asker
                    .handle_grant(Instant(self.now), &Grant::parse(&bytes).unwrap());
                assert!(heard != Heard::Excess || !honest);
                self.resets_heard += u64::from(heard == Heard::Reset);
            }
            // Nothing overtakes what waits.
            Event::Frame(data) if self.e2e => self.backlog.push_back(data),
            Event::Frame(data) => self.written(data),
        }
        self.refill();
        if self.rng.chance(0.3) {
            self.poll(honest);
        }
    }

    /// What waits for descriptors has those that are there.
    fn refill(&mut self) {
        self.post_own();
        while !self.ring.is_empty() && !self.backlog.is_empty() {
            if let Some(data) = self.backlog.pop_front() {
                self.written(data);
            }
        }
    }

    /// The poll that finds a frame posts the page again.
    fn post_own(&mut self) {
        if self.granter.wants_page() && self.ring.is_empty() && self.completions.is_empty() {
            self.ring.push_back(Descriptor::Own);
        }
    }

    fn next(&self, step: u64) -> u64 {
        let timers = [self.asker.poll_timeout(), self.granter.poll_timeout()];
        let timers = timers.into_iter().flatten().map(|at| at.0).chain(self.resets);
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        timers.chain(arrival).chain([step]).min().unwrap_or(step).max(self.now)
    }

    /// Both sides live for `span`; there are new requests if `busy`.
    fn run(&mut self, span: u64, busy: bool) {
        let end = self.now + span;
        while self.now < end {
            let step = match busy {
                true => self.now + 1 + self.rng.below(self.delay),
                false => end.min(self.now + MS),
            };
            let next = self.next(step);
            // A timer that is due for something that cannot be done yet.
            self.now = if next == self.now { next + US } else { next };
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let event = entry.remove();
                self.event(event, true);
            }
            if !busy || self.rng.chance(0.5) {
                self.serve_granter(true);
            }
            if busy {
                for _ in 0..self.rng.below(3) {
                    self.request();
                }
            }
            self.fill();
            if let Some(ask) = self.asker.take_ask(Instant(self.now)) {
                self.tell_granter(Message::Ask(ask.bytes()));
            }
            self.told();
        }
    }

    /// Longest time after the last fault until all is told and the lane carries again.
    fn bound(&self) -> u64 {
        // A stall that began just before, or a token nobody speaks of; the ring is stopped; what waits says so again.
        let once = WINDOW_STALL.0.max(WINDOW_LIMIT.0) + 5 * MS + 2 * START_REPEAT_MAX.0 + 2 * WINDOW_ASK_MAX.0;
        // A frame that came twice waits for a descriptor, and the window that it spoils costs the same once more.
        2 * (once + 20 * self.delay)
    }
}

#[test]
fn windows_are_told_truly_and_nothing_else_is_written() {
    seeds("direct_sim", 300, &[], |seed| {
        let mut world = World::new(seed);
        world.run(500 * world.delay, true);
        (world.faults, world.burst) = (Faults::NONE, 0);
        world.run(world.bound(), false);
        assert!(world.waiting.is_empty(), "{:?} not told", world.waiting);
        assert!(world.asker.is_empty() && world.windows.is_empty());
        assert!(world.asker.has_room() && !world.granter.is_broken());
        // And the lane carries.
        let carried = world.carried;
        (world.asks_for_denial, world.voids) = (0.0, 0.0);
        world.run(100 * world.delay, true);
        world.run(world.bound(), false);
        assert!(world.carried >= carried + 5, "{} carried", world.carried - carried);
        assert!(world.waiting.is_empty());
    });
}

#[test]
fn without_faults_everything_is_carried_and_the_lane_never_begins_anew() {
    seeds("direct_sim", 100, &[], |seed| {
        let mut world = World::new(seed);
        (world.faults, world.asks_for_denial) = (Faults::NONE, 0.0);
        world.run(500 * world.delay, true);
        world.run(world.bound(), false);
        assert_eq!((world.resets_heard, world.granter.is_broken()), (1, false));
        assert!(world.waiting.is_empty() && world.token > 20);
        assert_eq!(world.void, world.filled_void);
        // But for those whose page is to be the tail of one before.
        assert!(
            world.denied < world.token / 4,
            "{} of {} denied",
            world.denied,
            world.token
        );
    });
}

#[test]
fn an_asker_that_does_not_fill_costs_the_lane_and_no_more() {
    seeds("direct_sim", 100, &[], |seed| {
        let mut world = World::new(seed);
        world.run(200 * world.delay, true);
        (world.faults, world.burst, world.stalls) = (Faults::NONE, 0, true);
        for _ in 0..20 {
            world.request();
        }
        // Every window comes back in bounded time though nobody fills it.
        world.run(world.bound(), false);
        assert!(world.windows.is_empty() && world.waiting.is_empty());
        world.stalls = false;
        world.run(world.bound(), false);
        assert!(world.asker.has_room());
    });
}

#[test]
fn a_lane_that_dies_gives_everything_back() {
    seeds("direct_sim", 200, &[], |seed| {
        let mut world = World::new(seed);
        world.run(world.rng.clone().below(400) * world.delay, true);
        // Both rings have been stopped: what is on the wire arrives nowhere.
        world.wire.clear();
        world.ring.clear();
        world.completions.clear();
        let open: Vec<u32> = world.windows.keys().copied().collect();
        for number in open {
            world.over(number);
        }
        world.asker.handle_dead();
        while let Some(told) = world.asker.poll_told() {
            assert!(world.waiting.remove(&told.token));
            // What is delivered and was not told may be told as lost: the queue pair's peer knows what it has.
            assert!(told.fate != Fate::Carried || world.delivered.contains(&told.token));
        }
        assert!(world.waiting.is_empty() && world.asker.is_empty());
    });
}

/// A peer that sends any frames, asks for anything, and questions.
#[test]
fn a_hostile_asker_writes_to_open_windows_only() {
    seeds("direct_sim", 200, &[], |seed| {
        let mut world = World::new(seed);
        let mut told = world.granter.take_grant();
        for _ in 0..4000 {
            world.now += world.rng.below(200 * US);
            let wild = world.rng.next();
            match world.rng.below(10) {
                0..=2 => {
                    let near = told.answered.wrapping_add(world.rng.below(4) as u32);
                    let open = world.windows.keys().min().copied().unwrap_or(near);
                    let request = Request {
                        number: match wild % 20 {
                            0 => (wild >> 8) as u32,
                            1..=3 => open,
                            _ => near,
                        },
                        generation: if wild % 10 == 0 { wild as u32 } else { told.generation },
                        frames: (world.rng.below(66)) as u16,
                        key: wild as u32,
                        address: match wild % 3 {
                            0 => wild,
                            _ => world.rng.below(2 * PAGES as u64) * MAX_FRAME as u64,
                        },
                    };
                    world.event(Event::ToGranter(Message::Request(request.bytes(), wild)), false);
                }
                // Twice, and the number of a window that is open is ahead again.
                3 if wild % 8 == 1 => {
                    for jump in [0x7000_0000, 0x7000_0000 + (wild >> 40) as u32] {
                        let ask = Ask {
                            generation: told.generation,
                            asked: told.answered.wrapping_add(jump),
                        };
                        world.event(Event::ToGranter(Message::Ask(ask.bytes())), false);
                        told.answered = ask.asked;
                    }
                }
                3 if wild % 4 == 0 => {
                    let ask = Ask {
                        generation: wild as u32,
                        asked: told.answered.wrapping_add((wild >> 60) as u32),
                    };
                    world.event(Event::ToGranter(Message::Ask(ask.bytes())), false);
                }
                _ => {
                    let start = world.rng.chance(0.2);
                    let len = if start {
                        8
                    } else {
                        world.rng.pick(&[1, 8, 4095, MAX_FRAME, MAX_FRAME])
                    };
                    let arrival = Arrival {
                        sof: if wild % 40 == 0 { 2 } else { SOF },
                        eof: if start { EOF_VOID } else { 2 + (wild >> 10) as u8 % 14 },
                        len,
                        spoiled: wild % 31 == 0,
                    };
                    let bytes = if start {
                        Start(told.generation).bytes().to_vec()
                    } else {
                        vec![0; len]
                    };
                    let content = (wild, 0);
                    world.event(
                        Event::Frame(Data {
                            arrival,
                            bytes,
                            content,
                        }),
                        false,
                    );
                }
            }
            world.serve_granter(false);
            // What it is told, as the wire is not asked here.
            while let Some((_, event)) = world.wire.pop_first() {
                if let Event::ToAsker(Message::Grant(bytes)) = event {
                    told = Grant::parse(&bytes).unwrap();
                }
            }
        }
        // It goes silent: whatever it did, every window comes back.
        for _ in 0..2_000 {
            world.now += MS;
            world.serve_granter(false);
        }
        assert!(world.windows.is_empty(), "{} windows are open", world.windows.len());
    });
}

/// A peer that never grants, grants twice, or grants what nobody asked for.
#[test]
fn a_hostile_granter_costs_time_and_no_token() {
    seeds("direct_sim", 200, &[], |seed| {
        let mut world = World::new(seed);
        let never = seed % 4 == 0;
        let mut generation = 7;
        let mut newest = 0u32;
        let mut filled = HashSet::new();
        for _ in 0..3000 {
            world.now += world.rng.below(300 * US);
            let now = Instant(world.now);
            let wild = world.rng.next();
            generation += u32::from(wild % 500 == 0);
            let mut bytes = [0; Grant::LEN];
            bytes[..4].copy_from_slice(&generation.to_le_bytes());
            let answered = if never {
                0
            } else {
                newest.wrapping_sub((wild % 4) as u32).wrapping_add(wild as u32 >> 31)
            };
            bytes[4..8].copy_from_slice(&answered.to_le_bytes());
            bytes[8..16].copy_from_slice(&world.rng.next().to_le_bytes());
            bytes[16] = u8::from(wild % 50 == 0);
            world.asker.handle_grant(now, &Grant::parse(&bytes).unwrap());
            let _ = world.asker.take_start();
            if let Some(request) = world.asker.request(now, 1 + (wild % 16) as u16, world.token) {
                world.waiting.insert(world.token);
                world.token += 1;
                newest = request.number;
            }
            while let Some(window) = world.asker.poll_window() {
                assert!(filled.insert(window.number), "a window filled twice");
                world.asker.handle_filled(&window);
            }
            let _ = world.asker.take_ask(now);
            while let Some(told) = world.asker.poll_told().or_else(|| world.asker.poll_late(now)) {
                assert!(world.waiting.remove(&told.token), "told twice");
            }
        }
        // Nothing is heard any more.
        world.now += WINDOW_LIMIT.0;
        while let Some(told) = world.asker.poll_late(Instant(world.now)) {
            assert!(world.waiting.remove(&told.token), "told twice");
        }
        assert!(world.waiting.is_empty());
    });
}
