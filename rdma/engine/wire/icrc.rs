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
