// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Both ends run the driver under test: data arrives, whole, and without copies.

use super::{both_ways, counters, grown, only_ours, ping, set_mtu, transfer, BOTH};
use crate::cases::{about_net, long, Case, Context, NetLab};
use crate::netbench;
use crate::spec::{ipv4, ipv6, NetDriver, Profile};
use crate::verbs::Pair;
use anyhow::{ensure, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    about_net(
        "net_native",
        "our driver on both hosts: ping of all sizes over IPv4 and IPv6, iperf3, checksummed transfers",
        BOTH,
        native,
    ),
    about_net(
        "net_zero_copy",
        "1 GiB by sendfile and 256 MiB by MSG_ZEROCOPY: over 99% of the payload uncopied on both ends",
        BOTH,
        zero_copy,
    ),
    about_net(
        "net_two_rings",
        "hop_count 3: both rings of the router carry, or one does and the other rests",
        BOTH,
        rings,
    ),
    about_net(
        "net_rdma_over_ours",
        "RDMA over our network device: validated pingpong, write and read bandwidth",
        BOTH,
        rdma,
    ),
    about_net(
        "net_one_ring",
        "hop_count 2: one ring besides the control ring is enough",
        NetLab { hops: Some(2), ..BOTH },
        rings,
    ),
    long(about_net(
        "net_many_rings",
        "hop_count 12, two ports a router (profile intel)",
        NetLab {
            profile: Profile::Intel,
            ..BOTH
        },
        rings,
    )),
];

/// Payloads of echo requests around everything that changes the way a packet goes: header inline or not, one frame or
/// more, pages, the largest.
const SIZES: [u32; 14] = [
    0, 1, 20, 100, 1472, 1473, 4030, 4042, 4054, 4096, 8192, 16384, 40000, 65480,
];

fn native(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    set_mtu(lab, 0, NetDriver::MTU)?;
    for size in SIZES {
        ping(lab, 0, &ipv4(0, 1), size, true)?;
        // 20 bytes more of header.
        ping(lab, 1, &ipv6(0, 0), size.min(65460), true)?;
    }
    ping(lab, 0, &ipv4(0, 1), 65507, false)?;
    for mtu in [1500, 9000, NetDriver::MTU] {
        set_mtu(lab, 0, mtu)?;
        netbench::tcp(lab, 1)?;
    }
    both_ways(lab, 64)?;
    transfer(lab, 0, &ipv6(0, 1), 64, "send")?;
    set_mtu(lab, 0, 1500)?;
    transfer(lab, 1, &ipv4(0, 0), 32, "send")?;
    set_mtu(lab, 0, 9000)
}

fn zero_copy(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    only_ours(context, "counters of copied bytes")?;
    set_mtu(lab, 0, NetDriver::MTU)?;
    for (mib, mode) in [(1024, "sendfile"), (256, "zerocopy")] {
        let before = [counters(lab, 0, 0)?, counters(lab, 1, 0)?];
        let report = transfer(lab, 0, &ipv4(0, 1), mib, mode)?;
        let after = [counters(lab, 0, 0)?, counters(lab, 1, 0)?];
        let payload = f64::from(mib) * 1048576.0;
        for (host, way) in [(0, "tx"), (1, "rx")] {
            let [uncopied, copied] =
                ["zerocopy", "copied"].map(|how| grown(&before[host], &after[host], &format!("{way}_{how}_bytes")));
            let (uncopied, copied) = (uncopied? as f64, copied? as f64);
            ensure!(
                uncopied >= 0.99 * payload && uncopied >= 0.99 * (uncopied + copied),
                "{mode}: of {mib} MiB host {host} moved {uncopied} bytes uncopied and {copied} copied ({way})"
            );
        }
        ensure!(
            mode != "zerocopy" || report["copied"] == 0,
            "the kernel copied what was sent with MSG_ZEROCOPY: {report}"
        );
    }
    set_mtu(lab, 0, 9000)
}

fn rings(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    set_mtu(lab, 0, NetDriver::MTU)?;
    ping(lab, 0, &ipv4(0, 1), 56, true)?;
    both_ways(lab, 64)?;
    netbench::tcp(lab, 1)?;
    set_mtu(lab, 0, 9000)
}

fn rdma(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let minute = Duration::from_secs(60);
    pair.pingpong(lab, "-c -n 300 -e", minute)?;
    for program in ["ib_send_bw", "ib_write_bw", "ib_read_bw"] {
        crate::cases::data::bandwidth(lab, &pair, program, 65536, 300, minute)?;
    }
    pair.delete(lab)
}
