// SPDX-License-Identifier: GPL-2.0 OR MIT
//! States and attributes of a queue pair, and what a modify may change. IBTA 10.3, 11.2.5.

use crate::keys::Access;
use crate::limits;
use crate::psn::{Psn, Qpn};

/// State of a queue pair, with the values of `enum ib_qp_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nothing happens.
    #[default]
    Reset = 0,
    /// Receives may be posted; packets are dropped.
    Init = 1,
    /// Requests of the peer are served.
    Rtr = 2,
    /// Sends run too.
    Rts = 3,
    /// Sends already started run to their end, no new ones start.
    Sqd = 4,
    /// A send of an unreliable queue pair failed: sends are flushed, receives go on.
    Sqe = 5,
    /// Everything is flushed.
    Err = 6,
}

/// Path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mtu {
    /// 256 bytes.
    B256 = 1,
    /// 512 bytes.
    B512 = 2,
    /// 1024 bytes.
    B1024 = 3,
    /// 2048 bytes.
    B2048 = 4,
    /// 4096 bytes.
    B4096 = 5,
}

impl Mtu {
    /// The MTU with this value in `enum ib_mtu`.
    #[must_use]
    pub const fn from_enum(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::B256,
            2 => Self::B512,
            3 => Self::B1024,
            4 => Self::B2048,
            5 => Self::B4096,
            _ => return None,
        })
    }

    /// Payload bytes of a full packet.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// Packets of a message of `length` bytes; an empty message takes one.
    #[inline]
    #[must_use]
    pub const fn packets(self, length: u32) -> u32 {
        match length {
            0 => 1,
            _ => (length.wrapping_sub(1) >> self.shift()).wrapping_add(1),
        }
    }

    /// Bytes that so many full packets carry.
    #[inline]
    pub(crate) const fn bytes_of(self, packets: u32) -> u32 {
        packets.wrapping_shl(self.shift())
    }

    /// Binary logarithm of the size.
    #[inline]
    pub(crate) const fn shift(self) -> u32 {
        match self {
            Self::B256 => 8,
            Self::B512 => 9,
            Self::B1024 => 10,
            Self::B2048 => 11,
            Self::B4096 => 12,
        }
    }
}

/// Transport service of a queue pair, with the values of `enum ib_qp_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QpKind {
    /// General services interface: datagrams to and from queue pair 1.
    Gsi = 1,
    /// Reliable connection.
    #[default]
    Rc = 2,
    /// Unreliable connection.
    Uc = 3,
    /// Unreliable datagram.
    Ud = 4,
}

impl QpKind {
    /// Whether its messages are datagrams.
    #[must_use]
    pub const fn is_datagram(self) -> bool {
        matches!(self, Self::Ud | Self::Gsi)
    }
}

/// What is fixed when a queue pair is created.
#[derive(Clone, Copy, Debug)]
pub struct QpConfig {
    /// Our number.
    pub qpn: Qpn,
    /// Transport service.
    pub kind: QpKind,
    /// Receives come from a shared receive queue: posted ones are not flushed, the last-WQE event
    /// is raised instead.
    pub srq: bool,
    /// Most request packets in flight; at least 1.
    pub window_packets: u32,
    /// A READ starts only while fewer response packets than this are awaited; at least 1.
    pub read_window_packets: u32,
}

impl QpConfig {
    /// The defaults of [`limits`] for the reliable connected queue pair `qpn`.
    #[must_use]
    pub const fn new(qpn: Qpn) -> Self {
        Self {
            qpn,
            kind: QpKind::Rc,
            srq: false,
            window_packets: limits::DEFAULT_WINDOW_PACKETS,
            read_window_packets: limits::DEFAULT_READ_WINDOW_PACKETS,
        }
    }
}

/// Attributes to change: those that are `Some`. The caller has checked which ones a transition
/// requires and allows (`ib_modify_qp_is_ok`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Modify {
    /// New state.
    pub state: Option<State>,
    /// Path MTU; needed to enter RTR. For datagrams the MTU of the port, or nothing for 4096.
    pub path_mtu: Option<Mtu>,
    /// The peer's queue pair; needed to enter RTR if connected.
    pub dest_qpn: Option<Qpn>,
    /// Key of datagrams received; not of a GSI, whose is fixed.
    pub qkey: Option<u32>,
    /// First PSN expected from the peer; taken when entering RTR, needed there if connected.
    pub rq_psn: Option<Psn>,
    /// First PSN sent; taken when entering RTS from RTR, needed there.
    pub sq_psn: Option<Psn>,
    /// READs in flight as requester.
    pub max_rd_atomic: Option<u8>,
    /// READs held as responder; at most the storage's slots.
    pub max_dest_rd_atomic: Option<u8>,
    /// RNR timer code, 0 to 31, sent with RNR NAKs.
    pub min_rnr_timer: Option<u8>,
    /// Local ACK timeout exponent, 0 to 31; 0 is none.
    pub timeout: Option<u8>,
    /// Retries without progress before giving up, 0 to 7.
    pub retry_cnt: Option<u8>,
    /// RNR retries without progress before giving up, 0 to 6; 7 is for ever.
    pub rnr_retry: Option<u8>,
    /// Remote rights the peer has on this queue pair.
    pub access: Option<Access>,
    /// Entering SQD: an event is wanted once the send queue is drained (IBTA 10.3.1.5).
    pub sqd_event: bool,
}

/// Why a modify was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModifyError {
    /// No such transition.
    Transition,
    /// The new state needs an attribute that was never given.
    Missing,
    /// An attribute is out of range.
    Range,
}

/// The attributes in force.
#[derive(Clone, Copy, Debug)]
pub struct QpAttrs {
    /// State.
    pub state: State,
    /// Path MTU.
    pub path_mtu: Mtu,
    /// The peer's queue pair.
    pub dest_qpn: Qpn,
    /// Next PSN expected.
    pub rq_psn: Psn,
    /// Next PSN to send.
    pub sq_psn: Psn,
    /// READs in flight as requester.
    pub max_rd_atomic: u8,
    /// READs held as responder.
    pub max_dest_rd_atomic: u8,
    /// RNR timer code.
    pub min_rnr_timer: u8,
    /// Local ACK timeout exponent.
    pub timeout: u8,
    /// Retry budget.
    pub retry_cnt: u8,
    /// RNR retry budget.
    pub rnr_retry: u8,
    /// Key of datagrams.
    pub qkey: u32,
    /// Remote rights.
    pub access: Access,
    /// In SQD and not yet drained.
    pub sq_draining: bool,
    /// An event is wanted once it is.
    pub sqd_event: bool,
}

impl QpAttrs {
    const RESET: Self = Self {
        state: State::Reset,
        path_mtu: Mtu::B256,
        dest_qpn: Qpn::new(0),
        rq_psn: Psn::new(0),
        sq_psn: Psn::new(0),
        max_rd_atomic: 0,
        max_dest_rd_atomic: 0,
        min_rnr_timer: 0,
        timeout: 0,
        retry_cnt: 0,
        rnr_retry: 0,
        qkey: 0,
        access: Access::NONE,
        sq_draining: false,
        sqd_event: false,
    };

    /// The attributes of a queue pair in RESET.
    pub(crate) const fn reset(kind: QpKind) -> Self {
        // A datagram goes where the port's MTU lets it.
        match kind {
            QpKind::Rc | QpKind::Uc => Self::RESET,
            QpKind::Ud | QpKind::Gsi => Self {
                path_mtu: Mtu::B4096,
                ..Self::RESET
            },
        }
    }
}
