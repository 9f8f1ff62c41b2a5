// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Does the steps of a plan: devices and addresses by rtnetlink, RDMA links by RDMA netlink, modules by modprobe, which
//! alone knows where they are and what they need.

use crate::facts::{loaded_modules, Net};
use crate::plan::{Planned, Step, MIIMON};
use crate::state::State;
use anyhow::{bail, Context, Result};
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{BondMode, BondXmitHashPolicy};
use nix::kmod::{delete_module, DeleteModuleFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rtnetlink::{LinkBond, LinkUnspec};
use std::ffi::CString;
use std::process::Command;
use std::time::{Duration, Instant};

/// A device of a driver that was just loaded takes this long to come.
const COMING: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Performs one step after the other and keeps in the state what undoes it.
pub fn all(net: &Net, state: &mut State, steps: Vec<Planned>) -> Result<()> {
    for Planned { step, undo } in steps {
        tracing::info!("{}", step.command());
        let _whole = Whole::begin()?;
        let before = if step.loads() { loaded_modules() } else { vec![] };
        one(net, &step).with_context(|| step.command())?;
        let mut undo = undo;
        if step.loads() {
            // The newest first, which is the order in which they can go.
            let new = loaded_modules().into_iter().filter(|module| !before.contains(module));
            let known = |module: &String| undo.contains(&Step::Unload(module.clone()));
            let new: Vec<Step> = new.filter(|module| !known(module)).map(Step::Unload).collect();
            undo.extend(new);
        }
        state.note(undo)?;
    }
    Ok(())
}

/// Undoes what the state has, the last first. What is gone already is passed over; modules that others use stay, with
/// a word.
pub fn undo(net: &Net, state: &mut State) -> Result<Vec<String>> {
    let mut notes = vec![];
    while let Some(step) = state.last().cloned() {
        tracing::info!("{}", step.command());
        let _whole = Whole::begin()?;
        match one(net, &step) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => tracing::info!("nothing to do: {error:#}"),
            Err(error) => match &step {
                Step::Unload(module) if module != crate::facts::MODULE => {
                    notes.push(format!("the module {module} stays loaded: {error:#}"));
                }
                _ => return Err(error.context(step.command())),
            },
        }
        state.undone()?;
    }
    Ok(notes)
}

/// While it lives, Ctrl-C and its like wait: a step that was done is noted.
struct Whole(SigSet);

impl Whole {
    fn begin() -> Result<Whole> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        Ok(Whole(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // Nothing is lost if it fails: they stay blocked, and the program goes on to its end.
        let _ = self.0.thread_set_mask();
    }
}

fn one(net: &Net, step: &Step) -> Result<()> {
    let index = |name: &str| index(net, name);
    let set = |link| net.wait(net.handle().link().set(link).execute());
    match step {
        Step::Load(module) => load(module)?,
        Step::Unload(module) => unload(module)?,
        Step::AddBond(name) => {
            let bond = LinkBond::new(name)
                .mode(BondMode::BalanceXor)
                .miimon(MIIMON)
                .xmit_hash_policy(BondXmitHashPolicy::Layer34);
            net.wait(net.handle().link().add(bond.build()).execute())?;
        }
        Step::DeleteBond(name) => net.wait(net.handle().link().del(index(name)?).execute())?,
        Step::Up(name) => set(LinkUnspec::new_with_index(index(name)?).up().build())?,
        Step::Down(name) => set(LinkUnspec::new_with_index(index(name)?).down().build())?,
        Step::Mtu { netdev, mtu } => set(LinkUnspec::new_with_index(index(netdev)?).mtu(*mtu).build())?,
        Step::Join { port, bond } => {
            let above = index(bond)?;
            set(LinkUnspec::new_with_index(index(port)?).controller(above).build())?;
        }
        Step::Leave(port) => set(LinkUnspec::new_with_index(index(port)?).nocontroller().build())?,
        Step::AddAddress { netdev, address } => {
            let mut request = net
                .handle()
                .address()
                .add(index(netdev)?, address.address, address.prefix);
            if address.address.is_ipv6() {
                // Made from the two hosts' names: nobody else has it, and a GID comes with it at once.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            net.wait(request.execute())?;
        }
        Step::DeleteAddress { netdev, address } => {
            let index = index(netdev)?;
            let mut request = net.handle().address().add(index, address.address, address.prefix);
            let message = request.message_mut().clone();
            net.wait(net.handle().address().del(message).execute())?;
        }
        Step::AddRdma { name, kind, netdev } => {
            index(netdev)?;
            nldev::Connection::open()?.add_link(name, kind, netdev)?;
        }
        Step::DeleteRdma(name) => {
            let mut rdma = nldev::Connection::open()?;
            match rdma.devices()?.iter().find(|device| device.name == *name) {
                Some(device) => rdma.delete_link(device.index)?,
                None => bail!(Gone(name.clone())),
            }
        }
    }
    Ok(())
}

/// What a step is about does not exist.
#[derive(Debug)]
struct Gone(String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no {}", self.0)
    }
}

impl std::error::Error for Gone {}

/// Whether an error says that there is nothing to undo.
fn is_gone(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<rtnetlink::Error>().and_then(|error| match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    });
    error.is::<Gone>() || matches!(refused, Some(libc::ENODEV | libc::EADDRNOTAVAIL))
}

/// The number of a network device; one whose driver was just loaded is waited for.
fn index(net: &Net, name: &str) -> Result<u32> {
    let start = Instant::now();
    loop {
        match net.index(name)? {
            Some(index) => return Ok(index),
            None if !driver_is_new() || start.elapsed() > COMING => bail!(Gone(name.to_string())),
            None => std::thread::sleep(POLL),
        }
    }
}

/// Whether a module was loaded by this process: its devices may still come.
fn driver_is_new() -> bool {
    LOADED.load(std::sync::atomic::Ordering::Relaxed)
}

static LOADED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn load(module: &str) -> Result<()> {
    let output = Command::new("modprobe")
        .arg(module)
        .output()
        .context("modprobe cannot be run")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .trim()
            .trim_start_matches("modprobe: ")
            .trim_start_matches("ERROR: ");
        bail!("{said}; the kernel's log may say why: `dmesg | tail`");
    }
    LOADED.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

fn unload(module: &str) -> Result<()> {
    match delete_module(&CString::new(module)?, DeleteModuleFlags::O_NONBLOCK) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::ENOENT) => bail!(Gone(format!("module {module}"))),
        Err(nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EBUSY) => bail!("it is in use"),
        Err(error) => Err(error.into()),
    }
}
