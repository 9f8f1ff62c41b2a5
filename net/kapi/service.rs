// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Our presence on the Thunderbolt bus: the service driver, the property directories, the protocol handlers.
//!
//! Only one driver can offer `network`, so whoever registers that directory first has the cables; the other's attempt
//! fails with `EEXIST`. The directory, the handlers and the driver are registered once for the module, not once per
//! cable: the core does not wait for handlers that are unregistered, see `usb4_tb_deafen` in `net/sys/thunderbolt.c`.
//!
//! C header: `include/linux/thunderbolt.h`.

#![allow(
    clippy::missing_safety_doc,
    reason = "one contract for the table of calls, at `Calls`"
)]

use super::xdomain::{Leaving, Xdomain};
use core::{marker::PhantomData, ptr, ptr::NonNull, slice};
use kernel::{
    error::to_result,
    ffi::{c_int, c_void},
    prelude::*,
    sync::Arc,
};
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

/// What a service of the peer stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// ThunderboltIP, with what the peer offers.
    Stock(Settings),
    /// Ours.
    Native,
}

/// What drives the cables. All in process context.
pub(crate) trait CableDriver: Send + Sync {
    /// The peer at `xd` offers a service.
    fn bind(&self, xd: Xdomain, kind: ServiceKind) -> Result;
    /// The service is no more: the peer has taken it back, the cable is out, or we leave the bus.
    fn unbind(&self, xd: &Xdomain, kind: ServiceKind);
    /// The host is about to sleep or to go down: nothing is on the cable from the return on.
    fn suspend(&self, xd: &Xdomain);
    /// The host is awake again.
    fn resume(&self, xd: &Xdomain);
    /// A device of the bus goes away. From the return on nothing is asked of a cable that goes with it. If it is
    /// neither an XDomain nor a domain the domain's lock may be held.
    fn gone(&self, what: &Leaving);
    /// A control message has come, from anyone on any cable.
    fn hear(&self, message: &[u8]);
}

/// The service driver and the directories. Ends in two steps: [`Presence::unbind`], then its drop.
///
/// # Invariants
///
/// The core's callbacks, if there are any, lead to `driver`.
pub(crate) struct Presence<D: CableDriver> {
    driver: Arc<D>,
}

impl<D: CableDriver> Presence<D> {
    /// Binds services from now on.
    ///
    /// # Errors
    ///
    /// `EEXIST` if another driver offers `network` on this host. Then nothing of ours shows on any cable.
    pub(crate) fn new(driver: Arc<D>, settings: Settings, features: native::Features) -> Result<Self> {
        let identity = c::usb4_tb_identity {
            stock_directory: stock::DIRECTORY.0,
            stock_protocol: stock::PROTOCOL.0,
            native_directory: native::DIRECTORY.0,
            native_protocol: native::PROTOCOL.0,
            stock_settings: settings.0,
            native_features: features.0,
        };
        let context = ptr::from_ref(&*driver).cast_mut().cast();
        // SAFETY: Called once, from the module's init. The callbacks end with the drop of what is returned, which has a
        // share in the driver.
        to_result(unsafe { c::usb4_tb_start(&identity, Calls::<D>::TABLE, context) })?;
        Ok(Self { driver })
    }

    /// Every service is removed; none is offered to us any more. Sleeps.
    pub(crate) fn unbind(&self) {
        // SAFETY: Bound by `new`.
        unsafe { c::usb4_tb_unbind() }
    }
}

impl<D: CableDriver> Drop for Presence<D> {
    fn drop(&mut self) {
        // SAFETY: Unbound; no cable is ours any more.
        unsafe { c::usb4_tb_leave() }
    }
}

/// The handlers of both protocols. Dropping it waits until no message is in them, and sleeps.
pub(crate) struct Handlers<D: CableDriver> {
    // The messages' way leads there.
    _driver: Arc<D>,
}

impl<D: CableDriver> Handlers<D> {
    /// Hears messages from now on. Only with a [`Presence`]: all messages of both protocols end with us.
    pub(crate) fn new(presence: &Presence<D>) -> Result<Self> {
        // SAFETY: Called once, from the module's init.
        to_result(unsafe { c::usb4_tb_listen() })?;
        Ok(Self {
            _driver: presence.driver.clone(),
        })
    }
}

impl<D: CableDriver> Drop for Handlers<D> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`.
        unsafe { c::usb4_tb_deafen() }
    }
}

/// What a service stands for.
///
/// # Safety
///
/// `svc` is a valid service.
unsafe fn kind(svc: NonNull<c::tb_service>) -> ServiceKind {
    // SAFETY: By the caller's promise; key and settings do not change.
    unsafe {
        if c::usb4_tb_service_is(svc.as_ptr(), c"usb4rdma".as_char_ptr()) {
            ServiceKind::Native
        } else {
            ServiceKind::Stock(Settings((*svc.as_ptr()).prtcstns))
        }
    }
}

/// The table of a `D`. Its functions are called with the context that [`Presence::new`] gave, a `D` that is there as
/// long as the core calls, and by the core with a service of ours, a device of the bus, or the bytes of a message.
struct Calls<D>(PhantomData<D>);

impl<D: CableDriver> Calls<D> {
    const TABLE: &'static c::usb4_tb_calls = &c::usb4_tb_calls {
        probe: Some(Self::probe),
        remove: Some(Self::remove),
        suspend: Some(Self::suspend),
        resume: Some(Self::resume),
        gone: Some(Self::gone),
        message: Some(Self::message),
    };

    /// Calls `then` with the driver and a service's XDomain and kind.
    ///
    /// # Safety
    ///
    /// `context` and `svc` are as above.
    unsafe fn with<R>(
        context: *mut c_void,
        svc: *mut c::tb_service,
        then: impl FnOnce(&D, Xdomain, ServiceKind) -> R,
    ) -> Option<R> {
        let svc = NonNull::new(svc)?;
        // SAFETY: By the caller's promise; a service has a parent, which outlives it.
        unsafe {
            let xd = NonNull::new(c::usb4_tb_service_parent(svc.as_ptr()))?;
            Some(then(&*context.cast::<D>(), Xdomain::hold(xd), kind(svc)))
        }
    }

    unsafe extern "C" fn probe(context: *mut c_void, svc: *mut c::tb_service) -> c_int {
        // SAFETY: As above.
        let result = unsafe { Self::with(context, svc, D::bind) };
        match result.unwrap_or(Err(EINVAL)) {
            Ok(()) => {
                // Our directories may have come after the peer had read them and before its XDomain was on our bus:
                // then the core told nobody. One of the two always sees the other's, and tells it to look again.
                // SAFETY: As above; the core's locks are free in a probe.
                unsafe { c::tb_service_properties_changed(svc) };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    unsafe extern "C" fn remove(context: *mut c_void, svc: *mut c::tb_service) {
        // SAFETY: As above.
        let _ = unsafe { Self::with(context, svc, |driver, xd, kind| driver.unbind(&xd, kind)) };
    }

    unsafe extern "C" fn suspend(context: *mut c_void, svc: *mut c::tb_service) {
        // SAFETY: As above.
        let _ = unsafe { Self::with(context, svc, |driver, xd, _| driver.suspend(&xd)) };
    }

    unsafe extern "C" fn resume(context: *mut c_void, svc: *mut c::tb_service) {
        // SAFETY: As above.
        let _ = unsafe { Self::with(context, svc, |driver, xd, _| driver.resume(&xd)) };
    }

    unsafe extern "C" fn gone(context: *mut c_void, device: *mut c::device) {
        if let Some(device) = NonNull::new(device) {
            // SAFETY: As above.
            unsafe { &*context.cast::<D>() }.gone(&Leaving::new(device));
        }
    }

    unsafe extern "C" fn message(context: *mut c_void, bytes: *const u8, len: usize) {
        if !bytes.is_null() {
            // SAFETY: As above: `len` readable bytes.
            unsafe { (*context.cast::<D>()).hear(slice::from_raw_parts(bytes, len)) };
        }
    }
}
