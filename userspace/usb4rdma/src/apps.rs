// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor --app NAME`: the exact settings of a program for this pair of hosts, and the proof that it uses
//! them.

pub mod proof;
mod recipes;

use crate::facts::Facts;
use crate::peers::{peers, Peer};
use crate::status::findings_text;
use crate::text::Paint;
use crate::{facts, health};
use anyhow::{bail, ensure, Result};
use proof::Proof;
use recipes::{Need, Recipe};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// Where libraries are looked for beside the directories of `LD_LIBRARY_PATH`.
const LIBRARIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/opt/rocm/lib",
];

/// A program, or a family of programs with the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum App {
    Perftest,
    Ucx,
    Libfabric,
    Mpi,
    Nccl,
    Torch,
    Vllm,
    Llama,
    Gufo,
    Ds4,
    Jaccl,
    Nfs,
}

/// What `doctor --app --json` prints; schema/app.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AppReport {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub app: String,
    /// What it takes and is not here, a sentence each.
    pub missing: Vec<String>,
    /// For each peer with an RDMA device.
    pub pairs: Vec<Settings>,
    /// Where a command or a time was given.
    pub proof: Option<Proof>,
}

/// Settings for one peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Settings {
    pub peer: String,
    pub device: String,
    pub port: u32,
    /// Of this host's address with that device.
    pub gid_index: u32,
    pub netdev: String,
    pub address: String,
    /// Null where somebody else has given the addresses.
    pub peer_address: Option<String>,
    pub environment: Vec<Variable>,
    /// Commands to try it with: on the peer, and then here.
    pub on_peer: Vec<String>,
    pub here: Vec<String>,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl AppReport {
    /// The settings for all peers, or for one.
    ///
    /// # Errors
    ///
    /// No such peer, or none with an RDMA device.
    pub fn of(facts: &Facts, app: App, peer: Option<&str>) -> Result<AppReport> {
        let recipe = recipes::of(app);
        let all = peers(facts);
        if let Some(name) = peer {
            let names: Vec<&str> = all.iter().map(|peer| peer.name.as_str()).collect();
            ensure!(
                all.iter().any(|peer| peer.is(facts, name)),
                "no cable leads to a host {name}: there are {}",
                names.join(", ")
            );
        }
        let chosen = all.iter().filter(|one| peer.is_none_or(|name| one.is(facts, name)));
        let pairs: Vec<Settings> = chosen.filter_map(|peer| settings(facts, recipe, peer)).collect();
        if pairs.is_empty() {
            bail!(
                "no RDMA device with an address leads to {}: `usb4rdma up`, and `usb4rdma doctor` says what is wrong",
                peer.unwrap_or("another host")
            );
        }
        Ok(AppReport {
            version: VERSION,
            host: facts.host.name.clone(),
            app: recipe.name.into(),
            missing: recipe.needs.iter().filter_map(missing).collect(),
            pairs,
            proof: None,
        })
    }

    /// The settings for the only peer.
    ///
    /// # Errors
    ///
    /// There are several, and nobody has said which.
    pub fn pair(&self) -> Result<&Settings> {
        match self.pairs.as_slice() {
            [pair] => Ok(pair),
            pairs => {
                let names: Vec<&str> = pairs.iter().map(|pair| pair.peer.as_str()).collect();
                bail!("there are several peers: say by --peer which of {}", names.join(", "))
            }
        }
    }

    /// 0 where all is well, 1 where something is missing or went over TCP beside RDMA, 2 where RDMA was not used.
    pub fn status(&self) -> u8 {
        match &self.proof {
            Some(proof) => proof.status(),
            None => u8::from(!self.missing.is_empty()),
        }
    }

    /// For a person.
    pub fn text(&self, facts: &Facts, paint: Paint) -> String {
        let mut text = String::new();
        if let Some(proof) = &self.proof {
            return proof.text.clone() + "\n";
        }
        for pair in &self.pairs {
            text += &format!(
                "{} to {}: {} port {}, GID {}, {} over {}, there {}\n\n",
                self.app,
                pair.peer,
                pair.device,
                pair.port,
                pair.gid_index,
                pair.address,
                pair.netdev,
                pair.peer_address.as_deref().unwrap_or("an address of your choice"),
            );
            for Variable { name, value } in &pair.environment {
                text += &format!("    export {name}={}\n", quoted(value));
            }
            for (whose, lines) in [(pair.peer.as_str(), &pair.on_peer), ("this host", &pair.here)] {
                for line in lines {
                    text += &format!("    {line:<70} # on {whose}\n");
                }
            }
            for note in &pair.notes {
                text += &format!("note: {note}\n");
            }
            text += &format!(
                "note: `usb4rdma doctor --app {}` on {} prints the settings there; with `-- COMMAND` behind it, or \
                 `--during SECONDS` beside a program that runs, it proves that RDMA is used\n\n",
                self.app, pair.peer
            );
        }
        for missing in &self.missing {
            text += &format!("missing: {missing}\n");
        }
        text + &findings_text(&health::findings(facts), paint)
    }
}

fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:/,=-".contains(c);
    match value.chars().all(plain) {
        true => value.to_string(),
        false => format!("'{value}'"),
    }
}

fn settings(facts: &Facts, recipe: &Recipe, peer: &Peer) -> Option<Settings> {
    let top = peer.top(facts)?;
    let link = facts.link_over(&top.name)?;
    let (gid_index, address) = match link.ipv4_gid() {
        Some(gid) => (gid.index, gid.address.clone()),
        None => {
            let global = link
                .gids
                .iter()
                .find(|gid| gid.kind == "RoCE v2" && !gid.address.starts_with("fe80:"))?;
            (global.index, global.address.clone())
        }
    };
    let pair = peer.addresses();
    let made = pair.own.iter().position(|own| own.address.to_string() == address);
    let peer_address = made.map(|n| pair.peer[n].address.to_string());
    let placeholder = format!("ADDRESS-OF-{}", peer.name);
    let fill = |text: &str| {
        text.replace("{dev}", &link.device)
            .replace("{port}", &link.port.to_string())
            .replace("{gid}", &gid_index.to_string())
            .replace("{netdev}", &top.name)
            .replace("{own}", &address)
            .replace("{peer}", peer_address.as_deref().unwrap_or(&placeholder))
            .replace("{name}", &peer.name)
    };
    let all = |texts: &[&str]| texts.iter().map(|text| fill(text)).collect();
    Some(Settings {
        peer: peer.name.clone(),
        device: link.device.clone(),
        port: link.port,
        gid_index,
        netdev: top.name.clone(),
        environment: recipe
            .environment
            .iter()
            .copied()
            .flatten()
            .map(|(name, value)| Variable {
                name: name.to_string(),
                value: fill(value),
            })
            .collect(),
        on_peer: all(recipe.there),
        here: all(recipe.here),
        notes: notes(recipe, all(recipe.notes)),
        address: address.clone(),
        peer_address: peer_address.clone(),
    })
}

/// The notes of a recipe, and that it was not tried, where it was not.
fn notes(recipe: &Recipe, mut notes: Vec<String>) -> Vec<String> {
    if !recipe.tried {
        notes.push(recipes::UNTRIED.into());
    }
    notes
}

/// What is said of something that is not here; None if it is.
fn missing(need: &Need) -> Option<String> {
    let (found, what, from) = match need {
        Need::Program(name, from) => (program(name).is_some(), format!("the program {name}"), from),
        Need::Library(names, from) => (
            names.iter().any(|name| library(name)),
            format!("the library {}", names.join(" or ")),
            from,
        ),
        Need::Python(name, from) => (python(name), format!("the Python module {name}"), from),
        Need::Module(name, from) => {
            let found = Path::new("/sys/module").join(name).exists() || facts::module_installed(name);
            (found, format!("the kernel module {name}"), from)
        }
    };
    (!found).then(|| format!("{what} is not installed here ({from})"))
}

/// The file of a program on the PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn library(start: &str) -> bool {
    let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let given = std::env::split_paths(&given).collect::<Vec<_>>();
    let dirs = given.into_iter().chain(LIBRARIES.map(PathBuf::from));
    dirs.into_iter()
        .any(|dir| facts::names(&dir).iter().any(|name| name.starts_with(start)))
}

/// Asks the Python that is on the PATH, which alone knows where its modules are.
fn python(module: &str) -> bool {
    let line = format!("import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)");
    let status = std::process::Command::new("python3").args(["-c", &line]).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests;
