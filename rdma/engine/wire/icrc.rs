// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Invariant CRC of RoCEv2, IBTA 7.8.1 and Annex A17.3.
//!
//! A reflected CRC-32 (polynomial 0x04c11db7) over eight bytes of ones in place of the absent LRH,
//! then IP, UDP and BTH headers with the fields that routers may change replaced by ones, then the
//! rest of the packet through the pad. Its complement goes on the wire, least significant byte
//! first.

use super::WireError;

/// Reversed polynomial of CRC-32 (IEEE 802.3).
const POLYNOMIAL: u32 = 0xedb8_8320;

/// State after eight 0xff bytes from the initial all-ones state: the LRH that RoCEv2 lacks.
const SEED: u32 = 0xdebb_20e3;

/// Bytes one step of the sliced loop consumes.
const SLICE: usize = 16;

/// `TABLES[k][b]`: the state left by byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; SLICE] = tables();

/// Running ICRC.
///
/// A caller with a faster CRC of its own takes the state out with [`Icrc::state`] and puts it
/// back with [`Icrc::from_state`]; it is that of the usual `crc32_le(state, bytes)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icrc(u32);

impl Icrc {
    /// Length on the wire.
    pub const LEN: usize = 4;

    /// Start from the final IP and UDP headers: `headers` begins with the IPv4 or IPv6 header and
    /// ends with the 8 bytes of UDP. Fields that change on the way count as ones.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the bytes are not an IP header followed by exactly a UDP header.
    pub fn seed(headers: &[u8]) -> Result<Self, WireError> {
        let first = headers.first().copied().ok_or(WireError::Truncated)?;
        match first >> 4 {
            4 => {
                let mut bytes: [u8; 28] = headers.try_into().map_err(|_| WireError::Length)?;
                // TOS, TTL, header checksum and UDP checksum.
                for at in [1, 8, 10, 11, 26, 27] {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = 0xff;
                    }
                }
                Ok(Self(update(SEED, &bytes)))
            }
            6 => {
                let mut bytes: [u8; 48] = headers.try_into().map_err(|_| WireError::Length)?;
                // Traffic class and flow label, hop limit, UDP checksum.
                for at in [1, 2, 3, 7, 46, 47] {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = 0xff;
                    }
                }
                if let Some(byte) = bytes.first_mut() {
                    *byte |= 0x0f;
                }
                Ok(Self(update(SEED, &bytes)))
            }
            _ => Err(WireError::Version),
        }
    }

    /// Go on with the transport headers: `transport` begins with the BTH, whose reserved byte
    /// counts as ones, and may go on with any bytes after it.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] if there is no whole BTH.
    pub fn transport(self, transport: &[u8]) -> Result<Self, WireError> {
        let (bth, rest) = transport.split_first_chunk::<12>().ok_or(WireError::Truncated)?;
        let mut bth = *bth;
        bth[4] = 0xff;
        Ok(Self(update(update(self.0, &bth), rest)))
    }

    /// Go on with plain bytes: payload or pad.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        Self(update(self.0, bytes))
    }

    /// The four bytes that go on the wire.
    #[must_use]
    pub const fn finish(self) -> [u8; Self::LEN] {
        (!self.0).to_le_bytes()
    }

    /// The running state.
    #[must_use]
    pub const fn state(self) -> u32 {
        self.0
    }

    /// Continue from a state computed elsewhere.
    #[must_use]
    pub const fn from_state(state: u32) -> Self {
        Self(state)
    }
}

/// Advance a reflected CRC-32 state over `bytes`.
fn update(mut state: u32, bytes: &[u8]) -> u32 {
    let mut blocks = bytes.chunks_exact(SLICE);
    for block in &mut blocks {
        if let Ok(block) = <&[u8; SLICE]>::try_from(block) {
            state = step(state, block);
        }
    }
    for byte in blocks.remainder() {
        let index = (state as u8) ^ byte;
        state = entry(&TABLES[0], index) ^ (state >> 8);
    }
    state
}

/// Advance the state over one block of sixteen bytes with sixteen independent lookups.
fn step(state: u32, block: &[u8; SLICE]) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *block;
    let [s0, s1, s2, s3] = state.to_le_bytes();
    entry(&TABLES[15], a ^ s0)
        ^ entry(&TABLES[14], b ^ s1)
        ^ entry(&TABLES[13], c ^ s2)
        ^ entry(&TABLES[12], d ^ s3)
        ^ entry(&TABLES[11], e)
        ^ entry(&TABLES[10], f)
        ^ entry(&TABLES[9], g)
        ^ entry(&TABLES[8], h)
        ^ entry(&TABLES[7], i)
        ^ entry(&TABLES[6], j)
        ^ entry(&TABLES[5], k)
        ^ entry(&TABLES[4], l)
        ^ entry(&TABLES[3], m)
        ^ entry(&TABLES[2], n)
        ^ entry(&TABLES[1], o)
        ^ entry(&TABLES[0], p)
}

/// Table lookup; a byte is always in range, so no branch remains.
#[inline(always)]
fn entry(table: &[u32; 256], index: u8) -> u32 {
    match table.get(usize::from(index)) {
        Some(value) => *value,
        None => 0,
    }
}

/// Build the tables at compile time, where an index out of range would not compile.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
const fn tables() -> [[u32; 256]; SLICE] {
    let mut tables = [[0; 256]; SLICE];
    let mut byte = 0;
    while byte < 256 {
        let mut state = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            state = if state & 1 != 0 {
                (state >> 1) ^ POLYNOMIAL
            } else {
                state >> 1
            };
            bit += 1;
        }
        tables[0][byte] = state;
        byte += 1;
    }
    let mut k = 1;
    while k < SLICE {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made with Python: the headers by `struct`, the ICRC by `zlib.crc32` over eight 0xff bytes and
    // the masked packet.
    const V4: [u8; 28] = [
        0x45, 0x02, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x14, 0x79, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00,
        0x00, 0x02, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00,
    ];
    const V6: [u8; 48] = [
        0x6b, 0x85, 0x43, 0x21, 0x00, 0x28, 0x11, 0x3f, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x02, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00,
    ];
    const TRANSPORT: [u8; 28] = [
        0x04, 0x30, 0xff, 0xff, 0x00, 0x00, 0x00, 0x12, 0x80, 0xab, 0xcd, 0xef, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06,
        0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn the_icrc_of_a_v4_packet_is_that_of_a_foreign_implementation() {
        let icrc = Icrc::seed(&V4).unwrap().transport(&TRANSPORT).unwrap();
        assert_eq!(icrc.finish(), [0x42, 0xf9, 0x1a, 0x5a]);
    }

    #[test]
    fn the_icrc_of_a_v6_packet_is_that_of_a_foreign_implementation() {
        let icrc = Icrc::seed(&V6).unwrap().transport(&TRANSPORT).unwrap();
        assert_eq!(icrc.finish(), [0xa1, 0xef, 0xd6, 0x5f]);
    }

    #[test]
    fn the_check_value_of_crc_32_comes_out() {
        assert_eq!(!update(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(update(!0, &[0xff; 8]), SEED);
    }

    #[test]
    fn fields_that_routers_change_do_not_count() {
        let whole = Icrc::seed(&V4).unwrap();
        for at in [1, 8, 10, 11, 26, 27] {
            let mut bytes = V4;
            bytes[at] ^= 0x55;
            assert_eq!(Icrc::seed(&bytes).unwrap(), whole);
        }
        let mut bytes = V4;
        bytes[4] ^= 1;
        assert_ne!(Icrc::seed(&bytes).unwrap(), whole);
    }

    #[test]
    fn headers_of_the_wrong_length_are_refused() {
        assert_eq!(Icrc::seed(&[]), Err(WireError::Truncated));
        assert_eq!(Icrc::seed(&V4[..27]), Err(WireError::Length));
        assert_eq!(Icrc::seed(&[0x55; 28]), Err(WireError::Version));
        assert!(Icrc::from_state(0).transport(&[0; 11]).is_err());
    }

    proptest! {
        #[test]
        fn slices_of_any_shape_give_the_bytewise_crc(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, state: u32,
        ) {
            let slow = bytes.iter().fold(state, |mut s, b| {
                s ^= u32::from(*b);
                for _ in 0..8 {
                    s = if s & 1 != 0 { (s >> 1) ^ POLYNOMIAL } else { s >> 1 };
                }
                s
            });
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(Icrc::from_state(state).update(a).update(b).state(), slow);
        }
    }
}
