// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA links, their GIDs, and what programs need to use them.

use super::{Check, Finding};
use crate::facts::{Facts, RdmaLink};
use crate::peers::peers;

pub const CHECKS: &[Check] = &[
    Check {
        codes: &["no-rdma"],
        run: subsystem,
    },
    Check {
        codes: &["no-rdma-link", "rdma-below-bond"],
        run: link,
    },
    Check {
        codes: &["rdma-port-down", "no-ipv4-gid"],
        run: port,
    },
    Check {
        codes: &["rxe-beside"],
        run: beside,
    },
    Check {
        codes: &["no-device-file"],
        run: file,
    },
    Check {
        codes: &["librxe-missing"],
        run: librxe,
    },
    Check {
        codes: &["memlock-low"],
        run: memlock,
    },
    Check {
        codes: &["rdma-errors"],
        run: errors,
    },
];

/// Locked memory with which common programs register their buffers, bytes.
const LEAST_MEMLOCK: u64 = 1 << 30;
/// Counters of an RDMA link that stay 0 while nothing fails.
pub const ERRORS: [&str; 5] = [
    "icrc_err",
    "local_ack_timeout_err",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "send_err",
];

fn subsystem(facts: &Facts) -> Vec<Finding> {
    let Some(error) = &facts.rdma_error else { return vec![] };
    let text =
        "the kernel's RDMA subsystem does not answer: its module ib_core is not loaded, or a container keeps it \
                away";
    vec![Finding::error("no-rdma", text, error.clone()).fix("modprobe -a ib_core ib_uverbs")]
}

fn link(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for peer in peers(facts) {
        let Some(netdev) = peer.top(facts) else { continue };
        if facts.link_over(&netdev.name).is_some() {
            continue;
        }
        let below = peer.cables.iter().filter_map(|cable| facts.netdev_of(cable));
        let below: Vec<&RdmaLink> = below.filter_map(|port| facts.link_over(&port.name)).collect();
        if let (None, Some(link)) = (&netdev.cable, below.first()) {
            let port = link.netdev.as_deref().unwrap_or_default();
            let text = format!(
                "{} is over {port}, which is a part of {}: the addresses, and so the GIDs, are there; make the link \
                 over {}",
                link.device, netdev.name, netdev.name
            );
            let evidence = format!("rdma link show {}: netdev {port}", link.device);
            let fix = format!(
                "rdma link del {0}; rdma link add {0} type usb4 netdev {1}",
                link.device, netdev.name
            );
            found.push(Finding::error("rdma-below-bond", text, evidence).fix(fix));
        } else {
            let name = crate::plan::free_rdma_name(facts);
            let text = format!("no RDMA device is over {}, which leads to {}", netdev.name, peer.name);
            let evidence = format!("rdma link: none with netdev {}", netdev.name);
            let fix = format!("rdma link add {name} type usb4 netdev {}", netdev.name);
            found.push(Finding::error("no-rdma-link", text, evidence).fix(fix));
        }
    }
    found
}

fn port(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for link in facts.rdma.iter().filter(|link| link.is_ours()) {
        let Some(netdev) = link.netdev.as_deref().and_then(|name| facts.netdev(name)) else {
            continue;
        };
        if link.state != "active" && netdev.up && netdev.carrier {
            let text = format!(
                "the port of {} is {} though {} has carrier",
                link.device, link.state, netdev.name
            );
            let evidence = format!("rdma link show {}: state {}", link.device, link.state);
            let fix = format!("ip link set {0} down; ip link set {0} up", netdev.name);
            found.push(Finding::error("rdma-port-down", text, evidence).fix(fix));
        }
        let has_address = netdev.global().any(|address| address.address.is_ipv4());
        if has_address && link.ipv4_gid().is_none() {
            let text = format!(
                "{} has no RoCE v2 GID of IPv4, though {} has an address: make the link anew",
                link.device, netdev.name
            );
            let evidence = format!("/sys/class/infiniband/{}/ports/{}/gids", link.device, link.port);
            let fix = format!(
                "rdma link del {0}; rdma link add {0} type usb4 netdev {1}",
                link.device, netdev.name
            );
            found.push(Finding::error("no-ipv4-gid", text, evidence).fix(fix));
        }
    }
    found
}

fn beside(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for rxe in facts.rdma.iter().filter(|link| !link.is_ours()) {
        let Some(netdev) = rxe.netdev.as_deref() else { continue };
        let Some(ours) = facts.link_over(netdev) else { continue };
        let text = format!(
            "{} is over {netdev} too, beside {}: a program that takes the first device may get the slow one, and \
             rdma_cm listens on the older of the two only",
            rxe.device, ours.device
        );
        let evidence = format!("rdma link: {} and {} have netdev {netdev}", rxe.device, ours.device);
        found.push(Finding::warning("rxe-beside", text, evidence).fix(format!("rdma link del {}", rxe.device)));
    }
    found
}

fn file(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for link in facts.rdma.iter().filter(|link| link.is_ours()) {
        let Some((file, number)) = &link.missing_file else {
            continue;
        };
        let text = format!(
            "{file}, by which programs reach {}, is not there: in a container give it `--device /dev/infiniband`; on the \
             host udev makes it",
            link.device
        );
        let numbers = number.replace(':', " ");
        let fix = format!("mkdir -p /dev/infiniband; mknod -m 666 {file} c {numbers}");
        found.push(Finding::error("no-device-file", text, format!("{file} does not exist")).fix(fix));
    }
    found
}

fn librxe(facts: &Facts) -> Vec<Finding> {
    if facts.host.librxe != Some(false) {
        return vec![];
    }
    let text = "librxe, which drives our devices in programs, is not installed: install the package of rdma-core's \
                providers (Debian, Ubuntu: ibverbs-providers; Fedora: libibverbs; Arch: rdma-core)";
    let evidence = "no librxe* in the directories of libibverbs' drivers";
    vec![Finding::error("librxe-missing", text, evidence)]
}

fn memlock(facts: &Facts) -> Vec<Finding> {
    let Some(limit) = facts
        .host
        .memlock
        .filter(|limit| *limit < LEAST_MEMLOCK && !facts.host.root)
    else {
        return vec![];
    };
    let text = format!(
        "a program of this user may lock {} KiB of memory, and registers no more for RDMA: raise the limit of this \
         shell with the command below, and for good with the line `* - memlock unlimited` in /etc/security/limits.d \
         (containers: --ulimit memlock=-1)",
        limit >> 10
    );
    let evidence = format!("ulimit -l: {}", limit >> 10);
    let fix = "prlimit --pid $$ --memlock=unlimited:unlimited";
    vec![Finding::warning("memlock-low", text, evidence).fix(fix)]
}

fn errors(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for link in facts.rdma.iter().filter(|link| link.is_ours()) {
        let counted: Vec<String> = ERRORS
            .iter()
            .filter_map(|name| link.counters.get_key_value(*name))
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !counted.is_empty() {
            let text = format!(
                "{} has counted errors since it was made: programs that ended in the middle of a transfer leave some; \
                 growing ones say that packets are lost or damaged",
                link.device
            );
            let evidence = format!(
                "rdma statistic show link {}/{}: {}",
                link.device,
                link.port,
                counted.join(", ")
            );
            found.push(Finding::info("rdma-errors", text, evidence));
        }
    }
    found
}
