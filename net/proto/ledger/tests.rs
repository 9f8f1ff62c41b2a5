// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The ledger by itself; `tests/ledger_sim.rs` has both ends of a bad ring.

use super::*;

type Places = Vec<Option<Sent<u32>>>;

const fn us(n: u64) -> Instant {
    Instant(n * 1_000)
}

fn told(ledger: &mut Ledger<Places>) -> Vec<(u32, bool)> {
    std::iter::from_fn(|| ledger.poll_told())
        .map(|t| (t.token, t.carried))
        .collect()
}

/// A ledger with `n` trains of four frames, tokens 0 to n - 1.
fn sent(n: u32) -> Ledger<Places> {
    let mut ledger = Ledger::new(Seq(0), vec![None; 64]);
    for i in 0..n {
        assert!(ledger.handle_sent(us(0), Seq(4 * i), Seq(4 * i + 3), i));
    }
    ledger
}

fn report(upto: u32, gaps: &[(u32, u32)]) -> Report {
    let mut bytes = [upto, gaps.len() as u32].map(u32::to_le_bytes).concat();
    for (start, end) in gaps {
        bytes.extend([*start, *end].map(u32::to_le_bytes).concat());
    }
    Report::parse(&bytes).unwrap()
}

#[test]
fn a_report_has_the_layout_of_the_protocol() {
    let bytes = [
        0x44, 0x33, 0x22, 0x11, // upto
        2, 0, 0, 0, // gaps
        0x00, 0x33, 0x22, 0x11, 0x04, 0x33, 0x22, 0x11, // the first
        0x10, 0x33, 0x22, 0x11, 0x11, 0x33, 0x22, 0x11, // the second
    ];
    let report = Report::parse(&bytes).unwrap();
    assert_eq!(report.upto, Seq(0x1122_3344));
    let gap = |start, end| Gap {
        start: Seq(start),
        end: Seq(end),
    };
    assert_eq!(
        report.gaps(),
        [gap(0x1122_3300, 0x1122_3304), gap(0x1122_3310, 0x1122_3311)]
    );
    let (again, len) = report.bytes();
    assert_eq!(&again[..len], bytes);
}

#[test]
fn a_report_that_contradicts_itself_is_refused() {
    let parse = |upto: u32, gaps: &[(u32, u32)]| {
        let mut bytes = [upto, gaps.len() as u32].map(u32::to_le_bytes).concat();
        gaps.iter()
            .for_each(|(a, b)| bytes.extend([*a, *b].map(u32::to_le_bytes).concat()));
        Report::parse(&bytes).map(|_| ())
    };
    assert_eq!(parse(20, &[(4, 8), (9, 10)]), Ok(()));
    assert_eq!(parse(20, &[(4, 4)]), Err(WireError::Value), "empty");
    assert_eq!(parse(20, &[(8, 4)]), Err(WireError::Value), "backwards");
    assert_eq!(parse(20, &[(4, 8), (8, 10)]), Err(WireError::Value), "not apart");
    assert_eq!(parse(20, &[(9, 10), (4, 8)]), Err(WireError::Value), "descending");
    assert_eq!(parse(20, &[(4, 24)]), Err(WireError::Value), "beyond upto");
    assert_eq!(parse(20, &[(4, 5); 9]), Err(WireError::Length));
    assert_eq!(Report::parse(&[0; 7]), Err(WireError::Truncated));
    assert_eq!(Report::parse(&[0, 0, 0, 0, 1, 0, 0, 0, 0]), Err(WireError::Truncated));
}

#[test]
fn trains_are_told_in_order_as_far_as_a_report_goes() {
    let mut ledger = sent(6);
    ledger.handle_report(us(50), &report(20, &[(4, 12)]));
    assert_eq!(
        told(&mut ledger),
        [(0, true), (1, false), (2, false), (3, true), (4, true)]
    );
    assert_eq!((ledger.floor(), ledger.len()), (Seq(20), 1));
}

#[test]
fn each_train_is_told_once_whatever_is_repeated_or_late() {
    let mut ledger = sent(3);
    ledger.handle_carried(us(1), Seq(8));
    assert_eq!(told(&mut ledger), [(0, true), (1, true)]);
    ledger.handle_carried(us(2), Seq(8));
    ledger.handle_report(us(2), &report(8, &[(0, 4)]));
    ledger.handle_carried(us(3), Seq(4));
    assert_eq!(told(&mut ledger), []);
    ledger.handle_carried(us(4), Seq(12));
    ledger.handle_carried(us(5), Seq(8));
    assert_eq!(told(&mut ledger), [(2, true)]);
}

#[test]
fn a_report_on_what_was_never_sent_is_ignored_and_counted() {
    let mut ledger = sent(2);
    ledger.handle_carried(us(1), Seq(9));
    ledger.handle_carried(us(1), Seq(0x4000_0000));
    assert_eq!(told(&mut ledger), []);
    assert_eq!(ledger.counters().excess, 2);
    ledger.handle_untold(Seq(9));
    ledger.handle_carried(us(1), Seq(9));
    assert_eq!(told(&mut ledger), [(0, true), (1, true)]);
}

#[test]
fn a_full_ledger_takes_no_train() {
    let mut ledger = sent(64);
    assert!(!ledger.has_room());
    assert!(!ledger.handle_sent(us(0), Seq(256), Seq(259), 64));
    ledger.handle_carried(us(1), Seq(4));
    assert_eq!(told(&mut ledger), [(0, true)]);
    assert!(ledger.handle_sent(us(1), Seq(256), Seq(259), 64));
}

#[test]
fn a_dead_lane_tells_what_is_in_flight_as_lost() {
    let mut ledger = sent(3);
    ledger.handle_carried(us(1), Seq(4));
    ledger.handle_dead();
    assert_eq!(told(&mut ledger), [(0, true), (1, false), (2, false)]);
    assert!(!ledger.handle_sent(us(2), Seq(12), Seq(12), 9));
    assert_eq!(ledger.poll_timeout(), None);
}

#[test]
fn silence_is_probed_at_growing_distance_and_a_report_ends_it() {
    let mut ledger = sent(1);
    let mut at = vec![];
    for _ in 0..4 {
        let now = ledger.poll_timeout().unwrap();
        assert!(!ledger.take_probe(Instant(now.0 - 1)));
        assert!(ledger.take_probe(now));
        at.push(now.0 / 1_000);
    }
    assert_eq!(at, [1000, 3000, 7000, 15_000]);
    ledger.handle_carried(us(15_100), Seq(4));
    assert_eq!(told(&mut ledger), [(0, true)]);
    assert_eq!(ledger.poll_told(), None);
    assert_eq!(ledger.poll_timeout(), None);
}

#[test]
fn what_is_missing_before_a_train_is_a_gap_until_the_floor_passes_it() {
    let mut record = Record::new(Seq(100));
    assert!(record.handle_train(Seq(100), Seq(103), Seq(100)));
    assert!(record.handle_train(Seq(108), Seq(111), Seq(100)));
    assert_eq!(record.carried(), Seq(104));
    assert!(record.is_due(), "the gap is not told by carried alone");
    assert_eq!(record.take_report(), report(112, &[(104, 108)]));
    assert!(!record.is_due());
    assert!(record.handle_train(Seq(112), Seq(115), Seq(108)));
    assert_eq!(record.carried(), Seq(116));
    assert!(!record.is_due());
}

#[test]
fn a_probe_shows_a_loss_at_the_tail() {
    let mut record = Record::new(Seq(0));
    record.handle_train(Seq(0), Seq(3), Seq(0));
    record.handle_control(Seq(8), Some(Seq(4)), true);
    assert_eq!(record.take_report(), report(9, &[(4, 8)]));
}

#[test]
fn more_gaps_than_a_report_holds_are_told_by_later_ones() {
    let (mut ledger, mut record) = (sent(24), Record::new(Seq(0)));
    // Every second train is lost.
    for i in (1..24).step_by(2) {
        assert!(record.handle_train(Seq(4 * i), Seq(4 * i + 3), Seq(0)));
    }
    let mut fates = vec![];
    while !ledger.is_empty() {
        assert!(record.is_due(), "no probe is needed for the gaps that did not fit");
        let report = record.take_report();
        assert!(report.gaps().len() <= REPORT_GAPS && !record.is_due());
        ledger.handle_report(us(9), &report);
        fates.extend(told(&mut ledger));
        record.handle_control(Seq(95), Some(ledger.floor()), false);
    }
    let want: Vec<_> = (0..24).map(|i| (i, i % 2 == 1)).collect();
    assert_eq!(fates, want);
}

#[test]
fn a_train_whose_fate_cannot_be_recorded_is_not_delivered() {
    let mut record = Record::new(Seq(0));
    let mut delivered = 0;
    for i in (1..200).step_by(2) {
        delivered += u32::from(record.handle_train(Seq(i), Seq(i), Seq(0)));
    }
    assert_eq!(delivered, RECORD_GAPS as u32);
    let upto = 2 * RECORD_GAPS as u32;
    // The sender has been told of all gaps that were recorded; what was refused is missing too.
    assert!(record.handle_train(Seq(200), Seq(200), Seq(upto)));
    assert_eq!(record.take_report(), report(201, &[(upto, 200)]));
}

#[test]
fn a_lane_that_is_given_up_tells_what_is_in_flight_as_lost_and_asks_until_it_is_answered() {
    let mut ledger = sent(2);
    for asks in 0..LEDGER_ASKS {
        assert!(!ledger.is_suspect(), "{asks}");
        assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    }
    let first = us(0).after(LEDGER_PROBE_MIN);
    assert!(ledger.is_suspect() && ledger.unanswered_since() == Some(first));
    ledger.handle_given_up();
    assert_eq!(told(&mut ledger), [(0, false), (1, false)]);
    assert!(ledger.is_given_up() && !ledger.is_suspect());
    // What is sent all the same is in flight, until it is given up again.
    assert!(ledger.handle_sent(us(9_000), Seq(8), Seq(11), 2));
    assert_eq!(told(&mut ledger), []);
    assert!(ledger.is_suspect());
    ledger.handle_given_up();
    assert_eq!(told(&mut ledger), [(2, false)]);
    assert!(ledger.handle_sent(us(9_500), Seq(12), Seq(15), 3));
    assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    ledger.handle_report(us(20_000), &report(16, &[(0, 12)]));
    assert!(!ledger.is_given_up());
    assert_eq!(told(&mut ledger), [(3, true)]);
    assert_eq!(ledger.poll_timeout(), None);
    assert_eq!(ledger.answered_at(), us(20_000));
}

#[test]
fn a_lane_that_was_given_up_in_vain_tells_the_rest_as_it_went() {
    let mut ledger = sent(3);
    for _ in 0..LEDGER_ASKS {
        assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    }
    ledger.handle_given_up();
    assert!(ledger.poll_told().is_some_and(|told| !told.carried));
    ledger.handle_report(us(9_000), &report(8, &[]));
    assert_eq!(told(&mut ledger), [(1, true)]);
    assert_eq!(ledger.len(), 1, "the third is on its way");
    assert!(ledger.poll_timeout().is_some());
}

#[test]
fn a_report_ends_the_suspicion() {
    let mut ledger = sent(2);
    for _ in 1..LEDGER_ASKS {
        assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    }
    ledger.handle_report(us(8_000), &report(4, &[]));
    assert_eq!(told(&mut ledger), [(0, true)]);
    assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    assert!(!ledger.is_suspect());
}

#[test]
fn a_lane_with_nothing_in_flight_asks_when_it_is_doubted() {
    let mut ledger = sent(0);
    assert_eq!(ledger.poll_timeout(), None);
    ledger.handle_doubt(us(5_000));
    assert_eq!(ledger.poll_timeout(), Some(us(5_000)));
    assert!(ledger.take_probe(us(5_000)));
    assert_eq!(told(&mut ledger), []);
    for _ in 1..LEDGER_ASKS {
        assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
    }
    assert!(ledger.is_suspect());
    ledger.handle_untold(Seq(2));
    ledger.handle_carried(us(30_000), Seq(2));
    assert_eq!((told(&mut ledger), ledger.poll_timeout()), (vec![], None));
}

#[test]
fn a_lane_by_which_frames_come_is_not_suspected() {
    let mut ledger = sent(2);
    for _ in 0..4 {
        assert!(ledger.take_probe(ledger.poll_timeout().unwrap()));
        assert!(!ledger.is_suspect());
        ledger.handle_heard();
        assert_eq!(ledger.unanswered_since(), None);
    }
}
