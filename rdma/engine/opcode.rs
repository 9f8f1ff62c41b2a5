// SPDX-License-Identifier: GPL-2.0 OR MIT
//! BTH opcodes and what each packet carries.
//!
//! The low five bits name the operation, the high three the service class (IBTA 9.2.1, table 38).

use crate::attrs::QpKind;

/// Service class bits of the BTH opcode.
const CLASS_MASK: u8 = 0xe0;

/// The service class of an opcode: the transport service of the sending queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reliable connection.
    Rc,
    /// Unreliable connection.
    Uc,
    /// Unreliable datagram.
    Ud,
    /// Anything else: RD, XRC, congestion notification, vendor classes.
    Other,
}

/// Where a packet stands in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// First of several packets.
    First,
    /// Neither first nor last.
    Middle,
    /// Last of several packets.
    Last,
    /// The only packet.
    Only,
}

impl Place {
    /// Whether a message starts with this packet.
    #[must_use]
    pub const fn starts(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    /// Whether a message ends with this packet.
    #[must_use]
    pub const fn ends(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }

    /// The place of a packet from whether it starts and ends its message.
    #[must_use]
    pub const fn of(starts: bool, ends: bool) -> Self {
        match (starts, ends) {
            (true, true) => Self::Only,
            (true, false) => Self::First,
            (false, true) => Self::Last,
            (false, false) => Self::Middle,
        }
    }
}

/// A decoded operation, independent of the service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// SEND request, with immediate data if `imm` (only on last and only packets).
    Send {
        /// Place in the message.
        place: Place,
        /// ImmDt follows.
        imm: bool,
    },
    /// RDMA WRITE request, with immediate data if `imm` (only on last and only packets).
    Write {
        /// Place in the message.
        place: Place,
        /// ImmDt follows.
        imm: bool,
    },
    /// RDMA READ request.
    ReadRequest,
    /// RDMA READ response.
    ReadResponse {
        /// Place in the response, which may be a part of the READ after a retry.
        place: Place,
    },
    /// Acknowledge: ACK, NAK or RNR NAK by its syndrome.
    Acknowledge,
    /// SEND request that invalidates a key; last and only packets. The others of its message are
    /// plain SENDs.
    SendInvalidate {
        /// Last or only.
        place: Place,
    },
    /// Atomic compare and swap request.
    CompareSwap,
    /// Atomic fetch and add request.
    FetchAdd,
    /// Answer to an atomic: an acknowledgement with the value before.
    AtomicResponse,
    /// FLUSH request.
    Flush,
    /// ATOMIC WRITE request.
    AtomicWrite,
    /// An operation this engine does not speak. Requests get NAK invalid request.
    Unsupported(u8),
}

impl Opcode {
    /// Decode the class and operation of a BTH opcode byte.
    #[must_use]
    pub const fn decode(byte: u8) -> (Class, Self) {
        let class = match byte & CLASS_MASK {
            0x00 => Class::Rc,
            0x20 => Class::Uc,
            0x60 => Class::Ud,
            _ => Class::Other,
        };
        let low = byte & !CLASS_MASK;
        // What a class lacks: UC knows SEND and WRITE, UD knows SEND in one packet.
        match class {
            Class::Uc if low > 0x0b => return (class, Self::Unsupported(low)),
            Class::Ud if low != 0x04 && low != 0x05 => return (class, Self::Unsupported(low)),
            _ => {}
        }
        let op = match low {
            0x00 => Self::Send {
                place: Place::First,
                imm: false,
            },
            0x01 => Self::Send {
                place: Place::Middle,
                imm: false,
            },
            0x02 => Self::Send {
                place: Place::Last,
                imm: false,
            },
            0x03 => Self::Send {
                place: Place::Last,
                imm: true,
            },
            0x04 => Self::Send {
                place: Place::Only,
                imm: false,
            },
            0x05 => Self::Send {
                place: Place::Only,
                imm: true,
            },
            0x06 => Self::Write {
                place: Place::First,
                imm: false,
            },
            0x07 => Self::Write {
                place: Place::Middle,
                imm: false,
            },
            0x08 => Self::Write {
                place: Place::Last,
                imm: false,
            },
            0x09 => Self::Write {
                place: Place::Last,
                imm: true,
            },
            0x0a => Self::Write {
                place: Place::Only,
                imm: false,
            },
            0x0b => Self::Write {
                place: Place::Only,
                imm: true,
            },
            0x0c => Self::ReadRequest,
            0x0d => Self::ReadResponse { place: Place::First },
            0x0e => Self::ReadResponse { place: Place::Middle },
            0x0f => Self::ReadResponse { place: Place::Last },
            0x10 => Self::ReadResponse { place: Place::Only },
            0x11 => Self::Acknowledge,
            0x12 => Self::AtomicResponse,
            0x13 => Self::CompareSwap,
            0x14 => Self::FetchAdd,
            0x16 => Self::SendInvalidate { place: Place::Last },
            0x17 => Self::SendInvalidate { place: Place::Only },
            0x1c => Self::Flush,
            0x1d => Self::AtomicWrite,
            other => Self::Unsupported(other),
        };
        (class, op)
    }

    /// The BTH opcode byte in the RC class.
    #[must_use]
    pub const fn encode_rc(self) -> u8 {
        match self {
            Self::Send { place, imm } => send_like(0x00, place, imm),
            Self::Write { place, imm } => send_like(0x06, place, imm),
            Self::ReadRequest => 0x0c,
            Self::ReadResponse { place } => match place {
                Place::First => 0x0d,
                Place::Middle => 0x0e,
                Place::Last => 0x0f,
                Place::Only => 0x10,
            },
            Self::Acknowledge => 0x11,
            Self::AtomicResponse => 0x12,
            Self::CompareSwap => 0x13,
            Self::FetchAdd => 0x14,
            Self::SendInvalidate { place } => match place {
                Place::First | Place::Middle => send_like(0x00, place, false),
                Place::Last => 0x16,
                Place::Only => 0x17,
            },
            Self::Flush => 0x1c,
            Self::AtomicWrite => 0x1d,
            Self::Unsupported(low) => low & !CLASS_MASK,
        }
    }

    /// The BTH opcode byte in the class of a queue pair of `kind`.
    #[inline]
    #[must_use]
    pub const fn encode(self, kind: QpKind) -> u8 {
        let class = match kind {
            QpKind::Rc => 0x00,
            QpKind::Uc => 0x20,
            QpKind::Ud | QpKind::Gsi => 0x60,
        };
        class | self.encode_rc()
    }

    /// Whether a RETH follows the BTH.
    #[must_use]
    pub const fn has_reth(self) -> bool {
        match self {
            Self::Write { place, .. } => place.starts(),
            Self::ReadRequest | Self::Flush | Self::AtomicWrite => true,
            _ => false,
        }
    }

    /// Whether an AETH follows the BTH.
    #[must_use]
    pub const fn has_aeth(self) -> bool {
        match self {
            Self::ReadResponse { place } => !matches!(place, Place::Middle),
            Self::Acknowledge | Self::AtomicResponse => true,
            _ => false,
        }
    }

    /// Whether immediate data follows.
    #[must_use]
    pub const fn has_imm(self) -> bool {
        matches!(self, Self::Send { imm: true, .. } | Self::Write { imm: true, .. })
    }

    /// Whether an AtomicETH follows.
    #[must_use]
    pub const fn has_atomic(self) -> bool {
        matches!(self, Self::CompareSwap | Self::FetchAdd)
    }

    /// Whether a message, or a response, ends with such a packet.
    #[must_use]
    pub const fn ends(self) -> bool {
        match self {
            Self::Send { place, .. } | Self::Write { place, .. } | Self::ReadResponse { place } => place.ends(),
            _ => true,
        }
    }

    /// Whether the packet belongs to the responder-to-requester direction.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(
            self,
            Self::ReadResponse { .. } | Self::Acknowledge | Self::AtomicResponse
        )
    }
}

/// The six opcodes of SEND and of WRITE have one shape from `base` on.
const fn send_like(base: u8, place: Place, imm: bool) -> u8 {
    let step: u8 = match (place, imm) {
        (Place::First, _) => 0,
        (Place::Middle, _) => 1,
        (Place::Last, false) => 2,
        (Place::Last, true) => 3,
        (Place::Only, false) => 4,
        (Place::Only, true) => 5,
    };
    base.wrapping_add(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_rc_class_round_trips() {
        for byte in 0..0x20u8 {
            let (class, op) = Opcode::decode(byte);
            assert_eq!(class, Class::Rc);
            assert_eq!(op.encode_rc(), byte);
        }
    }

    #[test]
    fn a_class_has_only_its_own_operations() {
        assert_eq!(Opcode::decode(0x2c), (Class::Uc, Opcode::Unsupported(0x0c)));
        assert_eq!(Opcode::decode(0x60), (Class::Ud, Opcode::Unsupported(0x00)));
        let only = Opcode::Send {
            place: Place::Only,
            imm: true,
        };
        assert_eq!(Opcode::decode(0x65), (Class::Ud, only));
        assert_eq!(only.encode(QpKind::Ud), 0x65);
        assert_eq!(only.encode(QpKind::Uc), 0x25);
    }

    #[test]
    fn classes_are_told_apart() {
        assert_eq!(Opcode::decode(0x24).0, Class::Uc);
        assert_eq!(Opcode::decode(0x64).0, Class::Ud);
        assert_eq!(Opcode::decode(0x81).0, Class::Other);
    }

    #[test]
    fn headers_follow_from_the_opcode() {
        let write = |place| Opcode::Write { place, imm: false };
        assert!(write(Place::First).has_reth() && write(Place::Only).has_reth());
        assert!(!write(Place::Middle).has_reth() && !write(Place::Last).has_reth());
        assert!(!Opcode::ReadResponse { place: Place::Middle }.has_aeth());
        assert!(Opcode::ReadResponse { place: Place::Last }.has_aeth());
    }
}
