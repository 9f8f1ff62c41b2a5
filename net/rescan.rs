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
use tbip::steer::LANES;

/// Time between two looks: at first, and at most when nothing moves.
const PERIOD_MIN: u64 = 4_000_000;
const PERIOD_MAX: u64 = 64_000_000;

/// A lane's rings, and what was seen of them.
struct Watched {
    rings: Rings,
    tx: Look,
    rx: Look,
}

/// The rings that are looked at.
struct Watch {
    lanes: [Option<Watched>; LANES],
    period: u64,
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
            watch <- new_irq_lock!(Watch { lanes: [const { None }; LANES], period: PERIOD_MIN }, c"usb4_link_watch"),
            timer <- new_timer!(c"usb4_rescan"),
            stranded: AtomicU64::new(0),
        })
    }

    /// Once, where it is going to stay and before it is shared.
    pub(crate) fn settle(&self) {
        self.timer.own(self);
    }

    /// Looks at `rings` of each lane from now on. Nothing is looked at.
    pub(crate) fn start<'a>(&self, rings: impl Iterator<Item = &'a Rings>) {
        {
            let mut watch = self.watch.lock();
            watch.period = PERIOD_MIN;
            for (to, rings) in watch.lanes.iter_mut().zip(rings) {
                *to = Some(Watched {
                    rings: rings.clone(),
                    tx: Look::default(),
                    rx: Look::default(),
                });
            }
        }
        self.timer.arm(timer::now() + PERIOD_MIN);
    }

    /// Undoes [`Rescan::start`]. Sleeps.
    pub(crate) fn stop(&self) {
        let lanes = core::mem::replace(&mut self.watch.lock().lanes, [const { None }; LANES]);
        // Not under the lock: the last share may sleep.
        drop(lanes);
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
        let Watch { lanes, period } = &mut *watch;
        let (mut any, mut moved) = (false, false);
        for Watched { rings, tx, rx } in lanes.iter_mut().flatten() {
            let before = (*tx, *rx);
            // What was sent and holds nothing may lie there for long; it is taken back, but nothing was lost.
            rings.tx.rescan(tx);
            if rings.rx.rescan(rx) {
                self.stranded.fetch_add(1, Ordering::Relaxed);
            }
            moved |= (*tx, *rx) != before;
            any = true;
        }
        if !any {
            return;
        }
        if moved {
            *period = PERIOD_MIN;
        } else {
            *period = (*period * 2).min(PERIOD_MAX);
        }
        let next = timer::now() + *period;
        drop(watch);
        self.timer.arm(next);
    }
}
