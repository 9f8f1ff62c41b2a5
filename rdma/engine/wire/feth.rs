// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Flush extended transport header: IBTA volume 1 release 1.5, annex A19.

/// What a FLUSH asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlushKind {
    /// Placement type bits: 1 global visibility, 2 persistence.
    pub placement: u8,
    /// Selectivity level: 0 the range, 1 the whole region.
    pub level: u8,
}

/// Length on the wire.
pub(crate) const LEN: usize = 4;

/// Decode the header: placement type in bits 0 to 3, selectivity level in bits 4 and 5.
pub(crate) const fn parse(bytes: &[u8; LEN]) -> FlushKind {
    let [_, _, _, low] = *bytes;
    FlushKind {
        placement: low & 0x0f,
        level: (low >> 4) & 3,
    }
}

/// Encode the header; reserved bits are zero.
pub(crate) const fn bytes(kind: FlushKind) -> [u8; LEN] {
    [0, 0, 0, (kind.placement & 0x0f) | ((kind.level & 3) << 4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_six_bits_round_trip() {
        for low in 0..64u8 {
            assert_eq!(bytes(parse(&[0, 0, 0, low])), [0, 0, 0, low]);
        }
    }
}
