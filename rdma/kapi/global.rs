// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The one value of the driver's own that is found without being told where it is: callbacks of the kernel that have no
//! argument for it look here.

use core::any::Any;
use kernel::{
    prelude::*,
    sync::atomic::{Acquire, Atomic, Relaxed, Release},
};

kernel::sync::global_lock! {
    // SAFETY: `Held::new` initialises it once, and nobody takes it before `READY` says so.
    unsafe(uninit) static VALUE: Mutex<Option<KBox<dyn Any + Send>>> = None;
}

/// 1 once the lock is initialised, 2 once it may be taken.
static READY: Atomic<u32> = Atomic::new(0);

/// The value is there while this is. Dropping it drops the value.
pub(crate) struct Held(());

impl Held {
    /// Puts a value there.
    ///
    /// # Errors
    ///
    /// `EBUSY` if this is not the first: a module has one.
    pub(crate) fn new<T: Any + Send>(value: T) -> Result<Self> {
        let value = KBox::new(value, GFP_KERNEL)?;
        if READY.cmpxchg(0, 1, Relaxed).is_err() {
            return Err(EBUSY);
        }
        // SAFETY: By the exchange this is the only call, and nobody takes the lock yet.
        unsafe { VALUE.init() };
        *VALUE.lock() = Some(value);
        READY.store(2, Release);
        Ok(Self(()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let value = VALUE.lock().take();
        drop(value);
    }
}

/// Lets `act` at the value, under its lock. `None` if there is no `T`: not yet, or not any more. Sleeps.
pub(crate) fn with<T: Any, R>(act: impl FnOnce(&mut T) -> R) -> Option<R> {
    if READY.load(Acquire) != 2 {
        return None;
    }
    let mut guard = VALUE.lock();
    let value: &mut (dyn Any + Send) = &mut **guard.as_mut()?;
    value.downcast_mut().map(act)
}
