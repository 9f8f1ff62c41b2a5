// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is to be done so that a host is as `up` wants it: facts in, steps out, nothing touched.
//!
//! A step is one change, such as an `ip` command makes; each says what undoes it. A host that is as it should be has
//! no steps, which is what makes `up` idempotent.

mod steps;

pub use steps::{Planned, Step, MIIMON};

use crate::config::{Config, PeerConfig};
use crate::facts::{Address, Facts, Netdev, MODULE, STOCK};
use crate::peers::{is_made, peers_bonded_if, Peer};
use anyhow::{bail, ensure, Result};

/// The largest MTU of use: a packet of 64 KiB less the Ethernet header.
const MTU: u32 = 65522;
/// How RDMA devices, and bonds, are called, a number behind it.
const RDMA_NAME: &str = "usb4r";
const BOND_NAME: &str = "usb4bond";

/// What a person asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Names or UUIDs of peers; none: all.
    pub peers: Vec<String>,
    /// One bond for each peer, or each cable by itself.
    pub bond: Option<bool>,
    pub mtu: Option<u32>,
    /// In place of those that come from the hosts' names.
    pub addresses: Vec<Address>,
    /// What earlier runs have given to network devices: theirs go where another host is at the end of the cable now.
    pub given: Vec<(String, Address)>,
    /// What the configuration file says where the above says nothing.
    pub config: Config,
}

impl Wanted {
    /// The peers that are meant.
    ///
    /// # Errors
    ///
    /// A peer that is not there; addresses for more than one.
    pub fn chosen(&self, facts: &Facts) -> Result<Vec<Peer>> {
        let bond = |peer: &Peer| self.bond.or(self.said_of(facts, peer).bond).or(self.config.bond);
        let all = peers_bonded_if(facts, |peer| bond(peer).unwrap_or(true));
        let is = |peer: &Peer, name: &String| peer.is(facts, name);
        if let Some(missing) = self.peers.iter().find(|name| !all.iter().any(|peer| is(peer, name))) {
            let mut names: Vec<&str> = all.iter().map(|peer| peer.name.as_str()).collect();
            names.dedup();
            bail!("no cable leads to a host {missing}: there are {}", names.join(", "));
        }
        let chosen = |peer: &Peer| self.peers.is_empty() || self.peers.iter().any(|name| is(peer, name));
        let chosen: Vec<Peer> = all.into_iter().filter(chosen).collect();
        ensure!(
            self.addresses.is_empty() || chosen.len() <= 1,
            "--address is for one peer, and there are {}: say which with --peer",
            chosen.len()
        );
        Ok(chosen)
    }

    /// What the configuration file says of a peer.
    fn said_of(&self, facts: &Facts, peer: &Peer) -> PeerConfig {
        self.config.of(|name| peer.is(facts, name))
    }

    /// The addresses that a person wants a peer's device to have; none: those made from the names.
    fn addresses_of(&self, facts: &Facts, peer: &Peer) -> Vec<Address> {
        match self.addresses.is_empty() {
            true => self.said_of(facts, peer).addresses,
            false => self.addresses.clone(),
        }
    }

    /// The MTU that a person wants a peer's device to have.
    fn mtu_of(&self, facts: &Facts, peer: &Peer) -> Option<u32> {
        self.mtu.or(self.said_of(facts, peer).mtu).or(self.config.mtu)
    }
}

/// Gives the cables to the module: loads it, in place of the stock driver if `take_over`. What the stock driver's
/// devices had is put aside first, and comes back when this is undone.
pub fn modules(facts: &Facts, take_over: bool) -> Vec<Planned> {
    let mut steps = vec![];
    if !facts.host.bus {
        steps.push(Planned::of(Step::Load("thunderbolt".into())));
    }
    let stock: Vec<&Netdev> = facts
        .of_cables()
        .filter(|netdev| netdev.driver.as_deref() != Some(MODULE))
        .collect();
    if !take_over || (stock.is_empty() && !facts.loaded(STOCK)) {
        if !facts.loaded(MODULE) {
            steps.push(Planned::of(Step::Load(MODULE.into())));
        }
        return steps;
    }
    let mut back = vec![Step::Load(STOCK.into())];
    for netdev in stock {
        for link in facts
            .rdma
            .iter()
            .filter(|link| link.netdev.as_deref() == Some(&netdev.name))
        {
            let kind = if link.is_ours() { "usb4" } else { "rxe" };
            steps.push(Planned::new(Step::DeleteRdma(link.device.clone()), vec![]));
            back.push(Step::add_rdma(&link.device, kind, &netdev.name));
        }
        back.insert(1, Step::mtu(&netdev.name, netdev.mtu));
        if netdev.up {
            back.insert(2, Step::Up(netdev.name.clone()));
        }
        for address in netdev.global() {
            back.insert(2, Step::add_address(&netdev.name, *address));
        }
    }
    let loaded = facts.loaded(MODULE);
    if loaded {
        steps.push(Planned::new(
            Step::Unload(MODULE.into()),
            vec![Step::Load(MODULE.into())],
        ));
    }
    if facts.loaded(STOCK) {
        steps.push(Planned::new(Step::Unload(STOCK.into()), back));
    }
    steps.push(Planned::new(
        Step::Load(MODULE.into()),
        vec![Step::Unload(MODULE.into())],
    ));
    steps
}

/// Devices, addresses and RDMA links for the peers whose cables have network devices, and what a person should know.
///
/// # Errors
///
/// What stands there already keeps a peer's cables from being set up.
pub fn devices(facts: &Facts, wanted: &Wanted) -> Result<(Vec<Planned>, Vec<String>)> {
    devices_of(facts, wanted, &wanted.chosen(facts)?)
}

/// The same for some of the peers.
///
/// # Errors
///
/// As [`devices`].
pub fn devices_of(facts: &Facts, wanted: &Wanted, chosen: &[Peer]) -> Result<(Vec<Planned>, Vec<String>)> {
    let mut plan = Plan {
        facts,
        steps: vec![],
        notes: vec![],
        rdma: 0,
        bonds: 0,
    };
    for peer in chosen {
        let ports: Vec<&Netdev> = peer.cables.iter().filter_map(|cable| facts.netdev_of(cable)).collect();
        let Some(top) = plan.top(peer, &ports, wanted)? else {
            continue;
        };
        plan.addresses(peer, &top, wanted)?;
        plan.rdma(&top);
    }
    Ok((plan.steps, plan.notes))
}

/// Cables of a peer for which a network device is still to come.
pub fn awaited(facts: &Facts, peer: &Peer) -> Vec<String> {
    let cables = peer.cables.iter();
    cables
        .filter(|cable| facts.netdev_of(cable).is_none())
        .cloned()
        .collect()
}

/// The facts as they will be when the module has made a device for each cable: what `--dry-run` plans with. True if
/// anything had to be made up.
pub fn assumed(facts: &Facts) -> (Facts, bool) {
    let mut facts = facts.clone();
    let ours = |netdev: &Netdev| netdev.driver.as_deref() == Some(MODULE);
    let mut made_up = false;
    for (n, cable) in facts.cables.clone().iter().enumerate() {
        if facts.netdev_of(&cable.name).is_some_and(ours) {
            continue;
        }
        made_up = true;
        facts
            .netdevs
            .retain(|netdev| netdev.cable.as_ref() != Some(&cable.name));
        facts.netdevs.push(Netdev {
            name: format!("usb4net{n}"),
            cable: Some(cable.name.clone()),
            driver: Some(MODULE.into()),
            mtu: MTU,
            max_mtu: MTU,
            ..Netdev::default()
        });
    }
    let gone = |netdev: &Option<String>| netdev.as_ref().is_some_and(|name| facts.netdev(name).is_none());
    let keep: Vec<bool> = facts.rdma.iter().map(|link| !gone(&link.netdev)).collect();
    let mut keep = keep.into_iter();
    facts.rdma.retain(|_| keep.next().unwrap_or(true));
    (facts, made_up)
}

/// The MTU for the network devices of a peer's cables.
pub fn mtu_for(facts: &Facts, peer: &Peer) -> u32 {
    let limits = peer
        .cables
        .iter()
        .filter_map(|cable| facts.netdev_of(cable))
        .map(|netdev| netdev.max_mtu);
    limits.filter(|limit| *limit > 0).min().unwrap_or(MTU).min(MTU)
}

/// A name that no RDMA device has.
pub fn free_rdma_name(facts: &Facts) -> String {
    free_name(RDMA_NAME, 0, |name| facts.rdma.iter().any(|link| link.device == name)).0
}

/// The first name of `start` and a number that is not taken, and the number after it.
fn free_name(start: &str, from: usize, taken: impl Fn(&str) -> bool) -> (String, usize) {
    let mut number = from;
    while taken(&format!("{start}{number}")) {
        number += 1;
    }
    (format!("{start}{number}"), number + 1)
}

struct Plan<'f> {
    facts: &'f Facts,
    steps: Vec<Planned>,
    notes: Vec<String>,
    /// Numbers from which names are looked for.
    rdma: usize,
    bonds: usize,
}

/// The device that is to carry a peer's addresses.
struct Top {
    name: String,
    /// As it is now, if it exists.
    now: Option<Netdev>,
}

impl Plan<'_> {
    fn add(&mut self, step: Step) {
        self.steps.push(Planned::of(step));
    }

    /// Sets up the device for a peer, a bond where there are several cables; None if there is none yet.
    fn top(&mut self, peer: &Peer, ports: &[&Netdev], wanted: &Wanted) -> Result<Option<Top>> {
        let Some(now) = peer.top(self.facts) else {
            return Ok(None);
        };
        let asked = wanted.mtu_of(self.facts, peer);
        let most = mtu_for(self.facts, peer);
        if let Some(asked) = asked.filter(|asked| *asked > most) {
            bail!(
                "the devices of the cables to {} take an MTU of {most} at most, not {asked}",
                peer.name
            );
        }
        let mtu = asked.unwrap_or(most);
        let above = ports.iter().find_map(|port| port.controller.as_deref());
        let top = if let Some(above) = above {
            let bond = now.bond_mode.is_some();
            for port in ports.iter().filter(|port| port.controller.is_none() && bond) {
                self.join(port, above)?;
            }
            Top {
                name: above.to_string(),
                now: Some(now.clone()),
            }
        } else if let [only] = ports {
            Top {
                name: only.name.clone(),
                now: Some((*only).clone()),
            }
        } else if let Some(used) = ports.iter().find(|port| self.facts.link_over(&port.name).is_some()) {
            self.notes.push(format!(
                "{} leads to {} alone and stays in use: `usb4rdma down` and `usb4rdma up` join its {} cables, and break \
                 connections",
                used.name,
                peer.name,
                ports.len()
            ));
            return Ok(None);
        } else {
            let taken = |name: &str| self.facts.netdev(name).is_some();
            let (name, next) = free_name(BOND_NAME, self.bonds, taken);
            self.bonds = next;
            self.add(Step::AddBond(name.clone()));
            for port in ports {
                self.join(port, &name)?;
            }
            Top { name, now: None }
        };
        // The MTU of a bond that is there already is that of who made it, unless a person says another.
        let ours = above.is_none() || asked.is_some();
        if top.now.as_ref().is_none_or(|now| now.mtu != mtu && ours) {
            match &top.now {
                Some(now) => self.steps.push(Planned::new(
                    Step::mtu(&top.name, mtu),
                    vec![Step::mtu(&top.name, now.mtu)],
                )),
                None => self.steps.push(Planned::new(Step::mtu(&top.name, mtu), vec![])),
            }
        }
        if top.now.as_ref().is_none_or(|now| !now.up) {
            self.add(Step::Up(top.name.clone()));
        }
        Ok(Some(top))
    }

    /// Makes a cable's device a part of a bond.
    fn join(&mut self, port: &Netdev, bond: &str) -> Result<()> {
        if let Some(address) = port.global().next() {
            bail!(
                "{} has the address {address} and cannot be a part of a bond: remove the address, or use --no-bond",
                port.name
            );
        }
        if port.up {
            self.add(Step::Down(port.name.clone()));
        }
        self.add(Step::Join {
            port: port.name.clone(),
            bond: bond.to_string(),
        });
        Ok(())
    }

    fn addresses(&mut self, peer: &Peer, top: &Top, wanted: &Wanted) -> Result<()> {
        let own = peer.addresses().own;
        let mut has = top.now.as_ref().map_or(vec![], |now| now.addresses.clone());
        // A device outlives its cable. Addresses that a person chose stay; those made for two hosts are for these two.
        let of_another = |a: &Address| wanted.given.contains(&(top.name.clone(), *a)) && is_made(a) && !own.contains(a);
        for address in has.iter().filter(|address| of_another(address)) {
            let step = Step::DeleteAddress {
                netdev: top.name.clone(),
                address: *address,
            };
            self.steps.push(Planned::new(step, vec![]));
        }
        has.retain(|address| !of_another(address));
        let family = |address: &Address| {
            has.iter()
                .any(|a| !a.is_link_local() && a.address.is_ipv4() == address.address.is_ipv4())
        };
        let missing: Vec<Address> = match wanted.addresses_of(self.facts, peer).as_slice() {
            [] => own.into_iter().filter(|address| !family(address)).collect(),
            given => given.iter().filter(|address| !has.contains(address)).copied().collect(),
        };
        for address in missing {
            let others = self.facts.netdevs.iter().filter(|netdev| netdev.name != top.name);
            let clash = others
                .flat_map(|n| n.global().map(move |a| (n, a)))
                .find(|(_, a)| a.overlaps(&address));
            let planned = self.steps.iter().find_map(|planned| match &planned.step {
                Step::AddAddress { netdev, address: other } if netdev != &top.name && other.overlaps(&address) => {
                    Some((netdev.clone(), *other))
                }
                _ => None,
            });
            let clash = clash.map(|(netdev, other)| (netdev.name.clone(), *other)).or(planned);
            if let Some((netdev, other)) = clash {
                bail!(
                    "the network {address} for {} is also that of {netdev} ({other}): choose another with --peer {} \
                     --address, on both hosts",
                    peer.name,
                    peer.name
                );
            }
            self.add(Step::add_address(&top.name, address));
        }
        Ok(())
    }

    fn rdma(&mut self, top: &Top) {
        if self.facts.link_over(&top.name).is_some() {
            return;
        }
        let taken = |name: &str| self.facts.rdma.iter().any(|link| link.device == name);
        let (name, next) = free_name(RDMA_NAME, self.rdma, taken);
        self.rdma = next;
        self.add(Step::add_rdma(&name, "usb4", &top.name));
    }
}

#[cfg(test)]
mod tests;
