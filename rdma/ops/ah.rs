// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The operations of address handles.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{attach, detach, errno, Call};
use crate::{
    ah::{Ah, Over},
    kapi::uverbs::Udata,
};
use kernel::{ffi::c_int, prelude::*};
use usb4_bindings as c;

/// `create_ah` and `create_user_ah`. Any context unless the flags say that it may sleep.
#[no_mangle]
unsafe extern "C" fn usb4_op_create_ah(
    ah: *mut c::ib_ah,
    init: *mut c::rdma_ah_init_attr,
    udata: *mut c::ib_udata,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a zeroed handle of our size in a PD of ours, its wishes, and the caller's data or null.
    let (ours, init, udata) = unsafe { (&mut *ah.cast::<c::usb4_ah>(), &*init, Udata::new(udata)) };
    // SAFETY: The parents are alive during the call, and the vector is the core's.
    let ((device, pd), attr) = unsafe { (call.domain(ours.ib.pd), &mut *init.ah_attr) };
    let sleeps = init.flags & c::rdma_create_ah_flags_RDMA_CREATE_AH_SLEEPABLE != 0;
    let made = device.netdev().ok_or(ENODEV).and_then(|netdev| {
        let over = Over {
            ib: device.ib(),
            netdev: &netdev,
        };
        Ah::create(&device.ahs, &over, pd, attr, sleeps, udata.as_ref())
    });
    match made {
        Ok(new) => {
            attach(&mut ours.inner, new);
            0
        }
        Err(err) => err.to_errno(),
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_modify_ah(ah: *mut c::ib_ah, attr: *mut c::rdma_ah_attr) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a handle of ours and its wishes, with the source GID held.
    let (ah, device, attr) = unsafe {
        (
            call.attached::<Ah>((*ah.cast::<c::usb4_ah>()).inner),
            call.device((*ah).device),
            &mut *attr,
        )
    };
    errno(device.netdev().ok_or(ENODEV).and_then(|netdev| {
        let over = Over {
            ib: device.ib(),
            netdev: &netdev,
        };
        ah.modify(&over, attr)
    }))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_ah(ah: *mut c::ib_ah, attr: *mut c::rdma_ah_attr) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a handle of ours and the answer's place.
    unsafe { call.attached::<Ah>((*ah.cast::<c::usb4_ah>()).inner).query(&mut *attr) };
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_destroy_ah(ah: *mut c::ib_ah, _flags: u32) -> c_int {
    let call = Call::begin();
    // SAFETY: The core destroys a handle once.
    let (inner, device) = unsafe {
        (
            detach::<Ah>(&mut (*ah.cast::<c::usb4_ah>()).inner),
            call.device((*ah).device),
        )
    };
    if let Some(ah) = inner {
        ah.close(&device.ahs);
    }
    0
}
