// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What must hold for every seed.

use std::fmt;

use crate::endpoint::{Endpoint, User};
use crate::scenario::{Bad, Connection, Twist};
use crate::world::World;
use roce::completion::{Completion, Event, WcOpcode, WcStatus};
use roce::counters::Counters;
use roce::limits;
use roce::qp::State;
use roce::wire::{Packet, Syndrome};
use roce::wqe::{SendOp, Source, Transmit};

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
        SendOp::Send | SendOp::SendImm => WcOpcode::Send,
        SendOp::Write | SendOp::WriteImm => WcOpcode::Write,
        SendOp::Read => WcOpcode::Read,
        _ => return Err(Failure::new(format!("end {e}: {:?} is not of this world", op.op))),
    };
    ensure(done.opcode == opcode, || {
        format!("end {e}: send {index} has opcode {:?}", done.opcode)
    })?;
    let len = op.length as usize;
    let here = &user.memory[op.local..op.local + len];
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
    let same = done.imm == imm && done.opcode == opcode && done.byte_len == op.length;
    ensure(same && done.solicited == op.solicited, || {
        format!("end {e}: receive {index}: {done:?} for {op:?}")
    })?;
    let len = op.length as usize;
    ensure(
        user.memory[op.remote..op.remote + len] == peer.memory[op.local..op.local + len],
        || format!("end {e}: receive {index} completed without its bytes"),
    )
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
    if fenced && user.plan.ops[awaited..index].iter().any(|op| op.op == SendOp::Read) {
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
    let finished = world.now();
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
            ensure(sends == user.plan.ops.len() && recvs == user.plan.recvs.len(), || {
                format!(
                    "end {e}: {sends} of {} sends and {recvs} of {} receives came back",
                    user.plan.ops.len(),
                    user.plan.recvs.len()
                )
            })?;
        }
        for e in ends {
            memory(world, e)?;
        }
    }
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
        ensure(endpoint.engine.poll_timeout().is_none(), || {
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

/// Where nothing is lost or delayed and everybody is ready, nothing is sent twice.
fn calm(world: &World, ends: [usize; 2]) -> Result<(), Failure> {
    let counters = ends.map(|e| *world.endpoints[e].engine.counters());
    let disturbed = world.links.iter().any(|l| l.lost + l.disturbed > 0);
    // A timeout is spurious where the link is slow and shared; that is the user's choice of timeout.
    if disturbed || counters.iter().any(|c| c.timeouts + c.sent_rnr_naks > 0) {
        return Ok(());
    }
    let wasted = counters.map(|c| c.retries + c.duplicate_requests + c.out_of_sequence + c.response_gaps + c.dropped);
    ensure(wasted == [0, 0], || {
        format!("ends {ends:?}: disturbed by nothing, {counters:?}")
    })
}

/// The one fault of a connection has ended as it should on both sides.
fn faults(world: &World, connection: &Connection, ends: [usize; 2]) -> Result<(), Failure> {
    let disturbed = world.links.iter().any(|l| l.lost + l.disturbed > 0);
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
    ensure(world.endpoints[culprit].engine.state() == State::Err, || {
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
    // READ data that was lost cannot be had again once the peer is in ERR.
    let excused = disturbed && status == WcStatus::RetryExceeded && user.plan.ops[at].op == SendOp::Read;
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
        let sent = peer.send_completions[index].status == WcStatus::Success;
        let received = op
            .recv
            .is_some_and(|r| user.recv_completions[r].status == WcStatus::Success);
        let bytes = (sent || received).then_some(&peer.memory[range]);
        match op.op {
            SendOp::Read => {}
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
        if op.op == SendOp::Read {
            settle(op.local, op.length, done.then_some(&peer.memory[range]));
        }
    }
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
        .map(|l| l.spec.latency + l.spec.delay)
        .max()
        .unwrap_or(0);
    let mut granted = 5_000_000 + world.transmitted() * (slowest * 5 + 1_000) + disturbed * trip;
    for (c, connection) in world.connections.iter().enumerate() {
        let timeout = limits::ack_timeout(connection.timeout).map_or(0, |span| span.0);
        // A loss costs a timeout at worst; what is lost again and again costs four times that.
        granted += lost * (4 * timeout + 2 * trip);
        if !matches!(
            connection.twist,
            Twist::None | Twist::Drain { .. } | Twist::Leave { .. }
        ) {
            granted += 31 * timeout;
        }
        for (end, e) in [(0, 2 * c), (1, 2 * c + 1)] {
            let plan = &connection.ends[end];
            let delay = limits::rnr_delay(plan.rnr_timer).0;
            granted += (world.endpoints[e].engine.counters().sent_rnr_naks + 1) * (delay + 4 * trip);
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
        format!("took {finished} ns, {granted} ns would have been plenty")
    })
}
