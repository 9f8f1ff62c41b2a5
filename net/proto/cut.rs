// SPDX-License-Identifier: GPL-2.0 OR MIT
//! How a packet in memory is cut into the inline part of a head frame and page frames.
//!
//! ```text
//!   segments     [ linear part ][ fragment ][     fragment      ] ...
//!   cut          inline | page  | page      | page | page | page |
//! ```
//!
//! The front of the packet goes inline: at least the headers, which the receiver needs in one piece. What is behind it
//! is cut at segment ends and every 4096 bytes, so each page frame is one contiguous piece of memory that the DMA reads
//! where it is. Where that makes more pieces than a train may have, more of the front goes inline; where not even that
//! helps, [`Cut::Copied`]: everything behind the inline part is to be copied into whole frames.

use crate::limits::MAX_FRAME;

/// Packets up to this length go inline whole: copying them is cheaper than another descriptor and a mapping.
pub const COPY_WHOLE: usize = 2048;

/// A linear part up to this length goes inline whole: it is headers and little else.
const COPY_LINEAR: usize = 512;

/// Most segments that are looked at: a linear part and the fragments of the largest skb that a kernel can be configured
/// for.
pub const MAX_SEGMENTS: usize = 46;

/// How a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// `pages` pieces behind the inline part, see [`pieces`].
    Direct {
        /// Bytes that are copied behind the frame header.
        inline: usize,
        /// Page frames.
        pages: u8,
    },
    /// What is behind the inline part is copied into `pages` frames, all but the last of 4096 bytes.
    Copied {
        /// Bytes that are copied behind the frame header.
        inline: usize,
        /// Page frames.
        pages: u8,
    },
}

impl Cut {
    /// Bytes inline and page frames.
    #[must_use]
    pub const fn shape(self) -> (usize, u8) {
        match self {
            Self::Direct { inline, pages } | Self::Copied { inline, pages } => (inline, pages),
        }
    }
}

/// Decide for a run of queue pairs' packets with `payload` bytes, of which `pieces` of memory can be read by the DMA,
/// or 0 if all is copied: payload behind the headers in the head frame, and page frames. What is copied and short goes
/// with the headers.
#[must_use]
pub const fn cut_run(payload: usize, pieces: usize) -> (usize, usize) {
    match pieces {
        0 if payload <= COPY_WHOLE => (payload, 0),
        0 => (0, payload.div_ceil(MAX_FRAME)),
        pieces => (0, pieces),
    }
}

/// Decide for a packet whose memory is `segments` (lengths, the linear part first), of which the first `headers` bytes
/// must be inline, `room` bytes can be, and at most `max_pages` page frames may follow. `None` where it cannot be sent
/// at all.
#[must_use]
pub fn cut(segments: &[u32], headers: usize, room: usize, max_pages: u8) -> Option<Cut> {
    let total = segments
        .iter()
        .fold(0usize, |sum, len| sum.saturating_add(*len as usize));
    if total <= room && total <= COPY_WHOLE.max(headers) {
        return Some(Cut::Direct {
            inline: total,
            pages: 0,
        });
    }
    let headers = headers.min(total);
    if headers > room {
        return None;
    }
    let linear = segments.first().map_or(0, |len| *len as usize);
    let mut inline = if linear <= COPY_LINEAR.min(room) {
        linear.max(headers)
    } else {
        headers
    };
    loop {
        let pages = count(segments, inline);
        if let Some(pages) = u8::try_from(pages).ok().filter(|pages| *pages <= max_pages) {
            return Some(Cut::Direct { inline, pages });
        }
        // One piece less: up to the end of the first piece behind the inline part.
        let Some(first) = pieces(segments, inline).next() else {
            break;
        };
        // The remainder at the end of its segment is the shortest thing that saves a page.
        let left = segments
            .get(first.segment)
            .map_or(0, |len| (*len as usize).saturating_sub(first.offset));
        let step = match left % MAX_FRAME {
            0 => left.min(MAX_FRAME),
            rest => rest,
        };
        let more = inline.saturating_add(step);
        if more > room {
            break;
        }
        inline = more;
    }
    let inline = headers;
    let pages = total.saturating_sub(inline).div_ceil(MAX_FRAME);
    let pages = u8::try_from(pages).ok().filter(|pages| *pages <= max_pages)?;
    Some(Cut::Copied { inline, pages })
}

/// A piece of a packet that becomes one page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which segment.
    pub segment: usize,
    /// First byte in the segment.
    pub offset: usize,
    /// Bytes, 1 to 4096.
    pub len: usize,
    /// First of its segment that is a piece.
    pub first: bool,
    /// Last of its segment.
    pub last: bool,
}

/// The pieces of `segments` behind the first `inline` bytes, in order.
pub fn pieces(segments: &[u32], inline: usize) -> Pieces<'_> {
    Pieces {
        segments,
        segment: 0,
        offset: 0,
        skip: inline,
        first: true,
    }
}

/// See [`pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    segments: &'a [u32],
    segment: usize,
    offset: usize,
    skip: usize,
    first: bool,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let len = *self.segments.get(self.segment)? as usize;
            let left = len.saturating_sub(self.offset);
            let skip = self.skip.min(left);
            self.skip = self.skip.saturating_sub(skip);
            self.offset = self.offset.saturating_add(skip);
            let left = left.saturating_sub(skip);
            if left == 0 {
                self.segment = self.segment.saturating_add(1);
                self.offset = 0;
                self.first = true;
                continue;
            }
            let piece = Piece {
                segment: self.segment,
                offset: self.offset,
                len: left.min(MAX_FRAME),
                first: self.first,
                last: left <= MAX_FRAME,
            };
            self.offset = self.offset.saturating_add(piece.len);
            self.first = false;
            return Some(piece);
        }
    }
}

/// Pieces behind the first `inline` bytes, without looking at each.
fn count(segments: &[u32], inline: usize) -> usize {
    let mut skip = inline;
    let mut pages = 0usize;
    for len in segments {
        let len = *len as usize;
        let skipped = skip.min(len);
        skip = skip.saturating_sub(skipped);
        pages = pages.saturating_add(len.saturating_sub(skipped).div_ceil(MAX_FRAME));
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_by_what_the_dma_reads_or_into_whole_frames() {
        assert_eq!([cut_run(0, 0), cut_run(2048, 0)], [(0, 0), (2048, 0)]);
        assert_eq!([cut_run(2049, 0), cut_run(4097, 0)], [(0, 1), (0, 2)]);
        assert_eq!([cut_run(65_536, 0), cut_run(65_536, 17)], [(0, 16), (0, 17)]);
    }
    use crate::frame::Eth;
    use crate::limits::{MAX_PAGES, MAX_SUPER_PACKET};
    use proptest::prelude::*;

    const ROOM: usize = Eth::MAX_INLINE;

    #[test]
    fn a_short_packet_goes_inline_whole() {
        assert_eq!(cut(&[98], 14, ROOM, 17), Some(Cut::Direct { inline: 98, pages: 0 }));
        assert_eq!(
            cut(&[66, 1448], 66, ROOM, 17),
            Some(Cut::Direct { inline: 1514, pages: 0 })
        );
    }

    #[test]
    fn a_super_packet_of_whole_pages_keeps_them_whole() {
        let mut segments = vec![66u32];
        segments.extend([4096; 15]);
        assert_eq!(
            cut(&segments, 66, ROOM, 17),
            Some(Cut::Direct { inline: 66, pages: 15 })
        );
        assert!(pieces(&segments, 66).all(|p| p.offset == 0 && p.len == 4096 && p.first && p.last));
    }

    #[test]
    fn a_large_fragment_is_mapped_once_and_cut_in_pages() {
        let list: Vec<_> = pieces(&[66, 10_000], 66).collect();
        assert_eq!(list.iter().map(|p| p.len).collect::<Vec<_>>(), [4096, 4096, 1808]);
        assert!(list[0].first && !list[1].first && list[2].last && !list[1].last);
    }

    #[test]
    fn a_long_linear_part_keeps_its_headers_inline() {
        assert_eq!(cut(&[9000], 54, ROOM, 17), Some(Cut::Direct { inline: 54, pages: 3 }));
    }

    #[test]
    fn too_many_pieces_are_made_fewer_by_more_inline() {
        // 17 fragments, one of which needs two frames.
        let mut segments = vec![66u32, 3000, 4097];
        segments.extend([3900; 15]);
        let Some(Cut::Direct { inline, pages }) = cut(&segments, 66, ROOM, 17) else {
            panic!()
        };
        assert_eq!((inline, pages), (3066, 17));
    }

    #[test]
    fn crumbs_are_copied() {
        let segments = [100u32; 45];
        let Some(Cut::Copied { inline, pages }) = cut(&segments, 66, 1000, 17) else {
            panic!()
        };
        assert_eq!((inline, pages), (66, 2));
    }

    #[test]
    fn what_no_train_can_carry_is_refused() {
        assert_eq!(cut(&[66, 80_000], 66, ROOM, 17), None);
        assert_eq!(cut(&[5000], 4500, ROOM, 17), None);
    }

    proptest! {
        /// Whatever the packet: no byte twice, none lost, no frame too long, no more of them than said.
        #[test]
        fn every_byte_goes_once(
            segments in proptest::collection::vec(0u32..20_000, 1..46),
            headers in 14usize..200,
            max_pages in 1u8..=17,
        ) {
            let total: usize = segments.iter().map(|l| *l as usize).sum();
            match cut(&segments, headers, ROOM, max_pages) {
                None => prop_assert!(total - headers.min(total) > usize::from(max_pages) * 4096),
                Some(how) => {
                    let (inline, pages) = how.shape();
                    prop_assert!(inline <= ROOM && inline >= headers.min(total) && pages <= max_pages);
                    prop_assert!(usize::from(pages) <= MAX_PAGES);
                    if let Cut::Direct { .. } = how {
                        let list: Vec<_> = pieces(&segments, inline).collect();
                        prop_assert_eq!(list.len(), usize::from(pages));
                        prop_assert_eq!(inline + list.iter().map(|p| p.len).sum::<usize>(), total);
                        let mut at = inline;
                        for p in &list {
                            prop_assert!(p.len >= 1 && p.len <= 4096);
                            let before: usize = segments[..p.segment].iter().map(|l| *l as usize).sum();
                            prop_assert_eq!(before + p.offset, at);
                            at += p.len;
                            prop_assert_eq!(p.last, p.offset + p.len == segments[p.segment] as usize);
                        }
                    } else {
                        prop_assert_eq!(usize::from(pages), (total - inline).div_ceil(4096));
                    }
                }
            }
        }

        /// A packet as the stack makes it (17 fragments, 64 KiB and some) always fits.
        #[test]
        fn what_the_stack_sends_fits(
            cuts in proptest::collection::vec(1u32..65_000, 0..16),
            len in 15usize..=MAX_SUPER_PACKET,
        ) {
            let mut edges: Vec<u32> = cuts.into_iter().filter(|c| (*c as usize) < len - 14).collect();
            edges.sort_unstable();
            edges.dedup();
            let mut segments = vec![14u32];
            let mut at = 0;
            for edge in edges.iter().copied().chain([(len - 14) as u32]) {
                segments.push(edge - at);
                at = edge;
            }
            prop_assert!(cut(&segments, 14, ROOM, 17).is_some());
        }
    }
}
