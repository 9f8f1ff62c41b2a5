// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The login machine: how a link to a stock peer comes up, and comes up again.
//!
//! A link is up when our login has been accepted and the peer's has come. `thunderbolt_net` tries
//! this 60 times and then waits for the peer; it takes a login on a running link for good news and
//! keeps its old paths. So this machine is level-triggered: it logs in until the link is up, begins
//! with a logout that ends whatever a former life of ours left behind at the peer, and logs in
//! again on a link that is up and silent.
//!
//! ```text
//!   phase     Down --start--> Reset --status, or 10 logouts--> Login --stop--> Leaving --> Down
//!                               (logout every second)            |      (logout until status)
//!                                                                | both logins done
//!   carrier   Closed --------------------------------------> Opening --opened--> Open
//!                ^                                               |                 |
//!                +----------- closed <------- Closing <----------+-----------------+
//!                                      logout, other path, failure, stop
//! ```
//!
//! Source: `drivers/net/thunderbolt/main.c` of Linux 7.3.

use crate::limits::{
    LOGIN_GAP, LOGIN_HOLDOFF, LOGIN_LATE, LOGIN_REFRESH, LOGIN_RETRY, LOGIN_SETTLE, LOGOUT_RETRY, LOGOUT_TRIES,
    MIN_HOP, OPEN_RETRY,
};
use crate::stock::control::Control;
use crate::time::{Duration, Instant};
use crate::wire::{bump, Ends, HopId, Mac, Message, MessageBuf, WireError};

/// What the machine is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The cable.
    pub ends: Ends,
    /// Our Ethernet address.
    pub mac: Mac,
    /// HopID that we transmit on.
    pub path: HopId,
}

/// What the caller is to do, one at a time; it answers with [`Login::handle_opened`] or
/// [`Login::handle_closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the input HopID, start the rings, post receive buffers, then enable the paths.
    Open {
        /// HopID on which the peer sends.
        receive_path: HopId,
    },
    /// Disable the paths, stop the rings, free the input HopID.
    Close,
}

/// What a machine counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of this cable handled.
    pub received: u64,
    /// Messages sent.
    pub sent: u64,
    /// Responses to nothing that we asked.
    pub stale: u64,
    /// Logins accepted by the peer.
    pub accepted: u64,
    /// Logins refused by the peer.
    pub refused: u64,
    /// Times the link came up.
    pub ups: u64,
    /// Times the link went down by the peer's doing.
    pub downs: u64,
    /// Rings that could not be opened.
    pub open_failures: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not running; a logout is still answered.
    Down,
    /// Ending what a former life may have left at the peer.
    Reset { tries: u8 },
    /// Logging in, or up.
    Login,
    /// Saying goodbye.
    Leaving { tries: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// No rings.
    Closed,
    /// The caller opens rings; `doomed` if they are to be closed right after.
    Opening { path: HopId, doomed: bool },
    /// The link is up.
    Open { path: HopId },
    /// The caller closes rings.
    Closing,
}

/// A request of the peer, to be answered.
#[derive(Clone, Copy, Debug)]
struct Request {
    sequence: u8,
    command: u32,
}

/// The login machine of one cable to a stock peer.
#[derive(Debug)]
pub struct Login {
    config: Config,
    phase: Phase,
    carrier: Carrier,
    action: Option<Action>,
    /// Our requests since the start are numbered from the one after this.
    nonce: u32,
    /// Number of our last request.
    command: u32,
    /// Number of the login not answered yet.
    outstanding: Option<u32>,
    /// When the peer accepted our login, if it still counts.
    accepted: Option<Instant>,
    /// The path of the peer's login, if it still counts.
    peer: Option<HopId>,
    /// When the peer's last request came, and its number.
    heard: Option<(Instant, u32)>,
    /// When the link came up.
    opened: Instant,
    /// The link has been up for a while and something has come over it.
    confirmed: bool,
    login_reply: Option<Request>,
    logout_reply: Option<Request>,
    /// When the next request of ours is due.
    next: Option<Instant>,
    last: Option<Instant>,
    /// No opening before this.
    hold: Instant,
    counters: Counters,
}

impl Login {
    /// A machine that is down. `nonce` is any number that differs from life to life: our requests
    /// are numbered from it, so that answers to a former life are not taken for ours.
    #[must_use]
    pub const fn new(config: Config, nonce: u32) -> Self {
        Self {
            config,
            phase: Phase::Down,
            carrier: Carrier::Closed,
            action: None,
            nonce,
            command: nonce,
            outstanding: None,
            accepted: None,
            peer: None,
            heard: None,
            opened: Instant(0),
            confirmed: false,
            login_reply: None,
            logout_reply: None,
            next: None,
            last: None,
            hold: Instant(0),
            counters: Counters {
                received: 0,
                sent: 0,
                stale: 0,
                accepted: 0,
                refused: 0,
                ups: 0,
                downs: 0,
                open_failures: 0,
            },
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the link is up, and the HopID on which the peer sends.
    #[must_use]
    pub const fn up(&self) -> Option<HopId> {
        match (self.phase, self.carrier) {
            (Phase::Login, Carrier::Open { path }) => Some(path),
            _ => None,
        }
    }

    /// Whether everything is over: no rings, nothing more to say.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.phase == Phase::Down && self.carrier == Carrier::Closed
    }

    /// Begin, with `path` as our transmit HopID.
    pub fn start(&mut self, now: Instant, path: HopId) {
        if matches!(self.phase, Phase::Down | Phase::Leaving { .. }) {
            self.config.path = path;
            self.nonce = self.command;
            self.phase = Phase::Reset { tries: 0 };
            self.forget();
            self.next = Some(now);
        }
    }

    /// Our Ethernet address from now on. The next answer to a login tells it.
    pub fn set_mac(&mut self, mac: Mac) {
        self.config.mac = mac;
    }

    /// End: close the rings and say goodbye. Over when [`Login::stopped`].
    pub fn stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Down | Phase::Leaving { .. } => {}
            Phase::Reset { .. } | Phase::Login => {
                self.phase = Phase::Leaving { tries: 0 };
                self.forget();
                self.next = Some(now);
                self.close();
            }
        }
    }

    /// A control message has come. Time in the past of an earlier call is harmless.
    ///
    /// # Errors
    ///
    /// The message is not of this cable or makes no sense; nothing has changed.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) -> Result<(), WireError> {
        let message = Message::parse(bytes)?;
        let header = *message.header();
        if !self.config.ends.received(&header) {
            return Err(WireError::Protocol);
        }
        let control = Control::parse(&message)?;
        let request = Request {
            sequence: header.sequence,
            command: header.command,
        };
        match control {
            Control::Login { path, .. } if path.0 < MIN_HOP => return Err(WireError::Value),
            Control::Login { path, .. } => self.on_login(now, path, request),
            Control::LoginResponse { status, .. } => self.on_login_response(now, status, request),
            Control::Logout => self.on_logout(now, request),
            Control::Status { .. } => self.on_status(now, request),
        }
        bump(&mut self.counters.received);
        self.advance(now);
        Ok(())
    }

    /// [`Action::Open`] is done; `ok` tells whether the rings run.
    pub fn handle_opened(&mut self, now: Instant, ok: bool) {
        let Carrier::Opening { path, doomed } = self.carrier else {
            return;
        };
        if !ok {
            bump(&mut self.counters.open_failures);
            self.carrier = Carrier::Closed;
            // As thunderbolt_net does: log in anew, the peer's login still counts.
            self.accepted = None;
            self.hold = now.after(OPEN_RETRY);
            if self.phase == Phase::Login {
                self.next = Some(self.hold);
            }
        } else {
            self.carrier = Carrier::Open { path };
            if doomed {
                self.close();
            } else {
                bump(&mut self.counters.ups);
                self.confirmed = false;
                self.opened = now;
                self.next = Some(now.after(LOGIN_REFRESH));
            }
        }
        self.advance(now);
    }

    /// [`Action::Close`] is done.
    pub fn handle_closed(&mut self, now: Instant) {
        if self.carrier == Carrier::Closing {
            self.carrier = Carrier::Closed;
            self.advance(now);
        }
    }

    /// Frames have come over the ring: the peer's side of the link works. To be called now and then
    /// while they come.
    pub fn handle_traffic(&mut self, now: Instant) {
        let settled = now.since(self.opened) >= LOGIN_SETTLE;
        if matches!(self.carrier, Carrier::Open { .. }) && !self.confirmed && settled {
            self.confirmed = true;
            if self.accepted.is_some() {
                self.next = None;
            }
        }
    }

    /// What the caller is to do now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// The message to send now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<MessageBuf> {
        let ends = self.config.ends;
        let buf = if let Some(r) = self.login_reply.take() {
            let control = Control::LoginResponse {
                status: 0,
                mac: self.config.mac,
            };
            control.message(&ends, r.sequence, r.command)
        } else if let Some(r) = self.logout_reply.take() {
            Control::Status { status: 0 }.message(&ends, r.sequence, r.command)
        } else if self.next.is_some_and(|at| at <= now) {
            self.request(now)?
        } else {
            return None;
        };
        bump(&mut self.counters.sent);
        Some(buf)
    }

    /// When [`Login::poll_transmit`] is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.login_reply.is_some() || self.logout_reply.is_some() {
            return Some(Instant(0));
        }
        let hold = (self.phase == Phase::Login && self.carrier == Carrier::Closed && self.both()).then_some(self.hold);
        match (self.next, hold) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The request that is due, and when to repeat it.
    fn request(&mut self, now: Instant) -> Option<MessageBuf> {
        let (control, again) = match self.phase {
            Phase::Down => {
                self.next = None;
                return None;
            }
            Phase::Reset { tries } if tries >= LOGOUT_TRIES => {
                self.phase = Phase::Login;
                (Control::login(self.config.path), LOGIN_RETRY)
            }
            Phase::Reset { tries } => {
                self.phase = Phase::Reset {
                    tries: tries.saturating_add(1),
                };
                (Control::Logout, LOGOUT_RETRY)
            }
            Phase::Leaving { tries } if tries >= LOGOUT_TRIES => {
                self.phase = Phase::Down;
                self.next = None;
                return None;
            }
            Phase::Leaving { tries } => {
                self.phase = Phase::Leaving {
                    tries: tries.saturating_add(1),
                };
                (Control::Logout, LOGOUT_RETRY)
            }
            Phase::Login => (Control::login(self.config.path), self.retry()),
        };
        self.command = self.command.wrapping_add(1);
        if matches!(control, Control::Login { .. }) {
            self.outstanding = Some(self.command);
        }
        self.last = Some(now);
        self.next = Some(now.after(again));
        Some(control.message(&self.config.ends, self.sequence(), self.command))
    }

    /// Sequence number of our last request.
    const fn sequence(&self) -> u8 {
        (self.command & 3) as u8
    }

    fn retry(&self) -> Duration {
        if self.accepted.is_some() && matches!(self.carrier, Carrier::Open { .. }) {
            LOGIN_REFRESH
        } else {
            LOGIN_RETRY
        }
    }

    fn on_login(&mut self, now: Instant, path: HopId, request: Request) {
        // A peer that is not running says nothing to a login; so do we.
        if matches!(self.phase, Phase::Down | Phase::Leaving { .. }) {
            return;
        }
        // An answer to a late login would be taken for one to a later login that may be lost.
        if self.late(now, request) {
            return;
        }
        self.login_reply = Some(request);
        self.peer = Some(path);
        let other = match self.carrier {
            Carrier::Opening { path: now, .. } | Carrier::Open { path: now } => now != path,
            Carrier::Closed | Carrier::Closing => false,
        };
        if other {
            bump(&mut self.counters.downs);
            self.close();
        }
        // The peer logs in because it is not up. If our login was not accepted just now, a former
        // life of the peer accepted it.
        if self.accepted.is_some_and(|at| now.since(at) > LOGIN_HOLDOFF) {
            self.accepted = None;
        }
        if self.accepted.is_none() && self.phase == Phase::Login {
            self.soon(now);
        }
    }

    fn on_login_response(&mut self, now: Instant, status: u32, request: Request) {
        if self.phase != Phase::Login {
            bump(&mut self.counters.stale);
            return;
        }
        if self.outstanding != Some(request.command) {
            bump(&mut self.counters.stale);
            let age = self.command.wrapping_sub(request.command);
            if age >= self.command.wrapping_sub(self.nonce) {
                // The peer has accepted a login of a former life, perhaps after ours: begin anew.
                self.phase = Phase::Reset { tries: 0 };
                self.forget();
                self.close();
                self.soon(now);
            }
            return;
        }
        self.outstanding = None;
        if status != 0 {
            bump(&mut self.counters.refused);
            return;
        }
        bump(&mut self.counters.accepted);
        self.accepted = Some(now);
        if self.confirmed && matches!(self.carrier, Carrier::Open { .. }) {
            self.next = None;
        }
    }

    fn on_logout(&mut self, now: Instant, request: Request) {
        self.logout_reply = Some(request);
        if matches!(self.phase, Phase::Down | Phase::Leaving { .. }) || self.late(now, request) {
            return;
        }
        if matches!(self.carrier, Carrier::Opening { .. } | Carrier::Open { .. }) {
            bump(&mut self.counters.downs);
        }
        self.forget();
        self.close();
        if self.phase == Phase::Login {
            // The peer is going; it will hear our login when it is back.
            self.next = Some(now.after(LOGIN_RETRY));
        }
    }

    fn on_status(&mut self, now: Instant, request: Request) {
        if request.sequence != self.sequence() {
            bump(&mut self.counters.stale);
            return;
        }
        match self.phase {
            Phase::Reset { tries } if tries > 0 => {
                // Logins from before the peer tore down still count: it does not repeat one that
                // we have answered.
                self.phase = Phase::Login;
                self.next = Some(now);
            }
            Phase::Leaving { tries } if tries > 0 => {
                self.phase = Phase::Down;
                self.next = None;
            }
            _ => bump(&mut self.counters.stale),
        }
    }

    /// Whether the peer sent something after `request` that came before it.
    fn late(&mut self, now: Instant, request: Request) -> bool {
        if let Some((at, command)) = self.heard {
            let older = command.wrapping_sub(request.command) as i32 > 0;
            if older && now.since(at) < LOGIN_LATE {
                bump(&mut self.counters.stale);
                return true;
            }
        }
        self.heard = Some((now, request.command));
        false
    }

    /// Void both logins.
    fn forget(&mut self) {
        self.outstanding = None;
        self.accepted = None;
        self.peer = None;
        self.login_reply = None;
    }

    /// Send a request as soon as decent.
    fn soon(&mut self, now: Instant) {
        let at = match self.last {
            Some(last) => now.max(last.after(LOGIN_GAP)),
            None => now,
        };
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn both(&self) -> bool {
        self.accepted.is_some() && self.peer.is_some()
    }

    fn close(&mut self) {
        self.confirmed = false;
        match self.carrier {
            Carrier::Closed | Carrier::Closing => {}
            Carrier::Opening { path, .. } => {
                if self.action.take().is_some() {
                    // Not even begun.
                    self.carrier = Carrier::Closed;
                } else {
                    self.carrier = Carrier::Opening { path, doomed: true };
                }
            }
            Carrier::Open { .. } => {
                self.carrier = Carrier::Closing;
                self.action = Some(Action::Close);
            }
        }
    }

    /// Open the link if everything is there.
    fn advance(&mut self, now: Instant) {
        if self.phase != Phase::Login || self.carrier != Carrier::Closed || now < self.hold {
            return;
        }
        if let (Some(_), Some(path)) = (self.accepted, self.peer) {
            self.carrier = Carrier::Opening { path, doomed: false };
            self.action = Some(Action::Open { receive_path: path });
        } else if self.next.is_none() {
            self.next = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
