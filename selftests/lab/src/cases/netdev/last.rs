// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The last byte of a message last. The verbs promise it to nobody; programs that poll memory in place of a completion
//! queue count on it all the same, as every adapter keeps to it (docs/protocol.md).

use super::{only_ours, BOTH, MINUTE};
use crate::bonded::{trains_by, Bond};
use crate::cases::{about_net, Case, Context, NetLab};
use crate::lab::Lab;
use crate::verbs::Pair;
use anyhow::{ensure, Context as _, Result};
use serde_json::{json, Value};

pub const CASES: &[Case] = &[
    about_net(
        "last_trains",
        "programs that poll the last byte of a WRITE find all others there; the cable loses, doubles, delays",
        BOTH,
        one_cable,
    ),
    about_net(
        "last_group",
        "the same over a bond of two cables, of which one is ten times slower and a millisecond longer",
        NetLab { cables: 2, ..BOTH },
        two_cables,
    ),
];

/// What the cable does: nothing first.
fn faults() -> [Value; 4] {
    [
        json!({}),
        json!({"drop": 0.01}),
        json!({"dup": 0.02}),
        json!({"delay": 0.02, "delay_ns": 300_000}),
    ]
}

/// Plays the scene under each set of faults.
fn play(context: &Context, lab: &Lab, pair: &Pair) -> Result<()> {
    for set in faults() {
        if set != json!({}) {
            lab.faults(set.clone(), context.seed)?;
        }
        let played = pair.scene_within(lab, "last", 3 * MINUTE);
        lab.clear_faults()?;
        let (client, server) = played.with_context(|| set.to_string())?;
        for (end, said) in [("client", &client), ("server", &server)] {
            ensure!(said["wrong"] == json!([]), "{set}: {end}: {}", said["wrong"]);
        }
        println!("{set}: {} rounds, {} looks", client["rounds"], client["looks"]);
    }
    Ok(())
}

fn one_cable(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    play(context, lab, &pair)?;
    pair.delete(lab)
}

/// RDMA link over the bond.
const LINK: &str = "lastr0";
/// Nanoseconds and bits per second of the second cable.
const LONG_NS: f64 = 1e6;
const SLOW: f64 = 1e9;

fn two_cables(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let bond = Bond::of_pair(lab, "balance-xor");
    bond.make(lab)?;
    let pair = bond.link(lab, context.ours, LINK)?;
    lab.cable(0, "rate", Some(10.0 * SLOW))?;
    lab.cable(1, "rate", Some(SLOW))?;
    lab.cable(1, "latency", Some(LONG_NS))?;
    let before = [trains_by(lab, 0, 0)?, trains_by(lab, 0, 1)?];
    play(context, lab, &pair)?;
    for (cable, before) in before.into_iter().enumerate() {
        let trains = trains_by(lab, 0, cable)? - before;
        println!("{trains} trains by cable {cable}");
        ensure!(trains > 100, "{trains} trains went by cable {cable}");
    }
    for cable in 0..2 {
        lab.cable(cable, "rate", Some(0.0))?;
        lab.cable(cable, "latency", Some(0.0))?;
    }
    bond.undo(lab, Some(LINK))?;
    crate::cases::life::both_up(lab)
}
