// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The bytes in queues that user space maps: work requests, rxe's `rxe_send_wqe` and `rxe_recv_wqe` with the address
//! vectors in them (C header: `rdma/rdma_user_rxe.h`), and completions. All layouts are here, read and written: callers
//! in the kernel have queues of the same form.
//!
//! Anything may be in a work request, and may change while it is read. The caller copies a request's header out of
//! shared memory once and hands it in; what lies behind it is read here once, through the caller. What is kept stays in
//! a [`Places`] until the completion, so user space may write its slot as it likes afterwards.

mod completion;
mod places;
mod recv;
mod send;
mod vector;

pub use completion::{cqe, cqe_tail, KernelCqe, CQE_LEN, KERNEL_CQE_LEN};
pub use places::{Place, Places, Sge};
pub use recv::recv_header;
pub use send::{Destination, SendHeader};
pub use vector::{Network, Vector};

use crate::fast::Registration;
use crate::keys::Key;

/// Bytes of an `rxe_send_wqe` before its scatter list or inline data.
pub const SEND_HEADER: usize = 208;
/// Where `rxe_av` is in an `rxe_send_wqe`.
pub const VECTOR: usize = 56;
/// Where a send has the length of its message, four bytes.
pub const SEND_LENGTH: usize = 184;
/// Bytes of an `rxe_recv_wqe` before its scatter list.
pub const RECV_HEADER: usize = 40;
/// Bytes of an `rxe_sge`: address, length, lkey.
pub const SGE_LEN: usize = 16;

/// The flag of a send that waits for READs and atomics before it.
pub const FENCE: u32 = 1;
/// The flag of a send that wants a completion.
pub const SIGNALED: u32 = 2;
/// The flag of a send that asks the peer for an event.
pub const SOLICITED: u32 = 4;
/// The flag of a send whose data is in the request itself.
pub const INLINE: u32 = 8;

/// What a send asks for that nobody but this host sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Take a key back.
    Invalidate(Key),
    /// Bind a memory window.
    Bind(Bind),
    /// Put memory under a key of fast registration.
    Register(Registration),
}

/// A request to bind a memory window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The window's key as it is.
    pub window: Key,
    /// Its low 8 bits are those of the new key.
    pub new: Key,
    /// The region's lkey.
    pub region: Key,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
    /// `IB_ACCESS_*`.
    pub access: u32,
}

/// `N` bytes at `at`; zeroes where there are none.
#[inline]
#[must_use]
pub fn bytes_at<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

/// The 32-bit word at `at`, in this CPU's order.
#[inline]
fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(raw, at))
}

/// The 64-bit word at `at`, in this CPU's order.
#[inline]
fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes_at(raw, at))
}

/// Writes `bytes` at `at`, if they fit there.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = out.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
