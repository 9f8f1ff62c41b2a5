// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Kernel memory in sizes that user space chooses: all of it together is kept within a share of the host's.
//!
//! `vmalloc` serves a request as long as there is a page left, and what it takes belongs to no process: the one that
//! asked is not the one that the kernel then ends for want of memory.
//!
//! C header: `include/linux/mm.h`.

use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};
use usb4_bindings as c;

/// All of it is at most this part of the host's memory.
const PART: usize = 4;

/// That much is allowed where a quarter is less, up to three quarters: rdma-core's own tests ask for queues of 128 MiB,
/// and virtual machines for tests are small.
const LEAST: usize = 512 << 20;

fn most() -> usize {
    // SAFETY: No preconditions.
    let size = unsafe { c::usb4_memory_size() };
    (size / PART).max(LEAST.min(size - size / PART))
}

/// Bytes held now, by everybody.
static HELD: Atomic<usize> = Atomic::new(0);

/// A part of the share, given back on drop.
pub(crate) struct Held(usize);

impl Held {
    /// Takes `bytes` of the share. Any context.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when they are not left.
    pub(crate) fn take(bytes: usize) -> Result<Self> {
        let most = most();
        let mut before = HELD.load(Relaxed);
        loop {
            let after = before.checked_add(bytes).filter(|after| *after <= most).ok_or(ENOMEM)?;
            match HELD.cmpxchg(before, after, Relaxed) {
                Ok(_) => return Ok(Self(bytes)),
                Err(now) => before = now,
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Relaxed);
    }
}
