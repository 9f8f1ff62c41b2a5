// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Every constant of the transport, with its origin.

use crate::time::Duration;

/// A page of the target, which a frame of a direct lane fills.
pub const WINDOW_PAGE: u32 = 4096;

/// Fewest bytes that go by a window of a direct lane. Ours: a request, a grant and the round trip between them cost
/// what half of a train does.
pub const MIN_WINDOW: u32 = 8 * WINDOW_PAGE;

/// Shortest message of which something goes by a window. In the lab WRITEs of 64 KiB by windows cost both guests 1.0
/// s/GiB and by trains 0.85, those of 1 MiB 0.40 and 0.37 (docs/benchmarks.md, "Direct lanes").
pub const MIN_WINDOW_MESSAGE: u32 = 128 << 10;

/// Shortest time for which a queue pair sends again until it gives up, that asks for windows. Ours: four times that in
/// which a lane begins anew whose frames were lost (`tbip::limits::WINDOW_STALL`): until then the peer answers nothing.
/// In simulation others end by their retries.
pub const WINDOW_PATIENCE: Duration = Duration::from_millis(400);

/// Time for which a queue pair asks for no window after one was denied: the target is likely to be the same.
pub const WINDOW_DENIED: Duration = Duration::from_millis(100);

/// The same after a source that is not whole pages.
pub const WINDOW_UNFIT: Duration = WINDOW_DENIED;

/// The same after one came to nothing: what is sent again goes the other way.
pub const WINDOW_LOST: Duration = Duration::from_millis(5);

/// Longest message: IBTA 9.3.3 (RETH DMA length at most 2^31).
pub const MAX_MESSAGE_LEN: u32 = 1 << 31;

/// Most outstanding READ and atomic requests per queue pair: the limit rxe advertises
/// (`verbs.md` section 2), which librxe users see as max_qp_rd_atom.
pub const MAX_RD_ATOMIC: usize = 128;

/// Most messages in the active send window; bounds the work of one call.
pub const MAX_SEND_SLOTS: usize = 1024;

/// Default of request packets in flight per queue pair: as rxe (`verbs.md` section 4).
pub const DEFAULT_WINDOW_PACKETS: u32 = 128;

/// Default of READ response packets awaited before another READ is started. Ours: twice the
/// request window keeps one 1 MiB READ at MTU 4096 ahead of the wire.
pub const DEFAULT_READ_WINDOW_PACKETS: u32 = 256;

/// Windows that each lane gives a queue pair. Ours: both ways at once an acknowledgement waits behind a window of the
/// peer's own packets, so with one each way stands while the other's queue is long. In virtual time four cables of
/// 20 Gb/s had 0.88 to 0.93 of their rate both ways with one, and have 0.93 with two.
pub const WINDOWS_PER_LANE: u32 = 2;

/// Most windows that lanes in common give. Ours: all that is kept ahead of its turn ([`MAX_AHEAD`]).
pub const MAX_WINDOWS: u32 = 8;

/// Packets of a message that is spread over lanes in equal parts. Ours: below, a lane more saves less than its
/// interrupt costs; a longer one has a train for each lane anyway, or nearly. Four cables of 20 Gb/s in virtual time:
/// 16 KiB 0.74 of one cable's time, 64 KiB 0.40. Where a doorbell wakes a process, as in the lab in real time, it is
/// 1.5 and 1.4.
pub const IN_PARTS: core::ops::RangeInclusive<u32> = 4..=16;

/// Most request packets without an acknowledge request: as rxe (`verbs.md` section 4), which is
/// also half of the default window.
pub const MAX_PACKETS_PER_ACK: u32 = 64;

/// Most messages without a visible completion in a row that ask for no acknowledgement, by a carrier that tells what it
/// loses. Ours: one ACK in sixteen costs little, and the send queue of no program fills up with them.
pub const MAX_UNASKED: u32 = 16;

/// After so long without another message the last one asks after all. Ours: nobody waits for it but who watches that
/// the peer lives, and a stream of such messages has the timer come once in that time.
pub const ASK_AFTER: Duration = Duration::from_millis(4);

/// Most packets of a run. Ours: 64 KiB, which fill a train of the native wire, at the smallest path MTU.
pub const MAX_RUN: u32 = 256;

/// Most packets of a run of responses that are sent again: where frames are lost, short runs get through, and each that
/// does is progress. Ours.
pub const MAX_RUN_AGAIN: u32 = 4;

/// Most packets that an acknowledgement may stand for while the caller holds it back. Ours: half of what a peer asks
/// after, so that a window of rxe's size stays open.
pub const MAX_HELD_PACKETS: u32 = 32;

/// Packets of READ responses and the like from which on the caller does not hold them back. Ours: what is sent in one
/// go.
pub const MAX_HELD_RESPONSES: u32 = 16;

/// How often in a row the local ACK timeout may start anew because packets have not left the host. Ours: enough for a
/// queue of seconds, and an end for one that never moves.
pub const MAX_POSTPONED: u8 = 16;

/// How long a queue pair waits whose packet the host's own queue had no room for. Ours: the time in which a gigabit
/// link sends 15 packets of 4096 bytes.
pub const UNSENT_WAIT: Duration = Duration::from_micros(500);

/// How far ahead of the expected packet one may be to be kept, in PSNs. Ours: the responses of a READ of 4 MiB, or the
/// requests of four of 1 MiB, and eight windows of rxe's size. A multiple of 64.
pub const MAX_AHEAD: u32 = 1024;

/// Packets or runs kept for each half of a queue pair at most. Ours: all that [`MAX_AHEAD`] lets be kept, in runs of
/// four.
pub const MAX_KEPT: u32 = MAX_AHEAD / 4;

/// Packets that may overtake a late one at most before it counts as lost. Ours: more than two NAPI polls of 64 packets
/// would let no window of [`DEFAULT_WINDOW_PACKETS`] ever show a loss by itself.
pub const MAX_DEGREE: u32 = 96;

/// How long a packet may be late at most before it counts as lost, whatever was seen. Ours: well under the shortest
/// local ACK timeouts that programs use (16 ms and more).
pub const MAX_PATIENCE: Duration = Duration::from_millis(4);

/// How long a packet may be late at least, where one was. Ours: a few packets' time on a fast link.
pub const MIN_PATIENCE: Duration = Duration::from_micros(20);

/// How long packets are kept whose predecessor does not come. Ours: several common local ACK timeouts.
pub const KEPT_FOR: Duration = Duration::from_millis(500);

/// Runs of each half of a queue pair that are lost and wait to be sent again; more, and all is sent again. Ours: what a
/// window of [`DEFAULT_WINDOW_PACKETS`] has in flight at the largest path MTU.
pub const MAX_HOLES: usize = 8;

/// How long a train may be late, overtaken by those of other lanes, before it is reported as missing. Ours: a lane
/// whose host has no processor for a while is not to be taken for one that lost something, and where something is lost
/// for which a lane gives no word, this is under the shortest local ACK timeouts that programs use.
pub const LANE_LATE: Duration = Duration::from_millis(12);

/// How long an answer is waited for when the way to the peer is back, before all goes again, doubling: the peer's end
/// may have come up later, and have dropped what came before. Ours: many times what two hosts that come up together
/// differ by, and not noticed by whoever has waited for a cable.
pub const BACK_AGAIN: Duration = Duration::from_millis(50);

/// How often; after that, 3.15 s, the local ACK timeout is what tells.
pub const BACK_TRIES: u8 = 6;

/// The wait with so many left of [`BACK_TRIES`]; `None` with none.
#[must_use]
pub const fn back_again(left: u8) -> Option<Duration> {
    match left {
        0 => None,
        _ => Some(Duration(BACK_AGAIN.0 << BACK_TRIES.saturating_sub(left))),
    }
}

/// How long the word of a lane, that keeps account of its trains, is waited for when the peer says that something is
/// missing. Ours: a lane asks after two round trips, or 1 ms, and its answer takes a round trip more.
pub const LANE_WORD: Duration = Duration::from_millis(2);

/// The same with a local ACK timeout: no longer than half of it, which would be over before.
#[must_use]
pub fn lane_word(timeout: u8) -> Duration {
    ack_timeout(timeout).map_or(LANE_WORD, |span| LANE_WORD.min(Duration(span.0 / 2)))
}

/// How often in a row responses that could not be built are kept for later without a word from the peer, which may be
/// gone. Ours: 30 ms of [`UNSENT_WAIT`]s that double, after which it is for the peer to ask again.
pub const MAX_UNBUILT: u8 = 16;

/// What a wait for the peer's receive, or for room in the host's queue, grows to at least while nothing is
/// acknowledged. The RNR NAK's timer is a minimum (IBTA 9.7.5.2.8). Ours: 500 times a second is seldom enough for one
/// queue pair to cost no processor anything, and waiting doubles from the given time, so it is never much longer than
/// the peer's own slowness.
pub const LONGEST_WAIT: Duration = Duration::from_millis(2);

/// Timers that run out without anything acknowledged after which a queue pair counts as stuck. Ours: a peer that is a
/// little slow has answered by then.
pub const STUCK_AFTER: u8 = 4;

/// Stuck queue pairs of a host together try again once in this time. Ours: where a try and its refusal cost 50 us, as
/// in the lab's guests, a tenth of a processor.
pub const STUCK_TURN: Duration = Duration::from_micros(500);

/// Part of a processor that packets may take from programs that have no part in them. Ours: the stack's and the
/// netdev's own work for small packets is more than as much again, and all together stays below a half.
pub const STOLEN_PERCENT: u64 = 18;

/// How much of it is saved up for a burst: time that a program does not miss, and enough for a message of a MiB or two.
pub const STOLEN_BURST: Duration = Duration::from_millis(4);

/// The largest debt: paid back before a usual local ACK timeout (67 ms) is over.
pub const STOLEN_DEBT: Duration = Duration::from_millis(16);

/// How much must be back before work goes on: more than the switch to it costs.
pub const STOLEN_RESUME: Duration = Duration::from_micros(500);

/// Largest 5-bit local ACK timeout exponent: IBTA 9.9.2.1.
pub const MAX_TIMEOUT: u8 = 31;

/// Largest 3-bit retry count: IBTA 9.9.2.1.
pub const MAX_RETRY: u8 = 7;

/// The RNR retry count that means "for ever": IBTA 9.9.2.1.1.
pub const RNR_RETRY_INFINITE: u8 = 7;

/// How far behind a packet of an unreliable connection is taken for a copy or a latecomer. Ours: more than a
/// network holds back, and little enough that a peer that has lost its place is soon understood again.
pub const UNRELIABLE_GHOSTS: u32 = 1 << 12;

/// Bytes an atomic acts on: IBTA 9.4.5.
pub const ATOMIC_LEN: u32 = 8;

/// Key of every GSI: IBTA 10.2.5 and 13.4.2.
pub const GSI_QKEY: u32 = 0x8001_0000;

/// Bytes before the payload of a received datagram: a GRH, IBTA 8.3.
pub const GRH_LEN: u32 = 40;

/// Default partition key, full member: IBTA 10.9.1.
pub const DEFAULT_PKEY: u16 = 0xffff;

/// Local ACK timeout unit: IBTA 9.9.2.1 (4.096 us times 2^exponent).
const TIMEOUT_UNIT_NS: u64 = 4_096;

/// The local ACK timeout for exponent `exponent`; `None` for 0, which means no timeout.
#[inline]
#[must_use]
pub const fn ack_timeout(exponent: u8) -> Option<Duration> {
    match exponent {
        0 => None,
        1..=MAX_TIMEOUT => Some(Duration(TIMEOUT_UNIT_NS << exponent)),
        _ => Some(Duration(TIMEOUT_UNIT_NS << MAX_TIMEOUT)),
    }
}

/// How long a queue pair sends a packet again that nobody answers, with so many retries; `None`: for ever.
#[must_use]
pub const fn retry_time(exponent: u8, retries: u8) -> Option<Duration> {
    let (mut all, mut before) = (Duration(0), 0);
    loop {
        let Some(span) = ack_timeout_again(exponent, before) else {
            return None;
        };
        all = Duration(all.0.saturating_add(span.0));
        if before >= retries {
            return Some(all);
        }
        before = before.saturating_add(1);
    }
}

/// The local ACK timeout of a packet that has timed out `before` times in a row: once, twice, then four
/// times the nominal one. IBTA 9.9.2.1.1 (C9-140 ff) leaves the timer that much room, and a slow peer lives
/// four times as long on its retry budget.
#[inline]
#[must_use]
pub const fn ack_timeout_again(exponent: u8, before: u8) -> Option<Duration> {
    match ack_timeout(exponent) {
        None => None,
        Some(span) => Some(Duration(
            span.0
                << match before {
                    0 => 0,
                    1 => 1,
                    _ => 2,
                },
        )),
    }
}

/// How long an answer is waited for: the local ACK timeout as [`ack_timeout_again`] has it, or while `back` tries
/// are left that of [`back_again`], if that is shorter.
#[inline]
#[must_use]
pub const fn answer_time(exponent: u8, before: u8, back: u8) -> Option<Duration> {
    match (ack_timeout_again(exponent, before), back_again(back)) {
        (Some(usual), Some(back)) if usual.0 <= back.0 => Some(usual),
        (_, Some(back)) => Some(back),
        (usual, None) => usual,
    }
}

/// A wait of `given` after `before` waits in vain, in a host with `stuck` queue pairs that all wait in vain: doubled
/// each time, so that whoever waits for ever does so at little cost, however many they are.
#[inline]
#[must_use]
pub const fn wait_again(given: Duration, before: u8, stuck: u32) -> Duration {
    let turn = STUCK_TURN.0.saturating_mul(stuck as u64);
    let mut most = given.0;
    if most < LONGEST_WAIT.0 {
        most = LONGEST_WAIT.0;
    }
    if most < turn {
        most = turn;
    }
    // The longest time there is has fewer bits than it takes to lose one.
    let doubled = given.0.saturating_mul(1 << if before < 31 { before } else { 31 });
    Duration(if doubled < most { doubled } else { most })
}

/// RNR NAK timer of IBTA table 45 in units of 10 us, by the 5-bit code.
const RNR_TIMER_10US: [u32; 32] = [
    65_536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072,
    4_096, 6_144, 8_192, 12_288, 16_384, 24_576, 32_768, 49_152,
];

/// How long a requester waits after an RNR NAK with timer code `code` (low 5 bits count).
#[must_use]
pub const fn rnr_delay(code: u8) -> Duration {
    // The index is below 32 by the mask.
    #[allow(clippy::indexing_slicing)]
    let ticks = RNR_TIMER_10US[(code & 0x1f) as usize];
    Duration::from_micros((ticks as u64).saturating_mul(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ack_timeout_doubles_from_8_microseconds() {
        assert_eq!(ack_timeout(0), None);
        assert_eq!((retry_time(0, 7), retry_time(14, 0)), (None, ack_timeout(14)));
        assert_eq!(retry_time(14, 7), Some(Duration(27 * (4096 << 14))));
        assert_eq!(ack_timeout(1), Some(Duration(8_192)));
        assert_eq!(ack_timeout(14), Some(Duration(67_108_864)));
        assert_eq!(ack_timeout(255), ack_timeout(31));
        let spans = [0, 1, 2, 3, 7].map(|before| ack_timeout_again(1, before));
        assert_eq!(spans, [1, 2, 4, 4, 4].map(|n| Some(Duration(n * 8_192))));
    }

    #[test]
    fn a_wait_in_vain_doubles_to_what_all_that_wait_can_have() {
        let wait = |us, before, stuck| wait_again(Duration::from_micros(us), before, stuck).0 / 1000;
        let waits = [0, 1, 2, 7, 8, 9, 255].map(|before| wait(10, before, 1));
        assert_eq!(waits, [10, 20, 40, 1_280, 2_000, 2_000, 2_000]);
        assert_eq!(wait(491_520, 9, 0), 491_520, "never shorter than given");
        assert_eq!(wait(10, 255, 64), 32_000, "64 of them try 2000 times a second");
        assert_eq!(wait(0, 255, 64), 0);
        assert_eq!(wait(10, 3, u32::MAX), 80);
    }

    #[test]
    fn the_rnr_table_has_the_values_of_the_specification() {
        assert_eq!(rnr_delay(0), Duration::from_micros(655_360));
        assert_eq!(rnr_delay(1), Duration::from_micros(10));
        assert_eq!(rnr_delay(12), Duration::from_micros(640));
        assert_eq!(rnr_delay(31), Duration::from_micros(491_520));
        assert_eq!(rnr_delay(32 + 12), rnr_delay(12));
    }
}
