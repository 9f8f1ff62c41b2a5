// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Users of the device in the kernel: NVMe over fabrics registers memory by requests, invalidates the peer's keys, and
//! drains its queues.

use super::{pair, Case, Context};
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "nvme_over_rdma",
        "an NVMe disk over our device on both hosts: 256 MiB written and read back; everything unloads",
        ours,
    ),
    pair(
        "nvme_with_rxe",
        "an NVMe disk between ours and rxe, both ways; the target with and without a shared receive queue",
        rxe,
    ),
];

const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(180);

fn ours(context: &Context) -> Result<()> {
    let pair = Pair::add(context.lab()?, context.ours, context.ours)?;
    disk(context, &pair, 256, "")?;
    let lab = context.lab()?;
    pair.delete(lab)?;
    for host in 0..2 {
        lab.ok(host, &["rmmod", context.ours.module()])?;
    }
    Ok(())
}

fn rxe(context: &Context) -> Result<()> {
    let pair = Pair::add(context.lab()?, context.ours, Kind::Rxe)?;
    disk(context, &pair, 16, "")?;
    disk(context, &pair.turned(), 16, "")?;
    // The modules are gone after each disk, so the option holds for the next one only.
    disk(context, &pair.turned(), 16, "use_srq=1")?;
    pair.delete(context.lab()?)
}

/// The client writes `mib` to the server's disk and reads them back. Nothing of it stays.
pub fn disk(context: &Context, pair: &Pair, mib: u32, target: &str) -> Result<()> {
    let lab = context.lab()?;
    let (client, server) = (pair.client.host, pair.server.host);
    let mib = &mib.to_string();
    let tool = |host, arguments: &[&str], limit| {
        let mut argv = vec!["/usb4lab/nvme"];
        argv.extend(arguments);
        lab.ok_within(host, &argv, limit)
    };
    if !target.is_empty() {
        lab.ok(server, &["modprobe", "nvmet-rdma", target])?;
    }
    tool(server, &["serve", &pair.server.ipv4, mib], MINUTE)?;
    let disk = tool(client, &["attach", &pair.server.ipv4], MINUTE)?;
    let disk = disk.trim();
    let written = tool(client, &["fill", disk, mib, &context.seed.to_string()], LONG)?;
    let read = tool(client, &["sum", disk, mib], LONG)?;
    let there = tool(server, &["sum", "/run/nvmet/disk", mib], MINUTE)?;
    ensure!(
        written == read && written == there,
        "written {written}read back {read}at the target {there}"
    );
    tool(client, &["detach"], MINUTE)?;
    tool(server, &["forget"], MINUTE)?;
    Ok(())
}
