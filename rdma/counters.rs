// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Hardware counters in `rdma statistic`: rxe's names where we count the same thing.

use roce::counters::Counters;

/// The names, in the order of [`values`].
pub(crate) const NAMES: [&core::ffi::CStr; 17] = [
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
    c"icrc_err",
];

/// Adds one QP's counts. `icrc_err` is the device's own.
pub(crate) fn add(totals: &mut [u64; NAMES.len()], qp: &Counters) {
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
        0,
    ];
    for (total, count) in totals.iter_mut().zip(counts) {
        *total = total.wrapping_add(count);
    }
}

/// Puts the device's own count in.
pub(crate) fn set_icrc_errors(totals: &mut [u64; NAMES.len()], count: u64) {
    if let Some(last) = totals.last_mut() {
        *last = count;
    }
}
