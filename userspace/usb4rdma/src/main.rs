// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma`: from hosts and USB4 cables to a working RDMA cluster.
//!
//! Facts are read once ([`facts`]); who is at the other end ([`peers`]) and what is wrong ([`health`]) are pure
//! functions of them, and the verbs are thin around these.

mod apps;
mod bench;
mod cli;
mod config;
mod doctor;
mod facts;
mod hardware;
mod health;
mod live;
mod peers;
mod perform;
mod plan;
mod report;
#[cfg(test)]
mod schema;
mod state;
mod status;
mod text;
mod top;
mod topo;
mod trace;
mod tune;
mod up;

use anyhow::{bail, Context, Result};
use apps::{proof, App, AppReport};
use clap::{CommandFactory, Parser};
use cli::{Cli, Verb};
use config::Config;
use facts::{Facts, Net};
use serde::Serialize;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use text::Paint;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = if cli.verbose {
        tracing::Level::DEBUG
    } else {
        tracing::Level::WARN
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("usb4rdma: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    // What needs no kernel to ask, as where packages are built.
    match &cli.verb {
        Verb::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(*shell, &mut Cli::command(), "usb4rdma", &mut script);
            print(&String::from_utf8(script)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Man { dir } => {
            clap_mangen::generate_to(Cli::command(), dir)
                .with_context(|| format!("man pages into {}", dir.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let net = Net::connect()?;
    let config = Config::read(&cli.config);
    let collect = || -> Result<Facts> {
        Ok(Facts {
            leave: config.as_ref().map_or_else(|_| vec![], |config| config.leave.clone()),
            config_error: config.as_ref().err().cloned(),
            ..Facts::collect(&net)?
        })
    };
    match &cli.verb {
        Verb::Status { json, watch: false } => {
            let status = status::Status::of(&collect()?);
            match json {
                true => print_json(&status)?,
                false => print(&status.text(Paint::for_stdout()))?,
            }
        }
        Verb::Status { json, watch: true } => watch_status(*json, || Ok(status::Status::of(&collect()?)))?,
        Verb::Top { once, json, interval } => {
            let mut before = top::Sample::take(collect()?);
            let mut look = || {
                let after = top::Sample::take(collect()?);
                let top = top::Top::between(&before, &after);
                before = after;
                Ok(top)
            };
            watch_top(*once, *json, *interval, &mut look)?;
        }
        Verb::Trace {
            event,
            device,
            seconds,
            json,
            pcap,
            cut,
            command,
        } => {
            let packets = [trace::PACKET.to_string()];
            let wanted = trace::Wanted {
                events: if pcap.is_some() { &packets } else { event },
                device: device.as_deref(),
                time: *seconds,
                command,
            };
            let lost = match pcap {
                Some(file) => capture(&wanted, file, *cut)?,
                None => trace::trace(&wanted, |event| match json {
                    true => print_on(&(serde_json::to_string(event)? + "\n")),
                    false => print_on(&event.line()),
                })?,
            };
            if lost > 0 {
                eprintln!("{lost} events were lost: they came faster than they could be written");
            }
        }
        Verb::Report { output, redact } => {
            report::root()?;
            let before = top::Sample::take(collect()?);
            std::thread::sleep(FIRST_LOOK);
            let mut facts = collect()?;
            let top = top::Top::between(&before, &top::Sample::take(facts.clone()));
            doctor::probe(&mut facts);
            let name = PathBuf::from(report::file_name(&facts, *redact));
            let to = output.as_ref().unwrap_or(&name);
            print(&report::write(&facts, &top, &cli.config, to, *redact)?)?;
        }
        Verb::Tune {
            goal,
            apply,
            json,
            sweep: words,
        } if words.sweep => {
            let wanted = tune::sweep::Wanted {
                goal: *goal,
                apply: *apply,
                peer: words.peer.as_deref(),
                usecs: &words.usecs,
                rings: &words.ring,
                seconds: words.seconds,
                runs: words.runs,
                port: words.port,
            };
            let told = |made: &tune::sweep::Try| eprintln!("{}", made.line());
            let sweep = tune::sweep::sweep(&net, &collect()?.without_left(), &wanted, told)?;
            match json {
                true => print_json(&sweep)?,
                false => print(&sweep.text())?,
            }
            if sweep.interrupted {
                return Ok(ExitCode::from(INTERRUPTED));
            }
        }
        Verb::Tune { goal, apply, json, .. } => {
            let facts = collect()?;
            let mut tune = tune::Tune::of(&facts, *goal);
            if *apply {
                tune = tune.apply(&net, &facts.without_left())?;
            }
            match json {
                true => print_json(&tune)?,
                false => print(&tune.text())?,
            }
        }
        Verb::Bench(words) if words.serve => bench::serve(collect, words.port, words.once)?,
        Verb::Bench(words) => run_bench(&collect()?, words)?,
        Verb::Topo { files, json, format } => {
            let topo = topo::Topo::of(&collect()?).with_files(files)?;
            match json {
                true => print_json(&topo)?,
                false => print(&topo.print(*format)?)?,
            }
        }
        Verb::Up(up) => {
            let (wanted, how) = up.parts(config.map_err(anyhow::Error::msg)?);
            print(&up::up(&net, &wanted, &how)?)?;
        }
        Verb::Down { dry_run } => print(&up::down(&net, *dry_run)?)?,
        Verb::Doctor {
            json,
            app: Some(app),
            peer,
            during,
            command,
            ..
        } => {
            let facts = collect()?;
            let mut report = AppReport::of(&facts, *app, peer.as_deref())?;
            if !command.is_empty() {
                report.proof = Some(proof::command(report.pair()?, command, *json, collect)?);
            } else if let Some(time) = during {
                report.proof = Some(proof::during(*time, collect)?);
            }
            match json {
                true => print_json(&report)?,
                false => print(&report.text(&facts, Paint::for_stdout()))?,
            }
            return Ok(ExitCode::from(report.status()));
        }
        Verb::Doctor {
            json, hardware: true, ..
        } => {
            let hardware = hardware::Hardware::of(&collect()?)?;
            match json {
                true => print_json(&hardware)?,
                false => print(&hardware.text())?,
            }
            return Ok(ExitCode::from(hardware.status()));
        }
        Verb::Doctor { json, .. } => {
            let mut facts = collect()?;
            doctor::probe(&mut facts);
            let doctor = doctor::Doctor::of(&facts);
            match json {
                true => print_json(&doctor)?,
                false => print(&doctor.text(Paint::for_stdout()))?,
            }
            return Ok(ExitCode::from(doctor.status()));
        }
        Verb::Completions { .. } | Verb::Man { .. } => {}
        Verb::Facts => print_json(&collect()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `trace --pcap`; how many packets were lost.
fn capture(wanted: &trace::Wanted, file: &Path, cut: bool) -> Result<u64> {
    let live = file.as_os_str() == "-";
    let to: Box<dyn Write> = match live {
        true => Box::new(std::io::stdout().lock()),
        false => Box::new(std::fs::File::create(file).with_context(|| file.display().to_string())?),
    };
    let mut capture = trace::packets::Capture::new(BufWriter::new(to), trace::behind()?, cut)?;
    let lost = trace::trace(wanted, |event| {
        if let Some(packet) = &event.packet {
            capture.write(&event.device, Duration::from_secs_f64(event.time), packet)?;
            // Who looks on is not to wait for a full buffer, and may go.
            return Ok(!live || capture.flush().is_ok());
        }
        Ok(true)
    })?;
    eprintln!("{} packets", capture.packets);
    if !live {
        capture.flush()?;
    }
    Ok(lost)
}

/// `status --watch`: drawn on a terminal; without one, printed when it has changed.
fn watch_status(json: bool, mut look: impl FnMut() -> Result<status::Status>) -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(1);
    if std::io::stdout().is_terminal() && !json {
        return live::watch(INTERVAL, look, |status, _, frame| status.draw(frame));
    }
    let mut before = None;
    loop {
        let status = look()?;
        if before.as_ref() != Some(&status) {
            let said = match json {
                true => serde_json::to_string(&status)? + "\n",
                false => status.text(Paint::for_stdout()) + "\n",
            };
            if !print_on(&said)? {
                return Ok(());
            }
            before = Some(status);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn run_bench(facts: &Facts, words: &cli::Bench) -> Result<()> {
    let report = AppReport::of(facts, App::Perftest, words.peer.as_deref())?;
    let settings = report.pair()?;
    let how = bench::How {
        seconds: words.seconds,
        runs: words.runs,
        sizes: words.size.clone(),
        address: words.address.clone(),
        port: words.port,
    };
    let bench = bench::bench(facts, settings, &how, |row| eprintln!("{}", row.line()))?;
    let outputs = [
        (&words.json, serde_json::to_string_pretty(&bench)? + "\n"),
        (&words.csv, bench.csv()),
        (&words.html, bench::html(&bench)?),
    ];
    let mut printed = false;
    for (file, text) in outputs {
        match file {
            Some(file) if file.as_os_str() == "-" => {
                printed = true;
                print(&text)?;
            }
            Some(file) => std::fs::write(file, text).with_context(|| file.display().to_string())?,
            None => {}
        }
    }
    if !printed {
        print(&bench.text())?;
    }
    Ok(())
}

fn watch_top(once: bool, json: bool, interval: Duration, look: &mut dyn FnMut() -> Result<top::Top>) -> Result<()> {
    if !once && !json {
        if !std::io::stdout().is_terminal() {
            bail!("top draws on a terminal, and this is none: `usb4rdma top --once`, or --json");
        }
        std::thread::sleep(FIRST_LOOK.min(interval));
        return live::watch(interval, look, top::draw);
    }
    loop {
        std::thread::sleep(interval);
        let top = look()?;
        let said = match json {
            true => serde_json::to_string(&top)? + "\n",
            false => top.text(),
        };
        if !print_on(&said)? || once {
            return Ok(());
        }
    }
}

/// Exit status where Ctrl-C has ended it, as shells have it.
const INTERRUPTED: u8 = 130;
/// What a person waits for the first rates.
const FIRST_LOOK: Duration = Duration::from_millis(300);

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints; a reader that went away, as `head` does, is no error.
fn print(text: &str) -> Result<()> {
    print_on(text).map(|_| ())
}

/// The same; whether the reader is still there.
fn print_on(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(true),
    }
}
