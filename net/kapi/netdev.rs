// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A network device of ours: its life, its one queue, its NAPI, and what the core calls.
//!
//! The operation tables are static and in `net/sys/netif.c`; each entry comes here with the object behind the device.
//! The core calls `open` and `stop` under RTNL, `xmit` and the poll in softirq context, and none of them after
//! [`Netdev::unregister`] has returned.
//!
//! C headers: `include/linux/{netdevice,etherdevice}.h`.

#![allow(clippy::missing_safety_doc, reason = "one contract for all, above")]

use super::{skb::TxSkb, xdomain::Device};
use crate::netif::Netif;
use core::{ptr, ptr::NonNull};
use kernel::{
    error::to_result,
    ffi::{c_int, c_void},
    prelude::*,
    sync::Arc,
};
use usb4_bindings as c;

/// A network device. Dropped, its memory is freed; it must have been unregistered, if it was registered.
///
/// # Invariants
///
/// The pointer is valid.
pub(crate) struct Netdev(NonNull<c::net_device>);

// SAFETY: All functions used lock for themselves or are safe from any context that their documentation allows.
unsafe impl Send for Netdev {}
// SAFETY: As above.
unsafe impl Sync for Netdev {}

impl Netdev {
    /// A device below `parent` that is not registered yet. Sleeps.
    pub(crate) fn new(parent: Device, mac: &[u8; 6]) -> Result<Self> {
        // SAFETY: The parent is valid; six bytes are read.
        let raw = unsafe { c::usb4_nd_alloc(parent.as_ptr(), mac.as_ptr()) };
        NonNull::new(raw).map(Self).ok_or(ENOMEM)
    }

    pub(super) fn as_ptr(&self) -> *mut c::net_device {
        self.0.as_ptr()
    }

    /// Shows the device to the system as `netif`'s. Sleeps, takes RTNL.
    pub(crate) fn register(&self, netif: &Arc<Netif>) -> Result {
        let raw = Arc::into_raw(netif.clone());
        // SAFETY: The object outlives the registration: `unregister` gives the share back.
        let result = to_result(unsafe { c::usb4_nd_register(self.as_ptr(), raw.cast_mut().cast()) });
        if result.is_err() {
            // SAFETY: Not registered, so nobody has it.
            drop(unsafe { Arc::from_raw(raw) });
        }
        result
    }

    /// Takes the device away: stops it, if it is up. Called once, after [`Self::register`]. Sleeps, takes RTNL.
    pub(crate) fn unregister(&self, netif: &Netif) {
        // SAFETY: Registered, by the caller's order.
        unsafe { c::usb4_nd_unregister(self.as_ptr()) };
        // SAFETY: `register` made this share; the core has stopped calling.
        drop(unsafe { Arc::from_raw(ptr::from_ref(netif)) });
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

    /// From now on the poll is called when it is scheduled. Sleeps.
    pub(crate) fn enable_poll(&self) {
        // SAFETY: Valid by the invariant; alternates with `disable_poll` by the session's order.
        unsafe { c::usb4_nd_napi_enable(self.as_ptr()) }
    }

    /// Waits for a running poll; none comes any more. Sleeps.
    pub(crate) fn disable_poll(&self) {
        // SAFETY: As above.
        unsafe { c::usb4_nd_napi_disable(self.as_ptr()) }
    }

    /// Calls for the poll; false if it has been called for already. Any context.
    pub(crate) fn schedule_poll(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_napi_schedule(self.as_ptr()) }
    }

    /// Ends a poll that did `work`. Whether interrupts are to be let through again.
    #[must_use]
    pub(crate) fn poll_done(&self, work: i32) -> bool {
        // SAFETY: In the poll.
        unsafe { c::usb4_nd_napi_done(self.as_ptr(), work) }
    }

    /// The device is asleep, or awake again. Process context.
    pub(crate) fn set_present(&self, present: bool) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_nd_present(self.as_ptr(), present) }
    }
}

impl Drop for Netdev {
    fn drop(&mut self) {
        // SAFETY: Not registered any more.
        unsafe { c::usb4_nd_free(self.as_ptr()) }
    }
}

/// What became of a packet to transmit.
pub(crate) enum Xmit {
    /// It was taken, whatever becomes of it.
    Taken,
    /// No room: the stack keeps it. The queue has been stopped.
    Busy(TxSkb),
}

/// The object behind a device.
///
/// # Safety
///
/// `inner` is what [`Netdev::register`] gave to the core, which has not stopped calling.
pub(super) unsafe fn netif<'a>(inner: *mut c_void) -> &'a Netif {
    // SAFETY: By the caller's promise.
    unsafe { &*inner.cast::<Netif>() }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_open(inner: *mut c_void) -> c_int {
    // SAFETY: Called for a registered device of ours.
    unsafe { netif(inner) }.open();
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_stop(inner: *mut c_void) {
    // SAFETY: As above.
    unsafe { netif(inner) }.stop();
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_mac(inner: *mut c_void) {
    // SAFETY: As above; RTNL is held, so the address stays while it is read.
    unsafe { netif(inner) }.mac_changed();
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_xmit(inner: *mut c_void, skb: *mut c::sk_buff) -> c_int {
    let Some(skb) = NonNull::new(skb) else {
        return c::netdev_tx_NETDEV_TX_OK as c_int;
    };
    // SAFETY: As above; the core gives the skb away unless it is told that the queue is busy.
    match unsafe { netif(inner).xmit(TxSkb::from_raw(skb)) } {
        Xmit::Taken => c::netdev_tx_NETDEV_TX_OK as c_int,
        Xmit::Busy(skb) => {
            let _ = skb.into_raw();
            c::netdev_tx_NETDEV_TX_BUSY as c_int
        }
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_poll(inner: *mut c_void, budget: c_int) -> c_int {
    // SAFETY: The poll is enabled only while the device is registered.
    unsafe { netif(inner) }.poll(budget)
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_timeout(inner: *mut c_void) {
    // SAFETY: Called for a registered device of ours.
    unsafe { netif(inner) }.on_tx_timeout();
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_can_gso(inner: *mut c_void, len: u32, gso_type: u8) -> bool {
    // SAFETY: As above.
    unsafe { netif(inner) }.can_send_whole(len as usize, gso_type)
}

#[no_mangle]
unsafe extern "C" fn usb4_op_nd_totals(inner: *mut c_void, to: *mut c::usb4_nd_totals) {
    // SAFETY: As above.
    let from = unsafe { netif(inner) }.totals();
    let totals = c::usb4_nd_totals {
        rx_packets: from.rx_packets,
        rx_bytes: from.rx_bytes,
        rx_errors: from.rx_errors,
        rx_length_errors: from.rx_length_errors,
        rx_over_errors: from.rx_over_errors,
        rx_crc_errors: from.rx_crc_errors,
        rx_missed_errors: from.rx_missed_errors,
        rx_dropped: from.rx_dropped,
        tx_packets: from.tx_packets,
        tx_bytes: from.tx_bytes,
        tx_errors: from.tx_errors,
        tx_dropped: from.tx_dropped,
    };
    // SAFETY: `to` is the caller's own.
    unsafe { *to = totals }
}
