// SPDX-License-Identifier: GPL-2.0 OR MIT
//! How much there may be of everything, and what the attributes of a queue pair may be. One device is both ends.

use super::{pair, Case, Context};
use crate::verbs::Device;
use anyhow::{ensure, Result};
use serde_json::Value;
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "caps_many",
        "2000 QPs and 20000 MRs: their keys and numbers differ, their memory comes back, the last is found like the first",
        |context| play(context, "many"),
    ),
    pair(
        "caps_deep",
        "QP and SRQ 16k deep, CQ 32k, 8 pieces, 256 bytes inline, 128 READs at once, a region of 128 MiB",
        |context| play(context, "deep"),
    ),
    pair(
        "caps_attributes",
        "modify and query of a queue pair: every transition, mask and range; draining",
        |context| play(context, "attributes"),
    ),
];

const LIMIT: Duration = Duration::from_secs(180);

fn play(context: &Context, scene: &str) -> Result<()> {
    let lab = context.lab()?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    let line = format!("/usb4lab/caps.py {scene} {} {}", device.name, device.gid);
    let said: Value = serde_json::from_str(&lab.start(0, &line, LIMIT).ok()?)?;
    ensure!(said["wrong"].as_array().is_some_and(Vec::is_empty), "{scene}: {said}");
    device.delete(lab)
}
