// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Things that packets use and a system call ends: who is inside is counted, and the end waits for those alone.
//!
//! `kernel::revocable` waits for a grace period instead. A region's end is any user's to ask for, as often as he
//! likes: a grace period for each would interrupt all processors, or take tens of milliseconds.
//!
//! `roce::uses` has the rules of the count, and goes through all interleavings. C header: `include/linux/completion.h`.

use core::{cell::UnsafeCell, mem, ops::Deref};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        Arc, Completion,
    },
};
use roce::uses::{self, CLOSED, ENTER};

/// Counts who is inside.
#[pin_data]
pub(crate) struct Gate {
    count: Atomic<u32>,
    /// The last one has left after the close.
    #[pin]
    left: Completion,
}

impl Gate {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            count: Atomic::new(0),
            left <- Completion::new(),
        })
    }

    /// The caller is inside until the result is dropped. `None` once the gate is closed. Any context.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let before = self.count.fetch_add(ENTER, Acquire);
        let inside = Inside(self);
        // Whoever is refused leaves by the drop.
        (!uses::refused(before)).then_some(inside)
    }

    /// Whether nobody is inside now.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Acquire) & !CLOSED == 0
    }

    /// Nobody enters from now on. True for the first call, on return of which nobody is inside. Sleeps, if somebody is.
    pub(crate) fn close(&self) -> bool {
        let mut before = self.count.load(Relaxed);
        loop {
            if before & CLOSED != 0 {
                return false;
            }
            match self.count.cmpxchg(before, before | CLOSED, Full) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        if uses::must_wait(before) {
            self.left.wait_for_completion();
        }
        true
    }
}

/// Somebody inside.
pub(crate) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if uses::is_last(self.0.count.fetch_sub(ENTER, Release)) {
            self.0.left.complete_all();
        }
    }
}

/// What has a gate, or is one.
pub(crate) trait Gated {
    fn gate(&self) -> &Gate;
}

impl Gated for Gate {
    fn gate(&self) -> &Gate {
        self
    }
}

/// Somebody inside, for as long as he likes and wherever he goes: the close waits for him as well. He holds on to what
/// has the gate.
pub(crate) struct Lease<T: Gated>(Arc<T>);

impl<T: Gated> Lease<T> {
    /// `None` once the gate is closed. Any context.
    pub(crate) fn enter(what: &Arc<T>) -> Option<Self> {
        let inside = what.gate().enter()?;
        // Left by the drop below.
        mem::forget(inside);
        Some(Self(what.clone()))
    }

    /// Whether it is the gate of `what`.
    pub(crate) fn is_of(&self, what: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.0, what)
    }
}

impl<T: Gated> Drop for Lease<T> {
    fn drop(&mut self) {
        drop(Inside(self.0.gate()));
    }
}

/// A value that is there for its users until it is revoked.
///
/// # Invariants
///
/// `value` is only changed, once, by the call that has closed `gate`.
#[pin_data]
pub(crate) struct Revocable<T> {
    #[pin]
    gate: Gate,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: As for a `T` alone.
unsafe impl<T: Send> Send for Revocable<T> {}
// SAFETY: Users share the value; whoever revokes it takes it to his own thread.
unsafe impl<T: Send + Sync> Sync for Revocable<T> {}

impl<T> Revocable<T> {
    pub(crate) fn new(value: T) -> impl PinInit<Self> {
        pin_init!(Self {
            gate <- Gate::new(),
            value: UnsafeCell::new(Some(value)),
        })
    }

    /// The value, in use until the result is dropped. `None` once it is revoked. Any context.
    pub(crate) fn enter(&self) -> Option<Use<'_, T>> {
        let inside = self.gate.enter()?;
        // SAFETY: The gate was open and we are inside, so by the invariant nobody changes the value before we leave.
        let value = unsafe { &*self.value.get() }.as_ref()?;
        Some(Use { value, _inside: inside })
    }

    /// Its gate.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Takes the value back once nobody uses it. It is the first caller's, who drops it where that may sleep. Sleeps,
    /// if somebody is inside.
    pub(crate) fn revoke(&self) -> Option<T> {
        if !self.gate.close() {
            return None;
        }
        // SAFETY: This is the call that has closed the gate, and nobody is inside.
        unsafe { &mut *self.value.get() }.take()
    }
}

/// A value in use.
pub(crate) struct Use<'a, T> {
    value: &'a T,
    _inside: Inside<'a>,
}

impl<T> Deref for Use<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}
