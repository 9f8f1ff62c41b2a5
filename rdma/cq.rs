// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Completion queues: in memory shared with user space, or a kernel caller's, which has the same form and a little
//! more.

use crate::{
    caps,
    kapi::{
        queue::{Mapping, Ring},
        sync::{new_irq_lock, IrqLock},
        uverbs::{CqHandle, Detail, QpMark, Udata},
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};
use roce::{
    abi::{cqe, cqe_tail, KernelCqe, CQE_LEN, KERNEL_CQE_LEN},
    completion::{retain, Completion, WcStatus},
};
use tbnet::kapi::kernels::not_supported;

/// How the last datagram came.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sender {
    /// Over IPv6.
    pub(crate) ipv6: bool,
    /// In this VLAN, as in a path.
    pub(crate) tag: u32,
}

/// What a completion says beyond the engine's part.
pub(crate) struct Extra {
    /// How the last datagram came.
    pub(crate) sender: Sender,
    /// What a kernel caller knows the QP by.
    pub(crate) qp: QpMark,
}

/// What wakes the owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    No,
    Solicited,
    Any,
}

/// Guarded by the CQ's lock, which is taken under a QP's.
struct State {
    ring: Ring,
    /// Our index; the one in shared memory is a copy.
    producer: u32,
    armed: Armed,
    overrun: bool,
    /// A kernel caller's index. User space keeps its own.
    consumer: u32,
    /// Gone once the queue is being destroyed.
    handle: Option<CqHandle>,
    /// User space maps the ring: it must not read the kernel's pointers there, nor have us believe its own.
    is_shared: bool,
}

/// A completion queue.
#[pin_data]
pub(crate) struct Cq {
    #[pin]
    state: IrqLock<State>,
    /// Withdrawn where one may sleep.
    #[pin]
    mapping: Mutex<Option<Mapping>>,
}

impl Cq {
    /// A queue for `cqe` completions.
    pub(crate) fn create(handle: CqHandle, cqe: u32, udata: Option<&Udata>) -> Result<Arc<Self>> {
        let (ring, mapping) = Self::ring(cqe, udata)?;
        Arc::pin_init(
            pin_init!(Self {
                state <- new_irq_lock!(
                    State {
                        ring,
                        producer: 0,
                        armed: Armed::No,
                        overrun: false,
                        consumer: 0,
                        handle: Some(handle),
                        is_shared: udata.is_some(),
                    },
                    c"usb4_cq"
                ),
                mapping <- new_mutex!(mapping, "usb4_cq_mapping"),
            }),
            GFP_KERNEL,
        )
    }

    /// A ring and its announcement to user space.
    fn ring(cqe: u32, udata: Option<&Udata>) -> Result<(Ring, Option<Mapping>)> {
        if cqe == 0 || cqe > caps::MAX_CQE {
            return Err(EINVAL);
        }
        let (ring, mapping) = Ring::offered(udata, cqe, KERNEL_CQE_LEN, 2)?;
        if let (Some(udata), Some(mapping)) = (udata, &mapping) {
            udata.reply(&mapping.info.bytes())?;
        }
        Ok((ring, mapping))
    }

    /// Completions that fit.
    pub(crate) fn capacity(&self) -> u32 {
        self.state.lock().ring.capacity()
    }

    /// Moves the unread completions to a ring for `cqe`.
    pub(crate) fn resize(&self, cqe: u32, udata: &Udata) -> Result<u32> {
        // One resize at a time.
        let mut announced = self.mapping.lock();
        let unread = |state: &State| state.ring.distance(state.ring.consumer(), state.producer);
        if cqe < unread(&self.state.lock()) {
            return Err(EINVAL);
        }
        let (mut ring, mapping) = Self::ring(cqe, Some(udata))?;
        let capacity = ring.capacity();
        {
            let mut state = self.state.lock();
            let count = unread(&state);
            if count > capacity {
                return Err(EINVAL);
            }
            let mut from = state.ring.consumer();
            for to in 0..count {
                let mut cqe = [0; CQE_LEN];
                state.ring.read(from, 0, &mut cqe);
                ring.write(to, 0, &cqe);
                from = state.ring.next(from);
            }
            ring.publish_producer(count);
            core::mem::swap(&mut state.ring, &mut ring);
            state.producer = count;
        }
        let old = core::mem::replace(&mut *announced, mapping);
        drop(announced);
        drop(old);
        drop(ring);
        Ok(capacity)
    }

    /// How far its owner says to have read.
    pub(crate) fn read_up_to(&self) -> u32 {
        self.state.lock().ring.consumer()
    }

    /// Asks for one event. True if completions are there already.
    pub(crate) fn arm(&self, solicited_only: bool) -> bool {
        let mut state = self.state.lock();
        state.armed = match (state.armed, solicited_only) {
            (Armed::Any, _) | (_, false) => Armed::Any,
            _ => Armed::Solicited,
        };
        state.ring.consumer() != state.producer
    }

    /// Adds a completion, and wakes the owner if that was asked for. Called under the QP's lock.
    /// Whether somebody was woken by it.
    pub(crate) fn push(&self, completion: &Completion, extra: &Extra) -> bool {
        let mut state = self.state.lock();
        let next = state.ring.next(state.producer);
        if next == state.ring.consumer() {
            if !state.overrun {
                state.overrun = true;
                if let Some(handle) = &state.handle {
                    handle.overrun();
                }
            }
            return false;
        }
        let Extra { sender, qp } = extra;
        state.ring.write(state.producer, 0, &cqe(completion, sender.ipv6));
        if !state.is_shared {
            state.ring.write(state.producer, CQE_LEN, &cqe_tail(qp.0, sender.tag));
        }
        state.producer = next;
        state.ring.publish_producer(next);
        let wakes = match state.armed {
            Armed::No => false,
            Armed::Any => true,
            Armed::Solicited => completion.solicited || completion.status != WcStatus::Success,
        };
        if !wakes {
            return false;
        }
        state.armed = Armed::No;
        let handle = state.handle;
        drop(state);
        // The owner may poll and arm from its handler. The queue outlives its QPs, one of which is in this call.
        if let Some(handle) = handle {
            handle.complete();
        }
        true
    }

    /// The next completion, of a kernel caller's queue. Any context.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` of a queue that user space polls itself: a command of uverbs leads here too.
    pub(crate) fn poll(&self) -> Result<Option<KernelCqe>> {
        let mut state = self.state.lock();
        if state.is_shared {
            return Err(not_supported());
        }
        if state.consumer == state.producer {
            return Ok(None);
        }
        let mut raw = [0; KERNEL_CQE_LEN];
        state.ring.read(state.consumer, 0, &mut raw);
        state.consumer = state.ring.next(state.consumer);
        state.ring.publish_consumer(state.consumer);
        drop(state);
        Ok(Some(KernelCqe::parse(&raw)))
    }

    /// Takes out what a kernel caller has not read yet of a QP that is destroyed: each completion names the core's QP
    /// by its address, where something else may be by the time it is read. User space gets numbers. Any context.
    pub(crate) fn forget(&self, qp: QpMark) {
        let mut state = self.state.lock();
        if state.is_shared {
            return;
        }
        let ring = &state.ring;
        let at = |slot: u32| {
            let mut raw = [0; KERNEL_CQE_LEN];
            ring.read(slot, 0, &mut raw);
            raw
        };
        let end = retain(
            state.consumer,
            state.producer,
            |slot| ring.next(slot),
            |slot| KernelCqe::parse(&at(slot)).mark != qp.0,
            |from, to| ring.write(to, 0, &at(from)),
        );
        state.producer = end;
        state.ring.publish_producer(end);
    }

    /// Our own attributes in `rdma resource show cq -dd`.
    pub(crate) fn details(&self) -> [Detail; 3] {
        let state = self.state.lock();
        [
            Detail::dec(
                c"unread",
                u64::from(state.ring.distance(state.ring.consumer(), state.producer)),
            ),
            Detail::dec(c"armed", u64::from(state.armed != Armed::No)),
            Detail::dec(c"overrun", u64::from(state.overrun)),
        ]
    }

    /// The queue is being destroyed: no event from now on.
    pub(crate) fn close(&self) {
        self.state.lock().handle = None;
        let mapping = self.mapping.lock().take();
        drop(mapping);
    }
}
