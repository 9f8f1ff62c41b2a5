// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a link's worker does: runs the pure machine of its wire and performs what that decides.
//!
//! Only the worker has a session, so nothing here is concurrent with itself. Each run takes what is wished now, the
//! messages that have come and the time; performs actions, reports events, sends; and says when to run again.

use crate::{
    control::{Kind, Link, Wish},
    kapi::{
        random::{random, random_u64},
        timer,
    },
    lane::Wire,
    netif::Netif,
    rail::{agreed_e2e, Rig},
};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    limits::MAX_DEPTH,
    login::{self, Login},
    native::{Abilities, Features},
    rail::{self, OpenError, Plan, Rail, Refusal},
    stock::Settings,
    time::{Duration, Instant},
    wire::{HopId, Mac, MessageBuf},
};

/// Rounds of action, event and message in one run of the worker.
const MAX_ROUNDS: usize = 16;

/// Messages sent in one round: the control channel is shared.
const MAX_MESSAGES: usize = 4;

/// Time after which rings that could not be had are tried for again.
const RING_RETRY: Duration = Duration::from_millis(1_000);

/// Lanes that a rail has: the protocol gives the message lane work, and the others none yet.
const LANES: u8 = 1;

/// Largest MTU: 64 KiB with the Ethernet header, as on a stock link.
const MAX_MTU: u16 = 65_522;

/// The monotonic clock, as the machines count.
pub(crate) fn now() -> Instant {
    Instant(timer::now())
}

enum Machine {
    /// Nobody at the other end.
    None,
    Stock(KBox<Login>, Settings),
    Native(KBox<Rail>),
}

/// A link's machine and what it holds.
pub(crate) struct Session {
    kind: Option<Kind>,
    machine: Machine,
    /// The machine has been started and not been stopped.
    started: bool,
    rig: Option<Rig>,
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
    pub(crate) fn new() -> Self {
        Self {
            kind: None,
            machine: Machine::None,
            started: false,
            rig: None,
            up: false,
            epoch: random_u64(),
            retry: None,
            complained: false,
        }
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
    pub(crate) fn run(&mut self, link: &Link, netif: Option<&Arc<Netif>>, wish: &Wish) -> Option<Instant> {
        self.follow(link, netif, wish);
        match &mut self.machine {
            Machine::None => {}
            Machine::Stock(login, _) => login.set_mac(Mac(wish.mac)),
            Machine::Native(rail) => rail.set_mac(Mac(wish.mac)),
        }
        let mut letters = 0;
        while let Some(letter) = link.next_letter() {
            self.hear(&letter);
            letters += 1;
            if letters == MAX_ROUNDS {
                break;
            }
        }
        self.tick(link, wish.fault);
        for _ in 0..MAX_ROUNDS {
            self.report(link, netif);
            let acted = self.act(link, netif);
            self.report(link, netif);
            let spoke = self.speak(link);
            if !acted && !spoke {
                break;
            }
        }
        if self.settle(wish) {
            return Some(now());
        }
        let due = match &self.machine {
            Machine::None => None,
            Machine::Stock(login, _) => login.poll_timeout(),
            Machine::Native(rail) => rail.poll_timeout(),
        };
        [due, self.retry].into_iter().flatten().min()
    }

    /// Starts or stops as wished.
    fn follow(&mut self, link: &Link, netif: Option<&Arc<Netif>>, wish: &Wish) {
        let runs = wish.runs();
        if self.started && (!runs || wish.restart || self.kind != wish.kind()) {
            self.stop();
            return;
        }
        if !runs || self.started || self.rig.is_some() || self.kind != wish.kind() {
            return;
        }
        if self.retry.is_some_and(|at| at > now()) {
            return;
        }
        self.retry = None;
        let Some(netif) = netif else {
            return;
        };
        match self.start(link, netif, wish) {
            Ok(()) => self.complained = false,
            Err(err) => {
                self.retry = Some(now().after(RING_RETRY));
                if !core::mem::replace(&mut self.complained, true) {
                    pr_warn!("{}: no free ring: {:?}; waiting for one\n", link.name(), err);
                }
            }
        }
    }

    fn start(&mut self, link: &Link, netif: &Arc<Netif>, wish: &Wish) -> Result {
        let Some(kind) = self.kind else {
            return Ok(());
        };
        let mut rig = Rig::new(link.xdomain(), netif, kind == Kind::Native, wish.tx, wish.rx)?;
        let mac = Mac(wish.mac);
        match kind {
            Kind::Stock(settings) => {
                let path = rig.take_transmit(0)?;
                let config = login::Config {
                    ends: *link.ends(),
                    mac,
                    path,
                };
                let mut login = KBox::new(Login::new(config, random()), GFP_KERNEL)?;
                login.start(now(), path);
                self.machine = Machine::Stock(login, settings);
            }
            Kind::Native => {
                self.keep_epoch();
                let depth = u16::try_from(rig.lane().rx.size() - 1).unwrap_or(MAX_DEPTH);
                let features = if link.offers_e2e() { Features::E2E } else { Features(0) };
                let config = rail::Config {
                    ends: *link.ends(),
                    abilities: Abilities::ours(mac, MAX_MTU, LANES, depth, features),
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
    fn settle(&mut self, wish: &Wish) -> bool {
        if self.started {
            return false;
        }
        if self.rig.as_ref().is_some_and(|rig| !rig.is_open()) {
            self.rig = None;
        }
        if self.rig.is_none() && self.kind != wish.kind() {
            self.keep_epoch();
            self.kind = wish.kind();
            self.retry = None;
            self.machine = Machine::None;
        }
        // A stock peer that logs out waits for an answer, whether we are up or not.
        if let (Machine::None, Some(Kind::Stock(settings))) = (&self.machine, self.kind) {
            if let Some(ends) = wish.ends {
                let config = login::Config {
                    ends,
                    mac: Mac(wish.mac),
                    path: HopId(0),
                };
                if let Ok(login) = KBox::new(Login::new(config, random()), GFP_KERNEL) {
                    self.machine = Machine::Stock(login, settings);
                }
            }
        }
        wish.runs() && self.rig.is_none() && self.retry.is_none() && self.kind == wish.kind()
    }

    fn hear(&mut self, letter: &MessageBuf) {
        // What is wrong with it the machine has counted.
        let _ = match &mut self.machine {
            Machine::None => Ok(()),
            Machine::Stock(login, _) => login.handle_message(now(), letter.as_bytes()),
            Machine::Native(rail) => rail.handle_message(now(), letter.as_bytes()),
        };
    }

    fn tick(&mut self, link: &Link, fault: bool) {
        let traffic = link.take_traffic();
        match &mut self.machine {
            Machine::None => {}
            Machine::Stock(login, _) => {
                if traffic {
                    login.handle_traffic(now());
                }
                login.handle_timeout(now());
            }
            Machine::Native(rail) => {
                if fault {
                    rail.handle_fault(now());
                }
                rail.handle_timeout(now());
            }
        }
    }

    /// Performs one action. True if there was one.
    fn act(&mut self, link: &Link, netif: Option<&Arc<Netif>>) -> bool {
        let (Some(rig), Some(netif)) = (&mut self.rig, netif) else {
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
                    let e2e = Settings::ours(link.offers_e2e()).e2e_with(*settings);
                    let wire = Wire::Stock { settings: *settings };
                    let result = rig.open(netif, wire, receive_path, e2e);
                    if result.is_ok() {
                        link.watch(rig.lane());
                    }
                    login.handle_opened(now(), result.is_ok());
                    true
                }
                Some(login::Action::Close) => {
                    close(link, rig, netif);
                    login.handle_closed(now());
                    true
                }
                None => false,
            },
            Machine::Native(rail) => match rail.poll_action() {
                Some(rail::Action::Allocate { avoid, .. }) => {
                    let hop = rig.take_transmit(avoid).ok().map(|hop| [hop]);
                    rail.handle_allocated(now(), hop.as_ref().map(|hops| hops.as_slice()));
                    true
                }
                Some(rail::Action::Open(plan)) => {
                    let result = open_native(link, rig, netif, &plan);
                    rail.handle_opened(now(), result);
                    true
                }
                Some(rail::Action::Close) => {
                    close(link, rig, netif);
                    rig.release();
                    rail.handle_closed(now());
                    true
                }
                None => false,
            },
        }
    }

    /// Tells the netdev of what has changed.
    fn report(&mut self, link: &Link, netif: Option<&Arc<Netif>>) {
        let was = self.up;
        match &mut self.machine {
            Machine::None => self.up = false,
            Machine::Stock(login, _) => self.up = login.up().is_some(),
            Machine::Native(rail) => {
                while let Some(event) = rail.poll_event() {
                    if let rail::Event::Refused(refusal) = event {
                        refused(link, refusal);
                    }
                }
                self.up = rail.up().is_some();
            }
        }
        if let (Some(netif), true) = (netif, was != self.up) {
            if self.up {
                netif.go();
                link.set_up(true);
                pr_info!("{}: up, {}\n", link.name(), self.describe());
            } else {
                netif.halt();
                link.set_up(false);
                pr_info!("{}: down\n", link.name());
            }
        }
    }

    fn describe(&self) -> &'static str {
        match &self.machine {
            Machine::None => "nobody",
            Machine::Stock(..) => "ThunderboltIP",
            Machine::Native(_) => "native",
        }
    }

    /// Sends what is due. True if something was.
    fn speak(&mut self, link: &Link) -> bool {
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
            link.send(&message);
        }
        spoke
    }
}

/// Opens the message lane of a rail.
fn open_native(link: &Link, rig: &mut Rig, netif: &Netif, plan: &Plan) -> Result<(), OpenError> {
    let receive = plan.receive.first().copied().ok_or(OpenError::Other)?;
    rig.open(netif, Wire::Native { plan: *plan }, receive, agreed_e2e(plan.features))?;
    link.watch(rig.lane());
    Ok(())
}

fn close(link: &Link, rig: &mut Rig, netif: &Netif) {
    link.unwatch();
    if !rig.close(netif) {
        pr_warn!("{}: the paths did not come down\n", link.name());
    }
}

fn refused(link: &Link, refusal: Refusal) {
    match refusal {
        Refusal::Version { theirs, oldest } => pr_warn!(
            "{}: the peer speaks version {} down to {} of the cable's protocol, which we do not; update the older side\n",
            link.name(),
            theirs,
            oldest
        ),
        Refusal::PeerLacks(features) => {
            pr_warn!("{}: the peer lacks features {:#x}; update it\n", link.name(), features.0);
        }
        Refusal::WeLack(features) => {
            pr_warn!("{}: the peer requires features {:#x} that we lack; update this host\n", link.name(), features.0);
        }
    }
}
