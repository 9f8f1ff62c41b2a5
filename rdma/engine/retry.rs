// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Timers and retries of the requester. IBTA 9.9.2.
//!
//! One deadline per queue pair: the RNR wait, the local ACK timeout of the oldest unacknowledged PSN, the time when a
//! message that asked for no acknowledgement asks after all, the end of a cork's wait, or that of a response that could
//! not be built. The caller has one timer, armed for that deadline (in the kernel `rearm` and `on_timer` of
//! `rdma/qp.rs`). Progress restarts the timeout and refills both retry budgets; without it the timeout grows from one
//! retry to the next, and only one request is sent at a time: if the peer is slow, a window sent again makes it slower.

use crate::attrs::State;
use crate::counters::Counters;
use crate::fault::WcStatus;
use crate::limits::{self, RNR_RETRY_INFINITE};
use crate::qp::{Qp, Storage};
use crate::time::Instant;

impl<S: Storage> Qp<S> {
    /// The earliest of the timers; at once if the send queue must be looked at again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.requester.starved {
            return Some(Instant(0));
        }
        let requester = &self.requester;
        let timers = [
            requester.wait_until,
            requester.ack_deadline,
            requester.hint,
            requester.ask_at,
            requester.cork.until(),
            self.responder.wait_until(),
            requester.arrivals.deadline(),
            self.responder.arrivals.deadline(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Act on the timers that are due.
    pub(crate) fn check_timers(&mut self, now: Instant) {
        self.requester.starved = false;
        let idle = self.requester.is_drained();
        if self.requester.cork.on_time(now, idle) {
            Counters::bump(&mut self.counters.cork_deadlines);
        }
        self.responder.on_time(now);
        let expected = self.responder.expected();
        if self.responder.arrivals.on_time(now, expected) {
            self.report_missing();
        }
        if !matches!(self.attrs.state, State::Rts | State::Sqd) {
            return;
        }
        if self.requester.wait_until.is_some_and(|at| at <= now) {
            self.requester.wait_until = None;
            self.requester.vain = self.requester.vain.saturating_add(1);
        }
        if self.requester.hint.is_some_and(|at| at <= now) {
            self.requester.hint = None;
            self.on_missing(now);
        }
        if self.requester.ask_at.is_some_and(|at| at <= now) {
            self.requester.ask_at = None;
            self.requester.ask_now = true;
        }
        // What asked for nothing is not answered late.
        let requester = &mut self.requester;
        if requester.ask_at.is_some() && !requester.has_asked() && requester.ack_deadline.is_some_and(|at| at <= now) {
            requester.ack_deadline = None;
            requester.ask_at = None;
            requester.ask_now = true;
        }
        let una = self.requester.una;
        if self.requester.arrivals.on_time(now, una) {
            self.on_response_gap(now);
        }
        if self.requester.ack_deadline.is_some_and(|at| at <= now) {
            self.requester.ack_deadline = None;
            let outstanding = self.requester.una != self.requester.max;
            let usual = limits::ack_timeout_again(self.attrs.timeout, self.requester.timeouts);
            let back = limits::back_again(self.requester.back);
            let is_back = back.is_some_and(|back| usual.is_none_or(|usual| back < usual));
            if outstanding && is_back {
                self.requester.back = self.requester.back.saturating_sub(1);
                self.rewind();
            } else if outstanding {
                Counters::bump(&mut self.counters.timeouts);
                self.requester.timeouts = self.requester.timeouts.saturating_add(1);
                self.requester.vain = self.requester.vain.saturating_add(1);
                self.retry();
            }
        }
    }

    /// Packets of ours still wait in this host: what they ask is not late yet.
    pub(crate) fn postpone(&mut self, now: Instant) {
        let requester = &mut self.requester;
        let due = requester.ack_deadline.is_some_and(|at| at <= now);
        if due && requester.postponed < limits::MAX_POSTPONED {
            requester.postponed = requester.postponed.wrapping_add(1);
            requester.ack_deadline =
                limits::ack_timeout_again(self.attrs.timeout, requester.timeouts).map(|span| now.after(span));
        }
    }

    /// The way to the peer, which was no way for a while, is one again: what was sent meanwhile is lost, and nobody has
    /// to wait for the timer to find out. Costs no retry. The peer's end may come up later than this one, and drop what
    /// comes before: until something is heard it goes again and again ([`limits::BACK_AGAIN`]).
    pub(crate) fn on_way_back(&mut self) {
        if !matches!(self.attrs.state, State::Rts | State::Sqd) {
            return;
        }
        self.requester.back = limits::BACK_TRIES;
        if self.requester.una != self.requester.max {
            self.rewind();
        }
    }

    /// Something was acknowledged.
    pub(crate) fn on_progress(&mut self, now: Instant) {
        let requester = &mut self.requester;
        requester.retries = self.attrs.retry_cnt;
        requester.rnr_retries = self.attrs.rnr_retry;
        requester.timeouts = 0;
        requester.postponed = 0;
        requester.vain = 0;
        requester.rewound = false;
        requester.back = 0;
        requester.wait_until = None;
        requester.hint = None;
        requester.settle_asked(now);
        requester.ack_deadline = if requester.una == requester.max {
            // The way of the last burst and back was wait enough for the next.
            requester.cork.pull();
            None
        } else {
            limits::ack_timeout(self.attrs.timeout).map(|span| now.after(span))
        };
    }

    /// Send everything from the oldest unacknowledged PSN again, at the price of one retry.
    pub(crate) fn retry(&mut self) {
        match self.requester.retries.checked_sub(1) {
            None => self.fail(WcStatus::RetryExceeded),
            Some(left) => {
                self.requester.retries = left;
                self.rewind();
            }
        }
    }

    /// A response or acknowledgement skipped READ responses, which count as lost. Later ones on the way
    /// show the same gap, so one retry until there is progress. IBTA 9.9.2.2, implied NAK.
    pub(crate) fn on_response_gap(&mut self, now: Instant) {
        if self.requester.rewound || self.awaits_word(now) {
            return;
        }
        Counters::bump(&mut self.counters.response_gaps);
        self.retry();
    }

    /// The peer misses the packet at `una`.
    ///
    /// Where packets overtake each other, every one of them may provoke a NAK. So each halves what may be in flight,
    /// down to one packet, which nothing overtakes; and those without progress that come in the span of one local ACK
    /// timeout cost one retry together.
    pub(crate) fn on_sequence_nak(&mut self, now: Instant) {
        // A NAK is provoked by a packet behind the missing one. If that has not been sent again
        // since the last rewind, the NAK is an echo of before.
        let resent = self.requester.nxt.distance(self.requester.una);
        if self.requester.rewound && resent <= self.requester.leading {
            return;
        }
        Counters::bump(&mut self.counters.received_seq_naks);
        if !self.awaits_word(now) {
            self.on_missing(now);
        }
    }

    /// The peer misses something. Whether the carrier, if it is one that tells what it loses, is to say what.
    fn awaits_word(&mut self, now: Instant) -> bool {
        let word = limits::lane_word(self.attrs.timeout);
        let requester = &mut self.requester;
        if requester.is_told() && requester.hint.is_none() {
            requester.hint = Some(now.after(word));
        }
        requester.is_told()
    }

    /// The packet at `una` counts as lost.
    fn on_missing(&mut self, now: Instant) {
        self.requester.allowed = self.window_packets() / 2;
        if self.requester.rewound && now < self.requester.charged_until {
            return self.rewind();
        }
        self.requester.charged_until =
            now.after(limits::ack_timeout(self.attrs.timeout).unwrap_or(limits::UNSENT_WAIT));
        self.retry();
    }

    /// The peer had no receive for the packet at `una`: wait as long as `code` says, and twice as long each time that
    /// nothing has come of it. A peer that never posts one would have us send, and itself refuse, every 10 us.
    pub(crate) fn on_receiver_not_ready(&mut self, now: Instant, code: u8) {
        let allowed = self.window_packets();
        let requester = &mut self.requester;
        // Where lanes let packets overtake each other it may come for one that is to be sent again.
        if requester.wait_until.is_some() || requester.una == requester.max {
            return;
        }
        Counters::bump(&mut self.counters.received_rnr_naks);
        if self.attrs.rnr_retry != RNR_RETRY_INFINITE {
            match requester.rnr_retries.checked_sub(1) {
                None => return self.fail(WcStatus::RnrRetryExceeded),
                Some(left) => requester.rnr_retries = left,
            }
        }
        // What was sent behind it was sent in vain.
        requester.allowed = allowed / 2;
        // The packet itself got through: the path works.
        requester.retries = self.attrs.retry_cnt;
        requester.timeouts = 0;
        requester.wait_until = Some(now.after(requester.wait_again(limits::rnr_delay(code))));
        self.rewind();
    }

    /// Put the cursor back to the oldest unacknowledged PSN.
    pub(crate) fn rewind(&mut self) {
        let requester = &mut self.requester;
        requester.holes.clear();
        requester.hint = None;
        requester.ask_at = None;
        requester.nxt = requester.una;
        // The timeout starts anew when the first packet leaves: a full link costs no retry.
        requester.ack_deadline = None;
        requester.read_psns = 0;
        requester.rewound = true;
        // The first packet sent again asks for an acknowledgement: only that may have been lost.
        requester.unasked = limits::MAX_PACKETS_PER_ACK;
        requester.window.seek(0);
        Counters::bump(&mut self.counters.retries);
    }
}
