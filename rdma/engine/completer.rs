// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The requester's view of responses: acknowledgements, READ data, results of atomics. IBTA 9.7.5, 9.9.2.

use crate::attrs::State;
use crate::counters::Counters;
use crate::fault::{Fault, WcStatus};
use crate::opcode::{Opcode, Place};
use crate::psn::Psn;
use crate::qp::{Qp, Storage};
use crate::time::Instant;
use crate::wire::{NakCode, Packet, Syndrome};
use crate::wqe::{Early, Host, SendOp, Target};

impl<S: Storage> Qp<S> {
    /// Handle a packet of the responder-to-requester direction.
    pub(crate) fn handle_response(&mut self, now: Instant, packet: &Packet, host: &mut impl Host) {
        let requester = &self.requester;
        let mut packet = packet;
        let rest;
        let done = requester.una.distance(packet.bth.psn);
        if done > 0 && done < packet.packets {
            // A run that was cut elsewhere when its beginning came.
            rest = packet.without(done, self.attrs.path_mtu);
            packet = &rest;
        }
        let psn = packet.bth.psn;
        let outstanding = requester.max.distance(requester.una);
        if !matches!(self.attrs.state, State::Rts | State::Sqd) || psn.distance(requester.una) >= outstanding {
            // A ghost of something already complete, or an answer to nothing.
            self.requester.arrivals.on_duplicate(psn);
            Counters::bump(&mut self.counters.dropped);
            return;
        }
        let syndrome = packet.aeth.map(|aeth| aeth.syndrome);
        match (packet.opcode, syndrome) {
            (Opcode::ReadResponse { place }, _) => {
                self.on_read_response(now, packet, place, host);
            }
            (Opcode::AtomicResponse, Some(Syndrome::Ack(_))) => self.on_atomic_response(now, packet, host),
            (Opcode::Acknowledge, Some(Syndrome::Ack(_))) => {
                if !self.acknowledge_before(now, psn.next()) {
                    self.on_early_acknowledgement(now, psn);
                }
            }
            (Opcode::Acknowledge, Some(Syndrome::Rnr(code))) => {
                if self.acknowledge_before(now, psn) {
                    self.on_receiver_not_ready(now, code);
                } else {
                    self.on_early_response(now, psn, host);
                }
            }
            (Opcode::Acknowledge, Some(Syndrome::Nak(code))) => self.on_nak(now, psn, code, host),
            _ => Counters::bump(&mut self.counters.dropped),
        }
        // What an ACK that came early acknowledges, as far as no answer is missing.
        if let Some(psn) = self.requester.arrivals.acknowledged() {
            self.acknowledge_before(now, psn.next());
        }
    }

    fn on_nak(&mut self, now: Instant, psn: Psn, code: NakCode, host: &mut impl Host) {
        // Whatever the reason, a NAK acknowledges all that came before it (IBTA 9.7.5.2.8).
        if !self.acknowledge_before(now, psn) {
            return self.on_early_response(now, psn, host);
        }
        let status = match code {
            NakCode::Sequence => return self.on_sequence_nak(now),
            NakCode::InvalidRequest => WcStatus::RemoteInvalidRequest,
            NakCode::RemoteAccess => WcStatus::RemoteAccess,
            NakCode::RemoteOperation | NakCode::Other(_) => WcStatus::RemoteOperation,
        };
        Counters::bump(&mut self.counters.received_error_naks);
        self.fail(status);
    }

    /// A response or acknowledgement that skips READ responses or the like: they are late, or lost.
    fn on_early_response(&mut self, now: Instant, psn: Psn, host: &mut impl Host) {
        let requester = &mut self.requester;
        requester.arrivals.set_told(requester.is_told());
        let keep = || host.keep(Early::Response(psn));
        if requester.arrivals.on_ahead(now, requester.una, psn, keep) {
            self.on_response_gap(now);
        }
    }

    /// The same of an acknowledgement, which is nothing but its PSN.
    fn on_early_acknowledgement(&mut self, now: Instant, psn: Psn) {
        let requester = &mut self.requester;
        requester.arrivals.set_told(requester.is_told());
        if requester.arrivals.on_acknowledged(now, psn) {
            self.on_response_gap(now);
        }
    }

    /// The first response that is kept, if its turn has come: it skips nothing that has an answer of its own.
    pub(crate) fn early_response(&self) -> Option<Psn> {
        let requester = &self.requester;
        let psn = requester.arrivals.first(requester.una)?;
        let ahead = psn.distance(requester.una);
        let window = &requester.window;
        for index in window.done()..window.started() {
            let message = window.at(self.storage.sends(), index)?;
            if message.is_answered() {
                let next = if index == window.done() {
                    requester.una
                } else {
                    message.first
                };
                return (ahead <= next.distance(requester.una)).then_some(psn);
            }
            if ahead < message.end().distance(requester.una) {
                return Some(psn);
            }
        }
        None
    }

    /// Take the data of a READ response, if it is the one awaited.
    fn on_read_response(&mut self, now: Instant, packet: &Packet, place: Place, host: &mut impl Host) {
        let psn = packet.bth.psn;
        if !self.acknowledge_before(now, psn) {
            return self.on_early_response(now, psn, host);
        }
        let requester = &self.requester;
        let message = requester.window.at(self.storage.sends(), requester.window.done());
        let Some(message) = message
            .copied()
            .filter(|m| m.is_answered() && !matches!(m.wqe.op, SendOp::Atomic(_)))
        else {
            Counters::bump(&mut self.counters.dropped);
            return;
        };
        let index = psn.distance(message.first);
        let after = index.saturating_add(packet.packets);
        let ends = after == message.packets;
        let mtu = self.attrs.path_mtu;
        let offset = index.wrapping_shl(mtu.shift());
        let expected = match message.wqe.op {
            SendOp::Read => {
                let rest = message.wqe.length.saturating_sub(offset);
                rest.min(mtu.bytes_of(packet.packets))
            }
            // ATOMIC WRITE and FLUSH are answered by an empty READ response (IBTA annex A19).
            _ => 0,
        };
        let refused = packet
            .aeth
            .is_some_and(|aeth| !matches!(aeth.syndrome, Syndrome::Ack(_)));
        if packet.payload.len != expected || place.ends() != ends || after > message.packets || refused {
            return self.fail(WcStatus::BadResponse);
        }
        if expected > 0 {
            let to = Target::ReadResult {
                slot: message.wqe.slot,
                offset,
            };
            match host.place(to, packet.payload) {
                Ok(()) => {}
                Err(Fault::Absent) => return,
                Err(fault) => return self.fail(fault.status()),
            }
        }
        let requester = &mut self.requester;
        requester.advance(now, psn.plus(packet.packets));
        requester.read_psns = requester.read_psns.saturating_sub(packet.packets);
        if ends {
            requester.reads_out = requester.reads_out.saturating_sub(1);
            requester.window.complete(self.storage.sends());
        }
        self.on_progress(now);
    }

    /// Take the answer of an atomic, if it is the one awaited.
    fn on_atomic_response(&mut self, now: Instant, packet: &Packet, host: &mut impl Host) {
        let psn = packet.bth.psn;
        if !self.acknowledge_before(now, psn) {
            return self.on_early_response(now, psn, host);
        }
        let requester = &self.requester;
        let message = requester.window.at(self.storage.sends(), requester.window.done());
        let (Some(message), Some(original)) = (message.copied(), packet.original) else {
            Counters::bump(&mut self.counters.dropped);
            return;
        };
        if !matches!(message.wqe.op, SendOp::Atomic(_)) {
            Counters::bump(&mut self.counters.dropped);
            return;
        }
        if packet.payload.len != 0 {
            return self.fail(WcStatus::BadResponse);
        }
        match host.atomic_result(message.wqe.slot, original) {
            Ok(()) => {}
            Err(Fault::Absent) => return,
            Err(fault) => return self.fail(fault.status()),
        }
        let requester = &mut self.requester;
        requester.advance(now, psn.next());
        requester.read_psns = requester.read_psns.saturating_sub(1);
        requester.reads_out = requester.reads_out.saturating_sub(1);
        requester.window.complete(self.storage.sends());
        self.on_progress(now);
    }

    /// Acknowledge every PSN before `end`, completing SENDs and WRITEs. False if that would skip a
    /// READ whose data has not come; then everything before the READ is acknowledged.
    ///
    /// `end` lies at most one past the outstanding PSNs.
    fn acknowledge_before(&mut self, now: Instant, end: Psn) -> bool {
        let start = self.requester.una;
        let mut whole = true;
        // Each turn completes a message or ends.
        while self.requester.una != end {
            let requester = &mut self.requester;
            let message = requester.window.at(self.storage.sends(), requester.window.done());
            let Some(message) = message.copied() else { break };
            if message.is_answered() {
                whole = false;
                break;
            }
            let una = requester.una;
            let message_end = message.end();
            if end.distance(una) < message_end.distance(una) {
                requester.advance(now, end);
                break;
            }
            requester.advance(now, message_end);
            requester.window.complete(self.storage.sends());
        }
        if self.requester.una != start {
            self.on_progress(now);
        }
        whole
    }
}

impl crate::requester::Requester {
    /// Move `una` forward to `to`, pushing `nxt` along if it was behind: the peer already had what a
    /// retry was about to send again.
    fn advance(&mut self, now: Instant, to: Psn) {
        self.arrivals.on_progress(now, self.una, to);
        if to.distance(self.una) > self.nxt.distance(self.una) {
            self.nxt = to;
            self.read_psns = 0;
        }
        self.allowed = self.allowed.saturating_add(to.distance(self.una));
        self.una = to;
    }
}
