// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a queue pair counts. Wrapping 64-bit event counts, never reset by the engine.

/// Event counts of one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Request packets produced, retransmissions included.
    pub sent_requests: u64,
    /// Response packets produced: ACK, NAK, READ responses.
    pub sent_responses: u64,
    /// Packets handled, before any check.
    pub received: u64,
    /// Packets dropped without an answer: wrong state, stale, malformed for their place.
    pub dropped: u64,
    /// Requests that had already been executed.
    pub duplicate_requests: u64,
    /// Requests ahead of the expected PSN.
    pub out_of_sequence: u64,
    /// NAK sequence error sent.
    pub sent_seq_naks: u64,
    /// RNR NAK sent.
    pub sent_rnr_naks: u64,
    /// NAK invalid request, remote access or remote operation sent.
    pub sent_error_naks: u64,
    /// NAK sequence error received and acted upon.
    pub received_seq_naks: u64,
    /// RNR NAK received and acted upon.
    pub received_rnr_naks: u64,
    /// Error NAKs received.
    pub received_error_naks: u64,
    /// Gaps seen in READ responses or acknowledgements that skipped one.
    pub response_gaps: u64,
    /// Runs of requests that the lane has lost ([`crate::lost`]).
    pub lost_requests: u64,
    /// Runs of responses, and acknowledgements.
    pub lost_responses: u64,
    /// Runs sent again for that alone.
    pub sent_again: u64,
    /// Last packets sent once more for their acknowledgement alone.
    pub asked_again: u64,
    /// Local ACK timeouts.
    pub timeouts: u64,
    /// Rewinds of the send queue for whatever reason.
    pub retries: u64,
    /// Sends held by the cork that went because their time was up.
    pub cork_deadlines: u64,
    /// Send work requests completed.
    pub sends_completed: u64,
    /// Receive work requests completed.
    pub recvs_completed: u64,
}

impl Counters {
    /// Count one event.
    pub(crate) fn bump(counter: &mut u64) {
        *counter = counter.wrapping_add(1);
    }
}
