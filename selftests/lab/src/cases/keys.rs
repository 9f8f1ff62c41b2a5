// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What ends opens nothing afterwards: keys, numbers and handles, and packets that waited.

use super::{pair, Case, Context};
use crate::verbs::Device;
use anyhow::{ensure, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[pair(
    "keys",
    "windows, regions, numbers, address handles and parked packets open nothing after what they named is gone",
    keys,
)];

/// Of `keys.py`.
const SCENES: [&str; 5] = ["windows", "regions", "handles", "parked", "number"];
/// The scene of a number that comes again makes tens of thousands of queue pairs.
const PATIENCE: Duration = Duration::from_secs(200);

fn keys(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    for scene in SCENES {
        let line = format!("/usb4lab/keys.py {scene} {} {}", device.name, device.gid);
        let said = lab.start(device.host, &line, PATIENCE).ok()?;
        ensure!(said.trim() == "[]", "{scene}: {}", said.trim());
    }
    device.delete(lab)
}
