// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What leaves a queue pair: the engine's transmits, made into frames for the netdev's queue or posted as trains on the
//! cable's lane. Which of the two is asked anew for each filling.

use super::{Engine, Qp, State, TRY_AGAIN};
use crate::{
    counters::Tally,
    host::{Lent, PayloadOf},
    kapi::{netdev::Netdev, timer::now},
    ports::Lanes,
    watch::{self, Carrier},
    wire::{
        native::{self, WindowsOf},
        udp::{
            run,
            send::{self, Batch, NotBuilt, Way, BATCH},
        },
        Wire,
    },
    wq::SendQueue,
};
use kernel::sync::{
    atomic::{Full, Relaxed},
    Arc,
};
use roce::{
    grants::Went,
    lanes::{Lane, Turn, Used},
    qp::QpKind,
    time::Instant,
    wire::udp::Path,
    wqe::{Fault, Room, Route, Transmit},
};
use tbnet::{Client, Port};

/// Packets asked of the engine under one taking of the lock: with paths that cannot be built nothing else ends it.
const TURNS: usize = 4 * BATCH;
/// After so many packets of which none could be sent the next are asked for that many nanoseconds later.
const TURN_PAUSE: u64 = 1_000_000;

impl Qp {
    /// Builds what may be sent now.
    pub(super) fn fill(self: &Arc<Self>, state: &mut State, now: Instant, netdev: Option<&Netdev>, batch: &mut Batch) {
        let Some(netdev) = netdev else {
            return;
        };
        if state.wire.is_none() && self.is_connected() {
            return;
        }
        let lanes = self.device.ports.get();
        let lanes = lanes.as_deref().and_then(Lanes::enter);
        // A bond carries runs as long as all its cables do; by lanes they go as long as one leads to the peer. What is
        // sent by the bond may be lost, as it takes a while to see that a cable is out.
        let leading = lanes.as_deref().zip(state.wire).filter(|(lanes, wire)| {
            let mac = wire.path.dst_mac;
            lanes.iter().any(|port| port.reaches(mac))
        });
        let runs = self.sends_runs(state, netdev, leading.is_some());
        if let (true, Some((lanes, wire))) = (runs, leading) {
            self.fill_lanes(state, now, lanes, &wire);
            return;
        }
        self.fill_queue(state, now, (netdev, runs), batch);
    }

    /// As [`Self::fill`], by packets, or runs of them, for the netdev's queue. Not inlined, as [`Self::fill_lanes`]:
    /// the stack is to have the one or the other, deep in softirqs.
    #[inline(never)]
    fn fill_queue(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        (netdev, runs): (&Netdev, bool),
        batch: &mut Batch,
    ) {
        let needs = state.paging.needs();
        let watched = watch::shows_packets();
        let by = if runs { Carrier::Run } else { Carrier::Datagram };
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
                let why = NotBuilt::Fault(Fault::LocalQpOp);
                self.on_not_built(&mut state.engine, &mut state.tally, &mut host, &transmit, why);
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
                    if watched {
                        let mtu = state.engine.path_mtu().bytes();
                        watch::sent(&transmit, &path, (by, mtu, 0), self.device.ib(), self.number);
                    }
                    state.tally.sent_runs += u64::from(runs);
                    self.flight.on_built(&self.device.in_flight);
                    state.tally.sent_bytes += frame.ip_len();
                    batch.push(frame, transmit.request_psn());
                }
                Err(why) => {
                    if !self.on_not_built(&mut state.engine, &mut state.tally, &mut host, &transmit, why) {
                        break;
                    }
                }
            }
        }
        self.bring(state, &needs, None);
        self.settle(state);
    }

    /// As [`Self::fill`], by trains on the lanes of the cables to the peer, which are posted at once: the QP's lock
    /// keeps them in order. `roce::lanes` says which lane has the next one.
    #[inline(never)]
    fn fill_lanes(self: &Arc<Self>, state: &mut State, now: Instant, lanes: &[Port], wire: &Wire) {
        let needs = state.paging.needs();
        let watched = watch::shows_packets();
        let mtu = state.engine.path_mtu().bytes();
        let mac = wire.path.dst_mac;
        let lane = |port: &Port| Lane {
            is_first: port.is_first(),
            leads: port.reaches(mac),
            answers: port.answers(),
        };
        let used = Used::of(lanes.iter().map(lane));
        let leads = |port: &Port| used.takes(lane(port));
        let (lanes, count) = (lanes.get(..used.lanes).unwrap_or(lanes), used.count);
        let (mut posted, before) = (0_u64, state.tally.sent_trains);
        if let Some(peer) = state.engine.is_at_rest() {
            state.turn.rest(self.number, peer.value());
        }
        for turn in 0.. {
            if turn == BATCH {
                // Others have their turn.
                self.after.schedule();
                break;
            }
            let free = self.free_lane(|| {
                let at = pick(&state.turn, lanes, leads, |port| port.has_room(used.several))?;
                let windows = WindowsOf(lanes.get(at)?);
                (!state.asks.must_wait(now, count, &windows)).then_some(at)
            });
            // Acknowledgements go past the limit: else a QP that waits for room would stop its peer.
            let at = free.or_else(|| pick(&state.turn, lanes, leads, |_| true));
            let Some((at, port)) = at.and_then(|at| Some((at, lanes.get(at)?))) else {
                break;
            };
            let room = state.runs.room(native::room(port, count));
            let mut host = state.own.lend(self.memory(&needs), None);
            let transmit = if free.is_some() {
                state.engine.poll_transmit(now, room, &mut host)
            } else {
                state.engine.poll_acknowledgement()
            };
            let Some(transmit) = transmit else {
                break;
            };
            state.turn.on_sent(at, transmit.packets, transmit.ends());
            // UC completes what is built, and then the memory is the program's again.
            let life = (self.kind == QpKind::Rc).then_some(&state.loans);
            let bytes = PayloadOf(&host, transmit.payload);
            let credit = || {
                self.flight.on_built(&self.device.in_flight);
                self.clone()
            };
            let size = (transmit.payload.byte_len(), native::MOST_PAGES);
            let by = (count, &WindowsOf(port));
            let part = state.asks.part(now, by, size, || state.engine.window_of(&transmit));
            let client = || -> Arc<dyn Client> { self.device.clone() };
            let window = part.map(|part| (part, client()));
            let built = native::post(
                port,
                &transmit,
                (now, self.number, mtu, wire.ends.out),
                &bytes,
                life,
                credit,
                window,
            );
            state.runs.handle_built(!matches!(built, Err(NotBuilt::Lost)));
            match built {
                Ok((len, went)) => {
                    if watched {
                        let windowed = part.filter(|_| went == Went::Asking).map_or(0, |part| part.len);
                        let how = (Carrier::Train, mtu, windowed);
                        watch::sent(&transmit, &wire.path, how, self.device.ib(), self.number);
                    }
                    state.asks.on_sent(now, went, transmit.request_psn().is_some());
                    state.tally.sent_windows += u64::from(went == Went::Asking);
                    posted |= 1_u64.checked_shl(at as u32).unwrap_or(0);
                    state.tally.sent_runs += 1;
                    state.tally.sent_trains += 1;
                    state.tally.sent_bytes += len;
                }
                Err(why) => {
                    if !self.on_not_built(&mut state.engine, &mut state.tally, &mut host, &transmit, why) {
                        break;
                    }
                }
            }
        }
        let sent = state.tally.sent_trains.saturating_sub(before);
        if sent != 0 {
            self.device.ports.add_sent(sent);
        }
        for (at, port) in lanes.iter().enumerate() {
            if posted & 1_u64.checked_shl(at as u32).unwrap_or(0) != 0 {
                port.ring();
            }
        }
        self.bring(state, &needs, None);
        self.settle(state);
    }

    /// A transmit was not built. False if it waits for pages, and nothing goes before it.
    #[inline(never)]
    fn on_not_built(
        &self,
        engine: &mut Engine,
        tally: &mut Tally,
        host: &mut Lent<'_>,
        transmit: &Transmit,
        why: NotBuilt,
    ) -> bool {
        match why {
            NotBuilt::Fault(fault) => {
                let before = watch::before(engine);
                engine.handle_gather_fault(Instant(now()), transmit, fault, host);
                watch::after(before, engine, self.device.ib(), self.number);
                return fault != Fault::Absent;
            }
            // As if the wire had lost it: the timer's retries end, and the user is told.
            NotBuilt::TooLong if transmit.request_psn().is_some() => tally.lost += 1,
            NotBuilt::TooLong | NotBuilt::Lost => {
                tally.lost += 1;
                engine.handle_unbuilt(Instant(now()), transmit);
            }
        }
        true
    }

    /// The lane to the peer that has the next train, as `free` says. If none may, [`Self::on_room`] is called when one
    /// may.
    #[inline(never)]
    fn free_lane(&self, free: impl Fn() -> Option<usize>) -> Option<usize> {
        free().or_else(|| {
            if self.queued.xchg(1, Full) == 0 && !self.device.waiting.push(self.number) {
                self.queued.store(0, Relaxed);
                self.timer.arm(now().saturating_add(TRY_AGAIN));
            }
            // There may have been some since, and all been told but this one.
            free()
        })
    }

    /// The cable's lane has room again.
    pub(crate) fn on_room(&self) {
        self.queued.store(0, Relaxed);
        self.after.schedule();
    }

    /// Whether it sends in runs now: to its peer at the other end of a cable.
    #[inline(never)]
    fn sends_runs(&self, state: &mut State, netdev: &Netdev, leads: bool) -> bool {
        let Some(Wire { path, .. }) = &state.wire else {
            return false;
        };
        let carried = path.tag == 0 && path.dst_mac != netdev.mac() && (leads || netdev.carries_runs());
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
}

/// The lane whose turn it is, of those that lead to the peer and have room, as they are asked.
fn pick(turn: &Turn, lanes: &[Port], leads: impl Fn(&Port) -> bool, has_room: impl Fn(&Port) -> bool) -> Option<usize> {
    let leads = |at: usize| lanes.get(at).is_some_and(&leads);
    turn.pick(lanes.len(), leads, |at| lanes.get(at).is_some_and(&has_room))
}
