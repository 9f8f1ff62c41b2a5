// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is requested of a link's worker, and what the worker has made of it.
//!
//! Any context requests; each request has a number. The worker takes all of them at once, acts, and reports the number
//! with the state that is actual then. Who needs a state waits for it.

use crate::kapi::{
    ndo::RingSizes,
    service::ServiceKind,
    sync::{new_irq_lock, IrqLock},
};
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{CondVar, Mutex},
};
use tbip::stock::Settings;

/// Descriptors of a ring, if nobody says otherwise.
const RING_SIZE: u32 = 512;
/// Fewest and most that may be asked for.
const RING_SIZE_MIN: u32 = 64;
pub(crate) const RING_SIZE_MAX: u32 = 4096;

/// What the system wants of a cable, whichever it is that is plugged in. The jack's; its cable's worker has a copy.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The interface is up.
    pub(crate) open: bool,
    /// Our Ethernet address.
    pub(crate) mac: [u8; 6],
    pub(crate) rings: RingSizes,
}

impl Wanted {
    /// What is wanted before anybody says so.
    pub(crate) fn new(mac: [u8; 6]) -> Self {
        let rings = RingSizes {
            rx: RING_SIZE,
            tx: RING_SIZE,
        };
        Self {
            open: false,
            mac,
            rings,
        }
    }

    /// Wants other descriptors.
    ///
    /// # Errors
    ///
    /// `EINVAL` for sizes that cannot be.
    pub(crate) fn resize(&mut self, rings: RingSizes) -> Result {
        let fits = |size: u32| (RING_SIZE_MIN..=RING_SIZE_MAX).contains(&size) && size.is_power_of_two();
        if !fits(rings.tx) || !fits(rings.rx) {
            return Err(EINVAL);
        }
        self.rings = rings;
        Ok(())
    }
}

/// What everybody else requests of the worker.
#[derive(Clone)]
pub(crate) struct Requested {
    generation: u64,
    /// The peer offers ThunderboltIP.
    pub(crate) stock: Option<Settings>,
    /// The peer offers our wire.
    pub(crate) native: bool,
    pub(crate) wanted: Wanted,
    pub(crate) suspended: bool,
    /// The link ends.
    pub(crate) dying: bool,
    /// Stop and start: something that is fixed while it runs has changed. Once.
    pub(crate) restart: bool,
    /// The rings do not work. Once.
    pub(crate) fault: bool,
}

impl Requested {
    /// Which wire is to be spoken: ours if the peer speaks it.
    pub(crate) fn kind(&self) -> Option<ServiceKind> {
        if self.native {
            Some(ServiceKind::Native)
        } else {
            self.stock.map(ServiceKind::Stock)
        }
    }

    /// Whether the link is to be up.
    pub(crate) fn runs(&self) -> bool {
        self.wanted.open && !self.suspended && !self.dying && self.kind().is_some()
    }

    /// The system wants this from now on. With other descriptors a link that is up goes down and up again.
    pub(crate) fn want(&mut self, wanted: Wanted) {
        self.restart |= self.wanted.rings != wanted.rings;
        self.wanted = wanted;
    }
}

/// What the worker has made of a request.
struct Actual {
    generation: u64,
    closed: bool,
    silent: bool,
}

/// Requests to one worker.
#[pin_data]
pub(crate) struct Requests {
    #[pin]
    requested: IrqLock<Requested>,
    #[pin]
    actual: Mutex<Actual>,
    #[pin]
    changed: CondVar,
}

impl Requests {
    /// Nothing is requested yet but what the system wants.
    pub(crate) fn new(wanted: Wanted) -> impl PinInit<Self> {
        let requested = Requested {
            generation: 0,
            stock: None,
            native: false,
            wanted,
            suspended: false,
            dying: false,
            restart: false,
            fault: false,
        };
        let actual = Actual {
            generation: 0,
            closed: true,
            silent: true,
        };
        pin_init!(Self {
            requested <- new_irq_lock!(requested, c"usb4_link_requested"),
            actual <- new_mutex!(actual, "usb4_link_actual"),
            changed <- new_condvar!("usb4_link_changed"),
        })
    }

    /// Changes what is requested. Returns the request's number. Any context.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Requested)) -> u64 {
        let mut requested = self.requested.lock();
        change(&mut requested);
        requested.generation += 1;
        requested.generation
    }

    /// What is requested now; what is requested once is not any more. The worker's.
    pub(crate) fn take(&self) -> Requested {
        let mut requested = self.requested.lock();
        let now = requested.clone();
        requested.restart = false;
        requested.fault = false;
        now
    }

    /// The worker has acted on `requested`: whether nobody uses the rings, and nothing is left to say to the peer.
    pub(crate) fn report(&self, requested: &Requested, closed: bool, silent: bool) {
        {
            let mut actual = self.actual.lock();
            actual.generation = requested.generation;
            actual.closed = closed;
            actual.silent = silent;
        }
        self.changed.notify_all();
    }

    /// Waits until the worker has acted on request `generation` and nobody uses the rings. Sleeps.
    pub(crate) fn wait_closed(&self, generation: u64) {
        let mut actual = self.actual.lock();
        while actual.generation < generation || !actual.closed {
            self.changed.wait(&mut actual);
        }
    }

    /// Whether the worker has acted on request `generation` and nothing is left to say to the peer. Sleeps.
    pub(crate) fn is_silent(&self, generation: u64) -> bool {
        let actual = self.actual.lock();
        actual.generation >= generation && actual.silent
    }
}
