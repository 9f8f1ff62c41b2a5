// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is due when. Events of the same instant come in the order they were put in, so a run repeats exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;

/// Something the fabric must do at a time. An event that has become pointless is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Look at all links: training may be over, a plug event due.
    Links,
    /// The line out of a cable's end is free.
    LineFree { cable: usize, end: usize },
    /// The DMA of a Tx ring with a rate is free.
    RingFree { nhi: usize, ring: usize },
    /// The oldest frame on the wire from this ring arrives.
    Arrival { nhi: usize, ring: usize, generation: u32 },
    /// A throttled vector may signal.
    VectorFree { nhi: usize, vector: usize },
    /// Held frames (delay, reorder) are due.
    Release,
}

/// A priority queue of events.
#[derive(Clone, Debug, Default)]
pub struct Calendar {
    heap: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    count: u64,
}

impl Calendar {
    pub fn put(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count, event)));
    }

    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the first event if it is due.
    pub fn take(&mut self, now: Instant) -> Option<(Instant, Event)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_order() {
        let mut calendar = Calendar::default();
        calendar.put(Instant(5), Event::Release);
        calendar.put(Instant(3), Event::VectorFree { nhi: 1, vector: 1 });
        calendar.put(Instant(3), Event::Links);
        assert_eq!(calendar.take(Instant(2)), None);
        assert_eq!(
            calendar.take(Instant(9)),
            Some((Instant(3), Event::VectorFree { nhi: 1, vector: 1 }))
        );
        assert_eq!(calendar.take(Instant(9)), Some((Instant(3), Event::Links)));
        assert_eq!(calendar.next(), Some(Instant(5)));
    }
}
