// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `fabricd --dir DIR --spec FILE`: serves a software USB4 fabric to guests.
//!
//! Sockets in DIR: `h<host>n<nhi>.sock` for each NHI, `ctl` for commands (one JSON object a line), `tt` for UML's time
//! travel if the specification asks for virtual time. Prints `ready` when all of them listen. Runs until SIGTERM,
//! `quit`, or the end of its standard input if that is a pipe.

#![deny(unsafe_code)]

mod change;
mod ctl;
#[allow(unsafe_code)]
mod mapping;
mod pcidev;
mod report;
mod service;
mod sink;
mod socket;
mod spec;
mod travel;
mod vfio;
mod vhost;
mod vring;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use service::{Clock, Service};
use spec::{Frontend, Spec};
use usb4_model::Fabric;

/// How early frames on timed cables may go in real time. A busy machine wakes a thread less precisely than that.
const SLACK_NS: u64 = 50_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fabricd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(PathBuf, PathBuf), String> {
    const USAGE: &str = "usage: fabricd --dir DIR --spec FILE";
    let (mut dir, mut spec) = (None, None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let target = match argument.to_str() {
            Some("--dir") => &mut dir,
            Some("--spec") => &mut spec,
            _ => return Err(USAGE.into()),
        };
        *target = Some(PathBuf::from(arguments.next().ok_or(USAGE)?));
    }
    dir.zip(spec).ok_or_else(|| USAGE.into())
}

fn run() -> Result<(), String> {
    let (dir, spec) = arguments()?;
    let text = std::fs::read_to_string(&spec).map_err(|error| format!("{}: {error}", spec.display()))?;
    let spec = Spec::parse(&text).map_err(|error| format!("{}: {error}", spec.display()))?;
    let mut fabric = Fabric::new(&spec.topology()).map_err(|error| error.to_string())?;
    if !spec.virtual_time {
        fabric.set_slack(SLACK_NS);
    }
    let places: Vec<(usize, usize)> = (0..fabric.nhis().len()).map(|nhi| fabric.place_of(nhi)).collect();
    let clock = if spec.virtual_time {
        let schedule = travel::Schedule::new(spec.topology().hosts.len());
        Clock::Virtual(schedule.map_err(|error| format!("shared calendar: {error}"))?)
    } else {
        Clock::Real(std::time::Instant::now())
    };
    let service = Arc::new(Service::new(fabric, clock));
    for event in &spec.events {
        service
            .change(change::Timed::parse(event.clone())?)
            .map_err(|error| format!("{event}: {error}"))?;
    }
    for (nhi, (host, index)) in places.into_iter().enumerate() {
        let listener = listen(&dir.join(format!("h{host}n{index}.sock")))?;
        let service = service.clone();
        let serve = match spec.frontend {
            Frontend::VhostUser => vhost::serve,
            Frontend::VfioUser => vfio::serve,
        };
        spawn(format!("socket{nhi}"), move || serve(&service, nhi, &listener))?;
    }
    let control = listen(&dir.join("ctl"))?;
    let commanded = service.clone();
    spawn("ctl".into(), move || ctl::serve(&commanded, &control))?;
    let timer = service.clone();
    if spec.virtual_time {
        let listener = listen(&dir.join("tt"))?;
        spawn("calendar".into(), move || {
            if let Err(error) = travel::serve(&timer, &listener) {
                eprintln!("time travel: {error}");
                std::process::exit(1);
            }
        })?;
    } else {
        spawn("timer".into(), move || {
            // The default slack of 50 us would blur interrupt throttling.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
            timer.run_timer();
        })?;
    }
    println!("ready");
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    wait_for_end();
    Ok(())
}

/// Makes a listening socket in place of whatever an earlier run left there.
fn listen(path: &Path) -> Result<UnixListener, String> {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = std::thread::Builder::new().name(name).spawn(body);
    spawned.map(drop).map_err(|error| format!("thread: {error}"))
}

/// Returns when standard input ends, if it is a pipe or socket of whoever started us; otherwise never.
fn wait_for_end() {
    let input = std::io::stdin();
    let kind = rustix::fs::fstat(input.as_fd()).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
    if matches!(kind, Ok(rustix::fs::FileType::Fifo | rustix::fs::FileType::Socket)) {
        let mut buffer = [0; 64];
        while input.lock().read(&mut buffer).is_ok_and(|length| length > 0) {}
        return;
    }
    loop {
        std::thread::park();
    }
}
