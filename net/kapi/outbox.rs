// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Control messages to a peer, and the memory that they are sent from.
//!
//! The core's request for a message that expects no answer points to the caller's bytes, and stays in the control
//! channel's queue until a work item takes it out, some time after the sending function has returned. Meanwhile each
//! packet that comes is compared with those bytes (`tb_xdomain_match`). Nothing tells when that is over, so the bytes
//! of a message stay as they are for [`LINGER`], a thousand times as long as the work item takes.
//!
//! C header: `include/linux/thunderbolt.h`.

use super::{
    timer::{now, sleep_ms},
    xdomain::Xdomain,
};
use kernel::prelude::*;
use tbip::wire::MAX_MESSAGE;

/// Messages whose bytes are kept. A session sends a few in a row and then waits for its peer.
const SLOTS: usize = 16;

/// Nanoseconds for which the bytes of a message are kept after it was sent.
const LINGER: u64 = 100_000_000;

/// The bytes of one message.
struct Slot {
    /// In memory of their own: the core has their address.
    bytes: KBox<[u8; MAX_MESSAGE]>,
    /// When they were sent.
    sent: Option<u64>,
}

impl Slot {
    /// Waits until the core does not read the bytes any more. Sleeps.
    fn settle(&mut self) {
        let Some(sent) = self.sent.take() else {
            return;
        };
        // The clock may have been at rest meanwhile, over the host's sleep, and the work item too.
        let left = (sent + LINGER).saturating_sub(now());
        if left != 0 {
            sleep_ms((left / 1_000_000) as u32 + 1);
        }
    }
}

/// Messages on their way to one peer. Dropping it waits until the core has done with the last ones, and sleeps.
pub(crate) struct Outbox {
    slots: KVec<Slot>,
    next: usize,
}

impl Outbox {
    /// Nothing is on its way.
    pub(crate) fn new() -> Result<Self> {
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            let slot = Slot {
                bytes: KBox::new([0; MAX_MESSAGE], GFP_KERNEL)?,
                sent: None,
            };
            slots.push(slot, GFP_KERNEL)?;
        }
        Ok(Self { slots, next: 0 })
    }

    /// Sends a message to `xd`, without waiting for anything of the peer's. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is too long; what the core says if it cannot be sent.
    pub(crate) fn send(&mut self, xd: &Xdomain, message: &[u8]) -> Result {
        let at = self.next;
        self.next = (at + 1) % SLOTS;
        let slot = self.slots.get_mut(at).ok_or(EINVAL)?;
        slot.settle();
        let bytes = slot.bytes.get_mut(..message.len()).ok_or(EINVAL)?;
        bytes.copy_from_slice(message);
        // SAFETY: The bytes have an address of their own, are not written before `settle` has waited, and not freed
        // before the drop has.
        unsafe { xd.respond(bytes) }?;
        slot.sent = Some(now());
        Ok(())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.slots.iter_mut().for_each(Slot::settle);
    }
}
