// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What `ethtool` asks of a device of ours.
//!
//! The core calls all of these under RTNL, in process context, for a registered device of ours.
//!
//! C header: `include/linux/ethtool.h`.

#![allow(clippy::missing_safety_doc, reason = "one contract for all, above")]

use super::netdev::netif;
use crate::{
    counters,
    netif::{Coalesce, RingSizes},
};
use core::{ptr, slice};
use kernel::{
    ffi::{c_int, c_void},
    prelude::*,
};
use usb4_bindings as c;

/// Bytes of a statistic's name: ETH_GSTRING_LEN.
const NAME: usize = 32;

fn errno(result: Result) -> c_int {
    result.map_or_else(|err| err.to_errno(), |()| 0)
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_speed(inner: *mut c_void) -> u32 {
    // SAFETY: Called for a registered device of ours.
    unsafe { netif(inner) }.speed_mbps()
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_cable(inner: *mut c_void, to: *mut u8, len: usize) -> c_int {
    // SAFETY: Called for a registered device of ours.
    let name = unsafe { netif(inner) }.cable();
    if name.len() >= len {
        return EINVAL.to_errno();
    }
    // SAFETY: The caller has room for `len` bytes.
    unsafe {
        ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
        to.add(name.len()).write(0);
    }
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_lanes(inner: *mut c_void) -> u32 {
    // SAFETY: Called for a registered device of ours.
    unsafe { netif(inner) }.lanes()
}

#[no_mangle]
extern "C" fn usb4_op_nd_stat_count() -> u32 {
    counters::NAMES.len() as u32
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_stat_names(to: *mut u8) {
    for (index, name) in counters::NAMES.iter().enumerate() {
        let len = name.len().min(NAME - 1);
        // SAFETY: The caller has zeroed room for `usb4_op_nd_stat_count` names.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), to.add(index * NAME), len) };
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_stats(inner: *mut c_void, to: *mut u64) {
    // SAFETY: Called for a registered device of ours; the caller has room for `usb4_op_nd_stat_count` numbers.
    unsafe { netif(inner).statistics(slice::from_raw_parts_mut(to, counters::NAMES.len())) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_get_coalesce(inner: *mut c_void, to: *mut c::usb4_nd_coalesce) {
    // SAFETY: Called for a registered device of ours; `to` is the caller's own.
    unsafe {
        let from = netif(inner).coalesce();
        *to = c::usb4_nd_coalesce {
            rx_usecs: from.rx_usecs,
            tx_usecs: from.tx_usecs,
            rx_adaptive: u8::from(from.adaptive),
            tx_adaptive: u8::from(from.adaptive),
        };
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_set_coalesce(inner: *mut c_void, from: *const c::usb4_nd_coalesce) -> c_int {
    // SAFETY: Called for a registered device of ours; `from` is the caller's own.
    let (netif, from) = unsafe { (netif(inner), &*from) };
    errno(netif.set_coalesce(Coalesce {
        rx_usecs: from.rx_usecs,
        tx_usecs: from.tx_usecs,
        adaptive: from.rx_adaptive != 0,
    }))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_get_rings(inner: *mut c_void, to: *mut c::usb4_nd_rings) {
    // SAFETY: Called for a registered device of ours; `to` is the caller's own.
    unsafe {
        let from = netif(inner).ring_sizes();
        *to = c::usb4_nd_rings {
            rx: from.rx,
            tx: from.tx,
            rx_max: RingSizes::MAX,
            tx_max: RingSizes::MAX,
        };
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_set_rings(inner: *mut c_void, rx: u32, tx: u32) -> c_int {
    // SAFETY: Called for a registered device of ours.
    errno(unsafe { netif(inner) }.set_ring_sizes(RingSizes { rx, tx }))
}
