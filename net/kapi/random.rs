// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Randomness of the kernel.
//!
//! C header: `include/linux/random.h`.

use usb4_bindings as c;

/// A random number, not to be foretold.
pub(crate) fn random() -> u32 {
    // SAFETY: No preconditions.
    unsafe { c::get_random_u32() }
}

/// As [`random`], twice as long.
pub(crate) fn random_u64() -> u64 {
    (u64::from(random()) << 32) | u64::from(random())
}
