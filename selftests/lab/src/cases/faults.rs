// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The cable damages frames; the verbs deliver all the same.

use super::{pair, Case, Context};
use crate::lab::Lab;
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Result};
use serde_json::{json, Value};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "fault_drop_ours_ours",
        "1% of frames dropped: pingpong -c -n 1000, ours on both sides",
        drop_ours_ours,
    ),
    pair(
        "fault_drop_ours_rxe",
        "1% of frames dropped: pingpong -c -n 1000, ours calls rxe",
        drop_ours_rxe,
    ),
    pair(
        "fault_drop_rxe_ours",
        "1% of frames dropped: pingpong -c -n 1000, rxe calls ours",
        drop_rxe_ours,
    ),
    pair(
        "fault_corrupt",
        "1% of frames with a CRC error: pingpong -c, and send and read bandwidth",
        corrupt,
    ),
    pair("fault_dup", "5% of frames twice: pingpong -c, and write bandwidth", dup),
    pair(
        "fault_delay_reorder",
        "frames late and out of order: pingpong -c, and write bandwidth",
        delay,
    ),
];

/// Time for 1000 round trips with recovery.
const LIMIT: Duration = Duration::from_secs(180);

fn drop_ours_ours(context: &Context) -> Result<()> {
    with_faults(context, context.ours, context.ours, &[json!({"drop": 0.01})], &[])
}

fn drop_ours_rxe(context: &Context) -> Result<()> {
    with_faults(context, context.ours, Kind::Rxe, &[json!({"drop": 0.01})], &[])
}

fn drop_rxe_ours(context: &Context) -> Result<()> {
    with_faults(context, Kind::Rxe, context.ours, &[json!({"drop": 0.01})], &[])
}

fn corrupt(context: &Context) -> Result<()> {
    with_faults(
        context,
        context.ours,
        context.ours,
        &[json!({"corrupt": 0.01})],
        &["ib_send_bw", "ib_read_bw"],
    )
}

fn dup(context: &Context) -> Result<()> {
    with_faults(
        context,
        context.ours,
        context.ours,
        &[json!({"dup": 0.05})],
        &["ib_write_bw"],
    )
}

fn delay(context: &Context) -> Result<()> {
    let sets = [json!({"delay": 0.05, "delay_ns": 2_000_000}), json!({"reorder": 0.02})];
    with_faults(context, context.ours, context.ours, &sets, &["ib_write_bw"])
}

/// Plays pingpong with every byte compared, and the bandwidth programs, under each set of faults.
fn with_faults(context: &Context, client: Kind, server: Kind, sets: &[Value], programs: &[&str]) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, client, server)?;
    under_faults(context, &pair, sets, programs)?;
    pair.delete(lab)
}

/// As [`with_faults`], on a pair that stays.
pub fn under_faults(context: &Context, pair: &Pair, sets: &[Value], programs: &[&str]) -> Result<()> {
    let lab = context.lab()?;
    let with_rxe = [&pair.client, &pair.server]
        .iter()
        .any(|device| device.name.starts_with(Kind::Rxe.link_type()));
    // Address resolution happens before the faults: a lost neighbour reply is not what is tested here.
    lab.ok(0, &["ping", "-c", "1", "-W", "5", &pair.server.ipv4])?;
    for set in sets {
        let before = injected(&lab.stat()?);
        lab.faults(set.clone(), context.seed)?;
        let count = 1000;
        validated(lab, pair, with_rxe, count)?;
        for program in programs {
            super::data::bandwidth(lab, pair, program, 65536, 200, LIMIT)?;
        }
        lab.clear_faults()?;
        let hit = injected(&lab.stat()?) - before;
        ensure!(hit > 0, "the fabric injected no fault of {set}: see usb4lab stat");
    }
    pair.pingpong(lab, "-c -n 100 -e", Duration::from_secs(60)).map(drop)
}

/// Pingpong with every byte compared. rxe forgets its queue pair at once when it is done: if the ACK of our last
/// message was lost, nobody answers the retry (docs/verbs.md). Such a run, in which rxe's side has seen all, is
/// repeated.
fn validated(lab: &Lab, pair: &Pair, with_rxe: bool, count: u32) -> Result<()> {
    let mut left = 6;
    loop {
        let Err(err) = pair.pingpong(lab, &format!("-c -n {count} -e"), LIMIT) else {
            return Ok(());
        };
        left -= 1;
        if !with_rxe || !peer_was_done(&format!("{err:#}"), count) || left == 0 {
            return Err(err);
        }
        eprintln!("rxe was done and gone when the last ACK was lost: once more");
    }
}

/// Whether one of the two programs has had all its messages, and the other waits in vain for the ACK of its last send.
fn peer_was_done(said: &str, count: u32) -> bool {
    said.contains(&format!("{count} iters in")) && said.contains("retry counter exceeded (12) for wr_id 2")
}

/// Sum of all fault counters of the fabric's cables.
fn injected(stat: &Value) -> i64 {
    fn sum(value: &Value) -> i64 {
        match value {
            Value::Number(n) => n.as_i64().unwrap_or(0),
            Value::Object(map) => map.values().map(sum).sum(),
            Value::Array(list) => list.iter().map(sum).sum(),
            _ => 0,
        }
    }
    fn find(value: &Value) -> i64 {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(k, v)| if k.starts_with("fault") { sum(v) } else { find(v) })
                .sum(),
            Value::Array(list) => list.iter().map(find).sum(),
            _ => 0,
        }
    }
    find(&stat["fabric"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_counters_are_found_wherever_they_stand() {
        let stat = json!({"fabric": {"cables": [{"faults": {"drop": 3, "dup": 1}, "frames": 9}]}});
        assert_eq!(injected(&stat), 4);
    }
}
