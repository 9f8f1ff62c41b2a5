// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The side of a direct lane that has the targets: grants windows, and tells what came of them.

use super::{marker, Ask, Grant, Request, Start, State, EOF_VOID, KNOWN};
use crate::frame::SOF;
use crate::limits::{
    MAX_FRAME, MAX_WINDOWS, RESET_PAUSE_MAX, RESET_SOON, START_REPEAT, START_REPEAT_MAX, WINDOW_STALL,
};
use crate::time::{Duration, Instant};
use crate::train::Arrival;

/// A window that is open: its descriptors are posted.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    number: u32,
    frames: u16,
    /// The page that its train writes when it is carried out, if there is one.
    tail: Option<u64>,
}

/// A piece of the target's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The page that it is in, by any number that no other page has.
    pub page: u64,
    /// Bytes of it.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the frame that names the generation; at some time for that of the next one. Before that none opens the
    /// lane while it is `shut`.
    Waits { at: Instant, wait: Duration, shut: bool },
    /// Windows may be granted.
    Runs,
    /// A frame was not in its place, or did not come. Until the ring has been stopped.
    Broken,
}

/// What a completed descriptor of the direct lane means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing of a window; the page is to be posted again while the granter waits ([`Granter::wants_page`]).
    Other,
    /// A page of the oldest window that is open.
    Page,
    /// The last page of the window of this request, and whether all are in their places. What a window holds that is
    /// not whole is not to be looked at.
    Last {
        /// Of the request.
        number: u32,
        /// All of it.
        whole: bool,
    },
}

/// The granting side.
///
/// # Invariants
///
/// The first `count` places of `open` hold the windows that are open, in the order in which their descriptors were
/// posted, which is that of their requests.
#[derive(Clone, Copy, Debug)]
pub struct Granter {
    generation: u32,
    phase: Phase,
    answered: u32,
    states: u64,
    open: [Open; MAX_WINDOWS],
    count: usize,
    /// Frames of the oldest window that have come, and whether they were void or spoiled.
    come: u16,
    void: bool,
    spoiled: bool,
    /// Frames and windows of this generation that are over.
    frame: u32,
    window: u32,
    /// When the oldest window must be over. Not put off by its frames: a peer that sends one now and then would hold
    /// the pages for ever.
    stalls: Option<Instant>,
    due: bool,
    /// When windows were last granted for the first time after a reset.
    opened: Option<Instant>,
    /// How long the lane was shut after the last reset.
    pause: Duration,
}

impl Granter {
    /// A lane that has just been opened, at `now`, whose first generation is `generation`.
    #[must_use]
    pub const fn new(now: Instant, generation: u32) -> Self {
        Self {
            generation,
            phase: Phase::Waits {
                at: now.after(START_REPEAT),
                wait: START_REPEAT,
                shut: false,
            },
            answered: 0,
            states: 0,
            open: [Open {
                number: 0,
                frames: 0,
                tail: None,
            }; MAX_WINDOWS],
            count: 0,
            come: 0,
            void: false,
            spoiled: false,
            frame: 0,
            window: 0,
            stalls: None,
            due: true,
            opened: None,
            pause: Duration(0),
        }
    }

    /// Whether a page of the driver's own is to be posted, one at a time: for frames of a former life, and the one that
    /// ends it.
    #[must_use]
    pub const fn wants_page(&self) -> bool {
        matches!(self.phase, Phase::Waits { .. })
    }

    /// Whether the ring is to be stopped and [`Granter::handle_reset`] called.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        matches!(self.phase, Phase::Broken)
    }

    /// A request has come. Whether a window may be granted; then the caller looks whether it can be, and calls
    /// [`Granter::grant`]. If not, or if he does not, it has been refused, and the train is to be dropped.
    #[must_use]
    pub fn handle_request(&mut self, request: &Request) -> bool {
        self.due = true;
        if !self.advance(request.number) {
            return false;
        }
        // After 2^32 requests, which questions pass over as well, a number comes again. Two windows of one number could
        // not be told apart by whoever holds their pages.
        let is_new = self.windows().all(|open| open.number != request.number);
        let runs = self.phase == Phase::Runs && request.generation == self.generation;
        runs && is_new && self.count < MAX_WINDOWS
    }

    fn windows(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().take(self.count)
    }

    /// Whether the window of the request just handled may be these `parts` of the target, where so many descriptors are
    /// free; `tail` is written when its train is carried out.
    ///
    /// That may be after the frames of later windows have come, and must not write over them: no page of a window is
    /// the tail of one that is open. Pages are compared, as one may have several keys and addresses.
    pub fn fits(
        &self,
        request: &Request,
        parts: impl Iterator<Item = Part>,
        tail: impl Iterator<Item = Part>,
        room: usize,
    ) -> bool {
        let mut frames = 0usize;
        let mut pages = parts.inspect(|_| frames = frames.saturating_add(1));
        let whole = pages.all(|part| {
            let free = self.windows().all(|open| open.tail != Some(part.page));
            free && part.len == MAX_FRAME
        });
        drop(pages);
        // The window ends with a page, and what is behind it is less than one.
        whole && frames == usize::from(request.frames) && frames <= room && tail.count() <= 1
    }

    /// The window of the request just handled has been posted; the page of its tail, if it has one, is `tail`.
    pub fn grant(&mut self, now: Instant, request: &Request, tail: Option<u64>) {
        let Some(place) = self.open.get_mut(self.count) else {
            return;
        };
        *place = Open {
            number: request.number,
            frames: request.frames,
            tail,
        };
        if self.count == 0 {
            self.stalls = Some(now.after(WINDOW_STALL));
        }
        self.count = self.count.saturating_add(1);
        self.set(request.number, State::Open);
    }

    /// The asker misses an answer.
    pub fn handle_ask(&mut self, ask: &Ask) {
        self.due = true;
        self.advance(ask.asked);
    }

    /// A descriptor of the direct lane is complete; `frame` has its bytes if the page was the driver's own.
    pub fn handle_frame(&mut self, now: Instant, arrival: Arrival, frame: &[u8]) -> Frame {
        match self.phase {
            Phase::Waits { shut, .. } => {
                let starts = Start::parse(arrival.eof, frame) == Some(Start(self.generation));
                if starts && !arrival.spoiled && !shut {
                    self.phase = Phase::Runs;
                    self.opened = Some(now);
                    self.due = true;
                }
                return Frame::Other;
            }
            Phase::Broken => return Frame::Other,
            Phase::Runs => {}
        }
        let Some(open) = self.open.first().copied().filter(|_| self.count != 0) else {
            self.phase = Phase::Broken;
            return Frame::Other;
        };
        let come = self.come.saturating_add(1);
        let last = come >= open.frames;
        let void = arrival.eof == EOF_VOID;
        let wanted = marker(self.frame, last.then_some(self.window));
        // A spoiled frame is in its place; what its markers are worth nobody knows.
        let in_place = arrival.spoiled
            || arrival.sof == SOF
                && match void {
                    true => arrival.len == 1 && (come == 1 || self.void),
                    false => arrival.eof == wanted && arrival.len == MAX_FRAME && !self.void,
                };
        if !in_place {
            self.phase = Phase::Broken;
            return Frame::Other;
        }
        self.spoiled |= arrival.spoiled;
        self.void |= void && !arrival.spoiled;
        self.come = come;
        self.frame = self.frame.wrapping_add(1);
        if !last {
            return Frame::Page;
        }
        let whole = !self.void && !self.spoiled;
        self.over(now, whole);
        Frame::Last {
            number: open.number,
            whole,
        }
    }

    /// A window came whole, but its train could not be delivered.
    pub fn handle_undelivered(&mut self, number: u32) {
        self.set(number, State::Void);
        self.due = true;
    }

    /// The ring has been stopped: no descriptor is posted, and nothing of the windows that were open will be written
    /// any more. They are void, and the lane begins again with the next generation: at once if it has run for
    /// [`RESET_SOON`], else after a pause that doubles, as each reset costs this host more than its windows were worth.
    pub fn handle_reset(&mut self, now: Instant) {
        while self.count != 0 {
            self.over(now, false);
        }
        self.generation = self.generation.wrapping_add(1);
        let soon = self.opened.is_some_and(|at| now.since(at) < RESET_SOON);
        let double = Duration(self.pause.0.saturating_mul(2))
            .max(START_REPEAT)
            .min(RESET_PAUSE_MAX);
        self.pause = if soon { double } else { Duration(0) };
        self.phase = Phase::Waits {
            at: now.after(self.pause.max(START_REPEAT)),
            wait: START_REPEAT,
            shut: soon,
        };
        (self.frame, self.window) = (0, 0);
        self.due = true;
    }

    /// When [`Granter::handle_timeout`] is to be called.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waits { at, .. } => Some(at),
            Phase::Runs => self.stalls,
            Phase::Broken => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Waits { at, wait, shut } if now >= *at => {
                *shut = false;
                *wait = Duration(wait.0.saturating_mul(2)).min(START_REPEAT_MAX);
                *at = now.after(*wait);
                // Or a first frame that was slow, and not lost, would leave another one behind it.
                self.generation = self.generation.wrapping_add(1);
                self.due = true;
            }
            Phase::Runs if self.stalls.is_some_and(|at| now >= at) => {
                self.phase = Phase::Broken;
            }
            _ => {}
        }
    }

    /// Whether a grant is to be sent. Ask at the end of each poll.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due
    }

    /// The grant, for a CTRL head that is about to be sent.
    pub fn take_grant(&mut self) -> Grant {
        self.due = false;
        Grant {
            generation: self.generation,
            answered: self.answered,
            states: self.states,
            waits: self.wants_page(),
        }
    }

    /// Requests up to `number` are decided: those that did not come have no window. False if it was before.
    fn advance(&mut self, number: u32) -> bool {
        let ahead = number.wrapping_sub(self.answered) as i32;
        if ahead <= 0 {
            return false;
        }
        let shift = ahead.unsigned_abs().saturating_mul(2);
        self.states = self.states.checked_shl(shift).unwrap_or(0);
        self.answered = number;
        true
    }

    fn set(&mut self, number: u32, state: State) {
        let age = self.answered.wrapping_sub(number);
        if age < KNOWN {
            let shift = age.wrapping_mul(2);
            let mask = 3u64.checked_shl(shift).unwrap_or(0);
            let bits = state.bits().checked_shl(shift).unwrap_or(0);
            self.states = self.states & !mask | bits;
        }
    }

    /// The oldest window is over.
    fn over(&mut self, now: Instant, whole: bool) {
        let Some(Open { number, .. }) = self.open.first().copied() else {
            return;
        };
        self.open.rotate_left(1);
        self.count = self.count.saturating_sub(1);
        self.set(number, if whole { State::Whole } else { State::Void });
        (self.come, self.void, self.spoiled) = (0, false, false);
        self.window = self.window.wrapping_add(1);
        self.stalls = (self.count != 0).then_some(now.after(WINDOW_STALL));
        self.due = true;
    }
}
