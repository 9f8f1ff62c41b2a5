// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queue pairs that wait for room on their cable's lane, and are told one after the other when there is some.

use crate::kapi::sync::{new_bh_lock, BhLock};
use kernel::prelude::*;
use tbnet::Fifo;

/// Queue pairs that may stand in the queue. For whom there is no place a timer sees to it.
const PLACES: usize = 1024;

/// Numbers of queue pairs, the first to come first.
#[pin_data]
pub(crate) struct Waiting {
    #[pin]
    queue: BhLock<Fifo<KVVec<Option<u32>>>>,
}

impl Waiting {
    /// Nobody waits.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let mut places = KVVec::new();
        places.resize(PLACES, None, GFP_KERNEL)?;
        Ok(pin_init!(Self {
            queue <- new_bh_lock!(Fifo::new(places), c"usb4_waiting"),
        }))
    }

    /// A queue pair, which is not in the queue, stands at its end. False if there is no place.
    pub(crate) fn push(&self, number: u32) -> bool {
        self.queue.lock().push(number).is_ok()
    }

    /// Tells all who wait now.
    pub(crate) fn wake(&self, mut tell: impl FnMut(u32)) {
        // Who is told may come back at once.
        for _ in 0..PLACES {
            let Some(number) = self.queue.lock().pop() else {
                break;
            };
            tell(number);
        }
    }
}
