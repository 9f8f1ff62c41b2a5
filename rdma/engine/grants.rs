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

use crate::keys::Key;
use crate::limits;
use crate::psn::Psn;
use crate::time::Instant;
use crate::wqe::{Fault, Span, Target};

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
    /// A packet behind them came before its turn and could not be kept. Nothing was said of it, as what it waited for
    /// was on its way.
    dropped: bool,
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

    /// A packet has come before its turn, and was not kept.
    pub(crate) fn on_dropped(&mut self) {
        self.dropped |= self.open != 0;
    }

    /// Whether none is open any more and something that was dropped meanwhile is missing: the peer, whose lane carried
    /// it, will not send it again by itself. Asked once all that was kept and follows has been carried out.
    pub(crate) fn misses(&mut self) -> bool {
        self.open == 0 && core::mem::take(&mut self.dropped)
    }

    /// Whether any is.
    pub(crate) const fn is_open(&self) -> bool {
        self.open != 0
    }

    /// None that is open is carried out any more: the life of the queue pair has ended.
    pub(crate) fn end(&mut self) {
        self.void = self.open != 0;
        self.dropped = false;
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

/// What of a payload a window has brought, before its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// Where it begins, from the BTH on.
    pub start: u32,
    /// Bytes of it.
    pub len: u32,
    /// Where it was written.
    pub key: Key,
    /// See `key`.
    pub address: u64,
}

impl Brought {
    /// What is left to place of `payload`, which belongs to `to`: the end of it. The rest is there already, if the key
    /// still leads there, which the caller checks.
    ///
    /// # Errors
    ///
    /// [`Fault::RemoteInvalid`] if it was brought to another place, or is not how the payload begins.
    pub fn rest(&self, to: Target, payload: Span) -> Result<Span, Fault> {
        let Target::Region { rkey, va } = to else {
            return Err(Fault::RemoteInvalid);
        };
        let is_it = (rkey, va, payload.offset) == (self.key, self.address, self.start);
        match payload.len.checked_sub(self.len) {
            Some(len) if is_it => Ok(Span {
                offset: payload.offset.wrapping_add(self.len),
                len,
            }),
            _ => Err(Fault::RemoteInvalid),
        }
    }
}

/// A part of a run that may go by a window: its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the target.
    pub key: Key,
    /// Where in it they go: the beginning of a page.
    pub address: u64,
    /// How many: whole pages.
    pub len: u32,
}

/// A lane by which a queue pair might ask for windows.
pub trait Windows {
    /// Whether windows are worth asking for, if perhaps there is no room for one now.
    fn is_worth(&self) -> bool;
    /// Whether one may be asked for now. If not, the queue pair is told when that may have changed.
    fn has_room(&self) -> bool;
}

/// How a run has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// With a request for a window.
    Asking,
    /// Without one.
    Plain,
    /// Without one, though one was to be asked for: its source is not whole pages.
    Unfit,
}

/// What a queue pair that sends by windows has of them, and when it asks for one.
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
    /// Whether a window may be asked for, where so many lanes lead to the peer. With more than one none is: windows of
    /// one queue pair keep their order on one lane only.
    fn may(&self, now: Instant, lanes: u32) -> bool {
        lanes == 1 && now >= self.until && !(self.mixed && self.out != 0)
    }

    /// Whether what is sent next has to wait until there is room for a window: it is in the middle of a stream of them,
    /// and sent otherwise it would have the next ones denied.
    #[must_use]
    pub fn must_wait(&self, now: Instant, lanes: u32, lane: &impl Windows) -> bool {
        self.out != 0 && self.may(now, lanes) && lane.is_worth() && !lane.has_room()
    }

    /// What of a run of `length` bytes a window is asked for, one of `most` pages at most; `of` tells what of it may go
    /// so ([`crate::qp::Qp::window_of`]).
    #[must_use]
    pub fn part(
        &self,
        now: Instant,
        (lanes, lane): (u32, &impl Windows),
        (length, most): (u32, u32),
        of: impl FnOnce() -> Option<Part>,
    ) -> Option<Part> {
        let asks = length >= limits::MIN_WINDOW && self.may(now, lanes) && lane.is_worth();
        let part = if asks { of() } else { None }?;
        let len = part.len.min(most.saturating_mul(limits::WINDOW_PAGE));
        Some(Part { len, ..part })
    }

    /// A run has been sent; `request`: it is one of a request, and not of an answer.
    pub fn on_sent(&mut self, now: Instant, went: Went, request: bool) {
        match went {
            Went::Asking => {
                self.mixed = false;
                self.out = self.out.saturating_add(1);
                return;
            }
            // The next one is likely to come from the same place.
            Went::Unfit => self.until = self.until.max(now.after(limits::WINDOW_UNFIT)),
            Went::Plain => {}
        }
        self.mixed |= request;
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Lane {
        worth: bool,
        room: Cell<bool>,
        looks: Cell<u32>,
    }

    impl Lane {
        fn new(worth: bool, room: bool) -> Self {
            Self {
                worth,
                room: Cell::new(room),
                looks: Cell::new(0),
            }
        }
    }

    impl Windows for Lane {
        fn is_worth(&self) -> bool {
            self.worth
        }

        fn has_room(&self) -> bool {
            self.looks.set(self.looks.get() + 1);
            self.room.get()
        }
    }

    const T: Instant = Instant(1_000_000_000);
    const PART: Part = Part {
        key: Key(7),
        address: 0x1000,
        len: limits::MIN_WINDOW,
    };

    fn part(asks: &Asks, now: Instant, lanes: u32, lane: &Lane) -> Option<Part> {
        asks.part(now, (lanes, lane), (limits::MIN_WINDOW + 1, 16), || Some(PART))
    }

    #[test]
    fn a_window_is_asked_for_by_the_one_lane_of_what_is_long_enough() {
        let (asks, lane) = (Asks::default(), Lane::new(true, true));
        assert_eq!(part(&asks, T, 1, &lane), Some(PART));
        assert_eq!(part(&asks, T, 2, &lane), None);
        assert_eq!(part(&asks, T, 0, &lane), None);
        assert_eq!(part(&asks, T, 1, &Lane::new(false, true)), None);
        let short = asks.part(T, (1, &lane), (limits::MIN_WINDOW - 1, 16), || unreachable!());
        assert_eq!(short, None);
        // No more pages than a request may have.
        let cut = asks
            .part(T, (1, &lane), (1 << 20, 2), || Some(PART))
            .map(|part| part.len);
        assert_eq!(cut, Some(2 * limits::WINDOW_PAGE));
    }

    #[test]
    fn in_a_stream_of_windows_the_next_one_is_waited_for() {
        let (mut asks, lane) = (Asks::default(), Lane::new(true, false));
        assert!(!asks.must_wait(T, 1, &lane), "none is out");
        assert_eq!(lane.looks.get(), 0, "and nobody is told of room in vain");
        asks.on_sent(T, Went::Asking, true);
        assert!(asks.must_wait(T, 1, &lane));
        assert!(!asks.must_wait(T, 2, &lane) && !asks.must_wait(T, 1, &Lane::new(false, false)));
        lane.room.set(true);
        assert!(!asks.must_wait(T, 1, &lane));
        lane.room.set(false);
        // An answer is no request; a request that goes otherwise ends the stream until what is out has been told.
        asks.on_sent(T, Went::Plain, false);
        assert!(asks.must_wait(T, 1, &lane));
        asks.on_sent(T, Went::Plain, true);
        assert!(!asks.must_wait(T, 1, &lane));
        assert_eq!(part(&asks, T, 1, &lane), None);
        asks.on_told(T, true, false);
        assert_eq!(part(&asks, T, 1, &lane), Some(PART));
    }

    #[test]
    fn after_one_in_vain_none_is_asked_for_for_a_while() {
        let lane = Lane::new(true, true);
        let cases = [
            (Some((false, true)), limits::WINDOW_DENIED),
            (Some((false, false)), limits::WINDOW_LOST),
            (None, limits::WINDOW_UNFIT),
        ];
        for (told, pause) in cases {
            let mut asks = Asks::default();
            match told {
                Some((carried, denied)) => {
                    asks.on_sent(T, Went::Asking, true);
                    asks.on_told(T, carried, denied);
                }
                None => asks.on_sent(T, Went::Unfit, true),
            }
            let until = T.after(pause);
            assert_eq!(part(&asks, Instant(until.0 - 1), 1, &lane), None);
            assert_eq!(part(&asks, until, 1, &lane), Some(PART));
        }
    }

    #[test]
    fn what_was_brought_is_placed_where_it_was_brought_to_and_the_rest_is_left() {
        let brought = Brought {
            start: 28,
            len: 8192,
            key: Key(7),
            address: 0x1000,
        };
        let to = |key, va| Target::Region { rkey: Key(key), va };
        let span = |offset, len| Span { offset, len };
        assert_eq!(brought.rest(to(7, 0x1000), span(28, 8200)), Ok(span(8220, 8)));
        assert_eq!(brought.rest(to(7, 0x1000), span(28, 8192)), Ok(span(8220, 0)));
        let wrong = [
            (to(8, 0x1000), span(28, 8200)),
            (to(7, 0x2000), span(28, 8200)),
            (to(7, 0x1000), span(32, 8200)),
            (to(7, 0x1000), span(28, 8191)),
            (Target::Recv { slot: 0, offset: 0 }, span(28, 8200)),
        ];
        for (to, span) in wrong {
            assert_eq!(brought.rest(to, span), Err(Fault::RemoteInvalid));
        }
    }
}
