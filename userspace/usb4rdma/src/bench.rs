// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma bench`: bandwidth and latency over size, by RDMA and by TCP over the same cables, both ends from one side.
//!
//! The peer runs `usb4rdma bench --serve`, which starts what the client names out of a short list ([`agent`]). Figures
//! are medians of several runs of perftest and iperf3; those above what the cables carry are refused, not shown.

mod agent;
mod page;
mod run;

pub use agent::serve;
pub use page::html;

use crate::apps::Settings;
use crate::facts::{build_id, Facts, MODULE};
use crate::peers::peers;
use crate::text::table;
use anyhow::{bail, Result};
use serde::{Deserialize, Serialize};

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// The columns of a table of figures.
const HEADINGS: [&str; 8] = ["TEST", "BYTES", "MEDIAN", "LEAST", "MOST", "P99", "BUSY HERE", "THERE"];
/// Sizes of messages, bytes.
const SIZES: [u64; 8] = [8, 64, 512, 4096, 16384, 65536, 262_144, 1 << 20];

/// Round trips of longer messages are not measured: they tell no more than the bandwidth does.
const LONGEST_ROUND: u64 = 65536;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Test {
    RdmaWrite,
    RdmaSend,
    RdmaRead,
    Tcp,
    RdmaWriteLatency,
    RdmaSendLatency,
    TcpLatency,
}

impl Test {
    const ALL: [Test; 7] = [
        Test::RdmaWrite,
        Test::RdmaSend,
        Test::RdmaRead,
        Test::Tcp,
        Test::RdmaWriteLatency,
        Test::RdmaSendLatency,
        Test::TcpLatency,
    ];

    pub fn is_latency(self) -> bool {
        matches!(self, Test::RdmaWriteLatency | Test::RdmaSendLatency | Test::TcpLatency)
    }

    fn is_tcp(self) -> bool {
        matches!(self, Test::Tcp | Test::TcpLatency)
    }

    pub fn name(self) -> &'static str {
        match self {
            Test::RdmaWrite => "RDMA WRITE",
            Test::RdmaSend => "RDMA SEND",
            Test::RdmaRead => "RDMA READ",
            Test::Tcp => "TCP",
            Test::RdmaWriteLatency => "RDMA WRITE, latency",
            Test::RdmaSendLatency => "RDMA SEND, latency",
            Test::TcpLatency => "TCP, latency",
        }
    }
}

/// What `bench --json` writes; schema/bench.json describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bench {
    /// Of this format.
    pub version: u32,
    pub here: Machine,
    pub there: Machine,
    pub link: Wire,
    /// Seconds of each run for bandwidth, and how many runs a figure is the median of.
    pub seconds: u32,
    pub runs: u32,
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

/// One of the two hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Machine {
    pub host: String,
    pub kernel: String,
    /// Build id of the module.
    pub module: String,
    pub cores: u32,
    /// Whether the IOMMU keeps devices from memory that is not theirs.
    pub iommu: Option<bool>,
    pub device: String,
    pub netdev: String,
    pub mtu: u32,
    pub gid_index: u32,
}

/// What is between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Wire {
    pub cables: usize,
    /// All of them together, one way.
    pub gbps: f64,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    pub test: Test,
    pub size: u64,
    /// Gbit/s, or microseconds one way: median, least and most of the runs.
    pub median: f64,
    pub least: f64,
    pub most: f64,
    /// The median of the runs' 99th percentiles, of a latency.
    pub p99: Option<f64>,
    /// Cores that were busy, here and there.
    pub busy_here: f64,
    pub busy_there: f64,
}

/// How it is gone about.
#[derive(Clone, Debug)]
pub struct How {
    pub seconds: u32,
    pub runs: u32,
    /// None: a ladder of them.
    pub sizes: Vec<u64>,
    /// Where the peer's agent is; None: at the peer's address.
    pub address: Option<String>,
    pub port: u16,
}

/// Measures everything; `told` hears of each figure as it comes.
///
/// # Errors
///
/// No agent at the peer, or it ends.
pub fn bench(facts: &Facts, settings: &Settings, how: &How, mut told: impl FnMut(&Row)) -> Result<Bench> {
    let mut there = run::Peer::connect(settings, how)?;
    let here = machine(facts, &settings.netdev).unwrap_or_default();
    let link = wire(facts, &settings.peer);
    let mut bench = Bench {
        version: VERSION,
        here,
        there: there.machine.clone(),
        link,
        seconds: how.seconds,
        runs: how.runs,
        rows: vec![],
        left_out: vec![],
    };
    for test in Test::ALL {
        let sizes: &[u64] = if how.sizes.is_empty() { &SIZES } else { &how.sizes };
        for size in sizes {
            if test.is_latency() && *size > LONGEST_ROUND {
                continue;
            }
            match there.figure(test, *size, &bench.here, how) {
                Ok(row) => match above_the_wire(&row, bench.link.gbps) {
                    None => {
                        told(&row);
                        bench.rows.push(row);
                    }
                    Some(why) => bench.left_out.push(why),
                },
                Err(run::Failure::Missing(what)) => {
                    bench.left_out.push(format!("{}: {what}", test.name()));
                    break;
                }
                Err(run::Failure::Failed(error)) => {
                    bench.left_out.push(format!("{}, {size} bytes: {error:#}", test.name()));
                }
                Err(run::Failure::Gone(error)) => return Err(error),
            }
        }
    }
    Ok(bench)
}

/// Single figures, for whoever wants no whole series; the agent at the peer measures along.
pub struct Client {
    there: run::Peer,
    here: Machine,
    how: How,
    gbps: f64,
}

impl Client {
    /// # Errors
    ///
    /// No agent at the peer.
    pub fn connect(facts: &Facts, settings: &Settings, how: How) -> Result<Client> {
        Ok(Client {
            there: run::Peer::connect(settings, &how)?,
            here: machine(facts, &settings.netdev).unwrap_or_default(),
            how,
            gbps: wire(facts, &settings.peer).gbps,
        })
    }

    /// The median of some runs, in Gbit/s or microseconds.
    ///
    /// # Errors
    ///
    /// A program fails or is missing, the agent is gone, or the figure is above what the cables carry.
    pub fn figure(&mut self, test: Test, size: u64) -> Result<f64> {
        let row = match self.there.figure(test, size, &self.here, &self.how) {
            Ok(row) => row,
            Err(run::Failure::Missing(what)) => bail!(what),
            Err(run::Failure::Failed(error) | run::Failure::Gone(error)) => return Err(error),
        };
        match above_the_wire(&row, self.gbps) {
            None => Ok(row.median),
            Some(why) => bail!(why),
        }
    }
}

/// Why a figure cannot be.
fn above_the_wire(row: &Row, gbps: f64) -> Option<String> {
    // Of 40 Gb/s some 36 are left for what we send; what is above all 40 is a fault of measurement for certain.
    let wrong = !row.test.is_latency() && gbps > 0.0 && row.most > gbps;
    wrong.then(|| {
        format!(
            "{}, {} bytes: {:.1} Gb/s is above the {gbps} Gb/s of the cables: refused",
            row.test.name(),
            row.size,
            row.most
        )
    })
}

/// This host as the end of the link over a network device.
fn machine(facts: &Facts, netdev: &str) -> Option<Machine> {
    let over = facts.netdev(netdev)?;
    let link = facts.link_over(netdev)?;
    let gid = link.ipv4_gid().or(link.gids.first())?;
    Some(Machine {
        host: facts.host.name.clone(),
        kernel: facts.host.kernel.clone(),
        module: build_id(MODULE).unwrap_or_default(),
        cores: crate::top::Cpu::now().cores,
        iommu: facts.routers.first().and_then(|router| router.iommu_protection),
        device: link.device.clone(),
        netdev: netdev.into(),
        mtu: over.mtu,
        gid_index: gid.index,
    })
}

fn wire(facts: &Facts, peer: &str) -> Wire {
    let peer = peers(facts).into_iter().find(|one| one.name == peer);
    let cables = peer.map_or(vec![], |peer| peer.cables(facts));
    Wire {
        cables: cables.len(),
        gbps: cables.iter().map(|cable| cable.rate()).sum(),
    }
}

impl Row {
    fn of(test: Test, size: u64, runs: &[run::Figure]) -> Row {
        let median = |of: &dyn Fn(&run::Figure) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        let values = runs.iter().map(|run| run.value);
        Row {
            test,
            size,
            median: median(&|run| run.value),
            least: values.clone().fold(f64::INFINITY, f64::min),
            most: values.fold(0.0, f64::max),
            p99: test.is_latency().then(|| median(&|run| run.p99)),
            busy_here: median(&|run| run.busy_here),
            busy_there: median(&|run| run.busy_there),
        }
    }

    fn unit(&self) -> &'static str {
        match self.test.is_latency() {
            true => "us",
            false => "Gb/s",
        }
    }

    /// What stands under [`HEADINGS`].
    fn cells(&self) -> Vec<String> {
        vec![
            self.test.name().into(),
            self.size.to_string(),
            format!("{:.2} {}", self.median, self.unit()),
            format!("{:.2}", self.least),
            format!("{:.2}", self.most),
            self.p99.map_or("-".into(), |p99| format!("{p99:.1}")),
            format!("{:.2}", self.busy_here),
            format!("{:.2}", self.busy_there),
        ]
    }

    /// For a person, as it comes.
    pub fn line(&self) -> String {
        let value = match self.p99 {
            Some(p99) => format!("{:8.1} us, p99 {p99:.1}", self.median),
            None => format!("{:8.2} Gb/s", self.median),
        };
        format!("{:<20} {:>8} B {value}", self.test.name(), self.size)
    }
}

impl Bench {
    /// For a person.
    pub fn text(&self) -> String {
        let mut rows = vec![HEADINGS.map(String::from).to_vec()];
        rows.extend(self.rows.iter().map(Row::cells));
        let mut text = format!("{}\n\n{}", self.conditions(), table(&rows));
        for what in &self.left_out {
            text += &format!("left out: {what}\n");
        }
        text
    }

    /// Where the figures come from, in one paragraph.
    pub fn conditions(&self) -> String {
        let machine = |m: &Machine| {
            let iommu = match m.iommu {
                Some(true) => "on",
                Some(false) => "off",
                None => "?",
            };
            let module = m.module.get(..12).unwrap_or(&m.module);
            format!(
                "{} (kernel {}, module {module}, {} cores, IOMMU protection {iommu}, {} over {}, MTU {})",
                m.host, m.kernel, m.cores, m.device, m.netdev, m.mtu
            )
        };
        format!(
            "{} to {}: {} cable(s) of {} Gb/s together; medians of {}, {} s each, latencies one way",
            machine(&self.here),
            machine(&self.there),
            self.link.cables,
            self.link.gbps,
            self.runs,
            self.seconds
        )
    }

    /// For a spreadsheet: each row describes itself.
    pub fn csv(&self) -> String {
        let mut text =
            "test,bytes,unit,median,least,most,p99,busy_here,busy_there,here,there,kernel_here,kernel_there,\
                        module_here,module_there,cables,gbps,runs,seconds\n"
                .to_string();
        for row in &self.rows {
            let p99 = row.p99.map_or(String::new(), |p99| p99.to_string());
            let (here, there) = (&self.here, &self.there);
            text += &format!(
                "\"{}\",{},{},{},{},{},{p99},{:.3},{:.3},{},{},{},{},{},{},{},{},{},{}\n",
                row.test.name(),
                row.size,
                row.unit(),
                row.median,
                row.least,
                row.most,
                row.busy_here,
                row.busy_there,
                here.host,
                there.host,
                here.kernel,
                there.kernel,
                here.module,
                there.module,
                self.link.cables,
                self.link.gbps,
                self.runs,
                self.seconds
            );
        }
        text
    }
}

#[cfg(test)]
mod tests;
