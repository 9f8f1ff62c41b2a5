// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Direct lanes: WRITEs whose bytes no CPU touches, between two hosts of ours over one cable.

use super::runs::{counter, wait_flow, FLOWS};
use super::{only_ours, BOTH, MINUTE};
use crate::cases::life::both_up;
use crate::cases::{about_net, Case, Context, NetLab, Way};
use crate::lab::Lab;
use crate::parse;
use crate::verbs::{Device, Pair};
use anyhow::{anyhow, ensure, Context as _, Result};
use serde_json::{json, Value};
use std::{collections::BTreeMap, thread, time::Duration};

/// Both offer direct lanes.
const LANES: NetLab = NetLab {
    way: Way::Windows,
    ..BOTH
};

pub const CASES: &[Case] = &[
    about_net(
        "direct_data",
        "SEND, WRITE and READ of 1 B to 64 MiB, windows and trains mixed: every byte, and the guards around each target",
        LANES,
        bytes,
    ),
    about_net(
        "direct_counts",
        "WRITEs of 1 MiB: all but the last page of each goes by windows, on both ends' word, and nothing is copied to send",
        LANES,
        counts,
    ),
    about_net(
        "direct_faults",
        "windows over a cable that loses, damages and doubles frames: the lane begins anew, every byte is right",
        LANES,
        faults,
    ),
    about_net(
        "direct_ends",
        "programs killed, the cable pulled, the RDMA link deleted with windows open: all of it ends, and goes on",
        LANES,
        ends,
    ),
];

fn of_net(lab: &Lab, device: &Device) -> Result<BTreeMap<String, u64>> {
    let text = lab.sh(device.host, &format!("ethtool -S {}", device.netdev))?;
    Ok(parse::ethtool_counters(&text))
}

/// How much each counter of a netdev grows while `act` acts, for both ends of a pair.
fn growth(lab: &Lab, pair: &Pair, act: impl FnOnce() -> Result<()>) -> Result<[BTreeMap<String, u64>; 2]> {
    let ends = [&pair.client, &pair.server];
    let before = [of_net(lab, ends[0])?, of_net(lab, ends[1])?];
    act()?;
    let mut after = [of_net(lab, ends[0])?, of_net(lab, ends[1])?];
    for (after, before) in after.iter_mut().zip(before) {
        for (name, count) in after {
            *count = count.wrapping_sub(before.get(name).copied().unwrap_or(0));
        }
    }
    Ok(after)
}

/// Both ends have sent by windows.
fn ensure_windows(lab: &Lab, pair: &Pair) -> Result<()> {
    let (sent, came) = (
        counter(lab, pair.client.host, &pair.client.name, "sent_windows")?,
        counter(lab, pair.server.host, &pair.server.name, "rcvd_windows")?,
    );
    ensure!(sent > 0 && came > 0, "windows sent {sent}, received {came}");
    Ok(())
}

/// Plays the scene that compares bytes; what the client's side reports.
fn compared(lab: &Lab, pair: &Pair) -> Result<Value> {
    let (client, server) = pair.scene_within(lab, "windows", MINUTE)?;
    let wrong = [&client["wrong"], &server["wrong"]];
    ensure!(wrong == [&json!([]); 2], "client: {}, server: {}", wrong[0], wrong[1]);
    Ok(client)
}

fn bytes(context: &Context) -> Result<()> {
    only_ours(context, "direct")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let said = compared(lab, &pair)?;
    ensure!(said["messages"].as_u64() > Some(1000), "{said}");
    ensure_windows(lab, &pair)?;
    pair.delete(lab)
}

fn counts(context: &Context) -> Result<()> {
    const COUNT: u64 = 400;
    const SIZE: u64 = 1 << 20;
    const PAGE: u64 = 4096;
    only_ours(context, "direct")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let [sender, receiver] = growth(lab, &pair, || {
        pair.perftest(lab, "ib_write_bw", &format!("-s {SIZE} -n {COUNT}"), MINUTE)
            .map(drop)
    })?;
    let (sent, came) = (sender["tx_direct_bytes"], receiver["rx_direct_bytes"]);
    let most = COUNT * (SIZE - PAGE);
    println!(
        "by windows {sent} of {}, copied to send {}, windows void {}",
        COUNT * SIZE,
        sender["tx_copied_bytes"],
        receiver["rx_void_windows"]
    );
    ensure!(
        sent == came && receiver["rx_void_windows"] == 0,
        "sent {sent}, came {came}"
    );
    // A grant that was slow, on a busy machine, has some of them go by trains.
    ensure!(sent <= most && sent >= most / 8, "{sent} bytes of {most} by windows");
    // Headers only.
    ensure!(
        sender["tx_copied_bytes"] < COUNT * 1024,
        "{} bytes copied",
        sender["tx_copied_bytes"]
    );
    // What is not by windows is copied to its target, and nothing else is.
    let rest = receiver["rx_rdma_bytes"] - came;
    ensure!(
        rest >= COUNT * SIZE - came && rest < COUNT * (SIZE + 4096) - came,
        "{rest} bytes by trains"
    );
    pair.delete(lab)
}

fn faults(context: &Context) -> Result<()> {
    only_ours(context, "direct")?;
    let lab = context.lab()?;
    // And what comes of it: the lane begins anew where the number of frames is wrong; what is damaged has used up its
    // own descriptor, and spoils its window.
    for (set, costs) in [
        (json!({"drop": 0.0005}), "rx_direct_resets"),
        (json!({"corrupt": 0.001}), "rx_void_windows"),
        (json!({"dup": 0.0005}), "rx_direct_resets"),
        (
            json!({"drop": 0.0002, "corrupt": 0.0002, "dup": 0.0002}),
            "rx_direct_resets",
        ),
    ] {
        lab.faults(set.clone(), context.seed)?;
        let pair = Pair::add(lab, context.ours, context.ours)?;
        let [_, receiver] = growth(lab, &pair, || {
            compared(lab, &pair).with_context(|| set.to_string())?;
            pair.perftest(lab, "ib_write_bw", "-s 1048576 -n 400", MINUTE)?;
            Ok(())
        })?;
        println!(
            "{set}: by windows {}, void {}, lane begun anew {}",
            receiver["rx_direct_bytes"], receiver["rx_void_windows"], receiver["rx_direct_resets"]
        );
        ensure!(receiver["rx_direct_bytes"] > 0, "{set}: nothing went by windows");
        ensure!(receiver[costs] > 0, "{set}: no window met a fault, {costs} is 0");
        lab.faults(json!({}), context.seed)?;
        pair.delete(lab)?;
    }
    Ok(())
}

/// Lets `act` act while a stream of WRITEs by windows runs, which may end by it.
fn amid(lab: &Lab, pair: &Pair, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    thread::scope(|scope| {
        let stream = scope.spawn(|| pair.perftest(lab, "ib_write_bw", "-s 1048576 -D 8", MINUTE));
        let acted = wait_flow(lab, &pair.client.name, before + FLOWS).and_then(|()| act());
        // Killed, or cut: what it says of that does not matter.
        let _ = stream.join().map_err(|_| anyhow!("the stream's thread panicked"))?;
        acted
    })
}

fn ends(context: &Context) -> Result<()> {
    only_ours(context, "direct")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    for round in 0..6_u64 {
        amid(lab, &pair, || {
            thread::sleep(Duration::from_millis(100 + 37 * round));
            let gone = "pkill -KILL -x ib_write_bw; n=0; while pgrep -x ib_write_bw > /dev/null; do sleep 0.1; n=$((n+1)); done; echo $n";
            let (first, second) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
            let tenths: u32 = lab.sh(first, gone)?.trim().parse().context("tenths of a second")?;
            lab.sh(second, "pkill -KILL -x ib_write_bw; true")?;
            ensure!(tenths < 20, "round {round}: gone after {tenths} tenths of a second");
            Ok(())
        })?;
    }
    // A program that lives sees the cable go and come.
    amid(lab, &pair, || {
        thread::sleep(Duration::from_millis(300));
        lab.cable(0, "pull", None)?;
        thread::sleep(Duration::from_millis(500));
        lab.cable(0, "plug", None)?;
        lab.sh(0, "pkill -KILL -x ib_write_bw; true")?;
        lab.sh(1, "pkill -KILL -x ib_write_bw; true")?;
        Ok(())
    })?;
    both_up(lab)?;
    ensure_windows(lab, &pair)?;
    amid(lab, &pair, || {
        thread::sleep(Duration::from_millis(300));
        pair.delete(lab)?;
        lab.sh(0, "pkill -KILL -x ib_write_bw; true")?;
        lab.sh(1, "pkill -KILL -x ib_write_bw; true")?;
        Ok(())
    })?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    compared(lab, &pair)?;
    ensure_windows(lab, &pair)?;
    pair.delete(lab)
}
