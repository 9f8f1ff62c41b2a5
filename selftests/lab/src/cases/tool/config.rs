// SPDX-License-Identifier: GPL-2.0 OR MIT
//! /etc/usb4rdma.toml: what it says is done, the command line comes before it, and what it leaves alone is not touched.

use super::up::{bare, discovered, down, up};
use super::{codes, healthy};
use crate::cases::{about_net, Case, Context};
use crate::lab::USUAL;
use anyhow::{ensure, Result};

pub const CASES: &[Case] = &[about_net(
    "tool_config",
    "/etc/usb4rdma.toml: addresses, MTU, bond or not, cables left alone; the command line before it; taken back by down",
    bare(2),
    config,
)];

fn config(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    discovered(lab, 2)?;
    // One cable with addresses and an MTU of its own, the other left alone.
    for host in 0..2 {
        let other = 1 - host;
        let file = format!(
            "leave = ['1-1']\nmtu = 9000\n[peer.h{other}]\naddresses = ['10.7.0.{}/24']\nmtu = 4200\n[peer.box9]\n",
            host + 1
        );
        lab.put(host, "/etc/usb4rdma.toml", file.as_bytes(), 0o644)?;
    }
    for (host, said) in up(lab, "")?.iter().enumerate() {
        ensure!(
            said.ends_with("note: the configuration file tells of box9, and no cable leads there\n"),
            "host {host}: {said}"
        );
        let status = healthy(lab, host)?;
        let peer = &status["peers"][0];
        let cables = peer["cables"].as_array().map_or(0, Vec::len);
        ensure!(
            cables == 2 && peer["link"]["bond_mode"].is_null(),
            "host {host}: {peer}"
        );
        ensure!(peer["link"]["mtu"] == 4200, "host {host}: {peer}");
        let addresses = serde_json::json!([format!("10.7.0.{}/24", host + 1)]);
        ensure!(peer["link"]["addresses"] == addresses, "host {host}: {peer}");
        let left = lab.sh(host, "ip -br link show usb4net1; ip -br addr show usb4net1")?;
        ensure!(
            !left.contains(",UP") && !left.contains("10."),
            "host {host}: left alone, and {left}"
        );
    }
    lab.sh(
        0,
        "ping -c 3 -i 0.2 -W 5 10.7.0.2 && usb4rdma up | grep -qx 'everything is up already'",
    )?;
    // The command line's word is the last.
    let printed = lab.ok(
        0,
        &[
            "usb4rdma",
            "up",
            "--dry-run",
            "--mtu",
            "5000",
            "--address",
            "10.8.0.1/24",
        ],
    )?;
    ensure!(
        printed == "ip link set usb4net0 mtu 5000\nip addr add 10.8.0.1/24 dev usb4net0\n",
        "{printed}"
    );
    // All that is left alone is told, and not found fault with.
    lab.sh(0, "sed -i \"s/'1-1'/'h1'/\" /etc/usb4rdma.toml")?;
    let refused = lab.run(0, &["usb4rdma", "up"], USUAL)?;
    let said = "usb4rdma: all cables are to be left alone: the configuration file has leave = [\"h1\"]\n";
    ensure!(refused.status == 1 && refused.errors() == said, "{}", refused.errors());
    let found = codes(&super::json(lab, 0, "doctor")?["findings"]);
    ensure!(found.is_empty(), "found of what is left alone: {found:?}");
    down(lab)?;
    // Without a bond, and with one by the command line.
    for host in 0..2 {
        lab.put(host, "/etc/usb4rdma.toml", b"bond = false\n", 0o644)?;
    }
    for (words, peers) in [("", 2), ("--bond", 1)] {
        up(lab, words)?;
        for host in 0..2 {
            let status = healthy(lab, host)?;
            let found = status["peers"].as_array().map_or(0, Vec::len);
            ensure!(found == peers, "up {words} on host {host}: {status}");
        }
        down(lab)?;
    }
    for host in 0..2 {
        lab.sh(host, "rm /etc/usb4rdma.toml")?;
    }
    Ok(())
}
