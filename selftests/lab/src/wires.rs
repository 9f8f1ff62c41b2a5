// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One cable and all that carries over it: our RDMA as it comes, our RDMA by the netdev's queue, TCP over our netdev,
//! stock rxe over thunderbolt_net. Measured in turns; medians.
//!
//! `usb4lab bench --suite rdma --net ours` shows the rows, `usb4lab yardstick` a table for people.

use crate::bench::steal_seconds;
use crate::cases::Way;
use crate::lab::Lab;
use crate::load::{self, Reading, Unit};
use crate::measure::{figure, median};
use crate::page;
use crate::parse;
use crate::paths;
use crate::runner::kernel_trouble;
use crate::spec::{LabSpec, NetDriver};
use crate::verbs::{Kind, Pair};
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};

/// The module's parameter that keeps RDMA on the netdev's queue when it is 0.
const TRAINS: &str = "trains";

/// A way of RDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// Two of our netdevs and our device, as they come.
    Native,
    /// The same without queue pairs' trains.
    Udp,
    /// thunderbolt_net and stock rxe.
    Rxe,
}

impl Wire {
    fn name(self) -> &'static str {
        match self {
            Wire::Native => "ours",
            Wire::Udp => "ours over UDP",
            Wire::Rxe => "rxe over thunderbolt_net",
        }
    }

    fn spec(self) -> LabSpec {
        let ours = LabSpec {
            net: vec![NetDriver::Ours; 2],
            ..LabSpec::measured()
        };
        match self {
            Wire::Native => ours,
            Wire::Udp => LabSpec {
                append: Way::Queue.parameters().into(),
                ..ours
            },
            Wire::Rxe => LabSpec::measured(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Wire::Native | Wire::Udp => Kind::Usb4,
            Wire::Rxe => Kind::Rxe,
        }
    }
}

/// What one load gave over one wire, round by round.
#[derive(Default)]
pub struct Series {
    readings: Vec<Reading>,
    /// Messages of the short run.
    count: Option<u64>,
}

impl Series {
    fn median(&self, of: impl Fn(&Reading) -> f64) -> Option<f64> {
        median(&self.readings.iter().map(of).collect::<Vec<_>>())
    }

    pub fn value(&self) -> Option<f64> {
        self.median(|reading| reading.value)
    }

    /// CPU time of both guests.
    pub fn cpu(&self) -> Option<f64> {
        self.median(|reading| reading.cpu.iter().sum())
    }

    fn by_guest(&self, of: impl Fn(&Reading) -> [f64; 2]) -> [Option<f64>; 2] {
        [0, 1].map(|guest| self.median(|reading| of(reading)[guest]))
    }
}

/// One load over all wires.
#[derive(Default)]
pub struct Measured {
    pub native: Series,
    pub udp: Series,
    pub rxe: Series,
}

/// All that was measured.
pub struct Report {
    pub runs: usize,
    /// In the order of `load::ALL`.
    pub loads: Vec<Measured>,
    pub tcp: Series,
    /// Round trips over the bare rings, microseconds.
    pub floor: Vec<f64>,
    /// Whether the module that is built can do without trains of queue pairs.
    pub udp: bool,
    /// Where and when, and the load at the end.
    pub provenance: String,
    steal_s: f64,
}

/// Measures everything `runs` times, each wire in a lab of its own: no other is up meanwhile.
///
/// # Errors
///
/// A program that fails, or a kernel that complains.
pub fn measure(runs: usize) -> Result<Report> {
    ensure!(runs > 0, "--runs must be at least 1");
    let spec = Wire::Native.spec();
    let udp = paths::has_parameter(spec.tier, spec.kernel, TRAINS)?;
    let before = page::provenance();
    let steal_before = steal_seconds();
    let mut report = Report {
        runs,
        loads: load::ALL.iter().map(|_| Measured::default()).collect(),
        tcp: Series::default(),
        floor: Vec::new(),
        udp,
        provenance: String::new(),
        steal_s: 0.0,
    };
    let mut wires = vec![Wire::Native, Wire::Udp, Wire::Rxe];
    wires.retain(|wire| *wire != Wire::Udp || udp);
    for run in 0..runs {
        for wire in &wires {
            eprintln!("run {} of {runs}: {}", run + 1, wire.name());
            report.round(*wire).with_context(|| wire.name())?;
        }
        // Who begins changes from run to run.
        wires.rotate_left(1);
    }
    report.provenance = format!("{before}; load at the end {}; {runs} runs", page::load());
    report.steal_s = steal_seconds() - steal_before;
    Ok(report)
}

impl Report {
    fn round(&mut self, wire: Wire) -> Result<()> {
        let lab = Lab::up(&format!("wires-{}", std::process::id()), wire.spec())?;
        let marks = lab.marks();
        let pair = Pair::add(&lab, wire.kind(), wire.kind())?;
        for (load, measured) in load::ALL.iter().zip(&mut self.loads) {
            let series = match wire {
                Wire::Native => &mut measured.native,
                Wire::Udp => &mut measured.udp,
                Wire::Rxe => &mut measured.rxe,
            };
            let reading = load
                .measure(&lab, &pair, &mut series.count)
                .with_context(|| load.name)?;
            series.readings.push(reading);
        }
        if self.udp {
            check_wire(&lab, &pair, wire)?;
        }
        pair.delete(&lab)?;
        if wire == Wire::Native {
            self.tcp.readings.push(load::tcp(&lab)?);
            self.floor.push(floor(&lab)?);
        }
        if let Some(trouble) = kernel_trouble(&marks)? {
            bail!("a kernel complained:\n{trouble}");
        }
        lab.discard();
        Ok(())
    }

    /// The rows of the rdma suite.
    pub fn rows(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let (rxe, tcp, udp) = (
            "rdma_rxe over thunderbolt_net",
            "TCP over usb4_rdma's netdev",
            "usb4_rdma with trains=0",
        );
        for (load, m) in load::ALL.iter().zip(&self.loads) {
            rows.extend(self.row(load.name, load.unit, &m.native, &m.rxe, rxe));
            if load.unit == Unit::Mebibytes {
                rows.extend(self.row(&format!("{}_vs_tcp", load.name), load.unit, &m.native, &self.tcp, tcp));
            }
            rows.extend(self.row(&format!("{}_vs_udp", load.name), load.unit, &m.native, &m.udp, udp));
        }
        for (load, m) in load::ALL.iter().zip(&self.loads) {
            let Some(operation) = load.name.strip_suffix("_bw_1MiB") else {
                continue;
            };
            let name = format!("{operation}_cpu_s_per_gib");
            rows.extend(self.cpu_row(&name, &m.native, &m.rxe, rxe));
            rows.extend(self.cpu_row(&format!("{name}_vs_tcp"), &m.native, &self.tcp, tcp));
            rows.extend(self.cpu_row(&format!("{name}_vs_udp"), &m.native, &m.udp, udp));
        }
        rows.push(json!({
            "metric": "ring_floor_rtt",
            "ours": median(&self.floor),
            "theirs": null,
            "ratio": null,
            "unit": "us",
            "peer": null,
            "runs": self.runs,
            "values": {"ours": self.floor, "theirs": []},
        }));
        rows
    }

    /// None where a side was not measured.
    fn row(&self, metric: &str, unit: Unit, ours: &Series, theirs: &Series, peer: &str) -> Option<Value> {
        let (a, b) = (ours.value()?, theirs.value()?);
        let (own_cpu, their_cpu) = (ours.cpu()?, theirs.cpu()?);
        let all = |series: &Series| -> Vec<f64> { series.readings.iter().map(|r| r.value).collect() };
        Some(json!({
            "metric": metric,
            "ours": a,
            "theirs": b,
            "ratio": a / b,
            "unit": unit.name(),
            "peer": peer,
            "runs": self.runs,
            "cpu": {
                "unit": unit.cpu_name(),
                "ours": own_cpu,
                "theirs": their_cpu,
                "ratio": own_cpu / their_cpu,
                "by_guest": {"ours": ours.by_guest(|r| r.cpu), "theirs": theirs.by_guest(|r| r.cpu)},
            },
            "busy": {"ours": ours.by_guest(|r| r.busy), "theirs": theirs.by_guest(|r| r.busy)},
            "values": {"ours": all(ours), "theirs": all(theirs)},
        }))
    }

    fn cpu_row(&self, metric: &str, ours: &Series, theirs: &Series, peer: &str) -> Option<Value> {
        let (a, b) = (ours.cpu()?, theirs.cpu()?);
        let all = |series: &Series| -> Vec<f64> { series.readings.iter().map(|r| r.cpu.iter().sum()).collect() };
        Some(json!({
            "metric": metric,
            "ours": a,
            "theirs": b,
            "ratio": a / b,
            "unit": Unit::Mebibytes.cpu_name(),
            "peer": peer,
            "runs": self.runs,
            "values": {"ours": all(ours), "theirs": all(theirs)},
        }))
    }

    /// What the rdma suite writes.
    pub fn json(&self) -> Value {
        let unsupported: &[&str] = if self.udp { &[] } else { &["*_vs_udp"] };
        json!({
            "suite": "rdma",
            "net": "ours",
            "runs": self.runs,
            "provenance": self.provenance,
            "load": page::load(),
            "steal_s": self.steal_s,
            "unsupported": unsupported,
            "rows": self.rows(),
        })
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let heading = [
            "",
            "ours",
            "ours over UDP",
            "TCP",
            "rxe",
            "ours, CPU",
            "over UDP, CPU",
            "TCP, CPU",
            "rxe, CPU",
            "CPU in",
        ];
        let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
        let nothing = Series::default();
        let mut rows = Vec::new();
        for (load, m) in load::ALL.iter().zip(&self.loads) {
            let tcp = if load.unit == Unit::Mebibytes {
                &self.tcp
            } else {
                &nothing
            };
            let sides = [&m.native, &m.udp, tcp, &m.rxe];
            let mut row = vec![format!("{}, {}", load.title, load.unit.name())];
            row.extend(sides.iter().map(|side| shown(side.value())));
            row.extend(sides.iter().map(|side| shown(side.cpu())));
            row.push(load.unit.cpu_name().into());
            rows.push(row);
        }
        // As perftest counts: half of a round trip.
        let half = median(&self.floor).map(|trip| trip / 2.0);
        let mut floor = vec!["bare rings (ethtool -t), half a round trip, us".into(), shown(half)];
        floor.resize(heading.len(), "-".into());
        rows.push(floor);
        page::table(&heading, &rows)
    }
}

/// Whether what was measured went where the row says, by the device's counter.
fn check_wire(lab: &Lab, pair: &Pair, wire: Wire) -> Result<()> {
    if wire == Wire::Rxe {
        return Ok(());
    }
    let counter = format!(
        "/sys/class/infiniband/{}/ports/1/hw_counters/sent_trains",
        pair.client.name
    );
    let sent: u64 = lab.ok(0, &["cat", &counter])?.trim().parse().context("sent_trains")?;
    match wire {
        Wire::Native => ensure!(sent > 0, "nothing went as trains of queue pairs"),
        _ => ensure!(
            sent == 0,
            "{sent} trains of queue pairs in spite of {}",
            Way::Queue.parameters()
        ),
    }
    Ok(())
}

/// The median round trip over the bare rings, microseconds; again if the test failed, as it does where a busy machine
/// lets a round trip take longer than the test waits.
fn floor(lab: &Lab) -> Result<f64> {
    let line = format!("ethtool -t {}", lab.netdev(0, 0)?);
    for _ in 0..2 {
        match lab.sh(0, &line) {
            Ok(trips) => return Ok(parse::round_trip(&trips)? / 1000.0),
            Err(error) => eprintln!("once more: {error:#}"),
        }
    }
    Ok(parse::round_trip(&lab.sh(0, &line)?)? / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        let reading = |value: &f64| Reading {
            value: *value,
            cpu: [*value, 1.0],
            busy: [1.0, 0.5],
        };
        Series {
            readings: values.iter().map(reading).collect(),
            count: None,
        }
    }

    fn report() -> Report {
        let mut loads: Vec<Measured> = load::ALL.iter().map(|_| Measured::default()).collect();
        loads[0] = Measured {
            native: series(&[4.0, 8.0, 6.0]),
            udp: Series::default(),
            rxe: series(&[2.0]),
        };
        Report {
            runs: 3,
            loads,
            tcp: series(&[3.0]),
            floor: vec![30.0],
            udp: false,
            provenance: String::new(),
            steal_s: 0.0,
        }
    }

    #[test]
    fn rows_are_medians_beside_each_other_wire() {
        let rows = report().rows();
        let names: Vec<&str> = rows.iter().filter_map(|row| row["metric"].as_str()).collect();
        assert_eq!(
            names,
            [
                "write_bw_1MiB",
                "write_bw_1MiB_vs_tcp",
                "write_cpu_s_per_gib",
                "write_cpu_s_per_gib_vs_tcp",
                "ring_floor_rtt"
            ]
        );
        assert_eq!(rows[0]["ratio"], 3.0);
        assert_eq!(rows[0]["cpu"]["by_guest"]["ours"], json!([6.0, 1.0]));
        assert_eq!(rows[3]["ratio"], 7.0 / 4.0);
        assert_eq!(rows[4]["ours"], 30.0);
    }

    #[test]
    fn the_table_leaves_out_what_was_not_measured() {
        let table = report().table();
        assert!(
            table.contains("| WRITE 1 MiB, MiB/s | 6.00 | - | 3.00 | 2.00 | 7.00 | - | 4.00 | 3.00 | s/GiB |"),
            "{table}"
        );
        assert!(table.contains("half a round trip, us | 15.0 | - |"), "{table}");
    }
}
