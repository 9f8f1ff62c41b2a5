// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Each check finds what it is for in facts that differ from a healthy host's in one point, and nothing there.

use super::*;
use crate::facts::{Address, Cable, Gid, Host, Netdev, RdmaLink, Router, Service};
use crate::peers::peers;
use std::collections::{BTreeMap, BTreeSet};

/// Host h0 with one cable to h1, as `usb4rdma up` leaves it.
pub fn healthy() -> Facts {
    let mut facts = Facts {
        host: Host {
            name: "h0".into(),
            kernel: "7.3.4".into(),
            bus: true,
            module_installed: true,
            root: true,
            librxe: Some(true),
            ..Host::default()
        },
        routers: vec![Router {
            name: "0-0".into(),
            uuid: "r0".into(),
            generation: 4,
            usb4_version: Some("2.0".into()),
            iommu_protection: Some(true),
            iommu_mode: None,
        }],
        modules: vec!["usb4_rdma".into()],
        ..Facts::default()
    };
    add_cable(&mut facts, 0);
    let pair = peers(&facts)[0].addresses();
    facts.netdevs[0].addresses = pair.own.to_vec();
    facts.rdma.push(link("usb4r0", "usb4net0", &pair.own[0]));
    facts
}

pub fn add_cable(facts: &mut Facts, n: u32) {
    let service = |key: &str| Service {
        key: key.into(),
        version: 1,
        revision: 1,
        settings: 0x18,
        driver: Some("usb4_rdma".into()),
    };
    facts.cables.push(Cable {
        name: format!("{n}-1"),
        router: format!("r{n}"),
        peer: format!("p{n}"),
        peer_name: "h1".into(),
        tx_speed: 40.0,
        tx_lanes: 2,
        rx_speed: 40.0,
        rx_lanes: 2,
        services: vec![service("usb4rdma"), service("network")],
    });
    facts.netdevs.push(Netdev {
        index: 3 + n,
        name: format!("usb4net{n}"),
        up: true,
        carrier: true,
        mtu: 65522,
        max_mtu: 65522,
        driver: Some("usb4_rdma".into()),
        cable: Some(format!("{n}-1")),
        counters: BTreeMap::from([("native_peer".into(), 1), ("tx_errors".into(), 0)]),
        coalesce: Some((0, true)),
        ..Netdev::default()
    });
}

fn link(device: &str, netdev: &str, address: &Address) -> RdmaLink {
    RdmaLink {
        device: device.into(),
        port: 1,
        state: "active".into(),
        netdev: Some(netdev.into()),
        gids: vec![Gid {
            index: 1,
            address: address.address.to_string(),
            kind: "RoCE v2".into(),
        }],
        counters: BTreeMap::from([("sent_runs".into(), 4), ("sent_trains".into(), 4)]),
        ..RdmaLink::default()
    }
}

/// Two cables to h1 in a bond.
pub fn bonded() -> Facts {
    let mut facts = healthy();
    add_cable(&mut facts, 1);
    let addresses = std::mem::take(&mut facts.netdevs[0].addresses);
    for netdev in &mut facts.netdevs {
        netdev.controller = Some("usb4bond0".into());
    }
    facts.netdevs.push(Netdev {
        index: 9,
        name: "usb4bond0".into(),
        kind: Some("bond".into()),
        up: true,
        carrier: true,
        mtu: 65522,
        max_mtu: 65535,
        addresses,
        bond_mode: Some("balance-xor".into()),
        ..Netdev::default()
    });
    facts.rdma[0].netdev = Some("usb4bond0".into());
    facts
}

/// The codes found in a host's facts after a change.
fn codes(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<String> {
    change(&mut facts);
    findings(&facts).into_iter().map(|finding| finding.code).collect()
}

#[test]
fn nothing_is_wrong_with_a_healthy_host() {
    for facts in [healthy(), bonded()] {
        assert_eq!(findings(&facts), []);
    }
}

type Fault = (&'static str, fn() -> Facts, fn(&mut Facts));

/// For each code a change of a healthy host's facts in which it is found.
const FAULTS: &[Fault] = &[
    ("no-bus", healthy, |f| {
        *f = Facts {
            modules: vec!["usb4_rdma".into()],
            ..Facts::default()
        }
    }),
    ("module-not-loaded", healthy, |f| f.modules.clear()),
    ("module-not-installed", healthy, |f| {
        f.modules.clear();
        f.host.module_installed = false;
    }),
    ("module-other-kernel", healthy, |f| {
        f.modules.clear();
        f.host.module_installed = false;
        f.host.module_for = vec!["7.2.0".into()];
    }),
    ("no-cable", healthy, |f| {
        f.cables.clear();
        f.netdevs.clear();
        f.rdma.clear();
    }),
    ("stock-driver", healthy, |f| {
        f.netdevs[0].driver = Some("thunderbolt-net".into())
    }),
    ("service-taken", healthy, |f| {
        f.cables[0].services[0].driver = Some("stream".into())
    }),
    ("peer-silent", healthy, |f| f.cables[0].services.clear()),
    ("peer-without-module", healthy, |f| {
        f.cables[0].services.remove(0);
    }),
    ("peer-version", healthy, |f| f.cables[0].services[0].version = 2),
    ("cable-slow", healthy, |f| f.cables[0].rx_speed = 10.0),
    ("cable-one-lane", healthy, |f| f.cables[0].tx_lanes = 1),
    ("cable-below-host", healthy, |f| f.cables[0].tx_speed = 20.0),
    ("module-unsigned", healthy, |f| {
        f.modules.clear();
        f.host.signed_only = Some("lockdown: none [integrity]".into());
        f.host.module_signed = Some(false);
    }),
    ("iommu-strict", healthy, |f| {
        f.routers[0].iommu_mode = Some("DMA".into())
    }),
    ("config-wrong", healthy, |f| {
        f.config_error = Some("line 1".into());
    }),
    ("name-not-unique", healthy, |f| f.host.name = "localhost".into()),
    ("no-netdev", healthy, |f| f.netdevs.clear()),
    ("netdev-down", healthy, |f| f.netdevs[0].up = false),
    ("netdev-down", bonded, |f| f.netdevs[2].up = false),
    ("no-carrier", healthy, |f| f.netdevs[0].carrier = false),
    ("mtu-low", healthy, |f| f.netdevs[0].mtu = 1500),
    ("no-address", healthy, |f| f.netdevs[0].addresses.clear()),
    ("bond-primary", bonded, |f| {
        f.netdevs[2].bond_mode = Some("active-backup".into())
    }),
    ("bond-incomplete", bonded, |f| f.netdevs[1].controller = None),
    ("same-subnet", healthy, |f| {
        add_cable(f, 1);
        f.cables[1].peer_name = "h2".into();
        let address = f.netdevs[0].addresses[0];
        f.netdevs[1].addresses = vec![address];
    }),
    ("interrupts-late", healthy, |f| {
        f.netdevs[0].coalesce = Some((128, false))
    }),
    ("netdev-errors", healthy, |f| {
        f.netdevs[0].counters.insert("rx_crc_errors".into(), 3);
    }),
    ("peer-unreachable", healthy, |f| {
        f.unreachable.push(("h1".into(), "10.85.15.178".into()));
    }),
    ("no-rdma", healthy, |f| {
        f.rdma_error = Some("Protocol not supported".into())
    }),
    ("no-rdma-link", healthy, |f| f.rdma.clear()),
    ("rdma-below-bond", bonded, |f| {
        f.rdma[0].netdev = Some("usb4net1".into())
    }),
    ("rdma-port-down", healthy, |f| f.rdma[0].state = "down".into()),
    ("no-ipv4-gid", healthy, |f| f.rdma[0].gids.clear()),
    ("rxe-beside", healthy, |f| {
        f.rdma.push(RdmaLink {
            device: "rxe0".into(),
            netdev: Some("usb4net0".into()),
            ..RdmaLink::default()
        });
    }),
    ("no-device-file", healthy, |f| {
        f.rdma[0].missing_file = Some(("/dev/infiniband/uverbs0".into(), "231:192".into()));
    }),
    ("librxe-missing", healthy, |f| f.host.librxe = Some(false)),
    ("memlock-low", healthy, |f| {
        f.host.root = false;
        f.host.memlock = Some(8 << 20);
    }),
    ("rdma-errors", healthy, |f| {
        f.rdma[0].counters.insert("icrc_err".into(), 1);
    }),
];

#[test]
fn each_fault_is_found_by_its_code() {
    for (code, facts, change) in FAULTS {
        let found = codes(facts(), change);
        assert!(found.iter().any(|c| c == code), "{code}: found {found:?}");
    }
}

#[test]
fn every_code_has_a_fault_that_shows_it() {
    let known: BTreeSet<&str> = CHECKS
        .iter()
        .flat_map(|c| c.iter())
        .flat_map(|c| c.codes)
        .copied()
        .collect();
    let shown: BTreeSet<&str> = FAULTS.iter().map(|(code, ..)| *code).collect();
    assert_eq!(known, shown);
}

#[test]
fn a_check_gives_only_the_codes_that_it_names() {
    for (_, facts, change) in FAULTS {
        let mut facts = facts();
        change(&mut facts);
        for check in CHECKS.iter().flat_map(|checks| checks.iter()) {
            for finding in (check.run)(&facts) {
                assert!(check.codes.contains(&finding.code.as_str()), "{}", finding.code);
                assert!(
                    !finding.text.is_empty() && !finding.evidence.is_empty(),
                    "{}",
                    finding.code
                );
            }
        }
    }
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.cables[0].tx_speed = 20.0;
    facts.netdevs[0].mtu = 1500;
    facts.rdma.clear();
    let found: Vec<String> = findings(&facts).into_iter().map(|f| f.code).collect();
    assert_eq!(found, ["no-rdma-link", "mtu-low", "cable-below-host"]);
}
