// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Completions in a ring: `struct ib_uverbs_wc` (C header: `rdma/ib_user_verbs.h`), which user space reads, and what a
//! kernel caller's ring has behind it.

use super::{bytes_at, put, u32_at, u64_at};
use crate::completion::{Completion, Queue};

/// Bytes of a completion as user space reads it.
pub const CQE_LEN: usize = 48;
/// Bytes of one in a kernel caller's ring: the handle of the queue pair and the VLAN follow.
pub const KERNEL_CQE_LEN: usize = 64;

/// `IB_WC_GRH`.
const GRH: u32 = 1;
/// `IB_WC_WITH_IMM`.
const WITH_IMM: u32 = 2;
/// `IB_WC_WITH_INVALIDATE`.
const WITH_INVALIDATE: u32 = 8;
/// What the service level of a datagram says to those who do not see its headers (UCX): IPv4 or IPv6, with UDP.
const SL_IPV4: u8 = 0xa;
/// See [`SL_IPV4`].
const SL_IPV6: u8 = 0x9;
/// The number of a VLAN, in the tag that brings it.
const VLAN: u32 = 0xfff;

/// Where the fields are.
mod at {
    pub(super) const WR_ID: usize = 0;
    pub(super) const STATUS: usize = 8;
    pub(super) const OPCODE: usize = 12;
    pub(super) const BYTE_LEN: usize = 20;
    /// Immediate data, or the key that was invalidated.
    pub(super) const EX: usize = 24;
    pub(super) const QPN: usize = 28;
    pub(super) const SOURCE: usize = 32;
    pub(super) const FLAGS: usize = 36;
    pub(super) const SERVICE_LEVEL: usize = 44;
    pub(super) const PORT: usize = 46;
    pub(super) const MARK: usize = super::CQE_LEN;
    pub(super) const TAG: usize = MARK + 8;
}

/// A completion as user space reads it. Of a datagram, `ipv6` says how it came.
#[must_use]
pub fn cqe(completion: &Completion, ipv6: bool) -> [u8; CQE_LEN] {
    let mut out = [0; CQE_LEN];
    put(&mut out, at::WR_ID, &completion.wr_id.to_ne_bytes());
    put(&mut out, at::STATUS, &u32::from(completion.status as u8).to_ne_bytes());
    put(&mut out, at::OPCODE, &u32::from(completion.opcode as u8).to_ne_bytes());
    put(&mut out, at::BYTE_LEN, &completion.byte_len.to_ne_bytes());
    put(&mut out, at::QPN, &completion.qpn.value().to_ne_bytes());
    let mut flags = 0;
    if let (Queue::Recv, Some(imm)) = (completion.queue, completion.imm) {
        put(&mut out, at::EX, &imm);
        flags |= WITH_IMM;
    }
    if let Some(key) = completion.invalidated {
        put(&mut out, at::EX, &key.0.to_ne_bytes());
        flags |= WITH_INVALIDATE;
    }
    if let Some(sender) = completion.src_qpn {
        put(&mut out, at::SOURCE, &sender.value().to_ne_bytes());
        flags |= GRH;
        put(&mut out, at::SERVICE_LEVEL, &[if ipv6 { SL_IPV6 } else { SL_IPV4 }]);
    }
    put(&mut out, at::FLAGS, &flags.to_ne_bytes());
    put(&mut out, at::PORT, &[1]);
    out
}

/// What follows a completion in a kernel caller's ring: what the caller knows the queue pair by, and the VLAN tag of a
/// datagram.
#[must_use]
pub fn cqe_tail(mark: u64, tag: u32) -> [u8; KERNEL_CQE_LEN - CQE_LEN] {
    let mut out = [0; KERNEL_CQE_LEN - CQE_LEN];
    put(&mut out, at::MARK - CQE_LEN, &mark.to_ne_bytes());
    put(&mut out, at::TAG - CQE_LEN, &tag.to_ne_bytes());
    out
}

/// A completion read back from a kernel caller's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCqe {
    /// The poster's identifier.
    pub wr_id: u64,
    /// [`crate::completion::WcStatus`].
    pub status: u32,
    /// [`crate::completion::WcOpcode`].
    pub opcode: u32,
    /// Bytes received.
    pub byte_len: u32,
    /// Immediate data in wire order, or the key that was invalidated, in this CPU's.
    pub ex: [u8; 4],
    /// The sender's queue pair, of a datagram.
    pub src_qp: u32,
    /// `ex` is immediate data.
    pub has_imm: bool,
    /// `ex` is a key.
    pub has_invalidated: bool,
    /// It is a datagram's.
    pub has_grh: bool,
    /// A datagram that came over IPv6.
    pub ipv6: bool,
    /// The number of the VLAN that brought the datagram.
    pub vlan: Option<u16>,
    /// What the caller knows the queue pair by.
    pub mark: u64,
}

impl KernelCqe {
    /// Reads what [`cqe`] and [`cqe_tail`] have written.
    #[must_use]
    pub fn parse(raw: &[u8; KERNEL_CQE_LEN]) -> Self {
        let flags = u32_at(raw, at::FLAGS);
        let has_grh = flags & GRH != 0;
        let tag = u32_at(raw, at::TAG);
        Self {
            wr_id: u64_at(raw, at::WR_ID),
            status: u32_at(raw, at::STATUS),
            opcode: u32_at(raw, at::OPCODE),
            byte_len: u32_at(raw, at::BYTE_LEN),
            ex: bytes_at(raw, at::EX),
            src_qp: u32_at(raw, at::SOURCE),
            has_imm: flags & WITH_IMM != 0,
            has_invalidated: flags & WITH_INVALIDATE != 0,
            has_grh,
            ipv6: bytes_at(raw, at::SERVICE_LEVEL) == [SL_IPV6],
            vlan: (has_grh && tag != 0).then(|| u16::try_from(tag & VLAN).ok()).flatten(),
            mark: u64_at(raw, at::MARK),
        }
    }
}
