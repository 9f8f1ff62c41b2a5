// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab yardstick`: what a user compares first, RDMA and TCP over one cable between two of our own network devices,
//! and stock rxe over the same devices, in turns, medians.

use crate::lab::Lab;
use crate::measure::{figure, median, Metric};
use crate::netbench;
use crate::page;
use crate::parse;
use crate::spec::{LabSpec, NetDriver};
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Context, Result};

/// Seconds of a TCP stream.
const TCP_S: u32 = 2;
/// MiB/s of a Gbit/s.
const MIB_OF_GBIT: f64 = 1e9 / 8.0 / (1 << 20) as f64;

const METRICS: [Metric; 6] = [
    Metric::Bandwidth {
        name: "WRITE 64 KiB, MiB/s",
        program: "ib_write_bw",
        size: 65536,
        count: 5000,
    },
    Metric::Bandwidth {
        name: "SEND 64 KiB, MiB/s",
        program: "ib_send_bw",
        size: 65536,
        count: 5000,
    },
    Metric::Bandwidth {
        name: "READ 64 KiB, MiB/s",
        program: "ib_read_bw",
        size: 65536,
        count: 5000,
    },
    Metric::Bandwidth {
        name: "WRITE 1 MiB, MiB/s",
        program: "ib_write_bw",
        size: 1 << 20,
        count: 300,
    },
    Metric::Bandwidth {
        name: "WRITE 4 KiB, MiB/s",
        program: "ib_write_bw",
        size: 4096,
        count: 20000,
    },
    Metric::Latency {
        name: "WRITE 64 B, us",
        program: "ib_write_lat",
        size: 64,
        count: 2000,
    },
];

const HOW: &str = "RDMA on our device, one TCP stream (iperf3) and stock rxe over the same cable between two of our
network devices, in turns; medians. Guests pinned, each on a processor of the machine. The CPU column is the time of
both guests for each GiB.";

/// The row of the bare rings, which all latencies stand on.
const FLOOR: &str = "bare rings (ethtool -t), half a round trip, us";

/// What `usb4lab yardstick` is asked to do.
pub struct Yardstick {
    pub runs: usize,
    /// Put the table into docs/benchmarks.md.
    pub write: bool,
}

/// Values and CPU seconds for each GiB.
type Series = [Vec<f64>; 2];

fn note(series: &mut Series, value: f64, cpu: Option<f64>) {
    series[0].push(value);
    series[1].extend(cpu);
}

fn cells(series: &Series) -> [String; 2] {
    [&series[0], &series[1]].map(|values| median(values).map_or_else(|| "-".into(), figure))
}

impl Yardstick {
    /// Measures, and prints the table.
    ///
    /// # Errors
    ///
    /// A program that fails.
    pub fn run(&self) -> Result<()> {
        ensure!(self.runs > 0, "--runs must be at least 1");
        let before = page::provenance();
        let lab = Lab::up(
            &format!("yardstick-{}", std::process::id()),
            LabSpec {
                net: vec![NetDriver::Ours; 2],
                ..LabSpec::measured()
            },
        )?;
        let mut rdma: [[Series; METRICS.len()]; 2] = Default::default();
        let mut tcp = Series::default();
        let mut floor = Vec::new();
        for run in 0..self.runs {
            for (side, kind) in [Kind::Usb4, Kind::Rxe].into_iter().enumerate() {
                eprintln!("run {} of {}: {}", run + 1, self.runs, kind.link_type());
                let pair = Pair::add(&lab, kind, kind)?;
                for (metric, series) in METRICS.iter().zip(&mut rdma[side]) {
                    let reading = metric.measure(&lab, &pair).with_context(|| metric.name())?;
                    note(series, reading.value, reading.cpu_s_per_gib);
                }
                pair.delete(&lab)?;
            }
            let (gbit, cpu) = netbench::tcp(&lab, TCP_S)?;
            note(&mut tcp, gbit * MIB_OF_GBIT, Some(cpu));
            let trips = lab.sh(0, &format!("ethtool -t {}", lab.netdev(0, 0)?))?;
            // As perftest counts: half of a round trip.
            floor.push(parse::round_trip(&trips)? / 2000.0);
        }
        lab.discard();
        let mut rows = Vec::new();
        for (n, metric) in METRICS.iter().enumerate() {
            let ([ours, ours_cpu], [rxe, rxe_cpu]) = (cells(&rdma[0][n]), cells(&rdma[1][n]));
            let [stream, stream_cpu] = match metric {
                Metric::Bandwidth { .. } => cells(&tcp),
                _ => ["-".into(), "-".into()],
            };
            rows.push(vec![
                metric.name().into(),
                ours,
                stream,
                rxe,
                ours_cpu,
                stream_cpu,
                rxe_cpu,
            ]);
        }
        let mut bare = vec![FLOOR.into(), median(&floor).map_or_else(|| "-".into(), figure)];
        bare.resize(7, "-".into());
        rows.push(bare);
        let heading = [
            "",
            "ours",
            "TCP",
            "rxe",
            "ours, CPU s/GiB",
            "TCP, CPU s/GiB",
            "rxe, CPU s/GiB",
        ];
        let table = page::table(&heading, &rows);
        let text = format!(
            "{HOW}\n\n{before}; load at the end {}; {} runs.\n\n{table}",
            page::load(),
            self.runs
        );
        println!("{text}");
        if self.write {
            page::write_part("benchmarks.md", "yardstick", "usb4lab yardstick --write", &text)?;
        }
        Ok(())
    }
}
