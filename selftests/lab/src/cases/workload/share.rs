// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One computation shared by two hosts: MPI, torch.distributed, llama.cpp's RPC backend.

use super::{in_lab, while_pulled};
use crate::apps::join;
use crate::cases::life::both_up;
use crate::cases::netdev::runs::{counter, FLOWS};
use crate::cases::{Context, Skip};
use crate::lab::Lab;
use crate::spec::ipv4;
use crate::verbs::{Kind, Pair};
use crate::workloads::{self, built, Way};
use anyhow::{ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

/// Limit of one start of MPI or torch, of which a guest loads 350 MB.
const LIMIT: Duration = Duration::from_secs(300);

/// `in_lab`, where host 0 may start programs on host 1 by ssh.
fn in_joined(context: &Context, name: &str, act: impl FnOnce(&Lab, &Pair) -> Result<()>) -> Result<()> {
    in_lab(context, name, |lab, pair| {
        join(lab, &[0, 1].map(|host| ipv4(0, host)))?;
        act(lab, pair)
    })
}

pub fn mpi(context: &Context) -> Result<()> {
    in_joined(context, "mpi", |lab, pair| {
        for which in ["openmpi", "mpich"] {
            workloads::compile(lab, &format!("mpicc.{which}"), "mpi.c", &format!("mpi-{which}"), "")?;
        }
        // Without being told so Open MPI does not take UCX for windows over a device that is not Mellanox's.
        let open = |ranks, seconds| {
            let program = format!("{} {seconds} all", built("mpi-openmpi"));
            workloads::open_mpi(pair, Kind::Usb4, Way::Rdma, ranks, "--mca osc ucx", &program)
        };
        let mpich = |ranks, seconds| {
            let program = format!("{} {seconds} all", built("mpi-mpich"));
            workloads::mpich(pair, ranks, &program)
        };
        for ranks in [1, 4] {
            let lines = [
                ("Open MPI, UCX", open(ranks, 1)),
                (
                    "Open MPI, OFI",
                    workloads::open_mpi_ofi(pair, ranks, &format!("{} 1 messages", built("mpi-openmpi"))),
                ),
                ("MPICH, UCX", mpich(ranks, 1)),
            ];
            for (name, line) in lines {
                let said = right(workloads::told(lab, &line, LIMIT)?, ranks)?;
                println!("{name}: {said}");
            }
        }
        for (name, line) in [("Open MPI, UCX", open(1, 10)), ("MPICH, UCX", mpich(1, 10))] {
            let said = while_pulled(lab, pair, 50 * FLOWS, || workloads::told(lab, &line, LIMIT))?;
            println!("{name}, a cable pulled: {}", right(said, 1)?);
        }
        Ok(())
    })
}

/// What mpi.c has said, if all of it was right.
fn right(said: Value, ranks_each: u32) -> Result<Value> {
    ensure!(said["wrong"] == 0 && said["ranks"] == 2 * ranks_each, "{said}");
    Ok(said)
}

/// Seconds that each kind of step is timed.
const TIMED: u32 = 3;
/// The same while a cable is pulled.
const PULLED: u32 = 8;

pub fn torch(context: &Context) -> Result<()> {
    in_joined(context, "torch", |lab, pair| {
        let run = |script: &str, way, seconds| {
            let program = format!("python3 /usb4lab/torch-{script}.py {seconds}");
            let line = workloads::open_mpi(pair, Kind::Usb4, way, 1, "", &program);
            workloads::told(lab, &line, LIMIT)
        };
        for way in [Way::Rdma, Way::Tcp] {
            for script in ["steps", "fsdp"] {
                println!("{way:?}: {}", run(script, way, TIMED)?);
            }
        }
        for script in ["steps", "fsdp"] {
            let said = while_pulled(lab, pair, 10 * FLOWS, || run(script, Way::Rdma, PULLED))?;
            println!("Rdma, a cable pulled: {said}");
        }
        Ok(())
    })
}

const TOKENS: u32 = 64;
/// Tokens of which a cable is pulled among: seconds.
const MANY_TOKENS: u32 = 480;

pub fn llama(context: &Context) -> Result<()> {
    if workloads::llama_home()?.is_none() {
        return Err(Skip("no llama.cpp: `make setup-workloads`".into()).into());
    }
    in_lab(context, "llama", |lab, pair| {
        let alone = workloads::llama(lab, pair, None, TOKENS)?;
        println!("one host: {:.0} tokens/s", alone.per_second);
        for way in [Way::Rdma, Way::Tcp] {
            let shared = workloads::llama(lab, pair, Some(way), TOKENS)?;
            ensure!(shared.tokens == alone.tokens, "{way:?}: {shared:?}, alone {alone:?}");
            let by_rdma = shared.activated.iter().all(|count| *count > 0);
            ensure!(by_rdma == (way == Way::Rdma), "{way:?}: {:?}", shared.activated);
            println!(
                "{way:?}: {:.0} tokens/s, connections by RDMA {:?}",
                shared.per_second, shared.activated
            );
        }
        cut(lab, pair)
    })
}

/// A cable is pulled. llama.cpp gives a queue pair 0.54 s (timeout 14, retry_cnt 7): where that is too short, it ends,
/// and its log has the reason, not the link. Who looks for that finds it counted, and a new start of both ends works.
fn cut(lab: &Lab, pair: &Pair) -> Result<()> {
    let alone = workloads::llama(lab, pair, None, MANY_TOKENS)?;
    let shared = || workloads::llama(lab, pair, Some(Way::Rdma), MANY_TOKENS);
    let downs = || counter(lab, 0, &pair.client.name, "link_downed");
    let before = downs()?;
    match while_pulled(lab, pair, 20 * FLOWS, || Ok(shared()))? {
        Ok(seen) => {
            ensure!(seen.tokens == alone.tokens, "a cable pulled: {seen:?}");
            println!("Rdma, a cable pulled: {:.0} tokens/s", seen.per_second);
        }
        Err(error) => {
            let text = format!("{error:#}");
            let line = text.lines().find(|line| line.contains("RDMA CQ wc error"));
            let line = line.with_context(|| format!("it ended otherwise: {text}"))?;
            ensure!(line.contains("status=12 (transport retry counter exceeded)"), "{line}");
            println!("Rdma, a cable pulled: it ended: {line}");
        }
    }
    ensure!(downs()? > before, "link_downed has not grown");
    both_up(lab)?;
    ensure!(shared()?.tokens == alone.tokens, "with the cable back");
    Ok(())
}
