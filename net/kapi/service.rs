// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Our presence on the Thunderbolt bus: the service driver, the property directories, the protocol handlers.
//!
//! Only one driver can offer `network`, so whoever registers that directory first has the cables; the other's attempt
//! fails with `EEXIST`. The directory, the handlers and the driver are registered once for the module, not once per
//! cable: the core does not wait for handlers that are unregistered, see `usb4_tb_deafen` in `net/sys/thunderbolt.c`.
//!
//! C header: `include/linux/thunderbolt.h`.

use super::xdomain::Xdomain;
use crate::control::{self, Kind};
use core::{ptr::NonNull, slice};
use kernel::{error::to_result, ffi::c_int, prelude::*};
use tbip::{
    native,
    stock::{self, Settings},
};
use usb4_bindings as c;

/// Whether a USB4 host interface of this host is AMD's.
pub(crate) fn is_amd_host() -> bool {
    // SAFETY: No preconditions; process context.
    unsafe { c::usb4_tb_is_amd_host() }
}

/// The service driver and the directories. Ends in two steps: [`Presence::unbind`], then its drop.
pub(crate) struct Presence(());

impl Presence {
    /// Binds services from now on.
    ///
    /// # Errors
    ///
    /// `EEXIST` if another driver offers `network` on this host. Then nothing of ours shows on any cable.
    pub(crate) fn new(settings: Settings, features: native::Features) -> Result<Self> {
        let identity = c::usb4_tb_identity {
            stock_directory: stock::DIRECTORY.0,
            stock_protocol: stock::PROTOCOL.0,
            native_directory: native::DIRECTORY.0,
            native_protocol: native::PROTOCOL.0,
            stock_settings: settings.0,
            native_features: features.0,
        };
        // SAFETY: Called once, from the module's init; the callbacks below are ready.
        to_result(unsafe { c::usb4_tb_start(&identity) })?;
        Ok(Self(()))
    }

    /// Every service is removed; none is offered to us any more. Sleeps.
    pub(crate) fn unbind(&self) {
        // SAFETY: Bound by `new`.
        unsafe { c::usb4_tb_unbind() }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // SAFETY: Unbound; no cable is ours any more.
        unsafe { c::usb4_tb_leave() }
    }
}

/// The handlers of both protocols. Dropping it waits until no message is in them, and sleeps.
pub(crate) struct Ears(());

impl Ears {
    /// Hears messages from now on. Only with a [`Presence`]: all messages of both protocols end with us.
    pub(crate) fn new(_presence: &Presence) -> Result<Self> {
        // SAFETY: Called once, from the module's init.
        to_result(unsafe { c::usb4_tb_listen() })?;
        Ok(Self(()))
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`.
        unsafe { c::usb4_tb_deafen() }
    }
}

/// Which protocol a service stands for, with what the peer offers in it.
///
/// # Safety
///
/// `svc` is a valid service.
unsafe fn kind(svc: NonNull<c::tb_service>) -> Kind {
    // SAFETY: By the caller's promise; key and settings do not change.
    unsafe {
        if c::usb4_tb_service_is(svc.as_ptr(), c"usb4rdma".as_char_ptr()) {
            Kind::Native
        } else {
            Kind::Stock(Settings((*svc.as_ptr()).prtcstns))
        }
    }
}

/// Calls `then` with a service's XDomain and kind.
///
/// # Safety
///
/// `svc` is a service of ours that the core has just named.
unsafe fn with<R>(svc: *mut c::tb_service, then: impl FnOnce(Xdomain, Kind) -> R) -> Option<R> {
    let svc = NonNull::new(svc)?;
    // SAFETY: By the caller's promise; a service has a parent, which outlives it.
    unsafe {
        let xd = NonNull::new(c::usb4_tb_service_parent(svc.as_ptr()))?;
        Some(then(Xdomain::hold(xd), kind(svc)))
    }
}

/// # Safety
///
/// Called by the core for a service that it offers to us.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_probe(svc: *mut c::tb_service) -> c_int {
    // SAFETY: By the caller's promise.
    let result = unsafe { with(svc, control::bind) };
    match result.unwrap_or(Err(EINVAL)) {
        Ok(()) => {
            // Our directories may have come after the peer had read them and before its XDomain was on our bus: then
            // the core told nobody. One of the two always sees the other's, and tells it to look again.
            // SAFETY: By the caller's promise; the core's locks are free in a probe.
            unsafe { c::tb_service_properties_changed(svc) };
            0
        }
        Err(err) => err.to_errno(),
    }
}

/// # Safety
///
/// Called by the core for a service that it takes from us.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_remove(svc: *mut c::tb_service) {
    // SAFETY: By the caller's promise.
    let _ = unsafe { with(svc, |xd, kind| control::unbind(&xd, kind)) };
}

/// # Safety
///
/// Called by the core for a service of ours, when the host goes down.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_shutdown(svc: *mut c::tb_service) {
    // SAFETY: By the caller's promise.
    let _ = unsafe { with(svc, |xd, _| control::suspend(&xd)) };
}

/// # Safety
///
/// Called by the core for a service of ours.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_suspend(svc: *mut c::tb_service) {
    // SAFETY: By the caller's promise.
    let _ = unsafe { with(svc, |xd, _| control::suspend(&xd)) };
}

/// # Safety
///
/// Called by the core for a service of ours.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_resume(svc: *mut c::tb_service) {
    // SAFETY: By the caller's promise.
    let _ = unsafe { with(svc, |xd, _| control::resume(&xd)) };
}

/// A device of the bus is about to go: a service, an XDomain, a router, a domain.
///
/// # Safety
///
/// Called by the core with a valid device.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_device_gone(device: *mut c::device) {
    if let Some(device) = NonNull::new(device) {
        control::gone(|xd| xd.is_below(device));
    }
}

/// A control message has come. Process context.
///
/// # Safety
///
/// `bytes` are `len` readable bytes.
#[no_mangle]
unsafe extern "C" fn usb4_tb_op_message(_protocol: c::usb4_tb_protocol, bytes: *const u8, len: usize) {
    if !bytes.is_null() {
        // SAFETY: By the caller's promise.
        control::hear(unsafe { slice::from_raw_parts(bytes, len) });
    }
}
