// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma status`: what there is, by peer, and what is wrong with it.

use crate::facts::{Cable, Facts, Gid, Netdev, RdmaLink, MODULE, OUR_SERVICE};
use crate::health::{self, Finding};
use crate::peers::{peers, Peer};
use crate::text::{table, Paint};
use ratatui::style::Stylize;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What `status --json` prints; schema/status.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub kernel: String,
    pub module_loaded: bool,
    pub peers: Vec<PeerStatus>,
    /// What is wrong, the worst first; empty on a healthy host.
    pub health: Vec<Finding>,
}

/// A host at the other end of one or several cables.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PeerStatus {
    pub name: String,
    pub has_module: bool,
    pub cables: Vec<CableStatus>,
    /// The network device with the addresses: the bond of several cables, or that of the only one.
    pub link: Option<LinkStatus>,
    pub rdma: Option<RdmaStatus>,
}

/// One cable.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CableStatus {
    /// As the bus calls it.
    pub name: String,
    /// UUID of the peer's router.
    pub peer_uuid: String,
    /// Gbit/s, all lanes together, and what this host's router reaches.
    pub gbps: f64,
    pub best_gbps: f64,
    pub lanes: u32,
    pub netdev: Option<String>,
    pub driver: Option<String>,
    pub carrier: bool,
    pub wire: Wire,
    /// Counters of errors that are not 0.
    pub errors: BTreeMap<String, u64>,
}

/// What is spoken over a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Our own protocol: both hosts have the module.
    Native,
    /// ThunderboltIP.
    Stock,
    /// Nothing yet.
    None,
}

/// A network device with the addresses of a pair of hosts.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkStatus {
    pub netdev: String,
    /// How a bond distributes packets; null without one.
    pub bond_mode: Option<String>,
    pub carrier: bool,
    pub mtu: u32,
    /// With the lengths of their prefixes.
    pub addresses: Vec<String>,
    /// Where the peer is if it was brought up by this tool without options.
    pub peer_addresses: Vec<String>,
}

/// An RDMA device.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RdmaStatus {
    pub device: String,
    pub port: u32,
    pub state: String,
    /// Bytes that a packet carries.
    pub mtu: u32,
    pub gids: Vec<GidStatus>,
    pub path: Path,
    /// Queue pairs that exist, the kernel's own among them.
    pub queue_pairs: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Counters of errors that are not 0.
    pub errors: BTreeMap<String, u64>,
}

/// An entry of the GID table.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GidStatus {
    pub index: u32,
    pub address: String,
    /// `RoCE v2` or `IB/RoCE v1`.
    pub kind: String,
}

/// How RDMA has gone over a link, judged by its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// In trains on the cable's rings, past the network stack.
    Trains,
    /// In runs through the queue of a network device, as with `trains=0`.
    Runs,
    /// In RoCE v2 packets.
    Packets,
    /// Nothing has been sent yet.
    Unused,
}

impl Status {
    pub fn of(facts: &Facts) -> Status {
        Status {
            version: VERSION,
            host: facts.host.name.clone(),
            kernel: facts.host.kernel.clone(),
            module_loaded: facts.loaded(MODULE),
            peers: peers(facts).iter().map(|peer| peer_status(facts, peer)).collect(),
            health: health::findings(facts),
        }
    }

    /// For a person.
    pub fn text(&self, paint: Paint) -> String {
        let module = if self.module_loaded { "loaded" } else { "not loaded" };
        let mut text = format!("{}, kernel {}, {MODULE} {module}\n", self.host, self.kernel);
        if !self.peers.is_empty() {
            text += "\n";
            text += &self.cables();
            text += "\n";
            text += &self.links();
        }
        text += "\n";
        text += &findings_text(&self.health, paint);
        text
    }

    /// On a terminal, drawn anew and anew.
    pub fn draw(&self, frame: &mut ratatui::Frame) {
        let text = self.text(Paint::none());
        let lines = text.lines().map(|line| {
            let line = ratatui::text::Line::from(line.to_string());
            match line.spans.first().map_or("", |span| &span.content) {
                text if text.starts_with("error ") => line.red(),
                text if text.starts_with("warning ") => line.yellow(),
                text if text.starts_with("info ") || text.starts_with("PEER ") => line.cyan(),
                _ => line,
            }
        });
        let mut lines: Vec<_> = lines.collect();
        lines.push("q quits".dim().into());
        frame.render_widget(ratatui::widgets::Paragraph::new(lines), frame.area());
    }

    fn cables(&self) -> String {
        let mut rows = vec![[
            "PEER", "CABLE", "GB/S", "OF", "LANES", "NETDEV", "CARRIER", "WIRE", "ERRORS",
        ]
        .map(String::from)
        .to_vec()];
        for peer in &self.peers {
            for cable in &peer.cables {
                rows.push(vec![
                    peer.name.clone(),
                    cable.name.clone(),
                    cable.gbps.to_string(),
                    cable.best_gbps.to_string(),
                    cable.lanes.to_string(),
                    cable.netdev.clone().unwrap_or_else(|| "-".into()),
                    yes(cable.carrier),
                    match cable.wire {
                        Wire::Native => "native",
                        Wire::Stock => "ThunderboltIP",
                        Wire::None => "-",
                    }
                    .into(),
                    counted(&cable.errors),
                ]);
            }
        }
        table(&rows)
    }

    fn links(&self) -> String {
        let mut rows = vec![[
            "PEER",
            "LINK",
            "MTU",
            "ADDRESSES",
            "PEER'S",
            "RDMA",
            "STATE",
            "GIDS",
            "PATH",
            "ERRORS",
        ]
        .map(String::from)
        .to_vec()];
        for peer in &self.peers {
            let Some(link) = &peer.link else { continue };
            let name = match &link.bond_mode {
                Some(mode) => format!("{} ({mode})", link.netdev),
                None => link.netdev.clone(),
            };
            let mut row = vec![
                peer.name.clone(),
                name,
                link.mtu.to_string(),
                or_dash(link.addresses.join(" ")),
                or_dash(link.peer_addresses.first().cloned().unwrap_or_default()),
            ];
            row.extend(match &peer.rdma {
                None => ["-", "-", "-", "-", "-"].map(String::from).to_vec(),
                Some(rdma) => vec![
                    rdma.device.clone(),
                    rdma.state.clone(),
                    or_dash(gid_list(&rdma.gids)),
                    match rdma.path {
                        Path::Trains => "trains",
                        Path::Runs => "runs",
                        Path::Packets => "packets",
                        Path::Unused => "unused",
                    }
                    .into(),
                    counted(&rdma.errors),
                ],
            });
            rows.push(row);
        }
        table(&rows)
    }
}

/// Findings as lines for a person; a line that says so where there are none.
pub fn findings_text(findings: &[Finding], paint: Paint) -> String {
    if findings.is_empty() {
        return "health: nothing is wrong\n".into();
    }
    let mut text = String::new();
    for finding in findings {
        let severity = paint.severity(finding.severity);
        text += &format!("{severity} {}: {}\n", finding.code, finding.text);
        if let Some(fix) = &finding.fix {
            text += &format!("    fix: {fix}\n");
        }
    }
    text
}

fn peer_status(facts: &Facts, peer: &Peer) -> PeerStatus {
    let cables = peer.cables(facts);
    let top = peer.top(facts);
    PeerStatus {
        name: peer.name.clone(),
        has_module: cables.iter().any(|cable| cable.service(OUR_SERVICE).is_some()),
        cables: cables.iter().map(|cable| cable_status(facts, cable)).collect(),
        link: top.map(|netdev| link_status(peer, netdev)),
        rdma: top.and_then(|netdev| Some(rdma_status(facts.link_over(&netdev.name)?, netdev))),
    }
}

fn cable_status(facts: &Facts, cable: &Cable) -> CableStatus {
    let netdev = facts.netdev_of(&cable.name);
    let native = |netdev: &Netdev| netdev.counters.get("native_peer") == Some(&1);
    let lanes = cable.tx_lanes.max(cable.rx_lanes);
    CableStatus {
        name: cable.name.clone(),
        peer_uuid: cable.peer.clone(),
        gbps: cable.rate(),
        best_gbps: facts
            .router(&cable.router)
            .map_or(cable.rate(), |router| router.lane_speed() * 2.0),
        lanes,
        netdev: netdev.map(|netdev| netdev.name.clone()),
        driver: netdev.and_then(|netdev| netdev.driver.clone()),
        carrier: netdev.is_some_and(|netdev| netdev.carrier),
        wire: match netdev {
            Some(netdev) if netdev.carrier && native(netdev) => Wire::Native,
            Some(netdev) if netdev.carrier => Wire::Stock,
            _ => Wire::None,
        },
        errors: netdev.map_or_else(BTreeMap::new, |netdev| {
            nonzero(&netdev.counters, &health::cable_errors())
        }),
    }
}

fn link_status(peer: &Peer, netdev: &Netdev) -> LinkStatus {
    let pair = peer.addresses();
    // The peer's are known only where ours are those that the tool gives.
    let ours = |n: &usize| netdev.addresses.contains(&pair.own[*n]);
    LinkStatus {
        netdev: netdev.name.clone(),
        bond_mode: netdev.bond_mode.clone(),
        carrier: netdev.carrier,
        mtu: netdev.mtu,
        addresses: netdev.global().map(|address| address.to_string()).collect(),
        peer_addresses: (0..2).filter(ours).map(|n| pair.peer[n].address.to_string()).collect(),
    }
}

fn rdma_status(link: &RdmaLink, netdev: &Netdev) -> RdmaStatus {
    let count = |name: &str| link.counters.get(name).copied().unwrap_or(0);
    RdmaStatus {
        device: link.device.clone(),
        port: link.port,
        state: link.state.clone(),
        mtu: netdev.rdma_mtu(),
        gids: link.gids.iter().map(gid_status).collect(),
        path: match (count("sent_trains"), count("sent_runs"), count("sent_pkts")) {
            (1.., ..) => Path::Trains,
            (0, 1.., _) => Path::Runs,
            (0, 0, 1..) => Path::Packets,
            (0, 0, 0) => Path::Unused,
        },
        queue_pairs: link.resources.get("qp").copied().unwrap_or(0),
        sent_bytes: count("sent_bytes"),
        received_bytes: count("rcvd_bytes"),
        errors: nonzero(&link.counters, &health::link_errors()),
    }
}

fn gid_status(gid: &Gid) -> GidStatus {
    GidStatus {
        index: gid.index,
        address: gid.address.clone(),
        kind: gid.kind.clone(),
    }
}

/// The indices of RoCE v2 entries with their addresses, link-local ones left out where there are others.
fn gid_list(gids: &[GidStatus]) -> String {
    let v2: Vec<&GidStatus> = gids.iter().filter(|gid| gid.kind == "RoCE v2").collect();
    let global: Vec<&&GidStatus> = v2.iter().filter(|gid| !gid.address.starts_with("fe80:")).collect();
    let shown = if global.is_empty() { v2.iter().collect() } else { global };
    shown
        .iter()
        .map(|gid| format!("{}={}", gid.index, gid.address))
        .collect::<Vec<_>>()
        .join(" ")
}

fn nonzero(counters: &BTreeMap<String, u64>, names: &[&str]) -> BTreeMap<String, u64> {
    let wanted = |(name, count): &(&String, &u64)| **count > 0 && names.contains(&name.as_str());
    counters
        .iter()
        .filter(wanted)
        .map(|(name, count)| (name.clone(), *count))
        .collect()
}

fn counted(errors: &BTreeMap<String, u64>) -> String {
    errors.values().sum::<u64>().to_string()
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::healthy;
    use crate::schema::same_as_file;

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("status.json", schemars::schema_for!(Status));
    }

    #[test]
    fn a_healthy_host_is_told_in_two_tables() {
        let text = Status::of(&healthy()).text(Paint::none());
        let expected = "\
h0, kernel 7.3.4, usb4_rdma loaded

PEER  CABLE  GB/S  OF  LANES  NETDEV    CARRIER  WIRE    ERRORS
h1    0-1    80    80  2      usb4net0  yes      native  0

PEER  LINK      MTU    ADDRESSES                      PEER'S       RDMA    STATE   GIDS           PATH    ERRORS
h1    usb4net0  65522  OWN4 OWN6  PEER4  usb4r0  active  1=OWN  trains  0

health: nothing is wrong
";
        let pair = peers(&healthy())[0].addresses();
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = expected
            .replace("OWN4", &pair.own[0].to_string())
            .replace("OWN6", &pair.own[1].to_string())
            .replace("PEER4", &pair.peer[0].address.to_string())
            .replace("OWN", &pair.own[0].address.to_string());
        assert_eq!(squeezed(&text), squeezed(&expected));
    }

    #[test]
    fn the_terminal_shows_the_same() {
        let status = Status::of(&healthy());
        let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(140, 12)).unwrap();
        terminal.draw(|frame| status.draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for line in status.text(Paint::none()).lines() {
            assert!(screen.contains(line.trim_end()), "{line} is not in\n{screen}");
        }
    }

    #[test]
    fn the_path_is_told_by_the_counters() {
        let with = |counts: &[(&str, u64)]| {
            let mut facts = healthy();
            facts.rdma[0].counters = counts.iter().map(|(name, n)| (name.to_string(), *n)).collect();
            Status::of(&facts).peers[0].rdma.as_ref().map(|rdma| rdma.path)
        };
        assert_eq!(with(&[("sent_runs", 0)]), Some(Path::Unused));
        assert_eq!(with(&[("sent_runs", 0), ("sent_pkts", 4)]), Some(Path::Packets));
        assert_eq!(with(&[("sent_runs", 2), ("sent_pkts", 4)]), Some(Path::Runs));
        assert_eq!(with(&[("sent_runs", 2), ("sent_trains", 2)]), Some(Path::Trains));
    }
}
