// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What must hold for every seed.

use std::fmt;

use crate::direct::Lane;
use crate::endpoint::{Endpoint, User, GRH};
use crate::scenario::{Bad, Connection, Op, Region, Twist, CELL};
use crate::world::{World, FIRST_QPN};
use roce::completion::{Completion, Event, WcOpcode, WcStatus};
use roce::cork;
use roce::counters::Counters;
use roce::limits;
use roce::psn::{Psn, Qpn};
use roce::qp::{QpKind, State};
use roce::time::Duration;
use roce::wire::{Packet, Syndrome};
use roce::wqe::{AtomicOp, SendOp, Source, Transmit};

/// A rule that did not hold.
#[derive(Clone, Debug)]
pub struct Failure(String);

impl Failure {
    /// The failure `what`.
    pub fn new(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::new(what()))
    }
}

/// A send completes: in order, with its bytes where they belong.
pub fn on_send_completion(world: &World, e: usize, done: &Completion) -> Result<(), Failure> {
    let [user, peer] = [&world.endpoints[e].user, &world.endpoints[e ^ 1].user];
    let index = user.send_completions.len();
    ensure(done.wr_id == index as u64 && done.slot == index as u32, || {
        format!("end {e}: send {} completed in place of {index}", done.wr_id)
    })?;
    ensure(index < user.taken_sends, || {
        format!("end {e}: send {index} completed but was never taken")
    })?;
    let broken_before = user
        .send_completions
        .last()
        .is_some_and(|c| c.status != WcStatus::Success);
    if broken_before {
        return ensure(done.status == WcStatus::Flushed, || {
            format!("end {e}: send {index} is {:?} after a failure", done.status)
        });
    }
    let op = user.plan.ops[index];
    if done.status != WcStatus::Success {
        return ensure(done.signalled && done.solicited, || {
            format!("end {e}: error of send {index} is silent")
        });
    }
    ensure(op.bad.is_none(), || {
        format!("end {e}: bad send {index} {:?} succeeded", op.bad)
    })?;
    ensure(done.signalled == op.signalled && done.byte_len == op.length, || {
        format!("end {e}: send {index}: {done:?}")
    })?;
    let opcode = match op.op {
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
    };
    ensure(done.opcode == opcode, || {
        format!("end {e}: send {index} has opcode {:?}", done.opcode)
    })?;
    if op.op.is_local() {
        return ensure(user.locals.contains(&index), || {
            format!("end {e}: local operation {index} completed and was not carried out")
        });
    }
    if world.connections[e / 2].kind != QpKind::Rc || matches!(op.op, SendOp::Flush(_)) {
        return Ok(());
    }
    let len = op.length as usize;
    let here = &user.memory[op.local..op.local + len];
    if let SendOp::Atomic(_) = op.op {
        return ensure(op.region == Region::Shared || here == op.before.to_ne_bytes(), || {
            format!("end {e}: atomic {index} found {here:?} in place of {}", op.before)
        });
    }
    let there = &peer.memory[op.remote..op.remote + len];
    ensure(here == there, || {
        format!("end {e}: bytes of send {index} ({op:?}) differ at its completion")
    })?;
    match op.recv {
        Some(recv) => ensure(recv < peer.recv_completions.len(), || {
            format!("end {e}: send {index} completed before the receive it fills")
        }),
        None => Ok(()),
    }
}

/// A receive completes: in order, filled with the message that is due.
pub fn on_recv_completion(world: &World, e: usize, done: &Completion) -> Result<(), Failure> {
    let [user, peer] = [&world.endpoints[e].user, &world.endpoints[e ^ 1].user];
    let index = user.recv_completions.len();
    ensure(done.wr_id == index as u64 && done.slot == index as u32, || {
        format!("end {e}: receive {} completed in place of {index}", done.wr_id)
    })?;
    ensure(index < user.taken_recvs, || {
        format!("end {e}: receive {index} completed but was never taken")
    })?;
    if user
        .recv_completions
        .last()
        .is_some_and(|c| c.status != WcStatus::Success)
    {
        return ensure(done.status == WcStatus::Flushed, || {
            format!("end {e}: receive {index} is {:?} after a failure", done.status)
        });
    }
    if done.status != WcStatus::Success {
        return Ok(());
    }
    if world.connections[e / 2].kind != QpKind::Rc {
        return unreliable_recv(world, e, done);
    }
    let op = peer.plan.ops.iter().find(|op| op.recv == Some(index));
    let Some(op) = op else {
        return Err(Failure::new(format!("end {e}: nobody sends receive {index}")));
    };
    let imm = matches!(op.op, SendOp::SendImm | SendOp::WriteImm).then_some(op.imm);
    let opcode = if op.op == SendOp::WriteImm {
        WcOpcode::RecvWithImm
    } else {
        WcOpcode::Recv
    };
    let key = match op.op {
        SendOp::SendInvalidate { key } => Some(key),
        _ => None,
    };
    if let Some(key) = key {
        let nth = user.recv_completions.iter().filter(|c| c.invalidated.is_some()).count();
        ensure(
            done.invalidated == Some(key) && user.invalidated[nth..] == [key],
            || format!("end {e}: receive {index}: {:?} for {key:?}", user.invalidated),
        )?;
    }
    let same = done.imm == imm
        && done.invalidated == key
        && done.src_qpn.is_none()
        && done.opcode == opcode
        && done.byte_len == op.length;
    ensure(same && done.solicited == op.solicited, || {
        format!("end {e}: receive {index}: {done:?} for {op:?}")
    })?;
    let len = op.length as usize;
    ensure(
        user.memory[op.remote..op.remote + len] == peer.memory[op.local..op.local + len],
        || format!("end {e}: receive {index} completed without its bytes"),
    )
}

/// Which send of `end` the packet with `psn` belongs to, where nothing is sent twice.
pub fn sender_of(connection: &Connection, end: usize, psn: Psn) -> Option<usize> {
    let plan = &connection.ends[end];
    let mut left = psn.distance(Psn::new(plan.psn));
    for (index, op) in plan.ops.iter().enumerate() {
        let packets = match connection.kind {
            QpKind::Rc => return None,
            _ if op.op.is_local() => 0,
            QpKind::Uc => connection.mtu.packets(op.length),
            _ => u32::from(op.length <= connection.mtu.bytes()),
        };
        if left < packets {
            return Some(index);
        }
        left -= packets;
    }
    None
}

/// A receive of an unreliable service completes: with the whole message whose packet came last, and only
/// now. Messages of a connection come in order.
fn unreliable_recv(world: &World, e: usize, done: &Completion) -> Result<(), Failure> {
    let [user, peer] = [&world.endpoints[e].user, &world.endpoints[e ^ 1].user];
    let Some(sent) = user.heard else {
        return Err(Failure::new(format!("end {e}: {done:?} without a packet")));
    };
    let kind = world.connections[e / 2].kind;
    let in_order = user.received.last().is_none_or(|last| *last < sent);
    ensure(in_order || kind != QpKind::Uc, || {
        format!("end {e}: send {sent} received after {:?}", user.received)
    })?;
    let (op, recv) = (peer.plan.ops[sent], user.plan.recvs[done.slot as usize]);
    let (grh, src) = match kind {
        QpKind::Ud => (limits::GRH_LEN, Some(peer_qpn(e))),
        _ => (0, None),
    };
    let (opcode, at) = match op.op {
        SendOp::WriteImm => (WcOpcode::RecvWithImm, op.remote),
        _ => (WcOpcode::Recv, recv.local + grh as usize),
    };
    let imm = matches!(op.op, SendOp::SendImm | SendOp::WriteImm).then_some(op.imm);
    let same = done.imm == imm && done.opcode == opcode && done.byte_len == op.length + grh && done.src_qpn == src;
    ensure(same && done.solicited == op.solicited, || {
        format!("end {e}: {done:?} for {op:?}")
    })?;
    let len = op.length as usize;
    ensure(
        user.memory[at..at + len] == peer.memory[op.local..op.local + len],
        || format!("end {e}: send {sent} received with a hole"),
    )?;
    let area = &user.memory[recv.local..recv.local + grh as usize];
    ensure(area.iter().all(|byte| *byte == GRH), || {
        format!("end {e}: no GRH with send {sent}")
    })
}

/// The peer's queue pair.
fn peer_qpn(e: usize) -> Qpn {
    Qpn::new(FIRST_QPN + (e ^ 1) as u32)
}

/// A packet was handled: a receiver that is not ready is given its time.
pub fn after_packet(endpoint: &mut Endpoint, now: u64, packet: &Packet, before: &Counters) {
    if !packet.opcode.is_response() {
        return;
    }
    let waits = endpoint.engine.counters().received_rnr_naks > before.received_rnr_naks;
    endpoint.silent_until = match packet.aeth.map(|aeth| aeth.syndrome) {
        Some(Syndrome::Rnr(code)) if waits => now + limits::rnr_delay(code).0,
        // Another one on the way changes nothing; progress ends the wait.
        Some(Syndrome::Rnr(_)) => endpoint.silent_until,
        _ => 0,
    };
}

/// A packet is about to be sent: requests respect the RNR wait, the fence and the draining.
pub fn before_transmit(endpoint: &mut Endpoint, now: u64, transmit: &Transmit) {
    let request = Packet::parse(transmit.header.as_bytes(), transmit.transport_len())
        .is_ok_and(|packet| !packet.opcode.is_response());
    if request && now < endpoint.silent_until {
        endpoint.user.broke(format!("a request at {now} into an RNR wait"));
    }
    if transmit.transport_len() % 4 != 0 {
        endpoint.user.broke("a packet is not padded to four bytes".into());
    }
    let Source::Send { slot, .. } = transmit.payload else {
        return;
    };
    let index = slot as usize;
    if endpoint.engine.state() == State::Sqd && index >= endpoint.begun {
        endpoint.user.broke(format!("send {index} began while draining"));
    }
    endpoint.begun = endpoint.begun.max(index + 1);
    let user = &mut endpoint.user;
    let awaited = user.send_completions.len();
    let fenced = user.plan.ops[index].fence;
    if fenced && user.plan.ops[awaited..index].iter().any(|op| op.op.is_answered()) {
        user.broke(format!("send {index} did not wait at its fence"));
    }
}

/// An event is raised: the send queue is drained only once all that has begun is complete.
pub fn on_event(endpoint: &mut Endpoint, event: Event) {
    let completed = endpoint.user.send_completions.len();
    if event == Event::SqDrained && completed < endpoint.begun {
        endpoint
            .user
            .broke(format!("drained after {completed} of {} sends", endpoint.begun));
    }
}

/// All that must hold at the end of a run.
pub fn verdict(world: &mut World) -> Result<(), Failure> {
    let finished = world.finished();
    for c in 0..world.connections.len() {
        let connection = world.connections[c].clone();
        let ends = [2 * c, 2 * c + 1];
        progress(world, &connection, ends)?;
        faults(world, &connection, ends)?;
        for e in ends {
            world.endpoints[e].user.posted_sends = world.endpoints[e].user.plan.ops.len();
            world.endpoints[e].user.posted_recvs = world.endpoints[e].user.plan.recvs.len();
            world.flush(e)?;
            let user = &world.endpoints[e].user;
            let [sends, recvs] = [user.send_completions.len(), user.recv_completions.len()];
            let due = if user.plan.srq {
                user.taken_recvs
            } else {
                user.plan.recvs.len()
            };
            ensure(sends == user.plan.ops.len() && recvs == due, || {
                format!(
                    "end {e}: {sends} of {} sends and {recvs} of {} receives came back",
                    user.plan.ops.len(),
                    user.plan.recvs.len()
                )
            })?;
            let last = user
                .events
                .iter()
                .filter(|event| **event == Event::LastWqeReached)
                .count();
            ensure(last == usize::from(user.plan.srq), || {
                format!("end {e}: the last WQE was reached {last} times")
            })?;
        }
        for e in ends {
            memory(world, e)?;
        }
    }
    sums(world)?;
    let open = world.direct.iter().flatten().position(|lane| !lane.is_idle());
    ensure(open.is_none(), || {
        format!("link of lane {open:?}: windows or requests are not over")
    })?;
    punctuality(world, finished)
}

/// Without a fault of users or hosts everything has succeeded by itself.
fn progress(world: &World, connection: &Connection, ends: [usize; 2]) -> Result<(), Failure> {
    if !matches!(
        connection.twist,
        Twist::None | Twist::Drain { .. } | Twist::Leave { .. }
    ) {
        return Ok(());
    }
    if let Twist::Leave { end, .. } = connection.twist {
        ensure(!world.endpoints[ends[end]].alive, || {
            format!("end {}: never left", ends[end])
        })?;
    }
    if connection.kind != QpKind::Rc {
        return unreliable_progress(world, connection, ends);
    }
    for e in ends {
        let endpoint = &world.endpoints[e];
        let user = &endpoint.user;
        let (done, all) = (user.send_completions.len(), user.plan.ops.len());
        let failed = user.send_completions.iter().find(|c| c.status != WcStatus::Success);
        ensure(failed.is_none(), || format!("end {e}: {failed:?} without a cause"))?;
        ensure(done == all, || {
            format!("end {e}: deadlock, {done} of {all} sends completed")
        })?;
        ensure(endpoint.engine.state() == State::Rts, || {
            format!("end {e}: in {:?}", endpoint.engine.state())
        })?;
        // Who has left may have owed an answer that could not be built.
        ensure(!endpoint.alive || endpoint.engine.poll_timeout().is_none(), || {
            format!("end {e}: a timer runs with nothing to wait for")
        })?;
    }
    calm(world, ends)?;
    if let Twist::Drain { end, .. } = connection.twist {
        let drained = world.endpoints[ends[end]]
            .user
            .events
            .iter()
            .filter(|v| **v == Event::SqDrained)
            .count();
        ensure(drained <= 1, || format!("end {}: drained {drained} times", ends[end]))?;
    }
    Ok(())
}

/// Every send of an unreliable service has succeeded, and on a perfect link with receives posted in time
/// everything has come.
fn unreliable_progress(world: &World, connection: &Connection, ends: [usize; 2]) -> Result<(), Failure> {
    let disturbed = is_disturbed(world);
    for e in ends {
        let [user, peer] = [&world.endpoints[e].user, &world.endpoints[e ^ 1].user];
        settled(user, e, &[])?;
        let in_time = user.plan.post_recvs.iter().all(|(at, _)| *at == 0);
        let fits = |op: &Op| connection.kind == QpKind::Uc || op.length <= connection.mtu.bytes();
        let due = peer.plan.ops.iter().filter(|op| op.recv.is_some() && fits(op)).count();
        let got = user
            .recv_completions
            .iter()
            .filter(|c| c.status == WcStatus::Success)
            .count();
        ensure(disturbed || !in_time || got == due, || {
            format!("end {e}: {got} of {due} messages came over a perfect link")
        })?;
    }
    Ok(())
}

/// Something was lost or delayed, or a window came to nothing.
fn is_disturbed(world: &World) -> bool {
    let links = world.links.iter().any(|l| l.lost + l.disturbed > 0);
    links
        || world
            .direct
            .iter()
            .flatten()
            .any(|lane| lane.tally.denied + lane.tally.lost > 0)
}

/// Where nothing is lost or delayed and everybody is ready, nothing is sent twice but what asks for an acknowledgement.
fn calm(world: &World, ends: [usize; 2]) -> Result<(), Failure> {
    let counters = ends.map(|e| *world.endpoints[e].engine.counters());
    let disturbed = is_disturbed(world);
    // A timeout is spurious where the link is slow and shared; that is the user's choice of timeout.
    if disturbed || counters.iter().any(|c| c.timeouts + c.sent_rnr_naks > 0) {
        return Ok(());
    }
    // What follows a window by the link overtakes it, and is sent again where it cannot be kept until its turn.
    let overtakes = world.direct.iter().flatten().any(|lane| lane.tally.granted > 0);
    if overtakes && !world.keeps_all() {
        return Ok(());
    }
    let early = |c: &Counters| if overtakes { 0 } else { c.out_of_sequence };
    let wasted = counters.map(|c| c.retries + early(&c) + c.response_gaps);
    // The one that asks again may still be under way at the end, or an answer may have been.
    let asked = counters.map(|c| c.asked_again);
    let fits = |e: usize| counters[e].duplicate_requests <= asked[1 - e] && counters[e].dropped <= asked[e];
    ensure(wasted == [0, 0] && fits(0) && fits(1), || {
        format!("ends {ends:?}: disturbed by nothing, {counters:?}")
    })
}

/// The one fault of a connection has ended as it should on both sides.
fn faults(world: &World, connection: &Connection, ends: [usize; 2]) -> Result<(), Failure> {
    let disturbed = is_disturbed(world);
    match connection.twist {
        Twist::None | Twist::Drain { .. } | Twist::Leave { .. } => Ok(()),
        Twist::BadOp { end, index, bad } => bad_op(world, ends, end, index, bad, disturbed),
        Twist::Death { end, .. } => {
            let survivor = &world.endpoints[ends[1 - end]];
            let user = &survivor.user;
            settled(user, ends[1 - end], &[WcStatus::RetryExceeded])
        }
        Twist::LocalError { end, .. } => {
            settled(
                &world.endpoints[ends[1 - end]].user,
                ends[1 - end],
                &[WcStatus::RetryExceeded],
            )?;
            settled(
                &world.endpoints[ends[end]].user,
                ends[end],
                &[WcStatus::Flushed, WcStatus::RetryExceeded],
            )
        }
    }
}

fn bad_op(world: &World, ends: [usize; 2], end: usize, index: usize, bad: Bad, disturbed: bool) -> Result<(), Failure> {
    let [culprit, victim] = [ends[end], ends[1 - end]];
    let [user, peer] = [&world.endpoints[culprit].user, &world.endpoints[victim].user];
    let kind = world.connections[culprit / 2].kind;
    let failed = if kind == QpKind::Rc { State::Err } else { State::Sqe };
    ensure(world.endpoints[culprit].engine.state() == failed, || {
        format!(
            "end {culprit}: {bad:?} did not move it to ERR, {} completed",
            user.send_completions.len()
        )
    })?;
    let failed = user.send_completions.iter().position(|c| c.status != WcStatus::Success);
    let Some(at) = failed else {
        return Err(Failure::new(format!("end {culprit}: {bad:?} never failed")));
    };
    let status = user.send_completions[at].status;
    // An answer that was lost cannot be had again once the peer is in ERR.
    let excused = disturbed && status == WcStatus::RetryExceeded && user.plan.ops[at].op.is_answered();
    ensure((at == index && status == bad.requester()) || excused, || {
        format!("end {culprit}: {bad:?} of send {index} came out as {status:?} of send {at}")
    })?;
    if excused && at != index {
        return Ok(());
    }
    if let Some(status) = bad.receive() {
        let failed = peer.recv_completions.iter().find(|c| c.status != WcStatus::Success);
        ensure(failed.is_some_and(|c| c.status == status), || {
            format!("end {victim}: {bad:?} gave receive {failed:?}")
        })?;
    }
    let is_error = |event: &&Event| matches!(event, Event::AccessError | Event::RequestError | Event::Fatal);
    let event = peer.events.iter().find(is_error).copied();
    ensure(event == bad.event(), || {
        format!("end {victim}: {bad:?} raised {event:?}")
    })?;
    if bad.kills_responder() {
        let state = world.endpoints[victim].engine.state();
        ensure(state == State::Err, || {
            format!("end {victim}: {bad:?} left it in {state:?}")
        })?;
    }
    Ok(())
}

/// Every posted send has come back, and the first failure is one of `allowed`.
fn settled(user: &User, e: usize, allowed: &[WcStatus]) -> Result<(), Failure> {
    let (done, all) = (user.send_completions.len(), user.plan.ops.len());
    ensure(done == all, || {
        format!("end {e}: deadlock, {done} of {all} sends came back")
    })?;
    let failed = user.send_completions.iter().find(|c| c.status != WcStatus::Success);
    ensure(failed.is_none_or(|c| allowed.contains(&c.status)), || {
        format!("end {e}: failed with {failed:?}")
    })
}

/// The shared number of every host is the sum of what all queue pairs have added; what failed may have
/// been carried out or not.
fn sums(world: &World) -> Result<(), Failure> {
    for (host, shared) in world.shared.iter().enumerate() {
        let mut sum = 0u64;
        let mut certain = true;
        for (e, endpoint) in world.endpoints.iter().enumerate() {
            if world.endpoints[e ^ 1].host != host {
                continue;
            }
            let user = &endpoint.user;
            for (op, done) in user.plan.ops.iter().zip(&user.send_completions) {
                let SendOp::Atomic(AtomicOp::FetchAdd { add }) = op.op else {
                    continue;
                };
                if op.region == Region::Shared {
                    certain &= done.status == WcStatus::Success;
                    sum = sum.wrapping_add(add);
                }
            }
        }
        ensure(!certain || shared.get() == sum, || {
            format!("host {host}: the shared number is {} in place of {sum}", shared.get())
        })?;
    }
    Ok(())
}

/// The memory of `e` is what it was, but for what was addressed to it.
fn memory(world: &World, e: usize) -> Result<(), Failure> {
    let [user, peer] = [&world.endpoints[e].user, &world.endpoints[e ^ 1].user];
    let mut expected = world.initial[e].clone();
    let mut settle = |at: usize, len: u32, bytes: Option<&[u8]>| {
        let range = at..at + len as usize;
        // What a failed request did to its target is undefined.
        let bytes = bytes.unwrap_or(&user.memory[range.clone()]);
        expected[range].copy_from_slice(bytes);
    };
    for (index, op) in peer.plan.ops.iter().enumerate() {
        let range = op.local..op.local + op.length as usize;
        let unreliable = world.connections[e / 2].kind != QpKind::Rc;
        if unreliable {
            if matches!(op.op, SendOp::Write | SendOp::WriteImm) {
                settle(op.remote, op.length, None);
            }
            continue;
        }
        let sent = peer.send_completions[index].status == WcStatus::Success;
        let received = op
            .recv
            .and_then(|r| user.recv_completions.get(r))
            .is_some_and(|c| c.status == WcStatus::Success);
        let bytes = (sent || received).then_some(&peer.memory[range]);
        match op.op {
            SendOp::Read | SendOp::Flush(_) => {}
            op if op.is_local() => {}
            SendOp::Atomic(_) => {}
            // A message too long for its receive must not touch what follows it.
            SendOp::Send | SendOp::SendImm if op.bad == Some(Bad::SmallRecv) => {
                settle(op.remote, op.length - 1, None);
            }
            _ => settle(op.remote, op.length, bytes),
        }
    }
    for (index, op) in user.plan.ops.iter().enumerate() {
        let done = user.send_completions[index].status == WcStatus::Success;
        let range = op.remote..op.remote + op.length as usize;
        if let SendOp::Atomic(_) = op.op {
            settle(op.local, op.length, None);
        }
        if op.op == SendOp::Read {
            settle(op.local, op.length, done.then_some(&peer.memory[range]));
        }
    }
    if world.connections[e / 2].kind != QpKind::Rc {
        for recv in &user.plan.recvs {
            settle(recv.local, recv.length, None);
        }
    }
    // The number is what the atomics that succeeded have left, or those of unknown fate behind them.
    let done = peer
        .send_completions
        .iter()
        .filter(|c| c.status == WcStatus::Success)
        .count();
    let last = peer.plan.ops[..done]
        .iter()
        .rev()
        .find(|op| op.after != 0)
        .map_or(CELL, |op| op.after);
    let mut number = [0; 8];
    number.copy_from_slice(&user.memory[user.plan.cell..user.plan.cell + 8]);
    let number = u64::from_ne_bytes(number);
    ensure(
        number == last || peer.plan.ops[done..].iter().any(|op| op.after == number),
        || format!("end {e}: the number is {number} in place of {last}"),
    )?;
    settle(user.plan.cell, 8, None);
    let wrong = expected.iter().zip(&user.memory).position(|(a, b)| a != b);
    ensure(wrong.is_none(), || {
        format!("end {e}: byte {wrong:?} is not what it should be")
    })
}

/// The run took no longer than its traffic, its losses and its users explain.
fn punctuality(world: &World, finished: u64) -> Result<(), Failure> {
    let lost: u64 = world.links.iter().map(|l| l.lost).sum();
    let disturbed: u64 = world.links.iter().map(|l| l.disturbed).sum();
    let slowest = world.links.iter().map(|l| l.spec.ns_per_kb).max().unwrap_or(0);
    let trip = world
        .links
        .iter()
        .map(|l| l.spec.latency + l.spec.delay + l.spec.stripe)
        .max()
        .unwrap_or(0);
    let mut granted = 5_000_000 + world.transmitted() * (slowest * 5 + 1_000) + disturbed * trip;
    granted += world.unsent * (limits::LONGEST_WAIT.0 + trip);
    granted += world.direct.iter().flatten().map(Lane::grace).sum::<u64>();
    for (c, connection) in world.connections.iter().enumerate() {
        let timeout = limits::ack_timeout(connection.timeout).map_or(0, |span| span.0);
        // A loss costs a timeout at worst; what is lost again and again costs four times that.
        // Where packets have overtaken each other it counts as lost a little later.
        granted += lost * limits::MAX_PATIENCE.0;
        granted += lost * (4 * timeout + 2 * trip) + world.postponed * 4 * timeout;
        if let Twist::Leave { .. } = connection.twist {
            // An answer that was never sent is as good as lost.
            granted += 4 * timeout;
        }
        if !matches!(
            connection.twist,
            Twist::None | Twist::Drain { .. } | Twist::Leave { .. }
        ) {
            granted += 31 * timeout;
        }
        for (end, e) in [(0, 2 * c), (1, 2 * c + 1)] {
            let plan = &connection.ends[end];
            let delay = limits::rnr_delay(plan.rnr_timer).0;
            let counters = world.endpoints[e].engine.counters();
            // Each wait of a row is twice as long as the one before, up to a limit.
            let row = u8::try_from(counters.sent_rnr_naks).unwrap_or(u8::MAX);
            let longest = limits::wait_again(Duration(delay), row, 0).0;
            granted += (counters.sent_rnr_naks + 1) * (longest + 4 * trip);
            granted += counters.cork_deadlines * cork::LONGEST.0;
            // Who was told by the peer that something is missing waits for the lane's word, as the peer may have done.
            granted += counters.received_seq_naks * (limits::LANE_LATE.0 + limits::LANE_WORD.0 + trip);
            // Who waits for a message that asked for no acknowledgement waits until it asks after all.
            granted += counters.asked_again * (limits::ASK_AFTER.0 + 2 * trip);
            granted += plan
                .post_sends
                .iter()
                .chain(&plan.post_recvs)
                .map(|(at, _)| *at)
                .max()
                .unwrap_or(0);
            // One round trip for every message, at worst.
            granted += plan.ops.len() as u64 * (4 * trip + 100_000);
        }
    }
    ensure(finished <= granted, || {
        let counters: Vec<_> = world.endpoints.iter().map(|e| *e.engine.counters()).collect();
        format!("took {finished} ns, {granted} ns would have been plenty: {counters:?}")
    })
}
