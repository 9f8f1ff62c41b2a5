// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab yardstick`: what a user compares first, RDMA and TCP over one cable between two of our own network devices,
//! and stock rxe over thunderbolt_net. The rdma suite's measurement, as a table for docs/benchmarks.md.

use crate::page;
use crate::wires::{self, Report};
use anyhow::Result;

const HOW: &str =
    "RDMA on our device over our network device, one TCP stream (iperf3) over the same, and stock rxe over
thunderbolt_net, in turns, each in a lab of its own; medians. Guests pinned, each on a processor of the machine. CPU is
that of both guests, told from two runs of which one has four times the messages of the other: their start and end are
not in it, the client's polling is.";

const NO_UDP: &str = "The module that was measured has no parameter `trains`: nothing stands under \"over UDP\".";

/// What `usb4lab yardstick` is asked to do.
pub struct Yardstick {
    pub runs: usize,
    /// Put the table into docs/benchmarks.md.
    pub write: bool,
}

impl Yardstick {
    /// Measures, and prints the table.
    ///
    /// # Errors
    ///
    /// A program that fails.
    pub fn run(&self) -> Result<()> {
        let report = wires::measure(self.runs)?;
        println!("{}", text(&report));
        if self.write {
            write(&report)?;
        }
        Ok(())
    }
}

/// Puts a measurement's table into docs/benchmarks.md.
pub fn write(report: &Report) -> Result<()> {
    page::write_part("benchmarks.md", "yardstick", "usb4lab yardstick --write", &text(report))
}

fn text(report: &Report) -> String {
    let missing = if report.udp {
        String::new()
    } else {
        format!(" {NO_UDP}")
    };
    format!("{HOW}\n\n{}.{missing}\n\n{}", report.provenance, report.table())
}
