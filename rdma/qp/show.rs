// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a queue pair shows to those who look: `rdma resource`, debugfs.

use super::Qp;
use crate::kapi::uverbs::Detail;
use kernel::fmt;

impl Qp {
    /// Our own attributes in `rdma resource show qp -dd`.
    pub(crate) fn details(&self) -> [Detail; 20] {
        let (counters, attrs, backlog, sent_bytes, received_bytes) = {
            let state = self.state.lock();
            let engine = &state.engine;
            let tally = &state.tally;
            (
                *engine.counters(),
                engine.query(),
                engine.backlog(),
                tally.sent_bytes,
                tally.received_bytes,
            )
        };
        [
            Detail::hex(c"number", u64::from(self.number)),
            Detail::hex(c"pd", self.pd.0),
            Detail::dec(c"timeout", u64::from(attrs.timeout)),
            Detail::dec(c"retry_cnt", u64::from(attrs.retry_cnt)),
            Detail::dec(c"rnr_retry", u64::from(attrs.rnr_retry)),
            Detail::dec(c"frames_in_flight", u64::from(self.flight.frames().unsigned_abs())),
            Detail::dec(c"sends_completed", counters.sends_completed),
            Detail::dec(c"recvs_completed", counters.recvs_completed),
            Detail::dec(
                c"sent_pkts",
                counters.sent_requests.wrapping_add(counters.sent_responses),
            ),
            Detail::dec(c"rcvd_pkts", counters.received),
            Detail::dec(c"dropped", counters.dropped),
            Detail::dec(c"timeouts", counters.timeouts),
            Detail::dec(c"retries", counters.retries),
            Detail::dec(c"rnr_naks", counters.received_rnr_naks),
            Detail::dec(c"sent_bytes", sent_bytes),
            Detail::dec(c"rcvd_bytes", received_bytes),
            Detail::dec(c"sent_again", counters.sent_again),
            Detail::dec(c"messages", u64::from(backlog.messages)),
            Detail::dec(c"unacked", u64::from(backlog.unacked)),
            Detail::dec(c"peer_not_ready", u64::from(backlog.peer_not_ready)),
        ]
    }

    /// A QP for the listing in debugfs: where it is, and its machine.
    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        writeln!(
            f,
            "qp {:#08x} {:?} pd {} sending {} frames {} runs {} trains {} wire {:?}",
            self.number,
            self.kind,
            self.pd.0,
            state.phase.is_sending(),
            self.flight.frames(),
            state.tally.sent_runs,
            state.tally.sent_trains,
            state.wire
        )?;
        for (name, part) in ["attrs", "requester", "responder"].iter().zip(state.engine.machine()) {
            writeln!(f, "  {name} {part:?}")?;
        }
        writeln!(f, "  counters {:?}", state.engine.counters())
    }
}
