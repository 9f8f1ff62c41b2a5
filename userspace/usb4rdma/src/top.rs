// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma top`: what goes over each cable and each queue pair right now, and why one is idle.

mod draw;
mod sample;

pub use draw::draw;
pub use sample::{Cpu, Sample};

use crate::facts::{Netdev, MODULE};
use crate::text::table;
use nldev::QueuePair;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// What is below is as good as nothing, in Gbit/s: a keep-alive.
const NOTHING: f64 = 0.0005;

/// What `top --json` prints; schema/top.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Top {
    /// Of this format.
    pub version: u32,
    pub host: String,
    /// Over which the rates are.
    pub seconds: f64,
    pub cpu: CpuUse,
    /// The cables' own devices.
    pub rails: Vec<Rail>,
    /// The busiest first.
    pub queue_pairs: Vec<Pair>,
}

/// The processors of this host.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuUse {
    pub cores: u32,
    /// Cores that were busy, and of these with packets and interrupts.
    pub busy: f64,
    pub softirq: f64,
}

/// One cable. Counts are those of the interval.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rail {
    /// Null while none is in.
    pub cable: Option<String>,
    pub netdev: String,
    pub peer: Option<String>,
    /// Gbit/s of packets and of trains past the network stack.
    pub out_gbps: f64,
    pub in_gbps: f64,
    /// Of the rings, out and in; packets with the stock driver.
    pub frames_per_second: f64,
    /// Trains that the peer did not get, and frames that did not come here.
    pub lost: u64,
    /// Times that something had to wait for the peer's credit, and for room in the ring.
    pub no_credit: u64,
    pub ring_full: u64,
    /// Why nothing went out; null if something did.
    pub idle: Option<String>,
}

/// One queue pair. Counts are those of the interval.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pair {
    pub device: String,
    pub number: u32,
    pub peer_number: Option<u32>,
    /// `RC`, `UD`, ...
    pub kind: String,
    /// `RTS`, `ERR`, ...
    pub state: String,
    pub pid: Option<u32>,
    /// The program, or the kernel's module.
    pub program: Option<String>,
    /// Cores that the program keeps busy.
    pub cpu: Option<f64>,
    pub out_gbps: f64,
    pub in_gbps: f64,
    /// Sends completed.
    pub messages_per_second: f64,
    /// Now: messages taken and not completed, packets sent and not acknowledged.
    pub queued: u64,
    pub unacked: u64,
    /// Trains that were lost and sent again; timeouts; times that the peer had no receive posted.
    pub sent_again: u64,
    pub timeouts: u64,
    pub not_ready: u64,
    /// Why nothing went either way; null if something did.
    pub idle: Option<String>,
}

impl Top {
    /// What has happened between two looks.
    pub fn between(before: &Sample, after: &Sample) -> Top {
        let seconds = (after.at - before.at).max(1e-6);
        let mut top = Top {
            version: VERSION,
            host: after.facts.host.name.clone(),
            seconds,
            cpu: CpuUse {
                cores: after.cpu.cores,
                busy: (after.cpu.busy - before.cpu.busy).max(0.0) / seconds,
                softirq: (after.cpu.softirq - before.cpu.softirq).max(0.0) / seconds,
            },
            rails: after
                .facts
                .netdevs
                .iter()
                .filter(|netdev| netdev.is_port())
                .map(|netdev| rail(before, after, netdev, seconds))
                .collect(),
            queue_pairs: vec![],
        };
        let credit = top.rails.iter().map(|rail| rail.no_credit).sum::<u64>() > 0;
        let full = top.rails.iter().map(|rail| rail.ring_full).sum::<u64>() > 0;
        let held = match (credit, full) {
            (true, _) => Some("waits for the peer's credit"),
            (false, true) => Some("waits for room in the ring"),
            (false, false) => None,
        };
        let pairs = after.queue_pairs.iter();
        top.queue_pairs = pairs
            .map(|(device, qp)| pair(before, after, device, qp, seconds, held))
            .collect();
        let rate = |pair: &Pair| pair.out_gbps + pair.in_gbps;
        top.queue_pairs
            .sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(a.number.cmp(&b.number)));
        top
    }

    /// For a person, without a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n{}", self.head(), table(&self.rail_rows()));
        if self.queue_pairs.iter().any(Pair::is_shown) {
            text += &format!("\n{}", table(&self.pair_rows()));
        }
        text
    }

    fn head(&self) -> String {
        let CpuUse { cores, busy, softirq } = self.cpu;
        format!(
            "{}: over {:.1} s, {busy:.2} of {cores} cores busy, {softirq:.2} with packets and interrupts",
            self.host, self.seconds
        )
    }

    fn rail_rows(&self) -> Vec<Vec<String>> {
        let head = [
            "CABLE",
            "NETDEV",
            "PEER",
            "OUT GB/S",
            "IN GB/S",
            "FRAMES/S",
            "LOST",
            "NO CREDIT",
            "RING FULL",
            "WHY IDLE",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.rails.iter().map(|rail| {
            vec![
                dash(&rail.cable),
                rail.netdev.clone(),
                dash(&rail.peer),
                rate(rail.out_gbps),
                rate(rail.in_gbps),
                format!("{:.0}", rail.frames_per_second),
                rail.lost.to_string(),
                rail.no_credit.to_string(),
                rail.ring_full.to_string(),
                dash(&rail.idle),
            ]
        }));
        rows
    }

    fn pair_rows(&self) -> Vec<Vec<String>> {
        let head = [
            "DEVICE", "QP", "PROGRAM", "CPU", "STATE", "OUT GB/S", "IN GB/S", "MSG/S", "QUEUED", "UNACKED", "AGAIN",
            "TIMEOUTS", "RNR", "WHY IDLE",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.queue_pairs.iter().filter(|pair| pair.is_shown()).map(|pair| {
            vec![
                pair.device.clone(),
                format!("{:#x}", pair.number),
                dash(&pair.program),
                pair.cpu.map_or("-".into(), |cpu| format!("{cpu:.2}")),
                format!("{} {}", pair.kind, pair.state),
                rate(pair.out_gbps),
                rate(pair.in_gbps),
                format!("{:.0}", pair.messages_per_second),
                pair.queued.to_string(),
                pair.unacked.to_string(),
                pair.sent_again.to_string(),
                pair.timeouts.to_string(),
                pair.not_ready.to_string(),
                dash(&pair.idle),
            ]
        }));
        rows
    }
}

impl Pair {
    /// The kernel's own, which every device has, only where something goes over them.
    fn is_shown(&self) -> bool {
        self.idle.is_none() || !["GSI", "SMI"].contains(&self.kind.as_str())
    }
}

fn dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".into())
}

fn rate(gbps: f64) -> String {
    format!("{gbps:.2}")
}

/// How much a counter has grown; 0 where it began anew.
fn grown(before: Option<&BTreeMap<String, u64>>, after: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    let one = |name: &&str| {
        let now = after.get(*name).copied().unwrap_or(0);
        let then = before.and_then(|before| before.get(*name)).copied().unwrap_or(now);
        now.saturating_sub(then)
    };
    names.iter().map(one).sum()
}

fn gbps(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 * 8e-9 / seconds
}

fn rail(before: &Sample, after: &Sample, netdev: &Netdev, seconds: f64) -> Rail {
    let then = before.facts.netdev(&netdev.name).map(|netdev| &netdev.counters);
    let grown = |names: &[&str]| grown(then, &netdev.counters, names);
    let out_gbps = gbps(grown(&["tx_bytes", "tx_rdma_bytes"]), seconds);
    let no_credit = grown(&["tx_no_credit"]);
    let ours = netdev.driver.as_deref() == Some(MODULE);
    let frames = match ours {
        true => grown(&["tx_frames", "rx_frames"]),
        false => grown(&["tx_packets", "rx_packets"]),
    };
    let cable = after
        .facts
        .cables
        .iter()
        .find(|cable| netdev.cable.as_ref() == Some(&cable.name));
    let idle = match out_gbps < NOTHING {
        false => None,
        true if netdev.cable.is_none() => Some("no cable to another host"),
        true if !netdev.up => Some("the device is down"),
        true if !netdev.carrier => Some("no carrier: the other host's device is down, or the link hangs"),
        true if no_credit > 0 => Some("the peer gives no credit"),
        true => Some("nothing to send"),
    };
    Rail {
        cable: netdev.cable.clone(),
        netdev: netdev.name.clone(),
        peer: cable.map(|cable| cable.peer_name.clone()),
        out_gbps,
        in_gbps: gbps(grown(&["rx_bytes", "rx_rdma_bytes"]), seconds),
        frames_per_second: frames as f64 / seconds,
        lost: grown(&["tx_rdma_lost", "rx_missed_frames"]),
        no_credit,
        ring_full: grown(&["tx_ring_full"]),
        idle: idle.map(String::from),
    }
}

/// `held`: what keeps frames from the rings of this host, if anything does.
fn pair(before: &Sample, after: &Sample, device: &str, qp: &QueuePair, seconds: f64, held: Option<&str>) -> Pair {
    // Numbers are given anew, seldom to the same peer.
    let same = |(name, then): &&(String, QueuePair)| {
        name == device && then.number == qp.number && then.pid == qp.pid && then.peer == qp.peer
    };
    let then = before.queue_pairs.iter().find(same).map(|(_, qp)| &qp.details);
    let grown = |name: &str| grown(then, &qp.details, &[name]);
    let now = |name: &str| qp.details.get(name).copied().unwrap_or(0);
    let (out_gbps, in_gbps) = (gbps(grown("sent_bytes"), seconds), gbps(grown("rcvd_bytes"), seconds));
    let process = qp.pid.and_then(|pid| Some((pid, after.processes.get(&pid)?)));
    let netdev = after.facts.rdma.iter().find(|link| link.device == device);
    let down = netdev.is_some_and(|link| link.state != "active");
    let idle = match out_gbps + in_gbps < NOTHING {
        false => None,
        true if qp.state != "RTS" => Some(format!("in state {}", qp.state)),
        true if qp.details.is_empty() => Some("only root is told".into()),
        true if now("messages") == 0 => Some("nothing posted".into()),
        true if down => Some("the port is down".into()),
        true if now("peer_not_ready") > 0 => Some("the peer has no receive posted".into()),
        true if now("unacked") > 0 => Some("waits for the peer's acknowledgement".into()),
        true => Some(held.unwrap_or("waits for its turn").into()),
    };
    Pair {
        device: device.to_string(),
        number: qp.number,
        peer_number: qp.peer,
        kind: qp.kind.clone(),
        state: qp.state.clone(),
        pid: qp.pid,
        program: process.map(|(_, (name, _))| name.clone()).or(qp.module.clone()),
        cpu: process.and_then(|(pid, (_, spent))| {
            let (_, then) = before.processes.get(&pid)?;
            Some((spent - then).max(0.0) / seconds)
        }),
        out_gbps,
        in_gbps,
        messages_per_second: grown("sends_completed") as f64 / seconds,
        queued: now("messages"),
        unacked: now("unacked"),
        sent_again: grown("sent_again"),
        timeouts: grown("timeouts"),
        not_ready: grown("rnr_naks"),
        idle,
    }
}

#[cfg(test)]
mod tests;
