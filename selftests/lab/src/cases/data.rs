// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Data arrives, whole: ours against ours, and ours against stock rxe both ways.

use super::{pair, Case, Context};
use crate::lab::Lab;
use crate::parse;
use crate::verbs::{Device, Kind, Pair};
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "data_demo",
        "the demo's checks: devinfo, validated pingpong, send, write, read bandwidth, write latency",
        demo,
    ),
    pair(
        "data_operations",
        "SEND, WRITE, their IMM forms, READ and inline at odd lengths, data compared",
        operations,
    ),
    pair(
        "data_mtu_events_ipv6",
        "pingpong at every path MTU, with CQ events, and over IPv6 GIDs",
        variants,
    ),
    pair(
        "interop_ours_calls_rxe",
        "pingpong -c and 1000 x 1 B to 1 MiB by send, write and read, rxe serving",
        ours_calls_rxe,
    ),
    pair(
        "interop_rxe_calls_ours",
        "pingpong -c and 1000 x 1 B to 1 MiB by send, write and read, ours serving",
        rxe_calls_ours,
    ),
];

/// Message sizes of the interoperation runs.
const SIZES: [u64; 6] = [1, 64, 4096, 4097, 65536, 1 << 20];
/// ACK timeout exponent for bandwidth runs: 0.5 s. perftest's default of 67 ms is less than what a polling guest
/// on a busy machine makes rxe's workqueue wait.
const PATIENT: u32 = 17;
/// Time for 1000 messages of 1 MiB on a loaded machine.
const LONG: Duration = Duration::from_secs(400);

fn demo(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    devinfo(lab, &pair.client)?;
    devinfo(lab, &pair.server)?;
    let minute = Duration::from_secs(60);
    pair.pingpong(lab, "-c -n 500", minute)?;
    for program in ["ib_send_bw", "ib_write_bw", "ib_read_bw"] {
        bandwidth(lab, &pair, program, 65536, 300, minute)?;
    }
    parse::latency(&pair.perftest(lab, "ib_write_lat", "-n 500 -s 8", minute)?)?;
    pair.delete(lab)
}

/// `ibv_devinfo` shows an active RoCE port with the MTU that jumbo frames allow.
pub fn devinfo(lab: &Lab, device: &Device) -> Result<()> {
    let text = lab.ok(device.host, &["ibv_devinfo", "-d", &device.name])?;
    for wanted in ["PORT_ACTIVE", "link_layer:\t\tEthernet", "active_mtu:\t\t4096"] {
        ensure!(
            text.contains(wanted),
            "ibv_devinfo on host {} lacks {wanted:?}:\n{text}",
            device.host
        );
    }
    Ok(())
}

/// One perftest bandwidth run; MiB/s. Fails unless all iterations completed.
pub fn bandwidth(lab: &Lab, pair: &Pair, program: &str, size: u64, count: u64, limit: Duration) -> Result<f64> {
    let text = pair.perftest(lab, program, &format!("-n {count} -s {size} -u {PATIENT}"), limit)?;
    let rows = parse::bandwidth(&text)?;
    let row = rows.first().context("empty table")?;
    ensure!(
        row.bytes == size && row.iterations == count,
        "{program} reported {row:?}"
    );
    Ok(row.mib_s)
}

fn operations(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    check_operations(lab, &pair)?;
    pair.delete(lab)?;
    let mixed = Pair::add(lab, context.ours, Kind::Rxe)?;
    check_operations(lab, &mixed)?;
    check_operations(lab, &mixed.turned())?;
    mixed.delete(lab)
}

/// Plays every operation with every byte compared.
pub fn check_operations(lab: &Lab, pair: &Pair) -> Result<()> {
    let (client, server) = pair.scene(lab, "operations")?;
    for (side, report) in [("client", &client), ("server", &server)] {
        let wrong = report["wrong"].as_array().context("report without a verdict")?;
        ensure!(
            wrong.is_empty(),
            "{side} ({} to {}): {wrong:?}",
            pair.client.name,
            pair.server.name
        );
    }
    Ok(())
}

fn variants(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let minute = Duration::from_secs(60);
    for mtu in [256, 512, 1024, 2048, 4096] {
        pair.pingpong(lab, &format!("-c -n 50 -s 16384 -m {mtu}"), minute)?;
    }
    pair.pingpong(lab, "-c -n 200 -e", minute)?;
    pair.pingpong6(lab, "-c -n 100 -e", minute)?;
    for size in [1, 1000, 4095, 4096, 4097] {
        pair.pingpong(lab, &format!("-c -n 30 -e -s {size}"), minute)?;
    }
    pair.delete(lab)
}

fn ours_calls_rxe(context: &Context) -> Result<()> {
    interop(context.lab()?, context.ours, Kind::Rxe)
}

fn rxe_calls_ours(context: &Context) -> Result<()> {
    interop(context.lab()?, Kind::Rxe, context.ours)
}

fn interop(lab: &Lab, client: Kind, server: Kind) -> Result<()> {
    let pair = Pair::add(lab, client, server)?;
    pair.pingpong(lab, "-c -n 1000 -e", Duration::from_secs(120))?;
    pair.pingpong6(lab, "-c -n 100 -e", Duration::from_secs(60))?;
    for program in ["ib_send_bw", "ib_write_bw", "ib_read_bw"] {
        for size in SIZES {
            bandwidth(lab, &pair, program, size, 1000, LONG)?;
        }
    }
    pair.delete(lab)
}
