// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The changes that `up` makes, each with the command that would make it and with what undoes it.

use crate::facts::Address;
use serde::{Deserialize, Serialize};

/// How a bond's cables are watched and packets distributed: each flow stays on one cable, so that nothing overtakes,
/// and both hosts may choose as they like.
const BOND_OPTIONS: &str = "mode balance-xor miimon 100 xmit_hash_policy layer3+4";
/// The same for netlink: milliseconds.
pub const MIIMON: u32 = 100;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Load(String),
    Unload(String),
    AddBond(String),
    DeleteBond(String),
    Up(String),
    Down(String),
    Mtu { netdev: String, mtu: u32 },
    Join { port: String, bond: String },
    Leave(String),
    AddAddress { netdev: String, address: Address },
    DeleteAddress { netdev: String, address: Address },
    AddRdma { name: String, kind: String, netdev: String },
    DeleteRdma(String),
}

/// A step with what undoes it, in the order in which that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub step: Step,
    pub undo: Vec<Step>,
}

impl Planned {
    pub fn new(step: Step, undo: Vec<Step>) -> Planned {
        Planned { step, undo }
    }

    /// A step that its opposite undoes.
    pub fn of(step: Step) -> Planned {
        let undo = step.opposite().into_iter().collect();
        Planned { step, undo }
    }
}

impl Step {
    pub fn mtu(netdev: &str, mtu: u32) -> Step {
        Step::Mtu {
            netdev: netdev.into(),
            mtu,
        }
    }

    pub fn add_address(netdev: &str, address: Address) -> Step {
        Step::AddAddress {
            netdev: netdev.into(),
            address,
        }
    }

    pub fn add_rdma(name: &str, kind: &str, netdev: &str) -> Step {
        Step::AddRdma {
            name: name.into(),
            kind: kind.into(),
            netdev: netdev.into(),
        }
    }

    /// What takes the step back, where it alone says so. Which modules a step loads is known when it has been done.
    fn opposite(&self) -> Option<Step> {
        match self {
            Step::AddBond(name) => Some(Step::DeleteBond(name.clone())),
            Step::Up(name) => Some(Step::Down(name.clone())),
            Step::Down(name) => Some(Step::Up(name.clone())),
            Step::Join { port, .. } => Some(Step::Leave(port.clone())),
            Step::AddAddress { netdev, address } => Some(Step::DeleteAddress {
                netdev: netdev.clone(),
                address: *address,
            }),
            Step::AddRdma { name, .. } => Some(Step::DeleteRdma(name.clone())),
            Step::Load(_)
            | Step::Unload(_)
            | Step::Mtu { .. }
            | Step::DeleteBond(_)
            | Step::Leave(_)
            | Step::DeleteAddress { .. }
            | Step::DeleteRdma(_) => None,
        }
    }

    /// Whether modules may be loaded by the way.
    pub fn loads(&self) -> bool {
        matches!(self, Step::Load(_) | Step::AddBond(_) | Step::AddRdma { .. })
    }

    /// The command that a person would type.
    pub fn command(&self) -> String {
        match self {
            Step::Load(module) => format!("modprobe {module}"),
            Step::Unload(module) => format!("rmmod {module}"),
            Step::AddBond(name) => format!("ip link add {name} type bond {BOND_OPTIONS}"),
            Step::DeleteBond(name) => format!("ip link del {name}"),
            Step::Up(name) => format!("ip link set {name} up"),
            Step::Down(name) => format!("ip link set {name} down"),
            Step::Mtu { netdev, mtu } => format!("ip link set {netdev} mtu {mtu}"),
            Step::Join { port, bond } => format!("ip link set {port} master {bond}"),
            Step::Leave(port) => format!("ip link set {port} nomaster"),
            Step::AddAddress { netdev, address } => {
                let nodad = if address.address.is_ipv6() { " nodad" } else { "" };
                format!("ip addr add {address} dev {netdev}{nodad}")
            }
            Step::DeleteAddress { netdev, address } => format!("ip addr del {address} dev {netdev}"),
            Step::AddRdma { name, kind, netdev } => format!("rdma link add {name} type {kind} netdev {netdev}"),
            Step::DeleteRdma(name) => format!("rdma link del {name}"),
        }
    }
}
