// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The queue pair: states, attributes, and the calls that drive it.
//!
//! ```text
//!             modify            modify          modify           modify
//!   RESET ------------> INIT ----------> RTR ----------> RTS <----------> SQD
//!     ^                                   |   receives    |  sends too     |
//!     |                                   v               v                v
//!     +------------- modify ------------ ERR <---- any fatal fault, modify
//! ```
//!
//! IBTA 10.3.1. From each state, on the left, a modify leads to these; a test draws the table from [`Qp::modify`]:
//!
//! ```text
//!   RESET   RESET INIT                          ERR
//!   INIT    RESET INIT  RTR                     ERR
//!   RTR     RESET       RTR   RTS               ERR
//!   RTS     RESET             RTS   SQD         ERR
//!   SQD     RESET             RTS   SQD         ERR
//!   SQE     RESET             RTS         SQE   ERR
//!   ERR     RESET                               ERR
//! ```
//!
//! A failed send moves a queue pair of an unreliable service from RTS to SQE instead:
//! sends are flushed, receives go on, and a modify leads back to RTS.

use crate::completion::{Completion, Event, Events, Queue, WcOpcode};
use crate::cork::Post;
use crate::counters::Counters;
use crate::fault::{Fault, WcStatus};
use crate::limits;
use crate::opcode::Class;
use crate::psn::{Psn, Qpn};
use crate::requester::Requester;
use crate::responder::Responder;
use crate::time::Instant;
use crate::wire::Packet;
use crate::wqe::{AtomicOp, Early, Host, Room, Route, SendOp, Source, Transmit};

pub use crate::attrs::{Modify, ModifyError, Mtu, QpAttrs, QpConfig, QpKind, State};

pub use crate::resources::ReadSlot as ReadResource;
pub use crate::window::SendSlot as SendMessage;

/// Memory of a queue pair, supplied by the caller. The slices must keep their lengths.
pub trait Storage: Send {
    /// The active send window: one slot per message taken and not yet completed. At least 1; more
    /// than [`limits::MAX_SEND_SLOTS`] are not used.
    fn sends(&self) -> &[SendMessage];
    /// As [`Storage::sends`].
    fn sends_mut(&mut self) -> &mut [SendMessage];
    /// Responder resources: one slot per READ that may be asked for again. More than
    /// [`limits::MAX_RD_ATOMIC`] are not used; none means the peer may not READ.
    fn reads(&self) -> &[ReadResource];
    /// As [`Storage::reads`].
    fn reads_mut(&mut self) -> &mut [ReadResource];
}

/// [`Storage`] of any two things that lend slices: `KVec`, `Vec`, boxes, mutable borrows.
#[derive(Debug)]
pub struct Slots<A, B> {
    /// The send window, filled with [`SendMessage::EMPTY`].
    pub sends: A,
    /// The responder resources, filled with [`ReadResource::EMPTY`].
    pub reads: B,
}

/// What a send queue still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Messages taken from the queue and not completed.
    pub messages: u32,
    /// PSNs sent and not acknowledged.
    pub unacked: u32,
    /// The peer had no receive posted: nothing is sent for a while.
    pub peer_not_ready: bool,
}

impl<A, B> Qp<Slots<A, B>>
where
    A: core::ops::DerefMut<Target = [SendMessage]> + Send,
    B: core::ops::DerefMut<Target = [ReadResource]> + Send,
{
    /// How many responder resources there is memory for: the most that `max_dest_rd_atomic` may be.
    pub fn read_capacity(&self) -> usize {
        self.storage.reads.len()
    }

    /// Go on with `fresh` as the responder resources, which is filled with [`ReadResource::EMPTY`], and give the old
    /// ones back in it. If `fresh` is not longer than they are nothing happens.
    pub fn swap_reads(&mut self, fresh: &mut B) {
        if fresh.len() > self.storage.reads.len() {
            self.responder.move_reads(&self.storage.reads, fresh);
            core::mem::swap(&mut self.storage.reads, fresh);
        }
    }
}

impl<A, B> Storage for Slots<A, B>
where
    A: core::ops::DerefMut<Target = [SendMessage]> + Send,
    B: core::ops::DerefMut<Target = [ReadResource]> + Send,
{
    fn sends(&self) -> &[SendMessage] {
        &self.sends
    }
    fn sends_mut(&mut self) -> &mut [SendMessage] {
        &mut self.sends
    }
    fn reads(&self) -> &[ReadResource] {
        &self.reads
    }
    fn reads_mut(&mut self) -> &mut [ReadResource] {
        &mut self.reads
    }
}

/// What the caller knows of sends that a program has posted.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// Bytes of the last one.
    pub length: u32,
    /// Sends that wait in the queue, those included.
    pub waiting: u32,
    /// How far the program has read its completions of sends and of receives, in numbers that change with it.
    pub read: [u32; 2],
}

/// One queue pair.
///
/// # Invariants
///
/// A WQE taken from the host is held in the send window or in the responder until its completion is
/// polled; no WQE is held in RESET and INIT.
#[derive(Debug)]
pub struct Qp<S> {
    pub(crate) config: QpConfig,
    pub(crate) attrs: QpAttrs,
    pub(crate) requester: Requester,
    pub(crate) responder: Responder,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
    pub(crate) storage: S,
    /// Whether the last packet out was a request: requests and READ responses take turns.
    pub(crate) last_was_request: bool,
}

impl<S: Storage> Qp<S> {
    /// A queue pair in RESET with the given memory.
    pub fn new(config: QpConfig, storage: S) -> Self {
        Self {
            config,
            attrs: QpAttrs::reset(config.kind),
            requester: Requester::default(),
            responder: Responder::default(),
            events: Events::default(),
            counters: Counters::default(),
            storage,
            last_was_request: false,
        }
    }

    /// Change attributes and state.
    ///
    /// Entering ERR keeps the WQEs: they come out of [`Qp::poll_completion`] flushed. Entering RESET
    /// forgets them without completions; the caller empties its own queues.
    ///
    /// # Errors
    ///
    /// [`ModifyError`]; then nothing has changed.
    pub fn modify(&mut self, _now: Instant, modify: &Modify) -> Result<(), ModifyError> {
        let mut attrs = self.attrs;
        self.apply(&mut attrs, modify)?;
        let from = self.attrs.state;
        let to = modify.state.unwrap_or(from);
        match (from, to) {
            (_, State::Reset) => {
                self.attrs = QpAttrs::reset(self.config.kind);
                self.requester = Requester::default();
                self.responder = self.responder.ended();
                self.events = Events::default();
                return Ok(());
            }
            (State::Err, State::Err) => {}
            (_, State::Err) => {
                self.attrs = attrs;
                self.responder.silence();
                self.enter_error();
                return Ok(());
            }
            (State::Reset | State::Init, State::Init)
            | (State::Rtr, State::Rtr)
            | (State::Rts | State::Sqd, State::Rts) => attrs.sq_draining = false,
            (State::Sqe, State::Rts) => self.requester.resume(),
            (State::Init, State::Rtr) if self.config.kind.is_datagram() => {
                self.responder.start(attrs.rq_psn);
            }
            (State::Init, State::Rtr) => {
                let (Some(psn), Some(_), Some(_)) = (modify.rq_psn, modify.dest_qpn, modify.path_mtu) else {
                    return Err(ModifyError::Missing);
                };
                self.responder.start(psn);
            }
            (State::Rtr, State::Rts) => {
                let psn = modify.sq_psn.ok_or(ModifyError::Missing)?;
                self.requester.start(psn, &attrs);
            }
            (State::Rts, State::Sqd) => {
                attrs.sq_draining = true;
                self.requester.ask_now = true;
                attrs.sqd_event = modify.sqd_event;
            }
            (State::Sqd, State::Sqd) | (State::Sqe, State::Sqe) => {}
            _ => return Err(ModifyError::Transition),
        }
        attrs.state = to;
        self.attrs = attrs;
        Ok(())
    }

    /// Check and copy the attributes that are given.
    fn apply(&self, attrs: &mut QpAttrs, modify: &Modify) -> Result<(), ModifyError> {
        let resources = self.storage.reads().len().min(limits::MAX_RD_ATOMIC);
        set(&mut attrs.path_mtu, modify.path_mtu, |_| true)?;
        set(&mut attrs.dest_qpn, modify.dest_qpn, |_| true)?;
        set(&mut attrs.rq_psn, modify.rq_psn, |_| true)?;
        set(&mut attrs.sq_psn, modify.sq_psn, |_| true)?;
        set(&mut attrs.max_rd_atomic, modify.max_rd_atomic, |n| {
            usize::from(n) <= limits::MAX_RD_ATOMIC
        })?;
        set(&mut attrs.max_dest_rd_atomic, modify.max_dest_rd_atomic, |n| {
            usize::from(n) <= resources
        })?;
        set(&mut attrs.min_rnr_timer, modify.min_rnr_timer, |n| n < 32)?;
        set(&mut attrs.timeout, modify.timeout, |n| n <= limits::MAX_TIMEOUT)?;
        set(&mut attrs.retry_cnt, modify.retry_cnt, |n| n <= limits::MAX_RETRY)?;
        set(&mut attrs.rnr_retry, modify.rnr_retry, |n| n <= limits::MAX_RETRY)?;
        set(&mut attrs.qkey, modify.qkey, |_| true)?;
        set(&mut attrs.access, modify.access, |_| true)
    }

    /// New sends may have been posted, or a state change may let posted ones run.
    pub fn handle_doorbell(&mut self, _now: Instant, _host: &mut impl Host) {
        self.requester.doorbell();
    }

    /// A program has posted sends and may post more at once: as [`Qp::handle_doorbell`], but short ones may be held
    /// until there are some of them ([`crate::cork`]).
    pub fn handle_post(&mut self, now: Instant, posted: Posted) {
        if posted.waiting > 0 && self.attrs.state == State::Rts {
            let [sends_read, recvs_read] = posted.read;
            let post = Post {
                packets: self.attrs.path_mtu.packets(posted.length).max(1),
                waiting: posted.waiting,
                under_way: self.requester.under_way(),
                news: [sends_read, recvs_read, self.responder.expected().value()],
            };
            self.requester.cork.on_post(now, post);
        }
        self.requester.doorbell();
    }

    /// Handle a received packet that was addressed to this queue pair: its ICRC, addresses, P_Key
    /// and destination number have been checked. `host` can reach its payload.
    ///
    /// Drain [`Qp::poll_completion`] before the next packet: one finished receive is kept, and while
    /// it waits further requests are dropped as if lost.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet, host: &mut impl Host) {
        Counters::bump(&mut self.counters.received);
        let mut packet = packet;
        let run;
        if packet.bth.run {
            // As many packets as its payload fills.
            run = packet.run(self.attrs.path_mtu.packets(packet.payload.len));
            packet = &run;
        }
        if !packet.is_sound() {
            return Counters::bump(&mut self.counters.dropped);
        }
        match (self.config.kind, packet.class) {
            (QpKind::Rc, Class::Rc) if packet.opcode.is_response() => self.handle_response(now, packet, host),
            (QpKind::Rc, Class::Rc) => self.handle_request(now, packet, host),
            (QpKind::Uc, Class::Uc) => self.handle_unreliable(packet, host),
            (QpKind::Ud | QpKind::Gsi, Class::Ud) if packet.packets == 1 => self.handle_datagram(packet, host),
            _ => Counters::bump(&mut self.counters.dropped),
        }
    }

    /// Local ACK timeouts in a row.
    pub fn timeouts(&self) -> u8 {
        self.requester.timeouts
    }

    /// A packet that the host has kept ([`Host::keep`]) whose turn has come: hand it in by [`Qp::handle_packet`] once
    /// the completions have been drained. Call it after every packet until there is none.
    pub fn poll_early(&mut self) -> Option<Early> {
        let expected = self.responder.expected();
        if self.responder.arrivals.has(expected) {
            self.responder.arrivals.take(expected);
            return Some(Early::Request(expected));
        }
        if self.responder.grants.misses() {
            self.report_missing();
        }
        let psn = self.early_response()?;
        self.requester.arrivals.take(psn);
        Some(Early::Response(psn))
    }

    /// Whether a packet that the host has kept is still wanted.
    pub fn is_early(&self, early: Early) -> bool {
        match early {
            Early::Request(psn) => self.responder.arrivals.has(psn),
            Early::Response(psn) => self.requester.arrivals.has(psn),
        }
    }

    /// Let time pass: call when [`Qp::poll_timeout`] is due. Calling early does no harm.
    pub fn handle_timeout(&mut self, now: Instant, _host: &mut impl Host) {
        self.check_timers(now);
    }

    /// The port was down and is up: poll transmits then.
    pub fn handle_port_up(&mut self) {
        if self.config.kind == QpKind::Rc {
            self.on_way_back();
        }
    }

    /// Call before [`Qp::handle_timeout`] while packets of this queue pair wait in the host's own queue: an
    /// acknowledgement of what has not left is not late.
    pub fn handle_backlog(&mut self, now: Instant) {
        self.postpone(now);
    }

    /// The host's own queue had no room for the request packet at `psn`, nor for what was polled after it. They are
    /// sent again later, which costs no retry.
    pub fn handle_unsent(&mut self, now: Instant, psn: Psn) {
        if self.config.kind == QpKind::Rc && matches!(self.attrs.state, State::Rts | State::Sqd) {
            self.take_back(now, psn);
        }
    }

    /// The frame of `transmit`, polled last, could not be built, for want of memory or of a way: nothing has left, and
    /// the packet waits in the engine for a later poll, after [`Qp::poll_timeout`]. An unreliable connection gives up
    /// what is left of its message, and a datagram is lost.
    pub fn handle_unbuilt(&mut self, now: Instant, transmit: &Transmit) {
        match transmit.opcode() {
            Some((Class::Rc, opcode)) if opcode.is_response() => {
                if self.responder.hold(now) {
                    self.take_back_response(transmit, opcode);
                } else {
                    self.give_up_responses();
                }
            }
            Some((Class::Rc, _)) => self.handle_unsent(now, transmit.psn),
            Some((Class::Uc, _)) => self.give_up(transmit.psn),
            _ => {}
        }
    }

    /// How many queue pairs of this host are stuck ([`Qp::is_stuck`]), this one or not: the more they are the longer
    /// each waits before it tries again.
    pub fn handle_company(&mut self, stuck: u32) {
        self.requester.company = stuck;
    }

    /// Whether timers run out one after the other and nothing is acknowledged.
    pub fn is_stuck(&self) -> bool {
        self.requester.vain >= limits::STUCK_AFTER && matches!(self.attrs.state, State::Rts | State::Sqd)
    }

    /// When [`Qp::handle_timeout`] is next due, which may be in the past. It changes with every call that
    /// moves the machine.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline()
    }

    /// Whether the caller, after a packet, may wait with [`Qp::poll_transmit`] until it has handled those that came
    /// with it: one ACK then answers all, and short READ responses leave together. It must not wait longer than that.
    pub fn may_wait(&mut self) -> bool {
        self.is_patient()
    }

    /// The next packet to send, or run of packets as far as `room` goes, if one may be sent now. The caller must send
    /// it or report [`Qp::handle_gather_fault`]; what it drops counts as lost.
    pub fn poll_transmit(&mut self, now: Instant, room: Room, host: &mut impl Host) -> Option<Transmit> {
        if let Some(answer) = self.poll_answer() {
            return Some(answer);
        }
        let turn = self.last_was_request;
        let transmit = if turn {
            self.poll_read_response(room)
                .or_else(|| self.poll_request(now, room, host))
        } else {
            match self.poll_request(now, room, host) {
                Some(request) => Some(request),
                None => self.poll_read_response(room),
            }
        };
        self.last_was_request = !turn;
        transmit
    }

    /// As [`Qp::poll_transmit`], but only an ACK or NAK: for a caller that may not send more than that now.
    pub fn poll_acknowledgement(&mut self) -> Option<Transmit> {
        self.poll_answer()
    }

    /// The payload of `transmit` could not be read, and the packet was not sent.
    ///
    /// A send completes in its turn with the fault's status and the queue pair goes to ERR, an unreliable one to SQE. A
    /// READ response becomes NAK remote access error. Of an unreliable queue pair report it before its completions are
    /// polled: a datagram whose path is unknown too. [`Fault::Absent`] is no fault: the packet waits, as in
    /// [`Qp::handle_unbuilt`], and a response is polled again at once, so poll no more until the page is there.
    pub fn handle_gather_fault(&mut self, now: Instant, transmit: &Transmit, fault: Fault, _host: &mut impl Host) {
        if fault == Fault::Absent {
            return match transmit.opcode() {
                Some((Class::Rc, opcode)) if opcode.is_response() => self.take_back_response(transmit, opcode),
                _ => self.handle_unbuilt(now, transmit),
            };
        }
        match (transmit.route, transmit.payload) {
            (Some(Route { slot, .. }), _) | (None, Source::Send { slot, .. }) => self.on_send_fault(slot, fault),
            (None, Source::Region { .. }) => self.on_response_fault(transmit.psn),
            (None, Source::None) => {}
        }
    }

    /// The next completion, send and receive queue each in order. In ERR it also takes what is
    /// posted and flushes it, so call it again when more may have been posted.
    pub fn poll_completion(&mut self, host: &mut impl Host) -> Option<Completion> {
        self.fail_faulty_head();
        if let Some(wqe) = self.pop_completed_send() {
            Counters::bump(&mut self.counters.sends_completed);
            return Some(self.send_completion(&wqe, WcStatus::Success));
        }
        if let Some(done) = self.responder.take_done() {
            Counters::bump(&mut self.counters.recvs_completed);
            return Some(done);
        }
        if !matches!(self.attrs.state, State::Err | State::Sqe) {
            return None;
        }
        if let Some((wqe, status)) = self.pop_failed_send() {
            return Some(self.send_completion(&wqe, status));
        }
        if let Some(wqe) = host.take_send() {
            return Some(self.send_completion(&wqe, WcStatus::Flushed));
        }
        if self.attrs.state == State::Sqe {
            return None;
        }
        let recv = match self.responder.take_incoming() {
            Some(recv) => recv,
            None if self.config.srq => return None,
            None => host.take_recv()?,
        };
        Some(Completion {
            queue: Queue::Recv,
            wr_id: recv.wr_id,
            slot: recv.slot,
            status: WcStatus::Flushed,
            opcode: WcOpcode::Recv,
            byte_len: 0,
            imm: None,
            invalidated: None,
            src_qpn: None,
            solicited: true,
            signalled: true,
            qpn: self.config.qpn,
        })
    }

    /// The next asynchronous event. Poll after the completions.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.attrs.sq_draining && self.requester.is_drained() {
            self.attrs.sq_draining = false;
            if self.attrs.sqd_event {
                self.events.raise(Event::SqDrained);
            }
        }
        self.events.take()
    }

    /// The state.
    pub fn state(&self) -> State {
        self.attrs.state
    }

    /// The attributes in force.
    pub fn query(&self) -> QpAttrs {
        let mut attrs = self.attrs;
        match attrs.state {
            State::Reset | State::Init => {}
            _ => attrs.rq_psn = self.responder.expected(),
        }
        match attrs.state {
            State::Rts | State::Sqd | State::Sqe => attrs.sq_psn = self.requester.next_psn(),
            _ => {}
        }
        attrs
    }

    /// What the send queue still has to do.
    pub fn backlog(&self) -> Backlog {
        let requester = &self.requester;
        let messages = requester.window.len().saturating_sub(requester.window.done());
        Backlog {
            messages: u32::try_from(messages).unwrap_or(u32::MAX),
            unacked: requester.nxt.distance(requester.una),
            peer_not_ready: requester.wait_until.is_some(),
        }
    }

    /// The path MTU in force.
    pub fn path_mtu(&self) -> Mtu {
        self.attrs.path_mtu
    }

    /// The peer's number, if no request of this queue pair is under way, nor an answer due: of whoever answers READs
    /// nothing tells whether more are coming.
    pub fn is_at_rest(&self) -> Option<Qpn> {
        let rests = self.requester.nxt == self.requester.una && !self.responder.owes();
        rests.then_some(self.attrs.dest_qpn)
    }

    /// What was fixed at creation.
    pub fn config(&self) -> &QpConfig {
        &self.config
    }

    /// The machine, for somebody who debugs it: attributes, requester, responder.
    pub fn machine(&self) -> [&dyn core::fmt::Debug; 3] {
        [&self.attrs, &self.requester, &self.responder]
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Enter ERR after a fault; what is to be flushed comes out of [`Qp::poll_completion`].
    pub(crate) fn enter_error(&mut self) {
        self.attrs.state = State::Err;
        self.attrs.sq_draining = false;
        self.requester.stop();
        self.requester.arrivals.forget();
        self.responder.arrivals.forget();
        if self.config.srq {
            self.events.raise(Event::LastWqeReached);
        }
    }

    /// The key of datagrams.
    pub(crate) fn qkey(&self) -> u32 {
        match self.config.kind {
            QpKind::Gsi => limits::GSI_QKEY,
            _ => self.attrs.qkey,
        }
    }

    /// The completion of a send.
    fn send_completion(&self, wqe: &crate::wqe::SendWqe, status: WcStatus) -> Completion {
        let success = status == WcStatus::Success;
        Completion {
            queue: Queue::Send,
            wr_id: wqe.wr_id,
            slot: wqe.slot,
            status,
            opcode: match wqe.op {
                SendOp::Send | SendOp::SendImm | SendOp::SendInvalidate { .. } => WcOpcode::Send,
                SendOp::Write | SendOp::WriteImm => WcOpcode::Write,
                SendOp::Read => WcOpcode::Read,
                SendOp::Atomic(AtomicOp::CompareSwap { .. }) => WcOpcode::CompareSwap,
                SendOp::Atomic(AtomicOp::FetchAdd { .. }) => WcOpcode::FetchAdd,
                SendOp::AtomicWrite => WcOpcode::AtomicWrite,
                SendOp::Flush(_) => WcOpcode::Flush,
                SendOp::LocalInvalidate => WcOpcode::LocalInvalidate,
                SendOp::BindWindow => WcOpcode::BindWindow,
                SendOp::Register => WcOpcode::Register,
            },
            byte_len: if success { wqe.length } else { 0 },
            imm: None,
            invalidated: None,
            src_qpn: None,
            solicited: !success,
            signalled: wqe.signalled || !success,
            qpn: self.config.qpn,
        }
    }
}

/// Overwrite `field` if a value is given and passes.
fn set<T: Copy>(field: &mut T, value: Option<T>, ok: impl Fn(T) -> bool) -> Result<(), ModifyError> {
    match value {
        None => Ok(()),
        Some(v) if ok(v) => {
            *field = v;
            Ok(())
        }
        Some(_) => Err(ModifyError::Range),
    }
}
