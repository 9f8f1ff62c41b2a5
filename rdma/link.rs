// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Links, which are devices over netdevs: how they are made and ended, and the list of them.
//!
//! On unplug the cable's netdev loses its carrier, and the device's port is down. The netdev's end, as every other
//! event of a netdev, comes to `netdev_event` here, and takes the device along. What happens to the cable itself is in
//! `net/link.rs`.
//!
//! The list holds the devices. An entry leaves it in `dealloc_driver`, where all ways of ending a device end, or when
//! [`Presence`] ends, whichever comes first.
//!
//! A device whose end nobody asked for (`rmmod rdma_rxe` takes every device of its driver id along) is made anew, a
//! little later, so that the one who took it down is done by then.

use crate::{
    device::Device,
    kapi::{
        global,
        ibdev::{Fresh, LinkType, Relinking},
        netdev::{Events, Frames, Hook, Netdev, Rtnl},
        paged::Paging,
        route::{self, Changes},
    },
};
use kernel::{debugfs::Dir, prelude::*, str::CString, sync::Arc};
use usb4_bindings as c;

/// Milliseconds until a device taken down by accident is made anew.
const RELINK_MS: u32 = 500;

/// The devices that are, and those to be made anew.
struct Registry {
    devices: KVec<Arc<Device>>,
    relinks: KVec<Relink>,
    /// Gone once the module ends: nothing is made anew then.
    relinking: Option<Relinking>,
    /// In debugfs; every device has a directory there.
    debug: Dir,
}

/// A device to be made anew.
struct Relink {
    name: CString,
    netdev: Netdev,
}

/// Lets `act` at the list, under its lock. `None` before the module's start and after its end.
fn registry<R>(act: impl FnOnce(&mut Registry) -> R) -> Option<R> {
    global::with(act)
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
    let (fresh, device) = prepare(netdev)?;
    if let Err((fresh, err)) = fresh.register(name) {
        device.leave();
        drop(fresh);
        return Err(err);
    }
    device.on_registered();
    // The name is this device's since it is registered. From here on anybody may end the device, which ends the
    // listing.
    if let Some(dir) = registry(|registry| registry.debug.subdir(name)) {
        Device::list(&device, &dir);
    }
    if device.netdev().is_none() {
        // The netdev went, or changed its namespace, before the device was registered: the event found nothing to
        // unregister.
        device.ib().unregister_soon();
    }
    Ok(())
}

/// Makes a device that hears its netdev and is in the list, so that every event of the netdev reaches it, but is not
/// yet registered. Under RTNL from the look at the netdev on: it can neither go nor change its namespace unseen.
fn prepare(netdev: &Netdev) -> Result<(Fresh, Arc<Device>)> {
    let asked_in = netdev.namespace();
    let rtnl = Rtnl::lock();
    if !netdev.is_registered() || netdev.namespace() != asked_in {
        return Err(ENODEV);
    }
    let is_over = |device: &Arc<Device>| device.netdev().as_ref() == Some(netdev);
    if registry(|registry| registry.devices.iter().any(is_over)).ok_or(ENODEV)? {
        // A second hook would come before the first one's, and take its packets.
        pr_info!("no second link over one netdev\n");
        return Err(EEXIST);
    }
    let mut fresh = Fresh::new(netdev)?;
    let device = Device::new(fresh.ib(), netdev)?;
    fresh.keep(device.clone());
    device.note_speed(&rtnl, netdev);
    match introduce(&device, &rtnl, netdev) {
        Ok(()) => Ok((fresh, device)),
        Err(err) => {
            device.leave();
            Err(err)
        }
    }
}

/// Gives a device its place in the list and its hook. Under RTNL.
fn introduce(device: &Arc<Device>, rtnl: &Rtnl, netdev: &Netdev) -> Result {
    device.on_port(is_active(netdev));
    registry(|registry| registry.devices.push(device.clone(), GFP_KERNEL)).ok_or(ENODEV)??;
    device.listen(Hook::new(netdev, device.clone())?);
    Device::look_for_lanes(device, rtnl, netdev);
    Ok(())
}

fn is_active(netdev: &Netdev) -> bool {
    netdev.port_state() == c::ib_port_state_IB_PORT_ACTIVE
}

/// Removes a device from the list, if it is there.
fn forget(device: &Arc<Device>) {
    let removed = registry(|registry| {
        let devices = &mut registry.devices;
        let at = devices.iter().position(|listed| Arc::ptr_eq(listed, device))?;
        let last = devices.len() - 1;
        devices.swap(at, last);
        devices.pop()
    });
    drop(removed);
}

/// The end of a device: nobody in the core knows it any more.
pub(crate) fn end(device: &Arc<Device>) {
    forget(device);
    if !device.is_leaving() {
        if let Some(netdev) = device.netdev() {
            relink_later(device.ib().name(), netdev);
        }
    }
    device.stop();
}

/// Has a device made anew. Without memory for it there will be none, as after `rdma link del`.
fn relink_later(name: &CStr, netdev: Netdev) {
    let Ok(name) = CString::try_from(name) else {
        return;
    };
    registry(|registry| {
        if let Some(relinking) = &registry.relinking {
            if registry.relinks.push(Relink { name, netdev }, GFP_KERNEL).is_ok() {
                relinking.run_in(RELINK_MS);
            }
        }
    });
}

/// Makes devices anew.
pub(crate) fn relink() {
    while let Some(Relink { name, netdev }) = registry(|registry| registry.relinks.pop()).flatten() {
        match add(&name, &netdev) {
            Ok(()) => pr_info!("{:?} was unregistered by another driver's exit and is back\n", &*name),
            Err(err) => pr_info!("{:?} was unregistered by another driver's exit: {:?}\n", &*name, err),
        }
    }
}

/// Has the paths of every device lead to where their next hops are now. See [`Device::renew`].
pub(crate) fn renew(all: bool) {
    registry(|registry| registry.devices.iter().for_each(|device| device.renew(all)));
}

/// Whether a device of ours sends by the netdev.
fn is_below_ours(netdev: &Netdev) -> bool {
    let sends_by = |device: &Arc<Device>| device.netdev().is_some_and(|own| own.carries(netdev));
    registry(|registry| registry.devices.iter().any(sends_by)).unwrap_or(false)
}

/// Something happened to a netdev.
pub(crate) fn netdev_event(rtnl: &Rtnl, event: u32, netdev: &Netdev) {
    if event == c::netdev_cmd_NETDEV_CHANGEADDR && is_below_ours(netdev) {
        // Peers learn the new address from what is broadcast only, and who just listens broadcasts nothing. This host
        // has forgotten its neighbours, and asks for them again.
        netdev.announce();
        route::renew_all();
    }
    registry(|registry| {
        if event == c::netdev_cmd_NETDEV_UNREGISTER {
            registry.relinks.retain(|relink| relink.netdev != *netdev);
        }
        for device in registry.devices.iter() {
            if device.netdev().as_ref() == Some(netdev) {
                netdev_event_at(device, event, netdev);
            }
        }
        if event == c::netdev_cmd_NETDEV_CHANGEUPPER {
            // The netdev is below another now, perhaps a device's bond, or is not any more.
            for device in registry.devices.iter() {
                if let Some(own) = device.netdev().filter(Netdev::is_registered) {
                    Device::look_for_lanes(device, rtnl, &own);
                }
            }
        }
    });
}

/// Something happened to a device's netdev.
fn netdev_event_at(device: &Device, event: u32, netdev: &Netdev) {
    match event {
        c::netdev_cmd_NETDEV_UNREGISTER => {
            device.leave();
            device.stop();
            device.ib().unregister_soon();
        }
        c::netdev_cmd_NETDEV_UP
        | c::netdev_cmd_NETDEV_DOWN
        | c::netdev_cmd_NETDEV_CHANGE
        | c::netdev_cmd_NETDEV_CHANGEMTU => {
            device.on_port(is_active(netdev));
            device.doubt_speed();
            device.ib().tell_port_state(netdev);
        }
        _ => {}
    }
}

/// The module's presence in the kernel.
pub(crate) struct Presence {
    // In the order of their end: no new links; every device unregistered, which ends its users; no netdev events; no
    // frame of ours left in the stack; no changes of neighbours, and no page faults under way.
    _offer: LinkType,
    _devices: Devices,
    _events: Events,
    _frames: Frames,
    _changes: Changes,
    _paging: Paging,
}

impl Presence {
    /// Offers the link type.
    pub(crate) fn new() -> Result<Self> {
        let paging = Paging::start()?;
        let devices = Devices::new()?;
        let changes = Changes::hear()?;
        let events = Events::hear()?;
        Ok(Self {
            _offer: LinkType::offer(),
            _devices: devices,
            _events: events,
            _frames: Frames::new(),
            _changes: changes,
            _paging: paging,
        })
    }
}

/// The list is there. Dropping it unregisters every device in it.
struct Devices {
    _registry: global::Held,
}

impl Devices {
    fn new() -> Result<Self> {
        let registry = global::Held::new(Registry {
            devices: KVec::new(),
            relinks: KVec::new(),
            relinking: Some(Relinking::new()),
            debug: Dir::new(c"usb4_rdma"),
        })?;
        Ok(Self { _registry: registry })
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        let relinking = registry(|registry| {
            registry.relinks.clear();
            registry.relinking.take()
        });
        // Waits for the work, which takes the list's lock.
        drop(relinking);
        while let Some(device) = registry(|registry| registry.devices.pop()).flatten() {
            device.ib().unregister();
        }
    }
}
