// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The cables' network devices and what is above them.

use super::{Check, Finding};
use crate::facts::{Facts, IP_SERVICE, MODULE, OUR_SERVICE};
use crate::peers::peers;

pub const CHECKS: &[Check] = &[
    Check {
        codes: &["no-netdev"],
        run: no_netdev,
    },
    Check {
        codes: &["netdev-down", "no-carrier"],
        run: carrier,
    },
    Check {
        codes: &["mtu-low"],
        run: mtu,
    },
    Check {
        codes: &["no-address"],
        run: address,
    },
    Check {
        codes: &["bond-primary", "bond-incomplete"],
        run: bond,
    },
    Check {
        codes: &["same-subnet"],
        run: same_subnet,
    },
    Check {
        codes: &["interrupts-late"],
        run: moderation,
    },
    Check {
        codes: &["peer-unreachable"],
        run: reach,
    },
    Check {
        codes: &["netdev-errors"],
        run: errors,
    },
];

/// The smallest MTU of a network device with which packets of RDMA carry 4096 bytes.
pub const LEAST_MTU: u32 = 4176;
/// A fixed interval between receive interrupts that shows in every latency, microseconds.
const LATE: u32 = 64;
/// Counters of a cable's device that stay 0 on a good one.
pub const ERRORS: [&str; 7] = [
    "tx_errors",
    "tx_map_errors",
    "tx_timeouts",
    "rx_bad_metadata",
    "rx_crc_errors",
    "rx_overrun_errors",
    "rx_length_errors",
];

fn no_netdev(facts: &Facts) -> Vec<Finding> {
    if !facts.loaded(MODULE) {
        return vec![];
    }
    let mut found = vec![];
    for cable in &facts.cables {
        let offers = cable.service(OUR_SERVICE).or(cable.service(IP_SERVICE)).is_some();
        if offers && facts.netdev_of(&cable.name).is_none() {
            let text = format!(
                "cable {} has no network device here, though {} offers one: another driver had the cables when {MODULE} \
                 was loaded, or the device is in another network namespace; load {MODULE} anew",
                cable.name, cable.peer_name
            );
            let evidence = format!("no /sys/class/net/*/phys_port_name is {}", cable.name);
            found.push(
                Finding::error("no-netdev", text, evidence).fix(format!("modprobe -r {MODULE}; modprobe {MODULE}")),
            );
        }
    }
    found
}

fn carrier(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for netdev in facts.of_cables() {
        let name = &netdev.name;
        let cable = netdev.cable.as_deref().unwrap_or_default();
        if !netdev.up {
            let text = format!("{name}, the network device of cable {cable}, is down");
            let evidence = format!("ip link show {name}: no UP");
            found.push(Finding::error("netdev-down", text, evidence).fix(format!("ip link set {name} up")));
        } else if !netdev.carrier {
            let text = format!(
                "{name} has no carrier: the device at the other end of cable {cable} is down (run `usb4rdma up` there), \
                 or the link hangs: unplug the cable at both ends and plug it again"
            );
            found.push(Finding::error(
                "no-carrier",
                text,
                format!("ip link show {name}: NO-CARRIER"),
            ));
        }
    }
    for peer in peers(facts) {
        let Some(top) = peer.top(facts) else { continue };
        if top.cable.is_none() && !top.up {
            let text = format!("{}, which joins the cables to {}, is down", top.name, peer.name);
            let evidence = format!("ip link show {}: no UP", top.name);
            found.push(Finding::error("netdev-down", text, evidence).fix(format!("ip link set {} up", top.name)));
        }
    }
    found
}

fn mtu(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for peer in peers(facts) {
        let Some(netdev) = peer.top(facts) else { continue };
        if netdev.mtu < LEAST_MTU {
            let most = crate::plan::mtu_for(facts, &peer);
            let text = format!(
                "the MTU of {} is {}, so that RDMA packets carry {} bytes: {LEAST_MTU} or more lets them carry 4096; \
                 set the same on both hosts",
                netdev.name,
                netdev.mtu,
                netdev.rdma_mtu()
            );
            let evidence = format!("ip link show {}: mtu {}", netdev.name, netdev.mtu);
            found.push(
                Finding::warning("mtu-low", text, evidence).fix(format!("ip link set {} mtu {most}", netdev.name)),
            );
        }
    }
    found
}

fn address(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for peer in peers(facts) {
        let Some(netdev) = peer.top(facts) else { continue };
        if !netdev.global().any(|address| address.address.is_ipv4()) {
            let own = peer.addresses().own[0];
            let text = format!(
                "{} has no IPv4 address, so its RDMA device has no GID that programs find: most look for one of IPv4",
                netdev.name
            );
            let evidence = format!("ip -4 addr show {}: none", netdev.name);
            found.push(
                Finding::error("no-address", text, evidence).fix(format!("ip addr add {own} dev {}", netdev.name)),
            );
        }
    }
    found
}

fn bond(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for peer in peers(facts) {
        let Some(top) = peer.top(facts) else { continue };
        let Some(mode) = &top.bond_mode else { continue };
        let mut cables = peer.cables(facts);
        // The same order on both hosts.
        cables.sort_by_key(|cable| {
            (
                cable.router.clone().min(cable.peer.clone()),
                cable.router.clone().max(cable.peer.clone()),
            )
        });
        let ports: Vec<_> = cables.iter().filter_map(|cable| facts.netdev_of(&cable.name)).collect();
        if mode == "active-backup" && top.bond_primary.is_none() && ports.len() > 1 {
            let first = &ports[0].name;
            let text = format!(
                "{} uses one cable at a time and the two hosts may choose different ones, over which nothing passes, \
                 as no switch joins cables: name the same cable on both",
                top.name
            );
            let evidence = format!("/sys/class/net/{}/bonding: active-backup, no primary", top.name);
            let fix = format!("ip link set {} type bond primary {first}", top.name);
            found.push(Finding::warning("bond-primary", text, evidence).fix(fix));
        }
        for port in ports.iter().filter(|port| port.controller.as_ref() != Some(&top.name)) {
            let text = format!(
                "{} leads to {} too and is not part of {}",
                port.name, peer.name, top.name
            );
            let evidence = format!("ip link show {}: no master", port.name);
            let fix = format!(
                "ip link set {0} down; ip link set {0} master {1}; ip link set {0} up",
                port.name, top.name
            );
            found.push(Finding::warning("bond-incomplete", text, evidence).fix(fix));
        }
    }
    found
}

/// Two cables in one subnet: Linux answers ARP on any device and sends by the first route.
fn same_subnet(facts: &Facts) -> Vec<Finding> {
    let with: Vec<_> = facts.of_cables().filter(|netdev| netdev.has_global()).collect();
    let mut found = vec![];
    for (n, one) in with.iter().enumerate() {
        for other in &with[n + 1..] {
            let shared = one
                .global()
                .find(|a| other.global().any(|b| a.address.is_ipv4() && a.overlaps(b)));
            let Some(shared) = shared else { continue };
            let of = |netdev: &str, key: &str| {
                let value = |name: &str| {
                    facts
                        .host
                        .sysctl
                        .get(&format!("{name}.{key}"))
                        .and_then(|v| v.parse().ok())
                };
                value(netdev).unwrap_or(0u32).max(value("all").unwrap_or(0))
            };
            let tame = |netdev: &str| {
                of(netdev, "arp_ignore") >= 1 && of(netdev, "arp_announce") >= 2 && of(netdev, "rp_filter") != 1
            };
            if tame(&one.name) && tame(&other.name) {
                continue;
            }
            let text = format!(
                "{} and {} are in one subnet ({shared}): each answers for the other's address, and packets leave by the \
                 wrong cable; give each cable a subnet of its own, or bond cables to the same host (`usb4rdma up`)",
                one.name, other.name
            );
            let settings = |netdev: &str| {
                format!(
                    "{netdev}: arp_ignore {}, arp_announce {}, rp_filter {}",
                    of(netdev, "arp_ignore"),
                    of(netdev, "arp_announce"),
                    of(netdev, "rp_filter")
                )
            };
            let evidence = format!("{}; {}", settings(&one.name), settings(&other.name));
            let mut set: Vec<String> = ["arp_ignore=1", "arp_announce=2", "rp_filter=2"]
                .map(|pair| format!("net.ipv4.conf.all.{pair}"))
                .to_vec();
            set.insert(0, "sysctl -w".into());
            found.push(Finding::warning("same-subnet", text, evidence).fix(set.join(" ")));
        }
    }
    found
}

fn moderation(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for netdev in facts.of_cables() {
        let Some((usecs, false)) = netdev.coalesce else {
            continue;
        };
        if usecs >= LATE {
            let name = &netdev.name;
            let text = format!("{name} waits {usecs} us between receive interrupts, which every answer waits for too");
            let evidence = format!("ethtool -c {name}: adaptive-rx off, rx-usecs {usecs}");
            let fix = format!("ethtool -C {name} adaptive-rx on");
            found.push(Finding::warning("interrupts-late", text, evidence).fix(fix));
        }
    }
    found
}

fn reach(facts: &Facts) -> Vec<Finding> {
    let found = facts.unreachable.iter().map(|(name, address)| {
        let text = format!(
            "{name} does not answer at {address}, the address that `usb4rdma up` gives it: run it there, or look for a \
             firewall on the way"
        );
        let evidence = format!("a connection to port 9 of {address} was neither made nor refused");
        Finding::error("peer-unreachable", text, evidence)
    });
    found.collect()
}

fn errors(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for netdev in facts.of_cables() {
        let counted: Vec<String> = ERRORS
            .iter()
            .filter_map(|name| netdev.counters.get_key_value(*name))
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !counted.is_empty() {
            let text = format!(
                "{} has counted errors since it was made: a cable or plug that damages frames; try another one, or the \
                 other port",
                netdev.name
            );
            let evidence = format!("ethtool -S {}: {}", netdev.name, counted.join(", "));
            found.push(Finding::info("netdev-errors", text, evidence));
        }
    }
    found
}
