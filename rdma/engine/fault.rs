// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Faults, and the statuses that work requests end with because of them.

/// Why a work request or an access cannot be carried out.
///
/// | fault | completion | NAK to the peer, if at the responder |
/// |---|---|---|
/// | LocalProtection | LOC_PROT_ERR | remote operational error |
/// | LocalLength | LOC_LEN_ERR | invalid request |
/// | LocalQpOp | LOC_QP_OP_ERR | remote operational error |
/// | RemoteAccess | REM_ACCESS_ERR | remote access error |
/// | RemoteInvalid | REM_INV_REQ_ERR | invalid request |
/// | Bind | MW_BIND_ERR | remote operational error |
/// | Absent | none: nothing has happened | none |
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
    /// A memory window cannot be bound so.
    Bind,
    /// A page is not in memory now. Not an error: to the engine the packet has not come, and the host
    /// hands it over again when it has brought the page.
    Absent,
}

impl Fault {
    /// The status of the work request that met this fault.
    #[must_use]
    pub const fn status(self) -> WcStatus {
        match self {
            Self::LocalProtection | Self::Absent => WcStatus::LocalProtection,
            Self::LocalLength => WcStatus::LocalLength,
            Self::LocalQpOp => WcStatus::LocalQpOp,
            Self::RemoteAccess => WcStatus::RemoteAccess,
            Self::RemoteInvalid => WcStatus::RemoteInvalidRequest,
            Self::Bind => WcStatus::Bind,
        }
    }
}

/// Outcome of a work request: values of `enum ib_wc_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WcStatus {
    /// Done.
    Success = 0,
    /// A receive buffer was too small, or a local length was.
    LocalLength = 1,
    /// The work request or queue pair is inconsistent.
    LocalQpOp = 2,
    /// A local key, range or right was wrong.
    LocalProtection = 4,
    /// The queue pair was, or went, into the error state.
    Flushed = 5,
    /// A memory window could not be bound.
    Bind = 6,
    /// The peer answered with something its request does not allow.
    BadResponse = 7,
    /// The peer refused the request as invalid.
    RemoteInvalidRequest = 9,
    /// The peer refused the access.
    RemoteAccess = 10,
    /// The peer failed to carry the operation out.
    RemoteOperation = 11,
    /// No answer within the retry budget.
    RetryExceeded = 12,
    /// The peer had no receive posted within the RNR retry budget.
    RnrRetryExceeded = 13,
    /// Our own inconsistency.
    Fatal = 19,
}
