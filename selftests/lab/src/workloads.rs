// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Programs that people buy the cables for, over a pair of hosts with the workloads' root: what the cases `workload_*`
//! and `usb4lab bench --suite apps` run. Each checks what it computes; here is how it is started, over RDMA or TCP.

use crate::duo::Run;
use crate::lab::Lab;
use crate::paths;
use crate::spec::{LabSpec, NetDriver, Root};
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Context, Result};
use serde::Deserialize;
use serde_json::Value;
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

/// Where a guest has the program that [`compile`] made.
pub fn built(output: &str) -> String {
    format!("/run/{output}")
}

/// Compiles a C program of guest/ on both hosts, as [`built`] has it.
///
/// # Errors
///
/// What the compiler says.
pub fn compile(lab: &Lab, compiler: &str, program: &str, output: &str, libraries: &str) -> Result<()> {
    let output = built(output);
    let line = format!("{compiler} -O2 -Wall -Wextra -Werror -o {output} /usb4lab/{program} {libraries}");
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
    /// Times that rdma_cm has said UNREACHABLE, which a carrier that goes brings about.
    pub unreachable: u32,
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { min, p50, p99, max, .. } = self;
        write!(f, "min {min:.1} us, p50 {p50:.1}, p99 {p99:.1}, max {max:.1}")
    }
}

/// The two ends of an exchange.
pub fn exchange_run(pair: &Pair, way: Way, bytes: u32, rounds: u32) -> Run {
    let (word, to, program) = (way.word(), &pair.server.ipv4, built("exchange"));
    let family = match way {
        Way::Rdma => "cm",
        Way::Tcp => "tcp",
    };
    Run {
        id: format!("exchange of {bytes} bytes by {word}"),
        server: format!("{program} serve {to} {word} {bytes} {rounds}"),
        client: format!("{program} call {to} {word} {bytes} {rounds}"),
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

/// What Open MPI and torch's fork of it want to be told, where root runs them.
const AS_ROOT: &str = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; exec";

/// An Open MPI program over UCX between hosts 0 and 1, `ranks` on each; `more` for mpirun.
pub fn open_mpi(pair: &Pair, kind: Kind, way: Way, ranks: u32, more: &str, program: &str) -> String {
    let (device, netdev) = (&pair.client.name, &pair.client.netdev);
    // Shared memory where there are several ranks on a host.
    let within = if ranks > 1 { "self,sm" } else { "self" };
    // What queue pairs are connected by. Over rxe's UD queue pairs UCX's datagrams arrive, by rxe's counters, and UCX
    // does not take them: it gives up after half a minute.
    let transport = match (way, kind) {
        (Way::Rdma, Kind::Usb4) => {
            format!("-x UCX_TLS=rc_verbs,ud_verbs:aux,{within} -x UCX_NET_DEVICES={device}:1")
        }
        (Way::Rdma, Kind::Rxe) => {
            format!("-x UCX_TLS=rc_verbs,tcp:aux,{within} -x UCX_NET_DEVICES={device}:1,{netdev}")
        }
        (Way::Tcp, _) => format!("-x UCX_TLS=tcp,{within} -x UCX_NET_DEVICES={netdev}"),
    };
    // Open MPI takes UCX for InfiniBand devices only, unless it is told to take any. It would give each rank a
    // processor of its own, of which a guest has one.
    format!(
        "{AS_ROOT} mpirun -np {} --bind-to none --host h0:{ranks},h1:{ranks} --mca pml ucx \
         --mca opal_common_ucx_tls any --mca opal_common_ucx_devices any {transport} {more} {program}",
        2 * ranks
    )
}

/// The same over libfabric's `verbs;ofi_rxm`: messages only, as its one-sided part finds no provider that has all it
/// asks for.
pub fn open_mpi_ofi(pair: &Pair, ranks: u32, program: &str) -> String {
    format!(
        "{AS_ROOT} mpirun -np {} --bind-to none --host h0:{ranks},h1:{ranks} --mca pml cm --mca mtl ofi \
         --mca mtl_ofi_provider_include 'verbs;ofi_rxm' -x FI_VERBS_IFACE={} {program}",
        2 * ranks,
        pair.client.netdev
    )
}

/// An MPICH program over UCX, which is all that the distribution's build has.
pub fn mpich(pair: &Pair, ranks: u32, program: &str) -> String {
    format!(
        "exec mpiexec.mpich -hosts h0:{ranks},h1:{ranks} -genv UCX_TLS rc_verbs,ud_verbs:aux,self,sm \
         -genv UCX_NET_DEVICES {}:1 {program}",
        pair.client.name
    )
}

/// Runs a line of shell on host 0 that prints one JSON object as its last line.
///
/// # Errors
///
/// A status other than 0, or another last line.
pub fn told(lab: &Lab, line: &str, limit: Duration) -> Result<Value> {
    let text = lab.ok_within(0, &["/bin/sh", "-c", line], limit)?;
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("{line}\nprinted {text}"))
}

/// Where guests find llama.cpp's programs and the model; None if they are not set up.
pub fn llama_home() -> Result<Option<String>> {
    let Ok(home) = paths::project()?.join("build/llama").canonicalize() else {
        return Ok(None);
    };
    let name = home.file_name().context("build/llama")?.to_string_lossy().into_owned();
    Ok(Some(format!("/opt/{name}")))
}

/// What a generation has printed, and what both ends have logged.
#[derive(Debug)]
pub struct Generated {
    pub tokens: Vec<u32>,
    pub per_second: f64,
    /// Connections that either end says to have over RDMA.
    pub activated: [usize; 2],
}

/// Port of llama.cpp's RPC server.
const LLAMA: u16 = 50052;
/// Layers of the model's four that the server has.
const LAYERS: u32 = 2;
/// What llama.cpp logs of a connection that goes by RDMA.
const ACTIVATED: &str = "RDMA activated";

/// `tokens` of llama.cpp, half of the model's layers on the pair's server; on the client alone if there is no way.
///
/// # Errors
///
/// A program that fails.
pub fn llama(lab: &Lab, pair: &Pair, way: Option<Way>, tokens: u32) -> Result<Generated> {
    let home = llama_home()?.context("llama.cpp is not set up")?;
    let here = format!("{home}/generate {home}/model.gguf {tokens}");
    let (text, logs) = match way {
        None => (
            lab.sh(0, &format!("{here} 2> /dev/null"))?,
            [String::new(), String::new()],
        ),
        Some(way) => {
            let end = format!("{}:{LLAMA}", pair.server.ipv4);
            let no_rdma = if way == Way::Tcp { "GGML_RPC_NO_RDMA=1 " } else { "" };
            let server = format!(
                "{no_rdma}GGML_RDMA_DEV={} exec {home}/server {end} 2>&1",
                pair.server.name
            );
            let serving = lab.start(1, &server, Duration::from_secs(120));
            crate::verbs::wait_listen(lab, 1, LLAMA)?;
            let line = format!("{no_rdma}GGML_RDMA_DEV={} exec {here} {LAYERS} {end}", pair.client.name);
            let called = lab.run(0, &["/bin/sh", "-c", &line], Duration::from_secs(100))?;
            lab.run(1, &["pkill", "-KILL", "-x", "server"], Duration::from_secs(20))?;
            let served = serving.wait()?;
            ensure!(
                called.status == 0,
                "llama.cpp by {way:?}: status {}\n{}server:\n{}",
                called.status,
                called.errors(),
                served.text()
            );
            (called.text(), [called.errors(), served.text()])
        }
    };
    let said: Value = serde_json::from_str(text.trim()).with_context(|| text.clone())?;
    let list: Vec<u32> = serde_json::from_value(said["tokens"].clone())?;
    let seconds = said["seconds"].as_f64().context("no time")?;
    ensure!(list.len() == tokens as usize, "{said}");
    Ok(Generated {
        per_second: f64::from(tokens - 1) / seconds,
        tokens: list,
        activated: logs.map(|log| log.matches(ACTIVATED).count()),
    })
}
