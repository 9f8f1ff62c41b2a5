// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Frames of the native message lane: markers, the 16-byte frame header, what follows it.
//!
//! A frame has a start and an end marker of 4 bits (SOF, EOF) beside its bytes. SOF is always 1, as
//! in every driver that is known to work; all meaning is in EOF, which never has a value of SOF:
//!
//! | frame | SOF | EOF |
//! |---|---|---|
//! | head | 1 | 2 |
//! | page | 1 | 3 + ring sequence mod 13 |
//!
//! Frame header, first in every head frame; little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 ETH, 2 ROCE, 3 CTRL |
//! | 1 | 1 | flags: bit 0, answer with credit |
//! | 2 | 2 | inline length: bytes of this frame after the header |
//! | 4 | 4 | ring sequence of this frame |
//! | 8 | 4 | credit: the receiver of this frame may send frames with a sequence below it |
//! | 12 | 4 | bits 0 to 23: bytes in page frames; bits 24 to 31: page frames |
//!
//! [`Head`] is a view of a head frame whose lengths agree. [`Eth`], [`Roce`] and [`Ctrl`] are what
//! follows, checked.

use crate::direct::{Ask, Grant, Request};
use crate::ledger::Report;
use crate::limits::{MAX_FRAME, MAX_PAGES, MAX_SUPER_PACKET};
use crate::wire::{Reader, WireError};

/// SOF of every frame.
pub const SOF: u8 = 1;

/// EOF of a head frame.
pub const EOF_HEAD: u8 = 2;

/// EOF of a page frame whose sequence is a multiple of [`EOF_PAGES`].
const EOF_PAGE: u8 = 3;

/// Number of different EOF of page frames.
pub const EOF_PAGES: u32 = 13;

/// SOF that the receive ring accepts.
pub const SOF_MASK: u16 = 1 << SOF;

/// EOF that the receive ring accepts.
pub const EOF_MASK: u16 = 0xfffc;

/// Flag: the sender has no credit and waits for some.
const FLAG_PROBE: u8 = 1;

/// Most bytes after the frame header.
pub const MAX_INLINE: usize = MAX_FRAME - Header::LEN;

/// Place of a frame in all frames of its ring, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// The sequence of the first frame of lane `lane`, sent by the side with epoch `from` to the
    /// side with epoch `to`. Frames of a former pair are thus far off.
    #[must_use]
    pub const fn first(from: u64, to: u64, lane: u8) -> Self {
        let mixed = from ^ to.rotate_left(32) ^ ((lane as u64) << 56);
        let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed >> 32) as u32)
    }

    /// The sequence `n` frames later.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The sequence `n` frames earlier.
    #[must_use]
    pub const fn minus(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// Signed distance from `base`.
    #[must_use]
    pub const fn offset(self, base: Self) -> i32 {
        self.0.wrapping_sub(base.0) as i32
    }

    /// EOF of the page frame with this sequence.
    #[must_use]
    pub const fn page_eof(self) -> u8 {
        // Below 16, so it fits.
        EOF_PAGE.wrapping_add((self.0 % EOF_PAGES) as u8)
    }
}

/// The length field of a descriptor for a frame of `len` bytes, 1 to 4096: 4096 is 0.
#[must_use]
pub const fn size_field(len: usize) -> u16 {
    (len % MAX_FRAME) as u16
}

/// The bytes of a frame whose descriptor has the length field `field`.
#[must_use]
pub const fn frame_len(field: u16) -> usize {
    match field as usize % MAX_FRAME {
        0 => MAX_FRAME,
        len => len,
    }
}

/// What a train carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An Ethernet packet.
    Eth,
    /// Packets of the RDMA transport.
    Roce,
    /// Credits and other business of the lane.
    Ctrl,
}

/// The frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the train carries.
    pub kind: Kind,
    /// The sender has no credit and waits for some.
    pub probe: bool,
    /// Bytes of this frame after the header.
    pub inline_len: u16,
    /// Ring sequence of this frame.
    pub seq: Seq,
    /// The receiver may send frames with a sequence below this on the lane's other ring.
    pub credit: Seq,
    /// Page frames of the train.
    pub pages: u8,
    /// Bytes in the page frames, below 2^24.
    pub page_bytes: u32,
}

impl Header {
    /// Length on the wire.
    pub const LEN: usize = 16;

    /// Decode and check the header of a head frame `frame`, of which at least the header is given
    /// and which is `frame_len` bytes long.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] if the header or inline bytes are missing, [`WireError::Protocol`]
    /// for an unknown kind, [`WireError::Length`] for counts that contradict each other.
    pub fn parse(frame: &[u8], frame_len: usize) -> Result<Self, WireError> {
        let mut r = Reader::new(frame);
        let kind = match r.u8()? {
            1 => Kind::Eth,
            2 => Kind::Roce,
            3 => Kind::Ctrl,
            _ => return Err(WireError::Protocol),
        };
        let flags = r.u8()?;
        let inline_len = r.u16()?;
        let (seq, credit) = (Seq(r.u32()?), Seq(r.u32()?));
        let pages = r.u32()?;
        let (pages, page_bytes) = ((pages >> 24) as u8, pages & 0x00ff_ffff);
        if usize::from(inline_len) > frame_len.min(MAX_FRAME).saturating_sub(Self::LEN) {
            return Err(WireError::Truncated);
        }
        let most = usize::from(pages).saturating_mul(MAX_FRAME);
        if usize::from(pages) > MAX_PAGES
            || page_bytes as usize > most
            || (page_bytes as usize) < usize::from(pages)
            || (kind == Kind::Ctrl && pages != 0)
        {
            return Err(WireError::Length);
        }
        Ok(Self {
            kind,
            probe: flags & FLAG_PROBE != 0,
            inline_len,
            seq,
            credit,
            pages,
            page_bytes,
        })
    }

    /// Encode the header.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let kind = match self.kind {
            Kind::Eth => 1,
            Kind::Roce => 2,
            Kind::Ctrl => 3,
        };
        let flags = if self.probe { FLAG_PROBE } else { 0 };
        let [a, b] = self.inline_len.to_le_bytes();
        let [c, d, e, f] = self.seq.0.to_le_bytes();
        let [g, h, i, j] = self.credit.0.to_le_bytes();
        let [k, l, m, _] = self.page_bytes.to_le_bytes();
        [kind, flags, a, b, c, d, e, f, g, h, i, j, k, l, m, self.pages]
    }

    /// Ring sequence of the train's first frame.
    #[must_use]
    pub const fn first(&self) -> Seq {
        self.seq.minus(self.pages as u32)
    }

    /// Bytes of the train after frame headers: inline and in pages.
    #[must_use]
    pub const fn total(&self) -> usize {
        (self.inline_len as usize).saturating_add(self.page_bytes as usize)
    }
}

/// A view of the inline bytes of a head frame, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// Metadata and the inline part of an Ethernet packet.
    Eth(Eth, &'a [u8]),
    /// Metadata and the inline part (transport headers first) of a run of transport packets.
    Roce(Roce, &'a [u8]),
    /// Business of the lane; the rest is the operation's.
    Ctrl(Ctrl, &'a [u8]),
}

impl<'a> Head<'a> {
    /// View `frame` (from the frame header on) as its checked `header` says.
    ///
    /// # Errors
    ///
    /// As the `parse` of the kind; [`WireError::Truncated`] if inline bytes are missing in `frame`.
    pub fn parse(header: &Header, frame: &'a [u8]) -> Result<Self, WireError> {
        let end = Header::LEN.saturating_add(usize::from(header.inline_len));
        let body = frame.get(Header::LEN..end).ok_or(WireError::Truncated)?;
        let mut r = Reader::new(body);
        Ok(match header.kind {
            Kind::Eth => {
                let eth = Eth::parse(&r.bytes()?, header)?;
                Self::Eth(eth, r.rest())
            }
            Kind::Roce => {
                let fixed = r.bytes()?;
                let window = match Roce::asks(&fixed) {
                    true => Some(Request::parse(&r.bytes()?)?),
                    false => None,
                };
                let roce = Roce::parse(&fixed, window, header)?;
                Self::Roce(roce, r.rest())
            }
            Kind::Ctrl => {
                let ctrl = Ctrl::parse(&r.bytes()?);
                Self::Ctrl(ctrl, r.rest())
            }
        })
    }
}

/// Segmentation that the receiver does, or leaves undone, in the sense of virtio-net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gso {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, segment by segment.
    Udp,
}

/// Metadata of an Ethernet packet: 12 bytes, in the sense of virtio-net.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | flags: bit 0, checksum to be completed; bit 1, checksum verified |
/// | 1 | 1 | segmentation: 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP; bit 7, ECN |
/// | 2 | 2 | length of the headers, with segmentation |
/// | 4 | 2 | payload of a segment, with segmentation |
/// | 6 | 2 | checksum start, from the Ethernet header on |
/// | 8 | 2 | checksum place, from the checksum start on |
/// | 10 | 2 | 0 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eth {
    /// What is to be done about the checksum.
    pub checksum: Checksum,
    /// The packet stands for several.
    pub gso: Option<Segmentation>,
}

/// The state of a packet's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing known: check it as usual.
    #[default]
    Unknown,
    /// Known to be right.
    Verified,
    /// Not computed: the field holds the pseudo-header's sum. Every frame had the link's CRC.
    Partial {
        /// First byte that is summed, from the Ethernet header on.
        start: u16,
        /// Place of the field, from `start` on.
        offset: u16,
    },
}

/// How a packet would be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Which protocol.
    pub kind: Gso,
    /// Congestion was experienced, or may be marked.
    pub ecn: bool,
    /// Length of the headers that every segment repeats.
    pub header_len: u16,
    /// Payload of a segment.
    pub size: u16,
}

impl Eth {
    /// Length on the wire.
    pub const LEN: usize = 12;

    /// Most inline bytes of the packet itself.
    pub const MAX_INLINE: usize = MAX_INLINE - Self::LEN;

    /// Length of an Ethernet header.
    const ETHERNET: usize = 14;

    /// Decode the metadata of a train with `header`.
    ///
    /// # Errors
    ///
    /// [`WireError::Length`] if the packet is shorter than an Ethernet header, its header is not
    /// inline, or it is longer than a super-packet; [`WireError::Value`] for fields that point out
    /// of the packet or contradict each other.
    pub fn parse(bytes: &[u8; Self::LEN], header: &Header) -> Result<Self, WireError> {
        let [flags, gso, rest @ ..] = *bytes;
        let mut r = Reader::new(&rest);
        let (header_len, size, start, offset) = (r.u16()?, r.u16()?, r.u16()?, r.u16()?);
        let inline = usize::from(header.inline_len).saturating_sub(Self::LEN);
        let total = header.total().saturating_sub(Self::LEN);
        if inline < Self::ETHERNET || total > MAX_SUPER_PACKET {
            return Err(WireError::Length);
        }
        let checksum = match flags & 3 {
            0 => Checksum::Unknown,
            2 => Checksum::Verified,
            1 => {
                let field_end = usize::from(start).saturating_add(usize::from(offset)).saturating_add(2);
                if usize::from(start) < Self::ETHERNET || field_end > inline {
                    return Err(WireError::Value);
                }
                Checksum::Partial { start, offset }
            }
            _ => return Err(WireError::Value),
        };
        let kind = match gso & 0x7f {
            0 => None,
            1 => Some(Gso::Tcp4),
            4 => Some(Gso::Tcp6),
            5 => Some(Gso::Udp),
            _ => return Err(WireError::Value),
        };
        let gso = match kind {
            None => None,
            Some(kind) => {
                let headers = usize::from(header_len);
                // A segment's checksum is computed anew, so there must be a place for it.
                let partial = matches!(checksum, Checksum::Partial { .. });
                if size == 0 || headers < Self::ETHERNET || headers > inline || headers >= total || !partial {
                    return Err(WireError::Value);
                }
                Some(Segmentation {
                    kind,
                    ecn: gso & 0x80 != 0,
                    header_len,
                    size,
                })
            }
        };
        Ok(Self { checksum, gso })
    }

    /// Encode the metadata.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Unknown => (0, 0, 0),
            Checksum::Verified => (2, 0, 0),
            Checksum::Partial { start, offset } => (1, start, offset),
        };
        let (gso, header_len, size) = match self.gso {
            None => (0, 0, 0),
            Some(s) => {
                let kind = match s.kind {
                    Gso::Tcp4 => 1,
                    Gso::Tcp6 => 4,
                    Gso::Udp => 5,
                };
                (if s.ecn { kind | 0x80 } else { kind }, s.header_len, s.size)
            }
        };
        let [a, b] = header_len.to_le_bytes();
        let [c, d] = size.to_le_bytes();
        let [e, f] = start.to_le_bytes();
        let [g, h] = offset.to_le_bytes();
        [flags, gso, a, b, c, d, e, f, g, h, 0, 0]
    }
}

/// Where the ledgers of a lane stand, in the head of a train with a token ([`crate::ledger`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Every train of the sender below it has been told.
    pub floor: Seq,
    /// Everything below it was delivered to the sender, but for gaps that a report told.
    pub carried: Seq,
}

/// Metadata of a run of transport packets: 24 bytes, and 24 more if it asks for a window ([`Request`]).
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | packets k, at least 1; the PSN in the BTH is the first one's |
/// | 2 | 2 | payload of every packet but the last |
/// | 4 | 2 | length of the transport headers (BTH and what follows it), inline |
/// | 6 | 2 | bit 0: the train has a token, and what follows the ends counts; else that is 0. Bit 1: a request follows the metadata |
/// | 8 | 8 | ends: from which queue pair to which, by a number that the transport gives to the two |
/// | 16 | 4 | floor: every train of the sender below it has been told |
/// | 20 | 4 | carried: everything below it was delivered to the sender, but for gaps that were told |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roce {
    /// Packets.
    pub packets: u16,
    /// Payload of every packet but the last.
    pub mtu: u16,
    /// Length of the transport headers.
    pub header_len: u16,
    /// The number of the two ends, in this direction.
    pub ends: u64,
    /// The train has a token.
    pub account: Option<Account>,
    /// A part of the payload goes by a window of a direct lane.
    pub window: Option<Request>,
}

impl Roce {
    /// Length on the wire, without the request.
    pub const LEN: usize = 24;

    const FLAG_TOKEN: u16 = 1;
    const FLAG_WINDOW: u16 = 2;

    /// Length on the wire, with the request if there is one.
    #[must_use]
    pub const fn wire_len(&self) -> usize {
        match self.window {
            Some(_) => Self::LEN.saturating_add(Request::LEN),
            None => Self::LEN,
        }
    }

    /// Whether a request follows these bytes.
    #[must_use]
    pub const fn asks(bytes: &[u8; Self::LEN]) -> bool {
        let [_, _, _, _, _, _, flags, ..] = *bytes;
        flags as u16 & Self::FLAG_WINDOW != 0
    }

    /// Most inline bytes of headers and payload.
    pub const MAX_INLINE: usize = MAX_INLINE - Self::LEN;

    /// Length of a BTH.
    const BTH: usize = 12;

    /// Decode the metadata of a train with `header`, which asks for `window`.
    ///
    /// # Errors
    ///
    /// [`WireError::Length`] if the transport headers are not inline, or the payload is not that of so many packets.
    pub fn parse(bytes: &[u8; Self::LEN], window: Option<Request>, header: &Header) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let (packets, mtu, header_len, flags) = (r.u16()?, r.u16()?, r.u16()?, r.u16()?);
        let ends = r.u64()?;
        let account = Account {
            floor: Seq(r.u32()?),
            carried: Seq(r.u32()?),
        };
        let (asked, by_window) = match &window {
            Some(window) => (Request::LEN, window.byte_len()),
            None => (0, 0),
        };
        let front = Self::LEN.saturating_add(asked);
        let inline = usize::from(header.inline_len).saturating_sub(front);
        let headers = usize::from(header_len);
        if headers < Self::BTH || headers > inline {
            return Err(WireError::Length);
        }
        let come = header.total().saturating_sub(front).saturating_sub(headers);
        let payload = come.saturating_add(by_window) as u64;
        let (k, mtu_len) = (u64::from(packets), u64::from(mtu));
        let full = k.saturating_sub(1).saturating_mul(mtu_len);
        let fits = match k {
            0 => false,
            1 => payload <= mtu_len,
            _ => payload > full && payload <= full.saturating_add(mtu_len),
        };
        if !fits {
            return Err(WireError::Length);
        }
        Ok(Self {
            packets,
            mtu,
            header_len,
            ends,
            account: (flags & Self::FLAG_TOKEN != 0).then_some(account),
            window,
        })
    }

    /// Encode the metadata; the request follows.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b] = self.packets.to_le_bytes();
        let [c, d] = self.mtu.to_le_bytes();
        let [e, f] = self.header_len.to_le_bytes();
        let [g, h, i, j, k, l, m, n] = self.ends.to_le_bytes();
        let (flags, account) = match self.account {
            Some(account) => (Self::FLAG_TOKEN, account),
            None => (
                0,
                Account {
                    floor: Seq(0),
                    carried: Seq(0),
                },
            ),
        };
        let asks = if self.window.is_some() { Self::FLAG_WINDOW } else { 0 };
        let [o, p] = (flags | asks).to_le_bytes();
        let [q, r, s, t] = account.floor.0.to_le_bytes();
        let [u, v, w, x] = account.carried.0.to_le_bytes();
        [a, b, c, d, e, f, o, p, g, h, i, j, k, l, m, n, q, r, s, t, u, v, w, x]
    }
}

/// Business of the lane: 4 bytes, operation and three of 0.
///
/// An unknown operation is skipped; the credit in its frame header counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ctrl {
    /// 0: nothing but the frame header: credit, keepalive.
    Credit,
    /// 1: what became of the windows that were asked for. A [`Grant`] follows.
    Grant,
    /// 2: the answer to a request for a window is missed. An [`Ask`] follows.
    Ask,
    /// 3: what has come. The sender's floor (4) and a [`crate::ledger::Report`] follow.
    Report,
    /// 4: to be sent back, with the 8 bytes that follow, as [`Ctrl::Answer`], by the poll that finds it.
    Echo,
    /// 5: what follows was sent as [`Ctrl::Echo`].
    Answer,
    /// Any other.
    Unknown(u8),
}

impl Ctrl {
    /// Length on the wire.
    pub const LEN: usize = 4;
    /// Length of what follows [`Ctrl::Echo`] and [`Ctrl::Answer`].
    pub const TOKEN: usize = 8;

    /// The token in what follows the operation, if it is there.
    #[must_use]
    pub fn token(rest: &[u8]) -> Option<u64> {
        rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The sender's floor and its report in what follows [`Ctrl::Report`].
    ///
    /// # Errors
    ///
    /// As [`Report::parse`].
    pub fn report(rest: &[u8]) -> Result<(Seq, Report), WireError> {
        let mut r = Reader::new(rest);
        let floor = Seq(r.u32()?);
        Ok((floor, Report::parse(r.rest())?))
    }

    /// The grant in what follows [`Ctrl::Grant`].
    ///
    /// # Errors
    ///
    /// As [`Grant::parse`].
    pub fn grant(rest: &[u8]) -> Result<Grant, WireError> {
        Grant::parse(rest)
    }

    /// The question in what follows [`Ctrl::Ask`].
    ///
    /// # Errors
    ///
    /// As [`Ask::parse`].
    pub fn ask(rest: &[u8]) -> Result<Ask, WireError> {
        Ask::parse(rest)
    }

    /// Length of the floor that follows [`Ctrl::Report`].
    pub const FLOOR: usize = 4;
    /// Length of what follows [`Ctrl::Report`] at most.
    pub const REPORT: usize = Self::FLOOR + Report::MAX_LEN;

    /// Decode the operation.
    #[must_use]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        match bytes[0] {
            0 => Self::Credit,
            1 => Self::Grant,
            2 => Self::Ask,
            3 => Self::Report,
            4 => Self::Echo,
            5 => Self::Answer,
            other => Self::Unknown(other),
        }
    }

    /// Encode the operation.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let op = match *self {
            Self::Credit => 0,
            Self::Grant => 1,
            Self::Ask => 2,
            Self::Report => 3,
            Self::Echo => 4,
            Self::Answer => 5,
            Self::Unknown(op) => op,
        };
        [op, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests;
