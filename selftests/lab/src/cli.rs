// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The command line.

use crate::apps;
use crate::bench::{self, Suite};
use crate::bondbench;
use crate::deep::{self, Ground};
use crate::demo;
use crate::fair::Fair;
use crate::holder;
use crate::lab::Lab;
use crate::matrix;
use crate::netbench;
use crate::paths;
use crate::runner::{self, Plan, Which};
use crate::soak;
use crate::spec::{Kernel, LabSpec, NetDriver, Profile, Root, Tier, Topology};
use crate::stat;
use crate::stress;
use crate::suite;
use crate::sweep::Sweep;
use crate::verbs::Kind;
use crate::yardstick::Yardstick;
use anyhow::{bail, Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde_json::{json, Map, Value};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A USB4 cluster in a box: Linux guests joined by software USB4 cables.
#[derive(Parser)]
#[command(name = "usb4lab", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make what labs need, once: a Debian root and a kernel. As root, on Debian 12 or 13, about 20 minutes
    Setup {
        /// lab is what every lab needs; the others are further kernels, and a root with MPI
        #[arg(value_parser = ["lab", "smp", "kasan", "stock", "workloads"], default_value = "lab")]
        part: String,
    },
    /// Start a lab
    Up(Up),
    /// Run a command in a guest; output and exit status are passed through
    Exec {
        /// Guest: 0 or h0
        host: String,
        /// Seconds after which the command is ended with status 124
        #[arg(long, default_value_t = 600)]
        timeout: u64,
        #[command(flatten)]
        name: Name,
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Copy a file into a guest
    Cp {
        source: PathBuf,
        /// HOST:PATH
        target: String,
        #[command(flatten)]
        name: Name,
    },
    /// Pull, plug or change a cable
    Cable {
        /// pull, plug, rate, latency, downgrade or restore
        #[arg(value_parser = ["pull", "plug", "rate", "latency", "downgrade", "restore"])]
        op: String,
        cable: usize,
        /// For rate (such as 40G) and latency (such as 500ns)
        value: Option<String>,
        #[command(flatten)]
        name: Name,
    },
    /// Damage frames on the cables: `fault set drop=1e-4 dup=1e-3`, `fault clear`
    Fault {
        /// set or clear
        #[arg(value_parser = ["set", "clear"])]
        op: String,
        /// drop, corrupt, dup, delay, delay_ns, reorder, strand, lost_irq
        faults: Vec<String>,
        #[arg(long)]
        cable: Option<usize>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        name: Name,
    },
    /// Counters of rings and cables, CPU seconds of guests
    Stat {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Run test cases: those whose name contains FILTER, or all
    Test {
        filter: Option<String>,
        /// Only name the cases
        #[arg(long)]
        list: bool,
        /// Seed of all faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, value_enum, default_value_t = Tier::Fast)]
        tier: Tier,
        #[arg(long, value_enum, default_value_t = Kernel::Lab)]
        kernel: Kernel,
        /// Which driver is under test; rxe checks the lab and the cases themselves
        #[arg(long, value_enum, default_value_t = Kind::Usb4)]
        ours: Kind,
        /// Which network driver the net cases test; stock checks the lab and the cases themselves
        #[arg(long, value_enum, default_value_t = NetDriver::Ours)]
        net: NetDriver,
        /// The long cases instead of the others; a long case that is named runs without this
        #[arg(long, conflicts_with_all = ["chosen", "every"])]
        long: bool,
        /// The cases that every change has to pass on the kernel
        #[arg(long, conflicts_with = "every")]
        chosen: bool,
        /// The long cases and the others
        #[arg(long)]
        every: bool,
    },
    /// All cases on all kernels: lab, smp, kasan, and the distribution's
    Deep {
        /// Only cases whose names contain this
        filter: Option<String>,
        /// Only on these
        #[arg(long, value_enum, value_delimiter = ',')]
        on: Vec<Ground>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Put the record into docs/tiers.md
        #[arg(long)]
        write: bool,
    },
    /// Two hosts, one cable, our driver beside stock rxe, one table
    Demo {
        #[arg(long, value_enum, default_value_t = Kind::Usb4)]
        ours: Kind,
    },
    /// Measure ours against stock, interleaved, medians
    Bench {
        #[arg(long, value_enum)]
        suite: Suite,
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Write the rows to this file
        #[arg(long)]
        json: Option<PathBuf>,
        /// Write a page with the results to this file (suite net)
        #[arg(long)]
        doc: Option<PathBuf>,
        /// Measure the stock driver alone (suite net)
        #[arg(long)]
        only_stock: bool,
        /// The netdev below our device (suite rdma). Over ours, TCP over it is measured too, and our RDMA both ways
        #[arg(long, value_parser = ["stock", "ours"], default_value = "stock")]
        net: String,
        /// Put the table into docs/benchmarks.md (suite rdma with --net ours, suites apps and bond)
        #[arg(long)]
        write: bool,
        /// Only what is measured in virtual time, which the machine's load does not change (suite bond)
        #[arg(long)]
        exact: bool,
        #[arg(long, value_enum, default_value_t = Kind::Usb4, conflicts_with = "net")]
        ours: Kind,
    },
    /// Traffic over a cable that loses frames and is cut each minute: no stall, no wrong byte, no leak
    Soak {
        /// Minutes that are judged
        #[arg(long, default_value_t = 15.0)]
        minutes: f64,
        /// In virtual time
        #[arg(long = "virtual")]
        virtual_time: bool,
        #[arg(long, value_enum, default_value_t = NetDriver::Ours)]
        net: NetDriver,
        #[arg(long, value_enum, default_value_t = Kernel::Lab)]
        kernel: Kernel,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Threads and processes that do everything at once on both hosts, while cables, netdevs, links and processes come
    /// and go
    Stress {
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        #[arg(long, value_enum, default_value_t = Kernel::Lab)]
        kernel: Kernel,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this round of the run that the other options describe
        #[arg(long)]
        round: Option<u64>,
        /// Write the counts to this file
        #[arg(long)]
        json: Option<PathBuf>,
        /// Further words for usb4stress, such as `--threads 2 --attackers 0`
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        words: String,
        /// Further words for the guests' kernel command lines, such as slab_debug=U
        #[arg(long, default_value = "")]
        append: String,
        /// Name of the lab, whose logs stay if the run fails
        #[arg(long, default_value = "stress")]
        name: String,
    },
    /// rdma-core's own test suite over our device and over stock rxe, side by side
    Pyverbs {
        /// Modules of the suite, such as test_mr; all if none is named
        modules: Vec<String>,
        /// Put the tables into docs/verbs.md
        #[arg(long)]
        write: bool,
        #[arg(long, value_enum, default_value_t = Kind::Usb4)]
        ours: Kind,
    },
    /// perftest in all its variants, between ours, stock rxe and both
    Matrix {
        /// Only cells whose label contains this, such as `ib_send_bw UD` or `-R`
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        filter: String,
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// Put the table into docs/benchmarks.md
        #[arg(long)]
        write: bool,
        #[arg(long, value_enum, default_value_t = Kind::Usb4)]
        ours: Kind,
    },
    /// Bandwidth and latency at every size from 8 B to 1 MiB, ours and stock rxe in turns
    Sweep {
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Only series whose names contain this
        #[arg(long)]
        only: Option<String>,
        /// Only messages of so many bytes
        #[arg(long)]
        size: Option<u64>,
        /// Write the rows to this file
        #[arg(long)]
        json: Option<PathBuf>,
        /// Put the table into docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// A busy loop beside every storm that user space or a peer can make, on ours and on stock rxe
    Fair {
        /// Only storms whose names begin so
        #[arg(long, default_value = "")]
        only: String,
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// Of each phase
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Put the table into docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// RDMA, TCP and rxe over one cable between two of our network devices, in turns
    Yardstick {
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Put the table into docs/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// End a lab
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man { dir: PathBuf },
    #[command(hide = true)]
    Hold { state: PathBuf },
}

#[derive(Args)]
struct Name {
    /// Which lab
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    #[arg(long, value_enum, default_value_t = Tier::Fast)]
    tier: Tier,
    #[arg(long, default_value_t = 2)]
    hosts: usize,
    /// Cables between each pair of joined hosts
    #[arg(long, default_value_t = 1)]
    cables: usize,
    #[arg(long, value_enum, default_value_t = Profile::Strix)]
    profile: Profile,
    #[arg(long, value_enum, default_value_t = Topology::Pair)]
    topology: Topology,
    /// Run in virtual time: deterministic, and waiting costs nothing. Needs --script
    #[arg(long)]
    virtual_time: bool,
    /// Shell script that every guest runs in virtual time; USB4LAB_HOST tells it where it is
    #[arg(long)]
    script: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Kernel::Lab)]
    kernel: Kernel,
    /// Processors of a guest (stock tier, and the smp kernel, which has 2 by itself)
    #[arg(long)]
    smp: Option<usize>,
    /// Put the routers behind a strict IOMMU (stock tier)
    #[arg(long)]
    iommu: bool,
    /// Rate of each cable, such as 40G; unlimited if not given
    #[arg(long)]
    rate: Option<String>,
    /// Latency of each cable, such as 500ns
    #[arg(long)]
    latency: Option<String>,
    /// Rate of each ring of a router, such as 12G, whatever its cable's; as fast as the cable if not given
    #[arg(long)]
    ring_rate: Option<String>,
    /// HopIDs of each lane adapter of a router; 9 are enough for one path between hosts each way, 32 if not given
    #[arg(long)]
    hop_ids: Option<usize>,
    /// Network driver: of all hosts, or of each, such as `ours,stock`
    #[arg(long, value_enum, value_delimiter = ',', default_value = "stock")]
    net: Vec<NetDriver>,
    /// Rings of a host router, hop 0 included, if other than the profile's
    #[arg(long)]
    hops: Option<usize>,
    #[arg(long, default_value_t = 9000)]
    mtu: u32,
    /// Memory of a guest, MiB
    #[arg(long, default_value_t = 512)]
    memory: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Debian tree of the guests
    #[arg(long, value_enum, default_value_t = Root::Lab)]
    root: Root,
    /// Give each guest one processor of this machine, as measurements do
    #[arg(long)]
    pinned: bool,
    /// Further words for the guests' kernel command lines
    #[arg(long, default_value = "")]
    append: String,
}

impl Cli {
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Up(up) => up.run()?,
            Command::Exec {
                host,
                timeout,
                name,
                argv,
            } => {
                let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
                let output = Lab::attach(&name.name)?.run(host_number(&host)?, &argv, Duration::from_secs(timeout))?;
                std::io::stdout().write_all(&output.stdout)?;
                std::io::stderr().write_all(&output.stderr)?;
                return Ok(ExitCode::from(output.status as u8));
            }
            Command::Cp { source, target, name } => copy(&name.name, &source, &target)?,
            Command::Cable { op, cable, value, name } => {
                let value = value.as_deref().map(quantity).transpose()?;
                if value.is_none() && ["rate", "latency"].contains(&op.as_str()) {
                    bail!("`cable {op}` needs a value, such as 40G or 500ns");
                }
                Lab::attach(&name.name)?.cable(cable, &op, value)?;
            }
            Command::Fault {
                op,
                faults,
                cable,
                seed,
                name,
            } => {
                let lab = Lab::attach(&name.name)?;
                if op == "clear" {
                    lab.clear_faults()?;
                } else {
                    let set = fault_set(&faults)?;
                    lab.fabric(json!({"cmd": "fault", "set": set, "cable": cable, "seed": seed}))?;
                }
            }
            Command::Stat { json, name } => {
                let stat = Lab::attach(&name.name)?.stat()?;
                match json {
                    true => println!("{stat}"),
                    false => print!("{}", stat::shown(&stat)),
                }
            }
            Command::Test {
                filter,
                list,
                seed,
                tier,
                kernel,
                ours,
                net,
                long,
                chosen,
                every,
            } => {
                let which = match (long, chosen, every) {
                    (true, _, _) => Which::Long,
                    (_, true, _) => Which::Chosen,
                    (_, _, true) => Which::Every,
                    _ => Which::Usual,
                };
                let plan = Plan {
                    filter,
                    seed,
                    tier,
                    kernel,
                    ours,
                    net,
                    which,
                };
                if list {
                    runner::list(&plan);
                } else if runner::run(&plan)?.failed > 0 {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::Deep {
                filter,
                on,
                seed,
                write,
            } => {
                if !deep::run(&on, filter, seed, write)? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::Demo { ours } => demo::run(ours)?,
            Command::Bench {
                suite: Suite::Net,
                runs,
                json,
                doc,
                only_stock,
                ..
            } => netbench::run(runs, only_stock, json.as_deref(), doc.as_deref())?,
            Command::Bench {
                suite: Suite::Rdma,
                runs,
                json,
                net,
                write,
                ..
            } if net == "ours" => bench::over_ours(runs, json.as_deref(), write)?,
            Command::Bench {
                suite: Suite::Apps,
                runs,
                json,
                write,
                ..
            } => apps::run(runs, json.as_deref(), write)?,
            Command::Bench {
                suite: Suite::Bond,
                runs,
                json,
                write,
                exact,
                ..
            } => bondbench::run(runs, exact, json.as_deref(), write)?,
            Command::Bench { write: true, .. } => {
                bail!("--write belongs to --suite rdma --net ours, and to the suites apps and bond")
            }
            Command::Bench {
                suite,
                runs,
                json,
                ours,
                ..
            } => bench::run(suite, runs, json.as_deref(), ours)?,
            Command::Soak {
                minutes,
                virtual_time,
                net,
                kernel,
                seed,
            } => {
                let plan = soak::Plan {
                    net,
                    kernel,
                    seed,
                    virtual_time,
                    seconds: minutes * 60.0,
                    period_s: 60.0,
                    away_s: 2.0,
                };
                let outcome = plan.run()?;
                println!("{}", outcome.shown());
                for wrong in &outcome.wrong {
                    println!("wrong: {wrong}");
                }
                if !outcome.wrong.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::Stress {
                minutes,
                kernel,
                seed,
                round,
                json,
                words,
                append,
                name,
            } => {
                let plan = stress::Plan {
                    name,
                    kernel,
                    seed,
                    seconds: minutes * 60.0,
                    round,
                    words,
                    append,
                    loud: true,
                };
                let outcome = plan.run()?;
                println!("{}", outcome.json());
                if let Some(path) = json {
                    std::fs::write(&path, outcome.json().to_string()).with_context(|| format!("{}", path.display()))?;
                }
            }
            Command::Pyverbs { modules, write, ours } => suite::run(ours, &modules, write)?,
            Command::Matrix {
                filter,
                runs,
                write,
                ours,
            } => matrix::run(ours, runs, &filter, write)?,
            Command::Sweep {
                runs,
                only,
                size,
                json,
                write,
            } => Sweep {
                runs,
                only,
                size,
                json,
                write,
            }
            .run()?,
            Command::Yardstick { runs, write } => Yardstick { runs, write }.run()?,
            Command::Fair {
                only,
                runs,
                seconds,
                write,
            } => Fair {
                only,
                runs,
                seconds,
                write,
            }
            .run()?,
            Command::Down { name } => {
                if !Lab::down_named(&name.name)? {
                    println!("lab {} is not running", name.name);
                }
            }
            Command::Setup { part } => {
                let status = paths::setup_script(&part)?.status().context("the set-up's script")?;
                if !status.success() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::Man { dir } => {
                clap_mangen::generate_to(Cli::command(), &dir)
                    .with_context(|| format!("man pages into {}", dir.display()))?;
            }
            Command::Hold { state } => holder::hold(&state)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Up {
    fn run(self) -> Result<()> {
        let name = self.name.name.clone();
        let spec = LabSpec {
            tier: self.tier,
            kernel: self.kernel,
            virtual_time: self.virtual_time,
            script: self.script.map(std::path::absolute).transpose()?,
            smp: self.smp,
            iommu: self.iommu,
            rate_bps: self.rate.as_deref().map(quantity).transpose()?,
            latency_ns: self.latency.as_deref().map(quantity).transpose()?.map(|ns| ns as u64),
            mtu: self.mtu,
            memory_mib: self.memory,
            seed: self.seed,
            net: drivers(&self.net, self.hosts)?,
            hops: self.hops,
            ring_rate_bps: self.ring_rate.as_deref().map(quantity).transpose()?,
            hop_ids: self.hop_ids,
            append: self.append,
            root: self.root,
            pinned: self.pinned,
            ..LabSpec::wired(self.profile, self.topology, self.hosts, self.cables)?
        };
        let virtual_time = spec.virtual_time;
        let lab = Lab::up(&name, spec)?;
        let state = lab.state.display().to_string();
        if virtual_time {
            println!("lab {name} has run its scenario; output and logs are in {state}");
            return Ok(());
        }
        println!("lab {name} is up: usb4lab exec --name {name} h0 -- COMMAND; logs in {state}");
        lab.detach()
    }
}

/// One driver stands for all hosts.
fn drivers(given: &[NetDriver], hosts: usize) -> Result<Vec<NetDriver>> {
    match given {
        [one] => Ok(vec![*one; hosts]),
        each if each.len() == hosts => Ok(each.to_vec()),
        each => bail!("--net names {} drivers for {hosts} hosts", each.len()),
    }
}

fn copy(name: &str, source: &std::path::Path, target: &str) -> Result<()> {
    let (host, path) = target.split_once(':').context("the target is HOST:PATH")?;
    if !path.starts_with('/') {
        bail!("the path in the guest must be absolute, not {path:?}");
    }
    let content = std::fs::read(source).with_context(|| format!("{}", source.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(source)?.permissions()) & 0o777;
    let name_of = |p: &std::path::Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    let path = match path.ends_with('/') {
        true => format!("{path}{}", name_of(source).context("a file without a name")?),
        false => path.to_string(),
    };
    Lab::attach(name)?.put(host_number(host)?, &path, &content, mode)
}

fn host_number(text: &str) -> Result<usize> {
    text.trim_start_matches('h')
        .parse()
        .with_context(|| format!("a guest is 0 or h0, not {text:?}"))
}

/// A number with a unit: 40G (bits/s), 500ns, 2us, 1ms; durations come out in nanoseconds.
fn quantity(text: &str) -> Result<f64> {
    let split = text.find(|c: char| c.is_alphabetic() && c != 'e').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "" | "ns" => 1.0,
        "us" | "K" | "k" => 1e3,
        "ms" | "M" => 1e6,
        "s" | "G" => 1e9,
        _ => bail!("{text:?} has an unknown unit; use 40G, 500ns, 2us or 1ms"),
    };
    let number: f64 = number
        .parse()
        .with_context(|| format!("{text:?} is not a number with a unit"))?;
    Ok(number * scale)
}

fn fault_set(faults: &[String]) -> Result<Value> {
    const KNOWN: [&str; 8] = [
        "drop", "corrupt", "dup", "delay", "delay_ns", "reorder", "strand", "lost_irq",
    ];
    let mut set = Map::new();
    for fault in faults {
        let (key, value) = fault
            .split_once('=')
            .with_context(|| format!("a fault is NAME=VALUE, not {fault:?}"))?;
        if !KNOWN.contains(&key) {
            bail!("unknown fault {key:?}; there are {}", KNOWN.join(", "));
        }
        let value: f64 = value.parse().with_context(|| format!("the value of {fault:?}"))?;
        set.insert(key.into(), json!(value));
    }
    if set.is_empty() {
        bail!("`fault set` needs at least one of {}", KNOWN.join("=P, "));
    }
    Ok(Value::Object(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    #[test]
    fn quantities_have_units() {
        assert_eq!(quantity("40G").unwrap(), 40e9);
        assert_eq!(quantity("1.5us").unwrap(), 1500.0);
        assert_eq!(quantity("1e9").unwrap(), 1e9);
        assert!(quantity("3 parsecs").is_err());
    }

    #[test]
    fn faults_are_named_values() {
        assert_eq!(fault_set(&["drop=1e-2".into()]).unwrap(), json!({"drop": 0.01}));
        assert!(fault_set(&["dorp=1".into()]).unwrap_err().to_string().contains("drop"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// Something that may stand where the book says NAME and the like.
    fn example(word: &str) -> &str {
        match word {
            "target/release/usb4lab" => "usb4lab",
            "N" | "n" | "S" => "3",
            "K" => "smp",
            "COMMAND" => "up",
            word => word,
        }
    }

    #[test]
    fn every_command_of_the_book_is_one_that_is_taken() {
        let mut faults = vec![];
        let mut count = 0;
        for page in structure::pages::pages() {
            for (line, command) in page.commands(&["usb4lab", "target/release/usb4lab"]) {
                // The name alone, or one of several words in a place.
                if command == "usb4lab" || command.contains("\\|") || command.contains('|') {
                    continue;
                }
                count += 1;
                match Cli::try_parse_from(structure::pages::typed(&command).map(example)) {
                    // A verb that is spoken of.
                    Err(error) if error.kind() == ErrorKind::MissingRequiredArgument && !command.contains('-') => {}
                    Err(error) if error.use_stderr() => {
                        faults.push(format!("{}:{line}: `{command}`: {error}", page.path))
                    }
                    _ => {}
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(count > 20, "only {count} commands were read");
    }
}
