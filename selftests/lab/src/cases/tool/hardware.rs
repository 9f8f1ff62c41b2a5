// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor --hardware` on host interfaces of the lab: all holds, and where frames are lost that is told.

use super::checked;
use crate::cases::data::bandwidth;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::Pair;
use anyhow::{ensure, Result};
use serde_json::{json, Value};
use std::time::Duration;

pub const CASES: &[Case] = &[about_net(
    "tool_hardware",
    "usb4rdma doctor --hardware: what RDMA has to show first is open, then all holds; lost frames fail; settings stay",
    BOTH,
    hardware,
)];

fn hardware(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let (report, status) = tried(lab)?;
    let open = codes(&report, "unshown");
    ensure!(
        open == ["markers-all", "any-offset", "credits-of-paths"] && codes(&report, "fails").is_empty() && status == 0,
        "before RDMA: {report}"
    );
    let pair = Pair::add(lab, context.ours, context.ours)?;
    for pair in [pair.clone(), pair.turned()] {
        bandwidth(lab, &pair, "ib_write_bw", 65536, 300, Duration::from_secs(60))?;
    }
    let before = lab.ok(0, &["ethtool", "-c", "usb4net0"])?;
    let (report, status) = tried(lab)?;
    ensure!(
        codes(&report, "unshown") == ["credits-of-paths"],
        "after RDMA: {report}"
    );
    ensure!(codes(&report, "fails").is_empty() && status == 0, "{report}");
    let after = lab.ok(0, &["ethtool", "-c", "usb4net0"])?;
    ensure!(
        before.lines().next() == after.lines().next(),
        "interrupts are left as\n{after}"
    );
    lab.faults(json!({"drop": 0.02}), 1)?;
    let lossy = tried(lab);
    lab.clear_faults()?;
    let (report, status) = lossy?;
    ensure!(
        codes(&report, "fails").contains(&"frames-return") && status == 2,
        "with losses: {report}"
    );
    pair.delete(lab)?;
    refused(
        lab,
        "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma doctor --hardware",
        "doctor --hardware needs root, as it sets interrupts and sends frames: `sudo usb4rdma doctor --hardware`",
    )?;
    lab.ok(0, &["ip", "link", "set", "usb4net0", "down"])?;
    refused(
        lab,
        "usb4rdma doctor --hardware",
        "no cable to a host with the module usb4_rdma carries, and nothing can be tried: `usb4rdma up` on both hosts",
    )?;
    lab.ok(0, &["ip", "link", "set", "usb4net0", "up"])?;
    crate::cases::life::both_up(lab)
}

fn tried(lab: &Lab) -> Result<(Value, i32)> {
    let output = lab.run(0, &["usb4rdma", "doctor", "--hardware", "--json"], USUAL)?;
    Ok((checked("hardware", &output.text())?, output.status))
}

fn codes<'r>(report: &'r Value, verdict: &str) -> Vec<&'r str> {
    let checks = report["checks"].as_array().into_iter().flatten();
    checks
        .filter(|check| check["verdict"] == verdict)
        .filter_map(|check| check["code"].as_str())
        .collect()
}

fn refused(lab: &Lab, line: &str, said: &str) -> Result<()> {
    let output = lab.run(0, &["/bin/sh", "-c", line], USUAL)?;
    ensure!(
        output.status == 1 && output.errors() == format!("usb4rdma: {said}\n"),
        "{line}: {}",
        output.errors()
    );
    Ok(())
}
