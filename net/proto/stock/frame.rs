// SPDX-License-Identifier: GPL-2.0 OR MIT
//! ThunderboltIP data frames: a 12-byte header and up to 4084 bytes of one Ethernet packet.
//!
//! All fields are little-endian: frame size (32 bits), frame index (16), packet id (16), frame
//! count (32). Only the last frame of a packet is shorter than the rest.

use crate::limits::{MAX_FRAME, MAX_PACKET};
use crate::wire::{Reader, WireError};

/// Most payload of one frame.
pub const MAX_PAYLOAD: usize = MAX_FRAME - Header::LEN;

/// Most frames that `thunderbolt_net` takes for one packet: MAX_SKB_FRAGS + 1.
pub const MAX_FRAMES: u32 = 18;

/// The header of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the packet in this frame.
    pub size: u32,
    /// Place of this frame in its packet, from 0.
    pub index: u16,
    /// Packet id, the same in all its frames.
    pub id: u16,
    /// Frames of the packet.
    pub count: u32,
}

impl Header {
    /// Length on the wire.
    pub const LEN: usize = 12;

    /// Decode the header of the frame `bytes`; any values are a header.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] if `bytes` is shorter than a header.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            size: r.u32()?,
            index: r.u16()?,
            id: r.u16()?,
            count: r.u32()?,
        })
    }

    /// Encode the header.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.size.to_le_bytes();
        let [e, f] = self.index.to_le_bytes();
        let [g, h] = self.id.to_le_bytes();
        let [i, j, k, l] = self.count.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// One frame to send: its header and which bytes of the packet follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The frame's header.
    pub header: Header,
    /// First byte of the packet in this frame.
    pub offset: usize,
}

/// Cuts a packet into frames.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    id: u16,
    len: usize,
    offset: usize,
    index: u16,
    count: u32,
}

impl Segments {
    /// The frames of a packet of `len` bytes with id `id`; `None` if it is empty or over 64 KiB.
    #[must_use]
    pub const fn new(len: usize, id: u16) -> Option<Self> {
        if len == 0 || len > MAX_PACKET {
            return None;
        }
        Some(Self {
            id,
            len,
            offset: 0,
            index: 0,
            count: len.div_ceil(MAX_PAYLOAD) as u32,
        })
    }

    /// Frames in all.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let left = self.len.saturating_sub(self.offset);
        if left == 0 {
            return None;
        }
        let size = left.min(MAX_PAYLOAD);
        let segment = Segment {
            header: Header {
                size: size as u32,
                index: self.index,
                id: self.id,
                count: self.count,
            },
            offset: self.offset,
        };
        self.offset = self.offset.saturating_add(size);
        self.index = self.index.saturating_add(1);
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_has_its_bytes_in_place() {
        let header = Header {
            size: 4084,
            index: 1,
            id: 0x1234,
            count: 17,
        };
        let bytes = [0xf4, 0x0f, 0, 0, 1, 0, 0x34, 0x12, 17, 0, 0, 0];
        assert_eq!(header.bytes(), bytes);
        assert_eq!(Header::parse(&bytes), Ok(header));
        assert_eq!(Header::parse(&bytes[..11]), Err(WireError::Truncated));
    }

    #[test]
    fn a_packet_of_64_kib_takes_17_frames() {
        let segments = Segments::new(MAX_PACKET, 9).unwrap();
        assert_eq!(segments.count(), 17);
        let last = segments.last().unwrap();
        assert_eq!((last.header.index, last.header.size), (16, 192));
        assert!(Segments::new(MAX_PACKET + 1, 0).is_none());
        assert!(Segments::new(0, 0).is_none());
    }

    proptest! {
        #[test]
        fn segments_cover_the_packet_exactly(len in 1usize..=MAX_PACKET, id: u16) {
            let segments = Segments::new(len, id).unwrap();
            let mut at = 0;
            for (i, s) in segments.enumerate() {
                prop_assert_eq!(s.offset, at);
                prop_assert_eq!(usize::from(s.header.index), i);
                prop_assert_eq!(s.header.id, id);
                prop_assert!(s.header.size as usize <= MAX_PAYLOAD && s.header.count <= MAX_FRAMES);
                at += s.header.size as usize;
            }
            prop_assert_eq!(at, len);
        }
    }
}
