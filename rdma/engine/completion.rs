// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Work completions and asynchronous events.
//!
//! The discriminants of [`WcStatus`] and [`WcOpcode`] are those of `enum ib_wc_status` and
//! `enum ib_wc_opcode` (`rdma/ib_verbs.h`), which user space reads.

pub use crate::fault::WcStatus;

use crate::keys::Key;
use crate::psn::Qpn;

/// What completed: values of `enum ib_wc_opcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WcOpcode {
    /// SEND, with or without immediate data.
    Send = 0,
    /// WRITE, with or without immediate data.
    Write = 1,
    /// READ.
    Read = 2,
    /// Atomic compare and swap.
    CompareSwap = 3,
    /// Atomic fetch and add.
    FetchAdd = 4,
    /// Memory window bound.
    BindWindow = 5,
    /// Key invalidated.
    LocalInvalidate = 6,
    /// FLUSH.
    Flush = 8,
    /// ATOMIC WRITE.
    AtomicWrite = 9,
    /// Memory registered; kernel consumers only.
    Register = 10,
    /// A receive filled by a SEND.
    Recv = 128,
    /// A receive consumed by the immediate data of a WRITE.
    RecvWithImm = 129,
}

/// The queue a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Send queue.
    Send,
    /// Receive queue (or shared receive queue).
    Recv,
}

/// One finished work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which queue it came from.
    pub queue: Queue,
    /// The poster's identifier.
    pub wr_id: u64,
    /// The caller's handle of the WQE: its slot is free again now.
    pub slot: u32,
    /// Outcome.
    pub status: WcStatus,
    /// What completed. Meaningful only with [`WcStatus::Success`].
    pub opcode: WcOpcode,
    /// Bytes received, or of the sent message. Zero unless successful.
    pub byte_len: u32,
    /// Immediate data in wire order.
    pub imm: Option<[u8; 4]>,
    /// The key of ours that the peer's SEND has invalidated (flag WITH_INVALIDATE; it shares its place
    /// in the CQE with the immediate data, in this CPU's order).
    pub invalidated: Option<Key>,
    /// Of a received datagram: the sender's queue pair. Implies the GRH flag; the P_Key index is 0.
    pub src_qpn: Option<Qpn>,
    /// Wakes a completion queue armed for solicited events: the peer asked for it, or an error.
    pub solicited: bool,
    /// False on a successful send that asked for no CQE: free the slot, write nothing.
    pub signalled: bool,
    /// The local queue pair.
    pub qpn: Qpn,
}

/// Asynchronous event of a queue pair (`enum ib_event_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// IB_EVENT_COMM_EST: first packet in RTR.
    CommEstablished,
    /// IB_EVENT_SQ_DRAINED: everything started before SQD has completed.
    SqDrained,
    /// IB_EVENT_QP_LAST_WQE_REACHED: a queue pair on a shared receive queue will take no more.
    LastWqeReached,
    /// IB_EVENT_QP_REQ_ERR: the peer's request was invalid and no receive could carry the error.
    RequestError,
    /// IB_EVENT_QP_ACCESS_ERR: the peer's access was refused.
    AccessError,
    /// IB_EVENT_QP_FATAL: our own inconsistency.
    Fatal,
}

/// The events waiting to be polled: each kind at most once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events(u8);

impl Events {
    const ALL: [Event; 6] = [
        Event::CommEstablished,
        Event::SqDrained,
        Event::RequestError,
        Event::AccessError,
        Event::Fatal,
        Event::LastWqeReached,
    ];

    /// Remember `event`.
    pub(crate) fn raise(&mut self, event: Event) {
        self.0 |= Self::bit(event);
    }

    /// The next remembered event, forgetting it.
    pub(crate) fn take(&mut self) -> Option<Event> {
        let event = Self::ALL.into_iter().find(|e| self.0 & Self::bit(*e) != 0)?;
        self.0 &= !Self::bit(event);
        Some(event)
    }

    const fn bit(event: Event) -> u8 {
        match event {
            Event::CommEstablished => 1,
            Event::SqDrained => 2,
            Event::LastWqeReached => 4,
            Event::RequestError => 8,
            Event::AccessError => 16,
            Event::Fatal => 32,
        }
    }
}

/// Keeps those of the entries of a ring, from `consumer` up to `producer`, that stay, in their order. `next` is the
/// slot after a slot, `moves` copies an entry to an earlier slot. The result is the new producer.
pub fn retain(
    consumer: u32,
    producer: u32,
    next: impl Fn(u32) -> u32,
    stays: impl Fn(u32) -> bool,
    mut moves: impl FnMut(u32, u32),
) -> u32 {
    let (mut from, mut to) = (consumer, consumer);
    while from != producer {
        if stays(from) {
            if from != to {
                moves(from, to);
            }
            to = next(to);
        }
        from = next(from);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn what_stays_in_a_ring_keeps_its_order_over_the_wrap() {
        let next = |slot: u32| (slot + 1) % 8;
        let read = |ring: &[u32; 8], mut at: u32, end: u32| {
            let mut list = Vec::new();
            while at != end {
                list.push(ring[at as usize]);
                at = next(at);
            }
            list
        };
        for consumer in 0..8 {
            for count in 0..8_u32 {
                // Every choice of those that go: the odd ones.
                for choice in 0..1_u32 << count {
                    let ring = RefCell::new([0; 8]);
                    let mut producer = consumer;
                    for n in 0..count {
                        ring.borrow_mut()[producer as usize] = 2 * n + (choice >> n & 1);
                        producer = next(producer);
                    }
                    let mut kept = read(&ring.borrow(), consumer, producer);
                    kept.retain(|entry| entry % 2 == 0);
                    let end = retain(
                        consumer,
                        producer,
                        next,
                        |slot| ring.borrow()[slot as usize] % 2 == 0,
                        |from, to| {
                            let entry = ring.borrow()[from as usize];
                            ring.borrow_mut()[to as usize] = entry;
                        },
                    );
                    assert_eq!(read(&ring.borrow(), consumer, end), kept);
                }
            }
        }
    }

    #[test]
    fn an_event_is_reported_once() {
        let mut events = Events::default();
        events.raise(Event::AccessError);
        events.raise(Event::AccessError);
        assert_eq!(events.take(), Some(Event::AccessError));
        assert_eq!(events.take(), None);
    }
}
