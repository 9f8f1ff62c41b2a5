// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The control channel's packets: big-endian words with a CRC-32C behind them. Layout: `drivers/thunderbolt/tb_msgs.h`.

/// Longest control packet in words, checksum excluded (the driver's buffers hold 256 bytes).
pub const MAX_WORDS: usize = 63;

/// Kinds of control packet: the protocol defined field (PDF) of the frame.
pub mod pdf {
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const NOTIFY: u8 = 3;
    pub const ACK: u8 = 4;
    pub const PLUG: u8 = 5;
    pub const XDOMAIN_REQUEST: u8 = 6;
    pub const XDOMAIN_RESPONSE: u8 = 7;
    pub const RESET: u8 = 9;
}

/// Codes of an error reply. Others are taken for asynchronous notifications by the driver.
pub mod error {
    pub const NOT_CONNECTED: u32 = 0;
    pub const BAD_SPACE: u32 = 2;
    pub const NO_SUCH_ADAPTER: u32 = 4;
    /// Any code that fails the read will do for "another domain is there"; this one the driver has no special case for.
    pub const FOREIGN_DOMAIN: u32 = 9;
}

/// Set in the first word of everything that goes to the host.
pub const TO_HOST: u32 = 1 << 31;

/// One control packet without its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub pdf: u8,
    pub words: Vec<u32>,
}

/// Why bytes are not a control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    Length,
    Checksum,
}

impl Packet {
    /// Checks and decodes a frame of ring 0.
    ///
    /// # Errors
    /// [`PacketError`] if the length is not that of two words and a checksum at least, or the checksum is wrong.
    pub fn parse(pdf: u8, bytes: &[u8]) -> Result<Packet, PacketError> {
        if bytes.len() % 4 != 0 || bytes.len() < 12 || bytes.len() > 4 * (MAX_WORDS + 1) {
            return Err(PacketError::Length);
        }
        let (body, tail) = bytes.split_at(bytes.len() - 4);
        if tail != crc32c(body).to_be_bytes() {
            return Err(PacketError::Checksum);
        }
        let words = body
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        Ok(Packet {
            pdf,
            words: words.collect(),
        })
    }

    /// The frame's bytes, checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend_from_slice(&crc32c(&bytes).to_be_bytes());
        bytes
    }

    /// Route: one byte per hop, the adapter to leave by; 0 is the host router itself.
    pub fn route(&self) -> u64 {
        let (high, low) = (
            self.words.first().copied().unwrap_or(0),
            self.words.get(1).copied().unwrap_or(0),
        );
        u64::from(high & 0x003f_ffff) << 32 | u64::from(low)
    }
}

/// Configuration space of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Path,
    Adapter,
    Router,
    Counters,
}

/// The address word of a configuration request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u32);

impl Address {
    pub fn offset(self) -> usize {
        (self.0 & 0x1fff) as usize
    }

    pub fn length(self) -> usize {
        (self.0 >> 13 & 0x3f) as usize
    }

    pub fn adapter(self) -> usize {
        (self.0 >> 19 & 0x3f) as usize
    }

    pub fn space(self) -> Space {
        match self.0 >> 25 & 3 {
            0 => Space::Path,
            1 => Space::Adapter,
            2 => Space::Router,
            _ => Space::Counters,
        }
    }

    /// The same address with another adapter number.
    pub fn with_adapter(self, adapter: usize) -> Address {
        Address(self.0 & !(0x3f << 19) | (adapter as u32 & 0x3f) << 19)
    }
}

/// The finished CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| CRC_TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8;
    !bytes.iter().fold(!0, step)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_published_check_value() {
        // The check value of CRC-32C in the catalogues, and RFC 3720 B.4's 32 zero bytes.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn packets_survive_the_round_trip_and_damage_is_seen() {
        let packet = Packet {
            pdf: pdf::READ,
            words: vec![TO_HOST, 3, 0x1234_5678],
        };
        let mut bytes = packet.to_bytes();
        assert_eq!(Packet::parse(pdf::READ, &bytes), Ok(packet));
        bytes[5] ^= 1;
        assert_eq!(Packet::parse(pdf::READ, &bytes), Err(PacketError::Checksum));
        assert_eq!(Packet::parse(pdf::READ, &bytes[..10]), Err(PacketError::Length));
        assert_eq!(Packet::parse(pdf::READ, &[]), Err(PacketError::Length));
    }

    #[test]
    fn address_words_come_apart() {
        let address = Address(0x11 | 3 << 13 | 5 << 19 | 1 << 25 | 2 << 27);
        assert_eq!((address.offset(), address.length(), address.adapter()), (0x11, 3, 5));
        assert_eq!(address.space(), Space::Adapter);
        assert_eq!(address.with_adapter(3).adapter(), 3);
        assert_eq!(address.with_adapter(3).0 >> 27, 2);
    }
}
