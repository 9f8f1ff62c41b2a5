// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A queue of bounded length over the caller's slots.

use core::ops::DerefMut;

/// Things that wait, oldest first.
///
/// # Invariants
///
/// `first` is below the number of slots or 0, and `count` is at most that number. The `count` slots from `first` on,
/// which begin again behind the last, are full and the others empty.
#[derive(Debug)]
pub struct Fifo<S> {
    slots: S,
    first: usize,
    count: usize,
}

impl<T, S: DerefMut<Target = [Option<T>]>> Fifo<S> {
    /// An empty queue that holds as many things as there are `slots`, which are empty.
    pub fn new(slots: S) -> Self {
        Self {
            slots,
            first: 0,
            count: 0,
        }
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends a thing.
    ///
    /// # Errors
    ///
    /// Gives it back if the queue is full.
    pub fn push(&mut self, thing: T) -> Result<(), T> {
        let at = self.position(self.count);
        match self.slots.get_mut(at) {
            Some(slot) if slot.is_none() => {
                *slot = Some(thing);
                self.count = self.count.wrapping_add(1);
                Ok(())
            }
            _ => Err(thing),
        }
    }

    /// Takes the oldest thing out.
    pub fn pop(&mut self) -> Option<T> {
        let thing = self.slots.get_mut(self.first)?.take()?;
        self.first = self.position(1);
        self.count = self.count.saturating_sub(1);
        Some(thing)
    }

    /// The slot `index` behind the first, with `index` at most the number of slots.
    fn position(&self, index: usize) -> usize {
        let (at, size) = (self.first.wrapping_add(index), self.slots.len());
        if at >= size {
            at.wrapping_sub(size)
        } else {
            at
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn a_queue_without_slots_holds_nothing() {
        let mut fifo: Fifo<Vec<Option<u8>>> = Fifo::new(vec![]);
        assert_eq!((fifo.pop(), fifo.push(1), fifo.is_empty()), (None, Err(1), true));
    }

    proptest! {
        #[test]
        fn as_a_deque_that_refuses_when_full(size in 1usize..9, steps in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut fifo = Fifo::new(vec![None; size]);
            let mut deque = VecDeque::new();
            for (number, push) in steps.into_iter().enumerate() {
                if push {
                    let fits = deque.len() < size;
                    prop_assert_eq!(fifo.push(number), if fits { Ok(()) } else { Err(number) });
                    if fits {
                        deque.push_back(number);
                    }
                } else {
                    prop_assert_eq!(fifo.pop(), deque.pop_front());
                }
                prop_assert_eq!(fifo.is_empty(), deque.is_empty());
            }
        }
    }
}
