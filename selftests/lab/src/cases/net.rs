// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The stock network driver over the software cable: the ground that everything else stands on.

use super::{Bench, Case, Context};
use crate::parse;
use crate::spec::{ipv4, ipv6, Profile, Tier};
use anyhow::{ensure, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case {
        name: "net_intel",
        about: "stock thunderbolt_net carries ping and iperf3, profile intel",
        bench: Bench::Pair(Profile::Intel, 1),
        tier: Tier::Fast,
        long: false,
        run: carries,
    },
    Case {
        name: "net_four_intel",
        about: "four cables between two hosts come up and carry, profile intel",
        bench: Bench::Pair(Profile::Intel, 4),
        tier: Tier::Fast,
        long: false,
        run: all_carry,
    },
    Case {
        name: "net_four_strix",
        about: "four cables between two hosts come up and carry, profile strix",
        bench: Bench::Pair(Profile::Strix, 4),
        tier: Tier::Fast,
        long: false,
        run: all_carry,
    },
    super::pair(
        "net_strix",
        "stock thunderbolt_net carries ping and iperf3, profile strix",
        carries,
    ),
];

pub fn carries(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for address in [ipv4(0, 1), ipv6(0, 1)] {
        lab.ok(0, &["ping", "-c", "5", "-i", "0.05", "-W", "2", &address])?;
    }
    lab.ok(
        1,
        &["ping", "-c", "3", "-i", "0.05", "-s", "8000", "-M", "do", &ipv4(0, 0)],
    )?;
    let serving = lab.start(1, "iperf3 -s -1", Duration::from_secs(60));
    crate::verbs::wait_listen(lab, 1, 5201)?;
    let report = lab.ok(0, &["iperf3", "-J", "-t", "2", "-c", &ipv4(0, 1)])?;
    serving.ok()?;
    let (rate, bytes) = parse::iperf(&report)?;
    ensure!(bytes > 1e6, "iperf3 moved {bytes} bytes in 2 s ({rate} bit/s)");
    Ok(())
}

fn all_carry(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for cable in 0..lab.spec.cables.len() {
        let (near, far) = (lab.netdev(0, cable)?, ipv4(cable, 1));
        let before = tx_packets(context, &near)?;
        lab.ok(0, &["ping", "-c", "4", "-i", "0.05", "-W", "2", "-I", &near, &far])?;
        let sent = tx_packets(context, &near)? - before;
        ensure!(sent >= 4, "ping over cable {cable} sent {sent} packets on {near}");
    }
    Ok(())
}

fn tx_packets(context: &Context, netdev: &str) -> Result<i64> {
    let path = format!("/sys/class/net/{netdev}/statistics/tx_packets");
    Ok(context.lab()?.ok(0, &["cat", &path])?.trim().parse()?)
}
