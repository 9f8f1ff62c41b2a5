// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Puts the frames of a stock peer together into packets.
//!
//! The caller keeps the bytes; the [`Reassembler`] says for every frame of the ring what it is:
//!
//! ```text
//!            first frame            next frame, in place
//!   Idle ------------------> Open ----------------------> Open ... last frame -> Idle
//!     ^                       |
//!     |   anything else       |   the packet is dropped whole, with its reason
//!     +-----------------------+
//! ```
//!
//! A frame that breaks a packet and is itself a first frame opens the next packet at once.

use super::frame::{Header, MAX_FRAMES, MAX_PAYLOAD};
use crate::limits::{MAX_FRAME, MAX_PACKET};
use crate::wire::bump;

/// What the ring says about a frame, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes in the buffer, 1 to 4096 (the descriptor's 0 already read as 4096).
    pub len: usize,
    /// The CRC of the frame was wrong.
    pub crc_error: bool,
    /// The frame was longer than the buffer.
    pub overrun: bool,
}

/// Why frames were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// CRC error.
    Crc,
    /// Longer than the buffer.
    Overrun,
    /// The sizes of ring and header contradict each other, or there is no payload.
    Size,
    /// The frame count is 0, too large or not that of the packet.
    Count,
    /// A frame is missing, came twice or out of place.
    Index,
    /// The id is not that of the packet.
    Id,
    /// The packet is longer than 64 KiB.
    TooLong,
}

/// What to do with the frame just handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The open packet is to be dropped first, and why.
    pub abort: Option<Drop>,
    /// What the frame itself is.
    pub frame: Frame,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes `Header::LEN..Header::LEN + len` of the frame go to `offset` of the packet.
    Piece {
        /// Place in the packet; 0 opens a packet.
        offset: usize,
        /// Bytes of payload.
        len: usize,
        /// The packet is complete with this frame.
        last: bool,
    },
    /// To be dropped.
    Dropped(Drop),
}

/// What a reassembler counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handled.
    pub frames: u64,
    /// Packets completed.
    pub packets: u64,
    /// Bytes of completed packets.
    pub bytes: u64,
    /// Frames taken into packets that were then dropped.
    pub aborted_frames: u64,
    /// Frames dropped themselves.
    pub dropped_frames: u64,
    /// Events by reason: CRC error.
    pub crc: u64,
    /// Overrun.
    pub overrun: u64,
    /// Sizes in contradiction.
    pub size: u64,
    /// Frame count wrong.
    pub count: u64,
    /// Hole, duplicate or out of place.
    pub index: u64,
    /// Wrong id.
    pub id: u64,
    /// Over 64 KiB.
    pub too_long: u64,
}

impl Counters {
    fn count(&mut self, why: Drop) {
        bump(match why {
            Drop::Crc => &mut self.crc,
            Drop::Overrun => &mut self.overrun,
            Drop::Size => &mut self.size,
            Drop::Count => &mut self.count,
            Drop::Index => &mut self.index,
            Drop::Id => &mut self.id,
            Drop::TooLong => &mut self.too_long,
        });
    }
}

/// The packet being put together.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u16,
    count: u32,
    next: u16,
    bytes: usize,
}

/// The receive side of one ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reassembler {
    open: Option<Open>,
    counters: Counters,
}

impl Reassembler {
    /// A ring that has received nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Handle the frame that begins with `bytes` (at least its header, if it has one).
    pub fn handle_frame(&mut self, bytes: &[u8], arrival: Arrival) -> Verdict {
        bump(&mut self.counters.frames);
        let header = match Self::check(bytes, arrival) {
            Ok(header) => header,
            Err(why) => return self.drop_frame(why),
        };
        let broken = match &self.open {
            None => None,
            Some(open) => open.mismatch(&header),
        };
        if let Some(why) = broken {
            if header.index == 0 {
                self.abort(why);
                let frame = self.begin(&header);
                return Verdict {
                    abort: Some(why),
                    frame,
                };
            }
            return self.drop_frame(why);
        }
        let frame = match self.open {
            None => self.begin(&header),
            Some(open) => self.append(open, &header),
        };
        Verdict { abort: None, frame }
    }

    /// Drop what is open: the ring has been restarted.
    pub fn reset(&mut self) {
        self.open = None;
    }

    /// The header, if the frame is good by itself.
    fn check(bytes: &[u8], arrival: Arrival) -> Result<Header, Drop> {
        if arrival.crc_error {
            return Err(Drop::Crc);
        }
        if arrival.overrun {
            return Err(Drop::Overrun);
        }
        let header = Header::parse(bytes).map_err(|_| Drop::Size)?;
        let room = arrival.len.min(MAX_FRAME).saturating_sub(Header::LEN);
        if header.size == 0 || header.size as usize > room.min(MAX_PAYLOAD) {
            return Err(Drop::Size);
        }
        if header.count == 0 || header.count > MAX_FRAMES {
            return Err(Drop::Count);
        }
        if u32::from(header.index) >= header.count {
            return Err(Drop::Index);
        }
        Ok(header)
    }

    fn begin(&mut self, header: &Header) -> Frame {
        if header.index != 0 {
            bump(&mut self.counters.dropped_frames);
            self.counters.count(Drop::Index);
            return Frame::Dropped(Drop::Index);
        }
        let open = Open {
            id: header.id,
            count: header.count,
            next: 0,
            bytes: 0,
        };
        self.append(open, header)
    }

    fn append(&mut self, open: Open, header: &Header) -> Frame {
        let len = header.size as usize;
        let bytes = open.bytes.saturating_add(len);
        let next = open.next.saturating_add(1);
        let last = u32::from(next) == open.count;
        if last {
            self.open = None;
            bump(&mut self.counters.packets);
            self.counters.bytes = self.counters.bytes.wrapping_add(bytes as u64);
        } else {
            self.open = Some(Open { next, bytes, ..open });
        }
        Frame::Piece {
            offset: open.bytes,
            len,
            last,
        }
    }

    /// Drop the open packet.
    fn abort(&mut self, why: Drop) {
        if let Some(open) = self.open.take() {
            self.counters.aborted_frames = self.counters.aborted_frames.wrapping_add(u64::from(open.next));
            self.counters.count(why);
        }
    }

    /// Drop the open packet, if any, and this frame.
    fn drop_frame(&mut self, why: Drop) -> Verdict {
        let abort = self.open.is_some().then_some(why);
        self.counters.count(why);
        if let Some(open) = self.open.take() {
            self.counters.aborted_frames = self.counters.aborted_frames.wrapping_add(u64::from(open.next));
        }
        bump(&mut self.counters.dropped_frames);
        Verdict {
            abort,
            frame: Frame::Dropped(why),
        }
    }
}

impl Open {
    /// Why a frame with `header` cannot be the next of this packet.
    fn mismatch(&self, header: &Header) -> Option<Drop> {
        if header.index != self.next {
            Some(Drop::Index)
        } else if header.id != self.id {
            Some(Drop::Id)
        } else if header.count != self.count {
            Some(Drop::Count)
        } else if self.bytes.saturating_add(header.size as usize) > MAX_PACKET {
            Some(Drop::TooLong)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stock::frame::Segments;
    use proptest::prelude::*;

    fn feed(r: &mut Reassembler, header: Header) -> Verdict {
        let arrival = Arrival {
            len: header.size as usize + Header::LEN,
            crc_error: false,
            overrun: false,
        };
        r.handle_frame(&header.bytes(), arrival)
    }

    fn header(index: u16, id: u16, count: u32) -> Header {
        Header {
            size: 100,
            index,
            id,
            count,
        }
    }

    #[test]
    fn a_packet_comes_out_of_its_frames() {
        let mut r = Reassembler::new();
        let mut total = 0;
        for s in Segments::new(10_000, 3).unwrap() {
            let Frame::Piece { offset, len, last } = feed(&mut r, s.header).frame else {
                panic!()
            };
            assert_eq!(offset, s.offset);
            total += len;
            assert_eq!(last, total == 10_000);
        }
        assert_eq!((r.counters().packets, r.counters().bytes), (1, 10_000));
    }

    #[test]
    fn a_hole_drops_the_packet_whole() {
        let mut r = Reassembler::new();
        feed(&mut r, header(0, 1, 3));
        let v = feed(&mut r, header(2, 1, 3));
        assert_eq!(v.abort, Some(Drop::Index));
        assert_eq!(v.frame, Frame::Dropped(Drop::Index));
        assert_eq!(feed(&mut r, header(1, 1, 3)).frame, Frame::Dropped(Drop::Index));
        assert_eq!(r.counters().packets, 0);
    }

    #[test]
    fn a_duplicate_drops_the_packet_whole() {
        let mut r = Reassembler::new();
        feed(&mut r, header(0, 1, 3));
        feed(&mut r, header(1, 1, 3));
        assert_eq!(feed(&mut r, header(1, 1, 3)).abort, Some(Drop::Index));
        assert_eq!(feed(&mut r, header(2, 1, 3)).frame, Frame::Dropped(Drop::Index));
    }

    #[test]
    fn a_first_frame_in_the_middle_opens_the_next_packet() {
        let mut r = Reassembler::new();
        feed(&mut r, header(0, 1, 2));
        let v = feed(&mut r, header(0, 2, 2));
        assert_eq!(v.abort, Some(Drop::Index));
        assert!(matches!(v.frame, Frame::Piece { offset: 0, .. }));
        assert!(matches!(
            feed(&mut r, header(1, 2, 2)).frame,
            Frame::Piece { last: true, .. }
        ));
        assert_eq!(r.counters().aborted_frames, 1);
    }

    #[test]
    fn frames_of_another_packet_do_not_mix_in() {
        for (id, count, why) in [(2, 3, Drop::Id), (1, 4, Drop::Count)] {
            let mut r = Reassembler::new();
            feed(&mut r, header(0, 1, 3));
            let v = feed(&mut r, header(1, id, count));
            assert_eq!((v.abort, v.frame), (Some(why), Frame::Dropped(why)));
        }
    }

    #[test]
    fn sizes_in_contradiction_are_refused() {
        let mut r = Reassembler::new();
        let bytes = header(0, 0, 1).bytes();
        let mut arrival = Arrival {
            len: 111,
            crc_error: false,
            overrun: false,
        };
        assert_eq!(r.handle_frame(&bytes, arrival).frame, Frame::Dropped(Drop::Size));
        arrival.len = 112;
        assert!(matches!(
            r.handle_frame(&bytes, arrival).frame,
            Frame::Piece { last: true, .. }
        ));
        let empty = Header {
            size: 0,
            ..header(0, 0, 1)
        };
        assert_eq!(feed(&mut r, empty).frame, Frame::Dropped(Drop::Size));
        assert_eq!(feed(&mut r, header(0, 0, 0)).frame, Frame::Dropped(Drop::Count));
        assert_eq!(feed(&mut r, header(0, 0, 19)).frame, Frame::Dropped(Drop::Count));
        assert_eq!(r.handle_frame(&[1, 2], arrival).frame, Frame::Dropped(Drop::Size));
    }

    #[test]
    fn a_packet_over_64_kib_is_refused() {
        let mut r = Reassembler::new();
        let mut last = None;
        for index in 0..18 {
            let h = Header {
                size: 4084,
                index,
                id: 0,
                count: 18,
            };
            last = Some(feed(&mut r, h));
        }
        assert_eq!(last.unwrap().frame, Frame::Dropped(Drop::Index));
        assert_eq!(r.counters().too_long, 1);
    }

    #[test]
    fn a_spoiled_frame_takes_its_packet_along() {
        let mut r = Reassembler::new();
        feed(&mut r, header(0, 1, 2));
        let arrival = Arrival {
            len: 112,
            crc_error: true,
            overrun: false,
        };
        let v = r.handle_frame(&header(1, 1, 2).bytes(), arrival);
        assert_eq!((v.abort, v.frame), (Some(Drop::Crc), Frame::Dropped(Drop::Crc)));
    }

    proptest! {
        /// Whatever comes, pieces of one packet lie end to end and every frame is accounted for.
        #[test]
        fn any_frames_keep_the_books(
            frames in proptest::collection::vec((0u32..5000, 0u16..4, 0u16..3, 0u32..5, 0usize..5000), 0..200),
        ) {
            let mut r = Reassembler::new();
            let (mut at, mut open, mut taken, mut aborted, mut dropped) = (0, 0u64, 0u64, 0u64, 0u64);
            for (size, index, id, count, len) in frames {
                let h = Header { size, index, id, count };
                let v = r.handle_frame(&h.bytes(), Arrival { len, crc_error: false, overrun: false });
                if v.abort.is_some() {
                    prop_assert!(open > 0);
                    aborted += open;
                    (at, open) = (0, 0);
                }
                match v.frame {
                    Frame::Piece { offset, len: n, last } => {
                        prop_assert_eq!(offset, at);
                        prop_assert!(n + Header::LEN <= len);
                        at += n;
                        open += 1;
                        if last {
                            taken += open;
                            (at, open) = (0, 0);
                        }
                    }
                    Frame::Dropped(_) => dropped += 1,
                }
            }
            let c = r.counters();
            prop_assert_eq!(c.frames, taken + aborted + dropped + open);
            prop_assert_eq!((c.aborted_frames, c.dropped_frames), (aborted, dropped));
        }
    }
}
