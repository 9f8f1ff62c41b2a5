// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Virtual time: the calendar of UML's time travel.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use usb4_model::Instant;

use crate::mapping::Mapping;

const FREE_UNTIL: usize = 8;
const CURRENT_TIME: usize = 16;

/// The page that guests and calendar share.
pub struct Schedule {
    page: Mapping,
}

impl Schedule {
    pub fn new(file: impl AsFd, length: usize) -> std::io::Result<Self> {
        Ok(Schedule {
            page: Mapping::new(file.as_fd(), 0, length, true)?,
        })
    }

    pub fn now(&self) -> Instant {
        Instant(
            self.page
                .atomic_u64(CURRENT_TIME)
                .map_or(0, |time| time.load(Ordering::SeqCst)),
        )
    }

    /// The guest that runs must stop for the model's next event.
    pub fn limit(&self, next: Instant) {
        if let Some(free_until) = self.page.atomic_u64(FREE_UNTIL) {
            free_until.fetch_min(next.0, Ordering::SeqCst);
        }
    }
}
