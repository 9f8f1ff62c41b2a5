// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a lab consists of: hosts, cables, tier, and the addresses they get.
//!
//! The description is plain data. `usb4lab up` writes it to the lab's state directory, the holder
//! process builds the lab from it, and later commands read it back.

use crate::paths;
use anyhow::{bail, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use std::path::PathBuf;

/// Which kind of guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// User-mode Linux, PCI over virtio.
    Fast,
    /// QEMU with the distribution's unmodified kernel, vfio-user.
    Stock,
}

/// Which host router the model imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Two routers a host, one port each, three paths each.
    Strix,
    /// Two ports a router, twelve paths.
    Intel,
}

/// How hosts are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Hosts 0 and 1, all cables between them.
    Pair,
    /// Host n to host n+1, and the last to the first.
    Ring,
    /// Every host to every other.
    Mesh,
}

/// Which build of the fast tier's kernel boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// One processor, small and quick; virtual time.
    Lab,
    /// Several processors; lockdep and the checkers of RCU, object life, DMA mappings and leaks.
    Smp,
    /// One processor, compiled by clang: every access to freed or foreign memory is reported, allocations fail on
    /// request.
    Kasan,
}

/// Which driver makes a host's network devices of the cables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NetDriver {
    /// The kernel's thunderbolt_net.
    Stock,
    /// The network half of usb4_rdma.
    Ours,
    /// None is loaded; a case loads it.
    None,
}

/// Which Debian tree the guests run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// The small one.
    #[default]
    Lab,
    /// With MPI and what else workloads need.
    Workloads,
}

/// One end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub host: usize,
    pub nhi: usize,
    pub port: usize,
}

/// A cable between two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cable {
    pub a: End,
    pub b: End,
}

/// A whole lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabSpec {
    pub tier: Tier,
    pub kernel: Kernel,
    pub profile: Profile,
    pub hosts: usize,
    pub cables: Vec<Cable>,
    pub nhis: usize,
    pub virtual_time: bool,
    /// Scenario that each guest runs instead of waiting for commands (virtual time only).
    pub script: Option<PathBuf>,
    /// Processors of a guest, if other than the kernel's usual number.
    pub smp: Option<usize>,
    pub iommu: bool,
    pub rate_bps: Option<f64>,
    pub latency_ns: Option<u64>,
    pub mtu: u32,
    pub memory_mib: u32,
    pub seed: u64,
    /// Network driver of each host; hosts beyond the end have the stock one.
    #[serde(default)]
    pub net: Vec<NetDriver>,
    /// Rings of a host router, hop 0 included, if other than the profile's.
    #[serde(default)]
    pub hops: Option<usize>,
    /// Bits per second that each ring of a router moves, whatever its cable's rate; as many as the cable takes if none.
    #[serde(default)]
    pub ring_rate_bps: Option<f64>,
    /// HopIDs of each lane adapter of a router, of which 8 are not for paths between hosts; the profile's if none.
    #[serde(default)]
    pub hop_ids: Option<usize>,
    /// Commands to the fabric with the time of each in `at_ns`.
    #[serde(default)]
    pub events: Vec<Value>,
    /// Wall seconds that a scenario in virtual time may take.
    #[serde(default = "default_scenario_s")]
    pub scenario_s: u64,
    #[serde(default)]
    pub root: Root,
    /// Each guest, its programs included, has one processor of this machine, as it has one of its own. Left to itself
    /// the machine runs a guest's kernel and its program on two, and each system call wakes the other one up.
    #[serde(default)]
    pub pinned: bool,
    /// Further words for the guests' kernel command lines.
    pub append: String,
}

fn default_scenario_s() -> u64 {
    600
}

impl Default for LabSpec {
    /// Two hosts, one cable, fast tier.
    fn default() -> LabSpec {
        LabSpec::wired(Profile::Strix, Topology::Pair, 2, 1).expect("the default topology is valid")
    }
}

impl LabSpec {
    /// The default lab as measurements need it.
    pub fn measured() -> LabSpec {
        LabSpec {
            pinned: true,
            ..LabSpec::default()
        }
    }

    /// A fast-tier lab of `hosts` joined as `topology` with `cables` between each joined pair.
    pub fn wired(profile: Profile, topology: Topology, hosts: usize, cables: usize) -> Result<LabSpec> {
        if hosts == 0 || hosts > 8 {
            bail!("a lab has 1 to 8 hosts, not {hosts}");
        }
        if cables > 4 {
            bail!("at most 4 cables join two hosts, not {cables}");
        }
        let pairs: Vec<(usize, usize)> = match topology {
            Topology::Pair if hosts >= 2 => vec![(0, 1)],
            Topology::Pair => vec![],
            Topology::Ring if hosts == 2 => vec![(0, 1)],
            Topology::Ring if hosts < 2 => vec![],
            Topology::Ring => (0..hosts).map(|h| (h, (h + 1) % hosts)).collect(),
            Topology::Mesh => (0..hosts).flat_map(|a| (a + 1..hosts).map(move |b| (a, b))).collect(),
        };
        let ports = profile.ports_per_nhi();
        let mut used = vec![0usize; hosts];
        let mut take = |host: usize| {
            let n = used[host];
            used[host] += 1;
            End {
                host,
                nhi: n / ports,
                port: n % ports,
            }
        };
        let mut list = Vec::new();
        for (a, b) in pairs {
            for _ in 0..cables {
                list.push(Cable { a: take(a), b: take(b) });
            }
        }
        let most = used.iter().copied().max().unwrap_or(0);
        Ok(LabSpec {
            tier: Tier::Fast,
            kernel: Kernel::Lab,
            profile,
            hosts,
            cables: list,
            nhis: most.div_ceil(ports).max(profile.nhis()),
            virtual_time: false,
            script: None,
            smp: None,
            iommu: false,
            rate_bps: None,
            latency_ns: None,
            mtu: 9000,
            memory_mib: 512,
            seed: 1,
            net: Vec::new(),
            hops: None,
            ring_rate_bps: None,
            hop_ids: None,
            events: Vec::new(),
            scenario_s: default_scenario_s(),
            root: Root::default(),
            pinned: false,
            append: String::new(),
        })
    }

    /// Refuses combinations that cannot work, with the reason.
    pub fn check(&self) -> Result<()> {
        let most = self.kernel.most_processors();
        if self.tier == Tier::Fast && !(1..=most).contains(&self.processors()) {
            bail!(
                "the {} kernel has 1 to {most} processors, not {}: use --kernel smp, or --tier stock",
                self.kernel.name(),
                self.processors()
            );
        }
        if self.virtual_time && self.kernel == Kernel::Smp {
            bail!("the smp kernel has no virtual time: the kernel builds it for one processor only");
        }
        if self.tier == Tier::Fast && self.nhis > 4 {
            bail!(
                "{} host routers do not fit a fast-tier guest, which has 32 interrupt vectors for 8 a router: \
                 use fewer cables or --profile intel",
                self.nhis
            );
        }
        if self.tier == Tier::Fast && self.iommu {
            bail!("the fast tier has no IOMMU; use --tier stock with --iommu");
        }
        if self.tier == Tier::Stock && self.virtual_time {
            bail!("virtual time exists on the fast tier only");
        }
        if self.virtual_time && self.script.is_none() {
            bail!("a lab in virtual time takes no commands while it runs: give a scenario with --script FILE");
        }
        if self.net.contains(&NetDriver::Ours) && !paths::has_net_half(self.tier, self.kernel)? {
            bail!("the module that is built has no network half: `make module` in a checkout that has one");
        }
        if !self.virtual_time && self.script.is_some() {
            bail!("--script belongs to --virtual-time; without it use `usb4lab exec`");
        }
        if self.tier == Tier::Stock && self.root != Root::Lab {
            bail!("a stock-tier guest has what its initramfs packs of the small root: use --tier fast");
        }
        if self.root != Root::Lab {
            paths::root(self.root)?;
        }
        Ok(())
    }

    /// The description `fabricd` reads.
    pub fn fabric(&self) -> Value {
        let end = |e: &End| json!([e.host, e.nhi, e.port]);
        let hosts: Vec<Value> = (0..self.hosts)
            .map(|_| json!({"nhis": self.nhis, "ports_per_nhi": self.profile.ports_per_nhi()}))
            .collect();
        let cables: Vec<Value> = self
            .cables
            .iter()
            .map(|c| json!({"a": end(&c.a), "b": end(&c.b), "rate_bps": self.rate_bps, "latency_ns": self.latency_ns}))
            .collect();
        json!({
            "frontend": match self.tier { Tier::Fast => "vhost-user", Tier::Stock => "vfio-user" },
            "virtual_time": self.virtual_time,
            "profile": match self.profile { Profile::Strix => "strix", Profile::Intel => "intel" },
            "usb4_version": 2,
            "hosts": hosts,
            "cables": cables,
            "seed": self.seed,
            "hops": self.hops,
            "ring_rate_bps": self.ring_rate_bps,
            "hop_ids": self.hop_ids,
            "events": self.events,
        })
    }

    /// Processors of each guest.
    pub fn processors(&self) -> usize {
        let usual = match (self.tier, self.kernel) {
            (Tier::Fast, Kernel::Smp) => 2,
            _ => 1,
        };
        self.smp.unwrap_or(usual)
    }

    /// The network driver of `host`.
    pub fn net_of(&self, host: usize) -> NetDriver {
        self.net.get(host).copied().unwrap_or(NetDriver::Stock)
    }

    /// The cables that reach `host`, with that host's end.
    pub fn ends_of(&self, host: usize) -> Vec<(usize, End)> {
        let mut ends = Vec::new();
        for (n, cable) in self.cables.iter().enumerate() {
            for end in [cable.a, cable.b] {
                if end.host == host {
                    ends.push((n, end));
                }
            }
        }
        ends
    }

    /// Arguments of the guest's `net-up`: `xdomain,ipv4/len,ipv6/len` for each cable.
    pub fn net_args(&self, host: usize) -> Vec<String> {
        self.ends_of(host)
            .iter()
            .map(|(cable, end)| format!("{},{}/24,{}/64", end.xdomain(), ipv4(*cable, host), ipv6(*cable, host)))
            .collect()
    }
}

impl Kernel {
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Lab => "lab",
            Kernel::Smp => "smp",
            Kernel::Kasan => "kasan",
        }
    }

    /// Memory without which the kernel and its checkers leave a guest too little, MiB.
    pub fn least_memory_mib(self) -> u32 {
        match self {
            Kernel::Lab => 0,
            Kernel::Smp => 1024,
            Kernel::Kasan => 1536,
        }
    }

    /// How many times longer than on the lab kernel a program may take: checkers cost processor time at each lock,
    /// allocation and access.
    pub fn slowness(self) -> u32 {
        match self {
            Kernel::Lab => 1,
            Kernel::Smp => 4,
            Kernel::Kasan => 3,
        }
    }

    /// NR_CPUS of its configuration.
    fn most_processors(self) -> usize {
        match self {
            Kernel::Smp => 4,
            Kernel::Lab | Kernel::Kasan => 1,
        }
    }
}

impl NetDriver {
    pub fn name(self) -> &'static str {
        match self {
            NetDriver::Stock => "stock",
            NetDriver::Ours => "ours",
            NetDriver::None => "none",
        }
    }

    /// The kernel module.
    pub fn module(self) -> Option<&'static str> {
        match self {
            NetDriver::Stock => Some("thunderbolt_net"),
            NetDriver::Ours => Some("usb4_rdma"),
            NetDriver::None => None,
        }
    }

    /// The largest MTU that is useful: a packet of 64 KiB less the Ethernet header.
    pub const MTU: u32 = 65522;
}

impl End {
    /// Name that the peer gets in this host's sysfs: domain, then the port's lane 0 adapter.
    pub fn xdomain(&self) -> String {
        format!("{}-{}", self.nhi, 1 + 2 * self.port)
    }
}

impl Profile {
    /// USB4 ports of one host router.
    pub fn ports_per_nhi(self) -> usize {
        match self {
            Profile::Strix => 1,
            Profile::Intel => 2,
        }
    }

    /// Host routers that a machine of this kind has at least.
    pub fn nhis(self) -> usize {
        match self {
            Profile::Strix => 2,
            Profile::Intel => 1,
        }
    }
}

/// IPv4 address of `host` on `cable`.
pub fn ipv4(cable: usize, host: usize) -> String {
    format!("10.{}.0.{}", 90 + cable, host + 1)
}

/// IPv6 address of `host` on `cable`.
pub fn ipv6(cable: usize, host: usize) -> String {
    format!("fd00:{}::{}", 90 + cable, host + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_strix_cables_take_four_routers() {
        let lab = LabSpec::wired(Profile::Strix, Topology::Pair, 2, 4).unwrap();
        assert_eq!((lab.cables.len(), lab.nhis), (4, 4));
        assert_eq!(
            lab.cables[3].b,
            End {
                host: 1,
                nhi: 3,
                port: 0
            }
        );
    }

    #[test]
    fn intel_ports_fill_a_router_before_the_next() {
        let lab = LabSpec::wired(Profile::Intel, Topology::Pair, 2, 3).unwrap();
        let names: Vec<String> = lab.ends_of(0).iter().map(|(_, e)| e.xdomain()).collect();
        assert_eq!(names, ["0-1", "0-3", "1-1"]);
    }

    #[test]
    fn a_ring_of_three_and_a_mesh_of_four() {
        assert_eq!(
            LabSpec::wired(Profile::Strix, Topology::Ring, 3, 1)
                .unwrap()
                .cables
                .len(),
            3
        );
        assert_eq!(
            LabSpec::wired(Profile::Intel, Topology::Mesh, 4, 1)
                .unwrap()
                .cables
                .len(),
            6
        );
    }

    #[test]
    fn virtual_time_needs_a_script() {
        let lab = LabSpec {
            virtual_time: true,
            ..LabSpec::default()
        };
        assert!(lab.check().unwrap_err().to_string().contains("--script"));
    }

    #[test]
    fn addresses_follow_cable_and_host() {
        let lab = LabSpec::default();
        assert_eq!(lab.net_args(1), ["0-1,10.90.0.2/24,fd00:90::2/64"]);
    }
}
