// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work put off to the end of the softirq at hand: a tasklet inside an object.
//!
//! A packet handler that schedules one has it run on the same CPU, after the packets that came together with its own,
//! and once however often it was scheduled. It costs no timer and no thread.
//!
//! C header: `include/linux/interrupt.h`.

use super::sync::{irq_lock, IrqLock, LockClass};
use core::{cell::UnsafeCell, marker::PhantomPinned, ptr};
use kernel::{prelude::*, types::Opaque};
use usb4_bindings as c;

/// What a tasklet's owner does.
pub(crate) trait Deferred {
    /// Called in softirq context, after one or more [`Tasklet::schedule`].
    fn on_softirq(&self);
}

/// A tasklet owned by a `T`.
///
/// # Invariants
///
/// `raw` is the first field. `owner` points to the object that contains this tasklet, so it is valid while the tasklet
/// is, and [`Tasklet::close`] has been called before the object goes, if it was ever shared.
#[repr(C)]
#[pin_data]
pub(crate) struct Tasklet<T: Deferred> {
    #[pin]
    raw: Opaque<c::tasklet_struct>,
    owner: UnsafeCell<*const T>,
    /// No scheduling any more.
    #[pin]
    closed: IrqLock<bool>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A tasklet may be scheduled, run and closed from any CPU.
unsafe impl<T: Deferred + Sync> Send for Tasklet<T> {}
// SAFETY: As above; `owner` is written once, before the object is shared.
unsafe impl<T: Deferred + Sync> Sync for Tasklet<T> {}

/// Initialiser of a [`Tasklet`] whose lock has a class of its own.
macro_rules! new_tasklet {
    ($name:literal) => {
        $crate::kapi::tasklet::Tasklet::new($crate::kapi::sync::lock_class!($name))
    };
}
pub(crate) use new_tasklet;

impl<T: Deferred + Sync> Tasklet<T> {
    /// A tasklet that has no owner yet; its lock is of `class`. See [`new_tasklet!`].
    pub(crate) fn new(class: &'static LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes, the callback has the right type.
            raw <- Opaque::ffi_init(|slot| unsafe { c::tasklet_setup(slot, Some(Self::run)) }),
            owner: UnsafeCell::new(ptr::null()),
            closed <- irq_lock(false, class),
            _pin: PhantomPinned,
        })
    }

    /// Names the owner. Called once, before the object is shared.
    pub(crate) fn own(&self, owner: &T) {
        // SAFETY: Nobody else knows the object yet.
        unsafe { *self.owner.get() = owner };
    }

    /// Has the owner called soon. With softirqs off, as in a softirq or under a `BhLock`.
    pub(crate) fn schedule(&self) {
        let closed = self.closed.lock();
        if !*closed {
            // SAFETY: The tasklet is initialised and, as it is not closed, its owner is alive.
            unsafe { c::usb4_tasklet_schedule(self.raw.get()) }
        }
    }

    /// Stops the tasklet for good and waits for a running handler. Process context.
    pub(crate) fn close(&self) {
        *self.closed.lock() = true;
        // SAFETY: The tasklet is initialised; nobody schedules it any more.
        unsafe { c::tasklet_kill(self.raw.get()) }
    }

    /// The core's callback.
    ///
    /// # Safety
    ///
    /// `raw` is the `raw` of a `Tasklet<T>`.
    unsafe extern "C" fn run(raw: *mut c::tasklet_struct) {
        // SAFETY: By the invariant `raw` is the first field of a live tasklet.
        let this = unsafe { &*raw.cast::<Self>() };
        // SAFETY: The owner was named before the first scheduling and lives until `close` has returned, which waits.
        unsafe { &**this.owner.get() }.on_softirq();
    }
}
