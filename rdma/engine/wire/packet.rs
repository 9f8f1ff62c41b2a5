// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A parsed transport packet: the BTH, what follows it, and where the payload lies.

use super::{feth, Aeth, AtomicEth, Bth, Deth, FlushKind, Reth, WireError};
use crate::attrs::Mtu;
use crate::keys::Key;
use crate::limits;
use crate::opcode::{Class, Opcode, Place};

/// The transport headers of a received packet. The payload stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Base header.
    pub bth: Bth,
    /// Its service class.
    pub class: Class,
    /// Its decoded operation.
    pub opcode: Opcode,
    /// Key and source of a datagram.
    pub deth: Option<Deth>,
    /// What a FLUSH asks for.
    pub flush: Option<FlushKind>,
    /// Operands of an atomic.
    pub atomic: Option<AtomicEth>,
    /// The answer of an atomic: the value before.
    pub original: Option<u64>,
    /// The key a SEND invalidates.
    pub invalidate: Option<Key>,
    /// Address, key and length if the operation carries them.
    pub reth: Option<Reth>,
    /// Syndrome and MSN if the operation carries them.
    pub aeth: Option<Aeth>,
    /// Immediate data in wire order if the operation carries it.
    pub imm: Option<[u8; 4]>,
    /// Payload without the pad, counted from the start of the BTH.
    pub payload: Span,
    /// PSNs it takes, from the one in the BTH on: 1 of a packet on UDP, more of a run.
    pub packets: u32,
}

/// A range of payload bytes in the packet being handled, counted from the start of its BTH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Bytes from the start of the BTH.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Packet {
    /// Parse a packet. `head` holds its first bytes from the BTH on: all of it, or at least 64.
    /// `transport_len` is the length from the BTH through the pad, without the ICRC.
    ///
    /// An operation that is not supported parses with no extension header, so that its sender can
    /// be told.
    ///
    /// # Errors
    ///
    /// What keeps the bytes from being a packet of a service class we speak.
    pub fn parse(head: &[u8], transport_len: usize) -> Result<Self, WireError> {
        let (bytes, rest) = head.split_first_chunk().ok_or(WireError::Truncated)?;
        let bth = Bth::parse(bytes)?;
        let (class, opcode) = Opcode::decode(bth.opcode);
        if class == Class::Other {
            return Err(WireError::Class);
        }
        let mut cursor = Cursor { rest, offset: Bth::LEN };
        let deth = if class == Class::Ud {
            Some(Deth::parse(cursor.take()?))
        } else {
            None
        };
        let flush = if opcode == Opcode::Flush {
            Some(feth::parse(cursor.take()?))
        } else {
            None
        };
        let reth = if opcode.has_reth() {
            Some(Reth::parse(cursor.take()?))
        } else {
            None
        };
        let aeth = if opcode.has_aeth() {
            Some(Aeth::parse(cursor.take()?))
        } else {
            None
        };
        let atomic = if opcode.has_atomic() {
            Some(AtomicEth::parse(cursor.take()?))
        } else {
            None
        };
        let original = if opcode == Opcode::AtomicResponse {
            Some(u64::from_be_bytes(*cursor.take()?))
        } else {
            None
        };
        let invalidate = if matches!(opcode, Opcode::SendInvalidate { .. }) {
            Some(Key(u32::from_be_bytes(*cursor.take()?)))
        } else {
            None
        };
        let imm = if opcode.has_imm() { Some(*cursor.take()?) } else { None };
        let payload = transport_len
            .checked_sub(cursor.offset)
            .and_then(|n| n.checked_sub(usize::from(bth.pad)))
            .and_then(|n| u32::try_from(n).ok())
            .ok_or(WireError::Length)?;
        // `offset` is at most the length of the headers.
        let payload = Span {
            offset: cursor.offset as u32,
            len: payload,
        };
        Ok(Self {
            bth,
            class,
            opcode,
            deth,
            flush,
            atomic,
            original,
            invalidate,
            reth,
            aeth,
            imm,
            payload,
            packets: 1,
        })
    }

    /// The same as the head of a run of `packets` packets: headers once, and the payloads of all, of which each but the
    /// last fills the path MTU, one behind the other.
    #[must_use]
    pub const fn run(self, packets: u32) -> Self {
        Self { packets, ..self }
    }

    /// Whether it may come: only SENDs, WRITEs and READ responses go in runs, and those are bounded.
    pub(crate) const fn is_sound(&self) -> bool {
        match self.opcode {
            Opcode::Send { .. }
            | Opcode::SendInvalidate { .. }
            | Opcode::Write { .. }
            | Opcode::ReadResponse { .. } => self.packets >= 1 && self.packets <= limits::MAX_RUN,
            _ => self.packets == 1,
        }
    }

    /// Whether the payload is as long as that of so many packets of `mtu` at that place of a message can be. IBTA
    /// 9.7.4.1.6.
    pub(crate) const fn has_length(&self, place: Place, mtu: Mtu) -> bool {
        let len = self.payload.len;
        match place {
            Place::First | Place::Middle => len == mtu.bytes_of(self.packets),
            Place::Last => len > 0 && mtu.packets(len) == self.packets,
            Place::Only => mtu.packets(len) == self.packets,
        }
    }

    /// The run without its first `skipped` packets, fewer than it has, which have been carried out before.
    pub(crate) fn without(self, skipped: u32, mtu: Mtu) -> Self {
        let rest = |place: Place| Place::of(false, place.ends());
        let opcode = match self.opcode {
            Opcode::Send { place, imm } => Opcode::Send {
                place: rest(place),
                imm,
            },
            Opcode::SendInvalidate { place } => Opcode::SendInvalidate { place: rest(place) },
            Opcode::Write { place, imm } => Opcode::Write {
                place: rest(place),
                imm,
            },
            Opcode::ReadResponse { place } => Opcode::ReadResponse { place: rest(place) },
            other => other,
        };
        let bytes = mtu.bytes_of(skipped);
        Self {
            bth: Bth {
                psn: self.bth.psn.plus(skipped),
                ..self.bth
            },
            opcode,
            reth: None,
            payload: Span {
                offset: self.payload.offset.saturating_add(bytes),
                len: self.payload.len.saturating_sub(bytes),
            },
            packets: self.packets.saturating_sub(skipped),
            ..self
        }
    }
}

/// Walks the headers after the BTH.
struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let (part, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        self.offset = self.offset.wrapping_add(N);
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcode::Place;
    use crate::psn::{Msn, Psn, Qpn};
    use crate::wire::Syndrome;
    use proptest::prelude::*;

    #[test]
    fn a_write_only_with_immediate_parses() {
        let mut bytes = vec![0x0b, 0x10, 0xff, 0xff, 0, 0, 0, 0x12, 0x80, 0, 0, 9];
        bytes.extend([0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 5, 0, 0, 0, 7]);
        bytes.extend([1, 2, 3, 4]);
        bytes.extend([0xaa; 7]);
        bytes.extend([0]);
        let packet = Packet::parse(&bytes, bytes.len()).unwrap();
        assert_eq!(
            packet.opcode,
            Opcode::Write {
                place: Place::Only,
                imm: true
            }
        );
        assert_eq!(
            packet.reth,
            Some(Reth {
                va: 0x1000,
                rkey: Key(5),
                length: 7
            })
        );
        assert_eq!(packet.imm, Some([1, 2, 3, 4]));
        assert_eq!(packet.payload, Span { offset: 32, len: 7 });
        assert_eq!(packet.bth.psn, Psn::new(9));
    }

    #[test]
    fn an_ack_parses_and_has_no_payload() {
        let bytes = [0x11, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 2, 0x1f, 0, 0, 3];
        let packet = Packet::parse(&bytes, 16).unwrap();
        assert_eq!(
            packet.aeth,
            Some(Aeth {
                syndrome: Syndrome::ACK,
                msn: Msn::new(3)
            })
        );
        assert_eq!(packet.payload, Span { offset: 16, len: 0 });
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let bytes = [0x04, 0x30, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0];
        assert!(Packet::parse(&bytes, 15).is_ok());
        assert_eq!(Packet::parse(&bytes, 14), Err(WireError::Length));
        assert_eq!(Packet::parse(&bytes[..11], 11), Err(WireError::Truncated));
        let read = [0x0c, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 2, 0];
        assert_eq!(Packet::parse(&read, 13), Err(WireError::Truncated));
    }

    #[test]
    fn other_classes_are_refused() {
        let bytes = [0x84, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(Packet::parse(&bytes, 12), Err(WireError::Class));
    }

    #[test]
    fn a_datagram_has_its_key_and_source_before_the_immediate() {
        let mut bytes = vec![0x65, 0x10, 0xff, 0xff, 0, 0, 0, 0x12, 0, 0, 0, 9];
        bytes.extend([0, 0, 0x11, 0x11, 0, 0, 0, 5, 1, 2, 3, 4, 0xaa, 0xaa, 0xaa, 0]);
        let packet = Packet::parse(&bytes, bytes.len()).unwrap();
        assert_eq!(packet.class, Class::Ud);
        let deth = Deth {
            qkey: 0x1111,
            src: Qpn::new(5),
        };
        assert_eq!((packet.deth, packet.imm), (Some(deth), Some([1, 2, 3, 4])));
        assert_eq!(packet.payload, Span { offset: 24, len: 3 });
    }

    #[test]
    fn a_flush_has_its_kind_before_the_range() {
        let mut bytes = vec![0x1c, 0, 0xff, 0xff, 0, 0, 0, 0x12, 0x80, 0, 0, 9, 0, 0, 0, 0x12];
        bytes.extend([0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 5, 0, 0, 0, 7]);
        let packet = Packet::parse(&bytes, bytes.len()).unwrap();
        let kind = FlushKind { placement: 2, level: 1 };
        assert_eq!((packet.flush, packet.reth.unwrap().va), (Some(kind), 0x1000));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), len in 0usize..9000,
        ) {
            if let Ok(packet) = Packet::parse(&bytes, len) {
                let end = packet.payload.offset as usize + packet.payload.len as usize;
                prop_assert_eq!(end + usize::from(packet.bth.pad), len);
            }
        }
    }
}
