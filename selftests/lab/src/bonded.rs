// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Cables of a running lab joined by the kernel's bonding driver, with `ip link` alone, and RDMA links over the bonds.

use crate::lab::Lab;
use crate::parse;
use crate::verbs::{Device, Kind, Pair};
use anyhow::{Context as _, Result};

/// Milliseconds between two looks of the bonding driver at its cables.
const MIIMON: u32 = 20;
/// Seconds for a bond to carry packets.
const CARRIES_S: u32 = 15;

/// A bond on each of two hosts, of cables between them. Its addresses are 10.NET.0.HOST+1.
#[derive(Clone, Debug)]
pub struct Bond {
    pub netdev: String,
    pub hosts: [usize; 2],
    pub cables: Vec<usize>,
    pub net: u8,
    pub mode: &'static str,
}

impl Bond {
    /// Of all cables between hosts 0 and 1, not made yet.
    pub fn of_pair(lab: &Lab, mode: &'static str) -> Bond {
        Bond {
            netdev: "bond0".into(),
            hosts: [0, 1],
            cables: (0..lab.spec.cables.len()).collect(),
            net: 110,
            mode,
        }
    }

    /// Makes it on both hosts, and waits until it carries packets, over each cable in 802.3ad.
    ///
    /// # Errors
    ///
    /// A command that fails, or a bond that does not carry in time.
    pub fn make(&self, lab: &Lab) -> Result<()> {
        for host in self.hosts {
            self.make_on(lab, host)?;
        }
        lab.wait_ping(self.hosts[0], &self.address(self.hosts[1]), CARRIES_S)?;
        self.agreed(lab)
    }

    /// Makes it on one of its hosts, without waiting for anything.
    ///
    /// # Errors
    ///
    /// A command that fails.
    pub fn make_on(&self, lab: &Lab, host: usize) -> Result<()> {
        let (bond, mode) = (&self.netdev, self.mode);
        let extra = if mode == "802.3ad" { "lacp_rate fast" } else { "" };
        lab.sh(
            host,
            &format!("ip link add {bond} type bond mode {mode} miimon {MIIMON} {extra}"),
        )?;
        for cable in &self.cables {
            self.enslave(lab, host, *cable)?;
        }
        if mode == "active-backup" {
            self.prefer(lab, host, self.cables[0])?;
        }
        let address = self.address(host);
        lab.sh(
            host,
            &format!("ip addr add {address}/24 dev {bond} && ip link set {bond} up"),
        )
        .map(|_| ())
    }

    /// Puts a cable's netdev into it.
    ///
    /// # Errors
    ///
    /// A command that fails.
    pub fn enslave(&self, lab: &Lab, host: usize, cable: usize) -> Result<()> {
        let dev = lab.netdev(host, cable)?;
        lab.sh(
            host,
            &format!(
                "ip addr flush dev {dev}; ip link set {dev} down && ip link set {dev} master {}",
                self.netdev
            ),
        )
        .map(|_| ())
    }

    /// Has an active-backup bond use a cable while that is well. Without it each end uses what was up first, and as no
    /// switch joins the cables, nothing passes where the ends differ.
    ///
    /// # Errors
    ///
    /// A command that fails.
    pub fn prefer(&self, lab: &Lab, host: usize, cable: usize) -> Result<()> {
        let dev = lab.netdev(host, cable)?;
        lab.sh(host, &format!("ip link set {} type bond primary {dev}", self.netdev))
            .map(|_| ())
    }

    /// Makes an RDMA link over it on each host. The first of its hosts is the client.
    ///
    /// # Errors
    ///
    /// A command that fails, or an address that no GID has.
    pub fn link(&self, lab: &Lab, kind: Kind, name: &str) -> Result<Pair> {
        let device = |host: usize| {
            lab.sh(host, &format!("ip link set {} mtu 9000", self.netdev))?;
            Device::over(lab, host, kind, name, &self.netdev, &self.address(host))
        };
        Ok(Pair {
            client: device(self.hosts[0])?,
            server: device(self.hosts[1])?,
        })
    }

    /// Waits until the bonds of both hosts count a cable again.
    ///
    /// # Errors
    ///
    /// A cable that does not come up in the bond.
    pub fn wait_active(&self, lab: &Lab, cable: usize) -> Result<()> {
        for host in self.hosts {
            let dev = lab.netdev(host, cable)?;
            let state = format!("/sys/class/net/{dev}/bonding_slave/mii_status");
            lab.sh(
                host,
                &format!(
                    "n=0; until [ \"$(cat {state})\" = up ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.05; done"
                ),
            )
            .with_context(|| format!("host {host}: {dev} does not come up in the bond"))?;
        }
        self.agreed(lab)
    }

    /// Waits until LACP has joined all cables, where it has a say.
    fn agreed(&self, lab: &Lab) -> Result<()> {
        let count = self.cables.len();
        lab.sh(
            self.hosts[0],
            &format!(
                "m=/sys/class/net/{}/bonding; n=0; grep -q 802.3ad $m/mode || exit 0; \
                 until [ \"$(cat $m/ad_num_ports)\" = {count} ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.05; done",
                self.netdev
            ),
        )
        .map(|_| ())
        .context("LACP did not join all cables")
    }

    /// Takes it away on both hosts, with the RDMA link over it if that is named, as far as they are there.
    ///
    /// # Errors
    ///
    /// A host that does not answer.
    pub fn undo(&self, lab: &Lab, link: Option<&str>) -> Result<()> {
        for host in self.hosts {
            let link = link.map_or(String::new(), |link| format!("rdma link del {link} 2>/dev/null; "));
            lab.sh(host, &format!("{link}ip link del {} 2>/dev/null; true", self.netdev))?;
        }
        Ok(())
    }

    /// Its address on a host.
    pub fn address(&self, host: usize) -> String {
        format!("10.{}.0.{}", self.net, host + 1)
    }
}

/// Trains that a host has sent by a cable.
///
/// # Errors
///
/// A netdev that is not ours: it has no such counter.
pub fn trains_by(lab: &Lab, host: usize, cable: usize) -> Result<u64> {
    let dev = lab.netdev(host, cable)?;
    let text = lab.sh(host, &format!("ethtool -S {dev}"))?;
    let trains = parse::ethtool_counters(&text).get("tx_rdma_trains").copied();
    trains.with_context(|| format!("host {host}: {dev} has no counter tx_rdma_trains"))
}
