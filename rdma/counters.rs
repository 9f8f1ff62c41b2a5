// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Hardware counters in `rdma statistic`: rxe's names where we count the same thing. Of rxe's, only `ack_deferred` is
//! not here.

use roce::counters::Counters;

/// The names, in the order of [`values`].
pub(crate) const NAMES: [&core::ffi::CStr; 33] = [
    c"sent_pkts",
    c"rcvd_pkts",
    c"duplicate_request",
    c"out_of_seq_request",
    c"rcvd_rnr_err",
    c"send_rnr_err",
    c"rcvd_seq_err",
    c"send_seq_err",
    c"rcvd_error_naks",
    c"sent_error_naks",
    c"completer_retry_err",
    c"local_ack_timeout_err",
    c"response_gaps",
    c"rcvd_dropped",
    c"rdma_sends",
    c"rdma_recvs",
    c"sent_bytes",
    c"rcvd_bytes",
    c"send_err",
    c"retry_exceeded_err",
    c"retry_rnr_exceeded_err",
    c"sent_runs",
    c"rcvd_runs",
    c"sent_trains",
    c"rcvd_trains",
    c"sent_windows",
    c"rcvd_windows",
    c"lost_requests",
    c"lost_responses",
    c"sent_again",
    c"asked_again",
    c"icrc_err",
    c"link_downed",
];

/// What the engine of a QP does not count.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Bytes of IP packets given to the netdev, and of trains from the BTH on; and received.
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Frames without an ICRC, of one packet or more, sent over a cable and received.
    pub(crate) sent_runs: u64,
    pub(crate) received_runs: u64,
    /// Those of them that went past the stack.
    pub(crate) sent_trains: u64,
    pub(crate) received_trains: u64,
    /// And those whose payload went by a window.
    pub(crate) sent_windows: u64,
    pub(crate) received_windows: u64,
    /// Frames that could not be built, for lack of memory most often.
    pub(crate) lost: u64,
    /// Sends that failed after their retries.
    pub(crate) retry_exceeded: u64,
    pub(crate) rnr_retry_exceeded: u64,
}

/// Adds one QP's counts. The last two are the device's own.
pub(crate) fn add(totals: &mut [u64; NAMES.len()], qp: &Counters, tally: &Tally) {
    let counts = [
        qp.sent_requests.wrapping_add(qp.sent_responses),
        qp.received,
        qp.duplicate_requests,
        qp.out_of_sequence,
        qp.received_rnr_naks,
        qp.sent_rnr_naks,
        qp.received_seq_naks,
        qp.sent_seq_naks,
        qp.received_error_naks,
        qp.sent_error_naks,
        qp.retries,
        qp.timeouts,
        qp.response_gaps,
        qp.dropped,
        qp.sends_completed,
        qp.recvs_completed,
        tally.sent_bytes,
        tally.received_bytes,
        tally.lost,
        tally.retry_exceeded,
        tally.rnr_retry_exceeded,
        tally.sent_runs,
        tally.received_runs,
        tally.sent_trains,
        tally.received_trains,
        tally.sent_windows,
        tally.received_windows,
        qp.lost_requests,
        qp.lost_responses,
        qp.sent_again,
        qp.asked_again,
        0,
        0,
    ];
    for (total, count) in totals.iter_mut().zip(counts) {
        *total = total.wrapping_add(count);
    }
}

/// Puts the device's own counts in.
pub(crate) fn set_own(totals: &mut [u64; NAMES.len()], icrc_errors: u64, downs: u64) {
    let [.., icrc, down] = totals;
    (*icrc, *down) = (icrc_errors, downs);
}
