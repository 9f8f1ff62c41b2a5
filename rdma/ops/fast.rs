// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operations of fast registration.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{mr::new_mr, Call};
use crate::{kapi::kernel_memory::KernelPage, mr::Region};
use kernel::{
    ffi::{c_int, c_uint},
    prelude::*,
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

#[no_mangle]
unsafe extern "C" fn usb4_op_alloc_mr(pd: *mut c::ib_pd, kind: c::ib_mr_type, pages: u32) -> *mut c::ib_mr {
    let call = Call::begin();
    // SAFETY: The core passes a PD of ours.
    let (device, number) = unsafe { call.domain(pd) };
    new_mr(|| {
        if kind != c::ib_mr_type_IB_MR_TYPE_MEM_REG {
            return Err(not_supported());
        }
        let make = |key| Region::for_fast(key, number, pages);
        Ok((device.keyed.publish(make)?, (0, 0)))
    })
}

/// Lists the pages of a scatter list; the result is how many of its entries fit. Any context.
#[no_mangle]
unsafe extern "C" fn usb4_op_map_mr_sg(
    mr: *mut c::ib_mr,
    list: *mut c::scatterlist,
    count: c_int,
    offset: *mut c_uint,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a region of ours.
    let (region, size) = unsafe {
        (
            call.attached::<Region>((*mr.cast::<c::usb4_mr>()).inner),
            (*mr).page_size,
        )
    };
    if region.with_fast(|fast| fast.begin(size)).is_none() {
        return EINVAL.to_errno();
    }
    // SAFETY: The core passes a list of its kind, whose addresses are the kernel's, as the device has no DMA.
    unsafe { c::ib_sg_to_pages(mr, list, count, offset, Some(add_page)) }
}

unsafe extern "C" fn add_page(mr: *mut c::ib_mr, address: u64) -> c_int {
    let call = Call::begin();
    // SAFETY: Called from `usb4_op_map_mr_sg` with its region.
    let region = unsafe { call.attached::<Region>((*mr.cast::<c::usb4_mr>()).inner) };
    // SAFETY: The core cuts into pages of the size that the list was begun with. Only callers in the kernel come here,
    // and they keep what they register until its key is invalid.
    let page = unsafe { KernelPage::new(address) };
    super::errno(page.and_then(|page| region.with_fast(|fast| fast.add(page)).unwrap_or(Err(EINVAL))))
}
