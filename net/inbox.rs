// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Control messages that have come for a link and wait for its worker.

use crate::kapi::sync::{new_irq_lock, IrqLock};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use tbip::{fifo::Fifo, wire::MessageBuf};

/// Messages that wait at most. More are dropped: peers repeat theirs.
const MESSAGES: usize = 8;

/// The messages of one link.
#[pin_data]
pub(crate) struct Inbox {
    /// On the heap: messages are large.
    #[pin]
    waiting: IrqLock<Fifo<KVec<Option<MessageBuf>>>>,
    dropped: AtomicU64,
}

impl Inbox {
    /// An empty inbox.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let mut slots = KVec::with_capacity(MESSAGES, GFP_KERNEL)?;
        for _ in 0..MESSAGES {
            slots.push(None, GFP_KERNEL)?;
        }
        let fifo = Fifo::new(slots);
        Ok(pin_init!(Self {
            waiting <- new_irq_lock!(fifo, c"usb4_link_inbox"),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Keeps a message for the worker.
    pub(crate) fn put(&self, bytes: &[u8]) {
        let Some(message) = MessageBuf::copy_of(bytes) else {
            return;
        };
        if self.waiting.lock().push(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest message that waits. The worker's.
    pub(crate) fn take(&self) -> Option<MessageBuf> {
        self.waiting.lock().pop()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Messages dropped because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
