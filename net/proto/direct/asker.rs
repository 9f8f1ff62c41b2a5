// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The side of a direct lane that sends payload: asks for windows, and fills those that it gets.

use super::{marker, Ask, Grant, Request, Start, State, EOF_VOID, KNOWN};
use crate::limits::{
    MAX_WINDOWS, START_REPEAT, WINDOW_ASK, WINDOW_ASK_MAX, WINDOW_LIMIT, WINDOW_PAUSE, WINDOW_PAUSE_MAX, WINDOW_SLOW,
};
use crate::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was heard of it.
    Asked,
    /// Its descriptors are posted; its frames have not been sent.
    Granted,
    /// Its frames have been sent.
    Sent,
}

/// A request that is not over.
#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    number: u32,
    frames: u16,
    /// What its owner calls it; none once the owner has been told.
    token: Option<T>,
    stage: Stage,
    fate: Option<Fate>,
    at: Instant,
}

/// What became of a train that asked for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It was delivered.
    Carried,
    /// It has no window, and was dropped: another way may be better.
    Denied,
    /// It was dropped.
    Lost,
}

/// A fate, told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// Of the request.
    pub number: u32,
    /// What the owner called the train.
    pub token: T,
    /// What became of it.
    pub fate: Fate,
}

/// A window whose frames are to be posted now, all of them, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<T> {
    /// Of the request.
    pub number: u32,
    /// Of the window.
    pub frames: u16,
    /// Whose payload it is. None: void frames are to be sent, of a byte each.
    pub token: Option<T>,
    /// Frames of this generation before it, and windows.
    frame: u32,
    window: u32,
}

impl<T> Window<T> {
    /// The same, filled with void frames.
    #[must_use]
    pub fn void(self) -> Self {
        Self { token: None, ..self }
    }

    /// EOF of frame `index`, counted from 0. SOF is 1.
    #[must_use]
    pub fn eof(&self, index: u16) -> u8 {
        if self.token.is_none() {
            return EOF_VOID;
        }
        let last = index.saturating_add(1) >= self.frames;
        marker(self.frame.wrapping_add(u32::from(index)), last.then_some(self.window))
    }
}

/// What a grant meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What it says has been taken over.
    News,
    /// The lane has been opened anew: nothing of a window from before is to be sent any more.
    Reset,
    /// It makes no sense. What was not asked for was ignored; a window that it lies about is lost.
    Excess,
}

/// The asking side.
///
/// # Invariants
///
/// The first `count` entries are there, in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Asker<T> {
    /// What the peer has told, once it has.
    generation: Option<u32>,
    /// The peer takes windows.
    runs: bool,
    /// A frame that names the generation is to be sent.
    starts: bool,
    /// Of the newest request.
    newest: u32,
    entries: [Option<Entry<T>>; MAX_WINDOWS],
    count: usize,
    /// Frames and windows of this generation that have been sent.
    frame: u32,
    window: u32,
    ask: Option<(Instant, Duration)>,
    /// Windows are not worth asking for until then.
    pause: Instant,
    /// For how long the next time.
    pauses: Duration,
    dead: bool,
}

impl<T: Copy + PartialEq> Default for Asker<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + PartialEq> Asker<T> {
    /// A lane of which the peer has told nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            generation: None,
            runs: false,
            starts: false,
            newest: 0,
            entries: [None; MAX_WINDOWS],
            count: 0,
            frame: 0,
            window: 0,
            ask: None,
            pause: Instant(0),
            pauses: WINDOW_PAUSE,
            dead: false,
        }
    }

    /// Requests that are not over.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the peer takes windows now, if perhaps not this moment.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.runs && !self.dead
    }

    /// Whether windows are worth asking for: they have been granted soon.
    #[must_use]
    pub fn is_worth(&self, now: Instant) -> bool {
        self.runs() && now >= self.pause
    }

    /// Whether another request may be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        // Grants tell of so many.
        let oldest = self.entries.first().copied().flatten();
        let told = oldest.is_none_or(|entry| self.newest.wrapping_sub(entry.number).saturating_add(1) < KNOWN);
        self.runs() && self.count < MAX_WINDOWS && told
    }

    /// A request for a window of so many frames is about to be sent; it belongs to `token`. `None` where
    /// [`Asker::has_room`] says no. Key and address are the caller's.
    pub fn request(&mut self, now: Instant, frames: u16, token: T) -> Option<Request> {
        let generation = self.generation.filter(|_| self.has_room())?;
        let place = self.entries.get_mut(self.count)?;
        self.newest = self.newest.wrapping_add(1);
        *place = Some(Entry {
            number: self.newest,
            frames,
            token: Some(token),
            stage: Stage::Asked,
            fate: None,
            at: now,
        });
        self.count = self.count.saturating_add(1);
        self.ask.get_or_insert((now.after(WINDOW_ASK), WINDOW_ASK));
        Some(Request {
            number: self.newest,
            generation,
            frames,
            key: 0,
            address: 0,
        })
    }

    /// The train of this request, the last one, could not be sent: as if it had not been asked for. The number is not
    /// used again; the peer takes it for one that was lost.
    pub fn handle_unsent(&mut self, request: &Request) {
        let last = self.count.saturating_sub(1);
        if let Some(place) = self.entries.get_mut(last) {
            if place.is_some_and(|entry| entry.number == request.number) {
                *place = None;
                self.count = last;
            }
        }
    }

    /// A grant has come. Then poll what is told, and windows to be filled.
    pub fn handle_grant(&mut self, now: Instant, grant: &Grant) -> Heard {
        if self.dead {
            return Heard::Excess;
        }
        // Nothing is decided that was not asked.
        if (self.newest.wrapping_sub(grant.answered) as i32) < 0 {
            return Heard::Excess;
        }
        let anew = self.generation != Some(grant.generation);
        let (mut changed, mut lies) = (false, false);
        for entry in self.entries.iter_mut().flatten().filter(|entry| entry.fate.is_none()) {
            let fate = match (grant.state(entry.number), entry.stage) {
                (Some(State::Denied), Stage::Asked) => Some(Fate::Denied),
                (Some(State::Whole), Stage::Sent) => Some(Fate::Carried),
                (Some(State::Void), Stage::Sent) => Some(Fate::Lost),
                _ if anew => Some(Fate::Lost),
                (Some(State::Open), Stage::Asked) => {
                    entry.stage = Stage::Granted;
                    if now.since(entry.at) < WINDOW_SLOW {
                        self.pauses = WINDOW_PAUSE;
                    } else if now >= self.pause {
                        self.pause = now.after(self.pauses);
                        self.pauses = Duration(self.pauses.0.saturating_mul(2)).min(WINDOW_PAUSE_MAX);
                    }
                    changed = true;
                    None
                }
                // Not decided yet, or no news.
                (None | Some(State::Open), _) => None,
                // No window can be over that was not filled, nor was one denied that was granted.
                (Some(State::Denied | State::Whole | State::Void), _) => {
                    lies = true;
                    Some(Fate::Lost)
                }
            };
            changed |= fate.is_some();
            entry.fate = fate;
        }
        if changed {
            self.ask = Some((now.after(WINDOW_ASK), WINDOW_ASK));
        }
        self.runs = !grant.waits;
        // One for each generation: the granter takes the next one if it does not come.
        self.starts = grant.waits && (anew || self.starts);
        if grant.waits {
            // That the lane is open then may be told and not heard.
            self.ask.get_or_insert((now.after(START_REPEAT), START_REPEAT));
        }
        if !anew {
            return if lies { Heard::Excess } else { Heard::News };
        }
        self.generation = Some(grant.generation);
        (self.frame, self.window) = (0, 0);
        Heard::Reset
    }

    /// The frame that is to be sent on the direct lane before anything else, if one is; it is taken to be sent.
    pub fn take_start(&mut self) -> Option<Start> {
        let start = self.generation.filter(|_| self.starts)?;
        self.starts = false;
        Some(Start(start))
    }

    /// The next window that is to be filled, as [`Asker::handle_filled`] tells. With room for its frames only: nothing
    /// goes before it.
    #[must_use]
    pub fn poll_window(&self) -> Option<Window<T>> {
        let entries = self.entries.iter().flatten();
        let next = entries
            .filter(|entry| entry.fate.is_none())
            .find(|entry| entry.stage != Stage::Sent)?;
        (next.stage == Stage::Granted).then_some(Window {
            number: next.number,
            frames: next.frames,
            token: next.token,
            frame: self.frame,
            window: self.window,
        })
    }

    /// The frames of the window that was polled last have been posted.
    pub fn handle_filled(&mut self, window: &Window<T>) {
        let mut entries = self.entries.iter_mut().flatten();
        let Some(entry) = entries.find(|entry| entry.number == window.number && entry.stage == Stage::Granted) else {
            return;
        };
        entry.stage = Stage::Sent;
        self.frame = self.frame.wrapping_add(u32::from(window.frames));
        self.window = self.window.wrapping_add(1);
    }

    /// The next train whose fate is known.
    pub fn poll_told(&mut self) -> Option<Told<T>> {
        // Each turn but the last ends an entry.
        loop {
            let over = |entry: &Option<Entry<T>>| entry.is_some_and(|entry| entry.fate.is_some());
            let Some(index) = self.entries.iter().position(over) else {
                break;
            };
            let rest = self.entries.get_mut(index..)?;
            let entry = rest.first_mut()?.take()?;
            rest.rotate_left(1);
            self.count = self.count.saturating_sub(1);
            if let (Some(token), Some(fate)) = (entry.token, entry.fate) {
                return Some(Told {
                    number: entry.number,
                    token,
                    fate,
                });
            }
        }
        if !self.misses() {
            self.ask = None;
        }
        None
    }

    /// Whether there is something that the peer will tell.
    const fn misses(&self) -> bool {
        !self.is_empty() || self.generation.is_some() && !self.runs
    }

    /// The next train of which nothing was heard for so long that its owner is to send it otherwise. Its window, if it
    /// gets one, is filled with void frames.
    pub fn poll_late(&mut self, now: Instant) -> Option<Told<T>> {
        let mut entries = self.entries.iter_mut().flatten();
        let late = entries.find(|entry| {
            let waits = entry.fate.is_none() && entry.token.is_some();
            waits && now.since(entry.at) >= WINDOW_LIMIT
        });
        let entry = late?;
        Some(Told {
            number: entry.number,
            token: entry.token.take()?,
            fate: Fate::Lost,
        })
    }

    /// The lane is dead: what is not over is lost, and nothing can be sent.
    pub fn handle_dead(&mut self) {
        self.dead = true;
        self.ask = None;
        for entry in self.entries.iter_mut().flatten() {
            entry.fate = entry.fate.or(Some(Fate::Lost));
        }
    }

    /// When [`Asker::take_ask`] and [`Asker::poll_late`] are to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ask = self.ask.map(|(at, _)| at);
        let mut entries = self.entries.iter().flatten();
        let oldest = entries.find(|entry| entry.fate.is_none() && entry.token.is_some());
        let late = oldest.map(|entry| entry.at.after(WINDOW_LIMIT));
        ask.into_iter().chain(late).min()
    }

    /// What is to be asked, if it is time: it is taken to be sent.
    pub fn take_ask(&mut self, now: Instant) -> Option<Ask> {
        let (at, wait) = self.ask.filter(|_| self.misses())?;
        if now < at {
            return None;
        }
        let wait = Duration(wait.0.saturating_mul(2)).min(WINDOW_ASK_MAX);
        self.ask = Some((now.after(wait), wait));
        Some(Ask {
            generation: self.generation?,
            asked: self.newest,
        })
    }
}
