// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Watching queue pairs: trace events from what an engine has counted.

use crate::kapi::{
    ibdev::IbDev,
    trace::{self, Kind, Place},
};
use roce::{
    counters::Counters,
    qp::{Qp as Engine, State, Storage},
};

/// An engine before it acts.
pub(crate) struct Before {
    state: State,
    counters: Counters,
}

/// Looks at an engine that is about to act. `None`, and nothing done, if nobody listens.
pub(crate) fn before<S: Storage>(engine: &Engine<S>) -> Option<Before> {
    trace::is_on().then(|| Before {
        state: engine.state(),
        counters: *engine.counters(),
    })
}

/// Tells what an engine has done since.
pub(crate) fn after<S: Storage>(before: Option<Before>, engine: &Engine<S>, ib: &IbDev, qpn: u32) {
    let Some(before) = before else {
        return;
    };
    let place = place(engine, ib, qpn);
    let (was, is) = (&before.counters, engine.counters());
    let low = |count: u64| u32::try_from(count & u64::from(u32::MAX)).unwrap_or(0);
    for (kind, was, is, what) in [
        (Kind::Drop, was.dropped, is.dropped, low(is.dropped)),
        (Kind::Timeout, was.timeouts, is.timeouts, low(is.timeouts)),
        (Kind::Nak, was.sent_seq_naks, is.sent_seq_naks, 1),
        (Kind::Nak, was.sent_rnr_naks, is.sent_rnr_naks, 2),
        (Kind::Nak, was.sent_error_naks, is.sent_error_naks, 3),
        (Kind::Nak, was.received_seq_naks, is.received_seq_naks, 17),
        (Kind::Nak, was.received_rnr_naks, is.received_rnr_naks, 18),
        (Kind::Nak, was.received_error_naks, is.received_error_naks, 19),
        (Kind::Retry, was.retries, is.retries, low(is.retries)),
    ] {
        if was != is {
            trace::event(&place, kind, what);
        }
    }
    if before.state != engine.state() {
        trace::state(&place, u32::from(before.state as u8), u32::from(engine.state() as u8));
    }
}

/// Tells of an asynchronous event, by its number in the core.
pub(crate) fn raised<S: Storage>(code: u32, engine: &Engine<S>, ib: &IbDev, qpn: u32) {
    if trace::is_on() {
        trace::event(&place(engine, ib, qpn), Kind::Error, code);
    }
}

fn place<'a, S: Storage>(engine: &Engine<S>, ib: &'a IbDev, qpn: u32) -> Place<'a> {
    let now = engine.query();
    Place {
        device: ib,
        qpn,
        sq_psn: now.sq_psn.value(),
        rq_psn: now.rq_psn.value(),
    }
}
