// SPDX-License-Identifier: GPL-2.0 OR MIT
//! On-demand paging: what is not there is brought, what cannot be brought is an error.

use super::{data, pair, Case, Context};
use crate::verbs::Pair;
use anyhow::{ensure, Context as _, Result};
use serde_json::{json, Value};

pub const CASES: &[Case] = &[pair(
    "paging",
    "paged regions, their pages taken away before each operation; memory given back: an error at both ends",
    paging,
)];

const LOC_PROT: i64 = 4;
const REM_OP: i64 = 11;

fn paging(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let (client, server) = pair.scene(lab, "paged")?;
    for (side, report) in [("client", &client), ("server", &server)] {
        let wrong = report["wrong"].as_array().context("report without a verdict")?;
        ensure!(wrong.is_empty(), "{side}: {wrong:?}");
    }
    statuses(&client, REM_OP)?;
    let (client, _) = pair.scene(lab, "unmapped_source")?;
    statuses(&client, LOC_PROT)?;
    // Pinned regions beside paged ones work on.
    data::check_operations(lab, &pair)?;
    pair.delete(lab)
}

fn statuses(report: &Value, wanted: i64) -> Result<()> {
    ensure!(
        report["statuses"] == json!([wanted]),
        "status {} instead of {wanted}",
        report["statuses"]
    );
    Ok(())
}
