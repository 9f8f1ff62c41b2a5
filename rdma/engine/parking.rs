// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The page fault of a queue pair: one at a time, for one of its lives.
//!
//! ```text
//!            begin                    finish
//!     idle ---------> under way --------------> idle, what waited is handled again
//!       ^                 |                          settle: that has been done
//!       +---- renew ------+   the errand comes to an end that nobody waits for
//! ```
//!
//! A life ends with RESET or destruction. What waited for a page in one life is not handled in the next, and an errand
//! of an earlier life decides nothing in a later one.

/// Packets of one queue pair that wait at most; what comes after them counts as lost.
pub const PARKED: usize = 128;

/// An errand of one life.
#[derive(Debug)]
pub struct Errand {
    life: u64,
}

/// Whether pages are being brought for a queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parking {
    life: u64,
    busy: bool,
    /// The page fault that just ended was in vain: while its packets and sends are handled again.
    hopeless: bool,
}

impl Parking {
    /// Nothing under way.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            life: 0,
            busy: false,
            hopeless: false,
        }
    }

    /// Whether packets have to queue behind others.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether a page that is missed now cannot be had.
    #[must_use]
    pub const fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// Whether a packet that has to wait may do so behind `parked` others.
    #[must_use]
    pub const fn has_room(&self, parked: usize) -> bool {
        self.busy && parked < PARKED
    }

    /// An errand to be run, unless one is under way.
    pub const fn begin(&mut self) -> Option<Errand> {
        if self.busy {
            return None;
        }
        self.busy = true;
        Some(Errand { life: self.life })
    }

    /// The errand that was to begin cannot be run.
    pub const fn give_up(&mut self) {
        self.busy = false;
    }

    /// Whether an errand is of this life.
    #[must_use]
    pub const fn is_current(&self, errand: &Errand) -> bool {
        self.life == errand.life
    }

    /// An errand has come to an end: the pages are there, or without `done` cannot be had. True if what waits is to be
    /// handled again.
    pub const fn finish(&mut self, errand: &Errand, done: bool) -> bool {
        if !self.is_current(errand) {
            return false;
        }
        self.busy = false;
        self.hopeless = !done;
        true
    }

    /// What waited for the errand has been handled again.
    pub const fn settle(&mut self, errand: &Errand) {
        if self.is_current(errand) {
            self.hopeless = false;
        }
    }

    /// Another life begins. What waits is to be dropped.
    pub const fn renew(&mut self) {
        *self = Self {
            life: self.life.wrapping_add(1),
            ..Self::new()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_errand_at_a_time() {
        let mut parking = Parking::new();
        let errand = parking.begin().unwrap();
        assert!(parking.is_busy() && parking.begin().is_none());
        assert!(parking.finish(&errand, true));
        assert!(!parking.is_busy() && !parking.is_hopeless());
        assert!(parking.begin().is_some());
    }

    #[test]
    fn packets_wait_for_an_errand_and_for_nothing_else() {
        let mut parking = Parking::new();
        assert!(!parking.has_room(0));
        let _errand = parking.begin();
        assert!(parking.has_room(PARKED - 1) && !parking.has_room(PARKED));
        parking.give_up();
        assert!(!parking.has_room(0));
    }

    #[test]
    fn a_page_that_cannot_be_had_is_a_fault_for_what_waited_for_it() {
        let mut parking = Parking::new();
        let errand = parking.begin().unwrap();
        assert!(parking.finish(&errand, false));
        assert!(parking.is_hopeless());
        parking.settle(&errand);
        assert!(!parking.is_hopeless());
    }

    #[test]
    fn an_errand_of_an_earlier_life_decides_nothing() {
        let mut parking = Parking::new();
        let old = parking.begin().unwrap();
        parking.renew();
        assert!(!parking.is_busy(), "nothing of the new life waits for it");
        assert!(!parking.finish(&old, false) && !parking.is_hopeless());

        // With another under way, and with one that was in vain.
        let new = parking.begin().unwrap();
        assert!(!parking.finish(&old, true) && parking.is_busy());
        assert!(parking.finish(&new, false));
        parking.settle(&old);
        assert!(parking.is_hopeless(), "not the old one's to settle");
        parking.settle(&new);
        assert_eq!(
            parking,
            Parking {
                life: 1,
                ..Parking::new()
            }
        );
    }

    #[test]
    fn a_fault_that_was_in_vain_ends_with_its_life() {
        let mut parking = Parking::new();
        let errand = parking.begin().unwrap();
        assert!(parking.finish(&errand, false));
        parking.renew();
        assert!(!parking.is_hopeless() && !parking.is_current(&errand));
    }
}
