// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The test cases and what each needs.
//!
//! A case is a function over a running lab. Cases of the same [`Bench`] share one lab; between cases the runner
//! clears faults and removes links, and a case that fails costs its successors a fresh lab.

mod caps;
mod data;
mod errors;
mod failing;
mod fair;
mod faults;
mod fuzz;
mod kernel;
mod keys;
mod life;
mod net;
mod netdev;
mod paging;
mod reach;
mod services;
mod stock;
mod stress;
mod tool;
mod tools;
mod virtual_time;
mod workload;

pub use data::{check_operations, devinfo};
pub use virtual_time::bond as bonds;

use crate::lab::Lab;
use crate::spec::{Kernel, LabSpec, NetDriver, Profile, Tier, Topology};
use crate::verbs::Kind;
use anyhow::Result;

/// What kind of lab a case runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bench {
    /// Two hosts and this many cables.
    Pair(Profile, usize),
    /// The same with two processors each, which on the distribution's kernel preempt too.
    PairSmp(Profile, usize),
    /// Two hosts whose cables are carried by the network driver under test, or by another.
    Net(NetLab),
    /// The case makes its own labs.
    Own,
}

/// What a lab for the network driver consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetLab {
    pub profile: Profile,
    pub cables: usize,
    /// Loaded at the start.
    pub roles: [Role; 2],
    /// Rings of a router, hop 0 included, if other than the profile's.
    pub hops: Option<usize>,
    pub way: Way,
}

/// How RDMA goes over a cable between two of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the netdev's queue.
    Queue,
    /// Past the network stack, by the ring that packets of the stack go by.
    OneRing,
    /// By both rings that a cable may have.
    TwoRings,
    /// As by one ring; large WRITEs by windows, which the second ring is for.
    Windows,
}

impl Way {
    /// The module's parameters as modprobe takes them from the kernel's command line.
    pub const fn parameters(self) -> &'static str {
        match self {
            Self::Queue => "usb4_rdma.trains=0",
            Self::OneRing => "usb4_rdma.lanes=0",
            Self::TwoRings => "usb4_rdma.lanes=1",
            Self::Windows => "usb4_rdma.direct=1",
        }
    }
}

/// The network driver of a host in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one under test.
    Tested,
    /// None: the case loads it.
    None,
}

/// One test case.
pub struct Case {
    pub name: &'static str,
    /// What it shows, one line.
    pub about: &'static str,
    pub bench: Bench,
    pub tier: Tier,
    /// Takes minutes: runs when it is named, or with --long.
    pub long: bool,
    pub run: fn(&Context) -> Result<()>,
}

/// What a case is given.
pub struct Context {
    /// None for cases that make their own.
    pub lab: Option<Lab>,
    pub seed: u64,
    pub kernel: Kernel,
    /// What "ours" means: our driver, or rxe while checking the lab itself.
    pub ours: Kind,
    /// The network driver under test, for the cases that are about it.
    pub net: NetDriver,
}

/// A case that cannot run here returns this error.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Context {
    pub fn lab(&self) -> Result<&Lab> {
        self.lab
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("this case has no lab of its own"))
    }
}

impl Bench {
    /// The lab to start, None if the case makes its own.
    pub fn spec(self, tier: Tier, kernel: Kernel, seed: u64, net: NetDriver) -> Result<Option<LabSpec>> {
        let (profile, cables, smp) = match self {
            Bench::Pair(profile, cables) => (profile, cables, None),
            Bench::PairSmp(profile, cables) => (profile, cables, Some(2)),
            Bench::Net(lab) => {
                let driver = |role| match role {
                    Role::Tested => net,
                    Role::None => NetDriver::None,
                };
                return Ok(Some(LabSpec {
                    tier,
                    kernel,
                    seed,
                    net: lab.roles.map(driver).to_vec(),
                    hops: lab.hops,
                    append: lab.way.parameters().into(),
                    ..LabSpec::wired(lab.profile, Topology::Pair, 2, lab.cables)?
                }));
            }
            Bench::Own => return Ok(None),
        };
        Ok(Some(LabSpec {
            tier,
            kernel,
            seed,
            smp,
            ..LabSpec::wired(profile, Topology::Pair, 2, cables)?
        }))
    }
}

/// All cases, in the order they run.
pub fn all() -> Vec<Case> {
    [
        net::CASES,
        netdev::data::CASES,
        netdev::failing::CASES,
        netdev::tools::CASES,
        netdev::life::CASES,
        netdev::peer::CASES,
        netdev::port::CASES,
        netdev::direct::CASES,
        netdev::runs::CASES,
        netdev::last::CASES,
        netdev::bond::CASES,
        netdev::group::CASES,
        netdev::rings::CASES,
        netdev::soak::CASES,
        data::CASES,
        services::CASES,
        reach::CASES,
        kernel::CASES,
        tools::CASES,
        tool::report::CASES,
        tool::status::CASES,
        tool::app::CASES,
        tool::bench::CASES,
        tool::boot::CASES,
        tool::config::CASES,
        tool::doctor::CASES,
        tool::hardware::CASES,
        tool::install::CASES,
        tool::top::CASES,
        tool::torch::CASES,
        tool::trace::CASES,
        tool::tune::CASES,
        tool::up::CASES,
        caps::CASES,
        errors::CASES,
        keys::CASES,
        paging::CASES,
        faults::CASES,
        life::CASES,
        failing::CASES,
        fair::CASES,
        fuzz::CASES,
        stress::CASES,
        virtual_time::CASES,
        virtual_time::bond::CASES,
        virtual_time::cuts::CASES,
        stock::CASES,
        workload::CASES,
    ]
    .into_iter()
    .flatten()
    .map(|c| Case {
        name: c.name,
        about: c.about,
        bench: c.bench,
        tier: c.tier,
        long: c.long,
        run: c.run,
    })
    .collect()
}

/// Shorthand for the common kind of case.
const fn pair(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::Pair(Profile::Strix, 1),
        tier: Tier::Fast,
        long: false,
        run,
    }
}

/// A case about the network driver, in the given lab.
const fn about_net(name: &'static str, about: &'static str, lab: NetLab, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::Net(lab),
        tier: Tier::Fast,
        long: false,
        run,
    }
}

/// A case that brings a lab of its own up.
const fn own(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::Own,
        tier: Tier::Fast,
        long: false,
        run,
    }
}

/// The case as one that runs by name or with --long only.
const fn long(case: Case) -> Case {
    Case { long: true, ..case }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = std::collections::HashSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} twice", case.name);
            assert!(case
                .name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        }
    }
}
