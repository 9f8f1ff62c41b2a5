// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A range of bytes that lie in several pieces of memory.

/// Show `each` the bytes `at..at + len` of what `segments` are together, piece by piece, until it returns false. False
/// if it did, or if there are not so many.
pub fn pieces<'a>(
    mut segments: impl Iterator<Item = &'a [u8]>,
    at: usize,
    len: usize,
    mut each: impl FnMut(&[u8]) -> bool,
) -> bool {
    let (mut skip, mut left) = (at, len);
    while left > 0 {
        let Some(segment) = segments.next() else {
            return false;
        };
        let Some(tail) = segment.get(skip..) else {
            skip = skip.saturating_sub(segment.len());
            continue;
        };
        skip = 0;
        let piece = tail.get(..left).unwrap_or(tail);
        if !piece.is_empty() && !each(piece) {
            return false;
        }
        left = left.saturating_sub(piece.len());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_of_every_division_is_what_it_is_in_one_piece() {
        let whole: Vec<u8> = (0..12).collect();
        for first in 0..=12 {
            for second in first..=12 {
                let segments = [&whole[..first], &whole[first..second], &whole[second..]];
                for at in 0..=13 {
                    for len in 0..=14 {
                        let mut seen = vec![];
                        let done = pieces(segments.into_iter(), at, len, |piece| {
                            seen.extend_from_slice(piece);
                            true
                        });
                        let wanted = whole.get(at..at + len);
                        assert_eq!(done, len == 0 || wanted.is_some(), "{at} {len}");
                        if let (true, Some(wanted)) = (done, wanted) {
                            assert_eq!(seen, wanted);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn who_has_seen_enough_is_shown_no_more() {
        let mut shown = 0;
        assert!(!pieces([&[1][..], &[2], &[3]].into_iter(), 0, 3, |_| {
            shown += 1;
            shown < 2
        }));
        assert_eq!(shown, 2);
    }
}
