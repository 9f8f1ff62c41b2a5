// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA on a lane: two engines that send runs, trains whose frames are lost, doubled, spoiled and made up, and the way
//! from a frame to an engine as the module has it: `Inbound`, pages held, the head's metadata, `Packet::parse`.

use crate::input::Input;
use crate::side::{OnWire, Side};
use roce::ends::Ends;
use roce::lost::{Sent, What};
use roce::psn::Psn;
use roce::qp::{QpKind, State};
use roce::time::Instant;
use roce::wire::udp::Addresses;
use roce::wire::{Bth, Packet};
use roce::wqe::Room;
use tbip::cut::cut_run;
use tbip::frame::{Account, Head, Header, Kind, Roce, Seq, EOF_HEAD, SOF};
use tbip::ledger::{Ledger, Report};
use tbip::limits::{MAX_FRAME, MAX_PAGES};
use tbip::train::{Arrival, Frame, Inbound, Train};

/// Calls at most.
const CALLS: usize = 300;
/// Frames on their way to one end at most.
const QUEUE: usize = 128;
/// What a train has room for.
const ROOM: Room = Room {
    packets: u32::MAX,
    bytes: 1 << 16,
    lanes: 1,
};
const NUMBERS: [u32; 2] = [0x11, 0x12];

/// A frame on its way. Of page frames only the length is looked at.
type OnCable = (Vec<u8>, Arrival);

/// What comes to one end.
struct Lane {
    inbound: Inbound,
    frames: Vec<OnCable>,
    /// Lengths of the pages of the train that is coming.
    held: Vec<usize>,
    /// The next frame's.
    next: Seq,
    /// The numbers of the receiving end's path.
    ends: Ends,
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.pick(&[QpKind::Rc, QpKind::Rc, QpKind::Rc, QpKind::Uc]);
    let psns = [0, 1].map(|_| Psn::new(input.pick(&[0, 0xff_fffc, 77, 0x7f_fffe])));
    let [one, two] = NUMBERS;
    let mut sides = [
        Side::new(&mut input, kind, one, two, (psns[1], psns[0])),
        Side::new(&mut input, kind, two, one, (psns[0], psns[1])),
    ];
    let first = Seq(input.u32());
    let mut lanes = [0, 1].map(|end| Lane::new(first, &sides[end], &sides[1 - end], end));
    for side in &mut sides {
        side.room = ROOM;
    }
    let mut now = Instant(0);
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        let code = input.u8();
        let here = usize::from(code & 1);
        step(code >> 1, here, &mut sides, &mut lanes, &mut input, &mut now);
    }
    for side in &mut sides {
        side.finish(now);
    }
}

fn step(code: u8, here: usize, sides: &mut [Side; 2], lanes: &mut [Lane; 2], input: &mut Input<'_>, now: &mut Instant) {
    let (arg, there) = (code >> 4, 1 - here);
    match code & 15 {
        0 if arg >= 4 => {
            // The lane says that something is lost, whether it is or not.
            let side = &mut sides[here];
            let known = side.engine.query();
            let (what, of) = match arg {
                4 | 5 => (What::Request, known.sq_psn),
                6 => (What::Response, known.rq_psn),
                _ => (What::Answer, known.rq_psn),
            };
            let psn = of.plus(u32::from(input.u8()).wrapping_neg());
            let packets = 1 + u32::from(input.u8());
            let from = side.number();
            side.engine.handle_lost(&Sent {
                from,
                what,
                psn,
                packets,
            });
        }
        0 => sides[here].post_send(input),
        1 | 2 => {
            sides[here].post_send(input);
            drive(sides, lanes, here, *now);
        }
        3 | 4 => sides[here].post_recv(input),
        5 => arrive(sides, lanes, here, 1 + usize::from(arg) * 3, *now),
        6 | 7 => {
            for _ in 0..=arg {
                for end in [here, there] {
                    drive(sides, lanes, end, *now);
                    arrive(sides, lanes, 1 - end, QUEUE, *now);
                }
            }
        }
        8 => drive(sides, lanes, here, *now),
        9 | 10 => lanes[here].spoil(arg, input),
        11 => {
            now.0 = now.0.saturating_add(u64::from(input.u16()) << (2 * arg));
            sides[here].timeout(*now);
            drive(sides, lanes, here, *now);
        }
        12 => {
            let psn = sides[here].engine.query().rq_psn;
            lanes[here].make_up(arg, NUMBERS[here], psn, input);
        }
        13 if arg == 0 => {
            let side = &mut sides[here];
            side.modify_any(input, *now);
        }
        13 if arg == 1 => sides[here].connect(input, *now),
        13 => {
            let region = &mut sides[here].user.regions[usize::from(arg & 3)];
            region.valid = !region.valid;
        }
        14 => {
            sides[here].completions(usize::from(arg) + 1);
        }
        _ => report(input),
    }
}

/// What an end has to send goes onto the cable.
fn drive(sides: &mut [Side; 2], lanes: &mut [Lane; 2], here: usize, now: Instant) {
    let mut out = Vec::new();
    sides[here].drive(now, &mut out);
    let mtu = sides[here].engine.path_mtu().bytes();
    let ends = lanes[here].ends.out;
    for packet in out {
        lanes[1 - here].send(&packet, mtu, ends);
    }
}

/// The oldest frames arrive here; what the engine answers goes onto the cable.
fn arrive(sides: &mut [Side; 2], lanes: &mut [Lane; 2], here: usize, count: usize, now: Instant) {
    let count = lanes[here].frames.len().min(count);
    let frames: Vec<OnCable> = lanes[here].frames.drain(..count).collect();
    let mut out = Vec::new();
    for frame in frames {
        if let Some((front, pieces)) = lanes[here].receive(&frame) {
            let len = pieces.iter().sum();
            sides[here].receive_train(now, &front, &pieces, len, &mut out);
            sides[here].completions(4);
        }
    }
    // A tombstone answers in packets, by another way.
    assert!(out.len() <= count, "more answers than frames");
}

impl Lane {
    fn new(first: Seq, here: &Side, there: &Side, end: usize) -> Self {
        let address = |end: usize| [10, 90, 0, 1 + end as u8];
        let addresses = Addresses::V4 {
            src: address(end),
            dst: address(1 - end),
        };
        Self {
            inbound: Inbound::new(first, 511),
            frames: Vec::new(),
            held: Vec::new(),
            next: first,
            ends: Ends::new(&addresses, here.number(), there.number()),
        }
    }

    /// A train as `net/tx/run.rs` posts it.
    fn send(&mut self, packet: &OnWire, mtu: u32, ends: u64) {
        let headers = packet.head.len();
        let payload = packet.len - headers;
        let (inline, pages) = cut_run(payload, 0);
        assert!(pages <= MAX_PAGES, "a train too long");
        let meta = Roce {
            packets: (payload as u32).div_ceil(mtu).max(1) as u16,
            mtu: mtu as u16,
            header_len: headers as u16,
            ends,
            account: Some(Account::default()),
            window: None,
        };
        let inline_len = (Roce::LEN + headers + inline) as u16;
        let in_pages = (payload - inline) as u32;
        let train = Train::new(Kind::Roce, self.next, inline_len, pages as u8, in_pages, self.next);
        let mut head = train.header.bytes().to_vec();
        head.extend(meta.bytes());
        head.extend(&packet.head);
        head.resize(Header::LEN + usize::from(inline_len), 0);
        if self.frames.len() + pages >= QUEUE {
            return;
        }
        for index in 0..pages {
            let len = (in_pages as usize - index * MAX_FRAME).min(MAX_FRAME);
            self.frames
                .push((Vec::new(), arrival(train.page_eof(index as u8), len)));
        }
        self.next = self.next.plus(Train::frames(pages as u8));
        let len = head.len();
        self.frames.push((head, arrival(EOF_HEAD, len)));
    }

    /// A frame comes. A train for a queue pair, if it is the last of one: its front, and how much each of its pieces
    /// has.
    fn receive(&mut self, (bytes, arrival): &OnCable) -> Option<(Vec<u8>, Vec<usize>)> {
        let is_head = arrival.eof == EOF_HEAD && !arrival.spoiled;
        let verdict = self.inbound.handle_frame(if is_head { bytes } else { &[] }, *arrival);
        if verdict.drop_held.is_some() {
            self.held.clear();
        }
        let header = match verdict.frame {
            Frame::Page => {
                self.held.push(arrival.len);
                assert!(self.held.len() <= MAX_PAGES, "more pages than a train has");
                return None;
            }
            Frame::Train(header) => header,
            Frame::Dropped(_) => return None,
        };
        let pages = std::mem::take(&mut self.held);
        let in_pages: usize = pages.iter().sum();
        assert_eq!(
            (usize::from(header.pages), header.page_bytes as usize),
            (pages.len(), in_pages),
            "a train that is not whole"
        );
        let (meta, front) = match Head::parse(&header, bytes) {
            Ok(Head::Roce(meta, front)) if meta.window.is_none() => (meta, front),
            Ok(Head::Ctrl(_, rest)) => {
                look_into(rest);
                return None;
            }
            _ => return None,
        };
        // What the module takes as the front, and as the train's length.
        let end = Header::LEN + usize::from(header.inline_len);
        assert_eq!(front, &bytes[Header::LEN + Roce::LEN..end]);
        let len = front.len() + in_pages;
        assert_eq!(header.total(), Roce::LEN + len, "lengths that differ");
        let (packets, mtu) = (usize::from(meta.packets), usize::from(meta.mtu));
        let payload = len - usize::from(meta.header_len);
        assert!(payload <= packets * mtu && (packets == 1 || payload > (packets - 1) * mtu));
        if meta.ends != self.ends.back {
            return None;
        }
        Some((front.to_vec(), [vec![front.len()], pages].concat()))
    }

    /// Something happens to a frame on its way.
    fn spoil(&mut self, arg: u8, input: &mut Input<'_>) {
        if self.frames.is_empty() {
            return;
        }
        let place = usize::from(input.u8()) % self.frames.len();
        match arg {
            0 => drop(self.frames.remove(place)),
            1 => self.frames.swap(0, place),
            2 => self.frames.insert(place, self.frames[place].clone()),
            3 => {
                let (bytes, arrival) = &mut self.frames[place];
                arrival.len = 1 + usize::from(input.u16()) % MAX_FRAME;
                if !bytes.is_empty() {
                    bytes.resize(arrival.len, 0);
                }
            }
            4 => self.frames[place].1.spoiled = true,
            5 => self.frames[place].1.eof ^= input.u8() & 15,
            _ => {
                let (at, value) = (usize::from(input.u8()), input.u8());
                if let Some(byte) = self.frames[place].0.get_mut(at) {
                    *byte ^= value;
                }
            }
        }
    }

    /// A train out of nothing that counts as the next: its frames and lengths agree, as a rule, and the rest is
    /// anything.
    fn make_up(&mut self, arg: u8, number: u32, psn: Psn, input: &mut Input<'_>) {
        let length = usize::from(input.u8()) % 80;
        let mut front = input.take(length).to_vec();
        front.resize(length, 0);
        if front.len() >= Bth::LEN {
            // The low byte of the PSN says how far it is from the one that is expected.
            let near = i32::from(front[11] as i8) as u32 & 0xff_ffff;
            front[1] &= 0x0f;
            front[5..8].copy_from_slice(&number.to_be_bytes()[1..]);
            front[8] = front[8] & 0x80 | u8::from(arg & 1 == 0);
            front[9..12].copy_from_slice(&psn.plus(near).value().to_be_bytes()[1..]);
        }
        let payload = input.length() as usize % (1 << 17);
        let pages = (payload.div_ceil(MAX_FRAME)).min(MAX_PAGES);
        let in_pages = payload.min(pages * MAX_FRAME);
        let mtu = input.pick(&[256u16, 512, 1024, 2048, 4096, 1]);
        let header_len = if arg & 2 == 0 { length } else { usize::from(input.u8()) };
        let total = (length + in_pages).saturating_sub(header_len);
        let meta = Roce {
            packets: total.div_ceil(usize::from(mtu)).max(1) as u16,
            mtu,
            header_len: header_len as u16,
            ends: if arg == 7 { input.u64() } else { self.ends.back },
            account: Some(Account::default()),
            window: None,
        };
        let inline_len = (Roce::LEN + length) as u16;
        let train = Train::new(
            Kind::Roce,
            self.next,
            inline_len,
            pages as u8,
            in_pages as u32,
            self.next,
        );
        let mut head = train.header.bytes().to_vec();
        head.extend(meta.bytes());
        head.extend(front);
        if arg & 4 != 0 {
            let (at, value) = (usize::from(input.u8()) % head.len(), input.u8());
            head[at] ^= value;
        }
        self.next = self.next.plus(Train::frames(pages as u8));
        for index in 0..pages {
            let len = (in_pages - index * MAX_FRAME).min(MAX_FRAME);
            self.frames
                .push((Vec::new(), arrival(train.page_eof(index as u8), len)));
        }
        let len = head.len();
        self.frames.push((head, arrival(EOF_HEAD, len)));
    }
}

fn arrival(eof: u8, len: usize) -> Arrival {
    Arrival {
        sof: SOF,
        eof,
        len,
        spoiled: false,
    }
}

/// A report is understood or refused, and what is understood is written the same way.
fn look_into(bytes: &[u8]) -> Option<Report> {
    let report = Report::parse(bytes).ok()?;
    let (again, len) = report.bytes();
    assert!(len <= bytes.len() && Report::parse(&again[..len]) == Ok(report));
    let mut from = None;
    for gap in report.gaps() {
        let wide = gap.end.offset(gap.start) > 0 && report.upto.offset(gap.end) >= 0;
        assert!(
            wide && from.is_none_or(|end| gap.start.offset(end) > 0),
            "gaps that make no sense"
        );
        from = Some(gap.end);
    }
    Some(report)
}

/// Trains that were sent, and reports of them that say anything.
fn report(input: &mut Input<'_>) {
    let first = Seq(input.u32());
    let mut ledger = Ledger::new(first, vec![None; 16]);
    let (mut next, mut sent, mut told) = (first, 0, 0);
    let mut now = tbip::time::Instant(0);
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        now.0 += 1000;
        let code = input.u8();
        match code & 3 {
            0 | 1 => {
                let last = next.plus(u32::from(code >> 2) % 18);
                let room = ledger.has_room();
                assert_eq!(ledger.handle_sent(now, next, last, sent), room);
                sent += u32::from(room);
                next = last.plus(1);
                if !room {
                    ledger.handle_untold(next);
                }
            }
            2 => {
                let mut bytes = Vec::new();
                bytes.extend((first.plus(input.u8().into())).0.to_le_bytes());
                bytes.extend([code >> 2 & 3, 0, 0, 0]);
                for _ in 0..code >> 2 & 3 {
                    bytes.extend(first.plus(input.u8().into()).0.to_le_bytes());
                    bytes.extend(first.plus(input.u8().into()).0.to_le_bytes());
                }
                if let Some(report) = look_into(&bytes) {
                    ledger.handle_report(now, &report);
                }
            }
            _ => ledger.handle_carried(now, first.plus(input.u8().into())),
        }
        while let Some(one) = ledger.poll_told() {
            assert_eq!(one.token, told, "told out of order");
            told += 1;
        }
        assert!(told <= sent, "told of what was not sent");
    }
    ledger.handle_dead();
    while let Some(one) = ledger.poll_told() {
        assert_eq!((one.token, one.carried), (told, false));
        told += 1;
    }
    assert_eq!(told, sent, "a train of which nobody was told");
}

impl Side {
    /// A train arrives: what is behind the BTH's place in its pieces, `len` bytes in all, of which `front` has the
    /// first.
    fn receive_train(&mut self, now: Instant, front: &[u8], pieces: &[usize], len: usize, to: &mut Vec<OnWire>) {
        let Ok(parsed) = Packet::parse(front, len) else {
            return;
        };
        let end = parsed.payload.offset as usize + parsed.payload.len as usize + usize::from(parsed.bth.pad);
        assert_eq!(end, len, "payload and headers are not the train");
        if !parsed.bth.run {
            return;
        }
        if parsed.bth.dest == self.number() && self.engine.query().state != State::Reset {
            self.take(now, &parsed, pieces);
        } else if let Some(answer) = self.answer_of_dead(&parsed) {
            to.push(answer);
        }
    }
}
