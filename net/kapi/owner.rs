// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way back from what the kernel calls, a timer or a piece of work inside an object, to that object.

use core::{cell::UnsafeCell, ptr};

/// The pointer back to the object, written once.
pub struct Owner<T>(UnsafeCell<*const T>);

// SAFETY: The pointee is shared among CPUs through this pointer, nothing else.
unsafe impl<T: Sync> Send for Owner<T> {}
// SAFETY: As above; `name` is called before anybody else knows the pointer.
unsafe impl<T: Sync> Sync for Owner<T> {}

impl<T> Owner<T> {
    /// No owner yet.
    pub const fn none() -> Self {
        Self(UnsafeCell::new(ptr::null()))
    }

    /// Names the owner.
    ///
    /// # Safety
    ///
    /// Nobody calls [`Owner::with`] meanwhile.
    pub unsafe fn name(&self, owner: &T) {
        // SAFETY: By the caller's promise.
        unsafe { *self.0.get() = owner };
    }

    /// Lets `act` at the owner.
    ///
    /// # Safety
    ///
    /// The owner has been named and is alive until this returns.
    pub unsafe fn with<R>(&self, act: impl FnOnce(&T) -> R) -> R {
        // SAFETY: By the caller's promise.
        act(unsafe { &**self.0.get() })
    }
}
