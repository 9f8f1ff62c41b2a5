// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a link's worker does: runs the pure machine of its wire and performs what that decides.
//!
//! Only the worker has a session, so nothing here is concurrent with itself. Each run takes what is requested now,
//! the messages that have come and the time; performs actions, reports events, sends; and says when to run again.

use crate::{
    inbox::Inbox,
    kapi::{
        outbox::Outbox,
        random::{random, random_u64},
        service::ServiceKind,
        timer,
        xdomain::Xdomain,
    },
    lane::Lanes,
    rail::{agreed_e2e, Rig, Spoken},
    requested::Requested,
    rescan::Rescan,
    rings::Kick,
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    limits::MAX_DEPTH,
    login::{self, Login},
    native::Abilities,
    native::Features,
    rail::{self, OpenError, Plan, Rail, Refusal},
    stock::Settings,
    time::{Duration, Instant},
    wire::{Ends, HopId, Mac, MessageBuf},
};

/// Rounds of action, event and message in one run of the worker.
const MAX_ROUNDS: usize = 16;

/// Messages sent in one round: the control channel is shared.
const MAX_MESSAGES: usize = 4;

/// Time after which rings that could not be had are tried for again.
const RING_RETRY: Duration = Duration::from_millis(1_000);

/// Largest MTU: 64 KiB with the Ethernet header, as on a stock link.
const MAX_MTU: u16 = 65_522;

/// The monotonic clock, as the machines count.
pub(crate) fn now() -> Instant {
    Instant(timer::now())
}

/// What a session uses of its link.
pub(crate) struct Port<'a> {
    /// The cable as the kernel names it, such as `0-1`.
    pub(crate) name: &'a str,
    pub(crate) xd: &'a Xdomain,
    pub(crate) ends: &'a Ends,
    /// Whether we offer end-to-end flow control.
    pub(crate) offers: Features,
    pub(crate) inbox: &'a Inbox,
    pub(crate) rescan: &'a Rescan,
    /// The lanes, if there is a netdev to have any.
    pub(crate) lanes: Option<&'a Lanes>,
    /// Control messages that could not be sent.
    pub(crate) send_errors: &'a AtomicU64,
    /// Has the session run.
    pub(crate) kick: Arc<dyn Kick>,
}

enum Machine {
    /// Nobody at the other end.
    None,
    Stock(KBox<Login>, Settings),
    Native(KBox<Rail>),
}

/// A link's machine and what it holds.
pub(crate) struct Session {
    kind: Option<ServiceKind>,
    machine: Machine,
    /// The machine has been started and not been stopped.
    started: bool,
    rig: Option<Rig>,
    outbox: Outbox,
    up: bool,
    /// The last epoch of ours; random at first.
    epoch: u64,
    /// No rings could be had: not before then.
    retry: Option<Instant>,
    /// That has been said.
    complained: bool,
}

impl Session {
    /// A session with nobody.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            kind: None,
            machine: Machine::None,
            started: false,
            rig: None,
            outbox: Outbox::new()?,
            up: false,
            epoch: random_u64(),
            retry: None,
            complained: false,
        })
    }

    /// Whether nothing of the host interface is held.
    pub(crate) fn is_closed(&self) -> bool {
        self.rig.is_none()
    }

    /// Whether there is nothing more to say to the peer.
    pub(crate) fn is_silent(&self) -> bool {
        self.rig.is_none()
            && !self.started
            && match &self.machine {
                Machine::None => true,
                Machine::Stock(login, _) => login.stopped(),
                Machine::Native(rail) => rail.stopped(),
            }
    }

    /// One run. Returns when the next is due, if not before for another reason.
    pub(crate) fn run(&mut self, port: &Port<'_>, requested: &Requested) -> Option<Instant> {
        self.follow(port, requested);
        match &mut self.machine {
            Machine::None => {}
            Machine::Stock(login, _) => login.set_mac(Mac(requested.wanted.mac)),
            Machine::Native(rail) => rail.set_mac(now(), Mac(requested.wanted.mac)),
        }
        let mut messages = 0;
        while let Some(message) = port.inbox.take() {
            self.hear(&message);
            messages += 1;
            if messages == MAX_ROUNDS {
                break;
            }
        }
        self.tick(port, requested.fault);
        for _ in 0..MAX_ROUNDS {
            self.report(port);
            let acted = self.act(port);
            self.report(port);
            let spoke = self.speak(port);
            if !acted && !spoke {
                break;
            }
        }
        if self.settle(port, requested) {
            return Some(now());
        }
        let due = match &self.machine {
            Machine::None => None,
            Machine::Stock(login, _) => login.poll_timeout(),
            Machine::Native(rail) => rail.poll_timeout(),
        };
        [due, self.retry].into_iter().flatten().min()
    }

    /// Starts or stops as requested.
    fn follow(&mut self, port: &Port<'_>, requested: &Requested) {
        let runs = requested.runs();
        if self.started && (!runs || requested.restart || self.kind != requested.kind()) {
            self.stop();
            return;
        }
        if !runs || self.started || self.rig.is_some() || self.kind != requested.kind() {
            return;
        }
        if self.retry.is_some_and(|at| at > now()) {
            return;
        }
        self.retry = None;
        let Some(lanes) = port.lanes else {
            return;
        };
        match self.start(port, lanes, requested) {
            Ok(()) => self.complained = false,
            Err(err) => {
                self.retry = Some(now().after(RING_RETRY));
                if !core::mem::replace(&mut self.complained, true) {
                    pr_warn!("{}: no free ring: {:?}; waiting for one\n", port.name, err);
                }
            }
        }
    }

    fn start(&mut self, port: &Port<'_>, lanes: &Lanes, requested: &Requested) -> Result {
        let Some(kind) = self.kind else {
            return Ok(());
        };
        let offers = (kind == ServiceKind::Native).then_some(port.offers);
        let mut rig = Rig::new(port.xd, lanes, offers, requested.wanted.rings)?;
        let mac = Mac(requested.wanted.mac);
        match kind {
            ServiceKind::Stock(settings) => {
                let path = *rig.take_transmit(1, 0).as_slice().first().ok_or(ENOSPC)?;
                let config = login::Config {
                    ends: *port.ends,
                    mac,
                    path,
                };
                let mut login = KBox::new(Login::new(config, random()), GFP_KERNEL)?;
                login.start(now(), path);
                self.machine = Machine::Stock(login, settings);
            }
            ServiceKind::Native => {
                self.keep_epoch();
                let depth = u16::try_from(rig.depth()).unwrap_or(MAX_DEPTH);
                let features = port.offers;
                let config = rail::Config {
                    ends: *port.ends,
                    abilities: Abilities::ours(mac, MAX_MTU, rig.lanes(), depth, features),
                };
                let mut rail = KBox::new(Rail::new(config, self.epoch), GFP_KERNEL)?;
                rail.start(now());
                self.machine = Machine::Native(rail);
            }
        }
        self.rig = Some(rig);
        self.started = true;
        Ok(())
    }

    fn keep_epoch(&mut self) {
        if let Machine::Native(rail) = &self.machine {
            self.epoch = rail.epoch();
        }
    }

    fn stop(&mut self) {
        self.started = false;
        match &mut self.machine {
            Machine::None => {}
            Machine::Stock(login, _) => login.stop(now()),
            Machine::Native(rail) => rail.stop(now()),
        }
    }

    /// What has been stopped is put away. True if there is more to do at once.
    fn settle(&mut self, port: &Port<'_>, requested: &Requested) -> bool {
        if self.started {
            return false;
        }
        if self.rig.as_ref().is_some_and(|rig| !rig.is_open()) {
            self.rig = None;
        }
        if self.rig.is_none() && self.kind != requested.kind() {
            self.keep_epoch();
            self.kind = requested.kind();
            self.retry = None;
            self.machine = Machine::None;
        }
        // A stock peer that logs out waits for an answer, whether we are up or not.
        if let (Machine::None, Some(ServiceKind::Stock(settings))) = (&self.machine, self.kind) {
            let config = login::Config {
                ends: *port.ends,
                mac: Mac(requested.wanted.mac),
                path: HopId(0),
            };
            if let Ok(login) = KBox::new(Login::new(config, random()), GFP_KERNEL) {
                self.machine = Machine::Stock(login, settings);
            }
        }
        requested.runs() && self.rig.is_none() && self.retry.is_none() && self.kind == requested.kind()
    }

    fn hear(&mut self, message: &MessageBuf) {
        // What is wrong with it the machine has counted.
        let _ = match &mut self.machine {
            Machine::None => Ok(()),
            Machine::Stock(login, _) => login.handle_message(now(), message.as_bytes()),
            Machine::Native(rail) => rail.handle_message(now(), message.as_bytes()),
        };
    }

    fn tick(&mut self, port: &Port<'_>, fault: bool) {
        let mut traffic = false;
        for lane in port.lanes.into_iter().flatten() {
            traffic |= lane.take_traffic();
        }
        match &mut self.machine {
            Machine::None => {}
            Machine::Stock(login, _) => {
                if traffic {
                    login.handle_traffic(now());
                }
                login.handle_timeout(now());
            }
            Machine::Native(rail) => {
                let (mut stuck, mut broken) = (false, false);
                for lane in port.lanes.into_iter().flatten() {
                    stuck |= lane.take_stuck();
                    broken |= lane.take_broken();
                }
                if let (true, Some([first, _])) = (stuck, port.lanes) {
                    first.count_timeout();
                    pr_warn!("{}: nothing goes out, beginning anew\n", port.name);
                }
                if let (true, Some(rig), Some(lanes)) = (broken, &self.rig, port.lanes) {
                    rig.reset_direct(lanes);
                }
                if traffic {
                    rail.handle_traffic(now());
                }
                if fault || stuck {
                    rail.handle_fault(now());
                }
                rail.handle_timeout(now());
            }
        }
    }

    /// Performs one action. True if there was one.
    fn act(&mut self, port: &Port<'_>) -> bool {
        let (Some(rig), Some(lanes)) = (&mut self.rig, port.lanes) else {
            // Nothing is held, so there is nothing to close.
            return match &mut self.machine {
                Machine::None => false,
                Machine::Stock(login, _) => match login.poll_action() {
                    Some(login::Action::Open { .. }) => {
                        login.handle_opened(now(), false);
                        true
                    }
                    Some(login::Action::Close) => {
                        login.handle_closed(now());
                        true
                    }
                    None => false,
                },
                Machine::Native(rail) => match rail.poll_action() {
                    Some(rail::Action::Allocate { .. }) => {
                        rail.handle_allocated(now(), None);
                        true
                    }
                    Some(rail::Action::Open(_)) => {
                        rail.handle_opened(now(), Err(OpenError::Other));
                        true
                    }
                    Some(rail::Action::Close) => {
                        rail.handle_closed(now());
                        true
                    }
                    None => false,
                },
            };
        };
        match &mut self.machine {
            Machine::None => false,
            Machine::Stock(login, settings) => match login.poll_action() {
                Some(login::Action::Open { receive_path }) => {
                    let e2e = Settings::ours(port.offers.has(Features::E2E)).e2e_with(*settings);
                    let result = rig.open(lanes, Spoken::Stock(*settings), &[receive_path], e2e, &port.kick);
                    if result.is_ok() {
                        port.rescan.start(rig.rings());
                    }
                    login.handle_opened(now(), result.is_ok());
                    true
                }
                Some(login::Action::Close) => {
                    close(port, rig, lanes);
                    login.handle_closed(now());
                    true
                }
                None => false,
            },
            Machine::Native(rail) => match rail.poll_action() {
                Some(rail::Action::Allocate { lanes, avoid }) => {
                    let hops = rig.take_transmit(lanes, avoid);
                    if hops.as_slice().len() < usize::from(lanes) {
                        pr_warn!("{}: too few HopIDs for {} lanes\n", port.name, lanes);
                    }
                    rail.handle_allocated(now(), Some(hops.as_slice()));
                    true
                }
                Some(rail::Action::Open(plan)) => {
                    let result = open_native(port, rig, lanes, &plan);
                    if let Err(OpenError::Lanes(had)) = result {
                        pr_warn!("{}: no path for more lanes than {}\n", port.name, had);
                    }
                    rail.handle_opened(now(), result);
                    true
                }
                Some(rail::Action::Close) => {
                    close(port, rig, lanes);
                    rig.release();
                    rail.handle_closed(now());
                    true
                }
                None => false,
            },
        }
    }

    /// Tells the netdev of what has changed.
    fn report(&mut self, port: &Port<'_>) {
        let was = self.up;
        match &mut self.machine {
            Machine::None => self.up = false,
            Machine::Stock(login, _) => self.up = login.up().is_some(),
            Machine::Native(rail) => {
                while let Some(event) = rail.poll_event() {
                    if let rail::Event::Refused(refusal) = event {
                        refused(port, refusal);
                    }
                }
                self.up = rail.up().is_some();
            }
        }
        let two = self.rig.as_ref().is_some_and(Rig::has_two);
        if let (Some([first, second]), true) = (port.lanes, was != self.up) {
            if self.up {
                if two {
                    second.go();
                }
                first.go();
                pr_info!("{}: up, {}\n", port.name, self.describe());
            } else {
                first.halt();
                second.halt();
                pr_info!("{}: down\n", port.name);
            }
        }
        // The peer may have another address since.
        if let (Some([first, second]), Machine::Native(rail)) = (port.lanes, &self.machine) {
            let trains = rail.up().is_some_and(|plan| plan.features.has(Features::TRAINS));
            let mac = rail.peer_mac().filter(|_| trains).map(|mac| mac.0);
            first.set_reach(mac);
            second.set_reach(mac.filter(|_| two));
        }
    }

    fn describe(&self) -> &'static str {
        match &self.machine {
            Machine::None => "nobody",
            Machine::Stock(..) => "ThunderboltIP",
            Machine::Native(_) if self.rig.as_ref().is_some_and(Rig::has_two) => "native, two lanes",
            Machine::Native(_) => "native",
        }
    }

    /// Sends what is due. True if something was.
    fn speak(&mut self, port: &Port<'_>) -> bool {
        let mut spoke = false;
        for _ in 0..MAX_MESSAGES {
            let message = match &mut self.machine {
                Machine::None => None,
                Machine::Stock(login, _) => login.poll_transmit(now()),
                Machine::Native(rail) => rail.poll_transmit(now()),
            };
            let Some(message) = message else {
                break;
            };
            spoke = true;
            // The machines repeat what is lost.
            if port.xd.is_dead() || self.outbox.send(port.xd, message.as_bytes()).is_err() {
                port.send_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        spoke
    }
}

/// Opens the lanes of a rail.
fn open_native(port: &Port<'_>, rig: &mut Rig, lanes: &Lanes, plan: &Plan) -> Result<(), OpenError> {
    let receive = plan.receive.get(..usize::from(plan.lanes)).ok_or(OpenError::Other)?;
    rig.open(
        lanes,
        Spoken::Native(plan),
        receive,
        agreed_e2e(plan.features),
        &port.kick,
    )?;
    port.rescan.start(rig.rings());
    Ok(())
}

fn close(port: &Port<'_>, rig: &mut Rig, lanes: &Lanes) {
    port.rescan.stop();
    if !rig.close(lanes) {
        pr_warn!("{}: the paths did not come down\n", port.name);
    }
}

fn refused(port: &Port<'_>, refusal: Refusal) {
    match refusal {
        Refusal::Version { theirs, oldest } => pr_warn!(
            "{}: the peer speaks version {} down to {} of the cable's protocol, which we do not; update the older \
             side\n",
            port.name,
            theirs,
            oldest
        ),
        Refusal::PeerLacks(features) => {
            pr_warn!("{}: the peer lacks features {:#x}; update it\n", port.name, features.0);
        }
        Refusal::WeLack(features) => {
            pr_warn!(
                "{}: the peer requires features {:#x} that we lack; update this host\n",
                port.name,
                features.0
            );
        }
    }
}
