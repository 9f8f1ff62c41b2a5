// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the client, whose trains go by the lane, asks of it, and what the lane tells it.

use super::{mac_number, number_mac, Lane, TxSide, REAP_BATCH};
use crate::{
    client::{Client, Held, NotSent, Outbound, Train},
    kapi::{ring::Wake, timer},
};
use core::sync::atomic::Ordering;
use kernel::{prelude::*, sync::Arc};
use tbip::{frame::Seq, reaper::LOOK_AFTER, share::Share, time::Instant};

impl Lane {
    /// Whether there is none. Process context.
    pub(crate) fn is_free(&self) -> bool {
        self.client.lock().is_none()
    }

    /// From now on it is `client`. Process context.
    pub(crate) fn attach(&self, client: Arc<dyn Client>) {
        {
            let mut side = self.tx.lock();
            side.before = side.counters.trains;
        }
        let former = self.client.lock().replace(client);
        drop(former);
    }

    /// And nobody any more: on return nobody is in a call of the client. Process context.
    pub(crate) fn detach(&self) {
        let former = self.client.lock().take();
        drop(former);
    }

    /// Whether trains may go to the host with this Ethernet address.
    pub(crate) fn reaches(&self, mac: [u8; 6]) -> bool {
        self.reaches.load(Ordering::Relaxed) == mac_number(mac)
    }

    /// Whether it is the one of its cable that packets of the stack go by as well.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Most page frames of a train.
    pub(crate) fn most_pages(&self) -> usize {
        usize::from(self.most_pages.load(Ordering::Relaxed))
    }

    /// Whether any train has room, where the client has lanes of `several` cables. If not, the client is told when it
    /// has; or when the peer is there again.
    pub(crate) fn has_room(&self, several: Option<usize>) -> bool {
        let mut side = self.tx.lock();
        let TxSide {
            path,
            live,
            wanted,
            counters,
            ..
        } = &mut *side;
        let Some(tx) = path.as_mut().filter(|_| *live) else {
            *wanted = true;
            return false;
        };
        tx.set_several(several);
        if tx.in_flight() >= REAP_BATCH {
            tx.reap(&self.netdev, false);
        }
        if tx.has_train_room() {
            return true;
        }
        *wanted = true;
        tx.blocked(Instant(timer::now()), Share::NEEDED, counters);
        if let Some(at) = tx.probe_at() {
            self.timer.arm(at.0);
        }
        if tx.poll_timer(&self.netdev, true) {
            self.timer.arm(timer::now() + LOOK_AFTER.0);
        }
        false
    }

    /// See [`crate::port::Port::post`].
    pub(crate) fn post<E>(
        &self,
        train: &Outbound<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        let mut side = self.tx.lock();
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        let tx = path.as_mut().filter(|_| *live).ok_or(NotSent::Busy)?;
        let credit = Seq(self.credit.load(Ordering::Relaxed));
        let have = Seq(self.have.load(Ordering::Relaxed));
        tx.send_train(train, held, (credit, have), copy, counters)
    }

    /// Tells the hardware of what the client has posted.
    pub(crate) fn ring(&self) {
        let mut side = self.tx.lock();
        let TxSide {
            path, wanted, counters, ..
        } = &mut *side;
        if let Some(tx) = path.as_mut() {
            tx.doorbell(counters);
            if tx.poll_timer(&self.netdev, *wanted) {
                self.timer.arm(timer::now() + LOOK_AFTER.0);
            }
            if let Some(at) = tx.arm_to_ask() {
                self.timer.arm(at.0);
            }
        }
    }

    /// Whether the peer answers by it; else it does by another.
    pub(crate) fn answers(&self) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }

    /// Whether the peer has said something new of our trains since then.
    pub(crate) fn has_answered(&self, since: u64) -> bool {
        self.answered.load(Ordering::Relaxed) > since
    }

    /// The client has doubts about its peer: asks it by this lane too, where nothing is under way that asks.
    pub(crate) fn ask(&self) {
        let asks = {
            let mut side = self.tx.lock();
            let TxSide { path, live, .. } = &mut *side;
            path.as_mut().filter(|_| *live).is_some_and(|tx| {
                let now = Instant(timer::now());
                tx.doubt(now);
                tx.timer_to_ask().is_some_and(|at| at <= now)
            })
        };
        if asks {
            self.ask.store(true, Ordering::Relaxed);
            self.wake();
        }
    }

    /// The peer does not answer, and was asked once more. If it answers on another lane of the client's this one
    /// carries nothing, of which the host may know nothing yet: what is under way is lost, and goes by the others. In
    /// the poll.
    pub(super) fn doubt(&self) {
        let since = self.unanswered.swap(0, Ordering::Relaxed);
        if since == 0 {
            return;
        }
        let mac = number_mac(self.reaches.load(Ordering::Relaxed));
        let is_there = match &*self.client.lock() {
            Some(client) => client.is_there(mac, since),
            None => false,
        };
        if !is_there {
            return;
        }
        {
            let mut side = self.tx.lock();
            let TxSide { path, counters, .. } = &mut *side;
            if path.as_mut().is_some_and(|tx| tx.give_up(counters)) {
                self.silent.store(true, Ordering::Relaxed);
            }
        }
        self.tell_lost();
    }

    /// Tells the client of the trains that are lost. No lock of the lane is held.
    #[inline(never)]
    pub(super) fn tell_lost(&self) {
        // Each turn ends a train in flight.
        loop {
            let lost = {
                let mut side = self.tx.lock();
                let TxSide { path, counters, .. } = &mut *side;
                path.as_mut().and_then(|tx| tx.take_lost(counters))
            };
            let Some(token) = lost else {
                return;
            };
            if let Some(client) = &*self.client.lock() {
                client.on_lost(token);
            }
        }
    }

    pub(super) fn hand_over(&self, train: &Arc<Train>) {
        match &*self.client.lock() {
            Some(client) => client.on_train(train),
            None => self.rx.lock().counters.other_kind += 1,
        }
    }
}
