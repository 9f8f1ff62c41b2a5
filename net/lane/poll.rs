// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The lane's poll and its timer.

use super::{set_throttle, Lane, RxSide, TxSide};
use crate::{
    counters::TxCounters,
    kapi::{
        napi::Polls,
        ring::Wake,
        skb::Batch,
        sync::lock_in_any_context,
        timer::{self, Timed},
    },
    rx::Polled,
    tx::Tx,
};
use core::sync::atomic::Ordering;
use kernel::sync::Arc;
use tbip::{
    frame::{Ctrl, Seq},
    reaper::{Look, LOOK_AFTER},
    time::Instant,
};

/// Nanoseconds after which a ring that could not be filled for want of memory is filled again.
const REFILL_AFTER: u64 = 10_000_000;

impl Lane {
    /// Gives credit while there are trains to hand over. Whether it could.
    pub(super) fn give_credit(&self, give: Seq, wanted: bool) -> bool {
        self.credit.store(give.0, Ordering::Relaxed);
        let Some(mut side) = lock_in_any_context(&self.tx) else {
            return false;
        };
        let TxSide {
            path, live, counters, ..
        } = &mut *side;
        if let Some(tx) = path.as_mut().filter(|_| *live) {
            tx.give_credit(give, wanted, counters);
            tx.doorbell(counters);
        }
        true
    }

    /// The transmit side's part of a poll; `napi`: not netpoll's. Whether the client is to be told of room.
    #[inline(never)]
    pub(super) fn serve_tx(&self, found: &Polled, napi: bool) -> bool {
        if let Some(give) = found.give {
            self.credit.store(give.0, Ordering::Relaxed);
        }
        let Some(mut side) = lock_in_any_context(&self.tx) else {
            return false;
        };
        let TxSide {
            path,
            live,
            stopped,
            wanted,
            counters,
            ..
        } = &mut *side;
        let Some(tx) = path.as_mut() else {
            return false;
        };
        if let Some(limit) = found.credit {
            tx.handle_credit(limit);
        }
        if found.frames != 0 {
            tx.heard();
        }
        if found.carried.is_some() || found.heard.is_some() {
            tx.handle_account(Instant(timer::now()), found.carried, found.heard.as_ref());
            let (at, is_given_up) = tx.answers();
            self.answered.store(at.0, Ordering::Relaxed);
            self.silent.store(is_given_up, Ordering::Relaxed);
        }
        tx.reap(&self.netdev, napi);
        if *live {
            if let Some(token) = found.echo {
                let credit = Seq(self.credit.load(Ordering::Relaxed));
                tx.send_echo(Ctrl::Answer, token, credit, counters);
            }
            if let Some(give) = found.give {
                tx.give_credit(give, found.give_now, counters);
                if let Some(at) = tx.probe_at() {
                    tx.probe(Instant(timer::now()), give, counters);
                    self.timer.arm(tx.probe_at().unwrap_or(at).0);
                }
            }
            let credit = Seq(self.credit.load(Ordering::Relaxed));
            if let Some(report) = &found.tell {
                tx.report(credit, report, counters);
            }
            if self.ask.load(Ordering::Relaxed) {
                self.ask.store(false, Ordering::Relaxed);
                let have = Seq(self.have.load(Ordering::Relaxed));
                tx.ask(Instant(timer::now()), credit, have, counters);
                let since = tx.unanswered_since().map_or(0, |since| since.0);
                self.unanswered.store(since, Ordering::Relaxed);
                if let Some(at) = tx.timer_to_ask() {
                    self.timer.arm(at.0);
                }
            }
            tx.doorbell(counters);
            if *stopped && tx.has_much_room() {
                *stopped = false;
                self.netdev.wake_queue();
            }
            return tx.has_train_room() && core::mem::take(wanted);
        }
        false
    }

    /// Lets interrupts through again, and looks once more: what came meanwhile may have raised none.
    pub(super) fn let_interrupts(&self) {
        let again = {
            let side = self.rx.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|rx| {
                rx.poll_complete();
                rx.has_completed()
            })
        };
        let more = {
            let side = self.tx.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|tx| {
                tx.poll_complete();
                // Stopped by us, or by the stack's limit of bytes on their way; or the client waits.
                (self.netdev.is_throttled() || side.wanted) && side.live && tx.has_completed()
            })
        };
        let direct = self.has_direct.load(Ordering::Relaxed) && {
            let side = self.direct.lock();
            side.path.as_ref().filter(|_| side.runs).is_some_and(|direct| {
                direct.poll_complete();
                direct.has_completed()
            })
        };
        if again || more || direct {
            self.napi.schedule();
        }
    }

    /// Before a poll after which the interval is decided: what has been sent ever, by the client's other lanes too, as
    /// they may have the answers to what comes by this one; and whether frames leave now.
    #[inline(never)]
    pub(super) fn look(&self) -> Option<(u64, bool)> {
        if !self.decides.load(Ordering::Relaxed) {
            return None;
        }
        let (sent, trains, leaving) = lock_in_any_context(&self.tx).map(|side| {
            let TxCounters { frames, trains, .. } = side.counters;
            (
                frames,
                trains.saturating_sub(side.before),
                side.path.as_ref().is_some_and(Tx::is_sending),
            )
        })?;
        let others = match &*self.client.lock() {
            Some(client) => client.sent().saturating_sub(trains),
            None => 0,
        };
        Some((sent.saturating_add(others), leaving))
    }

    pub(super) fn moderate(&self, usecs: u32) {
        let mut config = self.config.lock();
        if config.coalesce.adaptive && config.coalesce.rx_usecs != usecs {
            config.coalesce.rx_usecs = usecs;
            if let Some(rings) = &config.rings {
                set_throttle(&rings.rx, usecs);
            }
        }
    }
}

impl Polls for Lane {
    fn poll(&self, budget: i32) -> i32 {
        if budget == 0 {
            let _ = self.serve_tx(&Polled::default(), false);
            return 0;
        }
        let mut batch = Batch::new();
        let mut found = Polled::default();
        let mut seen = None;
        let looked = self.look();
        loop {
            let train = {
                let mut side = self.rx.lock();
                let RxSide {
                    path, load, counters, ..
                } = &mut *side;
                let train = path.as_mut().and_then(|rx| {
                    if let Some(seen) = seen.take() {
                        rx.take_back(seen);
                    }
                    rx.poll(budget, &self.netdev, self.napi.raw(), &mut batch, &mut found, counters)
                });
                if train.is_none() {
                    if load.add(found.frames) {
                        // Where the transmit side is busy the next poll asks.
                        if let Some((sent, leaving)) = looked {
                            let usecs = load.decide(Instant(timer::now()), sent, leaving);
                            self.moderate(usecs);
                        }
                    }
                    self.decides.store(load.is_due(), Ordering::Relaxed);
                }
                train
            };
            if let Some(have) = found.have {
                self.have.store(have.0, Ordering::Relaxed);
            }
            let Some(train) = train else {
                break;
            };
            if let Some(give) = found.give.take() {
                if self.give_credit(give, found.give_now) {
                    found.give_now = false;
                }
            }
            // Not under the lock: the client's locks come before the transmit side's, and it copies.
            if train.meta().window.is_some() {
                self.asked(&train);
            } else {
                self.hand_over(&train);
            }
            seen = Arc::into_unique_or_drop(train);
        }
        if let Some(token) = found.answer {
            if let Some(trial) = &mut *self.trial.lock() {
                trial.handle_answer(Instant(timer::now()), token);
            }
        }
        self.serve_direct(&found);
        let room = self.serve_tx(&found, true);
        if found.carried.is_some() || found.heard.is_some() {
            self.tell_lost();
        }
        self.doubt();
        if found.packets != 0 || found.credit.is_some() {
            self.traffic.store(true, Ordering::Relaxed);
        }
        if found.starved {
            self.starved.store(true, Ordering::Relaxed);
            self.timer.arm(timer::now() + REFILL_AFTER);
        }
        batch.deliver(self.napi.raw());
        if room {
            if let Some(client) = &*self.client.lock() {
                client.on_room();
            }
        }
        if found.more {
            return budget;
        }
        let work = found.packets.min(budget - 1);
        if self.napi.done(work) {
            self.let_interrupts();
        }
        work
    }
}

impl Wake for Lane {
    fn wake(&self) -> bool {
        self.napi.schedule()
    }
}

impl Timed for Lane {
    fn on_timer(&self) {
        let now = Instant(timer::now());
        let (look, probe, ask_at) = {
            let mut side = self.tx.lock();
            let TxSide { path, wanted, live, .. } = &mut *side;
            path.as_mut().map_or((Look::default(), false, None), |tx| {
                (
                    tx.handle_timer(now, &self.netdev, *wanted),
                    tx.probe_at().is_some(),
                    tx.timer_to_ask().filter(|_| *live),
                )
            })
        };
        // Trains that are told move the time to ask, and not the timer.
        let ask = ask_at.is_some_and(|at| at <= now);
        if ask {
            self.ask.store(true, Ordering::Relaxed);
        } else if let Some(at) = ask_at {
            self.timer.arm(at.0);
        }
        if look.stuck {
            self.stuck.store(true, Ordering::Relaxed);
        }
        if look.again {
            self.timer.arm(timer::now() + LOOK_AFTER.0);
        }
        let starved = self.starved.swap(false, Ordering::Relaxed);
        let direct_at = if self.has_direct.load(Ordering::Relaxed) {
            let side = self.direct.lock();
            let direct = side.path.as_ref().filter(|_| side.runs);
            direct.and_then(|direct| direct.poll_timeout())
        } else {
            None
        };
        let direct = direct_at.is_some_and(|at| at <= now);
        if let Some(at) = direct_at.filter(|_| !direct) {
            self.timer.arm(at.0);
        }
        if look.poll || probe || ask || starved || direct {
            self.wake();
        }
    }
}
