// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma up` and `down`.

use crate::facts::{Facts, Net, MODULE, STOCK};
use crate::health;
use crate::peers::{peers, Peer};
use crate::perform;
use crate::plan::{self, Planned, Wanted};
use crate::state::State;
use crate::status::Status;
use crate::text::Paint;
use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How `up` goes about it.
#[derive(Clone, Debug)]
pub struct How {
    pub dry_run: bool,
    /// Take the cables over from the stock driver without asking.
    pub yes: bool,
    /// Longest wait for the other hosts.
    pub wait: Duration,
}

/// Cables that come one after the other, as at boot, are waited for this long after the last one.
const SETTLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
/// The bus needs this long at most to tell of a cable that is plugged, and of the host at its end.
const DISCOVERY: Duration = Duration::from_secs(10);
/// Health errors that `up` cannot mend, and that leave it nothing to do.
const HOPELESS: [&str; 4] = ["no-bus", "module-other-kernel", "module-not-installed", "no-cable"];

/// Brings everything up; what it says at the end.
pub fn up(net: &Net, wanted: &Wanted, how: &How) -> Result<String> {
    let facts = wait_for_a_cable(net, wanted, how)?;
    refuse_the_hopeless(&facts)?;
    wanted.chosen(&facts)?;
    if how.dry_run {
        let given = State::load()?.given();
        let wanted = Wanted {
            given,
            ..wanted.clone()
        };
        return dry_run(&facts, &wanted, how.yes);
    }
    root("up")?;
    let _lock = lock()?;
    // Another one may have been at work until now.
    let facts = collect(net, wanted)?;
    let mut state = State::load()?;
    let wanted = &Wanted {
        given: state.given(),
        ..wanted.clone()
    };
    let take_over = how.yes || (stock_has_cables(&facts) && ask(&facts)?);
    let modules = plan::modules(&facts, take_over);
    let mut done = modules.len();
    perform::all(net, &mut state, modules)?;
    refuse_the_hopeless(&wait_for_a_cable(net, wanted, how)?)?;
    let (facts, silent, mut notes) = set_up(net, wanted, how.wait, &mut state, &mut done)?;
    for peer in &silent {
        notes.push(format!(
            "{} offers no network yet: run `usb4rdma up` there, then here again",
            peer.name
        ));
    }
    if silent.len() == wanted.chosen(&facts)?.len() {
        bail!("no peer answers within {} s: {}", how.wait.as_secs(), notes.join("; "));
    }
    let facts = if done > 0 {
        wait_for_carrier(net, wanted, how.wait)?
    } else {
        facts
    };
    notes.extend(nowhere(wanted, &facts));
    let mut said = match done {
        0 => "everything is up already\n\n".to_string(),
        _ => String::new(),
    };
    said += &Status::of(&facts).text(Paint::for_stdout());
    for note in notes {
        said += &format!("note: {note}\n");
    }
    Ok(said)
}

/// Undoes what `up` has done; what it says at the end.
pub fn down(net: &Net, dry_run: bool) -> Result<String> {
    let mut state = State::load()?;
    if state.last().is_none() {
        return Ok("nothing to undo: usb4rdma up has done nothing since boot\n".into());
    }
    if dry_run {
        return Ok(state.commands());
    }
    root("down")?;
    let _lock = lock()?;
    let notes = perform::undo(net, &mut state)?;
    Ok(notes.into_iter().map(|note| format!("note: {note}\n")).collect())
}

fn dry_run(facts: &Facts, wanted: &Wanted, yes: bool) -> Result<String> {
    let take_over = yes && stock_has_cables(facts);
    let modules = plan::modules(facts, take_over);
    let (facts, made_up) = match stock_has_cables(facts) && !take_over {
        true => (facts.clone(), false),
        false => plan::assumed(facts),
    };
    let (devices, notes) = plan::devices(&facts, wanted)?;
    let mut said = String::new();
    if made_up && !devices.is_empty() {
        said += "# the devices' names are known when the module is loaded; assumed here: usb4net0 and so on\n";
    }
    for Planned { step, .. } in modules.iter().chain(&devices) {
        said += &(step.command() + "\n");
    }
    for note in notes {
        said += &format!("# {note}\n");
    }
    if said.is_empty() {
        said = "# everything is up already\n".into();
    }
    Ok(said)
}

/// Fails with the finding's own words where nothing can be done.
fn refuse_the_hopeless(facts: &Facts) -> Result<()> {
    let hopeless = health::findings(facts)
        .into_iter()
        .find(|f| HOPELESS.contains(&f.code.as_str()));
    match hopeless {
        // The bus may only want its driver.
        Some(finding) if finding.code == "no-bus" && facts.host.module_installed => Ok(()),
        Some(finding) => bail!("{}", finding.text),
        None => Ok(()),
    }
}

/// What there is, less what is to be left alone.
fn collect(net: &Net, wanted: &Wanted) -> Result<Facts> {
    let all = Facts {
        leave: wanted.config.leave.clone(),
        ..Facts::collect(net)?
    };
    let facts = all.without_left();
    if facts.cables.is_empty() && !all.cables.is_empty() {
        bail!(
            "all cables are to be left alone: the configuration file has leave = {:?}",
            all.leave
        );
    }
    let left = all.of_cables().find(|netdev| {
        let kept = facts.netdev(&netdev.name).is_some_and(|kept| kept.cable.is_some());
        !kept && netdev.driver.as_deref() != Some(MODULE)
    });
    match left {
        Some(left) if facts.loaded(STOCK) => bail!(
            "{} is to be left alone, and {STOCK} has it: the driver has all cables or none, so none can be set up",
            left.name
        ),
        _ => Ok(facts),
    }
}

/// A word on what the configuration file says of hosts that no cable leads to.
fn nowhere(wanted: &Wanted, facts: &Facts) -> Option<String> {
    let known = peers(facts);
    let names = wanted.config.peer.keys();
    let missing: Vec<&str> = names
        .filter(|name| !known.iter().any(|peer| peer.is(facts, name)))
        .map(String::as_str)
        .collect();
    let said = format!(
        "the configuration file tells of {}, and no cable leads there",
        missing.join(", ")
    );
    (!missing.is_empty()).then_some(said)
}

fn root(verb: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{verb} needs root, as it loads modules and sets up devices: `sudo usb4rdma {verb}`");
    }
    Ok(())
}

/// Two at once, as a person and a cable's plug may cause, would both do the same steps. Locks a directory, so that no
/// file stays.
fn lock() -> Result<Flock<File>> {
    let dir = File::open("/run").context("/run")?;
    match Flock::lock(dir, FlockArg::LockExclusive) {
        Ok(lock) => Ok(lock),
        Err((_, error)) => Err(error).context("waiting for another usb4rdma"),
    }
}

fn stock_has_cables(facts: &Facts) -> bool {
    facts.loaded(STOCK) || facts.of_cables().any(|netdev| netdev.driver.as_deref() != Some(MODULE))
}

/// Whether the stock driver's cables shall be taken over.
fn ask(facts: &Facts) -> Result<bool> {
    let names: Vec<&str> = facts.of_cables().map(|netdev| netdev.name.as_str()).collect();
    let what = format!(
        "{STOCK} has the cables ({}), and connections over them break when {MODULE} takes them",
        names.join(", ")
    );
    if !std::io::stdin().is_terminal() {
        bail!("{what}: `usb4rdma up --yes` does it");
    }
    eprint!("{what}. Take them? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(true),
        _ => bail!("left as it was"),
    }
}

/// Waits a little for a first cable, which takes its time at boot and after a plug, and until each host at the end of
/// one has said its name.
fn wait_for_a_cable(net: &Net, wanted: &Wanted, how: &How) -> Result<Facts> {
    let start = Instant::now();
    loop {
        let facts = collect(net, wanted)?;
        let patience = match facts.cables.is_empty() {
            true if how.dry_run || !facts.host.bus => Duration::ZERO,
            true => how.wait.min(DISCOVERY),
            false => DISCOVERY,
        };
        if (!facts.cables.is_empty() && introduced(&facts)) || start.elapsed() >= patience {
            return Ok(facts);
        }
        std::thread::sleep(POLL);
    }
}

/// Whether all hosts at the ends of cables have said their names: until then nobody knows which cables belong together.
fn introduced(facts: &Facts) -> bool {
    facts.cables.iter().all(|cable| !cable.peer_name.is_empty())
}

/// Sets up each peer as soon as all its cables have their devices and no further cable comes, and those that have only
/// some of them when the time is over. Afterwards, the peers that have none, and what a person should know.
fn set_up(
    net: &Net,
    wanted: &Wanted,
    patience: Duration,
    state: &mut State,
    done: &mut usize,
) -> Result<(Facts, Vec<Peer>, Vec<String>)> {
    let start = Instant::now();
    let mut since = start;
    let mut seen = (usize::MAX, usize::MAX);
    let mut told = false;
    loop {
        let facts = collect(net, wanted)?;
        let chosen = wanted.chosen(&facts)?;
        let late: Vec<&Peer> = chosen
            .iter()
            .filter(|peer| !plan::awaited(&facts, peer).is_empty())
            .collect();
        let now = (facts.cables.len(), facts.of_cables().count());
        if now != seen {
            seen = now;
            since = Instant::now();
        }
        let over = start.elapsed() >= patience;
        let calm = since.elapsed() >= SETTLE || facts.of_cables().all(|netdev| netdev.up);
        let settled = calm && (introduced(&facts) || since.elapsed() >= DISCOVERY);
        if settled || over {
            let ready: Vec<Peer> = chosen
                .iter()
                .filter(|peer| over || !late.contains(peer))
                .cloned()
                .collect();
            let (steps, notes) = plan::devices_of(&facts, wanted, &ready)?;
            *done += steps.len();
            perform::all(net, state, steps)?;
            if over || late.is_empty() {
                let without = |peer: &&Peer| peer.cables.iter().all(|cable| facts.netdev_of(cable).is_none());
                let silent = chosen.iter().filter(without).cloned().collect();
                return Ok((facts, silent, notes));
            }
        }
        if !told && start.elapsed() >= SETTLE && !late.is_empty() {
            told = true;
            let mut names: Vec<&str> = late.iter().map(|peer| peer.name.as_str()).collect();
            names.dedup();
            eprintln!("waiting for {}: run `usb4rdma up` there too", names.join(", "));
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until every cable's device that is up has carrier, which takes the other host to be up too.
fn wait_for_carrier(net: &Net, wanted: &Wanted, patience: Duration) -> Result<Facts> {
    let start = Instant::now();
    let mut told = false;
    loop {
        let facts = collect(net, wanted)?;
        let ready =
            |link: &crate::facts::RdmaLink| !link.is_ours() || (link.state == "active" && !link.gids.is_empty());
        let done = facts.of_cables().all(|netdev| !netdev.up || netdev.carrier) && facts.rdma.iter().all(ready);
        if done || start.elapsed() >= patience {
            return Ok(facts);
        }
        if !told && start.elapsed() >= DISCOVERY / 2 {
            told = true;
            eprintln!("waiting for carrier: the other hosts' devices are not up yet");
        }
        std::thread::sleep(POLL);
    }
}
