// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The cable's protocols: the two handshakes between two machines, and the two ways of cutting packets into frames.

use crate::input::Input;
use std::collections::VecDeque;
use tbip::direct::{Ask, Grant, Request};
use tbip::frame::{size_field, Ctrl, Eth, Head, Header, Kind, Roce, Seq};
use tbip::limits::{MAX_FRAME, MAX_PACKET, MAX_PAGES};
use tbip::login::{self, Login};
use tbip::native::{Abilities, Features};
use tbip::rail::{self, Rail};
use tbip::stock::frame::Segments;
use tbip::stock::reassembly::{self, Reassembler};
use tbip::time::Instant;
use tbip::train::{Arrival, Frame, Inbound, Train};
use tbip::wire::{Ends, HopId, Mac, Route, Uuid};
use tbip::{credit, native, stock};

/// Calls at most.
const CALLS: usize = 400;
/// Messages on their way to one end at most.
const QUEUE: usize = 16;

/// One run; the first byte says of what.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() & 3 {
        0 => handshake(&mut input, [0, 1].map(rail_machine), native::PROTOCOL),
        1 => handshake(&mut input, [0, 1].map(login_machine), stock::PROTOCOL),
        2 => packets(&mut input),
        _ => trains(&mut input),
    }
}

fn ends(side: u8) -> Ends {
    let uuids = [Uuid([1; 16]), Uuid([2; 16])];
    let [local, remote] = if side == 0 { uuids } else { [uuids[1], uuids[0]] };
    Ends {
        local,
        remote,
        route: Route(1),
    }
}

fn rail_machine(side: u8) -> RailMachine {
    let abilities = Abilities::ours(Mac([2 + side; 6]), 1500, 2, 64, Features(u32::from(side)));
    RailMachine {
        rail: Rail::new(
            rail::Config {
                ends: ends(side),
                abilities,
            },
            10 + u64::from(side),
        ),
        doing: None,
    }
}

fn login_machine(side: u8) -> LoginMachine {
    let config = login::Config {
        ends: ends(side),
        mac: Mac([2 + side; 6]),
        path: HopId(8),
    };
    LoginMachine {
        login: Login::new(config, u32::from(side)),
        doing: None,
    }
}

/// What both handshakes have in common.
trait Machine {
    fn start(&mut self, now: Instant);
    fn stop(&mut self, now: Instant);
    fn disturb(&mut self, now: Instant);
    fn message(&mut self, now: Instant, bytes: &[u8]);
    fn timeout(&mut self, now: Instant);
    /// The driver ends what it was doing.
    fn finish(&mut self, now: Instant, how: u8);
    /// The driver begins what is asked.
    fn begin(&mut self);
    fn transmit(&mut self, now: Instant) -> Option<Vec<u8>>;
    /// The peer's epoch as we know ours, for made-up messages.
    fn epoch(&self) -> u64;
}

struct RailMachine {
    rail: Rail,
    doing: Option<rail::Action>,
}

impl Machine for RailMachine {
    fn start(&mut self, now: Instant) {
        self.rail.start(now);
    }
    fn stop(&mut self, now: Instant) {
        self.rail.stop(now);
    }
    fn disturb(&mut self, now: Instant) {
        self.rail.handle_fault(now);
    }
    fn message(&mut self, now: Instant, bytes: &[u8]) {
        let _ = self.rail.handle_message(now, bytes);
    }
    fn timeout(&mut self, now: Instant) {
        self.rail.handle_timeout(now);
        let _ = self.rail.poll_timeout();
    }
    fn finish(&mut self, now: Instant, how: u8) {
        let rail = &mut self.rail;
        match self.doing.take() {
            Some(rail::Action::Allocate { lanes, .. }) => {
                assert!(usize::from(lanes) <= tbip::limits::MAX_LANES);
                let paths: Vec<HopId> = (0..u16::from(lanes)).map(|lane| HopId(8 + lane)).collect();
                rail.handle_allocated(now, (how != 0).then_some(&paths));
            }
            Some(rail::Action::Open(plan)) => {
                let _ = plan;
                rail.handle_opened(
                    now,
                    match how {
                        0 => Err(rail::OpenError::Other),
                        1 => Err(rail::OpenError::Busy(3)),
                        _ => Ok(()),
                    },
                );
            }
            Some(rail::Action::Close) => rail.handle_closed(now),
            None => {}
        }
    }
    fn begin(&mut self) {
        if let Some(action) = self.rail.poll_action() {
            assert!(self.doing.replace(action).is_none(), "two actions at once");
        }
        for _ in 0..4 {
            if self.rail.poll_event().is_none() {
                return;
            }
        }
        assert!(self.rail.poll_event().is_none(), "events without end");
    }
    fn transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.rail.poll_transmit(now).map(|message| message.as_bytes().to_vec())
    }
    fn epoch(&self) -> u64 {
        self.rail.epoch()
    }
}

struct LoginMachine {
    login: Login,
    doing: Option<login::Action>,
}

impl Machine for LoginMachine {
    fn start(&mut self, now: Instant) {
        self.login.start(now, HopId(8));
    }
    fn stop(&mut self, now: Instant) {
        self.login.stop(now);
    }
    fn disturb(&mut self, now: Instant) {
        self.login.handle_traffic(now);
    }
    fn message(&mut self, now: Instant, bytes: &[u8]) {
        let _ = self.login.handle_message(now, bytes);
    }
    fn timeout(&mut self, now: Instant) {
        self.login.handle_timeout(now);
        let _ = self.login.poll_timeout();
    }
    fn finish(&mut self, now: Instant, how: u8) {
        match self.doing.take() {
            Some(login::Action::Open { .. }) => self.login.handle_opened(now, how != 0),
            Some(login::Action::Close) => self.login.handle_closed(now),
            None => {}
        }
    }
    fn begin(&mut self) {
        if let Some(action) = self.login.poll_action() {
            assert!(self.doing.replace(action).is_none(), "two actions at once");
        }
    }
    fn transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.login.poll_transmit(now).map(|message| message.as_bytes().to_vec())
    }
    fn epoch(&self) -> u64 {
        0
    }
}

/// Two machines and what lies between them.
fn handshake<M: Machine>(input: &mut Input<'_>, mut machines: [M; 2], protocol: Uuid) {
    let mut queues: [VecDeque<Vec<u8>>; 2] = Default::default();
    let mut now = Instant(0);
    for machine in &mut machines {
        machine.start(now);
    }
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        let code = input.u8();
        let side = usize::from(code & 1);
        let arg = code >> 5;
        let machine = &mut machines[side];
        match code >> 1 & 15 {
            0 => machine.start(now),
            1 => machine.stop(now),
            2 => machine.disturb(now),
            3 | 4 => machine.finish(now, arg),
            5 => now.0 = now.0.saturating_add(u64::from(input.u16()) << (2 * arg)),
            6 => drop(queues[side].pop_front()),
            7 => {
                if let Some(message) = queues[side].front().cloned() {
                    queues[side].push_back(message);
                }
            }
            8 | 9 => {
                for _ in 0..arg {
                    let (at, value) = (usize::from(input.u8()), input.u8());
                    if let Some(byte) = queues[side].front_mut().and_then(|message| message.get_mut(at)) {
                        *byte ^= value;
                    }
                }
            }
            10 => {
                let made = made_up(input, side as u8, protocol, machine.epoch());
                machine.message(now, &made);
            }
            11 => {
                if let Some(message) = queues[side].front_mut() {
                    message.truncate(input.u8().into());
                }
            }
            _ => {
                if let Some(message) = queues[side].pop_front() {
                    machine.message(now, &message);
                }
            }
        }
        for (side, machine) in machines.iter_mut().enumerate() {
            machine.timeout(now);
            machine.begin();
            let mut sent = 0;
            while let Some(message) = machine.transmit(now) {
                sent += 1;
                assert!(sent < 5, "a storm of messages");
                let queue = &mut queues[1 - side];
                if queue.len() < QUEUE {
                    queue.push_back(message);
                }
            }
        }
    }
}

/// A message for `side` whose header is right and whose rest is anything.
fn made_up(input: &mut Input<'_>, side: u8, protocol: Uuid, epoch: u64) -> Vec<u8> {
    let ends = ends(side);
    let len = 68 + 4 * usize::from(input.u8() % 30);
    let mut bytes = vec![0; len];
    bytes[..12].copy_from_slice(&[0, 0, 0, 0x80, 1, 0, 0, 0, ((len - 12) / 4) as u8, 0, 0, 0]);
    bytes[12..28].copy_from_slice(&protocol.0);
    bytes[28..44].copy_from_slice(&ends.remote.0);
    bytes[44..60].copy_from_slice(&ends.local.0);
    bytes[60] = input.u8() & 7;
    let rest = input.take(len - 64);
    bytes[64..64 + rest.len()].copy_from_slice(rest);
    if len >= 96 && epoch != 0 && bytes[88] & 1 == 0 {
        bytes[88..96].copy_from_slice(&epoch.to_le_bytes());
    }
    bytes
}

/// Packets in stock frames, which are lost, doubled and spoiled.
fn packets(input: &mut Input<'_>) {
    let mut reassembler = Reassembler::new();
    // Bytes of the open packet.
    let mut open: Option<usize> = None;
    let mut pieces = 0;
    let mut frames: VecDeque<(Vec<u8>, usize)> = VecDeque::new();
    let mut id = 0;
    for _ in 0..CALLS {
        if input.is_empty() && frames.is_empty() {
            break;
        }
        let code = input.u8();
        match code & 7 {
            0 if frames.len() < 64 => {
                id += 1;
                let length = input.length() as usize;
                let Some(segments) = Segments::new(length, id) else {
                    assert!(length == 0 || length > MAX_PACKET);
                    continue;
                };
                let mut sum = 0;
                for segment in segments {
                    assert_eq!(segment.offset, sum);
                    let size = segment.header.size as usize;
                    sum += size;
                    frames.push_back((segment.header.bytes().to_vec(), 12 + size));
                }
                assert_eq!(sum, length);
                continue;
            }
            1 => drop(frames.pop_front()),
            2 => {
                let (at, value) = (usize::from(input.u8() % 12), input.u8());
                if let Some((header, _)) = frames.front_mut() {
                    header[at] ^= value;
                }
            }
            3 => {
                let len = usize::from(input.u16()) % (MAX_FRAME + 1);
                let count = usize::from(input.u8() & 15);
                let header = input.take(count).to_vec();
                frames.push_front((header, len));
            }
            4 => {
                if let Some(front) = frames.front().cloned() {
                    frames.push_front(front);
                }
            }
            5 if code & 0xf8 == 0 => {
                reassembler.reset();
                open = None;
            }
            _ => {}
        }
        let Some((bytes, len)) = frames.pop_front() else {
            continue;
        };
        let arrival = reassembly::Arrival {
            len,
            crc_error: code >= 0xfc,
            overrun: code == 0xfb,
        };
        let verdict = reassembler.handle_frame(&bytes, arrival);
        if verdict.abort.is_some() {
            assert!(open.take().is_some(), "nothing to abort");
        }
        if let reassembly::Frame::Piece {
            offset,
            len: size,
            last,
        } = verdict.frame
        {
            assert!(size > 0 && 12 + size <= len, "a piece longer than its frame");
            assert_eq!(offset, open.unwrap_or(0), "a hole in a packet");
            assert!(offset + size <= MAX_PACKET, "a packet too long");
            assert_eq!(offset == 0, open.is_none());
            pieces = if offset == 0 { 0 } else { pieces + 1 };
            let index = stock::frame::Header::parse(&bytes).map(|header| header.index);
            assert_eq!(index.ok(), Some(pieces), "a frame out of place");
            open = (!last).then_some(offset + size);
        }
    }
}

/// Trains on one lane, whose frames are lost, doubled and spoiled; credit comes back sometimes.
fn trains(input: &mut Input<'_>) {
    let first = Seq(input.u32());
    let depth = u16::from(input.u8()).max(40);
    let mut lane = Inbound::new(first, depth);
    let mut spender = credit::Spender::new(first, depth);
    let mut frames: VecDeque<(Vec<u8>, Arrival)> = VecDeque::new();
    let (mut held, mut held_bytes) = (0u32, 0u32);
    let mut now = Instant(0);
    for _ in 0..CALLS {
        if input.is_empty() && frames.is_empty() {
            break;
        }
        let code = input.u8();
        match code & 7 {
            0 if frames.len() < 64 => send(input, code, now, &mut spender, &mut frames),
            1 => drop(frames.pop_front()),
            2 => {
                let (at, value) = (usize::from(input.u8() & 31), input.u8());
                match frames.front_mut() {
                    Some((_, arrival)) if at == 0 => arrival.eof ^= value & 15,
                    Some((_, arrival)) if at == 1 => arrival.sof ^= value & 15,
                    Some((_, arrival)) if at == 2 => arrival.spoiled = true,
                    Some((_, arrival)) if at == 3 => arrival.len = 1 + usize::from(value) * 16,
                    Some((bytes, _)) => {
                        if let Some(byte) = bytes.get_mut(at - 4) {
                            *byte ^= value;
                        }
                    }
                    None => {}
                }
            }
            3 => {
                let count = usize::from(input.u8() & 63);
                let bytes = input.take(count).to_vec();
                let [sof, eof] = [code >> 7 ^ 1, input.u8() & 15];
                let len = bytes.len().max(1);
                frames.push_front((
                    bytes,
                    Arrival {
                        sof,
                        eof,
                        len,
                        spoiled: false,
                    },
                ));
            }
            4 => {
                if let Some(front) = frames.front().cloned() {
                    frames.push_front(front);
                }
            }
            5 => {
                lane.handle_posted(u32::from(code >> 3));
                let due = lane.credit_due();
                if due || code >= 0x80 {
                    spender.handle_credit(lane.credit());
                }
            }
            6 => {
                now.0 = now.0.saturating_add(u64::from(input.u16()) << 8);
                let _ = spender.poll_timeout();
                if let Some(seq) = spender.take_probe(now) {
                    let mut train = Train::new(Kind::Ctrl, seq, 4, 0, 0, seq);
                    train.header.probe = true;
                    frames.push_back(head(&train));
                }
            }
            _ => {}
        }
        let Some((bytes, arrival)) = frames.pop_front() else {
            continue;
        };
        let verdict = lane.handle_frame(&bytes, arrival);
        if verdict.drop_held.is_some() {
            // A gap is reported even if it hits nothing.
            (held, held_bytes) = (0, 0);
        }
        match verdict.frame {
            Frame::Page => {
                held += 1;
                held_bytes += arrival.len as u32;
                assert!(held as usize <= MAX_PAGES, "more pages than a train has");
            }
            Frame::Train(header) => {
                assert_eq!((u32::from(header.pages), header.page_bytes), (held, held_bytes));
                (held, held_bytes) = (0, 0);
                look_into(&header, &bytes);
            }
            Frame::Dropped(_) => {}
        }
        assert_eq!(lane.held(), held);
        if let Some(limit) = verdict.credit {
            spender.handle_credit(limit);
        }
    }
}

/// A train whose frames go onto the ring.
fn send(
    input: &mut Input<'_>,
    code: u8,
    now: Instant,
    spender: &mut credit::Spender,
    frames: &mut VecDeque<(Vec<u8>, Arrival)>,
) {
    let pages = (code >> 3) % (MAX_PAGES as u8 + 1);
    let Some(seq) = spender.take(now, Train::frames(pages)) else {
        return;
    };
    let last = 1 + u32::from(input.u16()) % MAX_FRAME as u32;
    let full = (u32::from(pages).saturating_sub(1)) * MAX_FRAME as u32;
    let page_bytes = if pages == 0 { 0 } else { full + last };
    let kind = input.pick(&[Kind::Eth, Kind::Roce, Kind::Ctrl]);
    let inline_len = input.length() as u16 % (MAX_FRAME as u16 - 16);
    let train = Train::new(kind, seq, inline_len, pages, page_bytes, Seq(input.u32()));
    for index in 0..pages {
        let len = if index + 1 == pages { last as usize } else { MAX_FRAME };
        assert_eq!(tbip::frame::frame_len(size_field(len)), len);
        frames.push_back((
            Vec::new(),
            Arrival {
                sof: 1,
                eof: train.page_eof(index),
                len,
                spoiled: false,
            },
        ));
    }
    frames.push_back(head(&train));
}

fn head(train: &Train) -> (Vec<u8>, Arrival) {
    let mut bytes = train.header.bytes().to_vec();
    bytes.resize(64, 0);
    let len = Header::LEN + usize::from(train.header.inline_len);
    let arrival = Arrival {
        sof: 1,
        eof: 1,
        len,
        spoiled: false,
    };
    (bytes, arrival)
}

/// What a head carries is understood or refused, and what is understood is written the same way.
fn look_into(header: &Header, bytes: &[u8]) {
    match Head::parse(header, bytes) {
        Ok(Head::Eth { .. }) | Ok(Head::Roce { .. }) | Ok(Head::Ctrl { .. }) | Err(_) => {}
    }
    let rest = bytes.get(Header::LEN..).unwrap_or(&[]);
    if let Some(first) = rest.first_chunk() {
        if let Ok(eth) = Eth::parse(first, header) {
            let _ = eth.bytes();
        }
    }
    if let Some(first) = rest.first_chunk() {
        if let Ok(roce) = Roce::parse(first, None, header) {
            let _ = roce.bytes();
        }
    }
    if let Some(Ok(request)) = rest.first_chunk().map(Request::parse) {
        assert_eq!(Request::parse(&request.bytes()), Ok(request));
    }
    if let (Ok(grant), Ok(ask)) = (Grant::parse(rest), Ask::parse(rest)) {
        assert_eq!(Grant::parse(&grant.bytes()), Ok(grant));
        assert_eq!(Ask::parse(&ask.bytes()), Ok(ask));
    }
    if let Some(first) = rest.first_chunk() {
        let _ = Ctrl::parse(first).bytes();
    }
}
