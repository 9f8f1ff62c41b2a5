// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `make demo`: two hosts, one cable, unmodified programs over our driver and over stock rxe, one table.

use crate::cases::{check_operations, devinfo};
use crate::lab::Lab;
use crate::measure::{figure, table, Metric, Reading};
use crate::parse;
use crate::runner::kernel_trouble;
use crate::spec::{ipv4, LabSpec};
use crate::verbs::{self, Kind, Pair};
use anyhow::{bail, Context, Result};
use std::time::{Duration, Instant};

/// What is measured on both drivers. 64 to 96 MiB each: seconds, not minutes, at rxe's 20 to 40 MiB/s.
const METRICS: [Metric; 5] = [
    Metric::PingPong {
        name: "ibv_rc_pingpong -c, 4 KiB",
        count: 500,
    },
    Metric::Bandwidth {
        name: "ib_send_bw 64 KiB",
        program: "ib_send_bw",
        size: 65536,
        count: 1024,
    },
    Metric::Bandwidth {
        name: "ib_write_bw 1 MiB",
        program: "ib_write_bw",
        size: 1 << 20,
        count: 64,
    },
    Metric::Bandwidth {
        name: "ib_read_bw 1 MiB",
        program: "ib_read_bw",
        size: 1 << 20,
        count: 96,
    },
    Metric::Latency {
        name: "ib_write_lat 8 B",
        program: "ib_write_lat",
        size: 8,
        count: 1000,
    },
];

/// Runs the demo. An error means that a data check failed or a program did.
pub fn run(ours: Kind) -> Result<()> {
    let start = Instant::now();
    step(start, "booting two hosts, one USB4 cable between them");
    let lab = Lab::up(&format!("demo-{}", std::process::id()), LabSpec::measured())?;
    let marks = lab.marks();
    let netdev = lab.netdev(0, 0)?;
    step(
        start,
        &format!("cable up: stock thunderbolt_net carries {netdev} on host 0"),
    );
    let own = readings(&lab, ours, start)?;
    let theirs = readings(&lab, Kind::Rxe, start)?;
    step(start, "iperf3 over the same cable");
    let (rate, cpu) = iperf(&lab)?;
    if let Some(trouble) = kernel_trouble(&marks)? {
        bail!("a kernel complained during the demo:\n{trouble}");
    }
    lab.discard();
    println!("\n{}", side_by_side(ours, &own, &theirs));
    println!("iperf3 (TCP over thunderbolt_net, no RDMA): {rate:.2} Gbit/s, {cpu:.1} CPU s/GiB");
    println!("CPU s/GiB: CPU time of both hosts for each GiB moved, everything included.");
    println!("All data checks passed. {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

fn step(start: Instant, text: &str) {
    println!("[{:4.0} s] {text}", start.elapsed().as_secs_f64());
}

fn readings(lab: &Lab, kind: Kind, start: Instant) -> Result<Vec<Reading>> {
    let name = kind.link_type();
    step(
        start,
        &format!("rdma link add, type {name}, on both hosts; ibv_devinfo"),
    );
    let pair = Pair::add(lab, kind, kind)?;
    devinfo(lab, &pair.client)?;
    devinfo(lab, &pair.server)?;
    step(start, &format!("{name}: SEND, WRITE, READ with every byte compared"));
    check_operations(lab, &pair)?;
    let mut readings = Vec::new();
    for metric in METRICS {
        let reading = metric
            .measure(lab, &pair)
            .with_context(|| format!("{name}: {}", metric.name()))?;
        step(
            start,
            &format!("{name}: {}: {} {}", metric.name(), figure(reading.value), metric.unit()),
        );
        readings.push(reading);
    }
    pair.delete(lab)?;
    Ok(readings)
}

/// Gbit/s, and CPU seconds of both hosts for each GiB.
fn iperf(lab: &Lab) -> Result<(f64, f64)> {
    let serving = lab.start(1, "iperf3 -s -1", Duration::from_secs(60));
    verbs::wait_listen(lab, 1, 5201)?;
    let before = lab.cpu_seconds()?;
    let report = lab.ok(0, &["iperf3", "-J", "-t", "3", "-c", &ipv4(0, 1)])?;
    let cpu = lab.cpu_seconds()? - before;
    serving.ok()?;
    let (rate, bytes) = parse::iperf(&report)?;
    Ok((rate / 1e9, cpu * (1u64 << 30) as f64 / bytes))
}

fn side_by_side(ours: Kind, own: &[Reading], theirs: &[Reading]) -> String {
    let mut rows = Vec::new();
    for ((metric, a), b) in METRICS.iter().zip(own).zip(theirs) {
        rows.push(row(metric.name(), metric.unit(), a.value, b.value));
    }
    for ((metric, a), b) in METRICS.iter().zip(own).zip(theirs) {
        if let (Some(a), Some(b)) = (a.cpu_s_per_gib, b.cpu_s_per_gib) {
            rows.push(row(&format!("CPU, {}", metric.name()), "s/GiB", a, b));
        }
    }
    let ours = format!("{} (ours)", ours.link_type());
    table(
        &["measured in this run", "unit", &ours, "rxe (stock)", "ours/rxe"],
        &rows,
    )
}

fn row(name: &str, unit: &str, ours: f64, theirs: f64) -> Vec<String> {
    vec![
        name.into(),
        unit.into(),
        figure(ours),
        figure(theirs),
        format!("{:.2}", ours / theirs),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_metric_and_each_cpu_figure() {
        let reading = Reading {
            value: 2.0,
            cpu_s_per_gib: None,
        };
        let mut own = vec![reading; METRICS.len()];
        own[1].cpu_s_per_gib = Some(10.0);
        let mut theirs = own.clone();
        theirs[0].value = 4.0;
        let text = side_by_side(Kind::Usb4, &own, &theirs);
        assert_eq!(text.lines().count(), 2 + METRICS.len() + 1);
        assert!(
            text.lines()
                .any(|l| l.starts_with("ibv_rc_pingpong") && l.ends_with("0.50")),
            "{text}"
        );
    }
}
