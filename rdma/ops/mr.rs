// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operations of user space's regions beyond making and ending them: dma-bufs, and registering anew.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{attach, attached, device};
use crate::mr::{Change, Region};
use kernel::{ffi::c_int, prelude::*, sync::Arc};
use usb4_bindings as c;

/// Gives a region to an object of the core.
fn filled(mut mr: KBox<c::usb4_mr>, region: Arc<Region>, (iova, length): (u64, u64)) -> *mut c::ib_mr {
    mr.ib.lkey = region.key();
    mr.ib.rkey = region.key();
    mr.ib.iova = iova;
    mr.ib.length = length;
    attach(&mut mr.inner, region);
    KBox::into_raw(mr).cast()
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
    // SAFETY: The core passes a PD of ours.
    let (device, number) = unsafe { (device((*pd).device), (*pd.cast::<c::usb4_pd>()).number) };
    let made = || {
        if !dmah.is_null() {
            return Err(EOPNOTSUPP);
        }
        let mr = KBox::new(c::usb4_mr::default(), GFP_KERNEL)?;
        let region = device
            .keyed
            .publish(|key| Region::of_dmabuf(key, number, fd, (offset, length, iova), access))?;
        Ok(filled(mr, region, (iova, length)))
    };
    // SAFETY: Only makes a pointer of the number.
    made().unwrap_or_else(|err: Error| unsafe { c::usb4_err_mr(err.to_errno()) })
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
    // SAFETY: The core passes a region and a PD of ours.
    let (device, old, range, number) = unsafe {
        (
            device((*mr).device),
            attached::<Region>((*mr.cast::<c::usb4_mr>()).inner),
            ((*mr).iova, (*mr).length),
            (*pd.cast::<c::usb4_pd>()).number,
        )
    };
    let has = |flag: u32| flags.unsigned_abs() & flag != 0;
    let moves = has(c::ib_mr_rereg_flags_IB_MR_REREG_TRANS);
    let wanted = Change {
        pd: number,
        range: moves.then_some((start, length, iova)),
        access: has(c::ib_mr_rereg_flags_IB_MR_REREG_ACCESS).then_some(access),
    };
    let made = || {
        // All that may fail comes before the change, which cannot be taken back.
        let mr = KBox::new(c::usb4_mr::default(), GFP_KERNEL)?;
        let region = device.keyed.change(old, device.ib(), &wanted)?;
        Ok(filled(mr, region, if moves { (iova, length) } else { range }))
    };
    // SAFETY: Only makes a pointer of the number.
    made().unwrap_or_else(|err: Error| unsafe { c::usb4_err_mr(err.to_errno()) })
}
