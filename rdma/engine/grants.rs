// SPDX-License-Identifier: GPL-2.0 OR MIT
//! WRITEs whose payload the DMA puts into the target before their turn.
//!
//! A cable's direct lane (`tbip::direct`) writes the payload of a run to memory when its frames come; the packets of
//! the run are carried out when the window is whole. What is written out of its turn must not be seen, nor be written
//! over, by anything that has an earlier one. So of a queue pair
//!
//! ```text
//!   expected                                      end
//!   ---|----------|------------|-------------------|------> PSN
//!      | window 1 | window 2   | window 3          |
//!      the oldest is carried out first             the next window begins here, or there is none
//! ```
//!
//! - A window is granted where everything before it has been carried out, or is in windows that are granted: they are
//!   filled in that order. Nothing else is still to be written that a window could overtake.
//! - While one is open, packets of those PSNs that come otherwise are dropped as if lost: what the window is to write
//!   would be written after their turn, when the peer may have been told that they are done.
//! - One that comes to nothing, or whose packets are not carried out in their turn (RNR, for instance), takes all
//!   behind it along: they are dropped as their frames come in, and the sender sends them again, in order.
//! - The last piece of a message never goes by a window. It comes with the train, and is placed in its turn: who polls
//!   the last byte sees all others. Its turn may come when the frames of later windows are there; so none of their
//!   pages may be the one of a last piece whose window is open. Which pages those are the caller knows.
//!
//! Here is what is known of them; what a queue pair does about it is in `granted.rs`.
//!
//! What comes to nothing leaves in the target what it may: of a message that is not complete IBTA promises nothing.

use crate::limits;
use crate::psn::Psn;
use crate::time::Instant;

/// The windows of a responder that are open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grants {
    open: u8,
    /// One past the last PSN of them.
    end: Psn,
    /// None that is open is carried out any more.
    pub(crate) void: bool,
    /// The packets at hand are those of the oldest.
    pub(crate) turn: bool,
}

impl Grants {
    pub(crate) fn admits(&self, expected: Psn, psn: Psn) -> bool {
        match self.open {
            0 => psn == expected,
            u8::MAX => false,
            _ => !self.void && psn == self.end,
        }
    }

    pub(crate) fn add(&mut self, end: Psn) {
        self.open = self.open.saturating_add(1);
        self.end = end;
    }

    /// The oldest is over.
    pub(crate) fn over(&mut self, carried_out: bool) {
        self.open = self.open.saturating_sub(1);
        self.void = self.open != 0 && (self.void || !carried_out);
    }

    /// Whether any is.
    pub(crate) const fn is_open(&self) -> bool {
        self.open != 0
    }

    /// None that is open is carried out any more: the life of the queue pair has ended.
    pub(crate) fn end(&mut self) {
        self.void = self.open != 0;
    }

    /// Whether these packets, which did not come by a window, are those of one.
    pub(crate) fn hold(&self, expected: Psn, psn: Psn, packets: u32) -> bool {
        if self.open == 0 || self.turn {
            return false;
        }
        let next = psn.plus(packets);
        next.offset(expected) > 0 && psn.offset(self.end) < 0
    }
}

/// What a queue pair that sends by windows has of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asks {
    /// Asked for and not told.
    out: u16,
    /// A request has gone otherwise since the last one: the peer grants none behind it while one is open.
    mixed: bool,
    /// None is asked for before.
    until: Instant,
}

impl Asks {
    /// Whether a window may be asked for.
    #[must_use]
    pub fn may(&self, now: Instant) -> bool {
        now >= self.until && !(self.mixed && self.out != 0)
    }

    /// Whether what is sent next had better wait for a window if there is no place for another: it is in the middle of
    /// a stream of them.
    #[must_use]
    pub fn waits(&self, now: Instant) -> bool {
        self.out != 0 && self.may(now)
    }

    /// One has been asked for.
    pub fn on_asked(&mut self) {
        self.mixed = false;
        self.out = self.out.saturating_add(1);
    }

    /// A request has gone without one.
    pub fn on_other(&mut self) {
        self.mixed = true;
    }

    /// One is over; if not `carried`, it was `denied` or came to nothing.
    pub fn on_told(&mut self, now: Instant, carried: bool, denied: bool) {
        self.out = self.out.saturating_sub(1);
        let pause = match (carried, denied) {
            (true, _) => return,
            (false, true) => limits::WINDOW_DENIED,
            (false, false) => limits::WINDOW_LOST,
        };
        self.until = self.until.max(now.after(pause));
    }
}
