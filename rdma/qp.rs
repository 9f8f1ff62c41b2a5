// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queue pairs: the engine's decisions carried out.
//!
//! Doorbells, packets and the timer all end in [`Qp::drive`], in the context they come from: they change the engine
//! under the QP's lock, write completions, and build frames, which are sent after the lock is released. One CPU at a
//! time sends for a QP, so frames leave in order; whoever comes meanwhile leaves the work to it.

mod create;
mod show;

pub(crate) use create::NewQp;

use crate::{
    attr, caps,
    counters::Tally,
    cq::{Cq, Extra, Sender},
    device::Device,
    early::Waiting,
    host::Lent,
    kapi::{
        hint::hint,
        netdev::{FrameDone, KeptFrame, Netdev, To},
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
    send::{self, Batch, NotBuilt, Way, BATCH},
    watch,
    window::Life,
    wq::{RecvQueue, SendQueue},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, Mutex,
    },
};
use roce::{
    completion::{Event, Queue, WcStatus},
    counters::Counters,
    limits,
    parking::Errand,
    qp::{ModifyError, Mtu, QpKind, ReadResource, SendMessage, Slots, State as QpState},
    time::Instant,
    wire::{udp::Path, Packet},
    wqe::{Fault, Room, Route},
};
use usb4_bindings as c;

/// All our QPNs have it; those of stock rxe devices, which may share the netdev, are small.
pub(crate) const QPN_FLAG: u32 = 0x80_0000;

/// Frames of one QP in the stack at most. The queue below stays short, and the READ responder cannot fill it.
const IN_FLIGHT: i32 = 96;
/// The same while all QPs of the device together have [`DEVICE_IN_FLIGHT`] there: a netdev's queue has 1000 places.
const LEAST_IN_FLIGHT: i32 = 4;
/// See [`LEAST_IN_FLIGHT`].
const DEVICE_IN_FLIGHT: i32 = 192;
/// Frames sent without a break; then other softirqs have their turn.
const ROUND: usize = 64;
/// Packets asked of the engine under one taking of the lock: with paths that cannot be built nothing else ends it.
const TURNS: usize = 4 * BATCH;
/// After so many packets of which none could be sent the next are asked for that many nanoseconds later.
const TURN_PAUSE: u64 = 1_000_000;
/// Completions written without a break. A user who keeps posting to a QP in ERR cannot keep us here.
const SETTLE: usize = 1024;
/// Times in a row that flushing goes on at once: enough for the longest queues. Who posts more to a QP in ERR, for which
/// he needs no system call, has it flushed by the timer.
const FLUSHES: u32 = 32;
/// Posting a receive rings no doorbell, so a QP in ERR looks for receives to flush: soon at first, then less often.
const FLUSH_FIRST: u64 = 1_000_000;
/// See [`FLUSH_FIRST`].
const FLUSH_LAST: u64 = 256_000_000;

/// QPs, of all devices, whose timers run out one after the other without anything acknowledged. Each tries again the less
/// often the more they are, so that all of them together leave the processor to others.
static STUCK: Atomic<u32> = Atomic::new(0);

type Engine = roce::qp::Qp<Slots<KVVec<SendMessage>, KVVec<ReadResource>>>;

/// Guarded by the QP's lock. A CQ's lock is taken under it.
struct State {
    engine: KBox<Engine>,
    sq: SendQueue,
    rq: RecvQueue,
    path: Option<Path>,
    sender: Sender,
    tally: Tally,
    ip_id: u16,
    /// Somebody is sending and will look again before it stops.
    sending: bool,
    /// Nanoseconds to the next look for receives to flush.
    flush_in: u64,
    /// How often flushing has gone on at once.
    flushes: u32,
    /// It is one of [`STUCK`].
    stuck: bool,
    /// Gone once the QP is being destroyed: nothing happens any more.
    handle: Option<QpHandle>,
    kept: KeptAttr,
    paging: Paging,
    early: Waiting<KeptFrame>,
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
    pd: u64,
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
    /// Frames in the stack.
    in_flight: Atomic<i32>,
    /// Sending waits until fewer frames are in the stack; 0: it does not wait.
    stalled: Atomic<i32>,
    /// 1 once the peer was late with an answer: its Ethernet address may have changed.
    late: Atomic<i32>,
    /// 1 while receives are flushed as they are posted.
    flushes: Atomic<i32>,
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
        let mut may_send = false;
        Self::drive(this, None, |engine, now, host| {
            may_send = !matches!(engine.state(), QpState::Reset | QpState::Init | QpState::Rtr);
            engine.handle_post(now, host.sq.posted(read));
        });
        may_send.then_some(()).ok_or(EINVAL)
    }

    /// Sends what was put off: before a change of state, which would forget the acknowledgement that the peer waits for.
    pub(crate) fn flush(this: &Arc<Self>) {
        Self::drive(this, None, |_, _, _| ());
    }

    /// Has one path, and hears its other end only.
    pub(crate) fn is_connected(&self) -> bool {
        !self.kind.is_datagram()
    }

    /// A packet for this QP, whose ICRC is right; for datagrams, also the address. False if it is not for this QP: a
    /// connected one, and another path than its own.
    pub(crate) fn receive(this: &Arc<Self>, packet: &Packet, payload: &Payload<'_>) -> bool {
        packet.bth.pkey & 0x7fff == caps::PKEY & 0x7fff
            && Self::drive(this, Some(payload), |engine, now, host| {
                engine.handle_packet(now, packet, host);
            })
    }

    /// A packet for a group that this QP hears, whose ICRC is right.
    pub(crate) fn receive_group(this: &Arc<Self>, packet: &Packet, payload: &Payload<'_>) {
        if this.kind.is_datagram() && packet.bth.pkey & 0x7fff == caps::PKEY & 0x7fff {
            Self::drive(this, Some(payload), |engine, now, host| {
                engine.handle_packet(now, packet, host);
            });
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

    /// Lets `act` work on the engine, then does what came of it. False if the payload did not come along the path of a
    /// connected QP: nothing is done then.
    fn drive(
        this: &Arc<Self>,
        payload: Option<&Payload<'_>>,
        act: impl FnOnce(&mut Engine, Instant, &mut Lent<'_>),
    ) -> bool {
        let netdev = this.device.netdev();
        let mut batch = Batch::new();
        {
            let mut guard = this.state.lock();
            let state = &mut *guard;
            if state.handle.is_none() {
                return true;
            }
            let is_along = |payload: &Payload<'_>| state.path.as_ref().is_some_and(|path| payload.is_along(path));
            if this.is_connected() && !payload.is_none_or(is_along) {
                return false;
            }
            if let (Some(payload), true) = (payload, state.paging.is_busy()) {
                state.paging.park(payload.keep());
                return true;
            }
            let needs = state.paging.needs();
            let mut host = Lent {
                sq: &mut state.sq,
                rq: &mut state.rq,
                memory: this.memory(&needs),
                payload,
                sender: &mut state.sender,
                early: &mut state.early,
            };
            if let Some(payload) = payload {
                state.tally.received_bytes += payload.ip_len();
            }
            let before = watch::before(&state.engine);
            state.engine.handle_company(STUCK.load(Relaxed));
            act(&mut state.engine, Instant(now()), &mut host);
            this.bring(state, &needs, payload);
            watch::after(before, &state.engine, this.device.ib(), this.number);
            state.count_stuck(state.engine.is_stuck());
            let woke = this.settle(state) | this.handle_early(state);
            if state.sending {
                return true;
            }
            // Once somebody has been woken, softirqs that are put off come after him. Who has had his share waits in any case.
            let may_wait = !woke && state.engine.may_wait();
            if payload.is_some() && (may_wait || this.owner.rest().is_some()) {
                this.after.schedule();
                return true;
            }
            this.fill(state, netdev.as_ref(), &mut batch);
            if batch.len() == 0 {
                this.rearm(state);
                return true;
            }
            state.sending = true;
        }
        let mut sent = 0;
        loop {
            sent += batch.len();
            let unsent = batch.send();
            let mut state = this.state.lock();
            if let Some(psn) = unsent {
                state.engine.handle_unsent(Instant(now()), psn);
            }
            if state.handle.is_some() && sent < ROUND {
                this.fill(&mut state, netdev.as_ref(), &mut batch);
                if batch.len() != 0 {
                    continue;
                }
            }
            state.sending = false;
            if sent < ROUND {
                this.rearm(&mut state);
            } else {
                this.after.schedule();
            }
            return true;
        }
    }

    /// Hands the engine the packets that came early and whose turn has come. Whether somebody was woken by it.
    fn handle_early(self: &Arc<Self>, state: &mut State) -> bool {
        let mut woke = false;
        while let Some(early) = state.engine.poll_early() {
            let Some(kept) = state.early.take(early) else {
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
            let mut host = Lent {
                sq: &mut state.sq,
                rq: &mut state.rq,
                memory: self.memory(&needs),
                payload: Some(&payload),
                sender: &mut state.sender,
                early: &mut state.early,
            };
            let before = watch::before(&state.engine);
            state.engine.handle_packet(Instant(now()), &packet, &mut host);
            self.bring(state, &needs, Some(&payload));
            watch::after(before, &state.engine, self.device.ib(), self.number);
            woke |= self.settle(state);
        }
        let engine = &state.engine;
        state.early.retain(|early| engine.is_early(early));
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
            self.timer.arm(now().saturating_add(FLUSH_FIRST));
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
        Self::drive(this, None, |engine, now, host| engine.handle_doorbell(now, host));
        this.state.lock().paging.settle(errand);
    }

    /// Builds what may be sent now.
    fn fill(self: &Arc<Self>, state: &mut State, netdev: Option<&Netdev>, batch: &mut Batch) {
        let Some(netdev) = netdev else {
            return;
        };
        if state.path.is_none() && !self.kind.is_datagram() {
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
            let mut host = Lent {
                sq: &mut state.sq,
                rq: &mut state.rq,
                memory: self.memory(&needs),
                payload: None,
                sender: &mut state.sender,
                early: &mut state.early,
            };
            // Who waits for room keeps the peer from doing so.
            let transmit = if self.may_send() {
                state.engine.poll_transmit(now, Room::PACKET, &mut host)
            } else {
                state.engine.poll_acknowledgement()
            };
            let Some(transmit) = transmit else {
                break;
            };
            let path = match transmit.route {
                Some(route) => self.route(route, host.sq, netdev),
                None => state.path,
            };
            let Some(mut path) = path else {
                let before = watch::before(&state.engine);
                state
                    .engine
                    .handle_gather_fault(now, &transmit, Fault::LocalQpOp, &mut host);
                watch::after(before, &state.engine, self.device.ib(), self.number);
                continue;
            };
            let in_vlan = if path.tag == 0 { None } else { netdev.tagged(path.tag) };
            let Some(out) = (if path.tag == 0 { Some(netdev) } else { in_vlan.as_ref() }) else {
                // The VLAN is gone or down.
                state.tally.lost += 1;
                state.engine.handle_unbuilt(now, &transmit);
                continue;
            };
            path.src_mac = out.mac();
            state.ip_id = state.ip_id.wrapping_add(1);
            let way = Way {
                netdev: out,
                path: &path,
                ip_id: state.ip_id,
            };
            match send::build(&transmit, &way, host.sq, self.memory(&needs), self) {
                Ok(frame) => {
                    self.in_flight.fetch_add(1, Full);
                    self.device.in_flight.fetch_add(1, Relaxed);
                    let [first, ..] = path.dst_mac;
                    let heard = first & 1 != 0 && self.device.groups.has(&path.addresses.dst_gid());
                    state.tally.sent_bytes += frame.ip_len();
                    batch.push(frame, To::of(&path, heard), transmit.request_psn());
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

    /// Whether the stack holds few enough of our frames. If not, their return will restart us.
    fn may_send(&self) -> bool {
        let most = match self.device.in_flight.load(Relaxed) {
            ..DEVICE_IN_FLIGHT => IN_FLIGHT,
            _ => LEAST_IN_FLIGHT,
        };
        if self.in_flight.load(Relaxed) < most {
            return true;
        }
        self.stalled.xchg(most / 2 + 1, Full);
        // The last frame may have come back before it could see the mark.
        self.in_flight.load(Relaxed) <= most / 2 && self.stalled.xchg(0, Full) != 0
    }

    /// Writes completions and raises events. Whether somebody was woken by it.
    fn settle(&self, state: &mut State) -> bool {
        let Some(mark) = state.handle.as_ref().map(QpHandle::mark) else {
            return false;
        };
        let mut woke = false;
        // What is flushed needs no memory.
        let needs = Needs::deaf();
        let mut host = Lent {
            sq: &mut state.sq,
            rq: &mut state.rq,
            memory: self.memory(&needs),
            payload: None,
            sender: &mut state.sender,
            early: &mut state.early,
        };
        for left in (0..SETTLE).rev() {
            let Some(completion) = state.engine.poll_completion(&mut host) else {
                break;
            };
            if left == 0 {
                let flushes = matches!(state.engine.state(), QpState::Err | QpState::Sqe);
                state.flushes += u32::from(flushes);
                if state.flushes <= FLUSHES {
                    self.after.schedule();
                } else {
                    self.timer.arm(now().saturating_add(state.flush_in));
                }
            }
            let extra = Extra {
                sender: *host.sender,
                qp: mark,
            };
            match completion.status {
                WcStatus::RetryExceeded => state.tally.retry_exceeded += 1,
                WcStatus::RnrRetryExceeded => state.tally.rnr_retry_exceeded += 1,
                _ => {}
            }
            match completion.queue {
                Queue::Send => {
                    host.sq.complete();
                    if completion.signalled {
                        woke |= self.send_cq.push(&completion, &extra);
                    }
                }
                Queue::Recv => {
                    host.rq.complete();
                    woke |= self.recv_cq.push(&completion, &extra);
                }
            }
        }
        while let Some(event) = state.engine.poll_event() {
            let event = match event {
                Event::CommEstablished => QpEvent::CommEstablished,
                Event::SqDrained => QpEvent::SqDrained,
                Event::LastWqeReached => QpEvent::LastWqe,
                Event::RequestError => QpEvent::RequestError,
                Event::AccessError => QpEvent::AccessError,
                Event::Fatal => QpEvent::Fatal,
            };
            watch::raised(event.code(), &state.engine, self.device.ib(), self.number);
            if let Some(handle) = &state.handle {
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
        self.flushes.store(i32::from(flushes), kernel::sync::atomic::Relaxed);
        if flushes {
            self.timer.arm(now().saturating_add(state.flush_in));
            state.flush_in = (state.flush_in * 2).min(FLUSH_LAST);
        } else if state.engine.state() != QpState::Sqe {
            state.flush_in = FLUSH_FIRST;
            state.flushes = 0;
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
        {
            let mut guard = this.state.lock();
            let state = &mut *guard;
            state.engine.swap_reads(&mut reads);
            let path = if has(c::ib_qp_attr_mask_IB_QP_AV) {
                let dest = if has(c::ib_qp_attr_mask_IB_QP_DEST_QPN) {
                    wanted.fields().dest_qp_num
                } else {
                    state.kept.fields().dest_qp_num
                };
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
                    "QP {:#x}: the path's MTU is {} and the port's {}: of longer messages than that none leave; give the netdevs one MTU",
                    this.number,
                    mtu,
                    port_mtu
                );
            }
            watch::after(before, &state.engine, this.device.ib(), this.number);
            if let Some(path) = path {
                state.path = Some(path);
                state.kept.keep_path(&wanted);
            }
            attr::keep(&mut state.kept, wanted.fields(), mask);
            if modify.state == Some(QpState::Reset) {
                state.sq.reset();
                state.rq.reset();
                state.path = None;
                state.kept.forget();
                parked = state.paging.renew();
                ended = this.life.renew(this.device.new_serial());
            }
        }
        drop(parked);
        if let Some(life) = ended {
            this.device.keyed.end_life(life);
        }
        Self::drive(this, None, |engine, now, host| engine.handle_doorbell(now, host));
        Ok(())
    }

    /// Leads to where its next hop is now, in a pass over `all` paths or only over those whose peer was late.
    pub(crate) fn renew(&self, all: bool, look_up: &mut impl FnMut(&Path, bool) -> Option<[u8; 6]>) {
        let late = self.late.xchg(0, Full) != 0;
        let path = self.state.lock().path;
        let Some(old) = path.filter(|_| all || late) else {
            return;
        };
        let Some(hop) = look_up(&old, late) else {
            return;
        };
        let mut state = self.state.lock();
        // It may have been modified since.
        if let Some(path) = state.path.as_mut().filter(|path| path.leads_as(&old)) {
            path.dst_mac = hop;
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
            self.device.set_gsi(0);
        }
        let (buried, parked, ended) = {
            let mut state = self.state.lock();
            state.handle = None;
            state.count_stuck(false);
            state.early.retain(|_| false);
            let buried = state.path.zip(state.engine.tombstone());
            (buried, state.paging.renew(), self.life.renew(self.device.new_serial()))
        };
        drop(parked);
        if let Some(life) = ended {
            self.device.keyed.end_life(life);
        }
        let found = if let Some((path, stone)) = buried {
            if let Some(forgotten) = self.device.graves.bury(self.number, path, stone) {
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

impl FrameDone for Qp {
    fn on_frame_done(&self) {
        self.device.in_flight.fetch_sub(1, Relaxed);
        let left = self.in_flight.fetch_sub(1, Full) - 1;
        if left < self.stalled.load(Relaxed) && self.stalled.xchg(0, Full) != 0 {
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
            let waiting = self.in_flight.load(Relaxed) > 0;
            let mut late = false;
            self.owner.charge(|| {
                Self::drive(&this, None, |engine, now, host| {
                    if waiting {
                        engine.handle_backlog(now);
                    }
                    let before = engine.counters().timeouts;
                    engine.handle_timeout(now, host);
                    late = engine.counters().timeouts != before;
                    // A kernel caller's sends are announced this way.
                    engine.handle_doorbell(now, host);
                });
            });
            if late {
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
            self.owner.charge(|| Self::drive(&this, None, |_, _, _| {}));
        }
    }
}
