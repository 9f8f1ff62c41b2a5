// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The list of links: a static, which the kernel's own abstraction makes an unsafe promise to initialise.

use crate::control::Link;
use kernel::{prelude::*, sync::Arc};

kernel::sync::global_lock! {
    // SAFETY: Initialised by `start` before anything else of this crate can run.
    unsafe(uninit) static LINKS: Mutex<KVec<Arc<Link>>> = KVec::new();
}

/// Makes the list usable. Once, from the module's init, before anything of the bus can come in.
pub(crate) fn start() {
    // SAFETY: Called once, from the module's init.
    unsafe { LINKS.init() };
}

/// Lets `act` at the list, under its lock. Sleeps.
pub(crate) fn with<R>(act: impl FnOnce(&mut KVec<Arc<Link>>) -> R) -> R {
    act(&mut LINKS.lock())
}
