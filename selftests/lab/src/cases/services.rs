// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What goes beyond reliable connections: unreliable services, shared receives, atomics, rdma_cm.

use super::{pair, Case, Context};
use crate::verbs::{Kind, Pair};
use anyhow::Result;
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "services_ours",
        "UC, UD and SRQ pingpong, atomics, rping: ours on both sides",
        ours,
    ),
    pair(
        "services_rxe",
        "UC and UD pingpong, atomics, rping: ours with rxe, both ways",
        rxe,
    ),
];

const MINUTE: Duration = Duration::from_secs(60);

fn ours(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.example(lab, "ibv_srq_pingpong", "-e -n 200", MINUTE)?;
    services(context, &pair)?;
    pair.delete(lab)
}

fn rxe(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, Kind::Rxe)?;
    services(context, &pair)?;
    services(context, &pair.turned())?;
    pair.delete(lab)
}

fn services(context: &Context, pair: &Pair) -> Result<()> {
    let lab = context.lab()?;
    pair.example(lab, "ibv_uc_pingpong", "-e -n 100", MINUTE)?;
    pair.example(lab, "ibv_ud_pingpong", "-e -n 100 -s 1000", MINUTE)?;
    for kind in ["FETCH_AND_ADD", "CMP_AND_SWAP"] {
        pair.perftest(lab, "ib_atomic_bw", &format!("-A {kind} -n 500"), MINUTE)?;
    }
    pair.rping(lab, 20, MINUTE)
}
