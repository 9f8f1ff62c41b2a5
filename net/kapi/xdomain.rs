// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The other host at the end of a cable: identity, control messages, HopIDs, paths.
//!
//! C header: `include/linux/thunderbolt.h`.

use core::ptr::NonNull;
use kernel::{error::to_result, prelude::*};
use tbip::{
    jack::{number, Number},
    wire::{Ends, HopId, Route, Uuid},
};
use usb4_bindings as c;

/// A held reference to a cable's other end.
///
/// # Invariants
///
/// The pointer is valid while the reference is held. Its domain and host interface are there until
/// [`super::service`] has reported the device's or the domain's end, after which only identity is asked for.
pub(crate) struct Xdomain(NonNull<c::tb_xdomain>);

// SAFETY: References are counted atomically; the functions used lock for themselves.
unsafe impl Send for Xdomain {}
// SAFETY: As above.
unsafe impl Sync for Xdomain {}

/// The device that the netdev hangs below, and that DMA is done with.
#[derive(Clone, Copy)]
pub(crate) struct Device(NonNull<c::device>);

// SAFETY: A pointer only; what is done with it is its user's business.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// The kernel's object; valid as long as the jack is.
    pub(crate) fn as_ptr(self) -> *mut c::device {
        self.0.as_ptr()
    }
}

/// A held reference to a device of the bus.
///
/// # Invariants
///
/// The pointer is valid while the reference is held.
struct Held(NonNull<c::device>);

impl Held {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// `device` is a valid device.
    unsafe fn new(device: NonNull<c::device>) -> Self {
        // SAFETY: By the caller's promise.
        unsafe { c::usb4_tb_device_get(device.as_ptr()) };
        Self(device)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: This reference is ours to give back.
        unsafe { c::usb4_tb_device_put(self.0.as_ptr()) }
    }
}

// SAFETY: References are counted atomically, and nothing else is done with the device.
unsafe impl Send for Held {}
// SAFETY: As above.
unsafe impl Sync for Held {}

/// Where a cable is plugged in: a router of this host or a hub's, and the way to what is at the other end. Another
/// router, even if it comes to the same place, is another one's: the reference keeps it from coming to the same
/// address.
pub(crate) struct Place {
    router: Held,
    domain: Held,
    route: Route,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.router.0 == other.router.0 && self.route == other.route
    }
}

/// A device of the bus that goes away.
pub(crate) struct Leaving(NonNull<c::device>);

impl Leaving {
    /// `device` goes away.
    pub(super) fn new(device: NonNull<c::device>) -> Self {
        Self(device)
    }

    /// Whether `xd` goes with it: it is the XDomain itself, or the domain.
    pub(crate) fn takes(&self, xd: &Xdomain) -> bool {
        let raw = xd.as_ptr();
        // SAFETY: Valid by the invariant of `xd`.
        unsafe {
            core::ptr::eq(&raw const (*raw).dev, self.0.as_ptr())
                || core::ptr::eq(&raw const (*(*raw).tb).dev, self.0.as_ptr())
        }
    }

    /// Whether it is the router that a cable at `place` is plugged into.
    pub(crate) fn is_router_of(&self, place: &Place) -> bool {
        place.router.0 == self.0
    }

    /// Whether it is the domain that `place` is in.
    pub(crate) fn is_domain_of(&self, place: &Place) -> bool {
        place.domain.0 == self.0
    }
}

impl Xdomain {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// `xd` is a valid XDomain.
    pub(super) unsafe fn hold(xd: NonNull<c::tb_xdomain>) -> Self {
        // SAFETY: By the caller's promise.
        unsafe { c::usb4_tb_xdomain_get(xd.as_ptr()) };
        Self(xd)
    }

    fn as_ptr(&self) -> *mut c::tb_xdomain {
        self.0.as_ptr()
    }

    /// Where it is plugged in.
    pub(crate) fn place(&self) -> Place {
        let xd = self.as_ptr();
        // SAFETY: Valid by the invariant; the domain is a device of the bus, and the route stays as it is.
        unsafe {
            Place {
                router: Held::new(self.router().0),
                domain: Held::new(NonNull::new_unchecked(&raw mut (*(*xd).tb).dev)),
                route: Route::new((*xd).route),
            }
        }
    }

    /// The number of the port that the cable is plugged into, and the first number that is no port's own.
    pub(crate) fn number(&self) -> Number {
        let xd = self.as_ptr();
        // SAFETY: Valid by the invariant; the route and the domain's number stay as they are.
        let (domain, route) = unsafe { ((*(*xd).tb).index.unsigned_abs(), Route::new((*xd).route)) };
        // SAFETY: As above; the devices are counted.
        number(domain, route, |domain, below| unsafe {
            c::usb4_tb_ports_below(xd, domain, below)
        })
    }

    /// Both ends of the cable; `None` before the core knows them.
    pub(crate) fn ends(&self) -> Option<Ends> {
        let xd = self.as_ptr();
        // SAFETY: Valid; both UUIDs and the route stay as they are from the first service on.
        unsafe {
            let (local, remote) = (
                NonNull::new((*xd).local_uuid.cast_mut())?,
                NonNull::new((*xd).remote_uuid)?,
            );
            Some(Ends {
                local: Uuid(local.as_ref().b),
                remote: Uuid(remote.as_ref().b),
                route: Route::new((*xd).route),
            })
        }
    }

    /// The device as the kernel names it, such as `0-1`.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: The name stays while the reference is held.
        unsafe { CStr::from_char_ptr(c::usb4_tb_xdomain_name(self.as_ptr())) }
    }

    /// The parent of the netdev: the router that the cable is in. Not the XDomain itself: the core takes every child of
    /// that for a service.
    pub(crate) fn router(&self) -> Device {
        // SAFETY: Valid by the invariant; an XDomain has a parent, which it holds.
        unsafe { Device(NonNull::new_unchecked((*self.as_ptr()).dev.parent)) }
    }

    /// The device that reads and writes the rings' buffers.
    pub(crate) fn dma(&self) -> Device {
        // SAFETY: Valid by the invariant; a host interface has a device.
        unsafe { Device(NonNull::new_unchecked(c::usb4_tb_dma(self.as_ptr()))) }
    }

    /// The host interface, for its rings.
    pub(super) fn nhi(&self) -> *mut c::tb_nhi {
        // SAFETY: Valid by the invariant.
        unsafe { (*(*self.as_ptr()).tb).nhi }
    }

    /// Hops of the host interface: a ring each way for each.
    pub(crate) fn hop_count(&self) -> u32 {
        // SAFETY: The host interface is there while the link is.
        unsafe { (*self.nhi()).hop_count }
    }

    /// Whether the cable is out, or the domain is coming down: nothing is to be asked of it.
    pub(crate) fn is_dead(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_tb_xdomain_dead(self.as_ptr()) }
    }

    /// Gb/s of one lane of the cable.
    pub(crate) fn lane_gbps(&self) -> u32 {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_tb_speed(self.as_ptr()) }
    }

    /// Lanes of the cable that we send on.
    pub(crate) fn width(&self) -> u32 {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_tb_width(self.as_ptr()) }
    }

    /// Sends a control message, without waiting for anything. Sleeps.
    ///
    /// # Safety
    ///
    /// If it is sent, `message` is not written and not freed before the control channel's work item has taken the
    /// request out of its queue; see [`super::outbox`].
    pub(super) unsafe fn respond(&self, message: &[u8]) -> Result {
        // SAFETY: Valid; the bytes stay by the caller's promise.
        to_result(unsafe {
            c::tb_xdomain_response(
                self.as_ptr(),
                message.as_ptr().cast(),
                message.len(),
                c::tb_cfg_pkg_type_TB_CFG_PKG_XDOMAIN_RESP,
            )
        })
    }

    /// Takes the lowest free transmit HopID from `from` on.
    pub(crate) fn take_transmit_hop(&self, from: HopId) -> Result<HopId> {
        // SAFETY: Valid by the invariant.
        hop(unsafe { c::tb_xdomain_alloc_out_hopid(self.as_ptr(), i32::from(from.0)) })
    }

    /// Gives a transmit HopID back.
    pub(crate) fn free_transmit_hop(&self, hop: HopId) {
        // SAFETY: Valid by the invariant.
        unsafe { c::tb_xdomain_release_out_hopid(self.as_ptr(), i32::from(hop.0)) }
    }

    /// Takes the receive HopID `wanted`, and no other.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is taken; what the core says if it cannot be had at all.
    pub(crate) fn take_receive_hop(&self, wanted: HopId) -> Result {
        // SAFETY: Valid by the invariant.
        let got = hop(unsafe { c::tb_xdomain_alloc_in_hopid(self.as_ptr(), i32::from(wanted.0)) })?;
        if got != wanted {
            self.free_receive_hop(got);
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Gives a receive HopID back.
    pub(crate) fn free_receive_hop(&self, hop: HopId) {
        // SAFETY: Valid by the invariant.
        unsafe { c::tb_xdomain_release_in_hopid(self.as_ptr(), i32::from(hop.0)) }
    }

    /// Opens the way from our ring to the cable and from the cable to our ring. Sleeps, takes the domain's lock.
    pub(crate) fn enable_paths(&self, paths: &Paths) -> Result {
        // SAFETY: Valid by the invariant.
        to_result(unsafe {
            c::tb_xdomain_enable_paths(
                self.as_ptr(),
                i32::from(paths.transmit.0),
                paths.transmit_ring,
                i32::from(paths.receive.0),
                paths.receive_ring,
            )
        })
    }

    /// Undoes [`Xdomain::enable_paths`].
    pub(crate) fn disable_paths(&self, paths: &Paths) -> Result {
        if self.is_dead() {
            return Ok(());
        }
        // SAFETY: Valid by the invariant.
        to_result(unsafe {
            c::tb_xdomain_disable_paths(
                self.as_ptr(),
                i32::from(paths.transmit.0),
                paths.transmit_ring,
                i32::from(paths.receive.0),
                paths.receive_ring,
            )
        })
    }
}

/// A HopID, or an errno, as the core returns them.
fn hop(value: i32) -> Result<HopId> {
    to_result(value)?;
    u16::try_from(value).map(HopId).map_err(|_| EINVAL)
}

/// One lane's way: HopIDs on the cable, rings of the host interface.
#[derive(Clone, Copy)]
pub(crate) struct Paths {
    /// HopID that we send on.
    pub(crate) transmit: HopId,
    /// Our transmit ring.
    pub(crate) transmit_ring: i32,
    /// HopID that the peer sends on.
    pub(crate) receive: HopId,
    /// Our receive ring.
    pub(crate) receive_ring: i32,
}

impl Clone for Xdomain {
    fn clone(&self) -> Self {
        // SAFETY: Valid by the invariant.
        unsafe { Self::hold(self.0) }
    }
}

impl PartialEq for Xdomain {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for Xdomain {
    fn drop(&mut self) {
        // SAFETY: This reference is ours to give back.
        unsafe { c::usb4_tb_xdomain_put(self.as_ptr()) }
    }
}
