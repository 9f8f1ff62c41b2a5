// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A cable whose second lane cannot be had: its routers have no way for another path.

use super::{in_own, only_ours, wait_out, MINUTE};
use crate::cases::life::both_up;
use crate::cases::{data, own, Case, Context};
use crate::lab::Lab;
use crate::spec::{LabSpec, NetDriver, Profile, Topology};
use crate::verbs::Pair;
use anyhow::{ensure, Result};

pub const CASES: &[Case] = &[own(
    "rings_hop_ids",
    "lane adapters have HopIDs for one path: the hosts say so and agree on one lane, at once, and after each plug",
    hop_ids,
)];

/// HopIDs of a lane adapter: the first 8 are not for paths between hosts.
const ONE_PATH: usize = 9;
/// What the driver says, and how it comes up then.
const WARNS: &str = "too few HopIDs for 2 lanes";
const ONE: &str = "up, native$";

fn hop_ids(context: &Context) -> Result<()> {
    only_ours(context, "second lane")?;
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        kernel: context.kernel,
        seed: context.seed,
        hop_ids: Some(ONE_PATH),
        ..LabSpec::wired(Profile::Strix, Topology::Pair, 2, 1)?
    };
    in_own(spec, "hop-ids", |lab| {
        // Who tries first finds out; the other then hears of one lane.
        ensure!(said(lab, WARNS)?.iter().sum::<u32>() > 0, "nobody has said: {WARNS}");
        ensure!(
            said(lab, ONE)? == [1, 1],
            "the cable did not come up once, with one lane"
        );
        let pair = Pair::add(lab, context.ours, context.ours)?;
        pair.pingpong(lab, "-c -n 300 -s 100003 -m 4096", MINUTE)?;
        for program in ["ib_write_bw", "ib_read_bw"] {
            data::bandwidth(lab, &pair, program, 1 << 20, 100, MINUTE)?;
        }
        lab.cable(0, "pull", None)?;
        (0..2).try_for_each(|host| wait_out(lab, host, 0))?;
        lab.cable(0, "plug", None)?;
        both_up(lab)?;
        pair.pingpong(lab, "-c -n 300 -s 100003 -m 4096", MINUTE)?;
        ensure!(
            said(lab, ONE)? == [2, 2],
            "the cable did not come up again with one lane"
        );
        pair.delete(lab)
    })
}

/// Lines of each kernel's log that match.
fn said(lab: &Lab, pattern: &str) -> Result<[u32; 2]> {
    let count = |host: usize| -> Result<u32> {
        let text = lab.sh(host, &format!("dmesg | grep -c 'usb4_rdma: .*{pattern}'; true"))?;
        Ok(text.trim().parse()?)
    };
    Ok([count(0)?, count(1)?])
}
