// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The command line.

use crate::facts::Address;
use crate::plan::Wanted;
use crate::up::How;
use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// From hosts and USB4 cables to a working RDMA cluster.
#[derive(Debug, Parser)]
#[command(name = "usb4rdma", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Say what is done, step by step
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make RDMA work over all cables: module, bonds, addresses, MTU, RDMA devices
    ///
    /// Run it on each host, in any order; it waits for the others. What is as it should be is left alone, so it may
    /// run again at any time. `usb4rdma down` undoes exactly what it did.
    #[command(after_help = "Examples:\n  usb4rdma up\n  usb4rdma up --dry-run\n  \
                            usb4rdma up --peer box2 --address 10.0.0.1/24 --address fd00::1/64")]
    Up(Up),
    /// Undo exactly what `up` has done since boot
    Down {
        /// Print the commands, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Peers, cables with their speed and what it could be, network and RDMA devices, and what is wrong
    #[command(after_help = "Examples:\n  usb4rdma status\n  usb4rdma status --json | jq '.peers[].cables[].gbps'")]
    Status {
        /// One JSON object, described by schema/status.json
        #[arg(long)]
        json: bool,
    },
    /// Check everything, with evidence and the command that mends what is wrong
    ///
    /// The exit status is the worst that was found: 0 nothing or notes, 1 warnings, 2 errors.
    #[command(
        after_help = "Examples:\n  usb4rdma doctor\n  usb4rdma doctor --json | jq -r '.findings[].fix // empty'"
    )]
    Doctor {
        /// One JSON object, described by schema/doctor.json
        #[arg(long)]
        json: bool,
    },
    /// Print the completions for a shell
    #[command(after_help = "Example:\n  source <(usb4rdma completions bash)")]
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a directory
    Man { dir: PathBuf },
    /// Everything that the other verbs decide on, as JSON
    #[command(hide = true)]
    Facts,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Only the cables to this host (its name, the UUID of its router, or a cable such as 0-1); may be given again
    #[arg(long, value_name = "HOST")]
    peer: Vec<String>,
    /// An address with the length of its prefix, in place of the one made from the hosts' names; may be given again
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = address)]
    address: Vec<Address>,
    /// No bond: an RDMA device for each cable
    #[arg(long)]
    no_bond: bool,
    /// Do not ask before the cables are taken from thunderbolt_net
    #[arg(short, long)]
    yes: bool,
    /// Print the commands, do nothing
    #[arg(long)]
    dry_run: bool,
    /// Seconds to wait for the other hosts
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

impl Up {
    pub fn parts(&self) -> (Wanted, How) {
        let wanted = Wanted {
            peers: self.peer.clone(),
            no_bond: self.no_bond,
            addresses: self.address.clone(),
            given: vec![],
        };
        let how = How {
            dry_run: self.dry_run,
            yes: self.yes,
            wait: Duration::from_secs(self.wait),
        };
        (wanted, how)
    }
}

/// `10.0.0.1/24`
fn address(text: &str) -> Result<Address, String> {
    let (address, prefix) = text
        .split_once('/')
        .ok_or("the length of the prefix is missing, as in 10.0.0.1/24")?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address} is no IP address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| (1..=most).contains(prefix));
    let prefix = prefix.ok_or(format!("a prefix is 1 to {most} bits long"))?;
    Ok(Address::new(address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_have_a_prefix() {
        assert_eq!(address("10.0.0.1/24"), Ok(Address::new([10, 0, 0, 1], 24)));
        for bad in ["10.0.0.1", "10.0.0/24", "10.0.0.1/33", "fd00::1/129", "10.0.0.1/0"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
