// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma status` says what the lab knows to be so.

use super::{codes, healthy, json};
use crate::cases::data::bandwidth;
use crate::cases::life::both_up;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::spec::ipv4;
use crate::verbs::Pair;
use anyhow::{ensure, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[about_net(
    "tool_status",
    "usb4rdma status: cable, speed, wire, netdev, RDMA link, GIDs, path; health follows what is taken away and put back",
    BOTH,
    status,
)];

fn status(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let netdev = lab.netdev(0, 0)?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let before = healthy(lab, 0)?;
    let peer = &before["peers"][0];
    ensure!(
        before["peers"].as_array().is_some_and(|peers| peers.len() == 1),
        "{before}"
    );
    ensure!(peer["name"] == "h1" && peer["has_module"] == true, "{peer}");
    let cable = &peer["cables"][0];
    ensure!(cable["name"] == "0-1" && cable["netdev"] == netdev.as_str(), "{cable}");
    ensure!(cable["wire"] == "native" && cable["carrier"] == true, "{cable}");
    ensure!(cable["gbps"] == 80.0 && cable["best_gbps"] == 80.0, "{cable}");
    let rdma = &peer["rdma"];
    ensure!(
        rdma["device"] == pair.client.name.as_str() && rdma["state"] == "active",
        "{rdma}"
    );
    ensure!(rdma["mtu"] == 4096 && rdma["path"] == "unused", "{rdma}");
    let wanted = ipv4(0, 0);
    let gid = rdma["gids"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|gid| gid["address"] == wanted.as_str());
    ensure!(
        gid.is_some_and(|gid| gid["index"] == pair.client.gid && gid["kind"] == "RoCE v2"),
        "{rdma}"
    );

    bandwidth(lab, &pair, "ib_write_bw", 65536, 200, Duration::from_secs(60))?;
    let after = healthy(lab, 0)?;
    let rdma = &after["peers"][0]["rdma"];
    ensure!(rdma["path"] == "trains", "after 200 WRITEs: {rdma}");
    ensure!(rdma["sent_bytes"].as_u64() >= Some(200 * 65536), "{rdma}");

    let text = lab.ok(0, &["usb4rdma", "status"])?;
    for word in [
        "h1",
        "0-1",
        "native",
        "trains",
        "active",
        "health: nothing is wrong",
        &netdev,
        &pair.client.name,
    ] {
        ensure!(text.contains(word), "the table lacks {word}:\n{text}");
    }

    // What goes is missed.
    pair.delete(lab)?;
    let found = codes(&json(lab, 0, "status")?["health"]);
    ensure!(found == ["no-rdma-link"], "without a link: {found:?}");
    lab.cable(0, "pull", None)?;
    super::until(lab, 0, &["no-cable"])?;
    lab.cable(0, "plug", None)?;
    both_up(lab)?;
    super::until(lab, 0, &["no-rdma-link"])
}
