// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Shared receive queues: receives that several QPs take from.
//!
//! User space gets a slot back when a QP takes it (verbs.md section 2); what it said is kept by the QP. Posting rings
//! no doorbell, so the limit is looked at when a receive is taken.

use crate::{
    caps,
    kapi::{
        queue::Mapping,
        sync::{new_bh_lock, new_irq_lock, BhLock, IrqLock},
        uverbs::{Detail, SrqHandle, Udata},
    },
    post::Poster,
    wq::{Places, RecvRing},
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};
use roce::{keys::Pd, wqe::RecvWqe};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// Guarded by the queue's lock, which is taken under a QP's.
struct State {
    ring: RecvRing,
    capacity: u32,
    /// Fewer receives than this raise an event, once. 0: never.
    limit: u32,
    /// Gone once the queue is being destroyed.
    handle: Option<SrqHandle>,
}

/// A shared receive queue.
#[pin_data]
pub(crate) struct Srq {
    pd: Pd,
    max_sge: u32,
    #[pin]
    state: BhLock<State>,
    /// Withdrawn where one may sleep.
    #[pin]
    mapping: Mutex<Option<Mapping>>,
    /// Where a kernel caller posts.
    #[pin]
    posts: IrqLock<Option<Poster>>,
}

/// Who wants a shared receive queue.
pub(crate) enum Caller<'a> {
    /// User space, which maps the ring.
    User(&'a Udata),
    /// A caller in the kernel.
    Kernel,
}

impl Srq {
    /// A queue in domain `pd`, called `number`. `attr` becomes what it really has.
    pub(crate) fn create(
        handle: SrqHandle,
        pd: Pd,
        number: u32,
        attr: &mut c::ib_srq_attr,
        caller: Caller<'_>,
    ) -> Result<Arc<Self>> {
        if attr.max_wr == 0 || attr.max_wr > caps::MAX_SRQ_WR || attr.max_sge > caps::MAX_SRQ_SGE {
            return Err(EINVAL);
        }
        let user = match caller {
            Caller::User(udata) => Some(udata),
            Caller::Kernel => None,
        };
        let (ring, mapping) = RecvRing::new(&mut attr.max_wr, attr.max_sge, user)?;
        let posts = match caller {
            Caller::User(udata) => {
                let mapping = mapping.as_ref().ok_or(EINVAL)?;
                let mut answer = [0; 24];
                let (first, second) = answer.split_at_mut(16);
                first.copy_from_slice(&mapping.info.bytes());
                second.copy_from_slice(&u64::from(number).to_le_bytes());
                udata.reply(&answer)?;
                None
            }
            Caller::Kernel => Some(ring.poster()),
        };
        let state = State {
            ring,
            capacity: attr.max_wr,
            limit: attr.srq_limit,
            handle: Some(handle),
        };
        Arc::pin_init(
            pin_init!(Self {
                pd,
                max_sge: attr.max_sge,
                state <- new_bh_lock!(state, c"usb4_srq"),
                mapping <- new_mutex!(mapping, "usb4_srq_mapping"),
                posts <- new_irq_lock!(posts, c"usb4_srq_posts"),
            }),
            GFP_KERNEL,
        )
    }

    /// The protection domain of its buffers.
    pub(crate) fn pd(&self) -> Pd {
        self.pd
    }

    /// Scatter entries of a request at most.
    pub(crate) fn max_sge(&self) -> usize {
        self.max_sge as usize
    }

    /// Takes a receive for a QP that keeps it in `places`. Called under the QP's lock.
    pub(crate) fn fetch(&self, places: &mut Places) -> Option<RecvWqe> {
        let mut state = self.state.lock();
        let taken = state.ring.fetch(places)?;
        if state.ring.waiting() < state.limit {
            state.limit = 0;
            if let Some(handle) = &state.handle {
                handle.limit_reached();
            }
        }
        Some(taken)
    }

    /// Posts a kernel caller's receive. Any context.
    pub(crate) fn post(&self, wr_id: u64, sges: &[c::ib_sge]) -> Result {
        (*self.posts.lock()).as_mut().ok_or(EINVAL)?.recv(wr_id, sges)
    }

    /// Changes the limit, or the size. The announcement of a new ring goes where user space says; a kernel caller
    /// cannot change the size.
    pub(crate) fn modify(&self, wanted: &c::ib_srq_attr, mask: u32, udata: Option<&Udata>) -> Result {
        let resize = mask & c::ib_srq_attr_mask_IB_SRQ_MAX_WR != 0;
        let limit = (mask & c::ib_srq_attr_mask_IB_SRQ_LIMIT != 0).then_some(wanted.srq_limit);
        // One change at a time.
        let mut mapping = self.mapping.lock();
        let (capacity, old_limit) = {
            let state = self.state.lock();
            (state.capacity, state.limit)
        };
        let room = if resize { wanted.max_wr } else { capacity };
        if room == 0 || room > caps::MAX_SRQ_WR || limit.unwrap_or(if resize { old_limit } else { 0 }) > room {
            return Err(EINVAL);
        }
        if resize {
            let udata = udata.ok_or_else(not_supported)?;
            let mut place = [0; 8];
            udata.read(&mut place)?;
            let mut capacity = room;
            let (mut ring, announced) = RecvRing::new(&mut capacity, self.max_sge, Some(udata))?;
            let announced = announced.ok_or(EINVAL)?;
            udata.write_at(u64::from_ne_bytes(place), &announced.info.bytes())?;
            let moved = {
                let mut state = self.state.lock();
                let moved = state.ring.move_to(&mut ring);
                if moved {
                    state.capacity = capacity;
                }
                moved
            };
            drop(ring);
            if !moved {
                return Err(EINVAL);
            }
            let old = mapping.replace(announced);
            drop(old);
        }
        if let Some(limit) = limit {
            self.state.lock().limit = limit;
        }
        Ok(())
    }

    /// Answers `query_srq`.
    pub(crate) fn query(&self, attr: &mut c::ib_srq_attr) {
        let state = self.state.lock();
        attr.max_wr = state.capacity;
        attr.max_sge = self.max_sge;
        attr.srq_limit = state.limit;
    }

    /// Our own attributes in `rdma resource show srq -dd`.
    pub(crate) fn details(&self) -> [Detail; 4] {
        let state = self.state.lock();
        [
            Detail::dec(c"max_wr", u64::from(state.capacity)),
            Detail::dec(c"max_sge", u64::from(self.max_sge)),
            Detail::dec(c"limit", u64::from(state.limit)),
            Detail::dec(c"posted", u64::from(state.ring.waiting())),
        ]
    }

    /// The queue is being destroyed; no QP uses it.
    pub(crate) fn close(&self) {
        self.state.lock().handle = None;
        let mapping = self.mapping.lock().take();
        drop(mapping);
    }
}
