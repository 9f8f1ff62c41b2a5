// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The command line.

use crate::apps::App;
use crate::config::{self, Config};
use crate::facts::Address;
use crate::plan::Wanted;
use crate::topo::Format;
use crate::tune::Goal;
use crate::up::How;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// From hosts and USB4 cables to a working RDMA cluster.
#[derive(Debug, Parser)]
#[command(name = "usb4rdma", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Say what is done, step by step
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What `up` is to do otherwise than it would by itself (docs/tool.md)
    #[arg(long, global = true, value_name = "FILE", default_value = config::FILE, hide_default_value = false)]
    pub config: PathBuf,
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
        /// Look again each second: on a terminal drawn anew, else printed, a JSON object a line, when it has changed
        #[arg(short, long)]
        watch: bool,
    },
    /// What goes over each cable and each queue pair now, and why one is idle
    ///
    /// Rates, frames, what was lost and sent again, waits for credit and for the ring, CPU. Details of queue pairs need
    /// root.
    #[command(after_help = "Examples:\n  usb4rdma top\n  usb4rdma top --once\n  \
                            usb4rdma top --json --interval 5 | jq '.rails[].out_gbps'")]
    Top {
        /// One look, as text, and the end
        #[arg(long)]
        once: bool,
        /// A JSON object for each look, a line each, described by schema/top.json
        #[arg(long)]
        json: bool,
        /// Seconds from look to look
        #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: Duration,
    },
    /// Check everything, with evidence and the command that mends what is wrong
    ///
    /// The exit status is the worst that was found: 0 nothing or notes, 1 warnings, 2 errors. With --app 1 where
    /// something is not installed, 2 where RDMA was not used.
    #[command(
        after_help = "Examples:\n  usb4rdma doctor\n  usb4rdma doctor --json | jq -r '.findings[].fix // empty'\n  \
                      usb4rdma doctor --app torch\n  \
                      usb4rdma doctor --app perftest -- ib_write_bw -d usb4r0 -F 10.85.15.178"
    )]
    Doctor {
        /// One JSON object, described by schema/doctor.json; with --app by schema/app.json
        #[arg(long)]
        json: bool,
        /// What the driver takes for granted of the host interface, tried on this machine; as root, with a cable
        /// to a host with the module; schema/hardware.json
        #[arg(long, conflicts_with = "app")]
        hardware: bool,
        /// The settings of a program for this pair of hosts, and the proof that it uses RDMA
        #[arg(long, value_enum)]
        app: Option<App>,
        /// With --app: the host at the other end, where there are several
        #[arg(long, requires = "app", value_name = "HOST")]
        peer: Option<String>,
        /// With --app: look for so many seconds at what goes over, while the program runs
        #[arg(long, requires = "app", value_name = "SECONDS", value_parser = interval, conflicts_with = "command")]
        during: Option<Duration>,
        /// With --app: run this with the settings and look at what goes over
        #[arg(last = true, requires = "app")]
        command: Vec<String>,
    },
    /// What happens to queue pairs, as it happens: states, timeouts, losses, refusals, by the module's trace events
    ///
    /// Packets are shown where they are asked for: in words by --event qp_packet, as a file for Wireshark by --pcap.
    #[command(
        after_help = "Examples:\n  usb4rdma trace\n  usb4rdma trace --event qp_timeout --seconds 10 --json\n  \
                      usb4rdma trace -- ib_write_bw -d usb4r0 -F 10.85.15.178\n  usb4rdma trace --event qp_packet\n  \
                      usb4rdma trace --pcap - | wireshark -k -i -"
    )]
    Trace {
        /// Only these events (qp_state, qp_drop, qp_timeout, qp_retry, qp_nak, qp_error, qp_packet); may be given again
        #[arg(long, value_name = "EVENT")]
        event: Vec<String>,
        /// Only this RDMA device
        #[arg(long)]
        device: Option<String>,
        /// End after so many seconds, and not by Ctrl-C
        #[arg(long, value_parser = interval)]
        seconds: Option<Duration>,
        /// A JSON object for each event, a line each, described by schema/trace.json
        #[arg(long)]
        json: bool,
        /// Write packets as pcapng, which Wireshark opens as RoCEv2, with zeros for payloads; - for standard output
        #[arg(long, value_name = "FILE", conflicts_with_all = ["event", "json"])]
        pcap: Option<PathBuf>,
        /// With --pcap: no zeros, each packet is cut behind its headers, and Wireshark says so
        #[arg(long, requires = "pcap")]
        cut: bool,
        /// Trace while this runs
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Hosts, cables between them, and the RDMA device that leads from each to each
    #[command(
        after_help = "Examples:\n  usb4rdma topo\n  ssh box2 usb4rdma topo --json > box2.json; usb4rdma topo \
                            box2.json --format jaccl > jaccl.json\n  usb4rdma topo --format dot | dot -Tsvg > hosts.svg"
    )]
    Topo {
        /// What `usb4rdma topo --json` printed on other hosts
        files: Vec<PathBuf>,
        /// One JSON object, described by schema/topo.json
        #[arg(long, conflicts_with = "format")]
        json: bool,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// One tarball for a bug report: versions, status, doctor, counters, queue pairs, the kernel's log about it
    #[command(after_help = "Examples:\n  sudo usb4rdma report --redact\n  \
                            ssh box2 sudo usb4rdma report --output - > box2.tar.gz")]
    Report {
        /// The file; - for standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace names of hosts, addresses, MACs and UUIDs, each by a name of its own
        #[arg(long)]
        redact: bool,
    },
    /// Interrupts, rings, MTU, clocks: what could be better, why, and the command; nothing stays set without --apply
    ///
    /// With --sweep interrupts and rings of this host are tried one after the other and measured: round trips over the
    /// bare rings, and bandwidth where the other host runs `usb4rdma bench --serve`. All is put back at the end, also
    /// at Ctrl-C, but for the best with --apply.
    #[command(
        after_help = "Examples:\n  usb4rdma tune\n  sudo usb4rdma tune --for latency --apply\n  \
                            sudo usb4rdma tune --sweep\n  sudo usb4rdma tune --sweep --usecs 16 --usecs 64 --ring 1024"
    )]
    Tune {
        /// What matters most
        #[arg(long = "for", value_enum, default_value = "bandwidth")]
        goal: Goal,
        /// Set it, and measure round trips before and after
        #[arg(long)]
        apply: bool,
        /// One JSON object, described by schema/tune.json; with --sweep by schema/sweep.json
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        sweep: Sweep,
    },
    /// Bandwidth and latency over size, by RDMA and TCP, both ends from one side: a table, JSON, CSV, a page with plots
    ///
    /// The other host runs `usb4rdma bench --serve`, which starts perftest's and iperf3's servers and nothing else.
    #[command(after_help = "Examples:\n  usb4rdma bench --serve          # on the other host\n  \
                            usb4rdma bench --html bench.html\n  usb4rdma bench --size 4096 --size 65536 --csv - | cut -d, -f1-5")]
    Bench(Bench),
    /// Print the completions for a shell
    #[command(after_help = "Example:\n  source <(usb4rdma completions bash)")]
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a directory
    Man { dir: PathBuf },
    /// Everything that the other verbs decide on, as JSON
    #[command(hide = true)]
    Facts,
}

/// A time in seconds, with a fraction if need be.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted")?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("0.1 to 3600 seconds".into()),
    }
}

/// Seconds to wait for the other hosts, if nobody says otherwise.
const WAIT: u64 = 60;

#[derive(Debug, Args)]
pub struct Bench {
    /// Be the other end, until Ctrl-C
    #[arg(long)]
    pub serve: bool,
    /// With --serve: end with the first client
    #[arg(long, requires = "serve")]
    pub once: bool,
    /// The host at the other end, where there are several
    #[arg(long, value_name = "HOST", conflicts_with = "serve")]
    pub peer: Option<String>,
    /// Where it is, if its address is none that `up` has given
    #[arg(long, conflicts_with = "serve")]
    pub address: Option<String>,
    /// TCP port of the agent; the servers have those after it
    #[arg(long, default_value_t = 18600)]
    pub port: u16,
    /// A size of messages, in place of a ladder from 8 bytes to 1 MiB; may be given again
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub size: Vec<u64>,
    /// Seconds of each run for bandwidth
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Runs of which a figure is the median
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub runs: u32,
    /// Write JSON, described by schema/bench.json; - for standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a row for each figure; - for standard output
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a page with plots; - for standard output
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Sweep {
    /// Try settings of interrupts and rings, and put all back
    #[arg(long)]
    pub sweep: bool,
    /// With --sweep: the host at the other end, where there are several
    #[arg(long, value_name = "HOST", requires = "sweep")]
    pub peer: Option<String>,
    /// With --sweep: an interval between interrupts, microseconds, in place of a ladder; may be given again
    #[arg(long, requires = "sweep", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub usecs: Vec<u32>,
    /// With --sweep: a depth of the rings, in place of a ladder; may be given again
    #[arg(long, requires = "sweep", value_parser = clap::value_parser!(u32).range(64..=4096))]
    pub ring: Vec<u32>,
    /// With --sweep: seconds of each run for bandwidth
    #[arg(long, requires = "sweep", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// With --sweep: runs of which a bandwidth is the median
    #[arg(long, requires = "sweep", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub runs: u32,
    /// With --sweep: TCP port of the other host's `usb4rdma bench --serve`
    #[arg(long, requires = "sweep", default_value_t = 18600)]
    pub port: u16,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Only the cables to this host (its name, the UUID of its router, or a cable such as 0-1); may be given again
    #[arg(long, value_name = "HOST")]
    peer: Vec<String>,
    /// An address with the length of its prefix, in place of the one made from the hosts' names; may be given again
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = clap::value_parser!(Address))]
    address: Vec<Address>,
    /// No bond: an RDMA device for each cable
    #[arg(long)]
    no_bond: bool,
    /// One bond of all cables to a host, as without a configuration file
    #[arg(long, conflicts_with = "no_bond")]
    bond: bool,
    /// The MTU of the devices, in place of the largest that they take
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65522))]
    mtu: Option<u32>,
    /// Do not ask before the cables are taken from thunderbolt_net
    #[arg(short, long)]
    yes: bool,
    /// Print the commands, do nothing
    #[arg(long)]
    dry_run: bool,
    #[arg(long, value_name = "SECONDS", help = format!("Seconds to wait for the other hosts [default: {WAIT}]"))]
    wait: Option<u64>,
}

impl Up {
    /// The command line's word, and where it says nothing, the file's.
    pub fn parts(&self, config: Config) -> (Wanted, How) {
        let how = How {
            dry_run: self.dry_run,
            yes: self.yes || config.take_over,
            wait: Duration::from_secs(self.wait.or(config.wait).unwrap_or(WAIT)),
        };
        let wanted = Wanted {
            peers: self.peer.clone(),
            bond: (self.bond || self.no_bond).then_some(self.bond),
            mtu: self.mtu,
            addresses: self.address.clone(),
            given: vec![],
            config,
        };
        (wanted, how)
    }
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
    fn every_command_of_the_book_is_one_that_is_taken() {
        let mut faults = vec![];
        let mut count = 0;
        for page in structure::pages::pages() {
            for (line, command) in page.commands(&["usb4rdma"]) {
                // The name alone.
                if command == "usb4rdma" {
                    continue;
                }
                count += 1;
                match Cli::try_parse_from(structure::pages::typed(&command).map(example)) {
                    Err(error) if error.use_stderr() => {
                        faults.push(format!("{}:{line}: `{command}`: {error}", page.path))
                    }
                    _ => {}
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(count > 40, "only {count} commands were read");
    }

    /// Something that may stand where the book says NAME and the like.
    fn example(word: &str) -> &str {
        match word {
            "NAME" => "ucx",
            "SECONDS" => "1",
            "BYTES" => "64",
            "ADDRESS/LENGTH" => "10.0.0.1/24",
            word => word,
        }
    }
}
