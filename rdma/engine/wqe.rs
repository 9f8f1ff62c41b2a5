// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What crosses the border between the engine and its caller: work requests in, transmits out, and
//! the [`Host`] through which the engine reaches queues and memory.

use crate::completion::WcStatus;
use crate::keys::{Access, Key};
use crate::psn::Psn;
use crate::wire::HeaderBuf;

/// What the engine borrows while it runs: the user's queues and memory.
///
/// Every queue shared with the user is read by the host, never by the engine. A WQE given out by
/// `take_*` belongs to the engine until its completion is polled.
pub trait Host {
    /// The next posted send not taken before, in posting order, as a validated snapshot.
    fn take_send(&mut self) -> Option<SendWqe>;

    /// The next posted receive not taken before (of the receive queue or the shared one).
    fn take_recv(&mut self) -> Option<RecvWqe>;

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
}

/// A range of payload bytes in the packet being handled, counted from the start of its BTH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Bytes from the start of the BTH.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
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
}

/// One packet to send: transport headers ready, payload by reference.
///
/// On the wire: `header`, the payload, `pad` zero bytes, ICRC.
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
    /// Remote address of WRITE and READ.
    pub remote_va: u64,
    /// Remote key of WRITE and READ.
    pub rkey: Key,
    /// Immediate data in wire order.
    pub imm: [u8; 4],
    /// Wants a CQE on success.
    pub signalled: bool,
    /// Asks the peer for a solicited event.
    pub solicited: bool,
    /// Waits until all READs before it have completed.
    pub fence: bool,
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

/// Why a work request or an access cannot be carried out.
///
/// | fault | completion | NAK to the peer, if at the responder |
/// |---|---|---|
/// | LocalProtection | LOC_PROT_ERR | remote operational error |
/// | LocalLength | LOC_LEN_ERR | invalid request |
/// | LocalQpOp | LOC_QP_OP_ERR | remote operational error |
/// | RemoteAccess | REM_ACCESS_ERR | remote access error |
/// | RemoteInvalid | REM_INV_REQ_ERR | invalid request |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A local key, range, right or page is bad.
    LocalProtection,
    /// The local buffers are too small for the message, or the message too long.
    LocalLength,
    /// The WQE is malformed or not allowed on this queue pair.
    LocalQpOp,
    /// The peer's key, range or right is bad.
    RemoteAccess,
    /// The peer's request makes no sense.
    RemoteInvalid,
}

impl Fault {
    /// The status of the work request that met this fault.
    #[must_use]
    pub const fn status(self) -> WcStatus {
        match self {
            Self::LocalProtection => WcStatus::LocalProtection,
            Self::LocalLength => WcStatus::LocalLength,
            Self::LocalQpOp => WcStatus::LocalQpOp,
            Self::RemoteAccess => WcStatus::RemoteAccess,
            Self::RemoteInvalid => WcStatus::RemoteInvalidRequest,
        }
    }
}
