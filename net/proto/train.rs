// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Trains: page frames and the head frame that closes them.
//!
//! ```text
//!   ring sequence    s      s+1    ...   s+n-1    s+n
//!   frame            page   page   ...   page     head {sequence s+n, n pages, their bytes}
//! ```
//!
//! Pages are raw payload, as the DMA reads and writes them; a head holds the header, protocol
//! headers and what payload fits. A train without pages is its head. The head comes last: it is the
//! first frame that can vouch for all frames before it, so a train is delivered the moment it is
//! complete and no other frame is needed to confirm it.
//!
//! What the receiver knows:
//!
//! - A page whose marker is not the next one: frames are missing, or came twice or out of place.
//!   What is held is dropped at that very frame.
//! - A head carries its absolute sequence. Its pages are good only if it follows them directly, as
//!   many are held as it says, of as many bytes, and the gaps seen since the head before add up to
//!   all that is missing: so a loss of 13 frames, or 26, which the markers cannot show, is seen too.
//! - A gap of more than 4 may be a long loss or a frame that came twice or out of place: such a frame
//!   makes at most three gaps, which add up to 13, so one of them is wider than 4. It makes the sum
//!   worthless: no pages are delivered with the next head.
//!
//! A good head without pages is delivered whatever happened before it. Work per frame is bounded; no
//! more than [`MAX_PAGES`] pages are held.

use crate::credit::initial;
use crate::frame::{Header, Kind, Seq, EOF_HEAD, EOF_PAGES, SOF};
use crate::limits::{CREDIT_RESERVE, MAX_FRAME, MAX_PAGES};
use crate::wire::bump;

/// Farthest that a head may be ahead: more cannot have been lost in the life of a lane that probes.
const MAX_AHEAD: i32 = 1 << 24;

/// A train to send: the markers of its page frames and the header of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    first: Seq,
    /// Header of the head frame.
    pub header: Header,
}

impl Train {
    /// Frames of a train with `pages` page frames.
    #[must_use]
    pub const fn frames(pages: u8) -> u32 {
        (pages as u32).saturating_add(1)
    }

    /// A train of `kind` whose first frame has the sequence `first`: `pages` page frames with
    /// `page_bytes` bytes in all, then a head with `inline_len` bytes after its header. `credit` is
    /// what the lane's receive side gives, [`Inbound::credit`].
    #[must_use]
    pub const fn new(kind: Kind, first: Seq, inline_len: u16, pages: u8, page_bytes: u32, credit: Seq) -> Self {
        Self {
            first,
            header: Header {
                kind,
                probe: false,
                inline_len,
                seq: first.plus(pages as u32),
                credit,
                pages,
                page_bytes,
            },
        }
    }

    /// EOF of page frame `index`, counted from 0. SOF is [`SOF`] in all frames.
    #[must_use]
    pub const fn page_eof(&self, index: u8) -> u8 {
        self.first.plus(index as u32).page_eof()
    }
}

/// Widest gap between two pages that is taken for a loss and nothing else.
const MAX_GAP: u32 = 4;

/// What the ring says about a frame, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Start marker.
    pub sof: u8,
    /// End marker.
    pub eof: u8,
    /// Bytes of the frame, 1 to 4096 (see [`crate::frame::frame_len`]).
    pub len: usize,
    /// The CRC was wrong, or the frame longer than the buffer.
    pub spoiled: bool,
}

/// Why frames were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// CRC error or overrun.
    Spoiled,
    /// A marker that no frame of ours has.
    Marker,
    /// Frames before this one are missing, or came twice or out of place.
    Gap,
    /// Pages without a head, or a head with fewer or more pages than came.
    Count,
    /// The bytes of the pages are not those that the head says.
    Bytes,
    /// A head that makes no sense.
    Header,
    /// A head that came before, or is of another life of the lane.
    Stale,
}

/// What to do with the frame just handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The pages held so far are to be dropped first, and why.
    pub drop_held: Option<Drop>,
    /// What the frame itself is.
    pub frame: Frame,
    /// Credit for the other direction, from a fresh head.
    pub credit: Option<Seq>,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A page, to be held behind those held already.
    Page,
    /// A head whose train is complete. Its pages are all that is held, in order; none if it has none.
    Train(Header),
    /// To be dropped.
    Dropped(Drop),
}

/// What an inbound lane counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handled.
    pub frames: u64,
    /// Trains complete.
    pub trains: u64,
    /// Pages of complete trains.
    pub pages: u64,
    /// Bytes of complete trains, after frame headers.
    pub bytes: u64,
    /// Pages dropped after they had been held.
    pub dropped_held: u64,
    /// Frames dropped themselves.
    pub dropped_frames: u64,
    /// Frames that never came, as far as heads have shown.
    pub lost: u64,
    /// Spoiled frames.
    pub spoiled: u64,
    /// Unknown markers.
    pub marker: u64,
    /// Gaps seen.
    pub gap: u64,
    /// Page counts wrong.
    pub count: u64,
    /// Byte counts wrong.
    pub byte_count: u64,
    /// Heads that make no sense.
    pub header: u64,
    /// Heads that came before or are of another life.
    pub stale: u64,
}

impl Counters {
    fn count(&mut self, why: Drop) {
        bump(match why {
            Drop::Spoiled => &mut self.spoiled,
            Drop::Marker => &mut self.marker,
            Drop::Gap => &mut self.gap,
            Drop::Count => &mut self.count,
            Drop::Bytes => &mut self.byte_count,
            Drop::Header => &mut self.header,
            Drop::Stale => &mut self.stale,
        });
    }
}

/// The receive side of a message lane: train assembly and the credit that it gives.
///
/// # Invariants
///
/// `held <= MAX_PAGES`, and the pages held have sequences that follow each other up to `expect`.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// One past the last good head.
    base: Seq,
    /// Frames that have come since.
    received: u32,
    /// Sequence of the next frame, as far as the markers have shown.
    expect: Seq,
    /// A gap since the last good head was too wide to tell what it was.
    doubt: bool,
    held: u32,
    held_bytes: u32,
    depth: u32,
    posted: u32,
    given: Seq,
    answer: bool,
    counters: Counters,
}

impl Inbound {
    /// A lane that has received nothing, whose first frame has the sequence `first`, and which has
    /// `depth` descriptors posted.
    #[must_use]
    pub fn new(first: Seq, depth: u16) -> Self {
        Self {
            base: first,
            received: 0,
            expect: first,
            doubt: false,
            held: 0,
            held_bytes: 0,
            depth: u32::from(depth),
            posted: u32::from(depth),
            given: initial(first, depth),
            answer: false,
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Pages held.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// `count` descriptors have been posted again.
    pub fn handle_posted(&mut self, count: u32) {
        self.posted = self.posted.saturating_add(count).min(self.depth);
    }

    /// The credit to give in the next head, which is taken to be sent.
    pub fn credit(&mut self) -> Seq {
        self.given = self.present();
        self.answer = false;
        self.given
    }

    /// Whether credit is worth a frame of its own: a quarter of the descriptors is not known to the
    /// sender, or it has asked.
    #[must_use]
    pub const fn credit_due(&self) -> bool {
        self.answer || self.present().offset(self.given) >= (self.depth / 4) as i32
    }

    /// The credit that could be given. Never less than before.
    const fn present(&self) -> Seq {
        let known = self.base.plus(self.received);
        let limit = known.plus(self.posted).minus(CREDIT_RESERVE);
        if limit.offset(self.given) > 0 {
            limit
        } else {
            self.given
        }
    }

    /// Handle the next frame of the ring, which begins with `bytes` (a head's header at least).
    pub fn handle_frame(&mut self, bytes: &[u8], arrival: Arrival) -> Verdict {
        bump(&mut self.counters.frames);
        self.posted = self.posted.saturating_sub(1);
        if arrival.spoiled {
            // Its markers may be spoiled too: it counts as missing.
            return self.reject(Drop::Spoiled);
        }
        if arrival.sof != SOF {
            return self.reject(Drop::Marker);
        }
        match arrival.eof {
            EOF_HEAD => self.on_head(bytes, arrival.len),
            eof => self.on_page(eof, arrival.len),
        }
    }

    fn on_page(&mut self, eof: u8, len: usize) -> Verdict {
        // Which frame it can be at the earliest.
        let Some(gap) = (0..EOF_PAGES).find(|gap| self.expect.plus(*gap).page_eof() == eof) else {
            return self.reject(Drop::Marker);
        };
        let mut drop_held = None;
        if gap != 0 {
            self.counters.count(Drop::Gap);
            self.drop_held();
            drop_held = Some(Drop::Gap);
        } else if self.held >= MAX_PAGES as u32 {
            // More pages than a train has: the head between them is missing.
            self.counters.count(Drop::Count);
            self.drop_held();
            drop_held = Some(Drop::Count);
        }
        self.doubt |= gap > MAX_GAP;
        self.expect = self.expect.plus(gap).plus(1);
        self.received = self.received.saturating_add(1);
        self.held = self.held.saturating_add(1);
        self.held_bytes = self.held_bytes.saturating_add(len.min(MAX_FRAME) as u32);
        Verdict {
            drop_held,
            frame: Frame::Page,
            credit: None,
        }
    }

    fn on_head(&mut self, bytes: &[u8], len: usize) -> Verdict {
        let Ok(header) = Header::parse(bytes, len) else {
            // Whose it is cannot be told, so it counts as missing.
            return self.reject(Drop::Header);
        };
        let ahead = header.seq.offset(self.base);
        if !(0..MAX_AHEAD).contains(&ahead) {
            // The sender of a probe that came twice still waits for credit.
            self.answer |= header.probe;
            return self.reject(Drop::Stale);
        }
        let good = self.judge(&header);
        let missing = (ahead as u32).saturating_sub(self.received);
        self.counters.lost = self.counters.lost.wrapping_add(u64::from(missing));
        let held = self.held;
        self.base = header.seq.plus(1);
        self.expect = self.base;
        self.doubt = false;
        self.received = 0;
        self.answer |= header.probe;
        let credit = Some(header.credit);
        match good {
            Ok(()) => {
                let pages = u32::from(header.pages);
                let drop_held = (pages == 0 && held != 0).then_some(Drop::Count);
                if drop_held.is_some() {
                    self.counters.count(Drop::Count);
                    self.drop_held();
                }
                self.held = 0;
                self.held_bytes = 0;
                bump(&mut self.counters.trains);
                self.counters.pages = self.counters.pages.wrapping_add(u64::from(pages));
                self.counters.bytes = self.counters.bytes.wrapping_add(header.total() as u64);
                Verdict {
                    drop_held,
                    frame: Frame::Train(header),
                    credit,
                }
            }
            Err(why) => Verdict {
                credit,
                ..self.reject(why)
            },
        }
    }

    /// Whether the pages held are those of `header`.
    fn judge(&self, header: &Header) -> Result<(), Drop> {
        if header.pages == 0 {
            Ok(())
        } else if self.doubt || header.seq != self.expect {
            Err(Drop::Gap)
        } else if u32::from(header.pages) != self.held {
            Err(Drop::Count)
        } else if header.page_bytes != self.held_bytes {
            Err(Drop::Bytes)
        } else {
            Ok(())
        }
    }

    /// Drop this frame and what is held.
    fn reject(&mut self, why: Drop) -> Verdict {
        let drop_held = (self.held != 0).then_some(why);
        self.counters.count(why);
        self.drop_held();
        bump(&mut self.counters.dropped_frames);
        Verdict {
            drop_held,
            frame: Frame::Dropped(why),
            credit: None,
        }
    }

    fn drop_held(&mut self) {
        self.counters.dropped_held = self.counters.dropped_held.wrapping_add(u64::from(self.held));
        self.held = 0;
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
