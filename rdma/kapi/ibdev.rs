// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A device of the RDMA core, what its driver keeps behind it, and the offer of links.
//!
//! Anybody may unregister a device: `rdma link del`, the end of its netdev, `rmmod rdma_rxe` (which takes every device
//! of its driver id along), our own exit. All ways end in `dealloc_driver`, and only there is what the driver keeps let
//! go. The memory of the core's half stays while somebody has an [`IbDev`].
//!
//! C headers: `include/rdma/{ib_verbs,rdma_netlink}.h`.

use super::netdev::Netdev;
use core::ptr::{self, NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc};
use usb4_bindings as c;

/// A counted reference to the core's half of a device.
///
/// # Invariants
///
/// The reference is ours; the device is one that [`Fresh::new`] made.
pub(crate) struct IbDev(NonNull<c::ib_device>);

// SAFETY: The core's device may be used from any thread, and its references are counted atomically.
unsafe impl Send for IbDev {}
// SAFETY: As above.
unsafe impl Sync for IbDev {}

impl Clone for IbDev {
    fn clone(&self) -> Self {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_ib_get_ref(self.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for IbDev {
    fn drop(&mut self) {
        // SAFETY: Ours by the invariant. What the core does at the last one may be done in any context.
        unsafe { c::usb4_ib_put_ref(self.as_ptr()) };
    }
}

impl IbDev {
    pub(super) fn as_ptr(&self) -> *mut c::ib_device {
        self.0.as_ptr()
    }

    /// The name that it has now.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: Valid by the invariant. A string that is replaced by another name stays readable for the core's own
        // messages as well.
        unsafe { CStr::from_char_ptr(c::usb4_ib_name(self.as_ptr())) }
    }

    /// Lets `act` at the device while it is registered, and stays so. Nothing if it is not.
    fn while_registered(&self, act: impl FnOnce(*mut c::ib_device)) {
        // SAFETY: Valid by the invariant.
        if unsafe { c::usb4_ib_try_get(self.as_ptr()) } {
            act(self.as_ptr());
            // SAFETY: Taken above.
            unsafe { c::ib_device_put(self.as_ptr()) };
        }
    }

    /// Has a workqueue of the core unregister the device, if it is registered.
    pub(crate) fn unregister_soon(&self) {
        // SAFETY: It is registered.
        self.while_registered(|ib| unsafe { c::ib_unregister_device_queued(ib) });
    }

    /// Unregisters the device, unless somebody else does; on return that has been done. Sleeps.
    pub(crate) fn unregister(&self) {
        // SAFETY: Valid by the invariant; unregistering is idempotent and fenced.
        unsafe { c::ib_unregister_device(self.as_ptr()) };
    }

    /// Tells the core's users that the state of the port may be another, if the device is registered.
    pub(crate) fn tell_port_state(&self, netdev: &Netdev) {
        // SAFETY: It is registered; the netdev is held.
        self.while_registered(|ib| unsafe { c::usb4_ib_port_event(ib, netdev.as_ptr()) });
    }
}

/// A device that is not registered yet. Dropping it ends it, by way of `dealloc_driver`.
///
/// # Invariants
///
/// Allocated by the core, never registered, and ours to end.
pub(crate) struct Fresh(NonNull<c::ib_device>);

impl Fresh {
    /// A device in the network namespace of `netdev`.
    pub(crate) fn new(netdev: &Netdev) -> Result<Self> {
        // SAFETY: The netdev is held.
        NonNull::new(unsafe { c::usb4_ib_alloc(netdev.as_ptr()) })
            .map(Self)
            .ok_or(ENOMEM)
    }

    /// A reference to it.
    pub(crate) fn ib(&self) -> IbDev {
        // SAFETY: Valid by the invariant; the new reference is the result's.
        unsafe { c::usb4_ib_get_ref(self.0.as_ptr()) };
        IbDev(self.0)
    }

    /// Has the device keep `kept`, until `dealloc_driver` takes it back: see [`kept`] and [`take`]. Once.
    pub(crate) fn keep<T: Send + Sync>(&mut self, kept: Arc<T>) {
        let ours = self.0.cast::<c::usb4_device>().as_ptr();
        // SAFETY: Nobody else knows the device yet.
        unsafe { (*ours).inner = Arc::into_raw(kept).cast_mut().cast() };
    }

    /// Registers the device, which is the core's from then on. If that fails, it is given back.
    pub(crate) fn register(self, name: &CStr) -> Result<(), (Self, Error)> {
        // SAFETY: Not registered before, by the invariant.
        match to_result(unsafe { c::usb4_ib_register(self.0.as_ptr(), name.as_char_ptr()) }) {
            Ok(()) => {
                core::mem::forget(self);
                Ok(())
            }
            Err(err) => Err((self, err)),
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // SAFETY: Ours to end, by the invariant; this calls `dealloc_driver`.
        unsafe { c::ib_dealloc_device(self.0.as_ptr()) };
    }
}

/// What a device keeps.
///
/// # Safety
///
/// `ib` is a device that keeps a `T`, and its `dealloc_driver` is not called during `'a`.
pub(crate) unsafe fn kept<'a, T>(ib: *mut c::ib_device) -> &'a T {
    // SAFETY: `inner` is set before registration and cleared by `take` only.
    unsafe { &*(*ib.cast::<c::usb4_device>()).inner.cast::<T>() }
}

/// As [`kept`], with a share in it.
///
/// # Safety
///
/// As for [`kept`].
pub(crate) unsafe fn share<T>(ib: *mut c::ib_device) -> Arc<T> {
    // SAFETY: `inner` came from `Arc::into_raw`.
    let held = unsafe { Arc::from_raw((*ib.cast::<c::usb4_device>()).inner.cast::<T>()) };
    let share = held.clone();
    let _ = Arc::into_raw(held);
    share
}

/// Takes back what a device keeps, if it got that far.
///
/// # Safety
///
/// `ib` is a device that keeps a `T`, if it keeps anything, and nobody else uses it any more: called by
/// `dealloc_driver`.
pub(crate) unsafe fn take<T>(ib: *mut c::ib_device) -> Option<Arc<T>> {
    let ours = ib.cast::<c::usb4_device>();
    // SAFETY: Nobody else uses the device, by the caller's promise.
    let inner = unsafe { ptr::replace(&raw mut (*ours).inner, ptr::null_mut()) };
    // SAFETY: From `Arc::into_raw` in `Fresh::keep`.
    (!inner.is_null()).then(|| unsafe { Arc::from_raw(inner.cast::<T>()) })
}

/// Links of our type can be made while this is there.
pub(crate) struct LinkType(());

impl LinkType {
    /// Offers it.
    pub(crate) fn offer() -> Self {
        // SAFETY: `drop` takes it back.
        unsafe { c::usb4_link_register() };
        Self(())
    }
}

impl Drop for LinkType {
    fn drop(&mut self) {
        // SAFETY: Registered by `offer`. Waits for a link in the making.
        unsafe { c::usb4_link_unregister() };
    }
}

/// The work that makes links anew. Dropping it cancels it, and waits for it if it runs.
pub(crate) struct Relinking(());

impl Relinking {
    /// Nothing is asked for yet.
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// Has it run in `ms` milliseconds, unless it will run before.
    pub(crate) fn run_in(&self, ms: u32) {
        // SAFETY: `drop` cancels it.
        unsafe { c::usb4_relink_later(ms) };
    }
}

impl Drop for Relinking {
    fn drop(&mut self) {
        // SAFETY: Nobody asks for it any more.
        unsafe { c::usb4_relink_cancel() };
    }
}
