// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a host is to look like, from facts alone.

use crate::facts::Facts;
use crate::peers::Peer;

/// The largest MTU of use: a packet of 64 KiB less the Ethernet header.
const MTU: u32 = 65522;
/// How RDMA devices are called, a number behind it.
const RDMA_NAME: &str = "usb4r";

/// The MTU for the network devices of a peer's cables.
pub fn mtu_for(facts: &Facts, peer: &Peer) -> u32 {
    let limits = peer
        .cables
        .iter()
        .filter_map(|cable| facts.netdev_of(cable))
        .map(|netdev| netdev.max_mtu);
    limits.filter(|limit| *limit > 0).min().unwrap_or(MTU).min(MTU)
}

/// A name that no RDMA device has.
pub fn free_rdma_name(facts: &Facts) -> String {
    let taken = |name: &String| facts.rdma.iter().any(|link| link.device == *name);
    (0..)
        .map(|n| format!("{RDMA_NAME}{n}"))
        .find(|name| !taken(name))
        .unwrap_or_default()
}
