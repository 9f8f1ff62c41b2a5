// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is known about this host: read once, judged by pure functions afterwards.
//!
//! Everything that the verbs decide on is in here, so that a test writes the facts of any host as JSON and needs no
//! host.

pub mod ethtool;
mod host;
mod net;
mod rdma;
mod sysfs;

pub use host::{build_id, governor_files, module_installed, modules as loaded_modules};
pub use net::Net;
pub use sysfs::{names, text};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// The module that this tool is about.
pub const MODULE: &str = "usb4_rdma";
/// The kernel's own driver of the cables' network devices.
pub const STOCK: &str = "thunderbolt_net";
/// Service by which a host with our module is known.
pub const OUR_SERVICE: &str = "usb4rdma";
/// Service of ThunderboltIP, which both drivers offer.
pub const IP_SERVICE: &str = "network";

/// Everything that was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub host: Host,
    pub routers: Vec<Router>,
    pub cables: Vec<Cable>,
    pub netdevs: Vec<Netdev>,
    pub rdma: Vec<RdmaLink>,
    /// Why `rdma` is empty, where the RDMA subsystem could not be asked.
    pub rdma_error: Option<String>,
    /// Loaded modules.
    pub modules: Vec<String>,
    /// Peers that did not answer, with the address; `doctor` alone asks.
    pub unreachable: Vec<(String, String)>,
    /// Cables, network devices and hosts that a person wants left alone.
    pub leave: Vec<String>,
    /// What is wrong with /etc/usb4rdma.toml.
    pub config_error: Option<String>,
}

/// This machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    pub name: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Whether the bus `thunderbolt` exists.
    pub bus: bool,
    /// Whether `modprobe usb4_rdma` would find a file (or the module is loaded).
    pub module_installed: bool,
    /// Other kernels whose modules have ours among them.
    pub module_for: Vec<String>,
    /// Why the kernel takes signed modules only, if it does: Secure Boot's lockdown, or its own parameter.
    pub signed_only: Option<String>,
    /// Whether the module's file carries a signature; None where it is not found or compressed.
    pub module_signed: Option<bool>,
    /// Whether the tool runs as root, to whom limits of locked memory do not apply.
    pub root: bool,
    /// RLIMIT_MEMLOCK in bytes; None: unlimited.
    pub memlock: Option<u64>,
    /// Values of `net.ipv4.conf.DEV.KEY` by `DEV.KEY`, of `all` and the cables' devices.
    pub sysctl: BTreeMap<String, String>,
    /// Programs that configure network devices by themselves and run: `NetworkManager`, `systemd-networkd`.
    pub managers: Vec<String>,
    /// What sets the processors' clocks, such as `powersave`; empty where nothing does, several where they differ.
    pub governors: Vec<String>,
    /// Frames that a path of the cable may have under way, the parameter of the driver `thunderbolt`.
    pub dma_credits: Option<u32>,
    /// Whether librxe, the user-space driver of our devices, was found where libibverbs looks.
    pub librxe: Option<bool>,
}

/// A USB4 host router of this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Router {
    /// Such as `0-0`.
    pub name: String,
    pub uuid: String,
    /// 4 for USB4, less for Thunderbolt.
    pub generation: u32,
    /// `1.0`, `2.0`; None before USB4.
    pub usb4_version: Option<String>,
    /// Whether the IOMMU keeps devices from memory that is not theirs.
    pub iommu_protection: Option<bool>,
    /// How the IOMMU translates for it: `identity`, `DMA-FQ`, `DMA`; None without one.
    pub iommu_mode: Option<String>,
}

/// A cable with another host at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cable {
    /// Such as `0-1`: the domain and the port's adapter.
    pub name: String,
    /// UUID of our router, and of the peer's.
    pub router: String,
    pub peer: String,
    /// The name that the peer gives itself.
    pub peer_name: String,
    /// Gbit/s of each lane, and lanes.
    pub tx_speed: f64,
    pub tx_lanes: u32,
    pub rx_speed: f64,
    pub rx_lanes: u32,
    pub services: Vec<Service>,
}

/// What a peer offers over a cable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub key: String,
    pub version: u32,
    pub revision: u32,
    /// Bits of features.
    pub settings: u32,
    /// The driver that is bound to it here.
    pub driver: Option<String>,
}

/// A network device that matters here: of a cable, or above one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Netdev {
    pub index: u32,
    pub name: String,
    /// `bond`, `bridge`, `vlan`, ...; None for a plain device.
    pub kind: Option<String>,
    pub mac: String,
    pub up: bool,
    pub carrier: bool,
    pub mtu: u32,
    pub max_mtu: u32,
    /// The bond or bridge that it belongs to.
    pub controller: Option<String>,
    pub driver: Option<String>,
    /// The cable that it is the device of.
    pub cable: Option<String>,
    pub addresses: Vec<Address>,
    /// How a bond distributes packets.
    pub bond_mode: Option<String>,
    /// The port that a bond prefers.
    pub bond_primary: Option<String>,
    /// What `ethtool -S` shows.
    pub counters: BTreeMap<String, u64>,
    /// Microseconds between receive interrupts, and whether they adapt; None where the driver cannot be asked.
    pub coalesce: Option<(u32, bool)>,
    pub rings: Option<Rings>,
}

/// Descriptors of a device's rings, and how many there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rings {
    pub rx: u32,
    pub rx_max: u32,
    pub tx: u32,
    pub tx_max: u32,
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    pub address: IpAddr,
    pub prefix: u8,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RdmaLink {
    pub device: String,
    /// The kernel's number of the device.
    pub index: u32,
    pub port: u32,
    /// `active`, `down`, ...
    pub state: String,
    pub netdev: Option<String>,
    pub gids: Vec<Gid>,
    /// The file by which programs reach the device, and its device number, if that file is missing.
    pub missing_file: Option<(String, String)>,
    /// What `rdma statistic` shows.
    pub counters: BTreeMap<String, u64>,
    /// How many queue pairs and others there are, by the kernel's word for the kind.
    pub resources: BTreeMap<String, u64>,
}

/// An entry of a port's GID table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gid {
    pub index: u32,
    /// The address that it carries.
    pub address: String,
    /// `RoCE v2` or `IB/RoCE v1`.
    pub kind: String,
}

impl Facts {
    /// Reads everything. What may be missing on a healthy host is None or empty, not an error.
    ///
    /// # Errors
    ///
    /// The kernel does not answer over netlink.
    pub fn collect(net: &Net) -> Result<Facts> {
        let root = Path::new("/sys");
        let (routers, cables) = sysfs::bus(root);
        let mut facts = Facts {
            host: host::read(root),
            routers,
            cables,
            modules: host::modules(),
            ..Facts::default()
        };
        facts.netdevs = net.netdevs(&facts.cables)?;
        for netdev in &mut facts.netdevs {
            netdev.bond_mode = sysfs::bond_option(root, &netdev.name, "mode");
            netdev.bond_primary = sysfs::bond_option(root, &netdev.name, "primary");
            if netdev.is_port() {
                netdev.counters = ethtool::counters(&netdev.name).unwrap_or_default();
                netdev.coalesce = ethtool::coalesce(&netdev.name).ok();
                netdev.rings = ethtool::rings(&netdev.name).ok();
            }
        }
        match rdma::links(root) {
            Ok(links) => facts.rdma = links,
            Err(error) => facts.rdma_error = Some(error.to_string()),
        }
        facts.keep_what_matters();
        facts.host.sysctl = host::sysctls(&facts.netdevs);
        Ok(facts)
    }

    /// The same less the cables that are to be left alone. Their network devices stay, as any other's.
    pub fn without_left(&self) -> Facts {
        let mut facts = self.clone();
        facts.cables.retain(|cable| !self.is_left(cable));
        for netdev in &mut facts.netdevs {
            let kept = |name: &String| facts.cables.iter().any(|cable| cable.name == *name);
            netdev.cable = netdev.cable.take().filter(kept);
        }
        facts
    }

    fn is_left(&self, cable: &Cable) -> bool {
        let netdev = self.netdev_of(&cable.name).map(|netdev| &netdev.name);
        let names = [&cable.name, &cable.peer_name, &cable.peer];
        self.leave
            .iter()
            .any(|name| names.contains(&name) || netdev == Some(name))
    }

    /// Drops network devices that have nothing to do with cables or RDMA.
    fn keep_what_matters(&mut self) {
        let over: Vec<String> = self.rdma.iter().filter_map(|link| link.netdev.clone()).collect();
        let above: Vec<String> = self
            .of_cables()
            .filter_map(|netdev| netdev.controller.clone())
            .collect();
        self.netdevs
            .retain(|n| n.cable.is_some() || over.contains(&n.name) || above.contains(&n.name) || n.has_global());
    }

    /// The network devices of cables.
    pub fn of_cables(&self) -> impl Iterator<Item = &Netdev> {
        self.netdevs.iter().filter(|netdev| netdev.cable.is_some())
    }

    pub fn netdev(&self, name: &str) -> Option<&Netdev> {
        self.netdevs.iter().find(|netdev| netdev.name == name)
    }

    /// The network device of a cable.
    pub fn netdev_of(&self, cable: &str) -> Option<&Netdev> {
        self.of_cables().find(|netdev| netdev.cable.as_deref() == Some(cable))
    }

    /// The RDMA link over a network device that is of our module.
    pub fn link_over(&self, netdev: &str) -> Option<&RdmaLink> {
        let over = |link: &&RdmaLink| link.netdev.as_deref() == Some(netdev);
        self.rdma.iter().filter(over).find(|link| link.is_ours())
    }

    pub fn router(&self, uuid: &str) -> Option<&Router> {
        self.routers.iter().find(|router| router.uuid == uuid)
    }

    pub fn loaded(&self, module: &str) -> bool {
        self.modules.iter().any(|loaded| loaded == module)
    }
}

impl Cable {
    /// Gbit/s of what we send, over all lanes.
    pub fn rate(&self) -> f64 {
        self.tx_speed * f64::from(self.tx_lanes)
    }

    pub fn service(&self, key: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.key == key)
    }
}

impl Router {
    /// Gbit/s that a lane of this router can reach.
    pub fn lane_speed(&self) -> f64 {
        match (self.generation, self.usb4_version.as_deref()) {
            (4.., Some(version)) if version.starts_with("2.") => 40.0,
            (3.., _) => 20.0,
            _ => 10.0,
        }
    }
}

impl Netdev {
    /// Whether it is a cable's own device, of ours even while no cable is in.
    pub fn is_port(&self) -> bool {
        self.cable.is_some() || self.driver.as_deref() == Some(MODULE)
    }

    /// Whether it has an address that is not link-local.
    pub fn has_global(&self) -> bool {
        self.global().next().is_some()
    }

    /// The addresses that are not link-local.
    pub fn global(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| !address.is_link_local())
    }

    /// The RDMA MTU that this device's allows: the packet has at most 80 bytes around the payload.
    pub fn rdma_mtu(&self) -> u32 {
        let fits = |size: &&u32| **size + 80 <= self.mtu;
        [4096, 2048, 1024, 512, 256].iter().find(fits).copied().unwrap_or(0)
    }
}

impl Address {
    pub fn new(address: impl Into<IpAddr>, prefix: u8) -> Address {
        Address {
            address: address.into(),
            prefix,
        }
    }

    pub fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(four) => four.is_link_local() || four.is_loopback(),
            IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80 || six.is_loopback(),
        }
    }

    /// Whether two networks have addresses in common.
    pub fn overlaps(&self, other: &Address) -> bool {
        let shorter = self.prefix.min(other.prefix);
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(shorter)).unwrap_or(0);
                u32::from(a) & mask == u32::from(b) & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(shorter)).unwrap_or(0);
                u128::from(a) & mask == u128::from(b) & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    /// `10.0.0.1/24`
    fn from_str(text: &str) -> Result<Address, String> {
        let (address, prefix) = text.split_once('/').ok_or(format!(
            "{text}: the length of the prefix is missing, as in 10.0.0.1/24"
        ))?;
        let address: IpAddr = address.parse().map_err(|_| format!("{address} is no IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|prefix| (1..=most).contains(prefix));
        let prefix = prefix.ok_or(format!("{text}: a prefix is 1 to {most} bits long"))?;
        Ok(Address::new(address, prefix))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl RdmaLink {
    /// Whether our module made it: rxe, whose driver id we carry, counts no runs.
    pub fn is_ours(&self) -> bool {
        self.counters.contains_key("sent_runs")
    }

    /// The RoCE v2 entry of the GID table that carries an IPv4 address, which most programs want.
    pub fn ipv4_gid(&self) -> Option<&Gid> {
        let four = |gid: &&Gid| gid.kind == "RoCE v2" && gid.address.parse::<std::net::Ipv4Addr>().is_ok();
        self.gids.iter().find(four)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_have_a_prefix() {
        assert_eq!(address("10.0.0.1/24"), Address::new([10, 0, 0, 1], 24));
        for bad in ["10.0.0.1", "10.0.0/24", "10.0.0.1/33", "fd00::1/129", "10.0.0.1/0"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_left_alone_is_no_cable_of_ours() {
        let mut facts = crate::health::tests::healthy();
        for name in ["0-1", "usb4net0", "h1"] {
            facts.leave = vec![name.into()];
            let kept = facts.without_left();
            assert_eq!(
                (kept.cables.len(), kept.of_cables().count(), kept.netdevs.len()),
                (0, 0, 1),
                "{name}"
            );
        }
        facts.leave = vec!["0-3".into()];
        assert_eq!(facts.without_left(), facts);
    }

    #[test]
    fn networks_overlap_if_one_contains_the_other() {
        assert!(address("10.85.0.1/30").overlaps(&address("10.0.0.7/8")));
        assert!(!address("10.85.0.1/30").overlaps(&address("10.85.0.5/30")));
        assert!(address("10.85.0.1/30").overlaps(&address("0.0.0.0/1")));
        assert!(address("fd00::1/64").overlaps(&address("fd00::2/64")));
        assert!(!address("fd00::1/64").overlaps(&address("10.0.0.1/8")));
    }

    #[test]
    fn link_local_addresses_are_known() {
        assert!(address("fe80::1/64").is_link_local());
        assert!(address("169.254.3.4/16").is_link_local());
        assert!(!address("fd00::1/64").is_link_local());
    }

    #[test]
    fn the_rdma_mtu_leaves_room_for_headers() {
        let with = |mtu| {
            Netdev {
                mtu,
                ..Netdev::default()
            }
            .rdma_mtu()
        };
        assert_eq!(
            (with(65522), with(4176), with(4175), with(1500), with(68)),
            (4096, 4096, 2048, 1024, 0)
        );
    }
}
