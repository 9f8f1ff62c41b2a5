// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operations of shared receive queues.

use super::{attach, detach, Call};
use crate::{
    kapi::uverbs::{SrqHandle, Udata},
    srq::{Caller, Srq},
};
use core::ptr::NonNull;
use kernel::{ffi::c_int, prelude::*};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

#[no_mangle]
unsafe extern "C" fn usb4_op_create_srq(
    srq: *mut c::ib_srq,
    init: *mut c::ib_srq_init_attr,
    udata: *mut c::ib_udata,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a zeroed SRQ of our size, its wishes, and the caller's data or null.
    let (ours, init, udata) = unsafe { (&mut *srq.cast::<c::usb4_srq>(), &mut *init, Udata::new(udata)) };
    let Some(handle) = NonNull::new(srq) else {
        return EINVAL.to_errno();
    };
    if init.srq_type != c::ib_srq_type_IB_SRQT_BASIC {
        return not_supported().to_errno();
    }
    // SAFETY: The PD is alive while the SRQ is. `usb4_op_destroy_srq` closes the SRQ, which drops the handle.
    let ((device, pd), handle) = unsafe { (call.domain(ours.ib.pd), SrqHandle::new(handle)) };
    let caller = match &udata {
        Some(udata) => Caller::User(udata),
        None => Caller::Kernel,
    };
    match Srq::create(handle, pd, device.new_srq(), &mut init.attr, caller) {
        Ok(new) => {
            attach(&mut ours.inner, new);
            0
        }
        Err(err) => err.to_errno(),
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_modify_srq(
    srq: *mut c::ib_srq,
    attr: *mut c::ib_srq_attr,
    mask: c::ib_srq_attr_mask,
    udata: *mut c::ib_udata,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes an SRQ of ours, its wishes, and the caller's data or null.
    let (srq, attr, udata) = unsafe {
        (
            call.attached::<Srq>((*srq.cast::<c::usb4_srq>()).inner),
            &*attr,
            Udata::new(udata),
        )
    };
    super::errno(srq.modify(attr, mask, udata.as_ref()))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_srq(srq: *mut c::ib_srq, attr: *mut c::ib_srq_attr) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes an SRQ of ours and its answer's place.
    let (srq, attr) = unsafe { (call.attached::<Srq>((*srq.cast::<c::usb4_srq>()).inner), &mut *attr) };
    srq.query(attr);
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_destroy_srq(srq: *mut c::ib_srq, _udata: *mut c::ib_udata) -> c_int {
    // SAFETY: The core destroys an SRQ once, when no QP uses it.
    if let Some(srq) = unsafe { detach::<Srq>(&mut (*srq.cast::<c::usb4_srq>()).inner) } {
        srq.close();
    }
    0
}
