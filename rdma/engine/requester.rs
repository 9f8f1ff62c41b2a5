// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The requester: cuts messages into request packets, within the windows. IBTA 9.7.3.
//!
//! Three PSNs rule it, in sequence order `una <= nxt <= max`: the oldest not acknowledged, the next
//! to send, and one past the highest ever sent. A retry puts `nxt` back to `una` (go-back-N).

use crate::completion::WcStatus;
use crate::counters::Counters;
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::psn::Psn;
use crate::qp::{Qp, QpAttrs, State, Storage};
use crate::time::Instant;
use crate::window::{SendSlot, Window};
use crate::wire::{Bth, HeaderBuf, Reth};
use crate::wqe::{Fault, Host, SendOp, SendWqe, Source, Transmit};

/// Requester half of a queue pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requester {
    pub(crate) window: Window,
    pub(crate) una: Psn,
    pub(crate) nxt: Psn,
    pub(crate) max: Psn,
    /// PSNs of READ responses awaited among `una..nxt`.
    pub(crate) read_psns: u32,
    /// READs started and not completed.
    pub(crate) reads_out: u32,
    /// Request packets sent since one asked for an acknowledgement.
    pub(crate) unasked: u32,
    /// Retries left without progress.
    pub(crate) retries: u8,
    /// RNR retries left without progress.
    pub(crate) rnr_retries: u8,
    /// Local ACK timeouts without progress.
    pub(crate) timeouts: u8,
    /// A retry was started since the last progress.
    pub(crate) rewound: bool,
    /// The send queue may hold untaken WQEs.
    rung: bool,
    /// RNR: nothing is sent before.
    pub(crate) wait_until: Option<Instant>,
    /// Local ACK timeout.
    pub(crate) ack_deadline: Option<Instant>,
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
            ..Self::default()
        };
    }

    /// The send queue may hold something new.
    pub(crate) fn doorbell(&mut self) {
        self.rung = true;
    }

    /// No more timers: the queue pair is in ERR.
    pub(crate) fn stop(&mut self) {
        self.wait_until = None;
        self.ack_deadline = None;
    }

    /// Next PSN to be assigned.
    pub(crate) const fn next_psn(&self) -> Psn {
        self.max
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
    /// The next request packet, if the windows allow one.
    pub(crate) fn poll_request(&mut self, now: Instant, host: &mut impl Host) -> Option<Transmit> {
        if !matches!(self.attrs.state, State::Rts | State::Sqd) || self.requester.wait_until.is_some() {
            return None;
        }
        if self.requester.window.cur() == self.requester.window.started() {
            self.start_message(host)?;
        }
        let slot = *self
            .requester
            .window
            .at(self.storage.sends(), self.requester.window.cur())?;
        if slot.wqe.fault.is_some() {
            return None;
        }
        if slot.is_read() {
            Some(self.read_request(now, &slot))
        } else if self.requester.in_flight() < self.config.window_packets.max(1) {
            Some(self.data_request(now, &slot))
        } else {
            None
        }
    }

    /// Give the next message its PSNs, taking it from the host if none waits. `None` if nothing may
    /// start now.
    fn start_message(&mut self, host: &mut impl Host) -> Option<()> {
        let index = self.requester.window.cur();
        if index == self.requester.window.len() {
            self.take_message(host)?;
        }
        let requester = &mut self.requester;
        let slot = requester.window.at_mut(self.storage.sends_mut(), index)?;
        if slot.wqe.fault.is_some() || self.attrs.state != State::Rts {
            return None;
        }
        let packets = self.attrs.path_mtu.packets(slot.wqe.length);
        let outstanding = requester.nxt.distance(requester.una);
        // The acknowledgement of every outstanding PSN must be unambiguous (IBTA 9.7.2).
        if outstanding != 0 && outstanding.wrapping_add(packets) > Psn::HALF {
            return None;
        }
        if slot.wqe.fence && requester.reads_out > 0 {
            return None;
        }
        if slot.is_read() {
            if requester.reads_out >= u32::from(self.attrs.max_rd_atomic)
                || requester.read_psns >= self.config.read_window_packets.max(1)
            {
                return None;
            }
            requester.reads_out = requester.reads_out.wrapping_add(1);
        } else if outstanding.saturating_sub(requester.read_psns) >= self.config.window_packets.max(1) {
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
        if !requester.rung || self.attrs.state != State::Rts || !requester.window.has_room(self.storage.sends()) {
            return None;
        }
        let Some(mut wqe) = host.take_send() else {
            requester.rung = false;
            return None;
        };
        if wqe.fault.is_none() {
            wqe.fault = impossible(&wqe, &self.attrs);
        }
        requester.window.push(self.storage.sends_mut(), wqe);
        Some(())
    }

    /// A READ request from `nxt` to the end of the message.
    fn read_request(&mut self, now: Instant, slot: &SendSlot) -> Transmit {
        let sent = self.requester.nxt.distance(slot.first);
        let offset = sent.wrapping_shl(self.attrs.path_mtu.shift());
        let rest = slot.packets.saturating_sub(sent);
        let reth = Reth {
            va: slot.wqe.remote_va.wrapping_add(u64::from(offset)),
            rkey: slot.wqe.rkey,
            length: slot.wqe.length.saturating_sub(offset),
        };
        let psn = self.requester.nxt;
        let mut header = self.request_header(Opcode::ReadRequest, psn, 0, true, false);
        header.push(&reth.bytes());
        self.requester.read_psns = self.requester.read_psns.wrapping_add(rest);
        self.on_request_sent(now, rest, true, true);
        Transmit {
            header,
            payload: Source::None,
            pad: 0,
            psn,
            route: None,
        }
    }

    /// The SEND or WRITE packet at `nxt`.
    fn data_request(&mut self, now: Instant, slot: &SendSlot) -> Transmit {
        let wqe = &slot.wqe;
        let mtu = self.attrs.path_mtu;
        let psn = self.requester.nxt;
        let sent = psn.distance(slot.first);
        let offset = sent.wrapping_shl(mtu.shift());
        let len = wqe.length.saturating_sub(offset).min(mtu.bytes());
        let ends = sent.wrapping_add(1) >= slot.packets;
        let place = Place::of(sent == 0, ends);
        let (opcode, imm) = match wqe.op {
            SendOp::Send => (Opcode::Send { place, imm: false }, false),
            SendOp::SendImm => (Opcode::Send { place, imm: ends }, ends),
            SendOp::WriteImm => (Opcode::Write { place, imm: ends }, ends),
            _ => (Opcode::Write { place, imm: false }, false),
        };
        let solicited = wqe.solicited && ends && !matches!(wqe.op, SendOp::Write);
        let ack_every = (self.config.window_packets / 2).clamp(1, limits::MAX_PACKETS_PER_ACK);
        let ask = ends || self.requester.unasked.wrapping_add(1) >= ack_every;
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
        let payload = match len {
            0 => Source::None,
            _ => Source::Send {
                slot: wqe.slot,
                offset,
                len,
            },
        };
        self.on_request_sent(now, 1, ask, ends);
        Transmit {
            header,
            payload,
            pad,
            psn,
            route: None,
        }
    }

    /// Book a request packet that takes `psns` PSNs.
    fn on_request_sent(&mut self, now: Instant, psns: u32, asked: bool, ends: bool) {
        let requester = &mut self.requester;
        requester.nxt = requester.nxt.plus(psns);
        if requester.nxt.distance(requester.una) > requester.max.distance(requester.una) {
            requester.max = requester.nxt;
        }
        requester.unasked = if asked { 0 } else { requester.unasked.wrapping_add(1) };
        if ends {
            requester.window.step();
        }
        if requester.ack_deadline.is_none() {
            requester.ack_deadline =
                limits::ack_timeout_again(self.attrs.timeout, requester.timeouts).map(|span| now.after(span));
        }
        Counters::bump(&mut self.counters.sent_requests);
    }

    /// BTH of a request.
    fn request_header(&self, opcode: Opcode, psn: Psn, pad: u8, ack_request: bool, solicited: bool) -> HeaderBuf {
        let mut header = HeaderBuf::new();
        let bth = Bth {
            opcode: opcode.encode_rc(),
            solicited,
            migrated: false,
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
            if message.wqe.slot == slot && !message.is_read() {
                message.wqe.fault = Some(fault);
                requester.nxt = from;
                requester.read_psns = read_psns;
                requester.window.seek(index);
                return;
            }
            if message.is_read() {
                read_psns = read_psns.wrapping_add(message.end().distance(from));
            }
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

    /// Fail the oldest incomplete message and go to ERR.
    pub(crate) fn fail(&mut self, status: WcStatus) {
        self.requester.failed = Some(status);
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

/// A WQE that can never be carried out on this queue pair.
fn impossible(wqe: &SendWqe, attrs: &QpAttrs) -> Option<Fault> {
    if wqe.length > limits::MAX_MESSAGE_LEN {
        return Some(Fault::LocalLength);
    }
    use SendOp::{Read, Send, SendImm, Write, WriteImm};
    if !matches!(wqe.op, Send | SendImm | Write | WriteImm | Read) {
        return Some(Fault::LocalQpOp);
    }
    if wqe.op == SendOp::Read && attrs.max_rd_atomic == 0 {
        return Some(Fault::LocalQpOp);
    }
    None
}
