// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The life of a device in the RDMA core, and the list of ours.
//!
//! Anybody may unregister a device: `rdma link del`, the end of its netdev, `rmmod rdma_rxe` (which takes every device
//! of its driver id along), our own exit. All ways end in `dealloc_driver`, and only there our half is let go. The list
//! therefore holds references to the core's half, and an entry leaves it in `dealloc_driver` or by [`Module`]'s drop,
//! whichever comes first.
//!
//! A device whose end nobody asked for (`rmmod rdma_rxe`) is made anew, a little later, so that the one who took it
//! down is done by then.
//!
//! C headers: `include/rdma/{ib_verbs,rdma_netlink}.h`.

use super::{
    netdev::{self, Netdev, Rtnl},
    paged::Paging,
    route::{self, Changes},
};
use crate::device::Device;
use core::ptr::{self, NonNull};
use kernel::{debugfs::Dir, error::to_result, prelude::*, str::CString, sync::Arc};
use usb4_bindings as c;

kernel::sync::global_lock! {
    // SAFETY: Initialised by `Module::new` before anything else of this file can run.
    unsafe(uninit) static DEVICES: Mutex<Registry> =
        Registry { listed: KVec::new(), relinks: KVec::new(), exiting: false, debug: None };
}

/// Milliseconds until a device taken down by accident is made anew.
const RELINK_MS: u32 = 500;

/// The devices that are, and those to be made anew.
struct Registry {
    listed: KVec<Listed>,
    relinks: KVec<Relink>,
    exiting: bool,
    /// In debugfs; every device has a directory there.
    debug: Option<Dir>,
}

/// A device to be made anew.
struct Relink {
    name: CString,
    netdev: Netdev,
}

/// A device in the list, with a reference to the core's half.
struct Listed(NonNull<c::ib_device>);

// SAFETY: The core's device may be used from any thread.
unsafe impl Send for Listed {}

/// The core's half of a device.
///
/// # Invariants
///
/// Valid while our half is, which `dealloc_driver` ends.
#[derive(Clone, Copy)]
pub(crate) struct IbDev(NonNull<c::ib_device>);

// SAFETY: The core's device may be used from any thread.
unsafe impl Send for IbDev {}
// SAFETY: As above.
unsafe impl Sync for IbDev {}

impl IbDev {
    pub(crate) fn as_ptr(self) -> *mut c::ib_device {
        self.0.as_ptr()
    }

    /// The name that it has now.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: Valid by the invariant. A string that is replaced by another name stays readable for the core's own
        // messages as well.
        unsafe { CStr::from_char_ptr(c::usb4_ib_name(self.as_ptr())) }
    }
}

/// Our half of a device of the core.
///
/// # Safety
///
/// `ib` is a registered device of ours and stays so for `'a`.
pub(crate) unsafe fn device<'a>(ib: *mut c::ib_device) -> &'a Device {
    // SAFETY: `inner` is set before registration and cleared by `dealloc_driver` only.
    unsafe { &*(*ib.cast::<c::usb4_device>()).inner.cast::<Device>() }
}

/// As [`device`], with a share in it.
///
/// # Safety
///
/// As for [`device`].
pub(crate) unsafe fn device_arc(ib: *mut c::ib_device) -> Arc<Device> {
    // SAFETY: `inner` came from `Arc::into_raw`.
    let held = unsafe { Arc::from_raw((*ib.cast::<c::usb4_device>()).inner.cast::<Device>()) };
    let share = held.clone();
    let _ = Arc::into_raw(held);
    share
}

/// `rdma link add`: makes a device over `netdev`.
pub(crate) fn add(name: &CStr, netdev: &Netdev) -> Result {
    // The core's netlink has no place for the reason, so it goes to the log.
    let refuse = |errno: Error, why: &str| {
        pr_info!("no link {}: {}\n", name, why);
        Err(errno)
    };
    if !netdev.is_usable() {
        return refuse(EINVAL, "its netdev has no Ethernet addresses");
    }
    if netdev.is_vlan() {
        // The core gives addresses of a VLAN only to a device over the netdev below.
        return refuse(
            EPERM,
            "name the netdev below the VLAN, whose device has the VLAN's addresses as well",
        );
    }
    let ib = prepare(netdev)?;
    // SAFETY: `prepare` set our half, which lasts until the list's reference is given up by `dealloc`.
    let device = unsafe { device_arc(ib.as_ptr()) };
    // SAFETY: Allocated by `usb4_ib_alloc` and not registered before.
    if let Err(err) = to_result(unsafe { c::usb4_ib_register(ib.as_ptr(), name.as_char_ptr()) }) {
        device.leave();
        // SAFETY: Registration failed, so the device is still ours to end; this calls `dealloc_driver`.
        unsafe { c::ib_dealloc_device(ib.as_ptr()) };
        return Err(err);
    }
    device.on_registered();
    // The name is this device's since it is registered. From here on anybody may end the device, which ends the listing.
    let dir = DEVICES.lock().debug.as_ref().map(|debug| debug.subdir(name));
    if let Some(dir) = dir {
        Device::list(&device, &dir);
    }
    end_if_stopped(&device);
    Ok(())
}

/// Makes a device that hears its netdev and is in the list, so that every event of the netdev reaches it, but is not yet
/// registered. Under RTNL from the look at the netdev on: it can neither go nor change its namespace unseen.
fn prepare(netdev: &Netdev) -> Result<NonNull<c::ib_device>> {
    let asked_in = netdev.namespace();
    let _rtnl = Rtnl::lock();
    if !netdev.is_registered() || netdev.namespace() != asked_in {
        return Err(ENODEV);
    }
    let is_taken = |listed: &Listed| {
        // SAFETY: Entries leave the list before their device's half of ours goes.
        unsafe { device(listed.0.as_ptr()) }.netdev().as_ref() == Some(netdev)
    };
    if DEVICES.lock().listed.iter().any(is_taken) {
        // A second hook would come before the first one's, and take its packets.
        pr_info!("no second link over one netdev\n");
        return Err(EEXIST);
    }
    // SAFETY: The netdev is held.
    let ib = NonNull::new(unsafe { c::usb4_ib_alloc(netdev.as_ptr()) }).ok_or(ENOMEM)?;
    let done = fill(ib, netdev);
    if done.is_err() {
        // SAFETY: Our half is there if `inner` is set; nobody else ends it before the next line.
        unsafe {
            if !(*ib.cast::<c::usb4_device>().as_ptr()).inner.is_null() {
                device(ib.as_ptr()).leave();
            }
        }
        // SAFETY: Never registered, so it is ours to end; this calls `dealloc_driver`.
        unsafe { c::ib_dealloc_device(ib.as_ptr()) };
    }
    done.map(|()| ib)
}

/// Gives the core's half ours, its place in the list and its hook. Under RTNL.
fn fill(ib: NonNull<c::ib_device>, netdev: &Netdev) -> Result {
    let raw = Arc::into_raw(Device::new(IbDev(ib), netdev)?);
    // SAFETY: The device is not yet known to anybody else; `inner` keeps `raw` alive until `dealloc_driver`.
    unsafe { (*ib.cast::<c::usb4_device>().as_ptr()).inner = raw.cast_mut().cast() };
    // SAFETY: `inner` keeps it.
    let device = unsafe { &*raw };
    device.on_port(netdev.port_state() == c::ib_port_state_IB_PORT_ACTIVE);
    DEVICES.lock().listed.push(Listed(ib), GFP_KERNEL)?;
    // SAFETY: `ib` is alive; the list's reference is given back by whoever removes the entry.
    unsafe { c::usb4_ib_get_ref(ib.as_ptr()) };
    // SAFETY: As above; `inner` has its share for longer.
    device.listen(netdev::Hook::new(netdev, unsafe { device_arc(ib.as_ptr()) })?);
    Ok(())
}

/// Ends a registered device whose netdev went, or changed its namespace, before it was registered: the event found
/// nothing to unregister.
fn end_if_stopped(device: &Device) {
    let registry = DEVICES.lock();
    let ours = device.ib().0;
    if device.netdev().is_none() && registry.listed.iter().any(|listed| listed.0 == ours) {
        unregister_soon(ours);
    }
}

/// Removes a device from the list, if it is there.
fn forget(ib: NonNull<c::ib_device>) {
    let mut registry = DEVICES.lock();
    let devices = &mut registry.listed;
    let Some(at) = devices.iter().position(|listed| listed.0 == ib) else {
        return;
    };
    let last = devices.len() - 1;
    devices.swap(at, last);
    let _ = devices.pop();
    drop(registry);
    // SAFETY: The list's reference.
    unsafe { c::usb4_ib_put_ref(ib.as_ptr()) };
}

/// Has a workqueue of the core unregister the device, if it is registered.
fn unregister_soon(ib: NonNull<c::ib_device>) {
    // SAFETY: The caller holds a reference to the device.
    unsafe {
        if c::usb4_ib_try_get(ib.as_ptr()) {
            c::ib_unregister_device_queued(ib.as_ptr());
            c::ib_device_put(ib.as_ptr());
        }
    }
}

/// The end of our half: nobody in the core knows the device any more.
///
/// # Safety
///
/// `ib` is a device of ours, called once per device.
pub(crate) unsafe fn dealloc(ib: NonNull<c::ib_device>) {
    forget(ib);
    let ours = ib.cast::<c::usb4_device>().as_ptr();
    // SAFETY: Nobody else uses the device now.
    let inner = unsafe { ptr::replace(&raw mut (*ours).inner, ptr::null_mut()) };
    if !inner.is_null() {
        // SAFETY: From `Arc::into_raw` in `register`.
        let device = unsafe { Arc::from_raw(inner.cast::<Device>()) };
        if !device.is_leaving() {
            // SAFETY: The core's half is in being until this function has returned.
            let name = unsafe { CStr::from_char_ptr(c::usb4_ib_name(ib.as_ptr())) };
            if let Some(netdev) = device.netdev() {
                relink_later(name, netdev);
            }
        }
        device.stop();
    }
}

/// Has a device made anew. Without memory for it there will be none, as after `rdma link del`.
fn relink_later(name: &CStr, netdev: Netdev) {
    let Ok(name) = CString::try_from(name) else {
        return;
    };
    let mut registry = DEVICES.lock();
    if !registry.exiting && registry.relinks.push(Relink { name, netdev }, GFP_KERNEL).is_ok() {
        // SAFETY: The work is cancelled before the module goes, after `exiting` was set.
        unsafe { c::usb4_relink_later(RELINK_MS) };
    }
}

/// Makes devices anew.
pub(crate) fn relink() {
    loop {
        let Some(Relink { name, netdev }) = DEVICES.lock().relinks.pop() else {
            return;
        };
        match add(&name, &netdev) {
            Ok(()) => pr_info!("{:?} was unregistered by another driver's exit and is back\n", &*name),
            Err(err) => pr_info!("{:?} was unregistered by another driver's exit: {:?}\n", &*name, err),
        }
    }
}

/// Has the paths of every device lead to where their next hops are now. See [`Device::renew`].
#[no_mangle]
extern "C" fn usb4_op_renew() {
    let all = route::take_all();
    let registry = DEVICES.lock();
    for listed in registry.listed.iter() {
        // SAFETY: Entries leave the list before their device's half of ours goes.
        unsafe { device(listed.0.as_ptr()) }.renew(all);
    }
}

/// Whether a device of ours sends by the netdev.
fn is_below_ours(netdev: &Netdev) -> bool {
    DEVICES.lock().listed.iter().any(|listed| {
        // SAFETY: Entries leave the list before their device's half of ours goes.
        let own = unsafe { device(listed.0.as_ptr()) }.netdev();
        own.is_some_and(|own| own.carries(netdev))
    })
}

/// Something happened to a netdev. Called under RTNL.
///
/// # Safety
///
/// `ndev` is a valid netdev.
pub(crate) unsafe fn netdev_event(event: usize, ndev: NonNull<c::net_device>) {
    // SAFETY: By the caller's promise.
    let netdev = unsafe { Netdev::hold(ndev) };
    let event = u32::try_from(event).unwrap_or(0);
    if event == c::netdev_cmd_NETDEV_CHANGEADDR && is_below_ours(&netdev) {
        // Peers learn the new address from what is broadcast only, and who just listens broadcasts nothing. This host has
        // forgotten its neighbours, and asks for them again.
        netdev.announce();
        route::renew_all();
    }
    let mut registry = DEVICES.lock();
    if event == c::netdev_cmd_NETDEV_UNREGISTER {
        registry.relinks.retain(|relink| relink.netdev != netdev);
    }
    for listed in registry.listed.iter() {
        // SAFETY: Entries leave the list before their device's half of ours goes.
        let device = unsafe { device(listed.0.as_ptr()) };
        if device.netdev().as_ref() != Some(&netdev) {
            continue;
        }
        match event {
            c::netdev_cmd_NETDEV_UNREGISTER => {
                device.leave();
                device.stop();
                unregister_soon(listed.0);
            }
            c::netdev_cmd_NETDEV_UP
            | c::netdev_cmd_NETDEV_DOWN
            | c::netdev_cmd_NETDEV_CHANGE
            | c::netdev_cmd_NETDEV_CHANGEMTU => {
                device.on_port(netdev.port_state() == c::ib_port_state_IB_PORT_ACTIVE);
                // SAFETY: The reference keeps the device registered during the call.
                unsafe {
                    if c::usb4_ib_try_get(listed.0.as_ptr()) {
                        c::usb4_ib_port_event(listed.0.as_ptr(), netdev.as_ptr());
                        c::ib_device_put(listed.0.as_ptr());
                    }
                }
            }
            _ => {}
        }
    }
}

/// The module's presence in the kernel.
///
/// Ends in this order: no new links; every device unregistered, which ends its users; no netdev events; no frame of
/// ours left in the stack.
pub(crate) struct Module {
    _changes: Changes,
    _paging: Paging,
}

impl Module {
    /// Offers the link type.
    pub(crate) fn new() -> Result<Self> {
        let paging = Paging::start()?;
        // SAFETY: Called once, from the module's init.
        unsafe { DEVICES.init() };
        DEVICES.lock().debug = Some(Dir::new(c"usb4_rdma"));
        let changes = Changes::hear()?;
        // SAFETY: The list is ready.
        to_result(unsafe { c::usb4_notifier_register() })?;
        // SAFETY: As above.
        unsafe { c::usb4_link_register() };
        Ok(Self {
            _changes: changes,
            _paging: paging,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`.
        unsafe { c::usb4_link_unregister() };
        {
            let mut registry = DEVICES.lock();
            registry.exiting = true;
            registry.relinks.clear();
        }
        // SAFETY: Nobody schedules it any more.
        unsafe { c::usb4_relink_cancel() };
        loop {
            let Some(listed) = DEVICES.lock().listed.pop() else {
                break;
            };
            // SAFETY: The list's reference keeps the device in being; unregistering is idempotent and fenced.
            unsafe {
                c::ib_unregister_device(listed.0.as_ptr());
                c::usb4_ib_put_ref(listed.0.as_ptr());
            }
        }
        // Statics are not dropped: the empty vectors' memory goes here.
        let (listed, relinks, debug) = {
            let mut registry = DEVICES.lock();
            (
                core::mem::take(&mut registry.listed),
                core::mem::take(&mut registry.relinks),
                registry.debug.take(),
            )
        };
        drop((listed, relinks, debug));
        // SAFETY: Registered by `new`.
        unsafe { c::usb4_notifier_unregister() };
        netdev::wait_for_frames();
    }
}
