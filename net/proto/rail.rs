// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The rail machine: two of our own agree on epochs, rings and HopIDs.
//!
//! Every side has an *epoch*: a number, new whenever it starts from nothing. What is agreed is
//! agreed between a *pair* of epochs, its own and the peer's, and opened at most once; when either
//! changes, everything of the old pair is void. The machine is level-triggered: a message is the
//! sender's whole state and is repeated until the peer's messages show that it has been seen.
//!
//! ```text
//!   level (what we say)    None/Hello            Paths                    Ready
//!   work (what we have)    Idle --> Allocating --> Allocated --> Opening --> Open
//!                           ^   peer adopted       |  peer at Paths          |   up: peer at Ready
//!                           |                      |                         |
//!                           +------- Closing <-----+-------------------------+
//!                              other pair, BYE, silence, failure, stop
//! ```
//!
//! A peer's epoch is *adopted* from a message that names our own: only a sender that has heard us in
//! this life can write that. Another epoch that does not name ours is answered and otherwise
//! ignored, so a late message of a former life voids nothing. Epochs once replaced are retired for
//! as long as our own epoch lasts.
//!
//! The caller lends a driver: it is given one [`Action`] at a time and answers each.

mod plan;

pub use plan::{Plan, RailId};

use crate::limits::{
    BYE_RETRY, BYE_TRIES, DEAD, KEEPALIVE, MAX_DEPTH, MAX_LANES, OPEN_RETRY, STATUS_GAP, STATUS_RETRY, STATUS_RETRY_MAX,
};
use crate::native::{Abilities, Decoded, Features, Foreign, Kind, Level, Status};
use crate::time::{Duration, Instant};
use crate::wire::{bump, Ends, HopId, Mac, Message, MessageBuf, Route, WireError};

/// How many replaced epochs of the peer are remembered.
const RETIRED: usize = 8;

/// Epochs of one life of a side count up; this far apart they are of different lives.
const SAME_LIFE: u64 = 1 << 16;

/// What the driver is to do, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take `lanes` transmit HopIDs, none in `avoid` (bit i is HopID 8 + i) if it can be helped.
    /// Answer: [`Rail::handle_allocated`].
    Allocate {
        /// HopIDs wanted.
        lanes: u8,
        /// HopIDs that the peer cannot receive on.
        avoid: u32,
    },
    /// Take the receive HopIDs, start the rings, post receive buffers, enable the paths; in that
    /// order. Answer: [`Rail::handle_opened`].
    Open(Plan),
    /// Disable the paths, stop the rings, free all HopIDs; in that order. After any beginning of
    /// [`Action::Allocate`] or [`Action::Open`]. Answer: [`Rail::handle_closed`].
    Close,
}

/// Why rings did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// These receive HopIDs are taken: bit i is HopID 8 + i. The peer is asked for others.
    Busy(u32),
    /// No more lanes than these can be had, as where the router has no buffers left for another path. The peer is told
    /// of no more.
    Lanes(u8),
    /// Anything else; tried again later.
    Other,
}

/// Why a peer is refused. It stays refused until it comes with a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No version in common.
    Version {
        /// Version that the peer speaks.
        theirs: u8,
        /// Oldest version that the peer still speaks.
        oldest: u8,
    },
    /// We require features that the peer lacks.
    PeerLacks(Features),
    /// The peer requires features that we lack.
    WeLack(Features),
}

/// What the caller may want to tell: carrier, log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The rail works in both directions.
    Up(Plan),
    /// The rail of the last [`Event::Up`] does not work any more.
    Down,
    /// The peer is refused; given once for each of its epochs.
    Refused(Refusal),
}

/// What a machine counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of this cable handled.
    pub received: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages of retired epochs.
    pub stale: u64,
    /// Epochs of the peer adopted.
    pub adopted: u64,
    /// Times the rail came up.
    pub ups: u64,
    /// Times the rail went down.
    pub downs: u64,
    /// Times the peer fell silent.
    pub silences: u64,
    /// Actions that the driver could not do.
    pub failures: u64,
}

/// What the machine is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The cable.
    pub ends: Ends,
    /// What we can do.
    pub abilities: Abilities,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Down,
    Up,
    /// Leaving: BYE sent `tries` times and not answered.
    Bye {
        tries: u8,
    },
}

/// What the driver has of this rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Idle,
    Allocating,
    Allocated,
    Opening,
    Open,
    Closing,
}

/// The adopted peer.
#[derive(Clone, Copy, Debug)]
struct Peer {
    epoch: u64,
    abilities: Abilities,
    route: Route,
    level: Level,
    seen: Level,
    busy: u32,
    paths: [HopId; MAX_LANES],
    heard: Instant,
    refused: bool,
}

/// The rail machine of one cable to a native peer.
#[derive(Debug)]
pub struct Rail {
    config: Config,
    epoch: u64,
    wanted: Wanted,
    work: Work,
    /// Allocating or Opening for a pair that is void: close when done.
    doomed: bool,
    action: Option<Action>,
    peer: Option<Peer>,
    /// An epoch that does not name ours, to be named in a HELLO.
    heard: Option<u64>,
    /// An epoch whose BYE is to be answered.
    bye: Option<u64>,
    retired: [u64; RETIRED],
    next_retired: usize,
    /// Our transmit HopIDs, from Allocated on.
    paths: [HopId; MAX_LANES],
    plan: Option<Plan>,
    up: bool,
    /// Receive HopIDs that could not be had.
    busy: u32,
    refusal: Option<Refusal>,
    /// The epoch last refused.
    refused_epoch: u64,
    went_down: bool,
    came_up: bool,
    hold: Instant,
    next: Option<Instant>,
    last: Option<Instant>,
    retry: Duration,
    command: u32,
    counters: Counters,
}

impl Rail {
    /// A rail that is down. `epoch` is a random number, new whenever the module is loaded.
    #[must_use]
    pub fn new(config: Config, epoch: u64) -> Self {
        Self {
            config,
            epoch: epoch.max(1),
            wanted: Wanted::Down,
            work: Work::Idle,
            doomed: false,
            action: None,
            peer: None,
            heard: None,
            bye: None,
            retired: [0; RETIRED],
            next_retired: 0,
            paths: [HopId(0); MAX_LANES],
            plan: None,
            up: false,
            busy: 0,
            refusal: None,
            refused_epoch: 0,
            went_down: false,
            came_up: false,
            hold: Instant(0),
            next: None,
            last: None,
            retry: STATUS_RETRY,
            command: 0,
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Our epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The plan of a rail that is up.
    #[must_use]
    pub fn up(&self) -> Option<&Plan> {
        self.plan.as_ref().filter(|_| self.up)
    }

    /// The Ethernet address that the peer told last, while the rail is up.
    #[must_use]
    pub fn peer_mac(&self) -> Option<Mac> {
        let peer = self.peer.as_ref().filter(|_| self.up)?;
        Some(peer.abilities.mac)
    }

    /// Whether everything is over: no rings, no HopIDs, nothing more to say.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.wanted == Wanted::Down && self.work == Work::Idle && self.action.is_none()
    }

    /// Begin.
    pub fn start(&mut self, now: Instant) {
        if self.wanted != Wanted::Up {
            self.wanted = Wanted::Up;
            self.renew(now);
        }
    }

    /// Our Ethernet address from now on. A peer that we are up with is told at once.
    pub fn set_mac(&mut self, now: Instant, mac: Mac) {
        let before = core::mem::replace(&mut self.config.abilities.mac, mac);
        if before != mac && self.up {
            self.kick(now);
        }
    }

    /// End: close the rings, say goodbye. Over when [`Rail::stopped`].
    pub fn stop(&mut self, now: Instant) {
        if self.wanted == Wanted::Up {
            self.wanted = Wanted::Bye { tries: 0 };
            self.void();
            self.retry = BYE_RETRY;
            self.next = Some(now);
        }
    }

    /// The rings do not work any more (stalled, or the driver gave up on them): begin anew.
    pub fn handle_fault(&mut self, now: Instant) {
        if self.wanted == Wanted::Up && self.work == Work::Open {
            bump(&mut self.counters.failures);
            self.renew(now);
        }
    }

    /// A control message has come.
    ///
    /// # Errors
    ///
    /// The message is not of this cable or makes no sense; nothing has changed.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) -> Result<(), WireError> {
        let message = Message::parse(bytes)?;
        if !self.config.ends.received(message.header()) {
            return Err(WireError::Protocol);
        }
        let decoded = Status::parse(&message)?;
        bump(&mut self.counters.received);
        match decoded {
            Decoded::Foreign(foreign) => self.on_foreign(now, &foreign),
            Decoded::Status(status) => match status.kind {
                Kind::Bye { answer } => self.on_bye(now, &status, answer),
                Kind::At(level) => self.on_status(now, &status, level),
            },
        }
        self.advance(now);
        Ok(())
    }

    /// [`Action::Allocate`] is done: the HopIDs, or nothing could be had. Of fewer lanes than were asked for: there are
    /// no more, and the peer is told so.
    pub fn handle_allocated(&mut self, now: Instant, paths: Option<&[HopId]>) {
        if self.work != Work::Allocating {
            return;
        }
        self.paths = [HopId(0); MAX_LANES];
        for (to, from) in self.paths.iter_mut().zip(paths.unwrap_or(&[])) {
            *to = *from;
        }
        let had = u8::try_from(paths.map_or(0, <[HopId]>::len)).unwrap_or(u8::MAX);
        let wanted = self.peer.map_or(1, |peer| self.lanes(&peer));
        if self.doomed || had == 0 {
            self.fail(now, had == 0);
        } else if had < wanted {
            self.fail_but(now, had);
        } else {
            self.work = Work::Allocated;
            self.kick(now);
        }
        self.advance(now);
    }

    /// [`Action::Open`] is done.
    ///
    /// # Errors
    ///
    /// None of its own: `result` is the driver's. After an error [`Action::Close`] follows.
    pub fn handle_opened(&mut self, now: Instant, result: Result<(), OpenError>) {
        if self.work != Work::Opening {
            return;
        }
        match result {
            Ok(()) if !self.doomed => {
                self.work = Work::Open;
                self.kick(now);
            }
            Ok(()) => self.fail(now, false),
            Err(OpenError::Busy(mask)) if mask & !self.busy != 0 => {
                // News for the peer, which has others: no need to wait.
                self.busy |= mask;
                self.fail(now, true);
                self.hold = now;
            }
            Err(OpenError::Lanes(most)) if (1..self.config.abilities.lanes).contains(&most) => self.fail_but(now, most),
            Err(_) => self.fail(now, true),
        }
        self.advance(now);
    }

    /// Fewer lanes can be had than were agreed on: with those it is tried at once.
    fn fail_but(&mut self, now: Instant, lanes: u8) {
        self.config.abilities.lanes = lanes;
        self.fail(now, true);
        self.hold = now;
    }

    /// [`Action::Close`] is done.
    pub fn handle_closed(&mut self, now: Instant) {
        if self.work == Work::Closing {
            self.work = Work::Idle;
            self.advance(now);
        }
    }

    /// Frames of the peer have come over the rail since the last call: it lives, though its control messages may be
    /// late. A host that is short of processors serves its rings in softirqs, and its worker when it gets to it.
    pub fn handle_traffic(&mut self, now: Instant) {
        if let Some(peer) = self.peer.as_mut().filter(|_| self.up) {
            peer.heard = now;
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let (Wanted::Up, Some(peer)) = (self.wanted, &self.peer) {
            if now >= peer.heard.after(DEAD) {
                bump(&mut self.counters.silences);
                self.renew(now);
            }
        }
        self.advance(now);
    }

    /// What the driver is to do now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        if core::mem::take(&mut self.went_down) {
            return Some(Event::Down);
        }
        if core::mem::take(&mut self.came_up) {
            if let Some(plan) = self.up() {
                return Some(Event::Up(*plan));
            }
        }
        self.refusal.take().map(Event::Refused)
    }

    /// The message to send now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<MessageBuf> {
        if let Some(epoch) = self.bye.take() {
            return Some(self.send(now, Kind::Bye { answer: true }, epoch, Level::None));
        }
        if self.next.is_none_or(|at| at > now) {
            return None;
        }
        match self.wanted {
            Wanted::Down => {
                self.next = None;
                None
            }
            Wanted::Bye { tries } if tries >= BYE_TRIES => {
                self.leave();
                None
            }
            Wanted::Bye { tries } => {
                self.wanted = Wanted::Bye {
                    tries: tries.saturating_add(1),
                };
                self.next = Some(now.after(BYE_RETRY));
                let epoch = self.peer.as_ref().map_or(0, |peer| peer.epoch);
                Some(self.send(now, Kind::Bye { answer: false }, epoch, Level::None))
            }
            Wanted::Up => {
                self.next = Some(now.after(self.interval()));
                if !self.settled() {
                    self.retry = Duration(self.retry.0.saturating_mul(2)).min(STATUS_RETRY_MAX);
                }
                match (self.heard, &self.peer) {
                    (Some(epoch), Some(_)) => {
                        // One HELLO for the stranger; the peer's own turn comes next.
                        self.heard = None;
                        Some(self.send(now, Kind::At(Level::Hello), epoch, Level::None))
                    }
                    (heard, None) => Some(self.send(now, Kind::At(Level::Hello), heard.unwrap_or(0), Level::None)),
                    (None, Some(peer)) => {
                        let (epoch, seen) = (peer.epoch, peer.level);
                        Some(self.send(now, Kind::At(self.level()), epoch, seen))
                    }
                }
            }
        }
    }

    /// When [`Rail::handle_timeout`] and [`Rail::poll_transmit`] are to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.bye.is_some() {
            return Some(Instant(0));
        }
        let mut at = self.next;
        let mut sooner = |t: Instant| at = Some(at.map_or(t, |a| a.min(t)));
        if let (Wanted::Up, Some(peer)) = (self.wanted, &self.peer) {
            sooner(peer.heard.after(DEAD));
            if self.work == Work::Idle && !peer.refused {
                sooner(self.hold);
            }
        }
        at
    }

    /// How far we are with the adopted peer.
    const fn level(&self) -> Level {
        match self.work {
            Work::Allocated | Work::Opening if !self.doomed => Level::Paths,
            Work::Open => Level::Ready,
            _ => Level::Hello,
        }
    }

    /// Whether both sides know that both are ready.
    fn settled(&self) -> bool {
        self.up && self.heard.is_none() && self.peer.as_ref().is_some_and(|p| p.seen == Level::Ready)
    }

    fn interval(&self) -> Duration {
        if self.settled() {
            KEEPALIVE
        } else {
            self.retry
        }
    }

    fn send(&mut self, now: Instant, kind: Kind, peer_epoch: u64, seen: Level) -> MessageBuf {
        self.last = Some(now);
        self.command = self.command.wrapping_add(1);
        bump(&mut self.counters.sent);
        let paths = match kind {
            Kind::At(Level::Paths | Level::Ready) => self.paths,
            _ => [HopId(0); MAX_LANES],
        };
        let status = Status {
            kind,
            seen,
            epoch: self.epoch,
            peer_epoch,
            route: self.config.ends.route,
            abilities: self.config.abilities,
            busy: self.busy,
            paths,
        };
        status.message(&self.config.ends, self.command)
    }

    /// There is news for the peer: send it as soon as decent.
    fn kick(&mut self, now: Instant) {
        self.retry = STATUS_RETRY;
        let at = match self.last {
            Some(last) => now.max(last.after(STATUS_GAP)),
            None => now,
        };
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Whether `epoch` has been replaced, or is an earlier one of the life that the peer is in.
    fn is_retired(&self, epoch: u64) -> bool {
        let earlier = self.peer.as_ref().map_or(0, |peer| peer.epoch.wrapping_sub(epoch));
        self.retired.contains(&epoch) || (1..SAME_LIFE).contains(&earlier)
    }

    fn retire(&mut self, epoch: u64) {
        if epoch == 0 || self.retired.contains(&epoch) {
            return;
        }
        if let Some(slot) = self.retired.get_mut(self.next_retired) {
            *slot = epoch;
        }
        self.next_retired = self.next_retired.wrapping_add(1) % RETIRED;
        if self.heard == Some(epoch) {
            self.heard = None;
        }
    }

    /// Take a new epoch; forget the peer until it names it.
    fn renew(&mut self, now: Instant) {
        self.void();
        // The peer, if it is still there, hears at once that its partner is new.
        self.heard = self.peer.take().map(|peer| peer.epoch).or(self.heard);
        self.epoch = self.epoch.wrapping_add(1).max(1);
        // No message of a former life can name the new epoch. And should one have been adopted
        // before, in place of the epoch that the peer is in, this is the way back.
        self.retired = [0; RETIRED];
        self.kick(now);
    }

    /// Everything of the present pair is void.
    fn void(&mut self) {
        if self.up {
            self.up = false;
            self.came_up = false;
            self.went_down = true;
            bump(&mut self.counters.downs);
        }
        self.plan = None;
        match self.work {
            Work::Idle | Work::Closing => {}
            Work::Allocating if self.action.take().is_some() => self.work = Work::Idle,
            Work::Opening if self.action.take().is_some() => self.close(),
            Work::Allocating | Work::Opening => self.doomed = true,
            Work::Allocated | Work::Open => self.close(),
        }
    }

    fn close(&mut self) {
        self.doomed = false;
        self.work = Work::Closing;
        self.action = Some(Action::Close);
    }

    /// The driver has come back from an action that was void, or has failed (`anew`).
    fn fail(&mut self, now: Instant, anew: bool) {
        let doomed = self.doomed;
        self.close();
        if anew {
            bump(&mut self.counters.failures);
            self.hold = now.after(OPEN_RETRY);
            // A doomed pair is over already.
            if !doomed && self.wanted == Wanted::Up {
                self.renew(now);
            }
        }
    }

    /// The end of [`Wanted::Bye`].
    fn leave(&mut self) {
        self.wanted = Wanted::Down;
        self.peer = None;
        self.heard = None;
        self.next = None;
    }

    fn on_foreign(&mut self, now: Instant, foreign: &Foreign) {
        if self.wanted != Wanted::Up || self.is_retired(foreign.epoch) {
            return;
        }
        self.refuse(
            foreign.epoch,
            Refusal::Version {
                theirs: foreign.version,
                oldest: foreign.oldest,
            },
        );
        // Let it know ours, at the slow pace.
        if self.peer.is_none() && self.next.is_none() {
            self.next = Some(now.after(STATUS_RETRY_MAX));
        }
    }

    fn refuse(&mut self, epoch: u64, refusal: Refusal) {
        if self.refused_epoch != epoch {
            self.refused_epoch = epoch;
            self.refusal = Some(refusal);
        }
    }

    fn on_bye(&mut self, now: Instant, status: &Status, answer: bool) {
        if let Wanted::Bye { .. } = self.wanted {
            if status.peer_epoch == self.epoch {
                self.leave();
            }
        }
        if answer {
            return;
        }
        self.bye = Some(status.epoch);
        if self.heard == Some(status.epoch) {
            self.heard = None;
        }
        if self.peer.as_ref().is_some_and(|peer| peer.epoch == status.epoch) {
            self.retire(status.epoch);
            self.peer = None;
            self.void();
            if self.wanted == Wanted::Up {
                self.kick(now);
            }
        }
    }

    fn on_status(&mut self, now: Instant, status: &Status, level: Level) {
        if self.wanted != Wanted::Up {
            return;
        }
        if self.is_retired(status.epoch) {
            bump(&mut self.counters.stale);
            return;
        }
        let known = self.peer.as_ref().is_some_and(|peer| peer.epoch == status.epoch);
        if status.peer_epoch != self.epoch {
            // It does not know us, or knows a former life of ours. It is told who we are; it is
            // believed when it has understood.
            if !known {
                self.heard = Some(status.epoch);
            }
            self.kick(now);
            return;
        }
        if !known {
            self.adopt(now, status);
        }
        let mine = self.level();
        let Some(peer) = &mut self.peer else {
            return;
        };
        peer.heard = now;
        peer.busy = status.busy;
        peer.abilities.mac = status.abilities.mac;
        let mut news = !known;
        if level > peer.level {
            peer.level = level;
            news = true;
            if level >= Level::Paths {
                peer.paths = status.paths;
            }
        }
        peer.seen = peer.seen.max(status.seen);
        if news || status.seen < mine {
            self.kick(now);
        }
    }

    /// A new epoch of the peer, that knows ours.
    fn adopt(&mut self, now: Instant, status: &Status) {
        if let Some(old) = self.peer.take() {
            self.retire(old.epoch);
        }
        self.void();
        self.heard = None;
        bump(&mut self.counters.adopted);
        let refusal = self.refusal_of(&status.abilities);
        if let Some(refusal) = refusal {
            self.refuse(status.epoch, refusal);
        }
        self.peer = Some(Peer {
            epoch: status.epoch,
            abilities: status.abilities,
            route: status.route,
            level: Level::None,
            seen: status.seen,
            busy: status.busy,
            paths: [HopId(0); MAX_LANES],
            heard: now,
            refused: refusal.is_some(),
        });
    }

    fn refusal_of(&self, theirs: &Abilities) -> Option<Refusal> {
        let ours = &self.config.abilities;
        let peer_lacks = ours.required.without(theirs.features);
        let we_lack = theirs.required.without(ours.features);
        if peer_lacks != Features(0) {
            Some(Refusal::PeerLacks(peer_lacks))
        } else if we_lack != Features(0) {
            Some(Refusal::WeLack(we_lack))
        } else {
            None
        }
    }

    /// Do what the present state allows.
    fn advance(&mut self, now: Instant) {
        if self.wanted != Wanted::Up {
            return;
        }
        let Some(peer) = self.peer.filter(|peer| !peer.refused) else {
            return;
        };
        match self.work {
            Work::Idle if now >= self.hold => {
                self.work = Work::Allocating;
                self.action = Some(Action::Allocate {
                    lanes: self.lanes(&peer),
                    avoid: peer.busy,
                });
            }
            Work::Allocated if peer.level >= Level::Paths => {
                let plan = self.plan(&peer);
                if plan.valid() {
                    self.plan = Some(plan);
                    self.work = Work::Opening;
                    self.action = Some(Action::Open(plan));
                } else {
                    // HopIDs that cannot be: nothing to wait for in this pair.
                    bump(&mut self.counters.failures);
                    self.hold = now.after(OPEN_RETRY);
                    self.renew(now);
                }
            }
            Work::Open if peer.level == Level::Ready && !self.up => {
                self.up = true;
                self.came_up = true;
                self.busy = 0;
                bump(&mut self.counters.ups);
                self.kick(now);
            }
            _ => {}
        }
    }

    fn lanes(&self, peer: &Peer) -> u8 {
        self.config.abilities.lanes.min(peer.abilities.lanes).max(1)
    }

    fn plan(&self, peer: &Peer) -> Plan {
        let ends = &self.config.ends;
        let (ours, theirs) = (&self.config.abilities, &peer.abilities);
        let (here, there) = ((ends.local, ends.route), (ends.remote, peer.route));
        Plan {
            rail: RailId {
                low: here.min(there),
                high: here.max(there),
            },
            local_epoch: self.epoch,
            remote_epoch: peer.epoch,
            version: ours.version.min(theirs.version),
            features: ours.features.common(theirs.features),
            lanes: self.lanes(peer),
            transmit: self.paths,
            receive: peer.paths,
            local_depth: ours.depth,
            remote_depth: theirs.depth.map(|depth| depth.min(MAX_DEPTH)),
            max_pages: ours.max_pages.min(theirs.max_pages),
            mac: theirs.mac,
            mtu: theirs.mtu,
        }
    }
}

#[cfg(test)]
mod tests;
