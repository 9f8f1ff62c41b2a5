// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Changes of the kernel's neighbours, and the work that follows them.
//!
//! C header: `include/net/netevent.h`.

use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};
use usb4_bindings as c;

/// Milliseconds from a change to the look at the paths: several changes come together, and no storm of them, of which a
/// peer can be the cause, makes more than 50 looks a second.
const RENEW_MS: u32 = 20;

/// 1 when all paths are to be looked at, and not only those whose peer was late.
static ALL: Atomic<u32> = Atomic::new(0);

/// Has the paths of all devices looked at, because of a change that may concern any of them. Any context.
pub(crate) fn renew_all() {
    ALL.store(1, Relaxed);
    renew_late();
}

/// Has those paths looked at whose owners have said that they should be. Any context.
pub(crate) fn renew_late() {
    // SAFETY: Nothing calls this once `Changes` has gone: devices and notifiers end before it.
    unsafe { c::usb4_renew_soon(RENEW_MS) }
}

/// Whether all paths are to be looked at, which is done from now on.
pub(crate) fn take_all() -> bool {
    ALL.xchg(0, Full) != 0
}

#[no_mangle]
extern "C" fn usb4_op_neighbours_changed() {
    renew_all();
}

/// The kernel tells of changes of neighbours while this is there.
pub(crate) struct Changes(());

impl Changes {
    pub(crate) fn hear() -> Result<Self> {
        // SAFETY: `drop` takes it back.
        to_result(unsafe { c::usb4_netevent_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // SAFETY: Registered by `hear`; then nobody asks for the work any more, as the devices are gone.
        unsafe {
            c::usb4_netevent_unregister();
            c::usb4_renew_cancel();
        }
    }
}
