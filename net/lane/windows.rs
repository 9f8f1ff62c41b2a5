// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The direct lane of a lane: windows that are granted and asked for.

use super::{Lane, TxSide};
use crate::{
    client::{Held, NotSent, Outbound, Train, WindowOut},
    kapi::{pages::Piece, timer},
    rx::Polled,
};
use core::sync::atomic::Ordering;
use kernel::{prelude::*, sync::Arc};
use tbip::{frame::Seq, time::Instant};

/// Nanoseconds after which a timer of the direct lane that is due and could not be served comes again.
const DIRECT_PAUSE: u64 = 1_000_000;

impl Lane {
    /// Whether the direct lane is to begin anew, since the last call.
    pub(crate) fn take_broken(&self) -> bool {
        self.broken.swap(false, Ordering::Relaxed)
    }

    /// From the return on nobody touches the rings of the direct lane.
    pub(crate) fn quiesce_direct(&self) {
        self.direct.lock().runs = false;
    }

    /// The receive ring of the direct lane has been stopped: its windows end. Sleeps not, but is long.
    pub(crate) fn reset_direct(&self) {
        {
            let mut side = self.direct.lock();
            let counters = &mut self.rx.lock().counters;
            if let Some(direct) = &mut side.path {
                direct.reset(Instant(timer::now()), counters);
            }
        }
        self.end_windows();
    }

    /// The ring runs again.
    pub(crate) fn begin_direct(&self) {
        self.direct.lock().runs = true;
        self.napi.schedule();
    }

    /// Tells the client of windows that were open when the ring was stopped.
    pub(super) fn end_windows(&self) {
        // Each turn ends a window.
        loop {
            let over = self.direct.lock().path.as_mut().and_then(|direct| direct.take_open());
            let Some(over) = over else {
                return;
            };
            let _calls = self.client.lock();
            over.tell();
        }
    }

    /// Tells the client what became of trains that asked for windows. No lock of the lane is held.
    pub(super) fn tell_direct(&self) {
        // Each turn ends a request.
        loop {
            let told = {
                let mut side = self.direct.lock();
                side.path.as_mut().and_then(|direct| direct.told(Instant(timer::now())))
            };
            let Some((told, client)) = told else {
                return;
            };
            let _calls = self.client.lock();
            client.on_told(told);
        }
    }

    /// Whether windows are worth asking for, if perhaps there is no room for one now.
    pub(crate) fn has_windows(&self) -> bool {
        if !self.has_direct.load(Ordering::Relaxed) {
            return false;
        }
        let side = self.direct.lock();
        let now = Instant(timer::now());
        side.path
            .as_ref()
            .is_some_and(|direct| side.runs && direct.is_worth(now))
    }

    /// Whether a window may be asked for now. If not, the client is told of room when there may be.
    pub(crate) fn has_window_room(&self) -> bool {
        let room = {
            let side = self.direct.lock();
            side.path.as_ref().is_some_and(|direct| side.runs && direct.has_room())
        };
        if !room {
            self.tx.lock().wanted = true;
        }
        room
    }

    /// See [`crate::port::Port::post_window`].
    pub(crate) fn post_window<E>(
        &self,
        train: &Outbound<'_>,
        window: WindowOut<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        let mut direct = self.direct.lock();
        let runs = direct.runs;
        let direct = direct.path.as_mut().filter(|_| runs).ok_or(NotSent::Busy)?;
        let mut side = self.tx.lock();
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        let tx = path.as_mut().filter(|_| *live).ok_or(NotSent::Busy)?;
        let credit = Seq(self.credit.load(Ordering::Relaxed));
        let have = Seq(self.have.load(Ordering::Relaxed));
        direct.ask(tx, train, (window, held), (credit, have), copy, counters)?;
        if let Some(at) = direct.poll_timeout() {
            self.timer.arm(at.0);
        }
        Ok(())
    }

    /// A train asks for a window.
    #[inline(never)]
    pub(super) fn asked(&self, train: &Arc<Train>) {
        let mut decided = false;
        if let Some(client) = &*self.client.lock() {
            let mut post = |pieces: &[Piece], tail: &[Piece], held: KBox<dyn Held>| {
                decided = true;
                let mut side = self.direct.lock();
                let runs = side.runs;
                let direct = side.path.as_mut().filter(|_| runs);
                direct.is_some_and(|direct| direct.grant(Instant(timer::now()), train, (pieces, tail), held, client))
            };
            client.on_ask(train, &mut post);
        }
        if !decided {
            if let Some(direct) = &mut self.direct.lock().path {
                direct.refuse(train);
            }
        }
    }

    /// The direct lane's part of a poll.
    #[inline(never)]
    pub(super) fn serve_direct(&self, found: &Polled) {
        if !self.has_direct.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant(timer::now());
        {
            let mut side = self.direct.lock();
            let runs = side.runs;
            let Some(direct) = side.path.as_mut().filter(|_| runs) else {
                return;
            };
            if let Some(grant) = &found.grant {
                direct.hear(now, grant);
            }
            if let Some(ask) = &found.ask {
                direct.handle_ask(ask);
            }
            let mut tx = self.tx.lock();
            direct.fill(now, &mut tx.counters);
        }
        // Each turn ends a window.
        loop {
            let over = {
                let mut side = self.direct.lock();
                let runs = side.runs;
                let counters = &mut self.rx.lock().counters;
                let direct = side.path.as_mut().filter(|_| runs);
                direct.and_then(|direct| direct.receive(now, counters))
            };
            let Some(over) = over else {
                break;
            };
            // Not under the lock, as with trains.
            let (number, whole) = (over.number, over.whole);
            let done = {
                let _calls = self.client.lock();
                over.tell()
            };
            if whole && !done {
                if let Some(direct) = &mut self.direct.lock().path {
                    direct.handle_undelivered(number);
                }
            }
        }
        let (fault, at) = {
            let mut side = self.direct.lock();
            let runs = side.runs;
            let Some(direct) = side.path.as_mut().filter(|_| runs) else {
                return;
            };
            direct.post_own();
            let fault = direct.handle_timeout(now);
            let mut tx = self.tx.lock();
            let TxSide {
                path, live, counters, ..
            } = &mut *tx;
            if let Some(tx) = path.as_mut().filter(|_| *live) {
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                direct.speak(now, tx, credit, counters);
            }
            (fault, direct.poll_timeout())
        };
        if fault.stuck {
            self.stuck.store(true, Ordering::Relaxed);
        }
        if fault.broken && !self.broken.swap(true, Ordering::Relaxed) {
            let kick = self.kick.lock().clone();
            if let Some(kick) = kick {
                kick.kick();
            }
        }
        if let Some(at) = at {
            self.timer.arm(at.0.max(now.0 + DIRECT_PAUSE));
        }
        self.tell_direct();
    }
}
