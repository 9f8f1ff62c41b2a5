// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What people buy the cables for, unmodified where it is theirs, on hosts with the workloads' root; with a cable
//! pulled in the middle of each. docs/workloads.md has the recipes.

mod share;

use super::netdev::runs::{counter, wait_flow, FLOWS};
use super::netdev::{in_own, only_ours};
use super::{long, own, Case, Context, Skip};
use crate::duo::Run;
use crate::lab::Lab;
use crate::paths;
use crate::spec::{Kernel, LabSpec, NetDriver, Root};
use crate::verbs::{port, Pair};
use crate::workloads::{self, Way};
use anyhow::{anyhow, ensure, Context as _, Result};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    long(own(
        "workload_exchange",
        "gufo's exchange: WRITE_WITH_IMM of 10 and 16 KiB into three windows, its latencies; a peer that dies is told at once",
        exchange,
    )),
    long(own(
        "workload_uc",
        "ds4's and JACCL's use: SENDs of a UC queue pair, 32 requests of one SGE outstanding, MTU 1024 and 4096",
        uc,
    )),
    long(own(
        "workload_mpi",
        "Open MPI over UCX and OFI, MPICH over UCX, 1 and 4 ranks a host: alltoall, allreduce, Put, Get; a cable is pulled",
        share::mpi,
    )),
    long(own(
        "workload_torch",
        "torch: tensor-parallel decoding, DDP and FSDP2, equal to one process, timed over RDMA and TCP; a cable is pulled",
        share::torch,
    )),
    long(own(
        "workload_llama",
        "llama.cpp's RPC backend: the tokens of one host, by RDMA as its log says, and by TCP; a cable is pulled",
        share::llama,
    )),
];

/// Time that a cable is out.
const OUT: Duration = Duration::from_millis(500);

/// Plays something between two hosts with the workloads' root, one cable of ours and our devices over it.
fn in_lab(context: &Context, name: &str, act: impl FnOnce(&Lab, &Pair) -> Result<()>) -> Result<()> {
    only_ours(context, "RDMA of ours below it")?;
    if context.kernel != Kernel::Lab {
        return Err(Skip("what it shows is the programs', which take minutes there".into()).into());
    }
    if let Err(error) = paths::root(Root::Workloads) {
        return Err(Skip(format!("{error:#}")).into());
    }
    let spec = LabSpec {
        kernel: context.kernel,
        seed: context.seed,
        ..workloads::spec(NetDriver::Ours)
    };
    in_own(spec, name, |lab| {
        let pair = Pair::add(lab, context.ours, context.ours)?;
        act(lab, &pair)?;
        pair.delete(lab)
    })
}

/// Lets `act` act, and pulls the cable for half a second once `packets` have come. It must be at work then.
fn while_pulled<T: Send>(lab: &Lab, pair: &Pair, packets: u64, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    thread::scope(|scope| {
        let acting = scope.spawn(act);
        let pulled = wait_flow(lab, &pair.client.name, before + packets).and_then(|()| {
            let over = acting.is_finished();
            lab.cable(0, "pull", None)?;
            thread::sleep(OUT);
            lab.cable(0, "plug", None)?;
            Ok(over)
        });
        let acted = acting.join().map_err(|_| anyhow!("the program's thread panicked"))?;
        ensure!(!pulled.context("the cable")?, "it was over before the cable was pulled");
        acted
    })
}

/// What gufo gives each other after a layer.
const GIVEN: [u32; 2] = [10 << 10, 16 << 10];
const ROUNDS: u32 = 5000;
/// Rounds in which a cable is pulled: some ten seconds.
const MANY_ROUNDS: u32 = 50_000;
/// Milliseconds within which the end of a peer's process is told by rdma_cm, on a busy machine. It was told after 2.
const TOLD_MS: f64 = 1000.0;

fn exchange(context: &Context) -> Result<()> {
    in_lab(context, "exchange", |lab, pair| {
        workloads::compile_exchange(lab)?;
        for bytes in GIVEN {
            for way in [Way::Rdma, Way::Tcp] {
                let seen = workloads::exchange(lab, pair, way, bytes, ROUNDS)?;
                println!("{bytes} bytes, {way:?}: {seen}");
            }
        }
        let cut = while_pulled(lab, pair, 50 * FLOWS, || {
            workloads::exchange(lab, pair, Way::Rdma, GIVEN[1], MANY_ROUNDS)
        })?;
        ensure!(
            cut.max >= OUT.as_micros() as f64,
            "no round lasted as long as the cable was out: {cut}"
        );
        println!(
            "{} bytes, with the cable out for {OUT:?}: {cut}, UNREACHABLE {} times",
            GIVEN[1], cut.unreachable
        );
        dead_peer(lab, pair)
    })
}

/// The server is killed in the middle.
fn dead_peer(lab: &Lab, pair: &Pair) -> Result<()> {
    let run = workloads::exchange_run(pair, Way::Rdma, GIVEN[0], 10_000_000);
    let run = Run {
        server: format!("{} & sleep 2; kill -KILL $!", run.server),
        ..run
    };
    let played = pair.play_all(lab, std::slice::from_ref(&run))?;
    let out = &played.first().context("nothing was played")?.client.out;
    let said: Value = serde_json::from_str(out).with_context(|| out.clone())?;
    let ms = |name: &str| said[name].as_f64().map_or(-1.0, |us| us / 1000.0);
    println!(
        "its peer killed after {} rounds: rdma_cm's event {} after {:.1} ms, a completion with status {} after {:.0} ms",
        said["rounds"],
        said["cm_event"],
        ms("cm_us"),
        said["wc_status"],
        ms("wc_us")
    );
    // RDMA_CM_EVENT_DISCONNECTED, IBV_WC_RETRY_EXC_ERR.
    ensure!(
        said["rounds"].as_u64() > Some(0) && said["cm_event"] == 10 && said["wc_status"] == 12,
        "{said}"
    );
    ensure!(
        (0.0..TOLD_MS).contains(&ms("cm_us")),
        "told after {:.1} ms",
        ms("cm_us")
    );
    Ok(())
}

/// Messages of each end.
const MESSAGES: u32 = 6000;
/// Messages among which a cable is pulled.
const MANY_MESSAGES: u32 = 60_000;

fn uc(context: &Context) -> Result<()> {
    in_lab(context, "uc", |lab, pair| {
        for mtu in [1024, 4096] {
            let played = pair.play_all(lab, &[uc_run(pair, mtu, MESSAGES)])?;
            for said in &played {
                for out in [&said.client.out, &said.server.out] {
                    let said: Value = serde_json::from_str(out).with_context(|| out.clone())?;
                    ensure!(
                        said["wrong"].as_array().is_some_and(Vec::is_empty)
                            && said["messages"] == MESSAGES
                            && said["most"] == 32,
                        "MTU {mtu}: {said}"
                    );
                    println!("MTU {mtu}: {said}");
                }
            }
        }
        lost(lab, pair)
    })
}

/// A cable is pulled: what was on its way is lost, and nobody sends it again. Both ends say so and name the device.
/// Afterwards the connection of another pair of programs works as before.
fn lost(lab: &Lab, pair: &Pair) -> Result<()> {
    let begun = Instant::now();
    let played = while_pulled(lab, pair, FLOWS, || {
        pair.play(lab, &[uc_run(pair, 4096, MANY_MESSAGES)])
    })?;
    let said = played.first().context("nothing was played")?;
    println!("with the cable out for {OUT:?}: {}", said.client.out.trim());
    for (device, out) in [
        (&pair.client.name, &said.client.out),
        (&pair.server.name, &said.server.out),
    ] {
        let said: Value = serde_json::from_str(out).with_context(|| out.clone())?;
        // Where the message after the lost one comes first, it is not the one that was due.
        let wrong = said["wrong"][0].as_str().unwrap_or_default();
        let silent = wrong.starts_with("nothing for ") && wrong.ends_with(&format!("port of {device} was down"));
        let gap = wrong.starts_with("message ") && wrong.ends_with(" was due");
        ensure!(silent || gap, "after {:?}: {said}", begun.elapsed());
    }
    pair.play_all(lab, &[uc_run(pair, 4096, MESSAGES)]).map(drop)
}

fn uc_run(pair: &Pair, mtu: u32, messages: u32) -> Run {
    let (server, client, to, port) = (&pair.server, &pair.client, &pair.server.ipv4, port());
    Run {
        id: format!("UC, MTU {mtu}"),
        server: format!(
            "/usb4lab/uc.py serve {port} {} {} {mtu} {messages}",
            server.name, server.gid
        ),
        client: format!(
            "/usb4lab/uc.py call {to} {port} {} {} {mtu} {messages}",
            client.name, client.gid
        ),
        listen: format!("tcp:{port}"),
        limit: 120,
    }
}
