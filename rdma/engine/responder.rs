// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The responder: carries out the peer's requests in PSN order and answers them. IBTA 9.7.4, 9.7.5.
//!
//! What a peer may make this host do is here: use up a posted receive and fill its buffers (SEND); write, read, flush
//! or change eight bytes under a key, if [`crate::keys::check`] admits it; take back a key of fast registration or a
//! window (SEND with invalidate); have packets kept that came early ([`crate::arrivals`]); and move this queue pair to
//! ERR. Its answers to our own requests are the matter of [`crate::completer`].
//!
//! A request is *expected* (carried out), *duplicate* (answered again, never carried out again) or *ahead* (kept until
//! its turn; NAK sequence error for what is missing before it, [`crate::arrivals`]). At most one ACK or NAK waits to be
//! sent; it goes out behind the READ responses that precede it, and a newer one replaces it: that is all there is to
//! coalescing.

mod datagram;
mod reads;
mod unreliable;

use crate::arrivals::Arrivals;
use crate::attrs::{QpKind, State};
use crate::completion::{Completion, Event, Queue, WcOpcode};
use crate::counters::Counters;
use crate::fault::{Fault, WcStatus};
use crate::grants::Grants;
use crate::keys::Access;
use crate::limits;
use crate::lost::Holes;
use crate::opcode::{Opcode, Place};
use crate::psn::{Msn, Psn};
use crate::qp::{Qp, Storage};
use crate::resources::{ReadSlot, Reads};
use crate::time::Instant;
use crate::wire::{Aeth, Bth, HeaderBuf, NakCode, Packet, Reth, Syndrome};
use crate::wqe::{Early, Host, RecvWqe, Source, Target, Transmit};

/// The message being received.
#[derive(Clone, Copy, Debug, Default)]
enum Incoming {
    /// None.
    #[default]
    Idle,
    /// A SEND, filling a receive.
    Send { recv: RecvWqe, filled: u32 },
    /// A WRITE: what is left to write, and the length of the whole.
    Write { rest: Reth, total: u32 },
}

/// An ACK, NAK or RNR NAK waiting to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) psn: Psn,
    pub(crate) syndrome: Syndrome,
}

/// Responder half of a queue pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Responder {
    expected: Psn,
    msn: Msn,
    /// The newest SEND or WRITE carried out: what a duplicate is answered with.
    acked: Psn,
    /// The newest ACK or NAK sent.
    told: Psn,
    incoming: Incoming,
    /// A receive taken for a message of an unreliable connection that was lost: the next one's.
    spare: Option<RecvWqe>,
    answer: Option<Answer>,
    /// Requests that came before their turn.
    pub(crate) arrivals: Arrivals,
    /// Its windows that are open.
    pub(crate) grants: Grants,
    /// After an RNR NAK: until then what is ahead was sent before the peer knew.
    quiet_until: Option<Instant>,
    /// Packets carried out since the last acknowledgement.
    unanswered: u32,
    /// The user knows that the peer has begun.
    established: bool,
    pub(crate) reads: Reads,
    /// Responses that are lost and have not been sent again.
    pub(crate) holes: Holes,
    done: Option<Completion>,
    /// A request has been carried out.
    used: bool,
    /// The error NAK that ended it all.
    last_word: Option<Answer>,
    /// A response could not be built: none is sent before.
    wait_until: Option<Instant>,
    /// How often in a row, without a request in between.
    unbuilt: u8,
}

/// Why an expected request is not carried out.
enum Refusal {
    /// No receive is posted; try again later.
    NotReady,
    /// An undrained completion is in the way; as if the packet were lost.
    Busy,
    /// A page is not there; the host will hand the packet over again. The receive taken for it, if any.
    Absent(Option<RecvWqe>),
    /// The queue pair fails: NAK to the peer, and the receive that carries the error, if any.
    Fatal {
        nak: NakCode,
        recv: Option<(RecvWqe, WcStatus)>,
    },
}

impl Refusal {
    const INVALID: Self = Self::Fatal {
        nak: NakCode::InvalidRequest,
        recv: None,
    };

    fn fault(fault: Fault, recv: Option<RecvWqe>) -> Self {
        let nak = match fault {
            Fault::RemoteAccess => NakCode::RemoteAccess,
            Fault::LocalLength | Fault::RemoteInvalid => NakCode::InvalidRequest,
            Fault::LocalProtection | Fault::LocalQpOp | Fault::Bind => NakCode::RemoteOperation,
            Fault::Absent => return Self::Absent(recv),
        };
        Self::Fatal {
            nak,
            recv: recv.map(|recv| (recv, fault.status())),
        }
    }
}

impl Responder {
    /// Whether an answer is due.
    pub(crate) const fn owes(&self) -> bool {
        self.answer.is_some() || self.reads.may_be_pending()
    }

    /// Start at `psn` when entering RTR.
    pub(crate) fn start(&mut self, psn: Psn) {
        *self = Self {
            expected: psn,
            acked: psn.prev(),
            told: psn.prev(),
            ..self.ended()
        };
    }

    /// Nothing, but for the windows that are still open.
    pub(crate) fn ended(&self) -> Self {
        let mut grants = self.grants;
        grants.end();
        Self {
            grants,
            ..Self::default()
        }
    }

    /// After an RNR NAK, until the request that it was for has been carried out.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet_until.is_some()
    }

    /// Copy the resources that are remembered from one ring to a longer one.
    pub(crate) fn move_reads(&mut self, from: &[ReadSlot], to: &mut [ReadSlot]) {
        self.reads.move_to(from, to);
    }

    /// Next PSN to be carried out.
    pub(crate) const fn expected(&self) -> Psn {
        self.expected
    }

    /// The newest SEND or WRITE carried out.
    pub(crate) const fn acked(&self) -> Psn {
        self.acked
    }

    /// Messages completed.
    pub(crate) const fn msn(&self) -> Msn {
        self.msn
    }

    /// The error NAK that ended it.
    pub(crate) const fn last_word(&self) -> Option<Answer> {
        self.last_word
    }

    /// Whether the peer can have been answered anything.
    pub(crate) const fn is_used(&self) -> bool {
        self.used || self.last_word.is_some()
    }

    /// Answer nothing any more.
    pub(crate) fn silence(&mut self) {
        self.answer = None;
        self.last_word = None;
        self.reads = Reads::default();
        self.holes.clear();
        self.wait_until = None;
    }

    /// Until when a response that could not be built waits.
    pub(crate) const fn wait_until(&self) -> Option<Instant> {
        self.wait_until
    }

    /// A response could not be built: whether it is kept for later. A peer that asks no more is not answered for ever.
    pub(crate) fn hold(&mut self, now: Instant) -> bool {
        if self.unbuilt >= limits::MAX_UNBUILT {
            return false;
        }
        self.wait_until = Some(now.after(limits::wait_again(limits::UNSENT_WAIT, self.unbuilt, 0)));
        self.unbuilt = self.unbuilt.saturating_add(1);
        true
    }

    /// Time has passed.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.wait_until = self.wait_until.filter(|until| now < *until);
    }

    /// The completed receive.
    pub(crate) fn take_done(&mut self) -> Option<Completion> {
        self.done.take()
    }

    /// The receive of an unfinished message, to be flushed, or one to spare.
    pub(crate) fn take_incoming(&mut self) -> Option<RecvWqe> {
        match core::mem::take(&mut self.incoming) {
            Incoming::Send { recv, .. } => Some(recv),
            Incoming::Idle | Incoming::Write { .. } => self.spare.take(),
        }
    }

    /// A packet could not be carried out yet: the receive taken for it serves its next coming.
    fn keep_for_next(&mut self, recv: Option<RecvWqe>) {
        if !matches!(self.incoming, Incoming::Send { .. }) {
            self.spare = recv.or(self.spare);
        }
    }

    /// Put a plain ACK up to be sent, unless a NAK waits.
    fn acknowledge(&mut self) {
        self.unanswered = 0;
        if self
            .answer
            .is_none_or(|answer| matches!(answer.syndrome, Syndrome::Ack(_)))
        {
            self.answer = Some(Answer {
                psn: self.acked,
                syndrome: Syndrome::ACK,
            });
        }
    }
}

impl<S: Storage> Qp<S> {
    /// Handle a packet of the requester-to-responder direction.
    pub(crate) fn handle_request(&mut self, now: Instant, packet: &Packet, host: &mut impl Host) {
        match self.attrs.state {
            State::Rtr | State::Rts | State::Sqd | State::Sqe => {}
            State::Err => return self.repeat_last_word(),
            State::Reset | State::Init => return Counters::bump(&mut self.counters.dropped),
        }
        if self.attrs.state == State::Rtr {
            self.establish();
        }
        self.responder.unbuilt = 0;
        let responder = &self.responder;
        if responder
            .grants
            .hold(responder.expected, packet.bth.psn, packet.packets)
        {
            return Counters::bump(&mut self.counters.dropped);
        }
        let ahead = packet.bth.psn.offset(self.responder.expected);
        if ahead > 0 {
            return self.on_ahead(now, packet.bth.psn, host);
        }
        let mut packet = packet;
        let rest;
        if ahead < 0 {
            let done = ahead.unsigned_abs();
            if done >= packet.packets {
                Counters::bump(&mut self.counters.duplicate_requests);
                self.responder.arrivals.on_duplicate(packet.bth.psn);
                return self.on_duplicate(packet);
            }
            // A run that was cut elsewhere when its beginning came.
            rest = packet.without(done, self.attrs.path_mtu);
            packet = &rest;
        }
        let carried_out = self.carry_out(packet, host);
        let expected = self.responder.expected;
        if expected != packet.bth.psn && self.responder.arrivals.on_progress(now, packet.bth.psn, expected) {
            // The peer has gone back and sends again what is here.
            self.responder.acknowledge();
        }
        match carried_out {
            Ok(()) => {}
            Err(Refusal::Busy) => Counters::bump(&mut self.counters.dropped),
            Err(Refusal::Absent(recv)) => self.responder.keep_for_next(recv),
            Err(Refusal::NotReady) => {
                let code = self.attrs.min_rnr_timer;
                Counters::bump(&mut self.counters.sent_rnr_naks);
                self.responder.quiet_until = Some(now.after(limits::rnr_delay(code)));
                self.responder.arrivals.forget();
                self.responder.answer = Some(Answer {
                    psn: packet.bth.psn,
                    syndrome: Syndrome::Rnr(code),
                });
            }
            Err(Refusal::Fatal { nak, recv }) => self.refuse(packet.bth.psn, nak, recv),
        }
    }

    /// First packet in RTR: tell the user once.
    fn establish(&mut self) {
        if !self.responder.established {
            self.responder.established = true;
            self.events.raise(Event::CommEstablished);
        }
    }

    /// A packet before this one is missing.
    fn on_ahead(&mut self, now: Instant, psn: Psn, host: &mut impl Host) {
        Counters::bump(&mut self.counters.out_of_sequence);
        let responder = &mut self.responder;
        if responder.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        responder.arrivals.set_told(self.requester.is_told());
        let keep = || host.keep(Early::Request(psn));
        let is_due = responder.arrivals.on_ahead(now, responder.expected, psn, keep);
        if !responder.arrivals.has(psn) {
            responder.grants.on_dropped();
        }
        if is_due {
            self.report_missing();
        }
    }

    /// The expected packet counts as lost.
    pub(crate) fn report_missing(&mut self) {
        let responder = &mut self.responder;
        // What is expected comes by a window, or is told if it does not.
        if responder.grants.is_open() {
            return;
        }
        responder.answer = Some(Answer {
            psn: responder.expected,
            syndrome: Syndrome::Nak(NakCode::Sequence),
        });
        Counters::bump(&mut self.counters.sent_seq_naks);
    }

    /// A request that was carried out before. IBTA 9.7.4.1.2, C9-105.
    fn on_duplicate(&mut self, packet: &Packet) {
        match packet.opcode {
            Opcode::Send { .. } | Opcode::SendInvalidate { .. } | Opcode::Write { .. } => {
                self.responder.acknowledge();
            }
            _ => self.answer_again(packet),
        }
    }

    /// The receive for the message at hand.
    fn next_recv(&mut self, host: &mut impl Host) -> Option<RecvWqe> {
        self.responder.spare.take().or_else(|| host.take_recv())
    }

    /// Carry out the expected request.
    fn carry_out(&mut self, packet: &Packet, host: &mut impl Host) -> Result<(), Refusal> {
        if self.responder.done.is_some() {
            return Err(Refusal::Busy);
        }
        match (packet.opcode, self.responder.incoming) {
            (Opcode::Send { place, .. } | Opcode::SendInvalidate { place }, Incoming::Idle) if place.starts() => {
                self.check_payload(packet, place)?;
                let recv = self.next_recv(host).ok_or(Refusal::NotReady)?;
                self.receive(packet, place, recv, 0, host)
            }
            (Opcode::Send { place, .. } | Opcode::SendInvalidate { place }, Incoming::Send { recv, filled })
                if !place.starts() =>
            {
                self.check_payload(packet, place)?;
                self.receive(packet, place, recv, filled, host)
            }
            (Opcode::Write { place, .. }, Incoming::Idle) if place.starts() => {
                let reth = packet.reth.ok_or(Refusal::INVALID)?;
                if !self.attrs.access.allows(Access::REMOTE_WRITE) || reth.length > limits::MAX_MESSAGE_LEN {
                    return Err(Refusal::INVALID);
                }
                if reth.length > 0 {
                    host.check(reth.rkey, reth.va, reth.length, Access::REMOTE_WRITE)
                        .map_err(|fault| Refusal::fault(fault, None))?;
                }
                self.write(packet, place, reth, reth.length, host)
            }
            (Opcode::Write { place, .. }, Incoming::Write { rest, total }) if !place.starts() => {
                self.write(packet, place, rest, total, host)
            }
            (Opcode::ReadRequest, Incoming::Idle) => self.read(packet, host),
            (Opcode::CompareSwap | Opcode::FetchAdd, Incoming::Idle) => self.atomic(packet, host),
            (Opcode::AtomicWrite, Incoming::Idle) => self.atomic_write(packet, host),
            (Opcode::Flush, Incoming::Idle) => self.flush(packet, host),
            _ => Err(Refusal::INVALID),
        }
    }

    /// Payload lengths a SEND or WRITE packet may have, IBTA 9.7.4.1.6.
    fn check_payload(&self, packet: &Packet, place: Place) -> Result<(), Refusal> {
        if packet.has_length(place, self.attrs.path_mtu) {
            Ok(())
        } else {
            Err(Refusal::INVALID)
        }
    }

    /// A SEND packet into `recv`, of which `filled` bytes are used.
    fn receive(
        &mut self,
        packet: &Packet,
        place: Place,
        recv: RecvWqe,
        filled: u32,
        host: &mut impl Host,
    ) -> Result<(), Refusal> {
        let fail = |fault| Refusal::fault(fault, Some(recv));
        if let Some(fault) = recv.fault {
            return Err(fail(fault));
        }
        let total = filled
            .checked_add(packet.payload.len)
            .filter(|total| *total <= recv.length)
            .ok_or_else(|| fail(Fault::LocalLength))?;
        if packet.payload.len > 0 {
            let to = Target::Recv {
                slot: recv.slot,
                offset: filled,
            };
            host.place(to, packet.payload).map_err(fail)?;
        }
        if let Some(key) = packet.invalidate {
            host.invalidate(key).map_err(fail)?;
        }
        self.responder.incoming = Incoming::Send { recv, filled: total };
        if place.ends() {
            self.complete_recv(packet, recv, WcOpcode::Recv, total);
        }
        self.on_carried_out(packet, place.ends());
        Ok(())
    }

    /// A WRITE packet; `rest` is what its message still has to write.
    fn write(
        &mut self,
        packet: &Packet,
        place: Place,
        rest: Reth,
        total: u32,
        host: &mut impl Host,
    ) -> Result<(), Refusal> {
        self.check_payload(packet, place)?;
        let len = packet.payload.len;
        let left = rest.length.checked_sub(len).ok_or(Refusal::INVALID)?;
        if place.ends() != (left == 0) {
            return Err(Refusal::INVALID);
        }
        let recv = match packet.imm {
            Some(_) => Some(self.next_recv(host).ok_or(Refusal::NotReady)?),
            None => None,
        };
        let fail = |fault| Refusal::fault(fault, recv);
        if let Some(fault) = recv.and_then(|recv| recv.fault) {
            return Err(fail(fault));
        }
        if len > 0 {
            let to = Target::Region {
                rkey: rest.rkey,
                va: rest.va,
            };
            host.place(to, packet.payload).map_err(fail)?;
        }
        let va = rest.va.wrapping_add(u64::from(len));
        let rest = Reth {
            va,
            length: left,
            ..rest
        };
        self.responder.incoming = Incoming::Write { rest, total };
        if place.ends() {
            self.responder.incoming = Incoming::Idle;
            if let Some(recv) = recv {
                self.complete_recv(packet, recv, WcOpcode::RecvWithImm, total);
            }
        }
        self.on_carried_out(packet, place.ends());
        Ok(())
    }

    /// Book a SEND or WRITE packet as carried out and answer it if asked to.
    fn on_carried_out(&mut self, packet: &Packet, ends: bool) {
        let responder = &mut self.responder;
        let next = packet.bth.psn.plus(packet.packets);
        responder.on_expected(next, ends);
        if self.config.kind != QpKind::Rc {
            return;
        }
        responder.acked = next.prev();
        responder.unanswered = responder.unanswered.saturating_add(packet.packets);
        // An ACK that has not left yet may as well say all.
        if packet.bth.ack_request || responder.answer.is_some() || responder.unanswered >= limits::MAX_PACKETS_PER_ACK {
            responder.acknowledge();
        }
    }

    /// The next ACK, NAK or RNR NAK, if no READ response has to go before it.
    pub(crate) fn poll_answer(&mut self) -> Option<Transmit> {
        let answer = self.responder.answer?;
        if self.responder.wait_until.is_some() {
            return None;
        }
        if let Some((_, next)) = self.next_read() {
            let plain = matches!(answer.syndrome, Syndrome::Ack(_));
            if plain && answer.psn.before(next) {
                // The READ response acknowledges it too.
                self.responder.answer = None;
            }
            return None;
        }
        self.responder.answer = None;
        self.responder.told = answer.psn;
        let header = self.response_header(Opcode::Acknowledge, answer.psn, 0, answer.syndrome);
        Some(Transmit {
            header,
            payload: Source::None,
            pad: 0,
            psn: answer.psn,
            packets: 1,
            route: None,
        })
    }

    /// A response has not left: it is still to be sent.
    pub(crate) fn take_back_response(&mut self, transmit: &Transmit, opcode: Opcode) {
        if opcode != Opcode::Acknowledge {
            let slots = self.storage.reads_mut();
            if !self.responder.reads.take_back(slots, transmit, opcode) {
                self.take_back_lost(transmit);
            }
            return;
        }
        let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).ok();
        let answer = packet.and_then(|packet| packet.aeth).map(|aeth| Answer {
            psn: transmit.psn,
            syndrome: aeth.syndrome,
        });
        self.responder.answer = self.responder.answer.or(answer);
    }

    /// The ACK or NAK at `psn` is lost. A newer one says more, and is told of as well.
    pub(crate) fn answer_lost(&mut self, psn: Psn) {
        if self.attrs.state == State::Err {
            return self.repeat_last_word();
        }
        let responder = &mut self.responder;
        if responder.answer.is_some() || psn != responder.told {
            return;
        }
        if psn == responder.expected && responder.quiet_until.is_some() {
            // The peer does not know that it is to wait.
            responder.answer = Some(Answer {
                psn,
                syndrome: Syndrome::Rnr(self.attrs.min_rnr_timer),
            });
        } else {
            responder.acknowledge();
        }
    }

    /// What is still to be answered is not, until the peer asks again.
    pub(crate) fn give_up_responses(&mut self) {
        self.responder.answer = None;
        self.responder.holes.clear();
        self.responder.reads.give_up(self.storage.reads_mut());
    }

    /// Whether the answer to the packets at hand may wait for the next ones: a plain ACK, and a few packets of
    /// responses.
    pub(crate) fn is_patient(&mut self) -> bool {
        let told = self.responder.told;
        let patient = |answer: Answer| {
            matches!(answer.syndrome, Syndrome::Ack(_)) && answer.psn.distance(told) < limits::MAX_HELD_PACKETS
        };
        match (self.responder.answer, self.waiting_responses()) {
            (None, 0) => false,
            (Some(answer), responses) => patient(answer) && responses < limits::MAX_HELD_RESPONSES,
            (None, responses) => responses < limits::MAX_HELD_RESPONSES,
        }
    }

    /// BTH and, where the opcode has one, AETH of a response.
    pub(crate) fn response_header(&mut self, opcode: Opcode, psn: Psn, pad: u8, syndrome: Syndrome) -> HeaderBuf {
        Counters::bump(&mut self.counters.sent_responses);
        let mut header = HeaderBuf::new();
        let bth = Bth {
            opcode: opcode.encode_rc(),
            solicited: false,
            migrated: false,
            run: false,
            pad,
            pkey: limits::DEFAULT_PKEY,
            dest: self.attrs.dest_qpn,
            ack_request: false,
            psn,
        };
        header.push(&bth.bytes());
        if opcode.has_aeth() {
            header.push(
                &Aeth {
                    syndrome,
                    msn: self.responder.msn,
                }
                .bytes(),
            );
        }
        header
    }

    /// The receive `recv` is filled.
    fn complete_recv(&mut self, packet: &Packet, recv: RecvWqe, opcode: WcOpcode, byte_len: u32) {
        self.responder.incoming = Incoming::Idle;
        self.responder.done = Some(Completion {
            queue: Queue::Recv,
            wr_id: recv.wr_id,
            slot: recv.slot,
            status: WcStatus::Success,
            opcode,
            byte_len,
            imm: packet.imm,
            invalidated: packet.invalidate,
            src_qpn: None,
            solicited: packet.bth.solicited,
            signalled: true,
            qpn: self.config.qpn,
        });
    }

    /// Refuse the request at `psn` for good: NAK, error completion or event, ERR.
    fn refuse(&mut self, psn: Psn, nak: NakCode, recv: Option<(RecvWqe, WcStatus)>) {
        let in_hand = self.responder.take_incoming().map(|recv| {
            let status = match nak {
                NakCode::RemoteAccess => WcStatus::RemoteAccess,
                _ => WcStatus::RemoteInvalidRequest,
            };
            (recv, status)
        });
        match recv.or(in_hand) {
            Some((recv, status)) => {
                self.fail_recv(recv, status);
            }
            // IBTA C9-222.1: without a receive to carry it, the error is an event.
            None => self.events.raise(match nak {
                NakCode::RemoteAccess => Event::AccessError,
                _ => Event::RequestError,
            }),
        }
        self.say_last_word(psn, nak);
        self.enter_error();
    }

    /// The receive `recv` fails.
    fn fail_recv(&mut self, recv: RecvWqe, status: WcStatus) {
        self.responder.done = Some(Completion {
            queue: Queue::Recv,
            wr_id: recv.wr_id,
            slot: recv.slot,
            status,
            opcode: WcOpcode::Recv,
            byte_len: 0,
            imm: None,
            invalidated: None,
            src_qpn: None,
            solicited: true,
            signalled: true,
            qpn: self.config.qpn,
        });
    }

    /// A READ response could not be read from memory.
    pub(crate) fn on_response_fault(&mut self, psn: Psn) {
        if matches!(self.attrs.state, State::Reset | State::Init) {
            return;
        }
        self.responder.reads = Reads::default();
        self.responder.holes.clear();
        self.say_last_word(psn, NakCode::RemoteAccess);
        if self.attrs.state != State::Err {
            self.events.raise(Event::AccessError);
            self.enter_error();
        }
    }

    fn say_last_word(&mut self, psn: Psn, nak: NakCode) {
        Counters::bump(&mut self.counters.sent_error_naks);
        let answer = Answer {
            psn,
            syndrome: Syndrome::Nak(nak),
        };
        self.responder.answer = Some(answer);
        self.responder.last_word = Some(answer);
    }

    /// In ERR after refusing a request: the peer asks again because the NAK was lost. Saying it
    /// again gives the peer the true status instead of a timeout.
    /// It also answers what came before the refused request and was carried out: after a timeout the
    /// peer asks with its oldest request alone, and a NAK acknowledges all before it.
    fn repeat_last_word(&mut self) {
        match self.responder.last_word {
            Some(answer) => self.responder.answer = Some(answer),
            None => Counters::bump(&mut self.counters.dropped),
        }
    }
}

impl Responder {
    /// An expected request was carried out; the next one is `next`.
    fn on_expected(&mut self, next: Psn, ends: bool) {
        self.expected = next;
        self.used = true;
        self.quiet_until = None;
        if ends {
            self.msn = self.msn.next();
        }
        // A sequence or RNR NAK not yet sent has been overtaken.
        if self
            .answer
            .is_some_and(|answer| !matches!(answer.syndrome, Syndrome::Ack(_)))
        {
            self.answer = None;
        }
    }
}
