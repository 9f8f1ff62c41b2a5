// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What crosses the border between the engine and its caller: work requests in, transmits out, and
//! the [`Host`] through which the engine reaches queues and memory. How a work request is read out of the bytes that a
//! user wrote is in [`crate::abi`].

use crate::attrs::{Mtu, QpKind};
use crate::keys::{Access, Key};
use crate::limits;
use crate::opcode::{Class, Opcode};
use crate::psn::{Psn, Qpn};
use crate::wire::HeaderBuf;

pub use crate::fault::Fault;
pub use crate::wire::{FlushKind, Span};

/// What the engine borrows while it runs: the user's queues and memory.
///
/// Every queue shared with the user is read by the host, never by the engine. A WQE given out by
/// `take_*` belongs to the engine until its completion is polled.
///
/// Where memory is paged, `check`, `place`, `place_grh`, `atomic`, `atomic_result`, `atomic_write` and
/// `flush` may answer [`Fault::Absent`], at any call, having done nothing or a part of a copy.
pub trait Host {
    /// The next posted send not taken before, in posting order, as a validated snapshot.
    fn take_send(&mut self) -> Option<SendWqe>;

    /// The next posted receive not taken before (of the receive queue or the shared one).
    fn take_recv(&mut self) -> Option<RecvWqe>;

    /// Keep the packet being handled, which has come before its turn, until [`crate::qp::Qp::poll_early`] asks for it
    /// or [`crate::qp::Qp::is_early`] says that it is not wanted. False if there is no room: then it counts as lost.
    fn keep(&mut self, _early: Early) -> bool {
        false
    }

    /// Whether the peer may access `length` bytes at `va` through `rkey`: key, domain, rights,
    /// bounds (see [`crate::keys::check`]). Called once per message, never for length zero.
    ///
    /// # Errors
    ///
    /// [`Fault::RemoteAccess`] as a rule; any fault is answered and completed by its row in
    /// [`Fault`].
    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault>;

    /// Copy the payload bytes `payload` of the packet being handled to `to`. Called at most once
    /// per packet and never for an empty payload.
    ///
    /// A region target has passed [`Host::check`] at the start of its message; the host checks
    /// again as far as it takes to be safe (the region may be gone).
    ///
    /// # Errors
    ///
    /// The fault that stopped it. A partial copy is allowed: the message fails as a whole.
    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault>;

    /// Put the 40-byte GRH area of the datagram being handled at the start of receive `slot`: for
    /// IPv4 20 bytes whose content nobody reads and the IP header, for IPv6 the IP header. Its payload
    /// is placed at offset 40 afterwards.
    ///
    /// # Errors
    ///
    /// As [`Host::place`].
    fn place_grh(&mut self, _slot: u32) -> Result<(), Fault> {
        Err(Fault::LocalQpOp)
    }

    /// Carry out an atomic of the peer on the 8 bytes at `va`, which are aligned and have not been
    /// checked: the host checks key, [`Access::REMOTE_ATOMIC`] and bounds itself. The result is the
    /// value before, in this CPU's order. Called once per request, never for a duplicate.
    ///
    /// # Errors
    ///
    /// The fault; then memory is as it was.
    fn atomic(&mut self, _op: AtomicOp, _rkey: Key, _va: u64) -> Result<u64, Fault> {
        Err(Fault::RemoteInvalid)
    }

    /// Put the result of our own atomic into the 8 bytes of send `slot`, in this CPU's order.
    ///
    /// # Errors
    ///
    /// As [`Host::place`].
    fn atomic_result(&mut self, _slot: u32, _value: u64) -> Result<(), Fault> {
        Err(Fault::LocalQpOp)
    }

    /// The peer's ATOMIC WRITE: as [`Host::place`] to a region, but the 8 aligned bytes appear at once.
    /// They have not been checked: the host checks key, [`Access::REMOTE_WRITE`] and bounds itself.
    ///
    /// # Errors
    ///
    /// As [`Host::place`].
    fn atomic_write(&mut self, _rkey: Key, _va: u64, _payload: Span) -> Result<(), Fault> {
        Err(Fault::RemoteInvalid)
    }

    /// Carry out the peer's FLUSH: everything written before to the range, which has not been checked,
    /// is made visible or persistent as `kind` says.
    ///
    /// # Errors
    ///
    /// The fault. A host without FLUSH refuses.
    fn flush(&mut self, _rkey: Key, _va: u64, _length: u32, _kind: FlushKind) -> Result<(), Fault> {
        Err(Fault::RemoteInvalid)
    }

    /// Invalidate our own key, as the peer's SEND with invalidate asks.
    ///
    /// # Errors
    ///
    /// [`Fault::RemoteInvalid`] as a rule: no such key, another domain, or bound to something.
    fn invalidate(&mut self, _key: Key) -> Result<(), Fault> {
        Err(Fault::RemoteInvalid)
    }

    /// Carry out the local operation of send `slot` ([`SendOp::is_local`]): in queue order and once.
    ///
    /// # Errors
    ///
    /// The fault the send completes with.
    fn local(&mut self, _slot: u32) -> Result<(), Fault> {
        Err(Fault::LocalQpOp)
    }
}

/// A packet that has come before its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Early {
    /// A request with this PSN.
    Request(Psn),
    /// A response with this PSN.
    Response(Psn),
}

/// An atomic operation on 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicOp {
    /// Store `swap` if the value is `compare`.
    CompareSwap {
        /// Expected value.
        compare: u64,
        /// New value.
        swap: u64,
    },
    /// Add, wrapping.
    FetchAdd {
        /// Addend.
        add: u64,
    },
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// The destination queue pair.
    pub dest: Qpn,
    /// Its Q_Key as the user gave it. With the highest bit set, our own is sent instead (IBTA 10.2.5).
    pub qkey: u32,
    /// The host's number of the address handle; not looked at.
    pub ah: u32,
}

/// What the host needs to find the path of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// [`SendWqe::slot`].
    pub slot: u32,
    /// [`Datagram::ah`].
    pub ah: u32,
}

/// Where payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into a taken receive, `offset` bytes from its start (across its SGEs).
    Recv {
        /// [`RecvWqe::slot`].
        slot: u32,
        /// Bytes from the start of the receive.
        offset: u32,
    },
    /// Into a region the peer addressed.
    Region {
        /// The peer's key.
        rkey: Key,
        /// First address.
        va: u64,
    },
    /// Into the local buffer of a READ, `offset` bytes from its start (across its SGEs).
    ReadResult {
        /// [`SendWqe::slot`].
        slot: u32,
        /// Bytes from the start of the READ's buffer.
        offset: u32,
    },
}

/// Where the payload of a [`Transmit`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// No payload.
    None,
    /// From the local buffer of a send.
    Send {
        /// [`SendWqe::slot`].
        slot: u32,
        /// Bytes from the start of the message (across its SGEs or inline data).
        offset: u32,
        /// Length in bytes, never zero.
        len: u32,
    },
    /// From a region the peer READs. Check key, rights and bounds again when gathering.
    Region {
        /// The peer's key.
        rkey: Key,
        /// First address.
        va: u64,
        /// Length in bytes, never zero.
        len: u32,
    },
}

impl Source {
    /// Length in bytes.
    #[must_use]
    pub const fn byte_len(&self) -> u32 {
        match *self {
            Self::None => 0,
            Self::Send { len, .. } | Self::Region { len, .. } => len,
        }
    }

    /// The `len` bytes of it from `at` on, which are there.
    #[must_use]
    pub fn part(&self, at: u32, len: u32) -> Self {
        match *self {
            Self::None => Self::None,
            Self::Send { slot, offset, .. } => Self::Send {
                slot,
                offset: offset.wrapping_add(at),
                len,
            },
            Self::Region { rkey, va, .. } => Self::Region {
                rkey,
                va: va.wrapping_add(u64::from(at)),
                len,
            },
        }
    }
}

/// How much whoever carries packets takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Packets of one message that may go as one run, at least 1.
    pub packets: u32,
    /// Bytes of payload of a run of more than one packet.
    pub bytes: u32,
    /// Lanes of cables that share the work, each of which tells what it loses ([`crate::qp::Qp::handle_lost`]). 0 where
    /// nobody tells.
    pub lanes: u32,
}

impl Room {
    /// One packet at a time, as on UDP.
    pub const PACKET: Self = Self {
        packets: 1,
        bytes: 0,
        lanes: 0,
    };

    /// The same for one packet.
    #[must_use]
    pub const fn one(self) -> Self {
        Self { packets: 1, ..self }
    }

    /// Packets of `mtu` that have room.
    pub(crate) fn packets_of(self, mtu: Mtu) -> u32 {
        self.packets.min(self.bytes >> mtu.shift()).clamp(1, limits::MAX_RUN)
    }
}

/// A packet to send, or a run of packets of one message: transport headers ready, payload by reference.
///
/// On UDP: `header`, the payload, `pad` zero bytes, ICRC.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// BTH and extension headers.
    pub header: HeaderBuf,
    /// Payload.
    pub payload: Source,
    /// Zero bytes after the payload, 0 to 3; already in the BTH.
    pub pad: u8,
    /// The PSN in the header.
    pub psn: Psn,
    /// PSNs it takes, from that on. Of a run the header is that of the first packet, with the opcode that says whether
    /// the run starts and ends its message, and the payload is that of all.
    pub packets: u32,
    /// Of a datagram: where to find its path. Connected queue pairs have theirs.
    pub route: Option<Route>,
}

impl Transmit {
    /// Bytes from the BTH through the pad: what UDP carries, less the ICRC.
    #[must_use]
    pub fn transport_len(&self) -> usize {
        let payload = self.payload.byte_len() as usize;
        self.header
            .as_bytes()
            .len()
            .wrapping_add(payload)
            .wrapping_add(usize::from(self.pad))
    }

    /// The PSN if it is a request of a reliable connection, which [`crate::qp::Qp::handle_unsent`] takes back.
    #[must_use]
    pub fn request_psn(&self) -> Option<Psn> {
        let (class, opcode) = self.opcode()?;
        (class == Class::Rc && !opcode.is_response()).then_some(self.psn)
    }

    /// Whether nothing of its message is to follow.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.opcode().is_none_or(|(_, opcode)| opcode.ends())
    }

    /// What the header says it is.
    pub(crate) fn opcode(&self) -> Option<(Class, Opcode)> {
        Some(Opcode::decode(*self.header.as_bytes().first()?))
    }
}

/// The operation of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendOp {
    /// SEND.
    Send,
    /// SEND with immediate data.
    SendImm,
    /// RDMA WRITE.
    Write,
    /// RDMA WRITE with immediate data.
    WriteImm,
    /// RDMA READ.
    Read,
    /// SEND that invalidates a key of the peer on its way.
    SendInvalidate {
        /// The peer's key.
        key: Key,
    },
    /// Atomic on 8 remote bytes; `length` is 8.
    Atomic(AtomicOp),
    /// ATOMIC WRITE of 8 bytes; `length` is 8.
    AtomicWrite,
    /// FLUSH of `length` bytes at `remote_va`.
    Flush(FlushKind),
    /// Local: invalidate a key of ours.
    LocalInvalidate,
    /// Local: bind a memory window.
    BindWindow,
    /// Local: register memory by a fast-registration key.
    Register,
}

impl SendOp {
    /// Whether nothing of it goes on the wire.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::LocalInvalidate | Self::BindWindow | Self::Register)
    }

    /// Whether the peer holds a resource for it until it has answered: READ, atomics, ATOMIC WRITE, FLUSH.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(self, Self::Read | Self::Atomic(_) | Self::AtomicWrite | Self::Flush(_))
    }

    /// Whether it may be posted to a queue pair of `kind` (IBTA 10.7.2, table 91).
    #[must_use]
    pub const fn is_allowed(self, kind: QpKind) -> bool {
        match kind {
            QpKind::Rc => true,
            QpKind::Uc => matches!(
                self,
                Self::Send
                    | Self::SendImm
                    | Self::Write
                    | Self::WriteImm
                    | Self::LocalInvalidate
                    | Self::BindWindow
                    | Self::Register
            ),
            QpKind::Ud | QpKind::Gsi => matches!(self, Self::Send | Self::SendImm),
        }
    }
}

/// A send work request as the host snapshot and validated it. The host has refused at posting, or
/// marked with a [`Fault`], every operation that is not in [`SendOp`].
#[derive(Clone, Copy, Debug)]
pub struct SendWqe {
    /// The poster's identifier, returned in the completion.
    pub wr_id: u64,
    /// Operation.
    pub op: SendOp,
    /// Message length in bytes, at most [`crate::limits::MAX_MESSAGE_LEN`].
    pub length: u32,
    /// Remote address of WRITE, READ, atomics and FLUSH.
    pub remote_va: u64,
    /// Remote key of WRITE, READ, atomics and FLUSH.
    pub rkey: Key,
    /// Immediate data in wire order.
    pub imm: [u8; 4],
    /// Wants a CQE on success.
    pub signalled: bool,
    /// Asks the peer for a solicited event.
    pub solicited: bool,
    /// Waits until all READs and atomics before it have completed.
    pub fence: bool,
    /// Destination, on UD and GSI.
    pub datagram: Datagram,
    /// The caller's handle of this WQE.
    pub slot: u32,
    /// Found bad at the snapshot: completes in its turn with this fault, and the queue pair goes to
    /// the error state.
    pub fault: Option<Fault>,
}

impl SendWqe {
    /// A placeholder for empty storage.
    pub const EMPTY: Self = Self {
        wr_id: 0,
        op: SendOp::Send,
        length: 0,
        remote_va: 0,
        rkey: Key(0),
        imm: [0; 4],
        signalled: false,
        solicited: false,
        fence: false,
        datagram: Datagram {
            dest: Qpn::new(0),
            qkey: 0,
            ah: 0,
        },
        slot: 0,
        fault: None,
    };
}

/// A receive work request as the host snapshot it.
#[derive(Clone, Copy, Debug)]
pub struct RecvWqe {
    /// The poster's identifier, returned in the completion.
    pub wr_id: u64,
    /// Capacity in bytes: the sum of its SGEs.
    pub length: u32,
    /// The caller's handle of this WQE.
    pub slot: u32,
    /// Found bad at the snapshot: completes with this fault when a message needs it, the peer gets
    /// NAK remote operational error, the queue pair goes to the error state.
    pub fault: Option<Fault>,
}
