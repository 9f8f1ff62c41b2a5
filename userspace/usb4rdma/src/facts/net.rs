// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Network devices and addresses, read and changed by rtnetlink.

use super::sysfs::{link_name, text};
use super::{ethtool, Address, Cable, Netdev};
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::Handle;
use std::future::Future;

/// The connection to rtnetlink, and what drives it.
pub struct Net {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

impl Net {
    /// Connects.
    ///
    /// # Errors
    ///
    /// No netlink socket, which a sandbox may forbid.
    pub fn connect() -> Result<Net> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no event loop")?;
        let _inside = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        runtime.spawn(connection);
        drop(_inside);
        Ok(Net { runtime, handle })
    }

    /// Runs a request to its end.
    pub fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The number of a network device, None if it is not there.
    pub fn index(&self, name: &str) -> Result<Option<u32>> {
        let request = self.handle.link().get().match_name(name.to_string()).execute();
        match self.wait(request.try_collect::<Vec<LinkMessage>>()) {
            Ok(links) => Ok(links.first().map(|link| link.header.index)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All network devices of this namespace, with their addresses.
    pub fn netdevs(&self, cables: &[Cable]) -> Result<Vec<Netdev>> {
        let links: Vec<LinkMessage> = self
            .wait(self.handle.link().get().execute().try_collect())
            .context("the kernel does not list network devices")?;
        let addresses: Vec<AddressMessage> = self
            .wait(self.handle.address().get().execute().try_collect())
            .context("the kernel does not list addresses")?;
        let name_of = |index: u32| links.iter().find(|l| l.header.index == index).and_then(name);
        let mut netdevs: Vec<Netdev> = links
            .iter()
            .map(|link| {
                let mut netdev = netdev(link, name_of);
                netdev.cable = cable_of(&netdev.name, cables);
                netdev.addresses = addresses
                    .iter()
                    .filter(|a| a.header.index == netdev.index)
                    .filter_map(address)
                    .collect();
                netdev.addresses.sort();
                netdev
            })
            .collect();
        netdevs.sort_by_key(|netdev| netdev.index);
        Ok(netdevs)
    }
}

fn name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn netdev(link: &LinkMessage, name_of: impl Fn(u32) -> Option<String>) -> Netdev {
    let mut netdev = Netdev {
        index: link.header.index,
        name: name(link).unwrap_or_default(),
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        ..Netdev::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => netdev.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => netdev.max_mtu = *mtu,
            LinkAttribute::Address(mac) => {
                netdev.mac = mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
            }
            LinkAttribute::Controller(index) => netdev.controller = name_of(*index),
            LinkAttribute::LinkInfo(infos) => netdev.kind = infos.iter().find_map(kind),
            _ => {}
        }
    }
    netdev.driver = ethtool::driver(&netdev.name).ok();
    netdev
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// The cable whose device this is: our driver has the cable as the port's name, the stock one hangs below a service of
/// the cable.
fn cable_of(netdev: &str, cables: &[Cable]) -> Option<String> {
    let dir = format!("/sys/class/net/{netdev}");
    let device = link_name(format!("{dir}/device"))?;
    let port = text(format!("{dir}/phys_port_name"));
    let of_service = device.split_once('.').map(|(cable, _)| cable.to_string());
    let is_cable = |name: &String| cables.iter().any(|cable| cable.name == *name);
    port.into_iter().chain(of_service).find(is_cable)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let of = |wanted: fn(&AddressAttribute) -> Option<std::net::IpAddr>| message.attributes.iter().find_map(wanted);
    // With a peer's address the kernel gives ours as the local one.
    let local = of(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = of(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(Address::new(local.or(plain)?, message.header.prefix_len))
}
