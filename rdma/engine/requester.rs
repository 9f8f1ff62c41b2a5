// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The requester: cuts messages into request packets, within the windows. IBTA 9.7.3.
//!
//! Three PSNs rule it, in sequence order `una <= nxt <= max`: the oldest not acknowledged, the next
//! to send, and one past the highest ever sent. A retry puts `nxt` back to `una` (go-back-N).

use core::num::NonZero;

use crate::arrivals::Arrivals;
use crate::attrs::{Mtu, QpAttrs, QpKind, State};
use crate::cork::Cork;
use crate::counters::Counters;
use crate::fault::{Fault, WcStatus};
use crate::limits;
use crate::lost::Holes;
use crate::opcode::{Opcode, Place};
use crate::psn::{Psn, Qpn};
use crate::qp::{Qp, Storage};
use crate::time::{Duration, Instant};
use crate::window::{SendSlot, Window};
use crate::wire::{feth, AtomicEth, Bth, Deth, HeaderBuf, Reth};
use crate::wqe::{AtomicOp, Host, Room, Route, SendOp, SendWqe, Source, Transmit};

/// Requester half of a queue pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requester {
    pub(crate) window: Window,
    pub(crate) una: Psn,
    pub(crate) nxt: Psn,
    pub(crate) max: Psn,
    /// PSNs of answers awaited among `una..nxt`: READ responses and those of atomics.
    pub(crate) read_psns: u32,
    /// Responses that came before their turn.
    pub(crate) arrivals: Arrivals,
    /// READs and the like started and not completed.
    pub(crate) reads_out: u32,
    /// Request packets sent since one asked for an acknowledgement.
    pub(crate) unasked: u32,
    /// Messages sent since one asked.
    unasked_messages: u32,
    /// The newest packet that asked for one.
    asked: Option<Psn>,
    /// When the last message asks after all, if it has not.
    pub(crate) ask_at: Option<Instant>,
    /// Somebody waits until all that was sent is acknowledged.
    pub(crate) ask_now: bool,
    /// Request packets that may be in flight after a NAK; grows back with what is acknowledged.
    pub(crate) allowed: u32,
    /// A NAK costs no retry before.
    pub(crate) charged_until: Instant,
    /// Retries left without progress.
    pub(crate) retries: u8,
    /// RNR retries left without progress.
    pub(crate) rnr_retries: u8,
    /// Local ACK timeouts without progress.
    pub(crate) timeouts: u8,
    /// How often the timeout was put off without progress.
    pub(crate) postponed: u8,
    /// Timers that have run out without progress, of whatever kind.
    pub(crate) vain: u8,
    /// Queue pairs of the host that are stuck.
    pub(crate) company: u32,
    /// A retry was started since the last progress.
    pub(crate) rewound: bool,
    /// PSNs of what was sent last from `una` on.
    pub(crate) leading: u32,
    /// The send queue may hold untaken WQEs.
    rung: bool,
    /// There may be more to send once completions have been polled.
    pub(crate) starved: bool,
    /// Lanes that share what is sent now, each of which tells what it loses. 0: by a carrier that tells nothing.
    pub(crate) lanes: u32,
    /// Packets of a run at most, of a message that is spread over the lanes. 0: it is not.
    piece: u8,
    /// What it has lost and has not been sent again.
    pub(crate) holes: Holes,
    /// The peer misses what that carrier has not called lost: until then it may.
    pub(crate) hint: Option<Instant>,
    /// RNR: nothing is sent before.
    pub(crate) wait_until: Option<Instant>,
    /// Local ACK timeout.
    pub(crate) ack_deadline: Option<Instant>,
    /// The way to the peer is back, and nothing was heard by it yet: how often all goes again until the local ACK
    /// timeout tells.
    pub(crate) back: u8,
    /// Holds short sends back.
    pub(crate) cork: Cork,
    /// Status the oldest incomplete message fails with.
    pub(crate) failed: Option<WcStatus>,
}

impl Requester {
    /// Start from `psn` when entering RTS.
    pub(crate) fn start(&mut self, psn: Psn, attrs: &QpAttrs) {
        *self = Self {
            una: psn,
            nxt: psn,
            max: psn,
            retries: attrs.retry_cnt,
            rnr_retries: attrs.rnr_retry,
            rung: true,
            allowed: u32::MAX,
            ..Self::default()
        };
    }

    /// The send queue may hold something new.
    pub(crate) fn doorbell(&mut self) {
        self.rung = true;
    }

    /// No more timers: the queue pair is in ERR.
    pub(crate) fn stop(&mut self) {
        self.holes.clear();
        self.hint = None;
        self.wait_until = None;
        self.ack_deadline = None;
        self.ask_at = None;
        self.ask_now = false;
        self.starved = false;
        self.cork.pull();
    }

    /// Sends run again after a failure of an unreliable queue pair.
    pub(crate) fn resume(&mut self) {
        self.failed = None;
        self.rung = true;
    }

    /// Next PSN to be assigned.
    pub(crate) const fn next_psn(&self) -> Psn {
        self.max
    }

    /// Whether who carries what is sent now tells what it loses.
    pub(crate) const fn is_told(&self) -> bool {
        self.lanes > 0
    }

    /// Windows that the lanes give.
    fn windows(&self) -> u32 {
        self.lanes
            .saturating_mul(limits::WINDOWS_PER_LANE)
            .clamp(1, limits::MAX_WINDOWS)
    }

    /// Whether an acknowledgement is due.
    pub(crate) const fn has_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Everything before `una` is acknowledged: whether an acknowledgement is still due.
    pub(crate) fn settle_asked(&mut self, now: Instant) {
        let outstanding = self.max.distance(self.una);
        if outstanding == 0 {
            self.ask_at = None;
            self.ask_now = false;
        }
        self.asked = self.asked.filter(|asked| asked.distance(self.una) < outstanding);
        if self.is_told() && outstanding != 0 && self.asked.is_none() {
            self.ask_at.get_or_insert(now.after(limits::ASK_AFTER));
        }
    }

    /// Messages started and not complete.
    pub(crate) fn under_way(&self) -> u32 {
        let count = self.window.started().saturating_sub(self.window.done());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How long to wait this time for what is `given` the first time.
    pub(crate) const fn wait_again(&self, given: Duration) -> Duration {
        limits::wait_again(given, self.vain, self.company)
    }

    /// Whether nothing started is incomplete.
    pub(crate) const fn is_drained(&self) -> bool {
        self.window.started() == self.window.done()
    }

    /// Request packets in flight; READ responses are counted apart.
    #[inline]
    fn in_flight(&self) -> u32 {
        self.nxt.distance(self.una).saturating_sub(self.read_psns)
    }
}

impl<S: Storage> Qp<S> {
    /// The next request packet, or run of as many as have room, if the windows allow one.
    pub(crate) fn poll_request(&mut self, now: Instant, room: Room, host: &mut impl Host) -> Option<Transmit> {
        if !matches!(self.attrs.state, State::Rts | State::Sqd) || self.requester.wait_until.is_some() {
            return None;
        }
        self.requester.lanes = room.lanes;
        if let Some(again) = self.lost_request(now, room) {
            return Some(again);
        }
        // After a timeout one request asks what the peer has; all else waits for the answer.
        if self.requester.timeouts > 0 && self.requester.nxt != self.requester.una {
            return None;
        }
        // Each turn but the last passes a message that takes no packet; the window holds only so many.
        let slot = loop {
            let requester = &mut self.requester;
            if requester.window.cur() == requester.window.started() && self.start_message(host).is_none() {
                return self.ask_request(now);
            }
            let requester = &mut self.requester;
            let slot = *requester.window.at(self.storage.sends(), requester.window.cur())?;
            if slot.wqe.fault.is_some() {
                // It fails once all before it is acknowledged.
                requester.ask_now = true;
                return self.ask_request(now);
            }
            if slot.packets > 0 {
                break slot;
            }
            requester.window.step();
            requester.window.complete_idle(self.storage.sends());
        };
        if slot.is_answered() {
            let psn = self.requester.nxt;
            let transmit = self.answered_request(&slot, psn);
            let rest = slot.end().distance(psn);
            self.requester.read_psns = self.requester.read_psns.wrapping_add(rest);
            self.on_request_sent(now, rest, true, true);
            Some(transmit)
        } else if self.config.kind.is_datagram() {
            Some(self.datagram(now, &slot))
        } else {
            let allowed = self.window_packets().saturating_sub(self.requester.in_flight());
            // After a timeout one packet asks.
            let room = if self.requester.timeouts > 0 { room.one() } else { room };
            let psn = self.requester.nxt;
            let rest = slot.end().distance(psn);
            if psn == slot.first {
                self.requester.piece = self.piece_of(rest, room.lanes);
            }
            let most = NonZero::new(self.requester.piece).map_or(allowed, |piece| allowed.min(u32::from(piece.get())));
            let packets = room.packets_of(self.attrs.path_mtu).min(most).min(rest.max(1));
            if packets == 0 {
                return None;
            }
            let ends = packets >= rest;
            let ack_every = (self.window_packets() / 2).clamp(1, limits::MAX_PACKETS_PER_ACK);
            let due = self.requester.unasked.wrapping_add(packets) >= ack_every;
            let ask = self.config.kind == QpKind::Rc && (due || ends && self.must_ask(&slot.wqe));
            let transmit = self.data_request(&slot, psn, packets, ask);
            self.on_request_sent(now, packets, ask, ends);
            Some(transmit)
        }
    }

    /// Packets of each run of a message that has so many, with so many lanes: equal parts of a short one that finds
    /// nothing under way, so that it takes the time of its longest part. In a stream whole trains keep the lanes busy.
    fn piece_of(&self, packets: u32, lanes: u32) -> u8 {
        let alone = self.requester.nxt == self.requester.una;
        match self.config.kind == QpKind::Rc && alone && lanes > 1 && limits::IN_PARTS.contains(&packets) {
            true => u8::try_from(packets.div_ceil(lanes)).unwrap_or(0),
            false => 0,
        }
    }

    /// Whether the last packet of this SEND or WRITE asks for an acknowledgement.
    ///
    /// One for which nobody waits costs the peer a doorbell and this host an interrupt in vain. Where a lost packet is
    /// told, a message without a visible completion goes without, unless there have been many, the window is full, or
    /// the program runs ahead: what the cork holds goes when all before is acknowledged.
    fn must_ask(&self, wqe: &SendWqe) -> bool {
        let requester = &self.requester;
        !requester.is_told()
            || wqe.signalled
            || requester.unasked_messages.wrapping_add(1) >= limits::MAX_UNASKED
            || !requester.window.has_room(self.storage.sends())
            || requester.cork.runs_ahead()
    }

    /// The last packet sent once more, asking for an acknowledgement, if none is due and somebody waits for one.
    fn ask_request(&mut self, now: Instant) -> Option<Transmit> {
        let requester = &mut self.requester;
        if !core::mem::take(&mut requester.ask_now) || requester.has_asked() || requester.nxt == requester.una {
            return None;
        }
        let psn = requester.nxt.prev();
        let (slot, _) = self
            .message_of(psn)
            .filter(|(slot, _)| !slot.is_answered() && slot.wqe.fault.is_none())?;
        let requester = &mut self.requester;
        requester.ask_at = None;
        requester.asked = Some(psn);
        requester.unasked = 0;
        requester.unasked_messages = 0;
        requester.ack_deadline = None;
        Counters::bump(&mut self.counters.asked_again);
        self.on_sent_again(now);
        Some(self.data_request(&slot, psn, 1, true))
    }

    /// Request packets that may be in flight: a window for each lane.
    pub(crate) fn window_packets(&self) -> u32 {
        let window = self.config.window_packets.saturating_mul(self.requester.windows());
        self.requester.allowed.min(window).max(1)
    }

    /// Give the next message its PSNs, taking it from the host if none waits. `None` if nothing may
    /// start now.
    fn start_message(&mut self, host: &mut impl Host) -> Option<()> {
        let index = self.requester.window.cur();
        if index == self.requester.window.len() {
            self.take_message(host)?;
        }
        let window = self.window_packets();
        let read_window = self
            .config
            .read_window_packets
            .max(1)
            .saturating_mul(self.requester.windows());
        let requester = &mut self.requester;
        let slot = requester.window.at_mut(self.storage.sends_mut(), index)?;
        if slot.wqe.fault.is_some() {
            requester.ask_now = true;
            return None;
        }
        if self.attrs.state != State::Rts {
            return None;
        }
        let packets = packets(&slot.wqe, self.config.kind, self.attrs.path_mtu);
        let outstanding = requester.nxt.distance(requester.una);
        // The acknowledgement of every outstanding PSN must be unambiguous (IBTA 9.7.2).
        if outstanding != 0 && outstanding.wrapping_add(packets) > Psn::HALF {
            return None;
        }
        if slot.wqe.fence && requester.reads_out > 0 {
            return None;
        }
        if slot.wqe.op.is_local() {
            // What is still to be sent again may need the key: wait for all before it.
            if slot.wqe.op == SendOp::LocalInvalidate && requester.window.done() != index {
                requester.ask_now = true;
                return None;
            }
            if let Err(fault) = host.local(slot.wqe.slot) {
                slot.wqe.fault = Some(fault);
                requester.ask_now = true;
                return None;
            }
        } else if slot.is_answered() {
            // Lanes may bring the responses of all in any order, and they are kept no further ahead.
            let awaited = requester.read_psns.saturating_add(packets);
            let too_far = requester.is_told() && requester.read_psns > 0 && awaited > limits::MAX_AHEAD;
            let many = requester.reads_out >= u32::from(self.attrs.max_rd_atomic);
            if many || too_far || requester.read_psns >= read_window {
                return None;
            }
            requester.reads_out = requester.reads_out.wrapping_add(1);
        } else if outstanding.saturating_sub(requester.read_psns) >= window {
            // Not begun before its first packet can go: draining must not wait for it.
            return None;
        }
        slot.first = requester.nxt;
        slot.packets = packets;
        requester.window.start();
        Some(())
    }

    /// Take the next send of the user into the window.
    fn take_message(&mut self, host: &mut impl Host) -> Option<()> {
        let requester = &mut self.requester;
        if !requester.rung || requester.cork.is_holding() || self.attrs.state != State::Rts {
            return None;
        }
        if !requester.window.has_room(self.storage.sends()) {
            // What completes by being sent fills the window until the caller polls, and no packet will
            // come to make it look again.
            requester.starved = requester.window.done() > 0;
            return None;
        }
        let Some(mut wqe) = host.take_send() else {
            requester.rung = false;
            return None;
        };
        if wqe.fault.is_none() {
            wqe.fault = impossible(&wqe, self.config.kind, &self.attrs);
        }
        requester.window.push(self.storage.sends_mut(), wqe);
        Some(())
    }

    /// The request of an operation with an answer of its own: of a READ from `psn` to its end.
    pub(crate) fn answered_request(&self, slot: &SendSlot, psn: Psn) -> Transmit {
        let offset = psn.distance(slot.first).wrapping_shl(self.attrs.path_mtu.shift());
        let reth = Reth {
            va: slot.wqe.remote_va.wrapping_add(u64::from(offset)),
            rkey: slot.wqe.rkey,
            length: slot.wqe.length.saturating_sub(offset),
        };
        let opcode = match slot.wqe.op {
            SendOp::Atomic(AtomicOp::CompareSwap { .. }) => Opcode::CompareSwap,
            SendOp::Atomic(AtomicOp::FetchAdd { .. }) => Opcode::FetchAdd,
            SendOp::AtomicWrite => Opcode::AtomicWrite,
            SendOp::Flush(_) => Opcode::Flush,
            _ => Opcode::ReadRequest,
        };
        let mut header = self.request_header(opcode, psn, 0, true, false);
        let mut payload = Source::None;
        match slot.wqe.op {
            SendOp::Atomic(op) => {
                let (swap_add, compare) = match op {
                    AtomicOp::CompareSwap { compare, swap } => (swap, compare),
                    AtomicOp::FetchAdd { add } => (add, 0),
                };
                let operands = AtomicEth {
                    va: reth.va,
                    rkey: reth.rkey,
                    swap_add,
                    compare,
                };
                header.push(&operands.bytes());
            }
            SendOp::Flush(kind) => {
                header.push(&feth::bytes(kind));
                header.push(&reth.bytes());
            }
            SendOp::AtomicWrite => {
                header.push(&reth.bytes());
                payload = Source::Send {
                    slot: slot.wqe.slot,
                    offset: 0,
                    len: limits::ATOMIC_LEN,
                };
            }
            _ => header.push(&reth.bytes()),
        }
        Transmit {
            header,
            payload,
            pad: 0,
            psn,
            packets: 1,
            route: None,
        }
    }

    /// The run of so many packets of a SEND or WRITE at `psn`.
    pub(crate) fn data_request(&self, slot: &SendSlot, psn: Psn, packets: u32, ask: bool) -> Transmit {
        let wqe = &slot.wqe;
        let mtu = self.attrs.path_mtu;
        let sent = psn.distance(slot.first);
        let offset = sent.wrapping_shl(mtu.shift());
        let len = wqe.length.saturating_sub(offset).min(mtu.bytes_of(packets));
        let ends = sent.wrapping_add(packets) >= slot.packets;
        let place = Place::of(sent == 0, ends);
        let (opcode, imm) = match wqe.op {
            SendOp::Send => (Opcode::Send { place, imm: false }, false),
            SendOp::SendImm => (Opcode::Send { place, imm: ends }, ends),
            SendOp::WriteImm => (Opcode::Write { place, imm: ends }, ends),
            SendOp::SendInvalidate { .. } => (Opcode::SendInvalidate { place }, false),
            _ => (Opcode::Write { place, imm: false }, false),
        };
        let solicited = wqe.solicited && ends && !matches!(wqe.op, SendOp::Write);
        let pad = (len.wrapping_neg() & 3) as u8;
        let mut header = self.request_header(opcode, psn, pad, ask, solicited);
        if opcode.has_reth() {
            let reth = Reth {
                va: wqe.remote_va,
                rkey: wqe.rkey,
                length: wqe.length,
            };
            header.push(&reth.bytes());
        }
        if imm {
            header.push(&wqe.imm);
        }
        if let (SendOp::SendInvalidate { key }, true) = (wqe.op, ends) {
            header.push(&key.0.to_be_bytes());
        }
        let payload = match len {
            0 => Source::None,
            _ => Source::Send {
                slot: wqe.slot,
                offset,
                len,
            },
        };
        Transmit {
            header,
            payload,
            pad,
            psn,
            packets,
            route: None,
        }
    }

    /// The packet of a datagram.
    fn datagram(&mut self, now: Instant, slot: &SendSlot) -> Transmit {
        let wqe = &slot.wqe;
        let psn = self.requester.nxt;
        let imm = wqe.op == SendOp::SendImm;
        let place = Place::Only;
        let pad = (wqe.length.wrapping_neg() & 3) as u8;
        let bth = Bth {
            opcode: Opcode::Send { place, imm }.encode(self.config.kind),
            solicited: wqe.solicited,
            migrated: false,
            run: false,
            pad,
            pkey: limits::DEFAULT_PKEY,
            dest: wqe.datagram.dest,
            ack_request: false,
            psn,
        };
        // IBTA 10.2.5: a key with the highest bit stands for the queue pair's own.
        let qkey = match wqe.datagram.qkey {
            controlled if controlled >> 31 != 0 => self.qkey(),
            given => given,
        };
        let src = match self.config.kind {
            QpKind::Gsi => Qpn::GSI,
            _ => self.config.qpn,
        };
        let mut header = HeaderBuf::new();
        header.push(&bth.bytes());
        header.push(&Deth { qkey, src }.bytes());
        if imm {
            header.push(&wqe.imm);
        }
        let payload = match wqe.length {
            0 => Source::None,
            len => Source::Send {
                slot: wqe.slot,
                offset: 0,
                len,
            },
        };
        let route = Some(Route {
            slot: wqe.slot,
            ah: wqe.datagram.ah,
        });
        self.on_request_sent(now, 1, false, true);
        Transmit {
            header,
            payload,
            pad,
            psn,
            packets: 1,
            route,
        }
    }

    /// Book a request packet that takes `psns` PSNs.
    fn on_request_sent(&mut self, now: Instant, psns: u32, asked: bool, ends: bool) {
        Counters::bump(&mut self.counters.sent_requests);
        let requester = &mut self.requester;
        if requester.nxt == requester.una {
            requester.leading = psns;
        }
        requester.nxt = requester.nxt.plus(psns);
        if self.config.kind != QpKind::Rc {
            // Sent is done.
            requester.una = requester.nxt;
            requester.max = requester.nxt;
            if ends {
                requester.window.step();
                requester.window.complete(self.storage.sends());
            }
            return;
        }
        if requester.nxt.distance(requester.una) > requester.max.distance(requester.una) {
            requester.max = requester.nxt;
        }
        requester.unasked = if asked { 0 } else { requester.unasked.wrapping_add(psns) };
        if ends {
            requester.window.step();
        }
        requester.unasked_messages = match asked {
            true => 0,
            false => requester.unasked_messages.wrapping_add(u32::from(ends)),
        };
        if asked {
            requester.ask_at = None;
        } else if ends && requester.is_told() {
            requester.ask_at = Some(now.after(limits::ASK_AFTER));
        }
        // As long as no answer is due, sending counts as progress: a message may take its time among many.
        let due = requester.has_asked();
        if asked {
            requester.asked = Some(requester.nxt.prev());
        }
        if requester.ack_deadline.is_none() || !due {
            requester.ack_deadline =
                limits::answer_time(self.attrs.timeout, requester.timeouts, requester.back).map(|span| now.after(span));
        }
    }

    /// Book a request that goes again: the windows know it already.
    pub(crate) fn on_sent_again(&mut self, now: Instant) {
        Counters::bump(&mut self.counters.sent_requests);
        let requester = &mut self.requester;
        if requester.ack_deadline.is_none() {
            requester.ack_deadline =
                limits::answer_time(self.attrs.timeout, requester.timeouts, requester.back).map(|span| now.after(span));
        }
    }

    /// The message with the packet at `psn`, and the first PSN of it that is not answered or acknowledged.
    pub(crate) fn message_of(&self, psn: Psn) -> Option<(SendSlot, Psn)> {
        let window = &self.requester.window;
        for index in window.done()..window.started() {
            let message = window.at(self.storage.sends(), index)?;
            if psn.distance(message.first) < message.packets {
                let from = match index == window.done() {
                    true => self.requester.una,
                    false => message.first,
                };
                return Some((*message, from));
            }
        }
        None
    }

    /// BTH of a request.
    fn request_header(&self, opcode: Opcode, psn: Psn, pad: u8, ack_request: bool, solicited: bool) -> HeaderBuf {
        let mut header = HeaderBuf::new();
        let bth = Bth {
            opcode: opcode.encode(self.config.kind),
            solicited,
            migrated: false,
            run: false,
            pad,
            pkey: limits::DEFAULT_PKEY,
            dest: self.attrs.dest_qpn,
            ack_request,
            psn,
        };
        header.push(&bth.bytes());
        header
    }

    /// The local buffer of send `slot` could not be read: stop there until its turn to fail.
    pub(crate) fn on_send_fault(&mut self, slot: u32, fault: Fault) {
        if self.config.kind != QpKind::Rc {
            return self.on_unsent(slot, fault);
        }
        let requester = &mut self.requester;
        let mut read_psns = 0u32;
        for index in requester.window.done()..requester.window.started() {
            let Some(message) = requester.window.at_mut(self.storage.sends_mut(), index) else {
                return;
            };
            // The oldest message may be acknowledged in part.
            let from = if index == requester.window.done() {
                requester.una
            } else {
                message.first
            };
            if message.wqe.slot == slot && message.packets > 0 && message.wqe.op != SendOp::Read {
                message.wqe.fault = Some(fault);
                requester.nxt = from;
                requester.read_psns = read_psns;
                requester.window.seek(index);
                return;
            }
            if message.is_answered() {
                read_psns = read_psns.wrapping_add(message.end().distance(from));
            }
        }
    }

    /// A packet of an unreliable message, which counts as sent, was not.
    fn on_unsent(&mut self, slot: u32, fault: Fault) {
        let window = &mut self.requester.window;
        for index in (0..window.started()).rev() {
            let Some(message) = window.at_mut(self.storage.sends_mut(), index) else {
                return;
            };
            if message.wqe.slot == slot && message.packets > 0 {
                message.wqe.fault = Some(fault);
                window.reopen(index);
                return;
            }
        }
    }

    /// The request packet at `psn` has not left this host, and none of those after it: they are sent again a little
    /// later. What was sent of an unreliable service is done.
    pub(crate) fn take_back(&mut self, now: Instant, psn: Psn) {
        let requester = &mut self.requester;
        let from_una = psn.distance(requester.una);
        if from_una >= requester.nxt.distance(requester.una) {
            return;
        }
        let mut read_psns = 0u32;
        for index in requester.window.done()..requester.window.started() {
            let Some(message) = requester.window.at(self.storage.sends(), index) else {
                return;
            };
            let end = message.end();
            if message.packets > 0 && from_una < end.distance(requester.una) {
                requester.nxt = psn;
                requester.read_psns = read_psns;
                requester.window.seek(index);
                let wait = requester.wait_again(limits::UNSENT_WAIT);
                requester.wait_until = requester.wait_until.or(Some(now.after(wait)));
                return;
            }
            if message.is_answered() {
                let from = if index == requester.window.done() {
                    requester.una
                } else {
                    message.first
                };
                read_psns = read_psns.wrapping_add(end.distance(from));
            }
        }
    }

    /// The packet at `psn` of an unreliable connection is lost before it has left: the peer has no use for the rest of
    /// its message, which counts as sent.
    pub(crate) fn give_up(&mut self, psn: Psn) {
        let requester = &mut self.requester;
        let Some(message) = requester.window.at(self.storage.sends(), requester.window.cur()) else {
            return;
        };
        // With its last packet it is complete already.
        if requester.window.cur() < requester.window.started() && psn.distance(message.first) < message.packets {
            let end = message.end();
            (requester.una, requester.nxt, requester.max) = (end, end, end);
            requester.window.step();
            requester.window.complete(self.storage.sends());
        }
    }

    /// If the oldest message is the one that cannot be sent, fail.
    pub(crate) fn fail_faulty_head(&mut self) {
        let window = &self.requester.window;
        if !matches!(self.attrs.state, State::Rts | State::Sqd) || window.cur() != window.done() {
            return;
        }
        let Some(slot) = window.at(self.storage.sends(), window.cur()) else {
            return;
        };
        if let Some(fault) = slot.wqe.fault {
            self.fail(fault.status());
        }
    }

    /// Fail the oldest incomplete message and go to ERR, or an unreliable queue pair to SQE: there it
    /// still receives (IBTA 10.3.1.7).
    pub(crate) fn fail(&mut self, status: WcStatus) {
        self.requester.failed = Some(status);
        if self.config.kind != QpKind::Rc {
            self.attrs.state = State::Sqe;
            self.attrs.sq_draining = false;
            self.requester.stop();
            return;
        }
        self.responder.silence();
        self.enter_error();
    }

    /// The oldest message if it has completed.
    pub(crate) fn pop_completed_send(&mut self) -> Option<SendWqe> {
        if self.requester.window.done() == 0 {
            return None;
        }
        self.requester.window.pop(self.storage.sends())
    }

    /// In ERR: the oldest message and how it failed.
    pub(crate) fn pop_failed_send(&mut self) -> Option<(SendWqe, WcStatus)> {
        let wqe = self.requester.window.pop(self.storage.sends())?;
        Some((wqe, self.requester.failed.take().unwrap_or(WcStatus::Flushed)))
    }
}

/// PSNs a message takes.
fn packets(wqe: &SendWqe, kind: QpKind, mtu: Mtu) -> u32 {
    match wqe.op {
        op if op.is_local() => 0,
        SendOp::Atomic(_) | SendOp::AtomicWrite | SendOp::Flush(_) => 1,
        // Too long for a datagram: nothing is sent and the send succeeds, as with rxe (C10-93.1.1).
        _ if kind.is_datagram() => u32::from(wqe.length <= mtu.bytes()),
        _ => mtu.packets(wqe.length),
    }
}

/// A WQE that can never be carried out on this queue pair.
fn impossible(wqe: &SendWqe, kind: QpKind, attrs: &QpAttrs) -> Option<Fault> {
    if wqe.length > limits::MAX_MESSAGE_LEN {
        return Some(Fault::LocalLength);
    }
    if !wqe.op.is_allowed(kind) {
        return Some(Fault::LocalQpOp);
    }
    if matches!(wqe.op, SendOp::Atomic(_) | SendOp::AtomicWrite) && wqe.length != limits::ATOMIC_LEN {
        return Some(Fault::LocalLength);
    }
    if wqe.op.is_answered() && attrs.max_rd_atomic == 0 {
        return Some(Fault::LocalQpOp);
    }
    None
}
