// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The send window: messages taken from the send queue and not yet completed.
//!
//! ```text
//!   index   0 ........ done ........ cur ........ started .. len
//!           | completed |  sent or    | to be sent |  taken,  |
//!           | not polled|  partly     | (again)    |  waiting |
//! ```
//!
//! A ring over the caller's slots; all index arithmetic of the window is here.

use crate::limits::MAX_SEND_SLOTS;
use crate::psn::Psn;
use crate::wqe::SendWqe;

/// One message of the send window. Opaque to the caller, who supplies the memory.
#[derive(Clone, Copy, Debug)]
pub struct SendSlot {
    pub(crate) wqe: SendWqe,
    /// PSN of its first packet, once started.
    pub(crate) first: Psn,
    /// PSNs it takes, once started. None if nothing of it goes on the wire: then it is carried out once
    /// it has started.
    pub(crate) packets: u32,
}

impl SendSlot {
    /// A slot of an empty window.
    pub const EMPTY: Self = Self {
        wqe: SendWqe::EMPTY,
        first: Psn::new(0),
        packets: 0,
    };

    /// One past the last PSN.
    pub(crate) const fn end(&self) -> Psn {
        self.first.plus(self.packets)
    }

    /// Whether it completes by an answer of its own.
    pub(crate) const fn is_answered(&self) -> bool {
        self.wqe.op.is_answered()
    }
}

impl Default for SendSlot {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Positions in the ring.
///
/// # Invariants
///
/// `done <= cur <= started <= len <= capacity` and `len <= started + 1`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    head: usize,
    len: usize,
    done: usize,
    cur: usize,
    started: usize,
}

/// Usable slots of the storage.
#[inline]
fn capacity(slots: &[SendSlot]) -> usize {
    slots.len().min(MAX_SEND_SLOTS)
}

impl Window {
    /// Messages completed and not polled.
    pub(crate) const fn done(&self) -> usize {
        self.done
    }

    /// Index of the message the next packet belongs to.
    pub(crate) const fn cur(&self) -> usize {
        self.cur
    }

    /// Messages that have PSNs.
    pub(crate) const fn started(&self) -> usize {
        self.started
    }

    /// Messages held.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether another message fits.
    #[inline]
    pub(crate) fn has_room(&self, slots: &[SendSlot]) -> bool {
        self.len < capacity(slots)
    }

    /// The message at `index`, counted from the oldest.
    #[inline]
    pub(crate) fn at<'a>(&self, slots: &'a [SendSlot], index: usize) -> Option<&'a SendSlot> {
        if index >= self.len {
            return None;
        }
        slots.get(self.position(slots, index))
    }

    /// As [`Window::at`].
    #[inline]
    pub(crate) fn at_mut<'a>(&self, slots: &'a mut [SendSlot], index: usize) -> Option<&'a mut SendSlot> {
        if index >= self.len {
            return None;
        }
        let position = self.position(slots, index);
        slots.get_mut(position)
    }

    /// Append a message that waits to be started.
    #[inline]
    pub(crate) fn push(&mut self, slots: &mut [SendSlot], wqe: SendWqe) {
        if !self.has_room(slots) {
            return;
        }
        let position = self.position(slots, self.len);
        if let Some(slot) = slots.get_mut(position) {
            *slot = SendSlot { wqe, ..SendSlot::EMPTY };
            self.len = self.len.wrapping_add(1);
        }
    }

    /// The waiting message has got its PSNs.
    #[inline]
    pub(crate) fn start(&mut self) {
        if self.started < self.len {
            self.started = self.started.wrapping_add(1);
        }
    }

    /// The current message is wholly sent.
    #[inline]
    pub(crate) fn step(&mut self) {
        if self.cur < self.started {
            self.cur = self.cur.wrapping_add(1);
        }
    }

    /// The oldest incomplete message has completed, and with it those behind it that wait for nothing
    /// else.
    #[inline]
    pub(crate) fn complete(&mut self, slots: &[SendSlot]) {
        if self.done < self.started {
            self.done = self.done.wrapping_add(1);
            self.cur = self.cur.max(self.done);
        }
        self.complete_idle(slots);
    }

    /// Complete what is oldest and takes no PSN.
    pub(crate) fn complete_idle(&mut self, slots: &[SendSlot]) {
        while self.done < self.started && self.at(slots, self.done).is_some_and(|slot| slot.packets == 0) {
            self.done = self.done.wrapping_add(1);
            self.cur = self.cur.max(self.done);
        }
    }

    /// The message at `index`, which was thought complete, is not.
    pub(crate) fn reopen(&mut self, index: usize) {
        self.done = self.done.min(index);
        self.seek(index);
    }

    /// Go back to the message at `index`.
    #[inline]
    pub(crate) fn seek(&mut self, index: usize) {
        // Not `clamp`, which panics should the bounds ever cross.
        self.cur = index.max(self.done).min(self.started);
    }

    /// Take the oldest message out.
    #[inline]
    pub(crate) fn pop(&mut self, slots: &[SendSlot]) -> Option<SendWqe> {
        let wqe = self.at(slots, 0)?.wqe;
        self.head = self.position(slots, 1);
        self.len = self.len.saturating_sub(1);
        self.done = self.done.saturating_sub(1);
        self.cur = self.cur.saturating_sub(1);
        self.started = self.started.saturating_sub(1);
        Some(wqe)
    }

    #[inline]
    fn position(&self, slots: &[SendSlot], index: usize) -> usize {
        let capacity = capacity(slots);
        let position = self.head.wrapping_add(index);
        if position >= capacity {
            position.wrapping_sub(capacity)
        } else {
            position
        }
    }
}
