// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The lanes by which a device's queue pairs send past the stack: that of its netdev's cable, or those of all cables
//! below its bond.
//!
//! Which they are changes while queue pairs send ([`Ports::set`]). Whoever sends uses those that he finds, and the
//! change waits for him before it lets go of any.

use crate::kapi::{
    revoke::Revocable,
    sync::{new_bh_lock, BhLock},
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};
use tbnet::{Client, Port};

/// Lanes, used through [`Revocable::enter`].
pub(crate) type Lanes = Revocable<KVec<Port>>;

/// The lanes of a device.
#[pin_data]
pub(crate) struct Ports {
    #[pin]
    lanes: BhLock<Option<Arc<Lanes>>>,
    /// Whether there are to be none any more. Held while they change.
    #[pin]
    ended: Mutex<bool>,
    /// Trains sent by all of them.
    sent: Atomic<u64>,
}

impl Ports {
    /// None.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lanes <- new_bh_lock!(None, c"usb4_ports"),
            ended <- new_mutex!(false, "usb4_ports_ended"),
            sent: Atomic::new(0),
        })
    }

    /// Those of now, if there are any. Any context.
    pub(crate) fn get(&self) -> Option<Arc<Lanes>> {
        self.lanes.lock().clone()
    }

    /// So many trains have been posted.
    pub(crate) fn add_sent(&self, trains: u64) {
        self.sent.fetch_add(trains, Relaxed);
    }

    /// Trains posted by all of them, ever.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// From now on they are `ports`, but for those that have another client, and trains go to `client`. On return
    /// nobody sends by another. Nothing after [`Self::end`]. Under RTNL; sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: nothing has changed.
    pub(crate) fn set(&self, ports: &[Port], client: &Arc<impl Client + 'static>) -> Result {
        let ended = self.ended.lock();
        if *ended {
            return Ok(());
        }
        let before = self.get();
        let had = |port: &Port| match before.as_ref().and_then(|lanes| lanes.enter()) {
            Some(lanes) => lanes.contains(port),
            None => false,
        };
        let mut now = KVec::with_capacity(ports.len(), GFP_KERNEL)?;
        let mut fresh = KVec::with_capacity(ports.len(), GFP_KERNEL)?;
        for port in ports {
            if had(port) {
                now.push(port.clone(), GFP_KERNEL)?;
            } else if port.is_free() {
                now.push(port.clone(), GFP_KERNEL)?;
                fresh.push(port.clone(), GFP_KERNEL)?;
            }
        }
        let lanes = match now.is_empty() {
            true => None,
            false => Some(Arc::pin_init(Revocable::new(now), GFP_KERNEL)?),
        };
        for port in &fresh {
            port.attach(client.clone());
        }
        *self.lanes.lock() = lanes;
        let before = before.and_then(|lanes| lanes.revoke());
        for port in before.iter().flatten().filter(|port| !ports.contains(port)) {
            port.detach();
        }
        Ok(())
    }

    /// There are none from now on, and nobody sends by one on return. Sleeps.
    pub(crate) fn end(&self) {
        *self.ended.lock() = true;
        let lanes = self.lanes.lock().take();
        for port in lanes.and_then(|lanes| lanes.revoke()).iter().flatten() {
            port.detach();
        }
    }
}
