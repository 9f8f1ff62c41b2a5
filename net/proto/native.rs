// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Control messages of the native wire: HELLO, PATHS, READY, BYE.
//!
//! All four have one body, the sender's whole state; the type only says how far it has come. So
//! any one message that arrives makes up for all that were lost before it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 68 | 1 | version that the sender speaks |
//! | 69 | 1 | oldest version that it still speaks |
//! | 70 | 1 | level of the receiver that the sender has seen, 0 to 3 |
//! | 71 | 1 | flags: bit 0, this BYE answers one |
//! | 72 | 4 | features offered |
//! | 76 | 4 | features required of the receiver |
//! | 80 | 8 | epoch of the sender |
//! | 88 | 8 | epoch of the receiver as the sender knows it, 0 for none |
//! | 96 | 8 | the receiver's route as the sender's domain sees it |
//! | 104 | 6 | Ethernet address |
//! | 110 | 2 | largest MTU |
//! | 112 | 4 | HopIDs that cannot be used towards the sender: bit i is HopID 8 + i |
//! | 116 | 1 | lanes that the sender can have, 1 to 8 |
//! | 117 | 1 | most page frames of a train that it takes |
//! | 118 | 2 | 0 |
//! | 120 | 32 | per lane: transmit HopID (2, 0 before PATHS), receive descriptors promised (2) |
//!
//! Little-endian words as in [`crate::wire`]. The fields up to offset 96 stay where they are in
//! every version; a longer body is a later version's and its end is skipped.

use crate::limits::{MAX_DEPTH, MAX_LANES, MAX_PAGES, MIN_DEPTH};
use crate::wire::{Ends, Header, HopId, Mac, Message, MessageBuf, Reader, Route, Uuid, WireError};

/// Key of the property directory, also the service name: 8 characters, the maximum.
pub const KEY: &str = "usb4rdma";

/// UUID of the property directory.
pub const DIRECTORY: Uuid = Uuid::from_u128(0xb500_357f_152d_42ff_a367_a02f_ba26_d6b8);

/// UUID of the control protocol.
pub const PROTOCOL: Uuid = Uuid::from_u128(0xb2f6_c87d_de87_4a33_9e64_de92_0876_f456);

/// Property `prtcid`.
pub const PROTOCOL_ID: u32 = 1;

/// Property `prtcvers`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Property `prtcrevs`.
pub const PROTOCOL_REVISION: u32 = 1;

/// Version of the wire that this crate speaks.
pub const VERSION: u8 = 1;

/// Oldest version of the wire that this crate speaks.
pub const OLDEST: u8 = 1;

/// Length of a message of this version.
pub const MESSAGE_LEN: usize = 152;

/// Flag: this BYE answers one.
const FLAG_ANSWER: u8 = 1;

/// Feature bits, also the value of the property `prtcstns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u32);

impl Features {
    /// End-to-end flow control on the receive rings.
    pub const E2E: Self = Self(1 << 0);
    /// Direct lanes: windows of raw pages.
    pub const DIRECT: Self = Self(1 << 1);
    /// Selective acknowledgement of transport packets.
    pub const SACK: Self = Self(1 << 2);
    /// Packets of the RDMA transport in runs, which only the cable's CRC covers.
    pub const RUNS: Self = Self(1 << 3);
    /// Runs of connected queue pairs as trains of their own, [`crate::frame::Roce`]; with [`Self::RUNS`].
    pub const TRAINS: Self = Self(1 << 4);
    /// Such trains by a second lane as well; with [`Self::TRAINS`].
    pub const LANES: Self = Self(1 << 5);

    /// What is in one or the other.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `flag` is set.
    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }
}

/// How far a side has come with one pair of epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Knows nothing of the other.
    #[default]
    None,
    /// Knows the other's epoch and abilities.
    Hello,
    /// Has its transmit HopIDs.
    Paths,
    /// Has its rings open and its receive descriptors posted: the other may send.
    Ready,
}

impl Level {
    /// As a field of a message.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    const fn from_value(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::None,
            1 => Self::Hello,
            2 => Self::Paths,
            3 => Self::Ready,
            _ => return None,
        })
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HELLO, PATHS or READY.
    At(Level),
    /// The sender leaves; or answers that the receiver may.
    Bye {
        /// It answers a BYE.
        answer: bool,
    },
}

impl Kind {
    const fn value(self) -> u32 {
        match self {
            Self::At(Level::None | Level::Hello) => 1,
            Self::At(Level::Paths) => 2,
            Self::At(Level::Ready) => 3,
            Self::Bye { .. } => 4,
        }
    }
}

/// What a side can do. The same in all messages of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Version that it speaks.
    pub version: u8,
    /// Oldest version that it still speaks.
    pub oldest: u8,
    /// Features that it offers.
    pub features: Features,
    /// Features without which it will not talk.
    pub required: Features,
    /// Lanes that it can have.
    pub lanes: u8,
    /// Most page frames of a train that it takes.
    pub max_pages: u8,
    /// Ethernet address.
    pub mac: Mac,
    /// Largest MTU.
    pub mtu: u16,
    /// Receive descriptors that it promises, per lane.
    pub depth: [u16; MAX_LANES],
}

impl Abilities {
    /// Abilities of this version of ours with `lanes` lanes of `depth` receive descriptors each.
    #[must_use]
    pub fn ours(mac: Mac, mtu: u16, lanes: u8, depth: u16, features: Features) -> Self {
        let lanes = lanes.clamp(1, MAX_LANES as u8);
        let mut depths = [0; MAX_LANES];
        for d in depths.iter_mut().take(usize::from(lanes)) {
            *d = depth.clamp(MIN_DEPTH, MAX_DEPTH);
        }
        Self {
            version: VERSION,
            oldest: OLDEST,
            features,
            required: Features(0),
            lanes,
            max_pages: MAX_PAGES as u8,
            mac,
            mtu,
            depth: depths,
        }
    }
}

/// A control message of the native wire, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub kind: Kind,
    /// The level of the receiver that the sender has seen.
    pub seen: Level,
    /// Epoch of the sender, not 0.
    pub epoch: u64,
    /// Epoch of the receiver as the sender knows it, 0 for none.
    pub peer_epoch: u64,
    /// Where the sender sees the receiver.
    pub route: Route,
    /// What the sender can do.
    pub abilities: Abilities,
    /// HopIDs that cannot be used towards the sender: bit i is HopID 8 + i.
    pub busy: u32,
    /// Transmit HopIDs of the sender; 0 before PATHS.
    pub paths: [HopId; MAX_LANES],
}

/// A message of a version that we do not speak: what is the same in all versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Version that the sender speaks.
    pub version: u8,
    /// Oldest version that it still speaks.
    pub oldest: u8,
    /// Epoch of the sender.
    pub epoch: u64,
    /// Epoch of the receiver as the sender knows it.
    pub peer_epoch: u64,
}

/// A decoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Of a version that we speak.
    Status(Status),
    /// Of one that we do not.
    Foreign(Foreign),
}

impl Status {
    /// Decode `message`.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] for another protocol or an unknown type, [`WireError::Truncated`] if
    /// fields are missing, [`WireError::Value`] if one has a value that it must not have.
    pub fn parse(message: &Message<'_>) -> Result<Decoded, WireError> {
        let header = message.header();
        if header.protocol != PROTOCOL {
            return Err(WireError::Protocol);
        }
        let mut r = Reader::new(message.body());
        let (version, oldest, seen, flags) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let (features, required) = (Features(r.u32()?), Features(r.u32()?));
        let (epoch, peer_epoch) = (r.u64()?, r.u64()?);
        if epoch == 0 || oldest > version {
            return Err(WireError::Value);
        }
        if oldest > VERSION || version < OLDEST {
            return Ok(Decoded::Foreign(Foreign {
                version,
                oldest,
                epoch,
                peer_epoch,
            }));
        }
        let kind = match header.kind {
            1 => Kind::At(Level::Hello),
            2 => Kind::At(Level::Paths),
            3 => Kind::At(Level::Ready),
            4 => Kind::Bye {
                answer: flags & FLAG_ANSWER != 0,
            },
            _ => return Err(WireError::Protocol),
        };
        let seen = Level::from_value(seen).ok_or(WireError::Value)?;
        let route = Route::new(r.u64()?);
        let (mac, mtu, busy) = (Mac(r.bytes()?), r.u16()?, r.u32()?);
        let (lanes, max_pages, _zero) = (r.u8()?, r.u8()?, r.u16()?);
        if lanes == 0 || usize::from(lanes) > MAX_LANES || usize::from(max_pages) > usize::from(u8::MAX) {
            return Err(WireError::Value);
        }
        let mut paths = [HopId(0); MAX_LANES];
        let mut depth = [0; MAX_LANES];
        for (path, depth) in paths.iter_mut().zip(&mut depth) {
            *path = HopId(r.u16()?);
            *depth = r.u16()?;
        }
        Ok(Decoded::Status(Self {
            kind,
            seen,
            epoch,
            peer_epoch,
            route,
            abilities: Abilities {
                version,
                oldest,
                features,
                required,
                lanes,
                max_pages: max_pages.min(MAX_PAGES as u8),
                mac,
                mtu,
                depth,
            },
            busy,
            paths,
        }))
    }

    /// Encode the message, to be sent over the cable between `ends`.
    #[must_use]
    pub fn message(&self, ends: &Ends, command: u32) -> MessageBuf {
        let mut buf = MessageBuf::new(&Header {
            route: ends.route,
            sequence: (command & 3) as u8,
            protocol: PROTOCOL,
            initiator: ends.local,
            target: ends.remote,
            kind: self.kind.value(),
            command,
        });
        let a = &self.abilities;
        buf.put_u8(a.version);
        buf.put_u8(a.oldest);
        buf.put_u8(self.seen.value());
        buf.put_u8(match self.kind {
            Kind::Bye { answer: true } => FLAG_ANSWER,
            _ => 0,
        });
        buf.put_u32(a.features.0);
        buf.put_u32(a.required.0);
        buf.put_u64(self.epoch);
        buf.put_u64(self.peer_epoch);
        buf.put_u64(self.route.0);
        buf.put(&a.mac.0);
        buf.put_u16(a.mtu);
        buf.put_u32(self.busy);
        buf.put_u8(a.lanes);
        buf.put_u8(a.max_pages);
        buf.put_u16(0);
        for (path, depth) in self.paths.iter().zip(&a.depth) {
            buf.put_u16(path.0);
            buf.put_u16(*depth);
        }
        buf.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENDS: Ends = Ends {
        local: Uuid([0x11; 16]),
        remote: Uuid([0x22; 16]),
        route: Route(3),
    };

    fn status() -> Status {
        Status {
            kind: Kind::At(Level::Paths),
            seen: Level::Hello,
            epoch: 0x1122_3344_5566_7788,
            peer_epoch: 0x0102_0304_0506_0708,
            route: Route(3),
            abilities: Abilities {
                version: 1,
                oldest: 1,
                features: Features(3),
                required: Features(0),
                lanes: 2,
                max_pages: 17,
                mac: Mac([2, 0, 0, 0, 0, 9]),
                mtu: 65_522,
                depth: [256, 512, 0, 0, 0, 0, 0, 0],
            },
            busy: 1,
            paths: [9, 10, 0, 0, 0, 0, 0, 0].map(HopId),
        }
    }

    #[test]
    fn a_paths_message_has_its_152_bytes_in_place() {
        let mut want = vec![0, 0, 0, 0, 3, 0, 0, 0, 35, 0, 0, 0x08];
        want.extend([
            0xb2, 0xf6, 0xc8, 0x7d, 0xde, 0x87, 0x4a, 0x33, 0x9e, 0x64, 0xde, 0x92, 0x08, 0x76, 0xf4, 0x56,
        ]);
        want.extend([0x11; 16]);
        want.extend([0x22; 16]);
        want.extend([2, 0, 0, 0, 5, 0, 0, 0]);
        want.extend([1, 1, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        want.extend([8, 7, 6, 5, 4, 3, 2, 1]);
        want.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([2, 0, 0, 0, 0, 9, 0xf2, 0xff]);
        want.extend([1, 0, 0, 0, 2, 17, 0, 0]);
        want.extend([9, 0, 0, 1, 10, 0, 0, 2]);
        want.extend([0; 24]);
        assert_eq!(want.len(), MESSAGE_LEN);
        // Command 5: the sequence number is its low two bits, here 1.
        let buf = status().message(&ENDS, 5);
        assert_eq!(buf.as_bytes(), want);
        let message = Message::parse(buf.as_bytes()).unwrap();
        assert_eq!(Status::parse(&message), Ok(Decoded::Status(status())));
    }

    #[test]
    fn every_kind_decodes_to_itself() {
        for kind in [
            Kind::At(Level::Hello),
            Kind::At(Level::Ready),
            Kind::Bye { answer: false },
            Kind::Bye { answer: true },
        ] {
            let s = Status { kind, ..status() };
            let buf = s.message(&ENDS, 0);
            let message = Message::parse(buf.as_bytes()).unwrap();
            assert_eq!(Status::parse(&message), Ok(Decoded::Status(s)));
        }
    }

    fn with(change: impl Fn(&mut Vec<u8>)) -> Result<Decoded, WireError> {
        let mut bytes = status().message(&ENDS, 0).as_bytes().to_vec();
        change(&mut bytes);
        bytes[8] = ((bytes.len() - 12) / 4) as u8;
        Status::parse(&Message::parse(&bytes).unwrap())
    }

    #[test]
    fn a_foreign_version_is_recognised_by_its_first_fields() {
        let got = with(|b| {
            b[68] = 9;
            b[69] = 2;
            b.truncate(96);
        });
        let Ok(Decoded::Foreign(foreign)) = got else {
            panic!("{got:?}")
        };
        assert_eq!((foreign.version, foreign.oldest), (9, 2));
        assert_eq!(foreign.epoch, 0x1122_3344_5566_7788);
    }

    #[test]
    fn a_later_version_that_speaks_ours_is_understood_and_its_tail_skipped() {
        let got = with(|b| {
            b[68] = 9;
            b.extend([1; 16]);
        });
        let Ok(Decoded::Status(s)) = got else { panic!("{got:?}") };
        assert_eq!(s.abilities.version, 9);
    }

    #[test]
    fn values_that_must_not_be_are_refused() {
        assert_eq!(with(|b| b[70] = 4), Err(WireError::Value));
        assert_eq!(with(|b| b[116] = 0), Err(WireError::Value));
        assert_eq!(with(|b| b[116] = 9), Err(WireError::Value));
        assert_eq!(with(|b| b[80..88].fill(0)), Err(WireError::Value));
        assert_eq!(with(|b| b[69] = 2), Err(WireError::Value));
        assert_eq!(with(|b| b[60] = 5), Err(WireError::Protocol));
        assert_eq!(with(|b| b[60] = 0), Err(WireError::Protocol));
        assert_eq!(with(|b| b.truncate(148)), Err(WireError::Truncated));
    }

    proptest! {
        #[test]
        fn any_body_parses_or_fails(kind in 0u8..6, body in proptest::collection::vec(any::<u8>(), 0..184)) {
            let _ = with(|b| {
                b.truncate(68);
                b[60] = kind;
                b.extend(&body[..body.len() / 4 * 4]);
                if b.len() > 70 {
                    b[68] %= 3;
                    b[69] %= 3;
                }
            });
        }
    }
}
