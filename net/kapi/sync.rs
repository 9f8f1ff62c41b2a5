// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Spin locks for softirq and for any context, and the wait for packet paths.
//!
//! [`BhLock`] guards what the packet path and system calls share. Whoever holds one runs with softirqs off, which
//! makes the section an RCU reader as well: [`wait_for_packets`] returns after every section that was open when it
//! was called. [`IrqLock`] guards the few words that any context may touch.
//!
//! C header: `include/linux/spinlock.h`.

use kernel::bindings as kernel_c;
use kernel::{
    prelude::*,
    sync::{
        lock::{spinlock::SpinLockBackend, Backend, Guard, Lock},
        LockClassKey,
    },
};
use usb4_bindings as c;

/// A lock that keeps softirqs of this CPU out while it is held.
pub type BhLock<T> = Lock<T, BhBackend>;

/// A lock that keeps interrupts of this CPU out while it is held.
pub type IrqLock<T> = Lock<T, IrqBackend>;

/// A lock class: lockdep's key, and the name that it reports.
///
/// lockdep takes a key with a name at another address for a trampled one, says so and turns itself off for good. Each
/// crate that instantiates a generic function, or inlines a function, has its own copy of that function's literals, but
/// all share its statics. So key and name are one static.
pub struct LockClass {
    name: &'static CStr,
    key: LockClassKey,
}

impl LockClass {
    /// A class.
    ///
    /// # Safety
    ///
    /// The value is that of a static: it is not moved or dropped.
    pub const unsafe fn new_static(name: &'static CStr) -> Self {
        Self {
            name,
            // SAFETY: A static's field, as the caller promises.
            key: unsafe { LockClassKey::new_static() },
        }
    }

    /// What lockdep's reports call it.
    pub fn name(&'static self) -> &'static CStr {
        self.name
    }

    /// What tells it from others.
    pub fn key(&'static self) -> Pin<&'static LockClassKey> {
        Pin::static_ref(&self.key)
    }
}

/// A lock class of its own for this place in the source, as `&'static LockClass`. In a generic function all instances
/// share it: there, take the class as an argument.
#[macro_export]
macro_rules! lock_class {
    ($name:literal) => {{
        const NAME: &::core::ffi::CStr = $name;
        // SAFETY: A static.
        static CLASS: $crate::kapi::sync::LockClass = unsafe { $crate::kapi::sync::LockClass::new_static(NAME) };
        &CLASS
    }};
}
pub use crate::lock_class;

/// Initialiser of a [`BhLock`] with a lock class of its own.
#[macro_export]
macro_rules! new_bh_lock {
    ($value:expr, $name:literal) => {
        $crate::kapi::sync::bh_lock($value, $crate::lock_class!($name))
    };
}
pub use crate::new_bh_lock;

/// Initialiser of a [`BhLock`] of the class given.
pub fn bh_lock<T>(value: impl PinInit<T>, class: &'static LockClass) -> impl PinInit<BhLock<T>> {
    BhLock::new(value, class.name(), class.key())
}

/// Initialiser of an [`IrqLock`] with a lock class of its own.
#[macro_export]
macro_rules! new_irq_lock {
    ($value:expr, $name:literal) => {
        $crate::kapi::sync::irq_lock($value, $crate::lock_class!($name))
    };
}
pub use crate::new_irq_lock;

/// Initialiser of an [`IrqLock`] of the class given.
pub fn irq_lock<T>(value: impl PinInit<T>, class: &'static LockClass) -> impl PinInit<IrqLock<T>> {
    IrqLock::new(value, class.name(), class.key())
}

/// `spin_lock_bh`.
pub struct BhBackend;

// SAFETY: A spinlock excludes; `relock` is the default.
unsafe impl Backend for BhBackend {
    type State = kernel_c::spinlock_t;
    /// Softirqs were turned off with it, and are to be turned on again.
    type GuardState = bool;

    unsafe fn init(ptr: *mut Self::State, name: *const kernel::ffi::c_char, key: *mut kernel_c::lock_class_key) {
        // SAFETY: The caller's promises are the same.
        unsafe { SpinLockBackend::init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller promises an initialised lock.
        unsafe { c::usb4_spin_lock_bh(ptr.cast()) }
        true
    }

    unsafe fn unlock(ptr: *mut Self::State, state: &Self::GuardState) {
        // SAFETY: The caller owns the lock, and took it as the state says.
        unsafe {
            if *state {
                c::usb4_spin_unlock_bh(ptr.cast());
            } else {
                c::usb4_spin_unlock(ptr.cast());
            }
        }
    }

    /// In any context: where interrupts are off, so are softirqs, and must not be turned on.
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: The caller promises an initialised lock.
        unsafe {
            if irqs_off() {
                c::usb4_spin_trylock(ptr.cast()).then_some(false)
            } else {
                c::usb4_spin_trylock_bh(ptr.cast()).then_some(true)
            }
        }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller promises an initialised lock.
        unsafe { SpinLockBackend::assert_is_held(ptr) }
    }
}

/// `spin_lock_irqsave`.
pub struct IrqBackend;

// SAFETY: A spinlock excludes; `relock` is the default.
unsafe impl Backend for IrqBackend {
    type State = kernel_c::spinlock_t;
    /// The interrupt flags to restore.
    type GuardState = usize;

    unsafe fn init(ptr: *mut Self::State, name: *const kernel::ffi::c_char, key: *mut kernel_c::lock_class_key) {
        // SAFETY: The caller's promises are the same.
        unsafe { SpinLockBackend::init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller promises an initialised lock.
        unsafe { c::usb4_spin_lock_irqsave(ptr.cast()) }
    }

    unsafe fn unlock(ptr: *mut Self::State, state: &Self::GuardState) {
        // SAFETY: The caller owns the lock, and the flags are those its taking returned.
        unsafe { c::usb4_spin_unlock_irqrestore(ptr.cast(), *state) }
    }

    unsafe fn try_lock(_ptr: *mut Self::State) -> Option<Self::GuardState> {
        None
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller promises an initialised lock.
        unsafe { SpinLockBackend::assert_is_held(ptr) }
    }
}

/// Whether interrupts are off, as in netpoll.
pub fn irqs_off() -> bool {
    // SAFETY: No preconditions.
    unsafe { c::usb4_irqs_off() }
}

/// Takes a lock whose holder may be what this has interrupted, or is on its way to be: `None` where interrupts are off
/// and it is taken. Elsewhere waits for it.
pub fn lock_in_any_context<T>(lock: &BhLock<T>) -> Option<Guard<'_, T, BhBackend>> {
    if irqs_off() {
        lock.try_lock()
    } else {
        Some(lock.lock())
    }
}

/// Waits until every section under a [`BhLock`], and every packet or timer handler, that runs now has ended. Sleeps.
pub fn wait_for_packets() {
    // SAFETY: Called from process context without locks that a reader could want.
    unsafe { c::usb4_rcu_wait() }
}
