// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One end: an engine, its user, and the calls the kernel module makes.

use crate::input::Input;
use crate::user::{User, MAX_CALLS, SGES};
use roce::abi::SEND_HEADER;
use roce::completion::Queue;
use roce::keys::Access;
use roce::psn::{Psn, Qpn};
use roce::qp::{Modify, Mtu, Posted, Qp, QpConfig, QpKind, ReadResource, SendMessage, Slots, State};
use roce::time::Instant;
use roce::tombstone::Tombstone;
use roce::wire::{Bth, Packet};
use roce::wqe::{Room, Source, Transmit};

/// A packet on its way: the headers, and the length of the whole without the ICRC.
#[derive(Clone)]
pub struct OnWire {
    pub head: Vec<u8>,
    pub len: usize,
}

/// Most packets that are on their way to one end.
const QUEUE: usize = 64;

/// One end of the connection.
pub struct Side {
    pub engine: Qp<Slots<Vec<SendMessage>, Vec<ReadResource>>>,
    pub user: User,
    number: Qpn,
    peer: Qpn,
    start: (Psn, Psn),
    reads: u8,
    /// What comes to this end.
    pub inbox: Vec<OnWire>,
    tombstone: Option<Tombstone>,
    /// How much one transmit may have. More than a packet: it goes as a run.
    pub room: Room,
}

impl Side {
    /// An end in RTS.
    pub fn new(input: &mut Input<'_>, kind: QpKind, number: u32, peer: u32, start: (Psn, Psn)) -> Self {
        let flags = input.u8();
        let (sends, reads) = (1 + input.u8() % 9, input.u8() % 5);
        let slots = Slots {
            sends: vec![SendMessage::EMPTY; usize::from(sends)],
            reads: vec![ReadResource::EMPTY; usize::from(reads)],
        };
        let config = QpConfig {
            kind,
            srq: flags & 1 != 0,
            window_packets: u32::from(input.u8()),
            read_window_packets: u32::from(input.u8()),
            ..QpConfig::new(Qpn::new(number))
        };
        let mut side = Self {
            engine: Qp::new(config, slots),
            user: User::new(flags & 2 != 0),
            number: Qpn::new(number),
            peer: Qpn::new(peer),
            start,
            reads,
            inbox: Vec::new(),
            tombstone: None,
            room: Room::PACKET,
        };
        side.connect(input, Instant(0));
        side
    }

    /// From RESET or INIT to RTS.
    pub fn connect(&mut self, input: &mut Input<'_>, now: Instant) {
        let attributes = self.attributes(input);
        for state in [State::Init, State::Rtr, State::Rts] {
            let _ = self.modify(
                now,
                &Modify {
                    state: Some(state),
                    ..attributes
                },
            );
        }
    }

    /// Attributes, most of them usual.
    fn attributes(&self, input: &mut Input<'_>) -> Modify {
        let [mtu, reads, times, retries] = input.u32().to_le_bytes();
        Modify {
            state: None,
            path_mtu: Mtu::from_enum(1 + u32::from(mtu % 5)),
            dest_qpn: Some(self.peer),
            qkey: Some(0x11),
            rq_psn: Some(self.start.0),
            sq_psn: Some(self.start.1),
            max_rd_atomic: Some(if reads & 0x80 == 0 { reads & 7 } else { reads }),
            max_dest_rd_atomic: Some((reads >> 3 & 7).min(self.reads)),
            min_rnr_timer: Some(times & 31),
            timeout: Some(if mtu & 0x80 == 0 { 5 } else { times >> 3 }),
            retry_cnt: Some(retries & 7),
            rnr_retry: Some(retries >> 3 & 7),
            access: Some(if retries & 0x80 == 0 {
                Access(0x30f)
            } else {
                Access(u32::from(mtu >> 3))
            }),
            sqd_event: mtu & 0x40 != 0,
        }
    }

    /// Changes state; beside RESET the user forgets.
    pub fn modify(&mut self, now: Instant, modify: &Modify) -> bool {
        if modify.state == Some(State::Reset) {
            self.tombstone = self.engine.tombstone().or(self.tombstone);
        }
        // The core lets the path's MTU through on the way to RTR only.
        let path_mtu = modify.path_mtu.filter(|_| modify.state == Some(State::Rtr));
        let changed = self.engine.modify(now, &Modify { path_mtu, ..*modify }).is_ok();
        if changed && modify.state == Some(State::Reset) {
            self.user.reset();
        }
        changed
    }

    /// As [`Self::modify`], with a state and attributes out of `input`.
    pub fn modify_any(&mut self, input: &mut Input<'_>, now: Instant) {
        let state = input.pick(&[
            State::Err,
            State::Reset,
            State::Init,
            State::Rtr,
            State::Rts,
            State::Sqd,
            State::Sqe,
        ]);
        let mut attributes = self.attributes(input);
        attributes.state = Some(state);
        self.modify(now, &attributes);
    }

    fn begin(&mut self) {
        self.user.calls = 0;
    }

    fn end(&mut self) {
        assert!(
            self.user.calls <= MAX_CALLS,
            "{} host calls in one call",
            self.user.calls
        );
    }

    /// Doorbell, completions, packets out, events, timer: what the kernel does when anything happens.
    pub fn drive(&mut self, now: Instant, to: &mut Vec<OnWire>) {
        self.begin();
        // Some posts are corked, as far as numbers made up of the time have it.
        match now.0 % 4 {
            0 => self.engine.handle_post(now, posted(now)),
            _ => self.engine.handle_doorbell(now, &mut self.user),
        }
        self.end();
        self.engine.may_wait();
        self.completions(16);
        self.transmit(now, 16, to);
        self.completions(16);
        while self.engine.poll_event().is_some() {}
        self.engine.poll_timeout();
    }

    /// Up to `count` completions. True if there were fewer.
    pub fn completions(&mut self, count: usize) -> bool {
        for _ in 0..count {
            self.begin();
            let done = self.engine.poll_completion(&mut self.user);
            self.end();
            let Some(done) = done else { return true };
            match done.queue {
                Queue::Send => self.user.complete_send(done.slot),
                Queue::Recv => self.user.complete_recv(done.slot),
            }
        }
        false
    }

    /// Up to `count` packets into `to`.
    pub fn transmit(&mut self, now: Instant, count: usize, to: &mut Vec<OnWire>) {
        for _ in 0..count {
            self.begin();
            let transmit = self.engine.poll_transmit(now, self.room, &mut self.user);
            self.end();
            let Some(transmit) = transmit else { return };
            self.build(now, &transmit, to);
        }
    }

    fn build(&mut self, now: Instant, transmit: &Transmit, to: &mut Vec<OnWire>) {
        let (mut packet, mut run) = ([0; 4096], Vec::new());
        let payload = match transmit.payload.byte_len() as usize {
            len @ ..=4096 => &mut packet[..len],
            len => {
                run.resize(len, 0);
                &mut run[..]
            }
        };
        let gathered = match transmit.payload {
            Source::None => Ok(()),
            Source::Send { slot, offset, .. } => self.user.gather_send(slot, offset, payload),
            Source::Region { rkey, va, len } => self.user.gather_region(rkey, va, len),
        };
        if let Err(fault) = gathered {
            self.begin();
            self.engine.handle_gather_fault(now, transmit, fault, &mut self.user);
            return self.end();
        }
        let packet = if self.room == Room::PACKET {
            check(transmit)
        } else {
            let mtu = self.engine.path_mtu().bytes();
            check_run(transmit, mtu)
        };
        if to.len() < QUEUE {
            to.push(packet);
        }
    }

    /// A packet arrives.
    pub fn receive(&mut self, now: Instant, packet: &OnWire, to: &mut Vec<OnWire>) {
        let Ok(parsed) = Packet::parse(&packet.head, packet.len) else {
            return;
        };
        let end = parsed.payload.offset as usize + parsed.payload.len as usize + usize::from(parsed.bth.pad);
        assert_eq!(end, packet.len, "payload and headers are not the packet");
        if let Some(answer) = self.answer_of_dead(&parsed) {
            if to.len() < QUEUE {
                to.push(answer);
            }
        }
        // Longer than any IP datagram carries.
        if packet.len < 1 << 16 {
            self.take(now, &parsed, &[packet.len]);
        }
    }

    /// The engine's part of it. `pieces`: how much is where, from the BTH on.
    pub fn take(&mut self, now: Instant, packet: &Packet, pieces: &[usize]) {
        self.begin();
        self.user.brought = pieces.to_vec();
        self.engine.handle_packet(now, packet, &mut self.user);
        self.end();
    }

    /// What the queue pair's former life says.
    pub fn answer_of_dead(&self, packet: &Packet) -> Option<OnWire> {
        Some(check(&self.tombstone?.answer(packet)?))
    }

    /// The timer fires.
    pub fn timeout(&mut self, now: Instant) {
        self.begin();
        self.engine.handle_timeout(now, &mut self.user);
        self.end();
    }

    /// The end: everything comes back.
    pub fn finish(&mut self, now: Instant) {
        let modify = Modify {
            state: Some(State::Err),
            ..Modify::default()
        };
        if !self.modify(now, &modify) {
            return;
        }
        self.user.dry = true;
        assert!(self.completions(64), "completions without end");
        assert!(self.user.is_idle(), "a request was lost");
        self.user.dry = false;
        // What is posted now is flushed, and that ends too: the user's index stands still.
        assert!(self.completions(64), "flushes without end");
        assert!(self.user.is_idle(), "a request was lost in ERR");
    }

    /// Posts a send whose form is right. What it asks for may be wrong.
    pub fn post_send(&mut self, input: &mut Input<'_>) {
        let op = u32::from(input.u8() % 18);
        let flags = u32::from(input.u8() & 15);
        let [count, region, shift, keys] = input.u32().to_le_bytes();
        let (va, rkey) = REMOTE[usize::from(region) % REMOTE.len()];
        let va = va.wrapping_add(u64::from(shift) * if region & 0x80 == 0 { 8 } else { 1 });
        let index = self.user.sends.producer;
        let slot = self.user.sends.slot(index);
        slot.fill(0);
        let mut put = |at: usize, bytes: &[u8]| slot[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &u64::from(index).to_ne_bytes());
        put(12, &op.to_ne_bytes());
        put(16, &flags.to_ne_bytes());
        put(20, &(0x100 + u32::from(keys & 3)).to_ne_bytes());
        put(24, &va.to_ne_bytes());
        match op {
            // Atomics, local operations, FLUSH.
            5 | 6 => {
                put(24, &(va & !7).to_ne_bytes());
                put(32, &input.u64().to_ne_bytes());
                put(48, &u32::from(rkey).to_ne_bytes());
            }
            8 => put(32, input.take(24)),
            14 => {
                put(32, &input.length().to_ne_bytes());
                put(36, &u32::from(rkey).to_ne_bytes());
                put(40, &[keys >> 2 & 3, keys >> 4]);
            }
            _ => put(32, &u32::from(rkey).to_ne_bytes()),
        }
        if !matches!(self.engine.config().kind, QpKind::Rc | QpKind::Uc) {
            put(24, &[0x12, 0, 0, 0, 0x11, 0, 0, 0]);
        }
        put(184, &u32::from(shift % 49).to_ne_bytes());
        let count = usize::from(count) % (SGES + 1);
        put(196, &(count as u32).to_ne_bytes());
        for index in 0..count {
            let eight = matches!(op, 5 | 6) && keys & 0x80 == 0;
            let len = if eight { 8 } else { input.length() };
            put(SEND_HEADER + index * 16, &sge(region, len));
        }
        self.user.sends.producer = index.wrapping_add(1);
    }

    /// Posts a receive whose form is right.
    pub fn post_recv(&mut self, input: &mut Input<'_>) {
        let count = input.u8();
        let index = self.user.recvs.producer;
        let slot = self.user.recvs.slot(index);
        slot.fill(0);
        slot[..4].copy_from_slice(&index.to_ne_bytes());
        slot[28] = 1 + count % SGES as u8;
        for index in 0..usize::from(slot[28]) {
            let at = 40 + index * 16;
            slot[at..at + 16].copy_from_slice(&sge(count >> 4, input.length()));
        }
        self.user.recvs.producer = index.wrapping_add(1);
    }

    /// Our number.
    pub fn number(&self) -> Qpn {
        self.number
    }
}

/// Addresses at the peer and their keys.
const REMOTE: [(u64, u16); 6] = [
    (0x1000, 0x100),
    (0x1000, 0x100),
    (0x2_0000, 0x101),
    (u64::MAX - 0x1000, 0x102),
    (0x10, 0x103),
    (u64::MAX - 0x10, 0x103),
];

/// A scatter entry somewhere.
fn sge(code: u8, len: u32) -> [u8; 16] {
    let (va, key) = match code & 7 {
        0..=4 => (0x1000u64, 0x100u32),
        5 => (0x10, 0x103),
        6 => (0x2_0000, 0x101),
        _ => (0, 0x999),
    };
    let mut out = [0; 16];
    out[..8].copy_from_slice(&va.to_ne_bytes());
    out[8..12].copy_from_slice(&len.to_ne_bytes());
    out[12..].copy_from_slice(&key.to_ne_bytes());
    out
}

/// A packet of ours is one that we would take.
fn check(transmit: &Transmit) -> OnWire {
    let head = transmit.header.as_bytes().to_vec();
    let len = transmit.transport_len();
    assert!(len <= 48 + 4096 + 3 && len % 4 == 0, "{len} bytes");
    let parsed = Packet::parse(&head, len).expect("our own packets parse");
    assert_eq!(parsed.payload.len, transmit.payload.byte_len());
    OnWire { head, len }
}

/// A run of ours is one that we would take.
fn check_run(transmit: &Transmit, mtu: u32) -> OnWire {
    let mut head = transmit.header.as_bytes().to_vec();
    Bth::mark_run(&mut head);
    let payload = transmit.payload.byte_len();
    assert!(payload <= 1 << 16 && head.len() <= 64, "a run too long");
    let packets = payload.div_ceil(mtu).max(1);
    assert_eq!(transmit.packets, packets, "{transmit:?} of {mtu}");
    let len = head.len() + payload as usize;
    let parsed = Packet::parse(&head, len).expect("our own runs parse");
    assert!(parsed.bth.run && parsed.payload.len == payload);
    OnWire { head, len }
}

/// A post at `now`, which decides all about it.
fn posted(now: Instant) -> Posted {
    let some = now.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Posted {
        length: some as u32 >> (some >> 59),
        waiting: (some >> 40) as u32 % 48,
        read: [(some >> 50) as u32 % 2, 0],
    }
}
