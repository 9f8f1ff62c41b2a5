// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Our own attributes of objects that `rdma resource show` lists with `-dd`. The core holds an object during the call.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::Call;
use crate::{cq::Cq, kapi::uverbs::Detail, mr::Region, qp::Qp, srq::Srq};
use core::ptr;
use kernel::ffi::c_int;
use usb4_bindings as c;

/// Puts details into a netlink message.
///
/// # Safety
///
/// `msg` is the core's, being written.
unsafe fn put(msg: *mut c::sk_buff, details: &[Detail]) -> c_int {
    // SAFETY: `Detail` is transparent; the names live for ever.
    unsafe { c::usb4_res_put(msg, ptr::from_ref(details).cast(), details.len()) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_res_qp(msg: *mut c::sk_buff, qp: *mut c::ib_qp) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a QP of ours.
    unsafe { put(msg, &call.attached::<Qp>((*qp.cast::<c::usb4_qp>()).inner).details()) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_res_cq(msg: *mut c::sk_buff, cq: *mut c::ib_cq) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a CQ of ours.
    unsafe { put(msg, &call.attached::<Cq>((*cq.cast::<c::usb4_cq>()).inner).details()) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_res_mr(msg: *mut c::sk_buff, mr: *mut c::ib_mr) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a region of ours.
    unsafe {
        put(
            msg,
            &call.attached::<Region>((*mr.cast::<c::usb4_mr>()).inner).details(),
        )
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_res_srq(msg: *mut c::sk_buff, srq: *mut c::ib_srq) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes an SRQ of ours.
    unsafe { put(msg, &call.attached::<Srq>((*srq.cast::<c::usb4_srq>()).inner).details()) }
}
