// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A network device of ours, with its one queue. What the core calls of it is in [`super::ndo`].
//!
//! C headers: `include/linux/{netdevice,etherdevice}.h`.

use core::{ptr, ptr::NonNull};
use kernel::{prelude::*, sync::Arc};
use usb4_bindings as c;

/// The core's object. Dropped, its memory is freed.
struct Life(NonNull<c::net_device>);

// SAFETY: Freed from any context that may sleep; nothing else is done with it here.
unsafe impl Send for Life {}
// SAFETY: As above.
unsafe impl Sync for Life {}

impl Drop for Life {
    fn drop(&mut self) {
        // SAFETY: Nobody has a share any more, so it is not registered: a registration has one.
        unsafe { c::usb4_nd_free(self.0.as_ptr()) }
    }
}

/// A share in a network device. The last one frees it, which may sleep.
///
/// # Invariants
///
/// `raw` is valid: `_life` keeps it.
#[derive(Clone)]
pub(crate) struct Netdev {
    raw: NonNull<c::net_device>,
    _life: Arc<Life>,
}

// SAFETY: All functions used lock for themselves or are safe from any context that their documentation allows.
unsafe impl Send for Netdev {}
// SAFETY: As above.
unsafe impl Sync for Netdev {}

impl Netdev {
    /// Takes a device over.
    ///
    /// # Safety
    ///
    /// `raw` has just been allocated, and nobody else frees it.
    pub(super) unsafe fn own(raw: NonNull<c::net_device>) -> Result<Self> {
        Ok(Self {
            raw,
            _life: Arc::new(Life(raw), GFP_KERNEL)?,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut c::net_device {
        self.raw.as_ptr()
    }

    /// The name.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: Valid by the invariant. A rename changes bytes in place and keeps the string ended.
        unsafe { CStr::from_char_ptr(c::usb4_nd_name(self.as_ptr())) }
    }

    /// The Ethernet address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        // SAFETY: An Ethernet device has six bytes there.
        unsafe { ptr::read_unaligned(c::usb4_nd_mac(self.as_ptr()).cast()) }
    }

    /// Largest packet without its Ethernet header.
    pub(crate) fn mtu(&self) -> u32 {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_mtu(self.as_ptr()) }
    }

    /// The cable carries, or not.
    pub(crate) fn set_carrier(&self, on: bool) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_carrier(self.as_ptr(), on) }
    }

    /// The peer takes runs of RDMA packets, or not.
    pub(crate) fn set_runs(&self, on: bool) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_set_runs(self.as_ptr(), on) }
    }

    /// Tells the stack to send no more until [`Self::wake_queue`]. Under the lock of the transmit side.
    pub(crate) fn stop_queue(&self) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_queue_stop(self.as_ptr()) }
    }

    /// The stack may send.
    pub(crate) fn wake_queue(&self) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_queue_wake(self.as_ptr()) }
    }

    /// Stops the queue and waits until no transmission runs.
    pub(crate) fn disable_queue(&self) {
        // SAFETY: Valid by the invariant; no lock that a transmission takes is held.
        unsafe { c::usb4_nd_tx_disable(self.as_ptr()) }
    }

    /// Counts bytes given to the device. Whether the doorbell is to be rung now: nothing more follows at once.
    #[must_use]
    pub(crate) fn sent(&self, bytes: u32) -> bool {
        // SAFETY: In `xmit`.
        unsafe { c::usb4_nd_sent(self.as_ptr(), bytes) }
    }

    /// Whether the stack follows up at once with another packet.
    pub(crate) fn more(&self) -> bool {
        // SAFETY: In `xmit`.
        unsafe { c::usb4_nd_more() }
    }

    /// Whether the queue is stopped, by us or because enough bytes are in flight.
    pub(crate) fn is_throttled(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_throttled(self.as_ptr()) }
    }

    /// Packets and bytes counted by [`Self::sent`] that are on their way.
    pub(crate) fn completed(&self, packets: u32, bytes: u32) {
        // SAFETY: Valid by the invariant; one caller at a time, by the transmit side's lock.
        unsafe { c::usb4_nd_completed(self.as_ptr(), packets, bytes) }
    }

    /// Forgets what was counted: the rings are gone.
    pub(crate) fn reset_sent(&self) {
        // SAFETY: Valid by the invariant; the queue is stopped.
        unsafe { c::usb4_nd_sent_reset(self.as_ptr()) }
    }

    /// No cable is in, and the user may let go of the device; or one is. A moment later it is so. Any context.
    pub(crate) fn set_loose(&self, loose: bool) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_set_loose(self.as_ptr(), loose) }
    }

    /// The device is asleep, or awake again. Process context.
    pub(crate) fn set_present(&self, present: bool) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_present(self.as_ptr(), present) }
    }
}
