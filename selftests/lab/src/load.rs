// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Programs of perftest, and a TCP stream, each run in two lengths: the CPU time that the longer takes beyond the
//! shorter is that of the messages alone.
//!
//! To start a verbs program, to connect it, to bring its memory in and to take it down again costs a guest as much as
//! hundreds of megabytes do. Counted in, it made the faster of two wires look the worse.

use crate::lab::Lab;
use crate::netbench;
use crate::parse;
use crate::verbs::Pair;
use anyhow::{bail, ensure, Context, Result};
use std::time::Duration;

/// Time limit of one run on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);
pub const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;
/// Seconds of the short run's messages, as far as the trial tells: of a stream, and of what is told by the message.
const SHORT_S: [f64; 2] = [0.5, 0.3];
/// How many times the messages of the short run the long one has.
const LONGER: u64 = 4;
/// Bytes of the trial, and its messages at least.
const TRIAL: (u64, u64) = (32 << 20, 500);
/// Seconds of the two TCP streams.
const TCP_S: [u32; 2] = [1, 4];

/// What a load is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Mebibytes,
    Messages,
    Latency,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Mebibytes => "MiB/s",
            Unit::Messages => "messages/s",
            Unit::Latency => "us",
        }
    }

    /// What CPU time is divided by.
    pub fn cpu_name(self) -> &'static str {
        match self {
            Unit::Mebibytes => "s/GiB",
            Unit::Messages => "us/message",
            Unit::Latency => "us/round trip",
        }
    }
}

/// A program of perftest with messages of one size.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Of its row in a report.
    pub name: &'static str,
    /// Of its row in a table for people.
    pub title: &'static str,
    program: &'static str,
    options: &'static str,
    size: u64,
    pub unit: Unit,
}

/// One result. CPU time is that of host 0, the client, and of host 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub value: f64,
    /// In the unit's own measure.
    pub cpu: [f64; 2],
    /// Processors that each guest kept busy.
    pub busy: [f64; 2],
}

/// One run of a program.
struct Run {
    value: f64,
    /// Seconds of a message, or of a round trip.
    each_s: f64,
    cpu: [f64; 2],
}

const fn load(
    name: &'static str,
    title: &'static str,
    program: &'static str,
    options: &'static str,
    size: u64,
    unit: Unit,
) -> Load {
    Load {
        name,
        title,
        program,
        options,
        size,
        unit,
    }
}

/// All that is measured of a wire.
pub const ALL: [Load; 12] = [
    load(
        "write_bw_1MiB",
        "WRITE 1 MiB",
        "ib_write_bw",
        "",
        1 << 20,
        Unit::Mebibytes,
    ),
    load("send_bw_1MiB", "SEND 1 MiB", "ib_send_bw", "", 1 << 20, Unit::Mebibytes),
    load("read_bw_1MiB", "READ 1 MiB", "ib_read_bw", "", 1 << 20, Unit::Mebibytes),
    load(
        "write_bw_64KiB",
        "WRITE 64 KiB",
        "ib_write_bw",
        "",
        65536,
        Unit::Mebibytes,
    ),
    load("send_bw_64KiB", "SEND 64 KiB", "ib_send_bw", "", 65536, Unit::Mebibytes),
    load("read_bw_64KiB", "READ 64 KiB", "ib_read_bw", "", 65536, Unit::Mebibytes),
    load("write_bw_4KiB", "WRITE 4 KiB", "ib_write_bw", "", 4096, Unit::Mebibytes),
    load("send_rate_8B", "SEND 8 B", "ib_send_bw", "", 8, Unit::Messages),
    load("write_lat_64B", "WRITE 64 B", "ib_write_lat", "", 64, Unit::Latency),
    load("send_lat_64B", "SEND 64 B", "ib_send_lat", "", 64, Unit::Latency),
    load("read_lat_64B", "READ 64 B", "ib_read_lat", "", 64, Unit::Latency),
    load(
        "write_imm_lat_16KiB",
        "WRITE_WITH_IMM 16 KiB",
        "ib_write_lat",
        "--write_with_imm",
        16384,
        Unit::Latency,
    ),
];

impl Load {
    /// Runs it in both lengths; again if it reported nonsense, as perftest does when a busy machine spoils its estimate
    /// of the clock, or if a busy moment made the trial choose runs that are too short. `count` is that of the short
    /// run, found by a trial where it is not known yet.
    pub fn measure(&self, lab: &Lab, pair: &Pair, count: &mut Option<u64>) -> Result<Reading> {
        let seconds = SHORT_S[usize::from(self.unit != Unit::Mebibytes)];
        let fitting = |run: &Run| ((seconds / run.each_s) as u64).max(10);
        let mut short = match *count {
            Some(short) => short,
            None => fitting(&self.sane(lab, pair, (TRIAL.0 / self.size).clamp(TRIAL.1 / 20, TRIAL.1))?),
        };
        let mut found = None;
        for _ in 0..3 {
            let runs = [self.sane(lab, pair, short)?, self.sane(lab, pair, short * LONGER)?];
            let more = (short * (LONGER - 1)) as f64;
            let each = [0, 1].map(|host| (runs[1].cpu[host] - runs[0].cpu[host]) / more);
            // A guest that only answers may cost less than the clock's tick; both together may not.
            if each[0] + each[1] > 0.0 {
                found = Some(self.reading(&runs[1], each));
                if fitting(&runs[1]) < 2 * short {
                    break;
                }
            }
            short = fitting(&runs[1]);
        }
        *count = Some(short);
        found.with_context(|| format!("{}: the longer run took no more CPU time than the shorter", self.name))
    }

    /// What a long run says, with the CPU seconds that each of its messages cost.
    fn reading(&self, run: &Run, each: [f64; 2]) -> Reading {
        let scale = match self.unit {
            Unit::Mebibytes => GIB / self.size as f64,
            Unit::Messages | Unit::Latency => 1e6,
        };
        Reading {
            value: run.value,
            cpu: each.map(|cpu| cpu * scale),
            busy: each.map(|cpu| cpu / run.each_s),
        }
    }

    fn sane(&self, lab: &Lab, pair: &Pair, count: u64) -> Result<Run> {
        for _ in 0..3 {
            let run = self.once(lab, pair, count)?;
            let good = |number: f64| number > 0.0 && number.is_finite();
            if good(run.value) && good(run.each_s) {
                return Ok(run);
            }
        }
        bail!(
            "{} reported nonsense three times: the machine is too busy to measure",
            self.name
        )
    }

    fn once(&self, lab: &Lab, pair: &Pair, count: u64) -> Result<Run> {
        let before = lab.cpu_of_pair()?;
        let arguments = format!("{} -n {count} -s {}", self.options, self.size);
        let text = pair.perftest(lab, self.program, &arguments, LIMIT)?;
        let after = lab.cpu_of_pair()?;
        let (value, each_s) = match self.unit {
            Unit::Latency => {
                let row = parse::latency(&text)?;
                // A READ's is the whole round trip, the others' half of it.
                let halves = if self.program == "ib_read_lat" { 1.0 } else { 2.0 };
                (row.typical_us, row.average_us * halves / 1e6)
            }
            Unit::Mebibytes | Unit::Messages => {
                let rows = parse::bandwidth(&text)?;
                let row = rows.first().context("empty table")?;
                ensure!(
                    row.bytes == self.size && row.iterations == count,
                    "{} reported {row:?}",
                    self.program
                );
                match self.unit {
                    Unit::Mebibytes => (row.mib_s, self.size as f64 / (row.mib_s * MIB)),
                    _ => (row.mega_messages_s * 1e6, 1.0 / (row.mega_messages_s * 1e6)),
                }
            }
        };
        Ok(Run {
            value,
            each_s,
            cpu: [after[0] - before[0], after[1] - before[1]],
        })
    }
}

/// One TCP stream from host 0 to host 1.
pub fn tcp(lab: &Lab) -> Result<Reading> {
    let [short, long] = [netbench::stream(lab, TCP_S[0])?, netbench::stream(lab, TCP_S[1])?];
    let more = long.bytes - short.bytes;
    ensure!(
        more > 0.0,
        "iperf3 moved no more in {} s than in {} s",
        TCP_S[1],
        TCP_S[0]
    );
    let each = [0, 1].map(|host| (long.cpu[host] - short.cpu[host]) / more);
    Ok(Reading {
        value: long.bits_s / 8.0 / MIB,
        cpu: each.map(|cpu| cpu * GIB),
        busy: each.map(|cpu| cpu * long.bits_s / 8.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_told_in_the_units_measure() {
        let run = Run {
            value: 1024.0,
            each_s: 1.0 / 1024.0,
            cpu: [0.0; 2],
        };
        let stream = ALL[0].reading(&run, [0.5 / 1024.0, 0.25 / 1024.0]);
        assert_eq!((stream.cpu, stream.busy), ([0.5, 0.25], [0.5, 0.25]));
        let trips = ALL[8].reading(&run, [2e-6, 1e-6]);
        assert_eq!(trips.cpu, [2.0, 1.0]);
    }
}
