// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operations of regions.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{attach, detach, errno, Call};
use crate::{
    kapi::ibdev::IbDev,
    mr::{Change, Region},
};
use kernel::{ffi::c_int, prelude::*, sync::Arc};
use roce::keys::{Key, Pd};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// An object of the core with the region that `make` makes, at `(iova, length)` for whom the core tells that; or why
/// not, as a pointer. What `make` has done cannot be taken back, so all else that may fail comes before.
pub(super) fn new_mr(make: impl FnOnce() -> Result<(Arc<Region>, (u64, u64))>) -> *mut c::ib_mr {
    let made = || {
        let mut mr = KBox::new(c::usb4_mr::default(), GFP_KERNEL)?;
        let (region, (iova, length)) = make()?;
        mr.ib.lkey = region.key();
        mr.ib.rkey = region.key();
        mr.ib.iova = iova;
        mr.ib.length = length;
        attach(&mut mr.inner, region);
        Ok(KBox::into_raw(mr).cast())
    };
    // SAFETY: Only makes a pointer of the number.
    made().unwrap_or_else(|err: Error| unsafe { c::usb4_err_mr(err.to_errno()) })
}

#[no_mangle]
unsafe extern "C" fn usb4_op_reg_user_mr(
    pd: *mut c::ib_pd,
    start: u64,
    length: u64,
    iova: u64,
    access: c_int,
    dmah: *mut c::ib_dmah,
    _udata: *mut c::ib_udata,
) -> *mut c::ib_mr {
    let range = (start, length, iova);
    // SAFETY: The core passes a PD of ours.
    unsafe {
        register(pd, dmah, (0, 0), |ib, key, number| {
            Region::of_user(ib, key, number, range, access)
        })
    }
}

/// Registers what `make` makes, in a domain, at `told`; see [`new_mr`]. Hints for DMA mean nothing where the CPU
/// copies.
///
/// # Safety
///
/// `pd` is a PD of ours.
unsafe fn register(
    pd: *mut c::ib_pd,
    dmah: *mut c::ib_dmah,
    told: (u64, u64),
    make: impl FnOnce(&IbDev, Key, Pd) -> Result<Arc<Region>>,
) -> *mut c::ib_mr {
    let call = Call::begin();
    // SAFETY: By the caller's promise.
    let (device, number) = unsafe { call.domain(pd) };
    new_mr(|| {
        if !dmah.is_null() {
            return Err(not_supported());
        }
        let region = device.keyed.publish(|key| make(device.ib(), key, number))?;
        Ok((region, told))
    })
}

#[no_mangle]
unsafe extern "C" fn usb4_op_advise_mr(
    pd: *mut c::ib_pd,
    advice: c::ib_uverbs_advise_mr_advice,
    _flags: u32,
    list: *mut c::ib_sge,
    count: u32,
    _attrs: *mut c::uverbs_attr_bundle,
) -> c_int {
    let call = Call::begin();
    // The pages are brought at once, whether or not the caller wants to wait for them.
    let (write, fault) = match advice {
        c::ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH => (false, true),
        c::ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE => (true, true),
        c::ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT => (false, false),
        _ => return not_supported().to_errno(),
    };
    // SAFETY: The core passes a PD of ours, and a list of so many entries.
    let ((device, number), list) = unsafe { (call.domain(pd), core::slice::from_raw_parts(list, count as usize)) };
    errno(list.iter().try_for_each(|sge| {
        let region = device.keyed.region(sge.lkey).ok_or(EINVAL)?;
        region.advise(number, sge.addr, sge.length, write, fault)
    }))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dereg_mr(mr: *mut c::ib_mr, _udata: *mut c::ib_udata) -> c_int {
    let call = Call::begin();
    // SAFETY: Attached by the op that made it.
    if !unsafe { call.attached::<Region>((*mr.cast::<c::usb4_mr>()).inner) }.may_go() {
        return EINVAL.to_errno();
    }
    // SAFETY: Made by one of the ops that make regions; the core lets go of it once.
    let (mut ours, device) = unsafe { (KBox::from_raw(mr.cast::<c::usb4_mr>()), call.device((*mr).device)) };
    // SAFETY: Attached by the op that made it.
    if let Some(region) = unsafe { detach::<Region>(&mut ours.inner) } {
        device.keyed.withdraw(&region);
    }
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_reg_user_mr_dmabuf(
    pd: *mut c::ib_pd,
    offset: u64,
    length: u64,
    iova: u64,
    fd: c_int,
    access: c_int,
    dmah: *mut c::ib_dmah,
    _attrs: *mut c::uverbs_attr_bundle,
) -> *mut c::ib_mr {
    let range = (offset, length, iova);
    // SAFETY: The core passes a PD of ours.
    unsafe {
        register(pd, dmah, (iova, length), |_, key, number| {
            Region::of_dmabuf(key, number, fd, range, access)
        })
    }
}

/// The result is a new object, and the core ends the old one.
#[no_mangle]
unsafe extern "C" fn usb4_op_rereg_user_mr(
    mr: *mut c::ib_mr,
    flags: c_int,
    start: u64,
    length: u64,
    iova: u64,
    access: c_int,
    pd: *mut c::ib_pd,
    _udata: *mut c::ib_udata,
) -> *mut c::ib_mr {
    let call = Call::begin();
    // SAFETY: The core passes a region and a PD of ours.
    let ((device, number), old, range) = unsafe {
        (
            call.domain(pd),
            call.attached::<Region>((*mr.cast::<c::usb4_mr>()).inner),
            ((*mr).iova, (*mr).length),
        )
    };
    let has = |flag: u32| flags.unsigned_abs() & flag != 0;
    let moves = has(c::ib_mr_rereg_flags_IB_MR_REREG_TRANS);
    let wanted = Change {
        pd: number,
        range: moves.then_some((start, length, iova)),
        access: has(c::ib_mr_rereg_flags_IB_MR_REREG_ACCESS).then_some(access),
    };
    new_mr(|| {
        let region = device.keyed.change(old, device.ib(), &wanted)?;
        Ok((region, if moves { (iova, length) } else { range }))
    })
}
