// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Receives: an `rxe_recv_wqe`, read and written.

use super::{put, u32_at, u64_at, Place, Places, Sge, RECV_HEADER};
use crate::wqe::RecvWqe;
use core::ops::DerefMut;

/// Where the fields of the header are.
mod at {
    pub(super) const WR_ID: usize = 0;
    pub(super) const SGES: usize = 28;
}

/// The header of a receive whose scatter list, of `sges` entries, follows it.
#[must_use]
pub fn recv_header(wr_id: u64, sges: u32) -> [u8; RECV_HEADER] {
    let mut out = [0; RECV_HEADER];
    put(&mut out, at::WR_ID, &wr_id.to_ne_bytes());
    put(&mut out, at::SGES, &sges.to_ne_bytes());
    out
}

impl<P, S, I> Places<P, S, I>
where
    P: DerefMut<Target = [Place]>,
    S: DerefMut<Target = [Sge]>,
    I: DerefMut<Target = [u8]>,
{
    /// Takes a receive into the next place. `raw` is its header, `read` copies bytes from further on in it.
    /// The caller has seen that there is room.
    pub fn take_recv(&mut self, raw: &[u8; RECV_HEADER], read: impl FnMut(usize, &mut [u8])) -> RecvWqe {
        let slot = self.take();
        // A buffer larger than any message is fine.
        let kept = self
            .keep_sges(slot, u32_at(raw, at::SGES), RECV_HEADER, read)
            .map(|total| u32::try_from(total).unwrap_or(u32::MAX));
        RecvWqe {
            wr_id: u64_at(raw, at::WR_ID),
            length: kept.unwrap_or(0),
            slot,
            fault: kept.err(),
        }
    }
}
