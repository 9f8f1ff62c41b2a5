// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Misuse ends in the right completion status on both sides, and nowhere else.

use super::{pair, Case, Context};
use crate::lab::{Lab, Running};
use crate::log;
use crate::verbs::{self, Pair};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "error_bad_rkey",
        "WRITE and READ with a wrong rkey: REM_ACCESS_ERR, then flush",
        bad_rkey,
    ),
    pair(
        "error_out_of_bounds",
        "WRITE beyond the region: REM_ACCESS_ERR, then flush",
        out_of_bounds,
    ),
    pair(
        "error_wrong_pd",
        "keys of another protection domain: REM_ACCESS_ERR, locally LOC_PROT_ERR",
        wrong_pd,
    ),
    pair(
        "error_rights",
        "WRITE to a region without the right: REM_ACCESS_ERR; bad lkey: LOC_PROT_ERR",
        rights,
    ),
    pair(
        "error_missing_receive",
        "no receive: RNR_RETRY_EXC_ERR; a late one: success",
        missing_receive,
    ),
    pair(
        "error_short_receive",
        "message longer than the receive: LOC_LEN_ERR and REM_INV_REQ_ERR",
        short_receive,
    ),
    pair(
        "error_dead_process",
        "the peer's process dies: RETRY_EXC_ERR, then flush",
        dead_process,
    ),
    pair(
        "error_dead_host",
        "the peer's host dies: error or device removal; it returns and works",
        dead_host,
    ),
];

const SUCCESS: i64 = 0;
const LOC_LEN: i64 = 1;
const LOC_PROT: i64 = 4;
const FLUSH: i64 = 5;
const REM_INV_REQ: i64 = 9;
const REM_ACCESS: i64 = 10;
const RETRY_EXC: i64 = 12;
const RNR_RETRY_EXC: i64 = 13;

const RTS: i64 = 3;
const ERR: i64 = 6;

/// What one side must report: statuses in order, and the queue pair's state.
type Expected = (&'static [i64], i64);

/// Adds links, plays scenes, checks both reports, and that the device and the log are as before.
fn play(context: &Context, scenes: &[(&str, Expected, Expected)]) -> Result<()> {
    let lab = context.lab()?;
    quiet(context, || {
        let pair = Pair::add(lab, context.ours, context.ours)?;
        for (scene, client, server) in scenes {
            let reports = pair.scene(lab, scene)?;
            compare(scene, "client", &reports.0, *client)?;
            compare(scene, "server", &reports.1, *server)?;
        }
        pair.pingpong(lab, "-c -n 20 -e", Duration::from_secs(30))
            .context("the next program must work")?;
        pair.delete(lab)
    })
}

fn compare(scene: &str, side: &str, report: &Value, expected: Expected) -> Result<()> {
    let statuses: Vec<i64> = report["statuses"]
        .as_array()
        .context("report without statuses")?
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    ensure!(
        statuses == expected.0,
        "{scene}: the {side}'s completions have status {statuses:?}, expected {:?}: {report}",
        expected.0
    );
    let state = report["state"].as_i64();
    ensure!(
        state == Some(expected.1),
        "{scene}: the {side}'s QP state is {state:?}, expected {}",
        expected.1
    );
    ensure!(report["data_ok"] != false, "{scene}: the {side} has wrong data");
    Ok(())
}

/// Runs `work` and fails if a kernel said anything above level info meanwhile.
fn quiet(context: &Context, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let lab = context.lab()?;
    // The kernel notes once that an out-of-tree module was loaded.
    Pair::add(lab, context.ours, context.ours)?.delete(lab)?;
    for host in 0..lab.spec.hosts {
        lab.ok(host, &["dmesg", "-C"])?;
    }
    work()?;
    for host in 0..lab.spec.hosts {
        let said = lab.ok(host, &["dmesg", "--level=emerg,alert,crit,err,warn,notice"])?;
        // The line that opens a warning stands before its head.
        let mut own = log::without_excepted(&said).into_iter();
        if own.any(|line| !line.trim().is_empty() && !line.ends_with("[ cut here ]------------")) {
            bail!("host {host}'s kernel had something to say:\n{said}");
        }
    }
    Ok(())
}

fn bad_rkey(context: &Context) -> Result<()> {
    let flushed: Expected = (&[FLUSH], ERR);
    play(
        context,
        &[
            ("bad_rkey", (&[REM_ACCESS, FLUSH], ERR), flushed),
            ("bad_read_rkey", (&[REM_ACCESS], ERR), (&[], ERR)),
        ],
    )
}

fn out_of_bounds(context: &Context) -> Result<()> {
    play(
        context,
        &[("out_of_bounds", (&[REM_ACCESS, FLUSH], ERR), (&[FLUSH], ERR))],
    )
}

fn wrong_pd(context: &Context) -> Result<()> {
    play(
        context,
        &[
            ("wrong_pd", (&[REM_ACCESS, FLUSH], ERR), (&[FLUSH], ERR)),
            ("wrong_local_pd", (&[LOC_PROT], ERR), (&[], RTS)),
        ],
    )
}

fn rights(context: &Context) -> Result<()> {
    play(
        context,
        &[
            ("no_remote_right", (&[REM_ACCESS, FLUSH], ERR), (&[FLUSH], ERR)),
            ("bad_lkey", (&[LOC_PROT], ERR), (&[], RTS)),
        ],
    )
}

fn missing_receive(context: &Context) -> Result<()> {
    play(
        context,
        &[
            ("missing_receive", (&[RNR_RETRY_EXC], ERR), (&[], RTS)),
            ("late_receive", (&[SUCCESS], RTS), (&[SUCCESS], RTS)),
        ],
    )
}

fn short_receive(context: &Context) -> Result<()> {
    play(context, &[("short_receive", (&[REM_INV_REQ], ERR), (&[LOC_LEN], ERR))])
}

const DEAD: Expected = (&[RETRY_EXC, FLUSH], ERR);

fn dead_process(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    quiet(context, || {
        let pair = Pair::add(lab, context.ours, context.ours)?;
        let (serving, calling) = start_writing(lab, &pair)?;
        lab.run(1, &["pkill", "-KILL", "-x", "verbs.py"], Duration::from_secs(20))?;
        let _ = serving.wait()?;
        compare("dead_peer", "client", &serde_json::from_str(&calling.ok()?)?, DEAD)?;
        pair.pingpong(lab, "-c -n 20 -e", Duration::from_secs(30))
            .context("the next program must work")?;
        pair.delete(lab)
    })
}

fn dead_host(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let (serving, calling) = start_writing(lab, &pair)?;
    lab.kill(1)?;
    let _ = serving.wait();
    let report: Value = serde_json::from_str(&calling.ok()?)?;
    // The model takes the link down with the host, and the link takes the device: whichever comes first.
    if report["removed"] != true {
        compare("dead_peer", "client", &report, DEAD)?;
    }
    lab.boot(1)?;
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(|| lab.net_up(1));
        lab.net_up(0)?;
        other
            .join()
            .map_err(|_| anyhow::anyhow!("bringing host 1 up panicked"))?
    })?;
    // The device went with its network device, or lives on; a fresh link must work either way.
    let _ = pair.client.delete(lab);
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 20 -e", Duration::from_secs(30))
        .context("after the peer's return")?;
    pair.delete(lab)
}

fn start_writing(lab: &Lab, pair: &Pair) -> Result<(Running, Running)> {
    start_scene(lab, pair, "dead_peer")
}

/// Starts a scene that goes on by itself and waits until the caller is connected.
pub fn start_scene(lab: &Lab, pair: &Pair, scene: &str) -> Result<(Running, Running)> {
    let limit = Duration::from_secs(90);
    lab.sh(0, "rm -f /run/writing")?;
    let serving = lab.start(1, &pair.serve_line(scene), limit);
    verbs::wait_listen(lab, 1, verbs::port())?;
    let calling = lab.start(0, &pair.call_line(scene), limit);
    lab.sh(
        0,
        "n=0; until [ -e /run/writing ]; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.05; done; sleep 0.2",
    )?;
    Ok((serving, calling))
}
