// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queue pairs: the engine's decisions carried out.
//!
//! Doorbells, packets and the timer are events ([`Event`]). Each ends in [`Qp::work`], in the context that it comes
//! from: [`Qp::handle`] has the engine handle it under the QP's lock and writes completions, and [`Qp::send`] sends the
//! frames that were built, after the lock is released. One CPU at a time sends for a QP, so frames leave in order;
//! whoever comes meanwhile leaves the work to it.

mod attributes;
mod create;
mod phase;
mod show;
mod transmits;

pub(crate) use create::NewQp;

use self::phase::{Pace, Phase};
use crate::{
    caps,
    counters::Tally,
    cq::{Cq, Extra},
    device::Device,
    host::Own,
    kapi::{
        netdev::{FrameDone, Netdev, Pieces},
        queue::Mapping,
        revoke::Gate,
        route::renew_late,
        share::Owner,
        sync::{BhLock, IrqLock},
        tasklet::{Deferred, Tasklet},
        timer::{now, Timed, Timer},
        uverbs::{KeptAttr, QpEvent, QpHandle},
    },
    memory::Memory,
    needs::Needs,
    paging::Paging,
    payload::Payload,
    post::Poster,
    watch,
    window::Life,
    wire::{
        udp::{send::Batch, Flight},
        Credit, Loan, Wire,
    },
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
    grants::Asks,
    keys::{Access, Pd},
    lanes::Turn,
    lost::Sent,
    parking::Errand,
    qp::{QpKind, ReadResource, SendMessage, Slots, State as QpState},
    runs::Runs,
    time::Instant,
    wire::Packet,
};

use tbnet::{Fate, Post, Train};

/// All our QPNs have it; those of stock rxe devices, which may share the netdev, are small.
pub(crate) const QPN_FLAG: u32 = 0x80_0000;

/// Frames sent without a break; then other softirqs have their turn.
const ROUND: usize = 64;
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
    /// Its turn among the lanes to its peer.
    turn: Turn,
    /// Windows that it has asked for.
    asks: Asks,
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
    /// The cable's lane has lost something.
    Lost(Sent),
    /// The window of a train is over, and perhaps all is there.
    Window(&'a Packet, &'a Payload<'a>, bool),
    /// What became of a train that asked for a window.
    Told(Sent, Fate),
    /// The device's port was down, and is up.
    PortUp,
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
    /// The train of a window was not carried out.
    Undone,
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

    /// The cable's lane has lost what it was given.
    pub(crate) fn on_lost(this: &Arc<Self>, lost: Sent) {
        Self::work(this, Event::Lost(lost));
    }

    /// A train asks for a window.
    pub(crate) fn on_ask(this: &Arc<Self>, packet: &Packet, train: &Arc<Train>, post: &mut Post<'_>) {
        let payload = Payload::of_train(train);
        let (Some(window), true) = (payload.window(), is_ours(packet)) else {
            return;
        };
        let mut guard = this.state.lock();
        let state = &mut *guard;
        let is_along = state.wire.is_some_and(|wire| wire.brought(&payload));
        if state.phase.is_closed() || !is_along || state.paging.is_busy() || !state.engine.may_grant(packet) {
            return;
        }
        let mut loan = Loan::new(&state.loans);
        if !loan.is_open() {
            return;
        }
        let (mut pieces, mut tail) = (Pieces::new(), Pieces::new());
        let needs = Needs::deaf();
        let (memory, lenders) = (this.memory(&needs), &mut loan.lenders);
        let Some(rest) = packet.payload.len.checked_sub(window.len) else {
            return;
        };
        let mut lend = |at: u32, len: u32, to: &mut Pieces| {
            let va = window.address.wrapping_add(u64::from(at));
            len == 0 || memory.lend(window.key, va, len as usize, Access::REMOTE_WRITE, to, lenders) == Ok(true)
        };
        if !lend(0, window.len, &mut pieces) || !lend(window.len, rest, &mut tail) {
            return;
        }
        // It is no frame of the queue pair's, which its share of the stack or the ring would be less for.
        loan.credit = Some(Credit::Window(this.clone()));
        let Ok(held) = KBox::new(loan, GFP_ATOMIC | __GFP_NOWARN) else {
            return;
        };
        if post(pieces.get(), tail.get(), held) {
            state.engine.handle_granted(packet);
        }
    }

    /// The window of a train is over, and if it is `whole` all is there. Whether the train was carried out.
    pub(crate) fn on_window(this: &Arc<Self>, packet: &Packet, payload: &Payload<'_>, whole: bool) -> bool {
        Self::work(this, Event::Window(packet, payload, whole)) == Outcome::Done
    }

    /// What became of a train that asked for a window.
    pub(crate) fn on_told(this: &Arc<Self>, sent: Sent, fate: Fate) {
        Self::work(this, Event::Told(sent, fate));
    }

    /// The device's port was down, and is up.
    pub(crate) fn on_port_up(this: &Arc<Self>) {
        Self::work(this, Event::PortUp);
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
            // Once for all that the event leads to.
            let now = Instant(now());
            let (outcome, sends) = this.handle(state, now, &event);
            match sends {
                Sends::No => return outcome,
                Sends::Later => {
                    this.after.schedule();
                    return outcome;
                }
                Sends::Now => {}
            }
            this.fill(state, now, netdev.as_ref(), &mut batch);
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
    fn handle(self: &Arc<Self>, state: &mut State, now: Instant, event: &Event<'_>) -> (Outcome, Sends) {
        if state.phase.is_closed() {
            let outcome = match event {
                Event::Post { .. } => Outcome::Refused,
                // Nobody carries it out any more.
                Event::Window(..) => Outcome::Undone,
                _ => Outcome::Done,
            };
            return (outcome, Sends::No);
        }
        let payload = match event {
            Event::Packet(_, payload) => Some(*payload),
            Event::Window(packet, payload, whole) => {
                // It is told in any case that the window is over.
                let brought = is_ours(packet) && state.wire.is_some_and(|wire| wire.brought(payload));
                if *whole && brought && !state.paging.is_busy() {
                    Some(*payload)
                } else {
                    state.engine.handle_void_window();
                    return (Outcome::Undone, Sends::No);
                }
            }
            _ => None,
        };
        if let Some(payload) = payload {
            if self.is_connected() && !state.wire.is_some_and(|wire| wire.brought(payload)) {
                return (Outcome::Refused, Sends::No);
            }
            if let (Event::Packet(packet, _) | Event::Window(packet, ..), true) = (event, watch::shows_packets()) {
                let along = (state.wire.as_ref(), state.engine.path_mtu().bytes());
                watch::received(packet, payload, along, self.device.ib(), self.number);
            }
            if state.paging.is_busy() {
                state.paging.park(payload.keep());
                return (Outcome::Done, Sends::No);
            }
            state.tally.received_windows += u64::from(payload.window().is_some());
            state.tally.received_bytes += payload.byte_len();
            state.tally.received_runs += u64::from(payload.is_run());
            state.tally.received_trains += u64::from(payload.is_train());
            state.runs.handle_packet(payload.is_run());
        }
        let before = watch::before(&state.engine);
        state.engine.handle_company(STUCK.load(Relaxed));
        let outcome = self.tell_engine(state, now, event, payload);
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
    fn tell_engine(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        event: &Event<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Outcome {
        let needs = state.paging.needs();
        let engine = &mut state.engine;
        let mut host = state.own.lend(self.memory(&needs), payload);
        let mut outcome = Outcome::Done;
        match event {
            Event::Post { read } => {
                self.owner.asks(now.0);
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
            Event::Lost(sent) => engine.handle_lost(sent),
            Event::Window(packet, ..) => {
                if !engine.handle_window(now, packet, &mut host) {
                    outcome = Outcome::Undone;
                }
            }
            Event::Told(sent, fate) => {
                state.asks.on_told(now, *fate == Fate::Carried, *fate == Fate::Denied);
                if *fate != Fate::Carried {
                    engine.handle_lost(sent);
                }
            }
            Event::PortUp => engine.handle_port_up(),
            Event::Paged | Event::Modified => engine.handle_doorbell(now, &mut host),
            Event::Due => {}
        }
        // A train of a window is not kept until pages have been brought: the sender sends it again.
        let payload = payload.filter(|payload| payload.window().is_none());
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
                self.fill(state, Instant(now()), netdev, batch);
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

    fn on_window_done(&self) {
        // A full barrier after the window's loan has ended: see `is_read`.
        if self.awaits.xchg(0, Full) != 0 {
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
