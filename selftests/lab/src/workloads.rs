// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Programs that people buy the cables for, over a pair of hosts with the workloads' root: what the cases `workload_*`
//! and `usb4lab bench --suite apps` run. Each checks what it computes; here is how it is started, over RDMA or TCP.

use crate::duo::Run;
use crate::lab::Lab;
use crate::spec::{LabSpec, NetDriver, Root};
use crate::verbs::Pair;
use anyhow::{ensure, Context, Result};
use serde::Deserialize;
use std::time::Duration;

/// What torch, or two ranks with UCX's buffers, need in a guest, MiB.
pub const MEMORY_MIB: u32 = 2048;
/// Port of the exchange, TCP's and rdma_cm's.
const EXCHANGE: u16 = 18590;

/// What carries a program's messages. Nothing falls back to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Rdma,
    Tcp,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        }
    }
}

/// Two hosts that run workloads, with that network driver.
pub fn spec(driver: NetDriver) -> LabSpec {
    LabSpec {
        net: vec![driver; 2],
        root: Root::Workloads,
        memory_mib: MEMORY_MIB,
        ..LabSpec::default()
    }
}

/// Compiles a C program of guest/ on both hosts, as /tmp/`output`.
///
/// # Errors
///
/// What the compiler says.
pub fn compile(lab: &Lab, compiler: &str, program: &str, output: &str, libraries: &str) -> Result<()> {
    let line = format!("{compiler} -O2 -Wall -Wextra -Werror -o /tmp/{output} /usb4lab/{program} {libraries}");
    // Both at once, as the hosts have a processor each.
    let other = lab.start(1, &line, Duration::from_secs(120));
    let own = lab.ok_within(0, &["/bin/sh", "-c", &line], Duration::from_secs(120));
    other.ok()?;
    own.map(drop)
}

/// Makes guest/exchange.c ready on both hosts.
///
/// # Errors
///
/// What the compiler says.
pub fn compile_exchange(lab: &Lab) -> Result<()> {
    compile(lab, "cc", "exchange.c", "exchange", "-lrdmacm -libverbs")
}

/// What an end of an exchange has seen: microseconds of a round.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Spread {
    pub wrong: u64,
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { min, p50, p99, max, .. } = self;
        write!(f, "min {min:.1} us, p50 {p50:.1}, p99 {p99:.1}, max {max:.1}")
    }
}

/// The two ends of an exchange.
pub fn exchange_run(pair: &Pair, way: Way, bytes: u32, rounds: u32) -> Run {
    let (word, to) = (way.word(), &pair.server.ipv4);
    let family = match way {
        Way::Rdma => "cm",
        Way::Tcp => "tcp",
    };
    Run {
        id: format!("exchange of {bytes} bytes by {word}"),
        server: format!("/tmp/exchange serve {to} {word} {bytes} {rounds}"),
        client: format!("/tmp/exchange call {to} {word} {bytes} {rounds}"),
        listen: format!("{family}:{EXCHANGE}"),
        limit: 120,
    }
}

/// Plays guest/exchange.c; what the caller has seen. All bytes of both ends were right.
///
/// # Errors
///
/// A program that fails, a byte that is wrong.
pub fn exchange(lab: &Lab, pair: &Pair, way: Way, bytes: u32, rounds: u32) -> Result<Spread> {
    let run = exchange_run(pair, way, bytes, rounds);
    let played = pair.play_all(lab, std::slice::from_ref(&run))?;
    let played = played.first().context("nothing was played")?;
    let read = |text: &str| serde_json::from_str::<Spread>(text).with_context(|| format!("{}: {text}", run.id));
    let (called, served) = (read(&played.client.out)?, read(&played.server.out)?);
    ensure!(
        called.wrong + served.wrong == 0,
        "{}: {} bytes were wrong at the caller, {} at the server",
        run.id,
        called.wrong,
        served.wrong
    );
    Ok(called)
}
