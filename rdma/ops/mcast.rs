// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The operations of multicast groups.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{errno, Call};
use crate::qp::Qp;
use kernel::ffi::c_int;
use usb4_bindings as c;

#[no_mangle]
unsafe extern "C" fn usb4_op_attach_mcast(qp: *mut c::ib_qp, gid: *mut c::ib_gid, _lid: u16) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a QP of ours and an address, all of whose variants are bytes.
    let (device, qp, gid) = unsafe {
        (
            call.device((*qp).device),
            call.attached::<Qp>((*qp.cast::<c::usb4_qp>()).inner),
            (*gid).raw,
        )
    };
    errno(device.groups.attach(device.netdev().as_ref(), &gid, qp.number()))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_detach_mcast(qp: *mut c::ib_qp, gid: *mut c::ib_gid, _lid: u16) -> c_int {
    let call = Call::begin();
    // SAFETY: As above.
    let (device, qp, gid) = unsafe {
        (
            call.device((*qp).device),
            call.attached::<Qp>((*qp.cast::<c::usb4_qp>()).inner),
            (*gid).raw,
        )
    };
    errno(device.groups.detach(device.netdev().as_ref(), &gid, qp.number()))
}
