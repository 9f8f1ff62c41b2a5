// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operations of memory windows.

use super::{attach, detach, Call};
use crate::{
    kapi::uverbs::Udata,
    window::{Kind, Window},
};
use kernel::{ffi::c_int, prelude::*};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

#[no_mangle]
unsafe extern "C" fn usb4_op_alloc_mw(mw: *mut c::ib_mw, udata: *mut c::ib_udata) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a zeroed window of our size, whose PD is alive, and the caller's data or null.
    let (ours, udata) = unsafe { (&mut *mw.cast::<c::usb4_mw>(), Udata::new(udata)) };
    if udata.is_some_and(|u| u.in_len() != 0 || u.out_len() != 0) {
        return EINVAL.to_errno();
    }
    let kind = match ours.ib.type_ {
        c::ib_mw_type_IB_MW_TYPE_1 => Kind::Type1,
        c::ib_mw_type_IB_MW_TYPE_2 => Kind::Type2,
        _ => return not_supported().to_errno(),
    };
    // SAFETY: As above.
    let (device, pd) = unsafe { call.domain(ours.ib.pd) };
    match device.keyed.publish_window(pd, kind) {
        Ok(new) => {
            ours.ib.rkey = new.key();
            attach(&mut ours.inner, new);
            0
        }
        Err(err) => err.to_errno(),
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dealloc_mw(mw: *mut c::ib_mw) -> c_int {
    let call = Call::begin();
    // SAFETY: The core lets go of a window of ours once.
    let (window, device) = unsafe {
        (
            detach::<Window>(&mut (*mw.cast::<c::usb4_mw>()).inner),
            call.device((*mw).device),
        )
    };
    if let Some(window) = window {
        device.keyed.withdraw_window(&window);
    }
    0
}
