// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Windows of a direct lane beside the trains of a link: engines ask, grant and carry out as the kernel has them, with
//! the two sides of `tbip::direct` between them.
//!
//! A frame is written to the receiver's memory when it comes, and found by a poll that may be later. The message lane
//! is the link itself, with its losses; the direct lane has its own, and everything that a granter may refuse is
//! refused now and then: windows are denied, come to nothing, are filled with void frames, or make no progress, upon
//! which the lane begins anew. Who asks in a stream of windows waits for the next one, as the kernel does.

use std::collections::{BTreeMap, VecDeque};

use crate::oracle::Failure;
use crate::rng::Rng;
use crate::world::{Event, World, FIRST_QPN};
use roce::grants::{Brought, Part, Went, Windows};
use roce::keys::{Access, Key};
use roce::lost::Sent;
use roce::psn::Qpn;
use roce::wire::{Bth, Packet};
use roce::wqe::{Source, Transmit};
use tbip::direct::{self, Ask, Asker, Fate, Frame, Grant, Granter, Request, Start, EOF_VOID};
use tbip::frame::SOF;
use tbip::limits::{MAX_FRAME, START_REPEAT_MAX, WINDOW_ASK_MAX, WINDOW_LIMIT, WINDOW_STALL};
use tbip::time::Instant;
use tbip::train::Arrival;

/// Descriptors of the ring, and most pages of a window.
const DESCRIPTORS: usize = 511;
const MOST: u32 = 16;

/// What goes wrong with windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowSpec {
    /// Probability that a frame of the direct lane is lost, that it is spoiled, and that it is the first of many lost.
    pub loss: f64,
    pub spoil: f64,
    pub burst: f64,
    /// Probability that a request is denied, that a window is filled with void frames, that the queue pair is busy when
    /// it is over, and that the source is not whole pages.
    pub denial: f64,
    pub void: f64,
    pub busy: f64,
    pub unfit: f64,
    /// Probability that granted windows are not filled until the lane begins anew.
    pub stall: f64,
}

/// A frame of the direct lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Data {
    eof: u8,
    spoiled: bool,
    bytes: Vec<u8>,
}

/// What a descriptor of the ring points at.
#[derive(Clone, Copy)]
enum Slot {
    Page { number: u32, e: usize, at: usize },
    Own,
}

/// A train whose window is open.
struct Parked {
    e: usize,
    bytes: Vec<u8>,
    len: usize,
    brought: Brought,
}

/// The payload that a request speaks of.
struct Asked {
    e: usize,
    source: Source,
}

/// What happened with windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub asked: u64,
    pub granted: u64,
    pub carried: u64,
    pub denied: u64,
    pub lost: u64,
    pub resets: u64,
    pub waited: u64,
}

impl Tally {
    /// What happened with others as well.
    pub fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.granted += other.granted;
        self.carried += other.carried;
        self.denied += other.denied;
        self.lost += other.lost;
        self.resets += other.resets;
        self.waited += other.waited;
    }
}

/// The direct lane of one direction.
pub struct Lane {
    spec: WindowSpec,
    rng: Rng,
    asker: Asker<u64>,
    granter: Granter,
    asked: BTreeMap<u32, Asked>,
    ring: VecDeque<Slot>,
    done: VecDeque<(Slot, Data)>,
    parked: BTreeMap<u32, Parked>,
    busy_until: u64,
    burst: u64,
    stalls_until: u64,
    polled: bool,
    stopped: bool,
    armed: Option<u64>,
    pub tally: Tally,
}

impl Lane {
    pub fn new(spec: WindowSpec, mut rng: Rng) -> Self {
        Self {
            spec,
            asker: Asker::new(),
            granter: Granter::new(Instant(0), rng.next() as u32),
            asked: BTreeMap::new(),
            ring: VecDeque::new(),
            done: VecDeque::new(),
            parked: BTreeMap::new(),
            busy_until: 0,
            burst: 0,
            stalls_until: 0,
            polled: false,
            stopped: false,
            armed: None,
            tally: Tally::default(),
            rng,
        }
    }

    /// Longest that what has happened to the lane may have held a queue pair back.
    pub fn grace(&self) -> u64 {
        let once = 2 * WINDOW_STALL.0 + WINDOW_LIMIT.0 + 2 * START_REPEAT_MAX.0 + 2 * WINDOW_ASK_MAX.0;
        (self.tally.resets + self.tally.lost + self.tally.denied) * once
    }

    /// Whether everything has come to its end.
    pub fn is_idle(&self) -> bool {
        self.asker.is_empty() && self.parked.is_empty() && self.asked.is_empty()
    }

    fn post_own(&mut self) {
        if self.granter.wants_page() && self.ring.is_empty() && self.done.is_empty() {
            self.ring.push_back(Slot::Own);
        }
    }
}

/// The lane as a queue pair looks at it.
struct View<'a>(&'a Lane, Instant);

impl Windows for View<'_> {
    fn is_worth(&self) -> bool {
        self.0.asker.is_worth(self.1)
    }

    fn has_room(&self) -> bool {
        self.0.asker.has_room()
    }
}

/// The same for an engine.
fn engines(now: Instant) -> roce::time::Instant {
    roce::time::Instant(now.0)
}

fn digest(bytes: &[u8]) -> [u8; 8] {
    let mix = |sum: u64, byte: &u8| {
        (sum ^ u64::from(*byte))
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(7)
    };
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix).to_le_bytes()
}

/// What has come, unless it was spoiled on the way.
fn intact(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let at = bytes.len().checked_sub(8)?;
    let sum = bytes.split_off(at);
    (digest(&bytes)[..] == sum[..]).then_some(bytes)
}

impl World {
    /// The lanes of the link by which the peer is reached.
    fn lanes(&self, link: usize) -> u32 {
        1 << u32::from(self.links[link].spec.stripe != 0)
    }

    /// Whether the queue pair `e` waits for a window to be asked for.
    pub(crate) fn waits_for_window(&mut self, e: usize) -> bool {
        let link = self.endpoints[e].link;
        let (now, lanes) = (Instant(self.now), self.lanes(link));
        let Some(lane) = &mut self.direct[link] else {
            return false;
        };
        let waits = self.endpoints[e].asks.must_wait(engines(now), lanes, &View(lane, now));
        lane.tally.waited += u64::from(waits);
        waits
    }

    /// Sends `transmit` with a request for a window, if it is to go so.
    pub(crate) fn ask(&mut self, e: usize, transmit: &Transmit) -> Went {
        let link = self.endpoints[e].link;
        let (now, lanes) = (Instant(self.now), self.lanes(link));
        let Some(lane) = &mut self.direct[link] else {
            return Went::Plain;
        };
        let length = transmit.payload.byte_len();
        let engine = &self.endpoints[e].engine;
        let by = (lanes, &View(lane, now));
        let part = self.endpoints[e]
            .asks
            .part(engines(now), by, (length, MOST), || engine.window_of(transmit));
        let (Some(part), Some(sent)) = (part, Sent::new(Qpn::new(FIRST_QPN + e as u32), transmit)) else {
            return Went::Plain;
        };
        if lane.rng.chance(lane.spec.unfit) {
            return Went::Unfit;
        }
        let Part { key, address, len } = part;
        let frames = (len / MAX_FRAME as u32) as u16;
        let Some(request) = lane.asker.request(now, frames, sent.token()) else {
            return Went::Plain;
        };
        lane.tally.asked += 1;
        let source = transmit.payload;
        let rest = source.part(len, length - len);
        let request = request.for_target(key.0, address);
        lane.asked.insert(
            request.number,
            Asked {
                e,
                source: source.part(0, len),
            },
        );
        let mut bytes = request.bytes().to_vec();
        bytes.extend(transmit.header.as_bytes());
        Bth::mark_run(&mut bytes[Request::LEN..]);
        bytes.extend(
            self.endpoints[e]
                .user
                .gather(&rest)
                .expect("all of it could be gathered"),
        );
        self.transmitted += 1 + u64::from(frames);
        self.finished = self.now;
        if self.chatty {
            println!("{:>10} {e} asks {request:?} for {}", self.now, transmit.psn.value());
        }
        self.put(link, bytes, Event::Asked);
        self.arm_direct(link);
        Went::Asking
    }

    /// Sends by the message lane, which may lose or spoil it.
    fn put(&mut self, link: usize, mut bytes: Vec<u8>, event: impl Fn(usize, Vec<u8>) -> Event) {
        bytes.extend(digest(&bytes));
        let now = self.now;
        let (queue, sequence) = (&mut self.queue, &mut self.sequence);
        self.links[link].send(now, bytes, |at, bytes| {
            *sequence += 1;
            queue.push(std::cmp::Reverse((at, *sequence, event(link, bytes))));
        });
    }

    /// The link of the other direction.
    pub(crate) fn back(&self, link: usize) -> usize {
        (link % self.hosts) * self.hosts + link / self.hosts
    }

    // The asker's host. ----------------------------------------------------------------------------------------------

    /// A grant has come for the lane of `link`.
    pub(crate) fn granted(&mut self, link: usize, bytes: Vec<u8>) -> Result<(), Failure> {
        let Some(grant) = intact(bytes).and_then(|bytes| Grant::parse(&bytes).ok()) else {
            return Ok(());
        };
        let now = Instant(self.now);
        if let Some(lane) = &mut self.direct[link] {
            if lane.asker.handle_grant(now, &grant) == direct::Heard::Excess {
                return Err(Failure::new(format!("link {link}: {grant:?} makes no sense")));
            }
        }
        self.serve_asker(link)
    }

    fn serve_asker(&mut self, link: usize) -> Result<(), Failure> {
        let now = Instant(self.now);
        self.fill(link);
        let ask = self.direct[link].as_mut().and_then(|lane| lane.asker.take_ask(now));
        if let Some(ask) = ask {
            self.put(link, ask.bytes().to_vec(), Event::Question);
        }
        while let Some(lane) = &mut self.direct[link] {
            let Some(told) = lane.asker.poll_told().or_else(|| lane.asker.poll_late(now)) else {
                break;
            };
            let Some(Asked { e, .. }) = lane.asked.remove(&told.number) else {
                return Err(Failure::new(format!("link {link}: {told:?} twice, or of nobody")));
            };
            match told.fate {
                Fate::Carried => lane.tally.carried += 1,
                Fate::Denied => lane.tally.denied += 1,
                Fate::Lost => lane.tally.lost += 1,
            }
            if self.chatty {
                println!("{:>10} {e} told {told:?}", self.now);
            }
            let carried = told.fate == Fate::Carried;
            self.endpoints[e]
                .asks
                .on_told(engines(now), carried, told.fate == Fate::Denied);
            if !carried {
                let sent = Sent::of_token(told.token);
                self.with_host(e, |engine, _, _| engine.handle_lost(&sent));
            }
            self.service(e)?;
        }
        self.arm_direct(link);
        // Who waited for room may find it.
        self.pump(link)
    }

    /// Fills what is granted.
    fn fill(&mut self, link: usize) {
        let now = self.now;
        let spec = self.links[link].spec;
        let Some(lane) = &mut self.direct[link] else {
            return;
        };
        let mut frames = Vec::new();
        if let Some(start) = lane.asker.take_start() {
            frames.push((EOF_VOID, start.bytes().to_vec()));
        }
        while let Some(window) = lane.asker.poll_window() {
            if lane.rng.chance(lane.spec.stall) {
                lane.stalls_until = now + 2 * WINDOW_STALL.0;
            }
            if now < lane.stalls_until {
                break;
            }
            let void = lane.rng.chance(lane.spec.void);
            let window = if void { window.void() } else { window };
            let asked = lane.asked.get(&window.number).filter(|_| window.token.is_some());
            let payload = asked.map(|asked| {
                let user = &self.endpoints[asked.e].user;
                user.gather(&asked.source).expect("it could be before").to_vec()
            });
            for index in 0..window.frames {
                let at = usize::from(index) * MAX_FRAME;
                let bytes = payload
                    .as_ref()
                    .map_or_else(|| vec![0xee], |all| all[at..at + MAX_FRAME].to_vec());
                frames.push((window.eof(index), bytes));
            }
            lane.asker.handle_filled(&window);
        }
        for (eof, bytes) in frames {
            lane.busy_until = lane.busy_until.max(now) + 1 + bytes.len() as u64 * spec.ns_per_kb / 1000;
            let at = lane.busy_until + spec.latency;
            if lane.burst == 0 && lane.rng.chance(lane.spec.burst) {
                lane.burst = 1 + lane.rng.below(100);
            }
            let lost = lane.burst > 0 || lane.rng.chance(lane.spec.loss);
            lane.burst = lane.burst.saturating_sub(1);
            if lost {
                continue;
            }
            let spoiled = lane.rng.chance(lane.spec.spoil);
            self.sequence += 1;
            let data = Data { eof, spoiled, bytes };
            self.queue
                .push(std::cmp::Reverse((at, self.sequence, Event::Frame(link, data))));
        }
    }

    // The granter's host. --------------------------------------------------------------------------------------------

    /// A train has come that asks for a window.
    pub(crate) fn asked(&mut self, link: usize, bytes: Vec<u8>) -> Result<(), Failure> {
        self.packets += 1;
        let Some(mut bytes) = intact(bytes) else {
            return Ok(());
        };
        let front = bytes.split_off(Request::LEN);
        let request = bytes.first_chunk().and_then(|bytes| Request::parse(bytes).ok());
        let Some(request) = request else {
            return Err(Failure::new(format!("link {link}: a request of no sense")));
        };
        if !self.grant(link, &request, front) {
            if let Some(lane) = &mut self.direct[link] {
                let _ = lane.granter.handle_request(&request);
            }
        }
        self.serve_granter(link)
    }

    /// Whether it was decided.
    fn grant(&mut self, link: usize, request: &Request, bytes: Vec<u8>) -> bool {
        let now = Instant(self.now);
        let len = bytes.len() + request.byte_len();
        let Ok(packet) = Packet::parse(&bytes, len) else {
            return false;
        };
        let e = (packet.bth.dest.value() - FIRST_QPN) as usize;
        let Some(lane) = &mut self.direct[link] else {
            return false;
        };
        let endpoint = &mut self.endpoints[e];
        if !endpoint.alive || !endpoint.engine.may_grant(&packet) || lane.rng.chance(lane.spec.denial) {
            return false;
        }
        let window = request.byte_len() as u32;
        let Some(rest) = packet.payload.len.checked_sub(window) else {
            return false;
        };
        let all = endpoint
            .user
            .resolve(Key(request.key), request.address, window + rest, Access::REMOTE_WRITE);
        let Ok(at) = all else {
            return false;
        };
        if !lane.granter.handle_request(request) {
            return true;
        }
        let page = |offset: u64, len| direct::Part {
            page: ((e as u64) << 48) | ((request.address + offset) / MAX_FRAME as u64),
            len,
        };
        let frames = u64::from(request.frames);
        let parts = (0..frames).map(|index| page(index * MAX_FRAME as u64, MAX_FRAME));
        let tail = (rest > 0).then(|| page(u64::from(window), rest as usize));
        let room = DESCRIPTORS - lane.ring.len() - lane.done.len();
        if !lane.granter.fits(request, parts, tail.into_iter(), room) {
            return true;
        }
        let number = request.number;
        for index in 0..usize::from(request.frames) {
            let at = at + index * MAX_FRAME;
            lane.ring.push_back(Slot::Page { number, e, at });
        }
        let start = packet.payload.offset;
        let brought = Brought {
            start,
            len: window,
            key: Key(request.key),
            address: request.address,
        };
        let parked = Parked { e, bytes, len, brought };
        if lane.parked.insert(number, parked).is_some() {
            endpoint.user.broke(format!("window {number} was granted twice"));
        }
        lane.granter.grant(now, request, tail.map(|part| part.page));
        lane.tally.granted += 1;
        endpoint.engine.handle_granted(&packet);
        true
    }

    /// The asker misses an answer.
    pub(crate) fn question(&mut self, link: usize, bytes: Vec<u8>) -> Result<(), Failure> {
        if let Some(ask) = intact(bytes).and_then(|bytes| Ask::parse(&bytes).ok()) {
            if let Some(lane) = &mut self.direct[link] {
                lane.granter.handle_ask(&ask);
            }
        }
        self.serve_granter(link)
    }

    /// A frame of the direct lane has come: the ring writes it where the next descriptor says.
    pub(crate) fn frame(&mut self, link: usize, data: Data) -> Result<(), Failure> {
        let Some(lane) = &mut self.direct[link] else {
            return Ok(());
        };
        let Some(slot) = lane.ring.pop_front() else {
            return Ok(());
        };
        if let Slot::Page { number, e, at } = slot {
            if !lane.parked.contains_key(&number) {
                return Err(Failure::new(format!(
                    "link {link}: a write to window {number}, which is over"
                )));
            }
            let to = &mut self.endpoints[e].user.memory[at..at + data.bytes.len()];
            match data.spoiled {
                true => to.fill(0xbd),
                false => to.copy_from_slice(&data.bytes),
            }
        }
        lane.done.push_back((slot, data));
        if !lane.polled {
            lane.polled = true;
            let at = self.now + lane.rng.below(20_000);
            self.at(at, Event::Poll(link));
        }
        Ok(())
    }

    /// The host looks what has come.
    pub(crate) fn poll(&mut self, link: usize) -> Result<(), Failure> {
        let now = Instant(self.now);
        if let Some(lane) = &mut self.direct[link] {
            lane.polled = false;
        }
        loop {
            let Some(lane) = &mut self.direct[link] else {
                return Ok(());
            };
            let Some((slot, data)) = lane.done.pop_front() else {
                break;
            };
            let arrival = Arrival {
                sof: SOF,
                eof: data.eof,
                len: data.bytes.len(),
                spoiled: data.spoiled,
            };
            let bytes: &[u8] = match slot {
                Slot::Own if data.bytes.len() == Start::LEN => &data.bytes,
                _ => &[],
            };
            let frame = lane.granter.handle_frame(now, arrival, bytes);
            lane.post_own();
            if let Frame::Last { number, whole } = frame {
                self.over(link, number, whole)?;
            }
        }
        self.serve_granter(link)
    }

    /// A window is over.
    fn over(&mut self, link: usize, number: u32, whole: bool) -> Result<(), Failure> {
        let Some(lane) = &mut self.direct[link] else {
            return Ok(());
        };
        let Some(parked) = lane.parked.remove(&number) else {
            return Err(Failure::new(format!("link {link}: window {number} is over twice")));
        };
        let busy = lane.rng.chance(lane.spec.busy);
        let e = parked.e;
        let packet = Packet::parse(&parked.bytes, parked.len).expect("it has been parsed before");
        if self.chatty {
            println!("{:>10} -> {e} window {number}, whole {whole}", self.now);
        }
        let mut carried_out = false;
        if self.endpoints[e].alive {
            if whole && !busy {
                self.finished = self.now;
                let user = &mut self.endpoints[e].user;
                user.packet = parked.bytes;
                user.brought = Some(parked.brought);
                carried_out = self.with_host(e, |engine, now, host| engine.handle_window(now, &packet, host));
                self.endpoints[e].user.brought = None;
            } else {
                self.endpoints[e].engine.handle_void_window();
            }
            self.drain(e)?;
            self.take_early(e)?;
            self.service(e)?;
        }
        if let Some(lane) = self.direct[link].as_mut().filter(|_| whole && !carried_out) {
            lane.granter.handle_undelivered(number);
        }
        Ok(())
    }

    fn serve_granter(&mut self, link: usize) -> Result<(), Failure> {
        let (now, back) = (Instant(self.now), self.back(link));
        let Some(lane) = &mut self.direct[link] else {
            return Ok(());
        };
        lane.granter.handle_timeout(now);
        lane.post_own();
        let stop = (lane.granter.is_broken() && !lane.stopped).then(|| lane.rng.below(1_000_000));
        lane.stopped |= stop.is_some();
        let grant = lane.granter.is_due().then(|| lane.granter.take_grant());
        if let Some(after) = stop {
            let at = self.now + after;
            self.at(at, Event::Restart(link));
        }
        if let Some(grant) = grant {
            self.put(back, grant.bytes().to_vec(), Event::Granted);
        }
        self.arm_direct(link);
        Ok(())
    }

    /// The ring has been stopped, and runs again.
    pub(crate) fn restart(&mut self, link: usize) -> Result<(), Failure> {
        let now = Instant(self.now);
        let Some(lane) = &mut self.direct[link] else {
            return Ok(());
        };
        lane.stopped = false;
        lane.ring.clear();
        lane.done.clear();
        lane.granter.handle_reset(now);
        lane.tally.resets += 1;
        let open: Vec<u32> = lane.parked.keys().copied().collect();
        for number in open {
            self.over(link, number, false)?;
        }
        self.serve_granter(link)
    }

    // Both. ----------------------------------------------------------------------------------------------------------

    fn arm_direct(&mut self, link: usize) {
        let Some(lane) = &mut self.direct[link] else {
            return;
        };
        let timers = [lane.asker.poll_timeout(), lane.granter.poll_timeout()];
        let stalls = (lane.stalls_until > self.now).then_some(lane.stalls_until);
        let due = timers.into_iter().flatten().map(|at| at.0).chain(stalls).min();
        let Some(due) = due.map(|at| at.max(self.now + 1_000)) else {
            return;
        };
        if lane.armed.is_none_or(|armed| armed > due) {
            lane.armed = Some(due);
            self.at(due, Event::Clock(link));
        }
    }

    /// Time has passed for the lane of `link`.
    pub(crate) fn clock(&mut self, link: usize) -> Result<(), Failure> {
        if let Some(lane) = &mut self.direct[link] {
            lane.armed = lane.armed.filter(|armed| *armed > self.now);
        }
        self.serve_granter(link)?;
        self.serve_asker(link)
    }

    /// Begins: the first grants are told.
    pub(crate) fn open_direct(&mut self) {
        for link in 0..self.direct.len() {
            if self.direct[link].is_some() {
                self.at(0, Event::Clock(link));
            }
        }
    }
}
