// SPDX-License-Identifier: GPL-2.0 OR MIT
//! /etc/usb4rdma.toml: what `up` is to do otherwise than it would by itself.
//!
//! The command line comes before the file, what the file says of a peer before what it says of all, and what nobody
//! says is as `up` has it. A file that is wrong is refused whole, with line and column.

use crate::facts::Address;
use serde::de::{Deserializer, Error as _};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where it is looked for.
pub const FILE: &str = "/etc/usb4rdma.toml";
/// MTUs that a device may be given: IPv4's least, and a packet of 64 KiB less the Ethernet header.
const MTUS: std::ops::RangeInclusive<i64> = 68..=65522;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether several cables to one host are bonded.
    pub bond: Option<bool>,
    #[serde(deserialize_with = "mtu")]
    pub mtu: Option<u32>,
    /// Cables, network devices and hosts that are not touched.
    pub leave: Vec<String>,
    /// Cables are taken from thunderbolt_net without asking.
    pub take_over: bool,
    /// Seconds to wait for the other hosts.
    pub wait: Option<u64>,
    /// By the name of the host, the UUID of its router, or a cable.
    pub peer: BTreeMap<String, PeerConfig>,
}

/// What is said of one peer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<Address>,
    pub bond: Option<bool>,
    #[serde(deserialize_with = "mtu")]
    pub mtu: Option<u32>,
}

impl Config {
    /// Reads a file; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, the place and what is wrong there.
    pub fn read(file: &Path) -> Result<Config, String> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file == Path::new(FILE) => {
                return Ok(Config::default());
            }
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        Config::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| {
            let message = error.message().trim().replace('\n', ", ");
            match error.span() {
                Some(span) => {
                    let before = text.get(..span.start).unwrap_or(text);
                    let line = before.matches('\n').count() + 1;
                    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                    format!("line {line}, column {column}: {message}")
                }
                None => message,
            }
        })
    }

    /// What is said of a peer that goes by any of these names.
    pub fn of(&self, is: impl Fn(&str) -> bool) -> PeerConfig {
        let said = self.peer.iter().find(|(name, _)| is(name));
        said.map(|(_, said)| said.clone()).unwrap_or_default()
    }
}

fn mtu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let mtu = i64::deserialize(from)?;
    match u32::try_from(mtu) {
        Ok(fits) if MTUS.contains(&mtu) => Ok(Some(fits)),
        _ => Err(D::Error::custom(format!(
            "an MTU is {} to {}",
            MTUS.start(),
            MTUS.end()
        ))),
    }
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Address>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_said() {
        let text = "bond = false\nmtu = 9000\nleave = ['0-3']\ntake_over = true\nwait = 5\n[peer.box2]\n\
                    addresses = ['10.0.0.1/24', 'fd00::1/64']\nbond = true\nmtu = 4200\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(
            (config.bond, config.mtu, config.wait),
            (Some(false), Some(9000), Some(5))
        );
        assert!(config.take_over && config.leave == ["0-3"]);
        let peer = config.of(|name| name == "box2");
        assert_eq!(peer.addresses[0], Address::new([10, 0, 0, 1], 24));
        assert_eq!((peer.bond, peer.mtu), (Some(true), Some(4200)));
        assert_eq!(config.of(|name| name == "box3"), PeerConfig::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let said = |text| Config::parse(text).unwrap_err();
        assert_eq!(
            said("bond = true\nbonds = 1\n"),
            "line 2, column 1: unknown field `bonds`, expected one of `bond`, `mtu`, `leave`, `take_over`, `wait`, `peer`"
        );
        assert_eq!(said("mtu = 70000"), "line 1, column 7: an MTU is 68 to 65522");
        assert_eq!(
            said("[peer.b]\naddresses = ['10.0.0.1']\n"),
            "line 2, column 13: 10.0.0.1: the length of the prefix is missing, as in 10.0.0.1/24"
        );
        assert_eq!(
            said("bond = 'yes'"),
            "line 1, column 8: invalid type: string \"yes\", expected a boolean"
        );
        assert!(said("bond = ").starts_with("line 1, column 8: "), "{}", said("bond = "));
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_unless_it_was_named() {
        assert!(Config::read(Path::new("/nonexistent/x.toml"))
            .unwrap_err()
            .contains("/nonexistent/x.toml: "));
        if !Path::new(FILE).exists() {
            assert_eq!(Config::read(Path::new(FILE)), Ok(Config::default()));
        }
    }

    #[test]
    fn the_example_is_right_and_says_everything() {
        let example = include_str!("../../dist/usb4rdma.toml");
        Config::parse(example).unwrap();
        let uncommented: String = example
            .lines()
            .map(|l| format!("{}\n", l.strip_prefix('#').unwrap_or(l)))
            .collect();
        let lines: Vec<&str> = uncommented
            .lines()
            .filter(|line| line.contains('=') || line.starts_with('['))
            .collect();
        let config = Config::parse(&lines.join("\n")).unwrap();
        assert!(config.bond.is_some() && config.mtu.is_some() && config.wait.is_some() && config.take_over);
        assert!(!config.leave.is_empty() && config.peer.values().any(|peer| !peer.addresses.is_empty()));
    }
}
