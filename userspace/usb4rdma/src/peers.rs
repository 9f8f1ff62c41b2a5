// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which cables lead to the same host, and what addresses the two of them have between them.
//!
//! A host with several routers has a UUID for each, and its peer sees those of the routers that cables lead to. So the
//! hosts' names say which cables belong together, and the addresses of a pair of hosts come from the two names: they
//! stay when a cable is added or taken away, and each host knows the other's without asking. Where a name cannot
//! serve, as `localhost`, or one that both have, each cable is a peer of its own, and the UUIDs of the two routers at
//! its ends take the names' place. Both hosts see the same names and UUIDs and come to the same result.

use crate::facts::{Address, Cable, Facts};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names that hosts have before somebody gives them one.
const NO_NAMES: [&str; 5] = ["", "(none)", "localhost", "localhost.localdomain", "linux"];
/// The network that pairs of hosts take a /30 from.
const IPV4: [u8; 2] = [10, 85];
const IPV4_PREFIX: u8 = 30;
const IPV6_PREFIX: u8 = 64;

/// A host at the other end of one or several cables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it calls itself, or its UUID where that is no use.
    pub name: String,
    /// Its cables, in the order of [`Cable::name`].
    pub cables: Vec<String>,
    /// What the pair's addresses are made from: ours, the peer's.
    ends: (String, String),
}

/// Addresses of a pair of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub own: [Address; 2],
    pub peer: [Address; 2],
}

/// The peers of this host, by name. Cables to one host that have addresses of their own and no bond above them are
/// peers of their own.
pub fn peers(facts: &Facts) -> Vec<Peer> {
    peers_bonded_if(facts, |_| true)
}

/// The same with each cable a peer of its own where a bond is not wanted.
pub fn peers_bonded_if(facts: &Facts, bond: impl Fn(&Peer) -> bool) -> Vec<Peer> {
    let apart = |peer: &Peer| {
        let netdevs: Vec<_> = peer.cables.iter().filter_map(|cable| facts.netdev_of(cable)).collect();
        let alone = netdevs.iter().all(|netdev| netdev.controller.is_none());
        alone && netdevs.iter().filter(|netdev| netdev.has_global()).count() > 1
    };
    split(facts, by_name(facts), |peer| !bond(peer) || apart(peer))
}

fn by_name(facts: &Facts) -> Vec<Peer> {
    let own = &facts.host.name;
    let mut peers: Vec<Peer> = Vec::new();
    for cable in &facts.cables {
        let name = &cable.peer_name;
        if !is_name(name) || !is_name(own) || name == own {
            peers.push(of_cable(cable, cable.peer.clone()));
        } else if let Some(peer) = peers.iter_mut().find(|peer| peer.name == *name) {
            peer.cables.push(cable.name.clone());
        } else {
            peers.push(Peer {
                name: name.clone(),
                cables: vec![cable.name.clone()],
                ends: (own.clone(), name.clone()),
            });
        }
    }
    peers.sort_by(|a, b| (&a.name, &a.cables).cmp(&(&b.name, &b.cables)));
    peers
}

/// A peer for one cable, known by the UUIDs of the routers at its ends.
fn of_cable(cable: &Cable, name: String) -> Peer {
    Peer {
        name,
        cables: vec![cable.name.clone()],
        ends: (cable.router.clone(), cable.peer.clone()),
    }
}

/// Makes a peer of each cable of those peers that `apart` names and that have several.
fn split(facts: &Facts, peers: Vec<Peer>, apart: impl Fn(&Peer) -> bool) -> Vec<Peer> {
    let each = |peer: Peer| match peer.cables.len() > 1 && apart(&peer) {
        true => peer
            .cables(facts)
            .into_iter()
            .map(|cable| of_cable(cable, peer.name.clone()))
            .collect(),
        false => vec![peer],
    };
    peers.into_iter().flat_map(each).collect()
}

/// Whether a name tells hosts apart.
pub fn is_name(name: &str) -> bool {
    !NO_NAMES.contains(&name)
}

impl Peer {
    /// The cables themselves.
    pub fn cables<'f>(&self, facts: &'f Facts) -> Vec<&'f Cable> {
        facts
            .cables
            .iter()
            .filter(|cable| self.cables.contains(&cable.name))
            .collect()
    }

    /// Whether the peer goes by a name: its own, that of one of its cables, or the UUID of one of its routers.
    pub fn is(&self, facts: &Facts, name: &str) -> bool {
        self.name == name
            || self
                .cables(facts)
                .iter()
                .any(|cable| cable.name == name || cable.peer == name)
    }

    /// The device that carries the pair's addresses, if there is one: the bond of its cables, or that of its cable.
    pub fn top<'f>(&self, facts: &'f Facts) -> Option<&'f crate::facts::Netdev> {
        let netdevs: Vec<_> = self.cables.iter().filter_map(|cable| facts.netdev_of(cable)).collect();
        let controller = netdevs.iter().find_map(|netdev| netdev.controller.as_deref());
        controller
            .and_then(|name| facts.netdev(name))
            .or(netdevs.first().copied())
    }

    /// The addresses that this pair of hosts has by default.
    pub fn addresses(&self) -> Pair {
        let (own, peer) = (&self.ends.0, &self.ends.1);
        let lower = own.min(peer);
        let upper = own.max(peer);
        let hash = fnv(format!("{lower}\n{upper}").as_bytes());
        let subnet = u16::try_from((hash >> 48) & 0x3fff).unwrap_or(0) << 2;
        let [third, fourth] = subnet.to_be_bytes();
        let global = hash.to_be_bytes();
        let of = |end: &String| {
            let number = if end == lower { 1u8 } else { 2 };
            let four = Ipv4Addr::new(IPV4[0], IPV4[1], third, fourth | number);
            let six = Ipv6Addr::new(
                0xfd00 | u16::from(global[3]),
                u16::from_be_bytes([global[4], global[5]]),
                u16::from_be_bytes([global[6], global[7]]),
                0,
                0,
                0,
                0,
                u16::from(number),
            );
            [Address::new(four, IPV4_PREFIX), Address::new(six, IPV6_PREFIX)]
        };
        Pair {
            own: of(own),
            peer: of(peer),
        }
    }
}

/// Whether an address looks like one of [`Peer::addresses`].
pub fn is_made(address: &Address) -> bool {
    match address.address {
        IpAddr::V4(four) => four.octets()[..2] == IPV4 && address.prefix == IPV4_PREFIX,
        IpAddr::V6(six) => {
            let [first, _, _, middle @ .., last] = six.segments();
            address.prefix == IPV6_PREFIX && first & 0xff00 == 0xfd00 && middle == [0; 4] && (1..=2).contains(&last)
        }
    }
}

/// FNV-1a of 64 bits, mixed once more: neighbouring names differ in all bits.
fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Host;

    fn host(name: &str, cables: &[(&str, &str, &str)]) -> Facts {
        let cables = cables.iter().map(|(name, peer_name, peer)| Cable {
            name: name.to_string(),
            router: "a-router".into(),
            peer: peer.to_string(),
            peer_name: peer_name.to_string(),
            ..Cable::default()
        });
        Facts {
            host: Host {
                name: name.into(),
                ..Host::default()
            },
            cables: cables.collect(),
            ..Facts::default()
        }
    }

    #[test]
    fn cables_to_one_name_are_one_peer() {
        let peers = peers(&host(
            "a",
            &[("0-1", "c", "u1"), ("1-1", "b", "u2"), ("2-1", "c", "u3")],
        ));
        let found: Vec<_> = peers.iter().map(|p| (p.name.as_str(), p.cables.len())).collect();
        assert_eq!(found, [("b", 1), ("c", 2)]);
    }

    #[test]
    fn without_a_name_each_cable_is_a_peer() {
        for (own, peer) in [("a", "localhost"), ("localhost", "b"), ("a", "a"), ("a", "")] {
            let peers = peers(&host(own, &[("0-1", peer, "u1"), ("1-1", peer, "u2")]));
            let found: Vec<_> = peers.iter().map(|p| (p.name.as_str(), p.cables.len())).collect();
            assert_eq!(found, [("u1", 1), ("u2", 1)], "{own} and {peer}");
        }
    }

    #[test]
    fn cables_without_a_bond_have_networks_of_their_own() {
        let facts = host("a", &[("0-1", "b", "u1"), ("1-1", "b", "u2"), ("2-1", "c", "u3")]);
        let apart = peers_bonded_if(&facts, |_| false);
        let found: Vec<_> = apart.iter().map(|p| (p.name.as_str(), p.cables.len())).collect();
        assert_eq!(found, [("b", 1), ("b", 1), ("c", 1)]);
        assert_ne!(apart[0].addresses(), apart[1].addresses());
        // The only cable to a host is as it is without being told.
        assert_eq!(apart[2], peers(&facts)[1]);
    }

    #[test]
    fn both_ends_come_to_the_same_addresses() {
        let [a, b] =
            [("a", "b"), ("b", "a")].map(|(own, peer)| peers(&host(own, &[("0-1", peer, "u")]))[0].addresses());
        assert_eq!(a.own, b.peer);
        assert_eq!(a.peer, b.own);
        assert_ne!(a.own, a.peer);
        assert!(a.own[0].overlaps(&a.peer[0]) && a.own[1].overlaps(&a.peer[1]));
    }

    #[test]
    fn addresses_do_not_depend_on_the_cables() {
        let one = peers(&host("a", &[("0-1", "b", "u1")]))[0].addresses();
        let two = peers(&host("a", &[("0-1", "b", "u7"), ("1-1", "b", "u2")]))[0].addresses();
        assert_eq!(one, two);
        assert!(one.own.iter().all(is_made) && !is_made(&Address::new([10, 85, 0, 1], 24)));
        // Never to change: hosts of different versions must agree.
        assert_eq!(one.own[0].to_string(), "10.85.150.57/30");
    }

    #[test]
    fn pairs_of_a_cluster_of_eight_have_networks_of_their_own() {
        let names = ["h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7"];
        let mut seen = std::collections::BTreeSet::new();
        for own in names {
            for peer in names.iter().filter(|peer| **peer > own) {
                let pair = peers(&host(own, &[("0-1", peer, "u")]))[0].addresses();
                assert!(seen.insert(pair.own[0]), "{own} and {peer}");
            }
        }
    }
}
