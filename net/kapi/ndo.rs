// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the core and `ethtool` call of a network device: a trait, and the tables that lead there.
//!
//! ```text
//!   core --net_device_ops--> trampoline of Tables<T> --> T: NetDevice                (transmit)
//!   core --net_device_ops--> net/sys/netif.c --usb4_nd_calls--> trampoline --> T     (what is not per packet)
//! ```
//!
//! The core calls for a registered device only: between [`Unregistered::register`] and the end of the
//! [`Registration`]'s drop. That is why the object behind the device is there in every trampoline: the registration has
//! a share in it.
//!
//! C headers: `include/linux/{netdevice,etherdevice,ethtool}.h`.

#![allow(clippy::missing_safety_doc, reason = "one contract for all trampolines, above")]

use super::{netdev::Netdev, skb::TxSkb, xdomain::Device};
use core::{marker::PhantomData, mem, ptr, ptr::NonNull, slice};
use kernel::{
    error::to_result,
    ffi::{c_char, c_int, c_void},
    prelude::*,
    sync::Arc,
};
use tbip::jack::Number;
use usb4_bindings as c;

/// Bytes of a statistic's name: ETH_GSTRING_LEN.
const NAME: usize = 32;

/// No cable, no speed.
pub(crate) const SPEED_UNKNOWN: u32 = u32::MAX;

/// What became of a packet to transmit.
pub(crate) enum Xmit {
    /// It was taken, whatever becomes of it.
    Taken,
    /// No room: the stack keeps it. The queue has been stopped.
    Busy(TxSkb),
}

/// Sums for `ip -s link`.
pub(crate) struct Totals {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_errors: u64,
    pub(crate) rx_length_errors: u64,
    pub(crate) rx_over_errors: u64,
    pub(crate) rx_crc_errors: u64,
    pub(crate) rx_missed_errors: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_errors: u64,
    pub(crate) tx_dropped: u64,
}

/// What `ethtool -c` shows.
#[derive(Clone, Copy)]
pub(crate) struct Coalesce {
    /// Shortest time between two receive interrupts.
    pub(crate) rx_usecs: u32,
    /// Shortest time between two transmit interrupts.
    pub(crate) tx_usecs: u32,
    /// The receive interval follows the load.
    pub(crate) adaptive: bool,
}

/// What `ethtool -g` shows: descriptors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingSizes {
    /// Receive descriptors.
    pub(crate) rx: u32,
    /// Transmit descriptors.
    pub(crate) tx: u32,
}

/// What a network device does. The core holds RTNL in all but [`NetDevice::xmit`], [`NetDevice::can_send_whole`],
/// [`NetDevice::on_tx_timeout`] and [`NetDevice::totals`].
pub(crate) trait NetDevice: Send + Sync {
    /// Names for `ethtool -S`, at most 31 bytes each.
    const STATISTICS: &'static [&'static str];
    /// Names of what `ethtool -t` finds, at most 31 bytes each.
    const TESTS: &'static [&'static str];
    /// Most descriptors of a ring.
    const MAX_RING_SIZE: u32;

    /// The interface is set up.
    fn open(&self);
    /// The interface is set down. Returns when no rings are in use.
    fn stop(&self);
    /// The interface has got another address.
    fn mac_changed(&self);
    /// The user lets go of the interface. If it may go, the core unregisters it next, and the end of its registration
    /// waits for that.
    fn let_go(&self) -> bool;
    /// Sends a packet. Softirqs are off; for netpoll, interrupts too.
    fn xmit(&self, skb: TxSkb) -> Xmit;
    /// The stack complains that nothing goes out. Softirq context.
    fn on_tx_timeout(&self);
    /// Whether a packet that stands for several can go as it is. Types as virtio-net has them.
    fn can_send_whole(&self, len: usize, gso_type: u8) -> bool;
    /// Sums for `ip -s link`.
    fn totals(&self) -> Totals;
    /// Megabits per second; [`SPEED_UNKNOWN`] while there is no cable.
    fn speed_mbps(&self) -> u32;
    /// The cable as the bus names it.
    fn cable(&self) -> &str;
    /// Lanes of the cable.
    fn lanes(&self) -> u32;
    /// Numbers for `ethtool -S`, in the order of [`NetDevice::STATISTICS`].
    fn statistics(&self, to: &mut [u64]);
    /// Runs the test of `ethtool -t`: numbers in the order of [`NetDevice::TESTS`]. Whether it is passed. Sleeps.
    fn test(&self, to: &mut [u64]) -> bool;
    /// What `ethtool -c` shows.
    fn coalesce(&self) -> Coalesce;
    /// What `ethtool -C` sets.
    fn set_coalesce(&self, to: Coalesce) -> Result;
    /// What `ethtool -g` shows.
    fn ring_sizes(&self) -> RingSizes;
    /// What `ethtool -G` sets.
    fn set_ring_sizes(&self, sizes: RingSizes) -> Result;
}

/// A network device that is not registered yet, and will be a `T`'s.
pub(crate) struct Unregistered<T> {
    netdev: Netdev,
    _whose: PhantomData<fn(T)>,
}

impl<T: NetDevice> Unregistered<T> {
    /// A device below `parent`. Sleeps.
    pub(crate) fn new(parent: Device, mac: &[u8; 6]) -> Result<Self> {
        // SAFETY: The parent is valid; six bytes are read; the tables are static.
        let raw = unsafe {
            c::usb4_nd_alloc(
                parent.as_ptr(),
                mac.as_ptr(),
                Tables::<T>::OPERATIONS,
                Tables::<T>::CALLS,
            )
        };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        Ok(Self {
            // SAFETY: Allocated just now.
            netdev: unsafe { Netdev::own(raw) }?,
            _whose: PhantomData,
        })
    }

    /// The device.
    pub(crate) fn netdev(&self) -> &Netdev {
        &self.netdev
    }

    /// Shows the device to the system as `object`'s, by a name with the number, or another if that is taken. Sleeps,
    /// takes RTNL.
    pub(crate) fn register(self, object: Arc<T>, number: Number) -> Result<Registration<T>> {
        let inner = ptr::from_ref(&*object).cast_mut().cast();
        // SAFETY: Not registered, and made for a `T`. The registration has a share in the object until the core has
        // stopped calling.
        to_result(unsafe { c::usb4_nd_register(self.netdev.as_ptr(), inner, number.own, number.others) })?;
        Ok(Registration {
            netdev: self.netdev,
            _object: object,
        })
    }
}

/// A network device as long as the system knows it. Dropped, it is stopped, if it is up, and taken away, or waited for
/// if the user has let go of it: that sleeps and takes RTNL.
///
/// # Invariants
///
/// The device has been registered, with `_object` behind it.
pub(crate) struct Registration<T: NetDevice> {
    netdev: Netdev,
    _object: Arc<T>,
}

impl<T: NetDevice> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: Registered by the invariant, once. The object goes after this.
        unsafe { c::usb4_nd_unregister(self.netdev.as_ptr()) };
    }
}

/// Lets `act` at the object behind a device, if it is one of this driver's.
///
/// # Safety
///
/// `ndev` is valid, and registered until the return: RTNL is held. The driver's devices are those of a `T`.
pub unsafe fn with_object_of<T, R>(ndev: NonNull<c::net_device>, act: impl FnOnce(&T) -> R) -> Option<R> {
    // SAFETY: By the caller's promise. A device of this driver has an object of a `T`, in which its registration has a
    // share. The tables would not tell: a constant has as many addresses as crates that use it.
    unsafe { c::usb4_nd_is_ours(ndev.as_ptr()).then(|| with(c::usb4_nd_inner(ndev.as_ptr()), act)) }
}

/// The tables of a `T`.
struct Tables<T>(PhantomData<T>);

fn errno(result: Result) -> c_int {
    result.map_or_else(|err| err.to_errno(), |()| 0)
}

/// Writes names, [`NAME`] bytes each.
///
/// # Safety
///
/// `to` is zeroed and has room for them all.
unsafe fn put_names(names: &[&str], to: *mut u8) {
    for (index, name) in names.iter().enumerate() {
        let len = name.len().min(NAME - 1);
        // SAFETY: By the caller's promise.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), to.add(index * NAME), len) };
    }
}

/// Lets `act` at the object behind a device.
///
/// # Safety
///
/// `inner` is what [`Unregistered::register`] gave to the core, which has not stopped calling.
unsafe fn with<T, R>(inner: *mut c_void, act: impl FnOnce(&T) -> R) -> R {
    // SAFETY: By the caller's promise.
    act(unsafe { &*inner.cast::<T>() })
}

impl<T: NetDevice> Tables<T> {
    const OPERATIONS: &'static c::net_device_ops = &c::net_device_ops {
        ndo_open: Some(c::usb4_nd_open),
        ndo_stop: Some(c::usb4_nd_stop),
        ndo_start_xmit: Some(Self::xmit),
        ndo_tx_timeout: Some(c::usb4_nd_timeout),
        ndo_features_check: Some(c::usb4_nd_features_check),
        ndo_get_stats64: Some(c::usb4_nd_get_stats64),
        ndo_set_mac_address: Some(c::usb4_nd_set_mac),
        ndo_validate_addr: Some(c::eth_validate_addr),
        ndo_get_phys_port_name: Some(c::usb4_nd_port_name),
        // SAFETY: Functions that are not there.
        ..unsafe { mem::zeroed() }
    };

    const CALLS: &'static c::usb4_nd_calls = &c::usb4_nd_calls {
        open: Some(Self::open),
        stop: Some(Self::stop),
        mac: Some(Self::mac),
        let_go: Some(Self::let_go),
        timeout: Some(Self::timeout),
        can_gso: Some(Self::can_gso),
        totals: Some(Self::totals),
        speed: Some(Self::speed),
        cable: Some(Self::cable),
        lanes: Some(Self::lanes),
        stat_count: Some(Self::stat_count),
        stat_names: Some(Self::stat_names),
        stats: Some(Self::stats),
        test_count: Some(Self::test_count),
        test_names: Some(Self::test_names),
        test: Some(Self::test),
        get_coalesce: Some(Self::get_coalesce),
        set_coalesce: Some(Self::set_coalesce),
        get_rings: Some(Self::get_rings),
        set_rings: Some(Self::set_rings),
    };

    unsafe extern "C" fn xmit(skb: *mut c::sk_buff, ndev: *mut c::net_device) -> c::netdev_tx_t {
        let Some(skb) = NonNull::new(skb) else {
            return c::netdev_tx_NETDEV_TX_OK;
        };
        // SAFETY: Called for a registered device of a `T`; the core gives the skb away unless it is told that the queue
        // is busy.
        let done = unsafe { with(c::usb4_nd_inner(ndev), |device: &T| device.xmit(TxSkb::from_raw(skb))) };
        match done {
            Xmit::Taken => c::netdev_tx_NETDEV_TX_OK,
            Xmit::Busy(skb) => {
                let _ = skb.into_raw();
                c::netdev_tx_NETDEV_TX_BUSY
            }
        }
    }

    unsafe extern "C" fn open(inner: *mut c_void) {
        // SAFETY: Called for a registered device of a `T`.
        unsafe { with(inner, T::open) }
    }

    unsafe extern "C" fn stop(inner: *mut c_void) {
        // SAFETY: As above.
        unsafe { with(inner, T::stop) }
    }

    unsafe extern "C" fn mac(inner: *mut c_void) {
        // SAFETY: As above.
        unsafe { with(inner, T::mac_changed) }
    }

    unsafe extern "C" fn let_go(inner: *mut c_void) -> bool {
        // SAFETY: As above.
        unsafe { with(inner, T::let_go) }
    }

    unsafe extern "C" fn timeout(inner: *mut c_void) {
        // SAFETY: As above.
        unsafe { with(inner, T::on_tx_timeout) }
    }

    unsafe extern "C" fn can_gso(inner: *mut c_void, len: u32, gso_type: u8) -> bool {
        // SAFETY: As above.
        unsafe { with(inner, |device: &T| device.can_send_whole(len as usize, gso_type)) }
    }

    unsafe extern "C" fn totals(inner: *mut c_void, to: *mut c::usb4_nd_totals) {
        // SAFETY: As above.
        let from = unsafe { with(inner, T::totals) };
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

    unsafe extern "C" fn speed(inner: *mut c_void) -> u32 {
        // SAFETY: As above.
        unsafe { with(inner, T::speed_mbps) }
    }

    unsafe extern "C" fn cable(inner: *mut c_void, to: *mut c_char, len: usize) -> c_int {
        let write = |device: &T| {
            let name = device.cable();
            if name.len() >= len {
                return EINVAL.to_errno();
            }
            // SAFETY: The caller has room for `len` bytes.
            unsafe {
                ptr::copy_nonoverlapping(name.as_ptr(), to.cast(), name.len());
                to.cast::<u8>().add(name.len()).write(0);
            }
            0
        };
        // SAFETY: As above.
        unsafe { with(inner, write) }
    }

    unsafe extern "C" fn lanes(inner: *mut c_void) -> u32 {
        // SAFETY: As above.
        unsafe { with(inner, T::lanes) }
    }

    unsafe extern "C" fn stat_count(_inner: *mut c_void) -> u32 {
        T::STATISTICS.len() as u32
    }

    unsafe extern "C" fn stat_names(_inner: *mut c_void, to: *mut u8) {
        // SAFETY: The caller has zeroed room for `stat_count` names.
        unsafe { put_names(T::STATISTICS, to) }
    }

    unsafe extern "C" fn test_count(_inner: *mut c_void) -> u32 {
        T::TESTS.len() as u32
    }

    unsafe extern "C" fn test_names(_inner: *mut c_void, to: *mut u8) {
        // SAFETY: The caller has zeroed room for `test_count` names.
        unsafe { put_names(T::TESTS, to) }
    }

    unsafe extern "C" fn test(inner: *mut c_void, to: *mut u64) -> bool {
        // SAFETY: As above; the caller has room for `test_count` numbers.
        unsafe {
            let to = slice::from_raw_parts_mut(to, T::TESTS.len());
            with(inner, |device: &T| device.test(to))
        }
    }

    unsafe extern "C" fn stats(inner: *mut c_void, to: *mut u64) {
        // SAFETY: As above; the caller has room for `stat_count` numbers.
        unsafe {
            let to = slice::from_raw_parts_mut(to, T::STATISTICS.len());
            with(inner, |device: &T| device.statistics(to));
        }
    }

    unsafe extern "C" fn get_coalesce(inner: *mut c_void, to: *mut c::usb4_nd_coalesce) {
        // SAFETY: As above.
        let from = unsafe { with(inner, T::coalesce) };
        let coalesce = c::usb4_nd_coalesce {
            rx_usecs: from.rx_usecs,
            tx_usecs: from.tx_usecs,
            rx_adaptive: u8::from(from.adaptive),
            tx_adaptive: u8::from(from.adaptive),
        };
        // SAFETY: `to` is the caller's own.
        unsafe { *to = coalesce }
    }

    unsafe extern "C" fn set_coalesce(inner: *mut c_void, from: *const c::usb4_nd_coalesce) -> c_int {
        // SAFETY: `from` is the caller's own.
        let from = unsafe { &*from };
        let to = Coalesce {
            rx_usecs: from.rx_usecs,
            tx_usecs: from.tx_usecs,
            adaptive: from.rx_adaptive != 0,
        };
        // SAFETY: As above.
        errno(unsafe { with(inner, |device: &T| device.set_coalesce(to)) })
    }

    unsafe extern "C" fn get_rings(inner: *mut c_void, to: *mut c::usb4_nd_rings) {
        // SAFETY: As above.
        let from = unsafe { with(inner, T::ring_sizes) };
        let rings = c::usb4_nd_rings {
            rx: from.rx,
            tx: from.tx,
            rx_max: T::MAX_RING_SIZE,
            tx_max: T::MAX_RING_SIZE,
        };
        // SAFETY: `to` is the caller's own.
        unsafe { *to = rings }
    }

    unsafe extern "C" fn set_rings(inner: *mut c_void, rx: u32, tx: u32) -> c_int {
        // SAFETY: As above.
        errno(unsafe { with(inner, |device: &T| device.set_ring_sizes(RingSizes { rx, tx })) })
    }
}
