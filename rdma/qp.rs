// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queue pairs: the engine's decisions carried out.
//!
//! Doorbells, packets and the timer are events ([`Event`]). Each ends in [`Qp::work`], in the context that it comes
//! from: [`Qp::handle`] has the engine handle it under the QP's lock and writes completions, and [`Qp::send`] sends the
//! frames that were built, after the lock is released. One CPU at a time sends for a QP, so frames leave in order;
//! whoever comes meanwhile leaves the work to it.

mod create;
mod phase;
mod show;

pub(crate) use create::NewQp;

use self::phase::{Pace, Phase};
use crate::{
    attr, caps,
    counters::Tally,
    cq::{Cq, Extra},
    device::Device,
    host::{Own, PayloadOf},
    kapi::{
        hint::hint,
        netdev::{FrameDone, Netdev},
        queue::Mapping,
        revoke::Gate,
        route::renew_late,
        share::Owner,
        sync::{BhLock, IrqLock},
        tasklet::{Deferred, Tasklet},
        timer::{now, Timed, Timer},
        uverbs::{udp_sport, KeptAttr, QpAttr, QpEvent, QpHandle},
    },
    memory::Memory,
    needs::Needs,
    paging::Paging,
    payload::Payload,
    post::Poster,
    watch,
    window::Life,
    wire::{
        native,
        udp::{
            run,
            send::{self, Batch, NotBuilt, Way, BATCH},
            Flight,
        },
        Wire,
    },
    wq::SendQueue,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, Mutex,
    },
};
use roce::{
    completion::{self, Queue, WcStatus},
    counters::Counters,
    ends::Ends,
    keys::Pd,
    limits,
    parking::Errand,
    psn::Qpn,
    qp::{ModifyError, Mtu, QpKind, ReadResource, SendMessage, Slots, State as QpState},
    runs::Runs,
    time::Instant,
    wire::{udp::Path, Packet},
    wqe::{Fault, Room, Route},
};
use tbnet::Port;
use usb4_bindings as c;

/// All our QPNs have it; those of stock rxe devices, which may share the netdev, are small.
pub(crate) const QPN_FLAG: u32 = 0x80_0000;

/// Frames sent without a break; then other softirqs have their turn.
const ROUND: usize = 64;
/// Packets asked of the engine under one taking of the lock: with paths that cannot be built nothing else ends it.
const TURNS: usize = 4 * BATCH;
/// After so many packets of which none could be sent the next are asked for that many nanoseconds later.
const TURN_PAUSE: u64 = 1_000_000;
/// Completions written without a break. A user who keeps posting to a QP in ERR cannot keep us here.
const SETTLE: usize = 1024;
/// Nanoseconds to the next try where there was no memory for something.
const TRY_AGAIN: u64 = 1_000_000;

/// QPs, of all devices, whose timers run out one after the other without anything acknowledged. Each tries again the
/// less often the more they are, so that all of them together leave the processor to others.
static STUCK: Atomic<u32> = Atomic::new(0);

type Engine = roce::qp::Qp<Slots<KVVec<SendMessage>, KVVec<ReadResource>>>;

/// Guarded by the QP's lock. A CQ's lock is taken under it.
struct State {
    engine: KBox<Engine>,
    own: Own,
    /// Of a connected QP, once it has been told where its peer is.
    wire: Option<Wire>,
    tally: Tally,
    ip_id: u16,
    phase: Phase,
    pace: Pace,
    /// It is one of [`STUCK`].
    stuck: bool,
    kept: KeptAttr,
    paging: Paging,
    runs: Runs,
    /// Frames that borrow from memory, of this life of the QP, are inside.
    loans: Arc<Gate>,
}

/// What has a QP work.
enum Event<'a> {
    /// Its owner has posted sends, or wants it to look, and has read its completion queues up to here.
    Post { read: [u32; 2] },
    /// A packet has come, whose ICRC is right.
    Packet(&'a Packet, &'a Payload<'a>),
    /// The timer has come. `waiting`: frames of the QP were in the stack.
    Timeout { waiting: bool },
    /// Pages that were missed are there, or cannot be had.
    Paged,
    /// The QP has another state or other attributes.
    Modified,
    /// What was put off is due.
    Due,
}

/// What became of an [`Event`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Nothing was done: the packet is for somebody else, or the state is none to send in.
    Refused,
    /// The peer was late with an answer.
    Late,
}

/// Who sends after an [`Event`] has been handled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sends {
    /// Whoever handled it, now.
    Now,
    /// The tasklet, later in this softirq.
    Later,
    /// Nobody: there is nothing to send, or somebody is sending already.
    No,
}

impl State {
    /// Keeps [`STUCK`] right.
    fn count_stuck(&mut self, stuck: bool) {
        match (core::mem::replace(&mut self.stuck, stuck), stuck) {
            (false, true) => _ = STUCK.fetch_add(1, Relaxed),
            (true, false) => _ = STUCK.fetch_sub(1, Relaxed),
            _ => {}
        }
    }
}

/// A queue pair.
#[pin_data]
pub(crate) struct Qp {
    number: u32,
    device: Arc<Device>,
    pd: Pd,
    send_cq: Arc<Cq>,
    recv_cq: Arc<Cq>,
    kind: QpKind,
    signal_all: bool,
    /// From creation, or RESET, to the next one or the end.
    life: Life,
    owner: Owner,
    #[pin]
    state: BhLock<State>,
    /// What works on the QP by itself, and not in a softirq, is inside.
    #[pin]
    errands: Gate,
    #[pin]
    timer: Timer<Qp>,
    /// Acknowledges when the packets that came together have been handled.
    #[pin]
    after: Tasklet<Qp>,
    flight: Flight,
    /// 1 once the peer was late with an answer: its Ethernet address may have changed.
    late: Atomic<i32>,
    /// 1 while completions in ERR wait for frames that borrow from memory.
    awaits: Atomic<i32>,
    /// 1 while receives are flushed as they are posted.
    flushes: Atomic<i32>,
    /// 1 while it stands in the queue for room on the cable's lane.
    queued: Atomic<i32>,
    /// Withdrawn where one may sleep.
    #[pin]
    mappings: Mutex<[Option<Mapping>; 2]>,
    /// Where a kernel caller posts.
    #[pin]
    sends: IrqLock<Option<Poster>>,
    /// See `sends`.
    #[pin]
    recvs: IrqLock<Option<Poster>>,
}

impl Qp {
    /// The QPN.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whom packets for it are for.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Every send has a completion.
    pub(crate) fn signal_all(&self) -> bool {
        self.signal_all
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> (Counters, Tally) {
        let state = self.state.lock();
        (*state.engine.counters(), state.tally)
    }

    /// User space has posted sends, or just wants us to look.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a state where nothing may be sent, as rxe; user space expects to be told.
    pub(crate) fn posted(this: &Arc<Self>) -> Result {
        this.owner.asks();
        let read = [this.send_cq.read_up_to(), this.recv_cq.read_up_to()];
        match Self::work(this, Event::Post { read }) {
            Outcome::Refused => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// Sends what was put off: before a change of state, which would forget the acknowledgement that the peer waits
    /// for.
    pub(crate) fn flush(this: &Arc<Self>) {
        Self::work(this, Event::Due);
    }

    /// Has one path, and hears its other end only.
    pub(crate) fn is_connected(&self) -> bool {
        !self.kind.is_datagram()
    }

    /// A packet for this QP, whose ICRC is right; for datagrams, also the address. False if it is not for this QP: a
    /// connected one, and another path than its own.
    pub(crate) fn receive(this: &Arc<Self>, packet: &Packet, payload: &Payload<'_>) -> bool {
        is_ours(packet) && Self::work(this, Event::Packet(packet, payload)) != Outcome::Refused
    }

    /// A packet for a group that this QP hears, whose ICRC is right.
    pub(crate) fn receive_group(this: &Arc<Self>, packet: &Packet, payload: &Payload<'_>) {
        if this.kind.is_datagram() && is_ours(packet) {
            Self::work(this, Event::Packet(packet, payload));
        }
    }

    /// Whether softirqs have taken enough from others for now. Then the timer comes when they may go on.
    fn rests(&self) -> bool {
        let until = self.owner.rest();
        if let Some(at) = until {
            self.timer.arm(at);
        }
        until.is_some()
    }

    /// Has the engine handle what has happened, then does what came of it, which may be sending.
    fn work(this: &Arc<Self>, event: Event<'_>) -> Outcome {
        let netdev = this.device.netdev();
        let mut batch = Batch::new();
        let outcome = {
            let mut guard = this.state.lock();
            let state = &mut *guard;
            let (outcome, sends) = this.handle(state, &event);
            match sends {
                Sends::No => return outcome,
                Sends::Later => {
                    this.after.schedule();
                    return outcome;
                }
                Sends::Now => {}
            }
            this.fill(state, netdev.as_ref(), &mut batch);
            if batch.len() == 0 {
                this.rearm(state);
                return outcome;
            }
            state.phase.on_send();
            outcome
        };
        this.send(netdev.as_ref(), &mut batch);
        outcome
    }

    /// Has the engine handle what has happened, and writes completions. Under the QP's lock.
    fn handle(self: &Arc<Self>, state: &mut State, event: &Event<'_>) -> (Outcome, Sends) {
        if state.phase.is_closed() {
            let outcome = match event {
                Event::Post { .. } => Outcome::Refused,
                _ => Outcome::Done,
            };
            return (outcome, Sends::No);
        }
        let payload = match event {
            Event::Packet(_, payload) => Some(*payload),
            _ => None,
        };
        if let Some(payload) = payload {
            if self.is_connected() && !state.wire.is_some_and(|wire| wire.brought(payload)) {
                return (Outcome::Refused, Sends::No);
            }
            if state.paging.is_busy() {
                state.paging.park(payload.keep());
                return (Outcome::Done, Sends::No);
            }
            state.tally.received_bytes += payload.byte_len();
            state.tally.received_runs += u64::from(payload.is_run());
            state.tally.received_trains += u64::from(payload.is_train());
            state.runs.handle_packet(payload.is_run());
        }
        let before = watch::before(&state.engine);
        state.engine.handle_company(STUCK.load(Relaxed));
        let outcome = self.tell_engine(state, event, payload);
        watch::after(before, &state.engine, self.device.ib(), self.number);
        state.count_stuck(state.engine.is_stuck());
        let woke = self.settle(state) | self.handle_early(state);
        if state.phase.is_sending() {
            return (outcome, Sends::No);
        }
        // Once somebody has been woken, softirqs that are put off come after him. Who has had his share waits in any
        // case.
        let may_wait = !woke && state.engine.may_wait();
        let sends = if payload.is_some() && (may_wait || self.owner.rest().is_some()) {
            Sends::Later
        } else {
            Sends::Now
        };
        (outcome, sends)
    }

    /// Tells the engine what has happened, and has the pages brought that it missed.
    fn tell_engine(self: &Arc<Self>, state: &mut State, event: &Event<'_>, payload: Option<&Payload<'_>>) -> Outcome {
        let needs = state.paging.needs();
        let now = Instant(now());
        let engine = &mut state.engine;
        let mut host = state.own.lend(self.memory(&needs), payload);
        let mut outcome = Outcome::Done;
        match event {
            Event::Post { read } => {
                if matches!(engine.state(), QpState::Reset | QpState::Init | QpState::Rtr) {
                    outcome = Outcome::Refused;
                }
                engine.handle_post(now, host.own.sq.posted(*read));
            }
            Event::Packet(packet, _) => engine.handle_packet(now, packet, &mut host),
            Event::Timeout { waiting } => {
                if *waiting {
                    engine.handle_backlog(now);
                }
                let before = engine.counters().timeouts;
                engine.handle_timeout(now, &mut host);
                if engine.counters().timeouts != before {
                    outcome = Outcome::Late;
                }
                // A kernel caller's sends are announced this way.
                engine.handle_doorbell(now, &mut host);
            }
            Event::Paged | Event::Modified => engine.handle_doorbell(now, &mut host),
            Event::Due => {}
        }
        self.bring(state, &needs, payload);
        outcome
    }

    /// Sends a batch and what may be sent after it, until there is no more or others should have their turn. No lock
    /// held; the caller has said that it sends.
    fn send(self: &Arc<Self>, netdev: Option<&Netdev>, batch: &mut Batch) {
        let mut sent = 0;
        loop {
            sent += batch.len();
            let unsent = batch.send();
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if let Some(psn) = unsent {
                state.engine.handle_unsent(Instant(now()), psn);
            }
            if !state.phase.is_closed() && sent < ROUND {
                self.fill(state, netdev, batch);
                if batch.len() != 0 {
                    continue;
                }
            }
            state.phase.on_sent();
            if sent < ROUND {
                self.rearm(state);
            } else {
                self.after.schedule();
            }
            return;
        }
    }

    /// Hands the engine the packets that came early and whose turn has come. Whether somebody was woken by it.
    fn handle_early(self: &Arc<Self>, state: &mut State) -> bool {
        let mut woke = false;
        while let Some(early) = state.engine.poll_early() {
            let Some(kept) = state.own.early.take(early) else {
                continue;
            };
            if state.paging.is_busy() {
                state.paging.park(kept.frame().keep());
                continue;
            }
            let Some((packet, payload)) = Payload::parse(kept.frame()) else {
                continue;
            };
            let needs = state.paging.needs();
            let mut host = state.own.lend(self.memory(&needs), Some(&payload));
            let before = watch::before(&state.engine);
            state.engine.handle_packet(Instant(now()), &packet, &mut host);
            self.bring(state, &needs, Some(&payload));
            watch::after(before, &state.engine, self.device.ib(), self.number);
            woke |= self.settle(state);
        }
        let engine = &state.engine;
        state.own.early.retain(|early| engine.is_early(early));
        woke
    }

    fn memory<'a>(&'a self, needs: &'a Needs) -> Memory<'a> {
        Memory {
            keyed: &self.device.keyed,
            pd: self.pd,
            life: &self.life,
            needs,
        }
    }

    /// Has the pages brought that were missed, by a packet or without one.
    fn bring(self: &Arc<Self>, state: &mut State, needs: &Needs, payload: Option<&Payload<'_>>) {
        let Some(missing) = needs.take() else {
            return;
        };
        let this = self.clone();
        let then = move |errand: &Errand, done| Self::on_paged(&this, errand, done);
        if !state.paging.bring(missing, then) {
            // No memory to do it in: the peer asks again, and so does the timer.
            self.timer.arm(now().saturating_add(TRY_AGAIN));
        } else if let Some(payload) = payload {
            state.paging.park(payload.keep());
        }
    }

    /// The pages that were missed are there; or, without `done`, cannot be had. Process context.
    fn on_paged(this: &Arc<Self>, errand: &Errand, done: bool) {
        // Whatever is used here, the core's device among it, is there until `close` has returned.
        let Some(_inside) = this.errands.enter() else {
            return;
        };
        let parked = this.state.lock().paging.finish(errand, done);
        for frame in &parked {
            if !this.state.lock().paging.is_current(errand) {
                break;
            }
            if let Some((packet, payload)) = Payload::parse(frame) {
                Self::receive(this, &packet, &payload);
            }
        }
        Self::work(this, Event::Paged);
        this.state.lock().paging.settle(errand);
    }

    /// Builds what may be sent now.
    fn fill(self: &Arc<Self>, state: &mut State, netdev: Option<&Netdev>, batch: &mut Batch) {
        let Some(netdev) = netdev else {
            return;
        };
        if state.wire.is_none() && self.is_connected() {
            return;
        }
        let runs = self.sends_runs(state, netdev);
        let port = self.device.port().filter(|_| runs);
        let port = port.as_deref().and_then(Option::as_ref);
        if let Some((port, wire)) = port
            .zip(state.wire)
            .filter(|(port, wire)| port.reaches(wire.path.dst_mac))
        {
            self.fill_lane(state, port, &wire);
            return;
        }
        let now = Instant(now());
        let needs = state.paging.needs();
        let mut turns = 0;
        while !batch.is_full() {
            turns += 1;
            if turns > TURNS {
                self.timer.arm(now.0.saturating_add(TURN_PAUSE));
                break;
            }
            let room = if runs { state.runs.room(run::ROOM) } else { Room::PACKET };
            let mut host = state.own.lend(self.memory(&needs), None);
            // Acknowledgements go past the limit of frames in the stack: else a QP that waits for room would stop its
            // peer.
            let transmit = if self.flight.may_send(&self.device.in_flight) {
                state.engine.poll_transmit(now, room, &mut host)
            } else {
                state.engine.poll_acknowledgement()
            };
            let Some(transmit) = transmit else {
                break;
            };
            let path = match transmit.route {
                Some(route) => self.route(route, &host.own.sq, netdev),
                None => state.wire.map(|wire| wire.path),
            };
            let Some(path) = path else {
                let before = watch::before(&state.engine);
                state
                    .engine
                    .handle_gather_fault(now, &transmit, Fault::LocalQpOp, &mut host);
                watch::after(before, &state.engine, self.device.ib(), self.number);
                continue;
            };
            state.ip_id = state.ip_id.wrapping_add(1);
            let way = Way {
                netdev,
                path,
                ip_id: state.ip_id,
            };
            let built = if runs {
                // UC completes what is built, and then the memory is the program's again.
                let life = (self.kind == QpKind::Rc).then_some(&state.loans);
                run::build(&transmit, &way, &PayloadOf(&host, transmit.payload), life, self.clone())
            } else {
                let gather = |to: &mut [u8]| host.gather(transmit.payload, to);
                let heard = |gid: &[u8; 16]| self.device.groups.has(gid);
                send::build(&transmit, way, gather, heard, Some(self.clone()))
            };
            if runs {
                state.runs.handle_built(!matches!(built, Err(NotBuilt::Lost)));
            }
            match built {
                Ok(frame) => {
                    state.tally.sent_runs += u64::from(runs);
                    self.flight.on_built(&self.device.in_flight);
                    state.tally.sent_bytes += frame.ip_len();
                    batch.push(frame, transmit.request_psn());
                }
                Err(NotBuilt::Fault(fault)) => {
                    let before = watch::before(&state.engine);
                    state.engine.handle_gather_fault(now, &transmit, fault, &mut host);
                    watch::after(before, &state.engine, self.device.ib(), self.number);
                    if fault == Fault::Absent {
                        break;
                    }
                }
                // As if the wire had lost it: the timer's retries end, and the user is told.
                Err(NotBuilt::TooLong) if transmit.request_psn().is_some() => state.tally.lost += 1,
                Err(NotBuilt::TooLong | NotBuilt::Lost) => {
                    state.tally.lost += 1;
                    state.engine.handle_unbuilt(now, &transmit);
                }
            }
        }
        self.bring(state, &needs, None);
        self.settle(state);
    }

    /// As [`Self::fill`], by trains on the cable's lane, which are posted at once: the QP's lock keeps them in order.
    fn fill_lane(self: &Arc<Self>, state: &mut State, port: &Port, wire: &Wire) {
        let now = Instant(now());
        let needs = state.paging.needs();
        let (mtu, most) = (state.engine.query().path_mtu.bytes(), native::room(port));
        let mut posted = 0;
        for turn in 0.. {
            if turn == BATCH {
                // Others have their turn.
                self.after.schedule();
                break;
            }
            let room = state.runs.room(most);
            let mut host = state.own.lend(self.memory(&needs), None);
            // Acknowledgements go past the limit: else a QP that waits for room would stop its peer.
            let transmit = if self.has_room(port) {
                state.engine.poll_transmit(now, room, &mut host)
            } else {
                state.engine.poll_acknowledgement()
            };
            let Some(transmit) = transmit else {
                break;
            };
            // UC completes what is built, and then the memory is the program's again.
            let life = (self.kind == QpKind::Rc).then_some(&state.loans);
            let bytes = PayloadOf(&host, transmit.payload);
            let credit = || {
                self.flight.on_built(&self.device.in_flight);
                self.clone()
            };
            let built = native::post(port, &transmit, (mtu, wire.ends.out), &bytes, life, credit);
            state.runs.handle_built(!matches!(built, Err(NotBuilt::Lost)));
            match built {
                Ok(len) => {
                    posted += 1;
                    state.tally.sent_runs += 1;
                    state.tally.sent_trains += 1;
                    state.tally.sent_bytes += len;
                }
                Err(NotBuilt::Fault(fault)) => {
                    let before = watch::before(&state.engine);
                    state.engine.handle_gather_fault(now, &transmit, fault, &mut host);
                    watch::after(before, &state.engine, self.device.ib(), self.number);
                    if fault == Fault::Absent {
                        break;
                    }
                }
                Err(NotBuilt::TooLong | NotBuilt::Lost) => {
                    state.tally.lost += 1;
                    state.engine.handle_unbuilt(now, &transmit);
                }
            }
        }
        if posted != 0 {
            port.ring();
        }
        self.bring(state, &needs, None);
        self.settle(state);
    }

    /// Whether the cable's lane has room for a train. If not, [`Self::on_room`] is called when it has.
    fn has_room(&self, port: &Port) -> bool {
        if port.has_room() {
            return true;
        }
        if self.queued.xchg(1, Full) == 0 && !self.device.waiting.push(self.number) {
            self.queued.store(0, Relaxed);
            self.timer.arm(now().saturating_add(TRY_AGAIN));
        }
        // There may have been some since, and all been told but this one.
        port.has_room()
    }

    /// The cable's lane has room again.
    pub(crate) fn on_room(&self) {
        self.queued.store(0, Relaxed);
        self.after.schedule();
    }

    /// Whether it sends in runs now: to its peer at the other end of a cable.
    fn sends_runs(&self, state: &mut State, netdev: &Netdev) -> bool {
        let Some(Wire { path, .. }) = &state.wire else {
            return false;
        };
        let carried = path.tag == 0 && path.dst_mac != netdev.mac() && netdev.carries_runs();
        state.runs.poll(carried, state.engine.timeouts())
    }

    /// The path of a datagram.
    fn route(&self, route: Route, sq: &SendQueue, netdev: &Netdev) -> Option<Path> {
        // One source port a QP: its datagrams stay in order.
        let src_port = 0xc000 | u16::try_from(self.number & 0x3fff).unwrap_or(0);
        match route.ah {
            0 => {
                let mut path = sq.vector(route.slot)?.path(self.device.ib(), netdev, src_port)?;
                // The sender's handle may be older than the peer's Ethernet address.
                if let Some(hop) = self.device.next_hop(netdev, &path, false) {
                    path.dst_mac = hop;
                }
                Some(path)
            }
            number => self.device.ahs.find(number)?.path(self.pd, src_port),
        }
    }

    /// Whether no frame borrows from memory any more. If not, [`FrameDone::on_frame_done`] has the QP look again.
    ///
    /// In ERR completions say that requests were not carried out and that their memory is the program's again. A frame
    /// that still reads there would bring the peer, which knows of no error, what the program writes next.
    fn is_read(&self, loans: &Gate) -> bool {
        if loans.is_empty() {
            return true;
        }
        self.awaits.xchg(1, Full);
        // The last frame may have come back before it could see the mark.
        loans.is_empty()
    }

    /// Writes completions and raises events. Whether somebody was woken by it.
    fn settle(&self, state: &mut State) -> bool {
        let Some(mark) = state.phase.handle().map(QpHandle::mark) else {
            return false;
        };
        if state.engine.state() == QpState::Err && !self.is_read(&state.loans) {
            return false;
        }
        let mut woke = false;
        // What is flushed needs no memory.
        let needs = Needs::deaf();
        let mut host = state.own.lend(self.memory(&needs), None);
        for left in (0..SETTLE).rev() {
            let Some(completion) = state.engine.poll_completion(&mut host) else {
                break;
            };
            if left == 0 {
                let flushes = matches!(state.engine.state(), QpState::Err | QpState::Sqe);
                if state.pace.goes_on(flushes) {
                    self.after.schedule();
                } else {
                    self.timer.arm(now().saturating_add(state.pace.delay()));
                }
            }
            let extra = Extra {
                sender: host.own.sender,
                qp: mark,
            };
            match completion.status {
                WcStatus::RetryExceeded => state.tally.retry_exceeded += 1,
                WcStatus::RnrRetryExceeded => state.tally.rnr_retry_exceeded += 1,
                _ => {}
            }
            match completion.queue {
                Queue::Send => {
                    host.own.sq.complete();
                    if completion.signalled {
                        woke |= self.send_cq.push(&completion, &extra);
                    }
                }
                Queue::Recv => {
                    host.own.rq.complete();
                    woke |= self.recv_cq.push(&completion, &extra);
                }
            }
        }
        while let Some(event) = state.engine.poll_event() {
            let event = match event {
                completion::Event::CommEstablished => QpEvent::CommEstablished,
                completion::Event::SqDrained => QpEvent::SqDrained,
                completion::Event::LastWqeReached => QpEvent::LastWqe,
                completion::Event::RequestError => QpEvent::RequestError,
                completion::Event::AccessError => QpEvent::AccessError,
                completion::Event::Fatal => QpEvent::Fatal,
            };
            watch::raised(event.code(), &state.engine, self.device.ib(), self.number);
            if let Some(handle) = state.phase.handle() {
                handle.raise(event);
            }
        }
        woke
    }

    fn rearm(&self, state: &mut State) {
        if let Some(at) = state.engine.poll_timeout() {
            self.timer.arm(at.0);
        }
        let flushes = state.engine.state() == QpState::Err && !state.engine.config().srq;
        self.flushes.store(i32::from(flushes), Relaxed);
        if flushes {
            self.timer.arm(now().saturating_add(state.pace.delay()));
            state.pace.on_look();
        } else if state.engine.state() != QpState::Sqe {
            state.pace.reset();
        }
    }

    /// Changes attributes and state.
    pub(crate) fn modify(this: &Arc<Self>, mut wanted: QpAttr<'_>, mask: i32) -> Result {
        let mask = u32::from_ne_bytes(mask.to_ne_bytes());
        let has = |bit: u32| mask & bit != 0;
        let unknown = has(c::ib_qp_attr_mask_IB_QP_ALT_PATH
            | c::ib_qp_attr_mask_IB_QP_PATH_MIG_STATE
            | c::ib_qp_attr_mask_IB_QP_RATE_LIMIT
            | c::ib_qp_attr_mask_IB_QP_CAP);
        if unknown || mask & !c::ib_qp_attr_mask_IB_QP_ATTR_STANDARD_BITS != 0 {
            hint!(
                this.device.ib(),
                "QP {:#x}: attributes {:#x}: no path migration, no rate limit",
                this.number,
                mask
            );
            return Err(EOPNOTSUPP);
        }
        let refuse = |why: &str| {
            hint!(this.device.ib(), "QP {:#x}: {}", this.number, why);
            EINVAL
        };
        let netdev = this.device.netdev().ok_or(ENODEV)?;
        Self::flush(this);
        // Memory for the peer's READs is as large as it was ever asked to be.
        let mut reads = KVVec::new();
        if has(c::ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC) {
            let wanted = usize::from(wanted.fields().max_dest_rd_atomic).min(limits::MAX_RD_ATOMIC);
            if wanted > this.state.lock().engine.read_capacity() {
                reads.resize(wanted, ReadResource::EMPTY, GFP_KERNEL)?;
            }
        }
        let mut parked = KVec::new();
        let mut ended = None;
        let mut loans = None;
        let resets = has(c::ib_qp_attr_mask_IB_QP_STATE) && wanted.fields().qp_state == c::ib_qp_state_IB_QPS_RESET;
        let mut fresh = resets.then(|| Arc::pin_init(Gate::new(), GFP_KERNEL)).transpose()?;
        {
            let mut guard = this.state.lock();
            let state = &mut *guard;
            state.engine.swap_reads(&mut reads);
            let dest = if has(c::ib_qp_attr_mask_IB_QP_DEST_QPN) {
                wanted.fields().dest_qp_num
            } else {
                state.kept.fields().dest_qp_num
            };
            let path = if has(c::ib_qp_attr_mask_IB_QP_AV) {
                let flat = wanted.path(&netdev).ok_or_else(|| refuse(attr::NO_PATH))?;
                let src_port = udp_sport(flat.flow_label, this.number, dest);
                Some(attr::path(&flat, src_port))
            } else {
                None
            };
            let out = netdev.tagged(path.map_or(0, |path| path.tag));
            let port_mtu = caps::active_mtu(out.ok_or_else(|| refuse("its VLAN is down"))?.mtu());
            let modify = attr::read_modify(state.engine.state(), this.kind, &wanted, mask, port_mtu).map_err(refuse)?;
            let before = watch::before(&state.engine);
            state.engine.modify(Instant(now()), &modify).map_err(|err| {
                refuse(match err {
                    ModifyError::Transition => "no such transition",
                    ModifyError::Missing => "an attribute that the new state needs was never given",
                    ModifyError::Range => "an attribute is out of range",
                })
            })?;
            if let Some(mtu) = modify.path_mtu.map(Mtu::bytes).filter(|mtu| *mtu > port_mtu) {
                // Both ends count packets by the MTU that they agreed on, so this one must not take a smaller one.
                hint!(
                    this.device.ib(),
                    "QP {:#x}: the path's MTU is {} and the port's {}: of longer messages than that none leave; give \
                     the netdevs one MTU",
                    this.number,
                    mtu,
                    port_mtu
                );
            }
            watch::after(before, &state.engine, this.device.ib(), this.number);
            if let Some(path) = path {
                let ends = Ends::new(&path.addresses, Qpn::new(this.number), Qpn::new(dest));
                state.wire = Some(Wire { path, ends });
                state.runs.handle_path();
                state.kept.keep_path(&wanted);
            }
            attr::keep(&mut state.kept, wanted.fields(), mask);
            if modify.state == Some(QpState::Reset) {
                state.own.sq.reset();
                state.own.rq.reset();
                state.wire = None;
                state.kept.forget();
                parked = state.paging.renew();
                ended = this.life.renew(this.device.new_serial());
                loans = fresh.take().map(|fresh| core::mem::replace(&mut state.loans, fresh));
            }
        }
        drop(parked);
        if let Some(loans) = loans {
            loans.close();
        }
        if let Some(life) = ended {
            this.device.keyed.end_life(life);
        }
        Self::work(this, Event::Modified);
        Ok(())
    }

    /// Leads to where its next hop is now, in a pass over `all` paths or only over those whose peer was late.
    pub(crate) fn renew(&self, all: bool, look_up: &mut impl FnMut(&Path, bool) -> Option<[u8; 6]>) {
        let late = self.late.xchg(0, Full) != 0;
        let wire = self.state.lock().wire;
        let Some(old) = wire.filter(|_| all || late).map(|wire| wire.path) else {
            return;
        };
        let Some(hop) = look_up(&old, late) else {
            return;
        };
        let mut state = self.state.lock();
        // It may have been modified since.
        match &mut state.wire {
            Some(Wire { path, .. }) if path.leads_as(&old) => path.dst_mac = hop,
            _ => {}
        }
    }

    /// Answers `query_qp`.
    pub(crate) fn query(&self, attr: &mut c::ib_qp_attr) {
        let mut state = self.state.lock();
        let now = state.engine.query();
        let kept = state.kept.fields();
        kept.qp_state = u32::from(now.state as u8);
        kept.cur_qp_state = kept.qp_state;
        kept.path_mtu = u32::from(now.path_mtu as u8);
        kept.rq_psn = now.rq_psn.value();
        kept.sq_psn = now.sq_psn.value();
        kept.sq_draining = u8::from(now.sq_draining);
        kept.port_num = 1;
        state.kept.answer(attr);
    }

    /// The end: on return nobody works on this QP any more. Frames in the stack may still hold it, inert.
    pub(crate) fn close(&self) {
        if self.kind == QpKind::Gsi {
            self.device.leave_gsi(self.number);
        }
        let mark = self.state.lock().phase.handle().map(QpHandle::mark);
        let (buried, parked, ended, loans) = {
            let mut state = self.state.lock();
            state.phase.on_close();
            state.count_stuck(false);
            state.own.early.retain(|_| false);
            let buried = state.wire.zip(state.engine.tombstone());
            let ended = self.life.renew(self.device.new_serial());
            (buried, state.paging.renew(), ended, state.loans.clone())
        };
        drop(parked);
        loans.close();
        if let Some(mark) = mark {
            // Nothing is added any more. What a kernel caller has not read yet would lead it to the core's QP, which
            // goes.
            self.send_cq.forget(mark);
            self.recv_cq.forget(mark);
        }
        if let Some(life) = ended {
            self.device.keyed.end_life(life);
        }
        let found = if let Some((wire, stone)) = buried {
            if let Some(forgotten) = self.device.graves.bury(self.number, wire, stone) {
                drop(self.device.qps.release(forgotten));
            }
            self.device.qps.withdraw(self.number)
        } else {
            self.device.qps.release(self.number)
        };
        self.timer.close();
        self.after.close();
        self.errands.close();
        self.device.retire(self);
        let mappings = core::mem::take(&mut *self.mappings.lock());
        drop(mappings);
        drop(found);
    }
}

/// Whether a packet is of the only partition that there is.
fn is_ours(packet: &Packet) -> bool {
    packet.bth.pkey & 0x7fff == caps::PKEY & 0x7fff
}

impl FrameDone for Qp {
    fn on_frame_done(&self) {
        let sends = self.flight.on_done(&self.device.in_flight);
        // The count above is a full barrier after the frame's loan has ended: see `is_read`.
        let completes = self.awaits.load(Relaxed) != 0 && self.awaits.xchg(0, Full) != 0;
        if sends || completes {
            self.after.schedule();
        }
    }
}

impl Timed for Qp {
    fn on_timer(&self) {
        if self.rests() {
            return;
        }
        if let Some(this) = self.device.qps.find(self.number) {
            let waiting = self.flight.frames() > 0;
            let outcome = self.owner.charge(|| Self::work(&this, Event::Timeout { waiting }));
            if outcome == Outcome::Late {
                self.late.store(1, Relaxed);
                renew_late();
            }
        }
    }
}

impl Deferred for Qp {
    fn on_softirq(&self) {
        if self.rests() {
            return;
        }
        if let Some(this) = self.device.qps.find(self.number) {
            self.owner.charge(|| Self::work(&this, Event::Due));
        }
    }
}
