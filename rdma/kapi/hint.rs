// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Why something was refused, for the log: an errno alone does not say it, and librxe passes on nothing else.
//!
//! C header: `include/linux/ratelimit.h`.

use usb4_bindings as c;

/// Whether the log may have another line. Any user can have things refused, so ten in five seconds are the most.
pub(crate) fn may_tell() -> bool {
    // SAFETY: No preconditions.
    unsafe { c::usb4_hint_may_tell() }
}

/// Tells why a device refused something: `hint!(device.ib(), "QP {}: why", number)`.
macro_rules! hint {
    ($ib:expr, $($why:tt)*) => {
        if $crate::kapi::hint::may_tell() {
            ::kernel::pr_info!("{}: {}\n", $ib.name(), ::kernel::prelude::fmt!($($why)*));
        }
    };
}
pub(crate) use hint;
