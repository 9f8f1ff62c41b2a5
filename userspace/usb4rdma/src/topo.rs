// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma topo`: hosts, the cables between them, and the RDMA device that leads from each to each.
//!
//! A host knows its own cables. What others know comes from what they print with `--json`, given as files; a cable that
//! both ends tell of is one, by the UUIDs of the two routers at its ends.

use crate::facts::Facts;
use crate::peers::peers;
use crate::text::table;
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What `topo --json` prints; schema/topo.json describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Topo {
    /// Of this format.
    pub version: u32,
    /// This one first.
    pub hosts: Vec<String>,
    pub cables: Vec<Link>,
}

/// A cable, with what is known of its ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Link {
    pub ends: [End; 2],
    /// Gbit/s, all lanes together.
    pub gbps: f64,
}

/// One end of a cable. Names but the host's are null where only the other end has told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    pub host: String,
    /// UUID of the router.
    pub router: String,
    pub cable: Option<String>,
    pub netdev: Option<String>,
    /// The RDMA device over it, or over the bond that it is in.
    pub rdma: Option<String>,
    pub address: Option<String>,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A matrix and a list of cables
    Text,
    /// For Graphviz: `usb4rdma topo --format dot | dot -Tsvg`
    Dot,
    /// The matrix of devices that JACCL reads (JACCL_IBV_DEVICES)
    Jaccl,
}

impl Topo {
    /// What this host knows.
    pub fn of(facts: &Facts) -> Topo {
        let own = &facts.host.name;
        let mut topo = Topo {
            version: VERSION,
            hosts: vec![own.clone()],
            cables: vec![],
        };
        for peer in peers(facts) {
            if !topo.hosts.contains(&peer.name) {
                topo.hosts.push(peer.name.clone());
            }
            let top = peer.top(facts);
            let link = top.and_then(|top| facts.link_over(&top.name));
            for cable in peer.cables(facts) {
                let near = End {
                    host: own.clone(),
                    router: cable.router.clone(),
                    cable: Some(cable.name.clone()),
                    netdev: facts.netdev_of(&cable.name).map(|netdev| netdev.name.clone()),
                    rdma: link.map(|link| link.device.clone()),
                    address: link.and_then(|link| link.ipv4_gid()).map(|gid| gid.address.clone()),
                };
                let far = End {
                    host: peer.name.clone(),
                    router: cable.peer.clone(),
                    ..End::default()
                };
                topo.cables.push(Link {
                    ends: [near, far],
                    gbps: cable.rate(),
                });
            }
        }
        topo
    }

    /// With what files of other hosts tell.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is none of `topo --json`.
    pub fn with_files(mut self, files: &[PathBuf]) -> Result<Topo> {
        for file in files {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let other: Topo = serde_json::from_str(&text)
                .with_context(|| format!("{} is not what `usb4rdma topo --json` prints", file.display()))?;
            ensure!(other.version == VERSION, "{} is of another version", file.display());
            self = self.joined(other);
        }
        Ok(self)
    }

    fn joined(mut self, other: Topo) -> Topo {
        for host in other.hosts {
            if !self.hosts.contains(&host) {
                self.hosts.push(host);
            }
        }
        let mut matched = vec![false; self.cables.len()];
        for link in other.cables {
            let same = |(n, known): &(usize, &mut Link)| !matched[*n] && known.is_seen_from_elsewhere_in(&link);
            let found = self.cables.iter_mut().enumerate().find(same);
            match found {
                Some((n, known)) => {
                    known.take(&link);
                    matched[n] = true;
                }
                None => {
                    self.cables.push(link);
                    matched.push(true);
                }
            }
        }
        self
    }

    pub fn print(&self, format: Format) -> Result<String> {
        match format {
            Format::Text => Ok(self.text()),
            Format::Dot => Ok(self.dot()),
            Format::Jaccl => self.jaccl(),
        }
    }

    /// From `from` to `to`: cables, their Gbit/s together, the device.
    fn way(&self, from: &str, to: &str) -> Option<(usize, f64, Option<&str>)> {
        let ends = |link: &&Link| link.end(from).is_some() && link.end(to).is_some() && from != to;
        let found: Vec<&Link> = self.cables.iter().filter(ends).collect();
        let device = found.iter().find_map(|link| link.end(from)?.rdma.as_deref());
        let rate = found.iter().map(|link| link.gbps).sum();
        (!found.is_empty()).then_some((found.len(), rate, device))
    }

    fn text(&self) -> String {
        let mut rows = vec![std::iter::once("FROM \\ TO".to_string())
            .chain(self.hosts.iter().cloned())
            .collect::<Vec<_>>()];
        for from in &self.hosts {
            let cell = |to: &String| match self.way(from, to) {
                _ if to == from => "X".to_string(),
                Some((cables, rate, device)) => format!("{cables}x {rate} Gb/s {}", device.unwrap_or("?")),
                None => "-".to_string(),
            };
            rows.push(
                std::iter::once(from.clone())
                    .chain(self.hosts.iter().map(cell))
                    .collect(),
            );
        }
        let mut cables = vec![[
            "CABLE", "FROM", "NETDEV", "RDMA", "ADDRESS", "TO", "CABLE", "NETDEV", "RDMA", "ADDRESS",
        ]
        .map(String::from)
        .to_vec()];
        for link in &self.cables {
            let told = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".into());
            let [near, far] = &link.ends;
            let mut row = vec![told(&near.cable), near.host.clone()];
            row.extend([&near.netdev, &near.rdma, &near.address].map(told));
            row.push(far.host.clone());
            row.extend([&far.cable, &far.netdev, &far.rdma, &far.address].map(told));
            cables.push(row);
        }
        format!("{}\n{}", table(&rows), table(&cables))
    }

    fn dot(&self) -> String {
        let mut text = "graph usb4 {\n  node [shape=box];\n".to_string();
        for host in &self.hosts {
            text += &format!("  {host:?};\n");
        }
        for link in &self.cables {
            let [near, far] = &link.ends;
            let name = |end: &End| end.rdma.clone().or(end.netdev.clone()).unwrap_or_default();
            text += &format!(
                "  {:?} -- {:?} [label=\"{} Gb/s\", taillabel={:?}, headlabel={:?}];\n",
                near.host,
                far.host,
                link.gbps,
                name(near),
                name(far)
            );
        }
        text + "}\n"
    }

    /// A row for each host, with the device that leads to each other one.
    fn jaccl(&self) -> Result<String> {
        let row = |from: &String| -> Result<Vec<Option<String>>> {
            let cell = |to: &String| match self.way(from, to) {
                Some((_, _, None)) => {
                    let what =
                        "the device from there to here is not known: give what `usb4rdma topo --json` prints there";
                    anyhow::bail!("{from} to {to}: {what}")
                }
                Some((_, _, device)) => Ok(device.map(String::from)),
                None => Ok(None),
            };
            self.hosts.iter().map(cell).collect()
        };
        let rows: Vec<_> = self.hosts.iter().map(row).collect::<Result<_>>()?;
        Ok(serde_json::to_string_pretty(&rows)? + "\n")
    }
}

impl Link {
    fn end(&self, host: &str) -> Option<&End> {
        self.ends.iter().find(|end| end.host == host)
    }

    /// Whether the other is this cable as its far end tells of it.
    fn is_seen_from_elsewhere_in(&self, other: &Link) -> bool {
        let routers = |link: &Link| {
            let mut routers = link.ends.clone().map(|end| end.router);
            routers.sort();
            routers
        };
        routers(self) == routers(other) && self.ends[0].router != other.ends[0].router
    }

    /// Fills in what the other knows.
    fn take(&mut self, other: &Link) {
        let known: BTreeMap<&str, &End> = other.ends.iter().map(|end| (end.router.as_str(), end)).collect();
        for end in &mut self.ends {
            let Some(told) = known.get(end.router.as_str()) else {
                continue;
            };
            let fill = |to: &mut Option<String>, from: &Option<String>| {
                if to.is_none() {
                    to.clone_from(from);
                }
            };
            fill(&mut end.cable, &told.cable);
            fill(&mut end.netdev, &told.netdev);
            fill(&mut end.rdma, &told.rdma);
            fill(&mut end.address, &told.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{add_cable, healthy};
    use crate::schema::same_as_file;

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("topo.json", schemars::schema_for!(Topo));
    }

    /// What h1 tells of a cable to h0.
    fn other() -> Topo {
        let mut facts = healthy();
        facts.host.name = "h1".into();
        let cable = &mut facts.cables[0];
        cable.peer_name = "h0".into();
        std::mem::swap(&mut cable.router, &mut cable.peer);
        facts.rdma[0].device = "usb4r7".into();
        Topo::of(&facts)
    }

    #[test]
    fn one_host_knows_its_own_ends() {
        let mut facts = healthy();
        add_cable(&mut facts, 1);
        facts.cables[1].peer_name = "h2".into();
        let text = Topo::of(&facts).text();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["FROM", "\\", "TO", "h0", "h1", "h2"]);
        assert_eq!(
            lines[1],
            ["h0", "X", "1x", "80", "Gb/s", "usb4r0", "1x", "80", "Gb/s", "?"]
        );
        assert_eq!(lines[2][..2], ["h1", "1x"]);
        assert_eq!(lines[6][..3], ["0-1", "h0", "usb4net0"]);
    }

    #[test]
    fn what_both_ends_tell_of_is_one_cable() {
        let topo = Topo::of(&healthy()).joined(other());
        assert_eq!(
            (topo.hosts.as_slice(), topo.cables.len()),
            (["h0".to_string(), "h1".into()].as_slice(), 1)
        );
        let [near, far] = &topo.cables[0].ends;
        assert_eq!(
            (near.rdma.as_deref(), far.rdma.as_deref()),
            (Some("usb4r0"), Some("usb4r7"))
        );
        let matrix: Vec<Vec<Option<String>>> = serde_json::from_str(&topo.jaccl().unwrap()).unwrap();
        assert_eq!(
            matrix,
            [[None, Some("usb4r0".to_string())], [Some("usb4r7".into()), None]]
        );
        assert!(topo
            .dot()
            .contains("\"h0\" -- \"h1\" [label=\"80 Gb/s\", taillabel=\"usb4r0\", headlabel=\"usb4r7\"];"));
    }

    #[test]
    fn a_matrix_with_holes_is_refused() {
        let error = Topo::of(&healthy()).jaccl().unwrap_err().to_string();
        assert!(error.starts_with("h1 to h0: "), "{error}");
    }
}
