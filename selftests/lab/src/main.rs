// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab`: Linux hosts joined by software USB4 cables, as one command.
//!
//! [`spec`] says what a lab consists of, [`holder`] is the process that keeps one running, [`lab`] is the handle
//! that commands and test cases use, [`cases`] are the tests.

mod agent;
mod apps;
mod bench;
mod bondbench;
mod bonded;
mod cases;
mod cli;
mod control;
mod cpu;
mod deep;
mod demo;
mod duo;
mod fabric;
mod fair;
mod guest;
mod holder;
mod lab;
mod load;
mod log;
mod matrix;
mod measure;
mod memory;
mod netbench;
mod page;
mod parse;
mod paths;
mod qemu;
mod quiet;
mod runner;
mod schema;
mod soak;
mod spec;
mod stat;
mod stress;
mod suite;
mod sweep;
mod tiers;
mod uml;
mod verbs;
mod virtually;
mod wires;
mod workloads;
mod yardstick;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("usb4lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
