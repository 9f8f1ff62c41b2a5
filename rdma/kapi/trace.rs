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
