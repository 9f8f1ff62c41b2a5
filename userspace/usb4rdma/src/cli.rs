// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The command line.

use clap::{Parser, Subcommand};

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
    /// Peers, cables with their speed and what it could be, network and RDMA devices, and what is wrong
    #[command(after_help = "Examples:\n  usb4rdma status\n  usb4rdma status --json | jq '.peers[].cables[].gbps'")]
    Status {
        /// One JSON object, described by schema/status.json
        #[arg(long)]
        json: bool,
    },
    /// Everything that the other verbs decide on, as JSON
    #[command(hide = true)]
    Facts,
}
