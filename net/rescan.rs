// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A look at a link's rings from time to time: an interrupt may be lost.

use crate::{
    kapi::{
        ring::Look,
        sync::{new_irq_lock, IrqLock},
        timer::{self, new_timer, Timed, Timer},
    },
    rings::Rings,
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;

/// Time between two looks: at first, and at most when nothing moves.
const PERIOD_MIN: u64 = 4_000_000;
const PERIOD_MAX: u64 = 64_000_000;

/// The rings that are looked at.
struct Watch {
    rings: Option<Rings>,
    tx: Look,
    rx: Look,
    period: u64,
}

impl Watch {
    fn of(rings: Option<Rings>) -> Self {
        Self {
            rings,
            tx: Look::default(),
            rx: Look::default(),
            period: PERIOD_MIN,
        }
    }
}

/// Looks at the rings of one link.
#[pin_data]
pub(crate) struct Rescan {
    #[pin]
    watch: IrqLock<Watch>,
    #[pin]
    timer: Timer<Rescan>,
    stranded: AtomicU64,
}

impl Rescan {
    /// Nothing is looked at.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            watch <- new_irq_lock!(Watch::of(None), c"usb4_link_watch"),
            timer <- new_timer!(c"usb4_rescan"),
            stranded: AtomicU64::new(0),
        })
    }

    /// Once, where it is going to stay and before it is shared.
    pub(crate) fn settle(&self) {
        self.timer.own(self);
    }

    /// Looks at `rings` from now on.
    pub(crate) fn start(&self, rings: &Rings) {
        *self.watch.lock() = Watch::of(Some(rings.clone()));
        self.timer.arm(timer::now() + PERIOD_MIN);
    }

    /// Undoes [`Rescan::start`]. Sleeps.
    pub(crate) fn stop(&self) {
        let rings = self.watch.lock().rings.take();
        // Not under the lock: the last share may sleep.
        drop(rings);
    }

    /// Ends for good. Sleeps.
    pub(crate) fn close(&self) {
        self.timer.close();
    }

    /// Completions of the receive ring that no interrupt told of.
    pub(crate) fn stranded(&self) -> u64 {
        self.stranded.load(Ordering::Relaxed)
    }
}

impl Timed for Rescan {
    fn on_timer(&self) {
        let mut watch = self.watch.lock();
        let Watch { rings, tx, rx, period } = &mut *watch;
        let Some(rings) = rings else {
            return;
        };
        let before = (*tx, *rx);
        // What was sent and holds nothing may lie there for long; it is taken back, but nothing was lost.
        rings.tx.rescan(tx);
        if rings.rx.rescan(rx) {
            self.stranded.fetch_add(1, Ordering::Relaxed);
        }
        if (*tx, *rx) == before {
            *period = (*period * 2).min(PERIOD_MAX);
        } else {
            *period = PERIOD_MIN;
        }
        let next = timer::now() + *period;
        drop(watch);
        self.timer.arm(next);
    }
}
