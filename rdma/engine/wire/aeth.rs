// SPDX-License-Identifier: GPL-2.0 OR MIT
//! ACK extended transport header, IBTA 9.3.5 and 9.7.5.2 (syndromes, table 44).

use crate::psn::Msn;

/// Why the responder refused (IBTA table 46).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NakCode {
    /// A packet is missing: send again from this PSN.
    Sequence,
    /// The request makes no sense or is not allowed.
    InvalidRequest,
    /// Key, range or right refused.
    RemoteAccess,
    /// The responder failed for its own reasons.
    RemoteOperation,
    /// Any other code; treated as a remote operational error.
    Other(u8),
}

/// The syndrome byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Syndrome {
    /// Positive acknowledgement with a 5-bit credit code; 31 means no limit.
    Ack(u8),
    /// Receiver not ready, with the 5-bit timer code to wait.
    Rnr(u8),
    /// Refused.
    Nak(NakCode),
    /// A reserved kind.
    Reserved(u8),
}

impl Syndrome {
    /// The acknowledgement we always send: no credit limit.
    pub const ACK: Self = Self::Ack(0x1f);

    /// Decode the byte.
    #[must_use]
    pub const fn parse(byte: u8) -> Self {
        let low = byte & 0x1f;
        match byte & 0xe0 {
            0x00 => Self::Ack(low),
            0x20 => Self::Rnr(low),
            0x60 => Self::Nak(match low {
                0 => NakCode::Sequence,
                1 => NakCode::InvalidRequest,
                2 => NakCode::RemoteAccess,
                3 => NakCode::RemoteOperation,
                _ => NakCode::Other(low),
            }),
            _ => Self::Reserved(byte),
        }
    }

    /// Encode the byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ack(credit) => credit & 0x1f,
            Self::Rnr(timer) => 0x20 | (timer & 0x1f),
            Self::Nak(code) => {
                0x60 | match code {
                    NakCode::Sequence => 0,
                    NakCode::InvalidRequest => 1,
                    NakCode::RemoteAccess => 2,
                    NakCode::RemoteOperation => 3,
                    NakCode::Other(low) => low & 0x1f,
                }
            }
            Self::Reserved(byte) => byte,
        }
    }
}

/// Syndrome and message sequence number: 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aeth {
    /// The answer.
    pub syndrome: Syndrome,
    /// Messages completed by the responder.
    pub msn: Msn,
}

impl Aeth {
    /// Length on the wire.
    pub const LEN: usize = 4;

    /// Decode the header; every bit pattern is one.
    #[must_use]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [s, a, b, c] = *bytes;
        Self {
            syndrome: Syndrome::parse(s),
            msn: Msn::new(u32::from_be_bytes([0, a, b, c])),
        }
    }

    /// Encode the header.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [_, a, b, c] = self.msn.value().to_be_bytes();
        [self.syndrome.byte(), a, b, c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_syndrome_byte_round_trips() {
        for byte in 0..=255u8 {
            let bytes = [byte, 1, 2, 3];
            assert_eq!(Aeth::parse(&bytes).bytes(), bytes);
        }
    }

    #[test]
    fn syndromes_have_the_values_of_the_specification() {
        assert_eq!(Syndrome::ACK.byte(), 0x1f);
        assert_eq!(Syndrome::Rnr(12).byte(), 0x2c);
        assert_eq!(Syndrome::Nak(NakCode::Sequence).byte(), 0x60);
        assert_eq!(Syndrome::Nak(NakCode::InvalidRequest).byte(), 0x61);
        assert_eq!(Syndrome::Nak(NakCode::RemoteAccess).byte(), 0x62);
        assert_eq!(Syndrome::Nak(NakCode::RemoteOperation).byte(), 0x63);
    }
}
