// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The stock tier: the distribution's kernel under QEMU.

use crate::guest::Launch;
use crate::spec::LabSpec;
use anyhow::{bail, Result};
use std::path::Path;

pub fn launch(_spec: &LabSpec, _host: usize, _mnt: &Path, _console: &Path) -> Result<Launch> {
    bail!("the stock tier cannot boot yet")
}

pub fn prepare(_spec: &LabSpec, _mnt: &Path) -> Result<()> {
    bail!("the stock tier cannot boot yet")
}
