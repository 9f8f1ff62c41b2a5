// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What both control protocols share: identities, the XDomain message header, byte helpers.
//!
//! A control message here is in the form that `tb_xdomain_request()` takes and a protocol handler
//! is given: 32-bit words in the host's order, which is little-endian on every machine this module
//! runs on; UUIDs and MAC addresses are plain bytes. The control channel of the kernel swaps every
//! word to big-endian on its way to the cable and appends a CRC.
//!
//! [`Message`] is a view of bytes whose lengths agree; the values in it are checked by the `Repr`
//! types, [`crate::stock::control::Control`] and [`crate::native::Status`].

use core::fmt;

/// Longest control message, without the CRC that the control channel appends (`TB_FRAME_SIZE`, 256).
pub const MAX_MESSAGE: usize = 252;

/// Words before the counted part of a message: route and length.
const UNCOUNTED: usize = 12;

/// Mask of the length field, in words.
const LENGTH_MASK: u32 = 0x3f;

/// Position of the 2-bit sequence number.
const SEQUENCE_SHIFT: u32 = 27;

/// A UUID as its 16 bytes in text order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The UUID whose hexadecimal digits, without the dashes, are those of `value`.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = u128::from_be_bytes(self.0);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

/// A route string: one byte per router on the way, as the local domain sees the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(pub u64);

impl Route {
    /// The route without the direction bit that the fabric sets on delivery.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value & !(1 << 63))
    }
}

/// A HopID: the number of a path's entry at a lane adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u16);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered address of our own making for this end of the cable: the same at every boot, and another
    /// one for each cable.
    #[must_use]
    pub fn of(ends: &Ends) -> Self {
        // FNV-1a, 64 bits.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for part in [&ends.local.0[..], &ends.route.0.to_le_bytes()] {
            for byte in part {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let [b0, b1, b2, b3, b4, b5, ..] = hash.to_le_bytes();
        Self([(b0 & 0xfc) | 0x02, b1, b2, b3, b4, b5])
    }
}

/// Why bytes are not a message for us. All of these mean: not ours, drop and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// Shorter than its headers say.
    Truncated,
    /// A length field contradicts another, or is out of range.
    Length,
    /// Another protocol, or a message type that we do not know.
    Protocol,
    /// A field has a value that it must not have.
    Value,
}

/// The two ends and the way between them: what a message must match to be of one cable.
///
/// The same route exists in every domain of a host, and two hosts may share several cables, so
/// nothing less than all three will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Our domain.
    pub local: Uuid,
    /// The peer's domain.
    pub remote: Uuid,
    /// The peer as our domain sees it.
    pub route: Route,
}

impl Ends {
    /// Whether `header` is of a message from the peer to us over this cable.
    #[must_use]
    pub fn received(&self, header: &Header) -> bool {
        header.initiator == self.remote && header.target == self.local && header.route == self.route
    }
}

/// The header of a control message: 68 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The other end as the domain sees it that holds the message.
    pub route: Route,
    /// 2-bit sequence number; a response repeats its request's.
    pub sequence: u8,
    /// Which control protocol.
    pub protocol: Uuid,
    /// The sender's domain.
    pub initiator: Uuid,
    /// The receiver's domain.
    pub target: Uuid,
    /// Message type, of the protocol.
    pub kind: u32,
    /// Running number of the sender's requests.
    pub command: u32,
}

impl Header {
    /// Length in a message.
    pub const LEN: usize = 68;
}

/// A control message whose lengths agree: header and body.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: Header,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// View `bytes` as a message.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] if shorter than a header, [`WireError::Length`] if the length field
    /// is not that of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let route_hi = r.u32()?;
        let route_lo = r.u32()?;
        let length = r.u32()?;
        let words = bytes.len().saturating_sub(UNCOUNTED) / 4;
        if bytes.len() % 4 != 0 || bytes.len() > MAX_MESSAGE || (length & LENGTH_MASK) as usize != words {
            return Err(WireError::Length);
        }
        let header = Header {
            route: Route::new((u64::from(route_hi) << 32) | u64::from(route_lo)),
            sequence: ((length >> SEQUENCE_SHIFT) & 3) as u8,
            protocol: Uuid(r.bytes()?),
            initiator: Uuid(r.bytes()?),
            target: Uuid(r.bytes()?),
            kind: r.u32()?,
            command: r.u32()?,
        };
        Ok(Self { header, body: r.rest() })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What follows the header.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// A control message being written, or ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct MessageBuf {
    bytes: [u8; MAX_MESSAGE],
    len: usize,
}

impl MessageBuf {
    /// A message of `header` with nothing after it.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let mut buf = Self {
            bytes: [0; MAX_MESSAGE],
            len: 0,
        };
        buf.put_u32((header.route.0 >> 32) as u32);
        buf.put_u32(header.route.0 as u32);
        buf.put_u32(u32::from(header.sequence & 3) << SEQUENCE_SHIFT);
        buf.put(&header.protocol.0);
        buf.put(&header.initiator.0);
        buf.put(&header.target.0);
        buf.put_u32(header.kind);
        buf.put_u32(header.command);
        buf
    }

    /// A message that has come, kept; `None` if it is too long to be one.
    #[must_use]
    pub fn copy_of(message: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_MESSAGE];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self {
            bytes,
            len: message.len(),
        })
    }

    /// The message with its length filled in.
    #[must_use]
    pub fn finish(mut self) -> Self {
        let words = (self.len.saturating_sub(UNCOUNTED) / 4) as u32 & LENGTH_MASK;
        // The sequence number is above bit 8, so the low byte holds the length alone.
        if let Some(byte) = self.bytes.get_mut(8) {
            *byte = words as u8;
        }
        self
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Append `part`. The messages of this crate always fit; what does not fit is left out.
    pub(crate) fn put(&mut self, part: &[u8]) {
        let end = self.len.saturating_add(part.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(part);
            self.len = end;
        }
    }

    /// Append a byte.
    pub(crate) fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Append two bytes, little-endian.
    pub(crate) fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Append four bytes, little-endian.
    pub(crate) fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Append eight bytes, little-endian.
    pub(crate) fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

/// Takes little-endian fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been taken.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        let [byte] = self.bytes()?;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}

/// Count one event. Wrapping 64-bit event counts, never reset.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            route: Route(0x0000_0102_0000_0003),
            sequence: 2,
            protocol: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            initiator: Uuid([1; 16]),
            target: Uuid([2; 16]),
            kind: 7,
            command: 0x0102_0304,
        }
    }

    #[test]
    fn a_header_has_its_bytes_in_place() {
        let mut buf = MessageBuf::new(&header());
        buf.put_u32(0xaabb_ccdd);
        let buf = buf.finish();
        let bytes = buf.as_bytes();
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[..12], [2, 1, 0, 0, 3, 0, 0, 0, 15, 0, 0, 0x10]);
        assert_eq!(bytes[12..16], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!(bytes[60..], [7, 0, 0, 0, 4, 3, 2, 1, 0xdd, 0xcc, 0xbb, 0xaa]);
        let message = Message::parse(bytes).unwrap();
        assert_eq!(*message.header(), header());
        assert_eq!(message.body(), [0xdd, 0xcc, 0xbb, 0xaa]);
    }

    #[test]
    fn the_direction_bit_is_no_part_of_the_route() {
        let mut bytes = MessageBuf::new(&header()).finish().as_bytes().to_vec();
        bytes[3] |= 0x80;
        assert_eq!(Message::parse(&bytes).unwrap().header().route, header().route);
    }

    #[test]
    fn a_length_that_is_not_the_messages_is_refused() {
        let good = MessageBuf::new(&header()).finish().as_bytes().to_vec();
        let mut bytes = good.clone();
        bytes[8] ^= 1;
        assert_eq!(Message::parse(&bytes).unwrap_err(), WireError::Length);
        bytes = good.clone();
        bytes.push(0);
        assert_eq!(Message::parse(&bytes).unwrap_err(), WireError::Length);
        assert_eq!(Message::parse(&good[..8]).unwrap_err(), WireError::Truncated);
    }

    #[test]
    fn all_three_of_initiator_target_and_route_must_match() {
        let ends = Ends {
            local: Uuid([2; 16]),
            remote: Uuid([1; 16]),
            route: header().route,
        };
        assert!(ends.received(&header()));
        for spoil in 0..3 {
            let mut h = header();
            match spoil {
                0 => h.route = Route(9),
                1 => h.initiator = Uuid([9; 16]),
                _ => h.target = Uuid([9; 16]),
            }
            assert!(!ends.received(&h));
        }
    }

    #[test]
    fn a_message_never_outgrows_its_buffer() {
        let mut buf = MessageBuf::new(&header());
        buf.put(&[1; 184]);
        buf.put(&[2]);
        assert_eq!(buf.as_bytes().len(), MAX_MESSAGE);
        assert_eq!(Message::parse(buf.finish().as_bytes()).unwrap().body().len(), 184);
    }

    #[test]
    fn a_message_is_kept_as_it_is_if_it_fits() {
        assert_eq!(MessageBuf::copy_of(&[7; 72]).unwrap().as_bytes(), [7; 72]);
        assert_eq!(
            MessageBuf::copy_of(&[7; MAX_MESSAGE]).unwrap().as_bytes().len(),
            MAX_MESSAGE
        );
        assert!(MessageBuf::copy_of(&[7; MAX_MESSAGE + 1]).is_none());
    }

    #[test]
    fn an_address_of_our_own_making_is_local_and_of_one_end_of_one_cable() {
        let ends = Ends {
            local: Uuid([1; 16]),
            remote: Uuid([2; 16]),
            route: Route::new(3),
        };
        let Mac(mac) = Mac::of(&ends);
        assert_eq!(mac[0] & 3, 2, "administered locally, of one station");
        assert_eq!(
            Mac::of(&Ends {
                remote: Uuid([9; 16]),
                ..ends
            }),
            Mac(mac)
        );
        assert_ne!(
            Mac::of(&Ends {
                local: Uuid([9; 16]),
                ..ends
            }),
            Mac(mac)
        );
        assert_ne!(
            Mac::of(&Ends {
                route: Route::new(1),
                ..ends
            }),
            Mac(mac)
        );
    }

    #[test]
    fn a_uuid_is_written_in_the_usual_way() {
        let text = format!("{:?}", Uuid::from_u128(0x798f_589e_3616_8a47_97c6_5664_a920_c8dd));
        assert_eq!(text, "798f589e-3616-8a47-97c6-5664a920c8dd");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.body().len() + Header::LEN, bytes.len());
            }
        }
    }
}
