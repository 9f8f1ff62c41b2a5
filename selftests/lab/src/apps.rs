// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab bench --suite apps`: programs that people buy the cables for, over our RDMA, TCP over our netdev, and what
//! the kernel has by itself: rxe and TCP over thunderbolt_net. In turns, medians: all_reduce of Open MPI over UCX here,
//! an exchange, torch and llama.cpp in `steps`.

mod steps;

use crate::bench::{keep, steal_seconds};
use crate::lab::Lab;
use crate::measure::{figure, median};
use crate::page;
use crate::runner::kernel_trouble;
use crate::spec::{ipv4, LabSpec, NetDriver, Root};
use crate::verbs::{Kind, Pair};
use crate::workloads;
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::path::Path;
use std::time::Duration;

/// Bytes of an all_reduce: powers of four.
const SIZES: [u64; 7] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Seconds of each size, about.
const EACH_S: f64 = 0.5;
/// Time limit of all sizes.
const LIMIT: Duration = Duration::from_secs(240);

/// What UCX is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Rdma,
    Tcp,
    /// RDMA in longer segments than UCX's own 8 KiB, which nothing that a device says of itself changes.
    Segments,
}

impl From<workloads::Way> for Way {
    fn from(way: workloads::Way) -> Self {
        match way {
            workloads::Way::Rdma => Self::Rdma,
            workloads::Way::Tcp => Self::Tcp,
        }
    }
}

/// A lab, and what is measured in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    /// Our netdev and our device.
    Ours,
    /// thunderbolt_net and rxe.
    Stock,
}

const GROUNDS: [Ground; 2] = [Ground::Ours, Ground::Stock];
/// What each ground is measured with. `Segments` is last: it has a place of its own in the table.
const WAYS: [Way; 3] = [Way::Rdma, Way::Tcp, Way::Segments];
/// UCX's setting for `Way::Segments`.
const SEGMENTS: &str = "UCX_RC_VERBS_SEG_SIZE=65536";

impl Ground {
    fn name(self, way: Way) -> &'static str {
        match (self, way) {
            (Ground::Ours, Way::Rdma) => "our RDMA",
            (Ground::Ours, Way::Segments) => "our RDMA, 64 KiB segments",
            (Ground::Ours, Way::Tcp) => "TCP over our netdev",
            (Ground::Stock, Way::Rdma) => "rxe over thunderbolt_net",
            (Ground::Stock, Way::Segments) => "rxe over thunderbolt_net, 64 KiB segments",
            (Ground::Stock, Way::Tcp) => "TCP over thunderbolt_net",
        }
    }

    /// Only ours is measured with more than the defaults.
    fn ways(self) -> &'static [Way] {
        match self {
            Ground::Ours => &WAYS,
            Ground::Stock => &WAYS[..2],
        }
    }

    fn kind(self) -> Kind {
        match self {
            Ground::Ours => Kind::Usb4,
            Ground::Stock => Kind::Rxe,
        }
    }

    fn spec(self) -> LabSpec {
        let driver = match self {
            Ground::Ours => NetDriver::Ours,
            Ground::Stock => NetDriver::Stock,
        };
        LabSpec {
            net: vec![driver; 2],
            root: Root::Workloads,
            memory_mib: workloads::MEMORY_MIB,
            ..LabSpec::measured()
        }
    }
}

/// Microseconds of a call by ground, way, size and round.
type Times = [[[Vec<f64>; SIZES.len()]; WAYS.len()]; GROUNDS.len()];

/// Runs the suite; its rows to `file`, its table into docs/benchmarks.md.
///
/// # Errors
///
/// A sum that is wrong, a program that fails, a kernel that complains.
pub fn run(runs: usize, file: Option<&Path>, write: bool) -> Result<()> {
    ensure!(runs > 0, "--runs must be at least 1");
    let before = page::provenance();
    let steal_before = steal_seconds();
    let mut times = Times::default();
    let mut steps = steps::Steps::default();
    for n in 0..runs {
        // Who begins changes from run to run.
        for turn in 0..2 {
            let index = (n + turn) % 2;
            let which = format!("run {} of {runs}", n + 1);
            round(GROUNDS[index], &mut times[index], &mut steps, &which)?;
        }
    }
    let mut rows = rows(&times, runs);
    rows.extend(steps.rows(runs));
    let provenance = format!("{before}; load at the end {}; {runs} runs", page::load());
    keep(
        &json!({
            "suite": "apps",
            "runs": runs,
            "provenance": provenance,
            "load": page::load(),
            "steal_s": steal_seconds() - steal_before,
            "unsupported": [],
            "rows": rows,
        }),
        file,
    )?;
    let text = format!("{HOW}\n\n{provenance}.\n\n{}", shown(&times));
    let steps = format!("{HOW_STEPS}\n\n{provenance}.\n\n{}", steps.shown());
    println!("{text}\n{steps}");
    if write {
        let command = "usb4lab bench --suite apps --write";
        page::write_part("benchmarks.md", "apps", command, &text)?;
        page::write_part("benchmarks.md", "workloads", command, &steps)?;
    }
    Ok(())
}

const HOW_STEPS: &str =
    "Medians of the runs; each of a run is itself the median, of the slower end, but for the exchanges' and for
llama.cpp's tokens, which are those of one generation. Every result is compared with what one process has, or byte by
byte. torch goes by MPI over UCX with its own settings. docs/workloads.md says what each is.";

const HOW: &str =
    "all_reduce (sum of float32) of Open MPI over UCX between two hosts, one rank each, by mpi4py: us of a
call, the median of the slower rank, medians of the runs. RDMA is UCX's rc_verbs, TCP its tcp; nothing else is allowed
for messages, so nothing falls back. UCX's settings are its own, but for one column with UCX_RC_VERBS_SEG_SIZE=65536
(its default is 8256). rxe's queue pairs are connected over TCP, ours over UD. Every element is compared
in the first and in the last call of a size.";

/// One lab, both ways over it.
fn round(
    ground: Ground,
    times: &mut [[Vec<f64>; SIZES.len()]; WAYS.len()],
    steps: &mut steps::Steps,
    which: &str,
) -> Result<()> {
    let lab = Lab::up(&format!("apps-{}", std::process::id()), ground.spec())?;
    let marks = lab.marks();
    join(&lab, &[0, 1].map(|host| ipv4(0, host)))?;
    let pair = Pair::add(&lab, ground.kind(), ground.kind())?;
    for (way, times) in ground.ways().iter().zip(times) {
        let name = ground.name(*way);
        eprintln!("{which}: {name}");
        let got = all_reduce(&lab, &pair, ground, *way).context(name)?;
        for (us, times) in got.into_iter().zip(times) {
            times.push(us);
        }
    }
    steps.measure(&lab, &pair, ground)?;
    pair.delete(&lab)?;
    if let Some(trouble) = kernel_trouble(&marks)? {
        bail!("a kernel complained:\n{trouble}");
    }
    lab.discard();
    Ok(())
}

/// Lets host 0 start programs on every host by ssh, by the names that the hosts have, at one address of each.
///
/// # Errors
///
/// A command that fails.
pub fn join(lab: &Lab, addresses: &[String]) -> Result<()> {
    let mut names = String::from("127.0.0.1 localhost\n");
    for (host, address) in addresses.iter().enumerate() {
        names += &format!("{address} h{host}\n");
        lab.sh(host, "mkdir -p -m 700 /root/.ssh /run/sshd")?;
    }
    let key = lab.sh(
        0,
        "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cat /root/.ssh/id_ed25519.pub",
    )?;
    let quiet = "Host *\nStrictHostKeyChecking no\nLogLevel ERROR\n";
    lab.put(0, "/root/.ssh/config", quiet.as_bytes(), 0o600)?;
    for host in 0..lab.spec.hosts {
        lab.put(host, "/etc/hosts", names.as_bytes(), 0o644)?;
        lab.put(host, "/root/.ssh/authorized_keys", key.as_bytes(), 0o600)?;
        lab.sh(host, "/usr/sbin/sshd")?;
    }
    Ok(())
}

/// The same over our devices, wherever they are; microseconds of a call at each size.
///
/// # Errors
///
/// A sum that is wrong, or a program that fails.
pub fn reduce_over(lab: &Lab, pair: &Pair) -> Result<Vec<f64>> {
    all_reduce(lab, pair, Ground::Ours, Way::Rdma)
}

/// Microseconds of a call at each size.
fn all_reduce(lab: &Lab, pair: &Pair, ground: Ground, way: Way) -> Result<Vec<f64>> {
    let sizes: Vec<String> = SIZES.iter().map(u64::to_string).collect();
    let program = format!("python3 /usb4lab/allreduce.py {EACH_S} {}", sizes.join(" "));
    let (way, more) = match way {
        Way::Rdma => (workloads::Way::Rdma, String::new()),
        Way::Segments => (workloads::Way::Rdma, format!("-x {SEGMENTS}")),
        Way::Tcp => (workloads::Way::Tcp, String::new()),
    };
    let line = workloads::open_mpi(pair, ground.kind(), way, 1, &more, &program);
    let text = lab.ok_within(0, &["/bin/sh", "-c", &line], LIMIT)?;
    let mut times = Vec::new();
    for (size, line) in SIZES.iter().zip(text.lines()) {
        let said: Value = serde_json::from_str(line).with_context(|| format!("all_reduce printed {text}"))?;
        ensure!(
            said["bytes"] == *size && said["wrong"] == 0,
            "all_reduce was wrong: {line}"
        );
        times.push(said["us"].as_f64().with_context(|| line.to_string())?);
    }
    ensure!(times.len() == SIZES.len(), "all_reduce stopped after {text}");
    Ok(times)
}

fn size_name(size: u64) -> String {
    match size >> 20 {
        0 => format!("{}KiB", size >> 10),
        mib => format!("{mib}MiB"),
    }
}

fn rows(times: &Times, runs: usize) -> Vec<Value> {
    let against = [
        ("", Ground::Stock, Way::Rdma),
        ("_vs_tcp", Ground::Ours, Way::Tcp),
        ("_vs_stock_tcp", Ground::Stock, Way::Tcp),
    ];
    // By how much a longer segment is faster, and where that leaves TCP.
    let segments = [("_64k_segments", Way::Rdma), ("_64k_segments_vs_tcp", Way::Tcp)];
    let pairs: Vec<(&str, Way, Ground, Way)> = Iterator::chain(
        against
            .map(|(suffix, ground, way)| (suffix, Way::Rdma, ground, way))
            .into_iter(),
        segments.map(|(suffix, way)| (suffix, Way::Segments, Ground::Ours, way)),
    )
    .collect();
    let mut rows = Vec::new();
    for (n, size) in SIZES.iter().enumerate() {
        for &(suffix, with, ground, way) in &pairs {
            let own = &times[Ground::Ours as usize][with as usize][n];
            let other = &times[ground as usize][way as usize][n];
            let both = median(own).zip(median(other));
            rows.push(json!({
                "metric": format!("allreduce_{}{suffix}", size_name(*size)),
                "ours": both.map(|(a, _)| a),
                "theirs": both.map(|(_, b)| b),
                "ratio": both.map(|(a, b)| a / b),
                "unit": "us",
                "peer": ground.name(way),
                "runs": runs,
                "values": {"ours": own, "theirs": other},
            }));
        }
    }
    rows
}

fn shown(times: &Times) -> String {
    let mut heading = vec!["all_reduce of".to_string()];
    for ground in GROUNDS {
        heading.extend(ground.ways().iter().map(|way| format!("{}, us", ground.name(*way))));
    }
    heading.extend(["ours/TCP".into(), "64 KiB segments/TCP".into(), "ours/rxe".into()]);
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
    let cells: Vec<Vec<String>> = SIZES
        .iter()
        .enumerate()
        .map(|(n, size)| {
            let of = |ground: Ground, way: Way| median(&times[ground as usize][way as usize][n]);
            let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
            let mut row = vec![size_name(*size)];
            for ground in GROUNDS {
                row.extend(ground.ways().iter().map(|way| cell(of(ground, *way))));
            }
            let own = of(Ground::Ours, Way::Rdma);
            let tcp = of(Ground::Ours, Way::Tcp);
            row.push(cell(ratio(own, tcp)));
            row.push(cell(ratio(of(Ground::Ours, Way::Segments), tcp)));
            row.push(cell(ratio(own, of(Ground::Stock, Way::Rdma))));
            row
        })
        .collect();
    page::table(&heading, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_size_and_by_whom_they_are_against() {
        let mut times = Times::default();
        times[0][0][0] = vec![10.0, 30.0, 20.0];
        times[0][1][0] = vec![40.0];
        times[1][0][0] = vec![80.0];
        let rows = rows(&times, 3);
        assert_eq!(
            (&rows[0]["metric"], &rows[0]["ratio"]),
            (&json!("allreduce_1KiB"), &json!(0.25))
        );
        assert_eq!(
            (&rows[1]["metric"], &rows[1]["ratio"]),
            (&json!("allreduce_1KiB_vs_tcp"), &json!(0.5))
        );
        assert_eq!(rows[2]["ratio"], Value::Null);
        assert_eq!(rows[3]["metric"], "allreduce_1KiB_64k_segments");
        assert_eq!(rows[34]["metric"], "allreduce_4MiB_64k_segments_vs_tcp");
        let table = shown(&times);
        assert!(
            table.contains("| 1KiB | 20.0 | 40.0 | - | 80.0 | - | 0.50 | - | 0.25 |"),
            "{table}"
        );
    }
}
