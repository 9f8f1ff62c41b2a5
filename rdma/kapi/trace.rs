// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Tracepoints of queue pairs, `net/sys/usb4_rdma_trace.h`. Any context.

use super::ibdev::IbDev;
use usb4_bindings as c;

/// What happened.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Retry,
    Timeout,
    Nak,
    Drop,
    Error,
}

/// Whose event, and where its sequence numbers stand.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) device: &'a IbDev,
    pub(crate) qpn: u32,
    pub(crate) sq_psn: u32,
    pub(crate) rq_psn: u32,
}

/// Whether anybody listens to one of them: a few jumps that the kernel patches.
pub(crate) fn is_on() -> bool {
    // SAFETY: No preconditions.
    unsafe { c::usb4_trace_is_on() }
}

/// A QP has gone from one state (`enum ib_qp_state`) to another.
pub(crate) fn state(place: &Place<'_>, from: u32, to: u32) {
    // SAFETY: The device is held.
    unsafe { c::usb4_trace_state(place.device.as_ptr(), place.qpn, from, to) }
}

/// Something happened to a QP. The header says what `what` is.
pub(crate) fn event(place: &Place<'_>, kind: Kind, what: u32) {
    let kind = match kind {
        Kind::Retry => c::usb4_trace_USB4_TRACE_RETRY,
        Kind::Timeout => c::usb4_trace_USB4_TRACE_TIMEOUT,
        Kind::Nak => c::usb4_trace_USB4_TRACE_NAK,
        Kind::Drop => c::usb4_trace_USB4_TRACE_DROP,
        Kind::Error => c::usb4_trace_USB4_TRACE_ERROR,
    };
    // SAFETY: The device is held.
    unsafe { c::usb4_trace_event(place.device.as_ptr(), kind, place.qpn, place.sq_psn, place.rq_psn, what) }
}

/// What carries a packet.
#[derive(Clone, Copy)]
pub(crate) enum Carrier {
    /// RoCEv2.
    Datagram = 0,
    /// One datagram of a run.
    Run = 1,
    /// A train on the cable.
    Train = 2,
}

/// A packet, or a run of them, as an event shows it.
pub(crate) struct Shown<'a> {
    pub(crate) out: bool,
    pub(crate) by: Carrier,
    pub(crate) packets: u32,
    /// Of the path; a run's packets but the last have as much.
    pub(crate) mtu: u32,
    /// Of the payload of all.
    pub(crate) bytes: u32,
    /// Of these by a window.
    pub(crate) window: u32,
    /// UDP source port, 0 if it is not known.
    pub(crate) src_port: u16,
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    /// The transport headers of the first, from the BTH on.
    pub(crate) head: &'a [u8],
}

/// Whether anybody wants to see packets: a jump that the kernel patches.
pub(crate) fn shows_packets() -> bool {
    // SAFETY: No preconditions.
    unsafe { c::usb4_trace_shows_packets() }
}

/// Shows a packet of a queue pair.
pub(crate) fn packet(device: &IbDev, qpn: u32, shown: &Shown<'_>) {
    let packet = c::usb4_packet {
        head: shown.head.as_ptr(),
        head_len: u32::try_from(shown.head.len()).unwrap_or(0),
        qpn,
        bytes: shown.bytes,
        window: shown.window,
        packets: u16::try_from(shown.packets).unwrap_or(u16::MAX),
        mtu: u16::try_from(shown.mtu).unwrap_or(u16::MAX),
        sport: shown.src_port,
        by: shown.by as u8,
        out: shown.out,
        src: shown.src,
        dst: shown.dst,
    };
    // SAFETY: The device is held, and the headers live until the call returns.
    unsafe { c::usb4_trace_packet(device.as_ptr(), &packet) }
}
