// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Watching queue pairs: trace events from what an engine has counted, and of the packets that it sends and gets.

use crate::{
    kapi::{
        ibdev::IbDev,
        trace::{self, Kind, Place, Shown},
    },
    payload::Payload,
    wire::Wire,
};
use roce::{
    counters::Counters,
    qp::{Qp as Engine, State, Storage},
    wire::{udp::Path, Packet},
    wqe::{Span, Transmit},
};

pub(crate) use crate::kapi::trace::{shows_packets, Carrier};

/// More than any packet has of transport headers.
const HEAD: usize = 64;

/// An engine before it acts.
pub(crate) struct Before {
    state: State,
    counters: Counters,
}

/// Looks at an engine that is about to act. `None`, and nothing done, if nobody listens.
pub(crate) fn before<S: Storage>(engine: &Engine<S>) -> Option<Before> {
    trace::is_on().then(|| Before {
        state: engine.state(),
        counters: *engine.counters(),
    })
}

/// Tells what an engine has done since.
pub(crate) fn after<S: Storage>(before: Option<Before>, engine: &Engine<S>, ib: &IbDev, qpn: u32) {
    let Some(before) = before else {
        return;
    };
    let place = place(engine, ib, qpn);
    let (was, is) = (&before.counters, engine.counters());
    let low = |count: u64| u32::try_from(count & u64::from(u32::MAX)).unwrap_or(0);
    for (kind, was, is, what) in [
        (Kind::Drop, was.dropped, is.dropped, low(is.dropped)),
        (Kind::Timeout, was.timeouts, is.timeouts, low(is.timeouts)),
        (Kind::Nak, was.sent_seq_naks, is.sent_seq_naks, 1),
        (Kind::Nak, was.sent_rnr_naks, is.sent_rnr_naks, 2),
        (Kind::Nak, was.sent_error_naks, is.sent_error_naks, 3),
        (Kind::Nak, was.received_seq_naks, is.received_seq_naks, 17),
        (Kind::Nak, was.received_rnr_naks, is.received_rnr_naks, 18),
        (Kind::Nak, was.received_error_naks, is.received_error_naks, 19),
        (Kind::Retry, was.retries, is.retries, low(is.retries)),
    ] {
        if was != is {
            trace::event(&place, kind, what);
        }
    }
    if before.state != engine.state() {
        trace::state(&place, u32::from(before.state as u8), u32::from(engine.state() as u8));
    }
}

/// Tells of an asynchronous event, by its number in the core.
pub(crate) fn raised<S: Storage>(code: u32, engine: &Engine<S>, ib: &IbDev, qpn: u32) {
    if trace::is_on() {
        trace::event(&place(engine, ib, qpn), Kind::Error, code);
    }
}

/// Shows what goes out by `path`, of which `window` bytes go by a window. Not inlined, as is what shows what comes: the
/// stack is to have its arguments only where somebody looks.
#[inline(never)]
pub(crate) fn sent(transmit: &Transmit, path: &Path, (by, mtu, window): (Carrier, u32, u32), ib: &IbDev, qpn: u32) {
    let shown = Shown {
        out: true,
        by,
        packets: transmit.packets,
        mtu,
        bytes: transmit.payload.byte_len(),
        window,
        src_port: path.src_port,
        src: path.addresses.src_gid(),
        dst: path.addresses.dst_gid(),
        head: transmit.header.as_bytes(),
    };
    trace::packet(ib, qpn, &shown);
}

/// Shows what has come, to a queue pair that is connected by `wire` or to one of datagrams.
#[inline(never)]
pub(crate) fn received(
    packet: &Packet,
    payload: &Payload<'_>,
    (wire, mtu): (Option<&Wire>, u32),
    ib: &IbDev,
    qpn: u32,
) {
    let addresses = match wire {
        Some(wire) => Some((wire.path.addresses.dst_gid(), wire.path.addresses.src_gid())),
        None => payload.addresses().map(|found| (found.src_gid(), found.dst_gid())),
    };
    let (src, dst) = addresses.unwrap_or(([0; 16], [0; 16]));
    let (mut head, mut len) = ([0; HEAD], 0);
    let front = Span {
        offset: 0,
        len: packet.payload.offset,
    };
    payload.pieces(front, |piece| {
        let to = head.get_mut(len..).and_then(|rest| rest.get_mut(..piece.len()));
        let fits = to.map(|to| to.copy_from_slice(piece)).is_some();
        len += if fits { piece.len() } else { 0 };
        fits
    });
    let by = match (payload.is_train(), payload.is_run()) {
        (true, _) => Carrier::Train,
        (false, true) => Carrier::Run,
        (false, false) => Carrier::Datagram,
    };
    let shown = Shown {
        out: false,
        by,
        packets: if payload.is_run() {
            packet.payload.len.div_ceil(mtu.max(1)).max(1)
        } else {
            1
        },
        mtu,
        bytes: packet.payload.len,
        window: payload.window().map_or(0, |window| window.len),
        src_port: 0,
        src,
        dst,
        head: head.get(..len).unwrap_or(&[]),
    };
    trace::packet(ib, qpn, &shown);
}

fn place<'a, S: Storage>(engine: &Engine<S>, ib: &'a IbDev, qpn: u32) -> Place<'a> {
    let now = engine.query();
    Place {
        device: ib,
        qpn,
        sq_psn: now.sq_psn.value(),
        rq_psn: now.rq_psn.value(),
    }
}
