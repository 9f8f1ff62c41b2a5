// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The ledger of a message lane: which trains were carried to the peer and which were lost.
//!
//! Queue pairs cannot tell loss from a train that is still on another lane, so the lane tells them. As QUIC separates
//! packet numbers from stream offsets, the ring sequence is separate from PSNs: nothing on a ring overtakes, so a
//! train that is missing when a later one arrives is lost for good.
//!
//! ```text
//!   sender's Ledger     floor                      next
//!      ------------------|---------------------------|---->  ring sequence
//!        told            | in flight, oldest first   |
//!
//!   receiver's Record   floor   gap      gap        upto
//!      ------------------|-----|xxx|----|xx|---------|---->  ring sequence
//!        of no interest  | delivered but for the gaps|
//! ```
//!
//! Each head of a train with a token carries the sender's floor, behind which the receiver forgets its gaps, and the
//! receiver's `carried`, below which everything was delivered ([`crate::frame::Account`]). A [`Report`] tells the gaps
//! too; it goes in a CTRL head at the end of a poll in which [`Record::is_due`]: for new gaps, and to answer. That all
//! is well is said by heads that go anyway, for most trains are answered by one. A sender that hears nothing for two
//! round trips sends a CTRL head with the probe flag, which shows the receiver a loss at the tail and asks for a
//! report.
//!
//! Each token is told once, in the order in which the trains were sent. A lane that dies tells what is in flight as
//! lost. So does one that is given up: [`limits::LEDGER_ASKS`](crate::limits::LEDGER_ASKS) probes were not answered,
//! and the caller knows that the peer has answered on another. It goes on probing, and is as before once it is
//! answered. Trains of the Ethernet device have no token: they take sequences, and nobody is told about them.

use crate::frame::Seq;
use crate::limits::{LEDGER_ASKS, LEDGER_PROBE_MAX, LEDGER_PROBE_MIN, REPORT_GAPS};
use crate::time::{Duration, Instant};
use crate::wire::{bump, Reader, WireError};
use core::ops::DerefMut;

/// Gaps that a receiver remembers. More within one round trip than a report tells are told by later ones.
const RECORD_GAPS: usize = 32;

/// Sequences from `start` up to, but not including, `end` that were not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The first sequence missing.
    pub start: Seq,
    /// One past the last.
    pub end: Seq,
}

impl Gap {
    fn contains(self, seq: Seq) -> bool {
        seq.offset(self.start) >= 0 && seq.offset(self.end) < 0
    }
}

/// What a receiver says of the trains below `upto`: delivered, but for the gaps.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | upto: nothing is said of trains that end at or above this ring sequence |
/// | 4 | 1 | gaps that follow, at most 8 |
/// | 5 | 3 | 0 |
/// | 8 | 8 each | a gap: first sequence missing (4), one past the last (4); ascending, apart, not empty |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing is said of trains that end at or above it.
    pub upto: Seq,
    gaps: [Gap; REPORT_GAPS],
    count: u8,
}

impl Report {
    /// Longest report on the wire.
    pub const MAX_LEN: usize = 8 + 8 * REPORT_GAPS;

    /// A report without gaps: everything below `carried` was delivered.
    #[must_use]
    pub const fn carried(carried: Seq) -> Self {
        Self {
            upto: carried,
            gaps: [Gap {
                start: Seq(0),
                end: Seq(0),
            }; REPORT_GAPS],
            count: 0,
        }
    }

    /// The gaps, ascending.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        self.gaps.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Whether a train that ends at `last` was delivered; `None` if nothing is said of it.
    #[must_use]
    pub fn fate(&self, last: Seq) -> Option<bool> {
        (last.offset(self.upto) < 0).then(|| !self.gaps().iter().any(|gap| gap.contains(last)))
    }

    /// Decode a report. Bytes after the gaps are a later version's.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] if gaps are missing, [`WireError::Length`] for more than 8 of them, and
    /// [`WireError::Value`] for gaps that are empty, not apart, not ascending, or not below `upto`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let upto = Seq(r.u32()?);
        let [count, _, _, _] = r.bytes()?;
        let mut report = Self::carried(upto);
        if usize::from(count) > REPORT_GAPS {
            return Err(WireError::Length);
        }
        let mut behind: Option<Seq> = None;
        for place in report.gaps.iter_mut().take(usize::from(count)) {
            let gap = Gap {
                start: Seq(r.u32()?),
                end: Seq(r.u32()?),
            };
            let apart = behind.is_none_or(|end| gap.start.offset(end) > 0);
            if !apart || gap.end.offset(gap.start) <= 0 || gap.end.offset(upto) > 0 || gap.start.offset(upto) >= 0 {
                return Err(WireError::Value);
            }
            behind = Some(gap.end);
            *place = gap;
        }
        report.count = count;
        Ok(report)
    }

    /// Encode the report: the bytes, and how many of them count.
    #[must_use]
    pub fn bytes(&self) -> ([u8; Self::MAX_LEN], usize) {
        let mut bytes = [0; Self::MAX_LEN];
        let mut len = 0usize;
        let mut put = |value: [u8; 4]| {
            let end = len.saturating_add(4);
            if let Some(place) = bytes.get_mut(len..end) {
                place.copy_from_slice(&value);
                len = end;
            }
        };
        put(self.upto.0.to_le_bytes());
        put([self.count, 0, 0, 0]);
        for gap in self.gaps() {
            put(gap.start.0.to_le_bytes());
            put(gap.end.0.to_le_bytes());
        }
        (bytes, len)
    }
}

/// The receiving side: what was delivered, and what the sender does not know of it yet.
///
/// # Invariants
///
/// The first `count` gaps ascend, are apart, and end below `upto`: the train behind each of them was delivered.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    upto: Seq,
    gaps: [Gap; RECORD_GAPS],
    count: usize,
    due: bool,
}

impl Record {
    /// A lane that has received nothing, whose first frame has the sequence `first`.
    #[must_use]
    pub fn new(first: Seq) -> Self {
        Self {
            upto: first,
            gaps: [Gap::default(); RECORD_GAPS],
            count: 0,
            due: false,
        }
    }

    fn gaps(&self) -> &[Gap] {
        self.gaps.get(..self.count).unwrap_or_default()
    }

    /// A complete train with a token has come: its first frame has the sequence `first`, its head has `last` and the
    /// sender's `floor`. Whether it may be delivered. It may not where its fate could not be recorded, as there are too
    /// many gaps before it that the sender has not been told; it is lost, as far as anybody will ever know.
    pub fn handle_train(&mut self, first: Seq, last: Seq, floor: Seq) -> bool {
        self.forget_below(floor);
        self.advance(first, last)
    }

    /// A complete train without a token has come.
    pub fn handle_untold(&mut self, first: Seq, last: Seq) {
        self.advance(first, last);
    }

    /// A CTRL head has come, with the sender's `floor` if it tells one. `probe`: the sender waits for a report.
    pub fn handle_control(&mut self, seq: Seq, floor: Option<Seq>, probe: bool) {
        if let Some(floor) = floor {
            self.forget_below(floor);
        }
        self.due |= probe;
        self.advance(seq, seq);
    }

    /// Everything below this was delivered, or the sender knows better.
    #[must_use]
    pub fn carried(&self) -> Seq {
        self.gaps().first().map_or(self.upto, |gap| gap.start)
    }

    /// Whether a report is to be sent: there are gaps that none has told, or the sender asks. Ask at the end of each
    /// poll.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due
    }

    /// The report, for a CTRL head that is about to be sent.
    pub fn take_report(&mut self) -> Report {
        self.due = false;
        let mut report = Report::carried(self.upto);
        for (place, gap) in report.gaps.iter_mut().zip(self.gaps.iter().take(self.count)) {
            *place = *gap;
            report.count = report.count.saturating_add(1);
        }
        if let Some(next) = self.gaps().get(REPORT_GAPS) {
            // Nothing is said yet of what lies behind the gaps that fit: a report after the next floor says it.
            report.upto = next.start;
        }
        report
    }

    fn forget_below(&mut self, floor: Seq) {
        let told = self.gaps().iter().take_while(|gap| gap.end.offset(floor) <= 0).count();
        if told != 0 {
            self.gaps.rotate_left(told);
            self.count = self.count.saturating_sub(told);
            self.due |= self.count != 0;
        }
    }

    /// The train from `first` to `last` was delivered; what is missing before it is a gap. Whether that could be
    /// recorded. If not, `upto` stays: the train becomes part of a later gap.
    fn advance(&mut self, first: Seq, last: Seq) -> bool {
        if first.offset(self.upto) > 0 {
            self.due = true;
            let Some(place) = self.gaps.get_mut(self.count) else {
                return false;
            };
            *place = Gap {
                start: self.upto,
                end: first,
            };
            self.count = self.count.saturating_add(1);
        }
        let end = last.plus(1);
        if end.offset(self.upto) > 0 {
            self.upto = end;
        }
        true
    }
}

/// A train in flight: what a place of a [`Ledger`] holds.
#[derive(Clone, Copy, Debug)]
pub struct Sent<T> {
    first: Seq,
    last: Seq,
    at: Instant,
    token: T,
}

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// What the train's owner called it.
    pub token: T,
    /// It was delivered; else it is lost.
    pub carried: bool,
}

/// What a ledger counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Trains told as carried.
    pub carried: u64,
    /// Trains told as lost.
    pub lost: u64,
    /// Probes sent for want of a report.
    pub probes: u64,
    /// Reports on what was never sent; ignored.
    pub excess: u64,
}

/// The sending side: the trains in flight, at most as many as the caller gives places.
#[derive(Clone, Debug)]
pub struct Ledger<P> {
    /// A ring: the train in flight for the longest is at `oldest`, and there are `count`.
    sent: P,
    oldest: usize,
    count: usize,
    /// One past the newest frame that was shown to [`Ledger`]: the peer cannot have seen more.
    next: Seq,
    known: Report,
    known_at: Instant,
    /// When the last probe was sent.
    asked_at: Instant,
    /// Probes since a frame last came, and when the first of them was sent.
    unanswered: u8,
    unanswered_since: Instant,
    dead: bool,
    /// It was given up when this was the next frame, and no report has come since.
    given_up: Option<Seq>,
    /// It probes until a report comes, whether anything is in flight or not.
    must_ask: bool,
    /// Smoothed time from a train, or the probe after it, to the report that tells it.
    round_trip: Duration,
    probe: Option<(Instant, Duration)>,
    counters: Counters,
}

impl<T: Copy, P: DerefMut<Target = [Option<Sent<T>>]>> Ledger<P> {
    /// A lane on which nothing has been sent, whose first frame has the sequence `first`, with these places.
    #[must_use]
    pub const fn new(first: Seq, places: P) -> Self {
        Self {
            sent: places,
            oldest: 0,
            count: 0,
            next: first,
            known: Report::carried(first),
            known_at: Instant(0),
            asked_at: Instant(0),
            unanswered: 0,
            unanswered_since: Instant(0),
            dead: false,
            given_up: None,
            must_ask: false,
            round_trip: Duration(LEDGER_PROBE_MIN.0 / 2),
            probe: None,
            counters: Counters {
                carried: 0,
                lost: 0,
                probes: 0,
                excess: 0,
            },
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Trains in flight.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another train may be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.count < self.sent.len() && !self.dead
    }

    /// The smoothed time from a train to the report that tells it.
    #[must_use]
    pub const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// The place `index` behind the oldest, with `index` at most the number of places.
    fn place(&self, index: usize) -> usize {
        let place = self.oldest.wrapping_add(index);
        place.checked_sub(self.sent.len()).unwrap_or(place)
    }

    fn front(&self) -> Option<&Sent<T>> {
        if self.is_empty() {
            return None;
        }
        self.sent.get(self.oldest)?.as_ref()
    }

    /// What is told to the receiver with each head: trains below it have been told, or have no token.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.front().map_or(self.next, |sent| sent.first)
    }

    /// A train with a token has been sent, in the frames from `first` to `last`. Whether it was taken; it is not where
    /// [`Ledger::has_room`] says no, or where it lies before what was sent already.
    pub fn handle_sent(&mut self, now: Instant, first: Seq, last: Seq, token: T) -> bool {
        if !self.has_room() || first.offset(self.next) < 0 || last.offset(first) < 0 {
            return false;
        }
        let place = self.place(self.count);
        let Some(place) = self.sent.get_mut(place) else {
            return false;
        };
        *place = Some(Sent {
            first,
            last,
            at: now,
            token,
        });
        self.count = self.count.wrapping_add(1);
        self.next = last.plus(1);
        if self.probe.is_none() {
            self.probe = Some(self.first_probe(now));
        }
        true
    }

    /// Frames below `next` have been sent, whatever they carried.
    pub fn handle_untold(&mut self, next: Seq) {
        if next.offset(self.next) > 0 {
            self.next = next;
        }
    }

    /// The peer has delivered everything below `carried`, as far as it was not told otherwise before.
    pub fn handle_carried(&mut self, now: Instant, carried: Seq) {
        self.handle_report(now, &Report::carried(carried));
    }

    /// A report has come. What it says is polled by [`Ledger::poll_told`].
    pub fn handle_report(&mut self, now: Instant, report: &Report) {
        if report.upto.offset(self.known.upto) <= 0 {
            return;
        }
        if report.upto.offset(self.next) > 0 {
            bump(&mut self.counters.excess);
            return;
        }
        self.known = *report;
        self.known_at = now;
        self.unanswered = 0;
        self.given_up = None;
        self.must_ask = false;
        self.probe = Some(self.first_probe(now));
    }

    /// The lane is dead: what is in flight is lost, and nothing can be sent.
    pub fn handle_dead(&mut self) {
        self.dead = true;
        self.probe = None;
    }

    /// When the last report came that told something new.
    #[must_use]
    pub const fn answered_at(&self) -> Instant {
        self.known_at
    }

    /// When the first of the probes was sent that were not answered, unless it was given up for them and nothing has
    /// been sent since.
    #[must_use]
    pub const fn unanswered_since(&self) -> Option<Instant> {
        let counts = self.given_up.is_none() || !self.is_empty();
        match self.unanswered > 0 && counts && !self.dead {
            true => Some(self.unanswered_since),
            false => None,
        }
    }

    /// Whether so many were not answered that it is to be given up in case the peer has answered on another since.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.unanswered >= LEDGER_ASKS && self.unanswered_since().is_some()
    }

    /// Frames have come: the lane carries, and an answer may wait behind what was sent before it.
    pub fn handle_heard(&mut self) {
        self.unanswered = 0;
    }

    /// Somebody wants to know whether the lane carries: it probes at once, unless it is to do so anyway.
    pub fn handle_doubt(&mut self, now: Instant) {
        if self.probe.is_none() && !self.dead {
            self.must_ask = true;
            self.probe = Some((now, self.first_probe(now).1));
        }
    }

    /// The lane is given up: what is in flight is lost.
    pub fn handle_given_up(&mut self) {
        self.given_up = Some(self.next);
        self.must_ask = true;
    }

    /// Whether it was given up, and nothing has been answered since.
    #[must_use]
    pub const fn is_given_up(&self) -> bool {
        self.given_up.is_some()
    }

    /// The next train whose fate is known, in the order of sending.
    pub fn poll_told(&mut self) -> Option<Told<T>> {
        let Some(sent) = self.front().copied() else {
            if !self.must_ask {
                self.probe = None;
            }
            return None;
        };
        // What was reported before the lane died is true.
        let carried = match self.known.fate(sent.last) {
            Some(carried) => {
                // An eighth of each sample counts.
                let since = sent.at.max(self.asked_at);
                let (old, sample) = (self.round_trip.0, self.known_at.since(since).0);
                self.round_trip = Duration(old.saturating_sub(old / 8).saturating_add(sample / 8));
                carried
            }
            None if self.dead || self.given_up.is_some_and(|next| sent.first.offset(next) < 0) => false,
            None => return None,
        };
        self.oldest = self.place(1);
        self.count = self.count.saturating_sub(1);
        bump(if carried {
            &mut self.counters.carried
        } else {
            &mut self.counters.lost
        });
        Some(Told {
            token: sent.token,
            carried,
        })
    }

    /// When [`Ledger::take_probe`] is to be called.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.probe {
            Some((at, _)) => Some(at),
            None => None,
        }
    }

    /// Whether a probe is due, which is then taken to be sent: a CTRL head with the probe flag and the floor.
    pub fn take_probe(&mut self, now: Instant) -> bool {
        match self.probe {
            Some((at, wait)) if now >= at && (!self.is_empty() || self.must_ask) => {
                let wait = Duration(wait.0.saturating_mul(2)).min(LEDGER_PROBE_MAX);
                self.probe = Some((now.after(wait), wait));
                if self.unanswered == 0 {
                    self.unanswered_since = now;
                }
                self.unanswered = self.unanswered.saturating_add(1);
                self.asked_at = now;
                bump(&mut self.counters.probes);
                true
            }
            _ => false,
        }
    }

    /// Two round trips from now, and the time to wait after that.
    fn first_probe(&self, now: Instant) -> (Instant, Duration) {
        let wait = Duration(self.round_trip.0.saturating_mul(2))
            .max(LEDGER_PROBE_MIN)
            .min(LEDGER_PROBE_MAX);
        (now.after(wait), wait)
    }
}

#[cfg(test)]
mod tests;
