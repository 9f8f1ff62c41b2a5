// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The upper half of a jack: its network device, made by the first cable's worker and taken away by the jack's end.

use crate::{
    kapi::{ndo::Registration, timer},
    netif::Netif,
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};

/// Nanoseconds after which a netdev that could not be made is tried for again.
const RETRY: u64 = 1_000_000_000;

/// The network device of one jack, if it has one.
#[pin_data]
pub(crate) struct Upper {
    #[pin]
    netif: Mutex<Option<Arc<Netif>>>,
    #[pin]
    registration: Mutex<Option<Registration<Netif>>>,
    /// None could be made: not before then. 0 if none was tried for in vain.
    barren: AtomicU64,
}

impl Upper {
    /// No device yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            netif <- new_mutex!(None, "usb4_jack_netif"),
            registration <- new_mutex!(None, "usb4_jack_registration"),
            barren: AtomicU64::new(0),
        })
    }

    /// The device.
    pub(crate) fn netif(&self) -> Option<Arc<Netif>> {
        self.netif.lock().clone()
    }

    /// The device; made by `make` if there is none. The cable's worker's. `name` is the cable's.
    pub(crate) fn ensure(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<(Arc<Netif>, Registration<Netif>)>,
    ) -> Option<Arc<Netif>> {
        if let Some(netif) = self.netif() {
            return Some(netif);
        }
        let barren = self.barren.load(Ordering::Relaxed);
        if timer::now() < barren {
            return None;
        }
        match make() {
            Ok((netif, registration)) => {
                self.barren.store(0, Ordering::Relaxed);
                *self.registration.lock() = Some(registration);
                *self.netif.lock() = Some(netif.clone());
                Some(netif)
            }
            Err(err) => {
                self.barren.store(timer::now() + RETRY, Ordering::Relaxed);
                if barren == 0 {
                    pr_err!("{}: no network device: {:?}; trying again\n", name, err);
                }
                None
            }
        }
    }

    /// When [`Upper::ensure`] is to be called again, if it was in vain.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        Some(self.barren.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Takes the device away from the system and gives it up, which ends its share in the jack. No cable is in. Sleeps,
    /// takes RTNL.
    pub(crate) fn end(&self) {
        let registration = self.registration.lock().take();
        drop(registration);
        let netif = self.netif.lock().take();
        if let Some(netif) = netif {
            netif.end();
        }
    }
}
