// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Functions of the kernel that touch nothing of ours: randomness, CRC.
//!
//! C headers: `include/linux/{random,crc32}.h`.

use roce::wire::icrc::Icrc;
use usb4_bindings as c;

/// A random number, not to be foretold.
pub(crate) fn random() -> u32 {
    // SAFETY: No preconditions.
    unsafe { c::get_random_u32() }
}

/// Goes on with an ICRC over `bytes`: with the kernel's CRC where the CPU computes it, else with the engine's tables.
pub(crate) fn icrc(state: Icrc, bytes: &[u8]) -> Icrc {
    // SAFETY: No preconditions.
    if unsafe { !c::usb4_crc32_is_fast() } {
        return state.update(bytes);
    }
    // SAFETY: `bytes` are readable.
    Icrc::from_state(unsafe { c::usb4_crc32(state.state(), bytes.as_ptr(), bytes.len()) })
}
