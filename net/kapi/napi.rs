// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A NAPI inside an object: the poll that an interrupt calls for, in softirq context, one at a time.
//!
//! C header: `include/linux/netdevice.h`.

use super::{netdev::Netdev, owner::Owner};
use core::{marker::PhantomPinned, ptr};
use kernel::{ffi::c_int, prelude::*, types::Opaque};
use usb4_bindings as c;

/// What a NAPI's owner does in a poll.
pub(crate) trait Polls {
    /// Polls. Returns the work done, at most `budget`; less than that after [`Napi::done`]. netpoll's has no budget: it
    /// wants room to send.
    fn poll(&self, budget: i32) -> i32;
}

/// The core's part of a [`Napi`]: received packets are allocated and given to the stack in its poll.
#[repr(transparent)]
pub(crate) struct RawNapi(Opaque<c::napi_struct>);

// SAFETY: The core locks for itself; what is done in the poll only says so.
unsafe impl Send for RawNapi {}
// SAFETY: As above.
unsafe impl Sync for RawNapi {}

impl RawNapi {
    pub(super) fn as_ptr(&self) -> *mut c::napi_struct {
        self.0.get()
    }
}

/// A NAPI owned by a `T`.
///
/// # Invariants
///
/// `raw` is the first field and has been added to `netdev`. `owner` points to the object that contains this NAPI, which
/// is disabled when that object goes.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Napi<T: Polls> {
    #[pin]
    raw: RawNapi,
    owner: Owner<T>,
    /// The core takes it off this device's list.
    netdev: Netdev,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A NAPI may be scheduled from any CPU, and is polled on one at a time.
unsafe impl<T: Polls + Sync> Send for Napi<T> {}
// SAFETY: The core locks for itself.
unsafe impl<T: Polls + Sync> Sync for Napi<T> {}

impl<T: Polls + Sync> Napi<T> {
    /// A NAPI of `netdev`, disabled, that has no owner yet. Sleeps.
    pub(crate) fn new(netdev: Netdev) -> impl PinInit<Self> {
        pin_init!(Self {
            raw <- Self::added(netdev.clone()),
            owner: Owner::none(),
            netdev,
            _pin: PhantomPinned,
        })
    }

    fn added(netdev: Netdev) -> impl PinInit<RawNapi> {
        let add = move |slot: *mut RawNapi| {
            let slot = slot.cast::<c::napi_struct>();
            // SAFETY: `slot` is valid for writes and pinned, all zeroes as the core wants it; the device is valid.
            unsafe {
                ptr::write_bytes(slot, 0, 1);
                c::usb4_napi_add(netdev.as_ptr(), slot, Some(Self::polled));
            }
            Ok(())
        };
        // SAFETY: `add` initialises the NAPI and cannot fail.
        unsafe { pin_init::pin_init_from_closure::<_, core::convert::Infallible>(add) }
    }

    /// The core's part.
    pub(crate) fn raw(&self) -> &RawNapi {
        &self.raw
    }

    /// Names the owner. Called once, before the object is shared.
    pub(crate) fn own(&self, owner: &T) {
        // SAFETY: Nobody else knows the NAPI yet.
        unsafe { self.owner.name(owner) };
    }

    /// From now on the poll is called when it is scheduled. Sleeps.
    pub(crate) fn enable(&self) {
        // SAFETY: Added; alternates with `disable` by the session's order.
        unsafe { c::usb4_napi_enable(self.raw.as_ptr()) }
    }

    /// Waits for a running poll; none comes any more. Sleeps.
    pub(crate) fn disable(&self) {
        // SAFETY: As above.
        unsafe { c::usb4_napi_disable(self.raw.as_ptr()) }
    }

    /// Calls for the poll; false if it has been called for already, or is disabled. Any context.
    pub(crate) fn schedule(&self) -> bool {
        // SAFETY: Added.
        unsafe { c::usb4_napi_schedule(self.raw.as_ptr()) }
    }

    /// Ends a poll that did `work`. Whether interrupts are to be let through again.
    #[must_use]
    pub(crate) fn done(&self, work: i32) -> bool {
        // SAFETY: In the poll.
        unsafe { c::usb4_napi_done(self.raw.as_ptr(), work) }
    }

    /// The core's callback.
    ///
    /// # Safety
    ///
    /// `raw` is the `raw` of a `Napi<T>` that is enabled.
    unsafe extern "C" fn polled(raw: *mut c::napi_struct, budget: c_int) -> c_int {
        // SAFETY: By the invariant `raw` is the first field.
        let napi = unsafe { &*raw.cast::<Self>() };
        // SAFETY: The owner was named before the poll was enabled, and lives until it is disabled, which waits.
        unsafe { napi.owner.with(|owner| owner.poll(budget)) }
    }
}

#[pinned_drop]
impl<T: Polls> PinnedDrop for Napi<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Added to a device that is there as long as `netdev`, and disabled by the invariant.
        unsafe { c::usb4_napi_del(self.raw.as_ptr()) };
    }
}
