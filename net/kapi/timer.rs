// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One soft hrtimer inside an object, and the monotonic clock.
//!
//! The timer is lazy: a deadline later than the armed one changes nothing, the early tick finds out. So a deadline
//! that every ACK moves costs nothing per packet.
//!
//! C header: `include/linux/hrtimer.h`.

use super::{
    owner::Owner,
    sync::{irq_lock, IrqLock, LockClass},
};
use core::marker::PhantomPinned;
use kernel::{prelude::*, types::Opaque};
use usb4_bindings as c;

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    // SAFETY: No preconditions.
    unsafe { c::ktime_get() }.max(0).unsigned_abs()
}

/// Sleeps for `ms` milliseconds or a little longer.
pub fn sleep_ms(ms: u32) {
    // SAFETY: Process context, as sleeping needs.
    unsafe { c::usb4_sleep_ms(ms) }
}

/// What a timer's owner does when the time has come. Runs in softirq context.
pub trait Timed {
    /// The deadline has passed, or the timer has been kicked.
    fn on_timer(&self);
}

struct Armed {
    /// No arming any more.
    closed: bool,
    at: Option<u64>,
}

/// A one-shot timer owned by a `T`.
///
/// # Invariants
///
/// `hr` is the first field. `owner` points to the object that contains this timer, so it is valid while the timer is,
/// and [`Timer::close`] has been called before the object goes.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Timer<T: Timed> {
    #[pin]
    hr: Opaque<c::hrtimer>,
    owner: Owner<T>,
    #[pin]
    armed: IrqLock<Armed>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A timer may be armed, fired and closed from any CPU.
unsafe impl<T: Timed + Sync> Send for Timer<T> {}
// SAFETY: All shared state is behind `armed`.
unsafe impl<T: Timed + Sync> Sync for Timer<T> {}

/// Initialiser of a [`Timer`] whose lock has a class of its own.
#[macro_export]
macro_rules! new_timer {
    ($name:literal) => {
        $crate::kapi::timer::Timer::new($crate::lock_class!($name))
    };
}
pub use crate::new_timer;

impl<T: Timed + Sync> Timer<T> {
    /// A timer that is not armed and has no owner yet; its lock is of `class`. See [`new_timer!`].
    pub fn new(class: &'static LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            hr <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, the callback has the right type.
                unsafe {
                    c::hrtimer_setup(
                        slot,
                        Some(Self::expired),
                        c::CLOCK_MONOTONIC as i32,
                        c::hrtimer_mode_HRTIMER_MODE_ABS_SOFT,
                    )
                }
            }),
            owner: Owner::none(),
            armed <- irq_lock(Armed { closed: false, at: None }, class),
            _pin: PhantomPinned,
        })
    }

    /// Names the owner. Called once, before the object is shared.
    pub fn own(&self, owner: &T) {
        let _guard = self.armed.lock();
        // SAFETY: Writes are under the lock and happen before the first arming.
        unsafe { self.owner.name(owner) };
    }

    /// Fires at `at` nanoseconds or before. Any context.
    pub fn arm(&self, at: u64) {
        let mut armed = self.armed.lock();
        if armed.closed || armed.at.is_some_and(|old| old <= at) {
            return;
        }
        armed.at = Some(at);
        let expires = i64::try_from(at).unwrap_or(i64::MAX);
        // SAFETY: The timer is initialised and, as it is not closed, its owner is alive.
        unsafe { c::hrtimer_start_range_ns(self.hr.get(), expires, 0, c::hrtimer_mode_HRTIMER_MODE_ABS_SOFT) };
    }

    /// Fires as soon as softirqs may run.
    pub fn kick(&self) {
        self.arm(now());
    }

    /// Stops the timer for good and waits for a running handler. Process context.
    pub fn close(&self) {
        self.armed.lock().closed = true;
        // SAFETY: The timer is initialised.
        unsafe { c::hrtimer_cancel(self.hr.get()) };
    }

    /// The core's callback.
    ///
    /// # Safety
    ///
    /// `hr` is the `hr` of a `Timer<T>`.
    unsafe extern "C" fn expired(hr: *mut c::hrtimer) -> c::hrtimer_restart {
        // SAFETY: By the invariant `hr` is the first field of a live timer.
        let timer = unsafe { &*hr.cast::<Self>() };
        let closed = {
            let mut armed = timer.armed.lock();
            armed.at = None;
            armed.closed
        };
        if !closed {
            // SAFETY: The owner was named before the first arming and lives until `close` has returned, which waits.
            unsafe { timer.owner.with(T::on_timer) };
        }
        c::hrtimer_restart_HRTIMER_NORESTART
    }
}

#[pinned_drop]
impl<T: Timed> PinnedDrop for Timer<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The timer is initialised. It is closed unless its owner was never shared, so this does not wait.
        unsafe { c::hrtimer_cancel(self.hr.get()) };
    }
}
