// SPDX-License-Identifier: GPL-2.0 OR MIT
//! An engine between a hostile peer and a capricious user: any packet, any call, any order.
//!
//! It must not panic (a debug build also traps every overflow), must do bounded work per call, and
//! must give every work request it took back exactly once.

use roce::completion::Queue;
use roce::keys::{Access, Key};
use roce::lost::Sent;
use roce::psn::{Psn, Qpn};
use roce::qp::{Modify, Mtu, Posted, Qp, QpConfig, QpKind, ReadResource, SendMessage, Slots, State};
use roce::time::Instant;
use roce::wire::{HeaderBuf, Packet};
use roce::wqe::{
    AtomicOp, Datagram, Early, Fault, FlushKind, Host, RecvWqe, Room, SendOp, SendWqe, Source, Span, Target, Transmit,
};
use sim::rng::Rng;

const RUNS: u64 = if cfg!(debug_assertions) { 300 } else { 3000 };
const CALLS: u64 = 1500;

/// A host that answers at random and keeps the books.
struct Chaos {
    rng: Rng,
    sends: Vec<bool>,
    recvs: Vec<bool>,
    /// Local operations carried out.
    locals: Vec<bool>,
    calls: u64,
    /// Nothing more is posted.
    dry: bool,
}

impl Chaos {
    fn fault(&mut self) -> Fault {
        use Fault::{LocalLength, LocalProtection, LocalQpOp, RemoteAccess, RemoteInvalid};
        self.rng
            .pick(&[LocalProtection, LocalLength, LocalQpOp, RemoteAccess, RemoteInvalid])
    }

    fn is_kept(&mut self) -> bool {
        self.rng.chance(0.7)
    }

    fn mostly_ok(&mut self) -> Result<(), Fault> {
        self.calls += 1;
        if self.rng.chance(0.01) {
            Err(self.fault())
        } else {
            Ok(())
        }
    }

    fn length(&mut self) -> u32 {
        match self.rng.below(8) {
            0 => 0,
            1 => self.rng.next() as u32,
            2 => 1 << 31,
            _ => self.rng.below(20_000) as u32,
        }
    }
}

impl Host for Chaos {
    fn keep(&mut self, _: Early) -> bool {
        self.is_kept()
    }
    fn take_send(&mut self) -> Option<SendWqe> {
        self.calls += 1;
        if self.dry || self.rng.chance(0.5) {
            return None;
        }
        let op = self.rng.pick(&OPS);
        let eight = matches!(op, SendOp::Atomic(_) | SendOp::AtomicWrite) && self.rng.chance(0.9);
        self.sends.push(false);
        self.locals.push(false);
        let slot = self.sends.len() as u32 - 1;
        Some(SendWqe {
            wr_id: u64::from(slot),
            op,
            length: if eight { 8 } else { self.length() },
            datagram: Datagram {
                dest: Qpn::new(0x12),
                qkey: self.rng.next() as u32,
                ah: 1,
            },
            remote_va: self.rng.next(),
            rkey: Key(self.rng.next() as u32),
            imm: [1, 2, 3, 4],
            signalled: self.rng.chance(0.5),
            solicited: self.rng.chance(0.5),
            fence: self.rng.chance(0.1),
            slot,
            fault: self.mostly_ok().err(),
        })
    }

    fn take_recv(&mut self) -> Option<RecvWqe> {
        self.calls += 1;
        if self.dry || self.rng.chance(0.3) {
            return None;
        }
        self.recvs.push(false);
        let slot = self.recvs.len() as u32 - 1;
        Some(RecvWqe {
            wr_id: u64::from(slot),
            length: self.length(),
            slot,
            fault: self.mostly_ok().err(),
        })
    }

    fn check(&mut self, _: Key, _: u64, length: u32, _: Access) -> Result<(), Fault> {
        assert!(length > 0);
        self.mostly_ok()
    }

    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        assert!(payload.len > 0);
        let (Target::Recv { slot, .. } | Target::ReadResult { slot, .. }) = to else {
            return self.mostly_ok();
        };
        let books = if matches!(to, Target::Recv { .. }) {
            &self.recvs
        } else {
            &self.sends
        };
        assert!(!books[slot as usize], "placed into a completed work request");
        self.mostly_ok()
    }

    fn place_grh(&mut self, slot: u32) -> Result<(), Fault> {
        assert!(!self.recvs[slot as usize], "GRH placed into a completed receive");
        self.mostly_ok()
    }

    fn atomic(&mut self, _: AtomicOp, _: Key, va: u64) -> Result<u64, Fault> {
        assert_eq!(va % 8, 0);
        self.mostly_ok().map(|()| 7)
    }

    fn atomic_result(&mut self, slot: u32, _: u64) -> Result<(), Fault> {
        assert!(!self.sends[slot as usize], "result for a completed atomic");
        self.mostly_ok()
    }

    fn atomic_write(&mut self, _: Key, va: u64, payload: Span) -> Result<(), Fault> {
        assert_eq!((va % 8, payload.len), (0, 8));
        self.mostly_ok()
    }

    fn flush(&mut self, _: Key, _: u64, _: u32, _: FlushKind) -> Result<(), Fault> {
        self.mostly_ok()
    }

    fn invalidate(&mut self, _: Key) -> Result<(), Fault> {
        self.mostly_ok()
    }

    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        let slot = slot as usize;
        assert!(!self.sends[slot] && !self.locals[slot], "carried out twice");
        self.locals[slot] = true;
        self.mostly_ok()
    }
}

/// Every operation there is.
const OPS: [SendOp; 13] = [
    SendOp::Send,
    SendOp::Send,
    SendOp::SendImm,
    SendOp::Write,
    SendOp::WriteImm,
    SendOp::Read,
    SendOp::SendInvalidate { key: Key(3) },
    SendOp::Atomic(AtomicOp::FetchAdd { add: 1 }),
    SendOp::Atomic(AtomicOp::CompareSwap { compare: 1, swap: 2 }),
    SendOp::AtomicWrite,
    SendOp::Flush(FlushKind { placement: 1, level: 0 }),
    SendOp::LocalInvalidate,
    SendOp::Register,
];

type Engine = Qp<Slots<Vec<SendMessage>, Vec<ReadResource>>>;

fn engine(rng: &mut Rng) -> Engine {
    let slots = Slots {
        sends: vec![SendMessage::EMPTY; rng.range(0, 9) as usize],
        reads: vec![ReadResource::EMPTY; rng.range(0, 5) as usize],
    };
    let config = QpConfig {
        kind: rng.pick(&[QpKind::Rc, QpKind::Rc, QpKind::Rc, QpKind::Uc, QpKind::Ud, QpKind::Gsi]),
        srq: rng.chance(0.2),
        window_packets: rng.range(0, 140) as u32,
        read_window_packets: rng.range(0, 300) as u32,
        ..QpConfig::new(Qpn::new(0x11))
    };
    Qp::new(config, slots)
}

fn attributes(rng: &mut Rng, state: Option<State>) -> Modify {
    Modify {
        state,
        path_mtu: Mtu::from_enum(rng.range(1, 5) as u32),
        dest_qpn: Some(Qpn::new(0x12)),
        rq_psn: Some(Psn::new(rng.pick(&[0, 0xff_fffe, 77]))),
        sq_psn: Some(Psn::new(rng.pick(&[0, 0xff_fffe, 99]))),
        max_rd_atomic: Some(rng.below(5) as u8),
        max_dest_rd_atomic: Some(rng.below(4) as u8),
        min_rnr_timer: Some(rng.below(32) as u8),
        timeout: Some(rng.below(12) as u8),
        retry_cnt: Some(rng.below(8) as u8),
        rnr_retry: Some(rng.below(8) as u8),
        access: Some(Access(rng.below(16) as u32 | 0x300)),
        qkey: Some(0x11),
        sqd_event: rng.chance(0.5),
    }
}

/// Bytes that look like a packet near the PSNs in use, or like nothing at all.
fn packet_bytes(rng: &mut Rng, engine: &Engine) -> Vec<u8> {
    let mut bytes = vec![0; rng.below(90) as usize];
    rng.fill(&mut bytes);
    if bytes.len() >= 12 && rng.chance(0.95) {
        bytes[0] = rng.below(0x1e) as u8;
        match engine.config().kind {
            _ if rng.chance(0.05) => bytes[0] = rng.next() as u8,
            QpKind::Rc => {}
            QpKind::Uc => bytes[0] = 0x20 | rng.below(0x0d) as u8,
            QpKind::Ud | QpKind::Gsi => {
                bytes[0] = rng.pick(&[0x64, 0x65]);
                let qkey = if engine.config().kind == QpKind::Gsi {
                    0x8001_0000
                } else {
                    0x11
                };
                if bytes.len() >= 16 {
                    bytes[12..16].copy_from_slice(&u32::to_be_bytes(qkey));
                }
            }
        }
        if matches!(bytes[0], 0x13 | 0x14 | 0x1d) && bytes.len() >= 20 {
            bytes[19] &= 0xf8;
        }
        bytes[1] &= 0xb0;
        let attrs = engine.query();
        let base = if rng.chance(0.6) { attrs.rq_psn } else { attrs.sq_psn };
        let near = rng.pick(&[0, 0, 0, 0, 0, 1, 2, 0xff_ffff, 0xff_fffe, 0xff_fff0, 1 << 23, 5000]);
        let psn = base.plus(near).value().to_be_bytes();
        bytes[9..12].copy_from_slice(&psn[1..]);
        if bytes.len() >= 16 && bytes[0] == 0x11 && rng.chance(0.8) {
            bytes[12] = rng.pick(&[0x1f, 0x1f, 0x1f, 0x21, 0x60, 0x60, 0x62]);
        }
        if bytes.len() >= 28 && rng.chance(0.7) {
            let length = rng.pick(&[0, 1, 8, 300, 4096, 1 << 20, 1 << 31]) as u32;
            bytes[24..28].copy_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

#[test]
fn no_packet_and_no_order_of_calls_breaks_an_engine() {
    for seed in 0..RUNS {
        let mut rng = Rng::new(seed);
        let mut host = Chaos {
            rng: rng.fork(),
            sends: Vec::new(),
            recvs: Vec::new(),
            locals: Vec::new(),
            calls: 0,
            dry: false,
        };
        let mut engine = engine(&mut rng);
        let mut now = Instant(0);
        let mut last: Option<Transmit> = None;
        let mut life = 0;
        for _ in 0..CALLS {
            now.0 += rng.below(20_000);
            host.calls = 0;
            match rng.below(40) {
                0 => {
                    let states = [
                        State::Reset,
                        State::Init,
                        State::Rtr,
                        State::Rts,
                        State::Sqd,
                        State::Sqe,
                        State::Err,
                    ];
                    let state = if rng.chance(0.3) { rng.pick(&states) } else { State::Rts };
                    let changed = engine.modify(now, &attributes(&mut rng, Some(state)));
                    if state == State::Reset && changed.is_ok() {
                        // The caller forgets what the engine forgets.
                        host.sends.iter_mut().for_each(|done| *done = true);
                        host.recvs.iter_mut().for_each(|done| *done = true);
                        life += 1;
                    }
                }
                1 if engine.state() == State::Err => {
                    drain(&mut engine, &mut host, seed);
                    assert!(
                        host.sends.iter().chain(&host.recvs).all(|done| *done),
                        "seed {seed}: lost in ERR"
                    );
                    for state in [State::Reset, State::Init, State::Rtr, State::Rts] {
                        let _ = engine.modify(now, &attributes(&mut rng, Some(state)));
                    }
                    life += 1;
                }
                1 | 2 => {
                    for state in [State::Init, State::Rtr, State::Rts] {
                        let _ = engine.modify(now, &attributes(&mut rng, Some(state)));
                    }
                }
                3 | 4 => engine.handle_doorbell(now, &mut host),
                5 => {
                    let posted = Posted {
                        length: rng.next() as u32 >> rng.below(32),
                        waiting: rng.below(64) as u32,
                        read: [rng.below(4) as u32, 0],
                    };
                    engine.handle_post(now, posted);
                }
                6 | 7 => engine.handle_timeout(now, &mut host),
                8..=14 => {
                    let room = Room {
                        packets: rng.below(300) as u32,
                        bytes: rng.below(1 << 18) as u32,
                        lanes: rng.below(6) as u32,
                    };
                    if let Some(transmit) = engine.poll_transmit(now, room, &mut host) {
                        assert!(transmit.transport_len() <= 48 + 3 + room.bytes.max(4096) as usize);
                        assert!(transmit.packets >= 1 && transmit.packets <= room.packets.max(1));
                        assert_eq!(transmit.transport_len() % 4, 0);
                        let head = transmit.header.as_bytes();
                        let parsed = Packet::parse(head, transmit.transport_len()).expect("our own packets parse");
                        assert_eq!(parsed.payload.len, transmit.payload.byte_len());
                        last = Some(transmit);
                    }
                }
                15 => {
                    let fault = host.fault();
                    if let Some(mut transmit) = last.take() {
                        if rng.chance(0.2) {
                            transmit.payload = Source::Send {
                                slot: rng.below(50) as u32,
                                offset: 0,
                                len: 1,
                            };
                            transmit.header = HeaderBuf::new();
                        }
                        if rng.chance(0.5) {
                            engine.handle_unbuilt(now, &transmit);
                        }
                        engine.handle_company(rng.below(100) as u32);
                        engine.handle_gather_fault(now, &transmit, fault, &mut host);
                    }
                }
                16 => {
                    // Of this life, of another, and of nobody.
                    let lost = match &last {
                        Some(transmit) if rng.chance(0.7) => Sent::new(Qpn::new(7), transmit),
                        _ => Some(Sent::of_token(rng.next())),
                    };
                    if let Some(lost) = lost {
                        engine.handle_lost(&lost);
                    }
                    engine.poll_event();
                    // A host that loses what it has kept.
                    if let Some(early) = engine.poll_early() {
                        assert!(!engine.is_early(early), "seed {seed}: {early:?} twice");
                    }
                }
                17..=22 => poll(&mut engine, &mut host, seed),
                _ => {
                    let bytes = packet_bytes(&mut rng, &engine);
                    let len = if rng.chance(0.7) {
                        bytes.len()
                    } else {
                        rng.below(9000) as usize
                    };
                    if let Ok(packet) = Packet::parse(&bytes, len) {
                        let run = if rng.chance(0.7) {
                            1
                        } else {
                            rng.next() as u32 >> rng.below(32)
                        };
                        engine.handle_packet(now, &packet.run(run), &mut host);
                    }
                }
            }
            assert!(
                host.calls <= 8 + 3 * 9,
                "seed {seed}: {} host calls in one call",
                host.calls
            );
        }
        let _ = engine.modify(
            now,
            &Modify {
                state: Some(State::Err),
                ..Modify::default()
            },
        );
        drain(&mut engine, &mut host, seed);
        let missing = host.sends.iter().chain(&host.recvs).filter(|done| !**done).count();
        assert_eq!(missing, 0, "seed {seed}: work requests lost after {life} lives");
    }
}

fn poll(engine: &mut Engine, host: &mut Chaos, seed: u64) {
    let Some(done) = engine.poll_completion(host) else {
        return;
    };
    let books = match done.queue {
        Queue::Send => &mut host.sends,
        Queue::Recv => &mut host.recvs,
    };
    let entry = &mut books[done.slot as usize];
    assert!(!*entry, "seed {seed}: {done:?} completed twice");
    *entry = true;
}

/// Poll until nothing comes, with a host that has nothing more to give.
fn drain(engine: &mut Engine, host: &mut Chaos, seed: u64) {
    host.dry = true;
    for _ in 0..100 {
        poll(engine, host, seed);
    }
    host.dry = false;
    host.calls = 0;
}
