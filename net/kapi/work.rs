// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One piece of delayed work inside an object, on the module's own queue.
//!
//! `rust/kernel` has delayed work, but none that can be brought forward, put off or ended; a driver that leaves must
//! be able to wait for its work.
//!
//! C header: `include/linux/workqueue.h`.

use super::owner::Owner;
use core::marker::PhantomPinned;
use kernel::{
    error::to_result,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::Opaque,
};
use usb4_bindings as c;

/// The queue of all workers. One for the module.
pub(crate) struct Queue(());

impl Queue {
    /// Makes the queue.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, from the module's init.
        to_result(unsafe { c::usb4_work_start() })?;
        Ok(Self(()))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: Made by `new`; every worker is closed.
        unsafe { c::usb4_work_stop() }
    }
}

/// What a worker's owner does when its time has come. Process context; never twice at a time.
pub(crate) trait Works {
    /// The worker has been kicked, or its time has come.
    fn on_work(this: ArcBorrow<'_, Self>);
}

/// Delayed work owned by a `T`.
///
/// # Invariants
///
/// `work` is the first field. `owner` points to the object that contains this worker, and [`Worker::close`] has been
/// called before that object goes.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Worker<T: Works> {
    #[pin]
    work: Opaque<c::usb4_work>,
    owner: Owner<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Work may be queued, run and closed from any CPU.
unsafe impl<T: Works + Sync> Send for Worker<T> {}
// SAFETY: The workqueue serialises.
unsafe impl<T: Works + Sync> Sync for Worker<T> {}

impl<T: Works + Sync> Worker<T> {
    /// A worker that is not queued and has no owner yet. Its work waits for no other worker's.
    pub(crate) fn new() -> impl PinInit<Self> {
        Self::of_class(false)
    }

    /// As [`Worker::new`], for work that waits for workers made by that.
    pub(crate) fn new_waiting() -> impl PinInit<Self> {
        Self::of_class(true)
    }

    fn of_class(waits: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for writes, the callback has the right type.
                unsafe { c::usb4_work_init(slot, Some(Self::run), waits) }
            }),
            owner: Owner::none(),
            _pin: PhantomPinned,
        })
    }

    /// Names the owner. Called once, before the object is shared.
    pub(crate) fn own(&self, owner: &Arc<T>) {
        // SAFETY: Nobody else knows the worker yet.
        unsafe { self.owner.name(owner) };
    }

    /// Runs as soon as possible; once more if it runs now. Any context.
    pub(crate) fn kick(&self) {
        // SAFETY: Initialised; closed work is not queued.
        unsafe { c::usb4_work_kick(self.work.get()) }
    }

    /// Runs in `ns` nanoseconds or a little later, if no time is set yet. Any context.
    pub(crate) fn after(&self, ns: u64) {
        // SAFETY: Initialised; closed work is not queued.
        unsafe { c::usb4_work_after(self.work.get(), ns) }
    }

    /// Waits until what was queued has run. Not from the work itself.
    pub(crate) fn flush(&self) {
        // SAFETY: Initialised.
        unsafe { c::usb4_work_flush(self.work.get()) }
    }

    /// Ends the work for good and waits for it. Not from the work itself.
    pub(crate) fn close(&self) {
        // SAFETY: Initialised.
        unsafe { c::usb4_work_close(self.work.get()) }
    }

    /// The queue's callback.
    ///
    /// # Safety
    ///
    /// `work` is within the `work` of a `Worker<T>`.
    unsafe extern "C" fn run(work: *mut c::work_struct) {
        // SAFETY: The work_struct is the first field of the delayed_work, that of the usb4_work, that of the worker.
        let worker = unsafe { &*work.cast::<Self>() };
        // SAFETY: The owner was named before the first queueing and lives until `close` has returned, which waits.
        unsafe { worker.owner.with(|owner| T::on_work(ArcBorrow::from_raw(owner))) };
    }
}

#[pinned_drop]
impl<T: Works> PinnedDrop for Worker<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Initialised. Closed already unless the owner was never shared, so this does not wait.
        unsafe { c::usb4_work_close(self.work.get()) };
    }
}
