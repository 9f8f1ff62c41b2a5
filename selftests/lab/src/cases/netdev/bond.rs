// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Two cables as one link by the kernel's bonding driver, with `ip link` alone.

use super::runs::counter;
use super::{only_ours, xdomain, BOTH};
use crate::bonded::{trains_by, Bond};
use crate::cases::data::bandwidth;
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context, NetLab};
use crate::lab::Lab;
use crate::spec::NetDriver;
use crate::verbs::{wait_listen, Device, Kind};
use anyhow::{ensure, Context as _, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    long(about_net(
        "net_bond",
        "active-backup, balance-xor and 802.3ad of two cables; a cable cut costs IP less than a second",
        NetLab { cables: 2, ..BOTH },
        bond,
    )),
    about_net(
        "net_bond_rr",
        "RDMA over a bond that deals packets to two cables in turn is not slower than over one that uses one of them",
        NetLab { cables: 2, ..BOTH },
        round_robin,
    ),
    about_net(
        "group_cut",
        "one queue pair over both cables of a bond, each of which is cut and comes back: every byte is right",
        NetLab { cables: 2, ..BOTH },
        group,
    ),
];

const MODES: [&str; 3] = ["active-backup", "balance-xor", "802.3ad"];
/// Echo requests during a cut, every 10 ms.
const PINGS: usize = 500;
const EVERY_S: f64 = 0.01;

fn bond(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for mode in MODES {
        let bond = Bond::of_pair(lab, mode);
        let outcome = one(context, &bond).with_context(|| mode.to_string());
        bond.undo(lab, None)?;
        outcome?;
        both_up(lab)?;
    }
    Ok(())
}

/// Most of what is sent over two cables in turn that may be sent again: seen is 1 in 1000. Three requests in ten
/// overtake another, and each would be asked for again by a receiver that took it for a sign of loss.
const MOST_AGAIN: f64 = 0.01;
/// What a requester counts when it sends again.
const AGAIN: [&str; 3] = ["completer_retry_err", "response_gaps", "local_ack_timeout_err"];

fn round_robin(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for mode in ["balance-xor", "balance-rr"] {
        let bond = Bond::of_pair(lab, mode);
        let outcome = bond.make(lab).and_then(|()| rdma(lab, context.ours, &bond));
        bond.undo(lab, Some(OVER))?;
        outcome.with_context(|| mode.to_string())?;
        both_up(lab)?;
    }
    Ok(())
}

/// RDMA link over the bond.
const OVER: &str = "over_bond";

/// Long WRITEs and READs over the bond: what overtakes is not sent again.
fn rdma(lab: &Lab, kind: Kind, bond: &Bond) -> Result<()> {
    let (pair, mode) = (bond.link(lab, kind, OVER)?, bond.mode);
    let of = |device: &Device, name| counter(lab, device.host, &device.name, name);
    let again = || -> Result<u64> { AGAIN.iter().map(|name| of(&pair.client, name)).sum() };
    for program in ["ib_write_bw", "ib_read_bw"] {
        let before = [again()?, of(&pair.client, "sent_pkts")?, of(&pair.server, "sent_pkts")?];
        let rate = bandwidth(lab, &pair, program, 1 << 16, 3000, 3 * super::MINUTE)?;
        let after = [again()?, of(&pair.client, "sent_pkts")?, of(&pair.server, "sent_pkts")?];
        let [again, requests, answers] = [0, 1, 2].map(|n| after[n] - before[n]);
        let sent = requests.max(answers);
        eprintln!("{mode}, {program}: {rate:.1} MiB/s, {again} times again for {sent} packets and runs");
        ensure!(
            again as f64 <= MOST_AGAIN * sent as f64,
            "{program}: {again} times something was sent again, of {sent} packets and runs"
        );
    }
    // Else nothing overtook, and nothing was tried.
    let overtaken = of(&pair.server, "out_of_seq_request")?;
    ensure!(
        overtaken > 0 || mode != "balance-rr",
        "no request overtook another over {mode}"
    );
    Ok(())
}

fn one(context: &Context, bond: &Bond) -> Result<()> {
    let (lab, mode) = (context.lab()?, bond.mode);
    bond.make(lab)?;
    super::transfer(lab, 0, "10.110.0.2", 16, "send")?;
    for cable in 0..2 {
        let gap = cut(lab, cable)?;
        eprintln!("{mode}: cable {cable} cut: no answer for {gap:.2} s");
        ensure!(gap < 1.0, "cable {cable} cut: no answer for {gap:.2} s");
        lab.cable(cable, "plug", None)?;
        // Ours is in the bond still.
        for host in (0..2).filter(|_| context.net == NetDriver::Stock) {
            let name = xdomain(lab, host, cable)?;
            lab.sh(
                host,
                &format!("n=0; until /usb4lab/netdev {name} > /dev/null 2>&1; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done"),
            )?;
            bond.enslave(lab, host, cable)?;
        }
        bond.wait_active(lab, cable)?;
        super::wait_ping(lab, 0, "10.110.0.2", 10)?;
    }
    super::transfer(lab, 1, "10.110.0.1", 16, "send")?;
    Ok(())
}

/// Round trips of one queue pair: some seconds, so that hardly any cut meets none. One pair comes after the other.
const CUT_ROUNDS: u32 = 3000;
const CUT_LIMIT: Duration = Duration::from_secs(300);
/// Trains that have gone by a cable before it is cut: else nothing is shown.
const BEFORE_CUT: u64 = 100;

fn group(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let bond = Bond::of_pair(lab, "balance-xor");
    bond.make(lab)?;
    let pair = bond.link(lab, context.ours, "group")?;
    let common = format!("exec ibv_rc_pingpong -c -n {CUT_ROUNDS} -s 200000 -m 4096 -d group -g");
    let (over, mut pairs) = (AtomicBool::new(false), 0);
    let share = std::thread::scope(|scope| -> Result<Vec<u64>> {
        let cutting = scope.spawn(|| {
            let share = cut_both(lab, &bond);
            over.store(true, Ordering::Relaxed);
            share
        });
        while !over.load(Ordering::Relaxed) {
            let serving = lab.start(1, &format!("{common} {}", pair.server.gid), CUT_LIMIT);
            wait_listen(lab, 1, 18515)?;
            let calling = lab.start(
                0,
                &format!("{common} {} {}", pair.client.gid, pair.server.ipv4),
                CUT_LIMIT,
            );
            calling.ok()?;
            serving.ok()?;
            pairs += 1;
        }
        cutting
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that cuts cables panicked"))?
    })?;
    println!("{pairs} queue pairs, one after the other, and all bytes of each");
    println!("trains by cable 1 and 0 before each was cut: {share:?}");
    ensure!(
        share.iter().all(|trains| *trains > BEFORE_CUT),
        "trains by each cable: {share:?}"
    );
    for host in 0..2 {
        let [runs, trains] = [
            counter(lab, host, "group", "sent_runs")?,
            counter(lab, host, "group", "sent_trains")?,
        ];
        println!("host {host}: {runs} runs, {trains} of them trains");
    }
    bond.undo(lab, Some("group"))?;
    both_up(lab)
}

/// Cuts each cable under load, and waits until it is back. The trains that had gone by it before.
fn cut_both(lab: &Lab, bond: &Bond) -> Result<Vec<u64>> {
    let mut share = Vec::new();
    for cable in [1, 0] {
        let (begun, before) = (Instant::now(), trains_by(lab, 0, cable)?);
        let gone = || Ok::<_, anyhow::Error>(trains_by(lab, 0, cable)? - before);
        while gone()? <= BEFORE_CUT && begun.elapsed() < CUT_LIMIT {
            std::thread::sleep(Duration::from_millis(100));
        }
        share.push(gone()?);
        lab.cable(cable, "pull", None)?;
        std::thread::sleep(Duration::from_millis(500));
        lab.cable(cable, "plug", None)?;
        both_up(lab)?;
        bond.wait_active(lab, cable)?;
    }
    Ok(share)
}

/// Cuts a cable under echo requests; the longest time without an answer, seconds.
fn cut(lab: &Lab, cable: usize) -> Result<f64> {
    let line = format!("ping -D -c {PINGS} -i {EVERY_S} -W 1 10.110.0.2; true");
    let pinging = lab.start(0, &line, super::MINUTE);
    std::thread::sleep(Duration::from_millis(1500));
    lab.cable(cable, "pull", None)?;
    longest_gap(&pinging.ok()?)
}

/// The longest distance of two answers in what `ping -D` printed, seconds.
fn longest_gap(text: &str) -> Result<f64> {
    let stamp = |line: &str| -> Option<f64> {
        let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
        rest.contains("time=").then(|| stamp.parse().ok())?
    };
    let stamps: Vec<f64> = text.lines().filter_map(stamp).collect();
    ensure!(stamps.len() > PINGS / 3, "few answers came:\n{text}");
    Ok(stamps.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_answers() {
        let mut text = String::from("PING 10.110.0.2\n");
        for n in 0..PINGS {
            let late = if n >= 100 { 0.4 } else { 0.0 };
            text += &format!("[{:.6}] 64 bytes: time=0.3 ms\n", 1000.0 + n as f64 * 0.01 + late);
        }
        assert!((longest_gap(&text).unwrap() - 0.41).abs() < 1e-6);
    }
}
