// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What came before its turn, and when what is missing before it counts as lost.
//!
//! Links joined into one, such as a bond in balance-rr, let packets overtake each other by as many as one link delivers
//! in one go. So a packet ahead of the expected one is kept by the host, if it can, and its PSN is marked here; it is
//! handled when its turn comes. The one missing before it is reported once more packets have overtaken it than any late
//! one had before, or once it has been away for longer than any (compare RFC 8985, section 6.2). On a link that has
//! never been seen to reorder that is the first packet and at once.
//!
//! What has been reported and then comes twice was not lost: it is how reordering is found out.

use crate::limits;
use crate::psn::Psn;
use crate::time::{Duration, Instant};

/// Bits of a word.
const BITS: u32 = u64::BITS;
/// Words of the map.
const WORDS: u32 = limits::MAX_AHEAD / BITS;

/// A set of PSNs of which no two are [`limits::MAX_AHEAD`] or more apart: a bit for each, at the PSN's rest.
#[derive(Clone, Copy, Debug, Default)]
struct Map {
    words: [u64; WORDS as usize],
    count: u32,
}

impl Map {
    /// Index of the word and bit in it.
    const fn place(psn: Psn) -> (usize, u64) {
        let rest = psn.value() % limits::MAX_AHEAD;
        ((rest / BITS) as usize, 1 << (rest % BITS))
    }

    fn has(&self, psn: Psn) -> bool {
        let (word, bit) = Self::place(psn);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    fn insert(&mut self, psn: Psn) {
        let (word, bit) = Self::place(psn);
        if let Some(word) = self.words.get_mut(word).filter(|word| **word & bit == 0) {
            *word |= bit;
            self.count = self.count.saturating_add(1);
        }
    }

    fn remove(&mut self, psn: Psn) {
        let (word, bit) = Self::place(psn);
        if let Some(word) = self.words.get_mut(word).filter(|word| **word & bit != 0) {
            *word &= !bit;
            self.count = self.count.saturating_sub(1);
        }
    }

    /// Removes `n` PSNs from `from` on.
    fn remove_from(&mut self, from: Psn, n: u32) {
        if self.count == 0 {
            return;
        }
        if n >= limits::MAX_AHEAD {
            *self = Self::default();
            return;
        }
        for step in 0..n {
            self.remove(from.plus(step));
        }
    }

    /// The first PSN from `from` on.
    fn first(&self, from: Psn) -> Option<Psn> {
        if self.count == 0 {
            return None;
        }
        let start = from.value() % limits::MAX_AHEAD;
        let below = (1_u64 << (start % BITS)).wrapping_sub(1);
        // The word where it starts is looked at twice: its upper bits first, its lower ones last.
        for step in 0..=WORDS {
            let index = (start / BITS).wrapping_add(step) % WORDS;
            let mask = match step {
                0 => !below,
                WORDS => below,
                _ => u64::MAX,
            };
            let bits = self.words.get(index as usize)? & mask;
            if bits != 0 {
                let rest = index.wrapping_mul(BITS).wrapping_add(bits.trailing_zeros());
                return Some(from.plus(rest.wrapping_sub(start) % limits::MAX_AHEAD));
            }
        }
        None
    }
}

/// The expected packet is missing, and others have come that follow it.
#[derive(Clone, Copy, Debug)]
struct Gap {
    opened: Instant,
    /// Packets that have overtaken the missing one.
    overtaken: u32,
    /// It has been reported, when this was the newest packet.
    reported: Option<Psn>,
    /// Packets since that show that the peer has gone back to the missing one, which was lost again.
    again: u32,
    /// The missing one has come and could not be kept: nobody waits for it.
    refused: bool,
}

/// A packet that was reported as missing, and has come.
#[derive(Clone, Copy, Debug)]
struct Report {
    psn: Psn,
    overtaken: u32,
    late: Duration,
}

/// What one half of a queue pair has of the packets of its peer's other half.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrivals {
    kept: Map,
    /// The newest packet that has been acknowledged by an ACK which came before an answer that it follows. An ACK is
    /// nothing but its PSN: so the host keeps none.
    acknowledged: Option<Psn>,
    /// The oldest packet that has come and could not be kept.
    refused: Option<Psn>,
    gap: Option<Gap>,
    /// The last report whose packet has come.
    report: Option<Report>,
    /// Packets that may overtake a late one before it is reported.
    degree: u32,
    /// For how long one may be late.
    patience: Duration,
    /// See [`Arrivals::set_told`].
    told: bool,
}

impl Arrivals {
    /// Nothing came, but what was learned of the way is not forgotten.
    pub(crate) fn forget(&mut self) {
        self.kept = Map::default();
        self.acknowledged = None;
        self.refused = None;
        self.gap = None;
        self.report = None;
    }

    /// Whether the packet at `psn` is kept.
    pub(crate) fn has(&self, psn: Psn) -> bool {
        self.kept.count > 0 && self.kept.has(psn)
    }

    /// The first packet kept from `from` on.
    pub(crate) fn first(&self, from: Psn) -> Option<Psn> {
        self.kept.first(from)
    }

    /// The packet at `psn` is kept no more.
    pub(crate) fn take(&mut self, psn: Psn) {
        self.kept.remove(psn);
    }

    /// The packet at `psn` has come while `expected`, before it, is missing; `keep` has the host keep it. Whether the
    /// missing one is to be reported.
    pub(crate) fn on_ahead(&mut self, now: Instant, expected: Psn, psn: Psn, keep: impl FnOnce() -> bool) -> bool {
        let again = self.has(psn);
        let fits = psn.distance(expected) < limits::MAX_AHEAD && self.kept.count < limits::MAX_KEPT;
        let kept = again || (fits && keep());
        if kept {
            self.kept.insert(psn);
        } else {
            self.refused = Some(self.refused.filter(|refused| refused.before(psn)).unwrap_or(psn));
        }
        self.on_overtaken(now, psn, again, kept)
    }

    /// An ACK of all packets to the one at `psn` has come, while an answer to one before is missing. Whether that one
    /// is to be reported.
    pub(crate) fn on_acknowledged(&mut self, now: Instant, psn: Psn) -> bool {
        let again = self.acknowledged == Some(psn);
        self.acknowledged = Some(self.acknowledged.filter(|newest| psn.before(*newest)).unwrap_or(psn));
        self.on_overtaken(now, psn, again, true)
    }

    /// The newest packet of which [`Arrivals::on_acknowledged`] was told, and whose turn has not come yet.
    pub(crate) const fn acknowledged(&self) -> Option<Psn> {
        self.acknowledged
    }

    /// The packet at `psn` has overtaken the expected one, and is `kept`; `again` if it had come before. Whether the
    /// expected one is to be reported.
    fn on_overtaken(&mut self, now: Instant, psn: Psn, again: bool, kept: bool) -> bool {
        let (degree, patience) = self.bounds();
        let gap = self.gap.get_or_insert(Gap {
            opened: now,
            overtaken: 0,
            reported: None,
            again: 0,
            refused: false,
        });
        gap.overtaken = gap.overtaken.saturating_add(u32::from(!again));
        let due = match gap.reported {
            // What is not kept has to be sent again in any case.
            None => !kept || gap.overtaken > degree || now.since(gap.opened) >= patience,
            Some(newest) => {
                let went_back = again || (!kept && psn.offset(newest) <= 0);
                gap.again = gap.again.saturating_add(u32::from(went_back));
                went_back && gap.again > degree
            }
        };
        if due {
            let newest = gap.reported.filter(|newest| psn.before(*newest)).unwrap_or(psn);
            gap.reported = Some(newest);
            gap.again = 0;
        }
        due
    }

    /// A packet has come once more after its turn.
    pub(crate) fn on_duplicate(&mut self, psn: Psn) {
        if let Some(report) = self.report.filter(|report| report.psn == psn) {
            self.report = None;
            self.widen(report.overtaken, report.late);
        }
    }

    /// The turn of all from `from` to before `to` has come. Whether one of them had been reported.
    pub(crate) fn on_progress(&mut self, now: Instant, from: Psn, to: Psn) -> bool {
        self.kept.remove_from(from, to.distance(from));
        self.acknowledged = self.acknowledged.filter(|psn| !psn.before(to));
        self.refused = self.refused.filter(|psn| !psn.before(to));
        let mut reported = false;
        if let Some(gap) = self.gap.take() {
            let late = now.since(gap.opened);
            if gap.reported.is_some() {
                reported = true;
                // The report before was right.
                if self.report.is_some() {
                    self.degree = self.degree.saturating_sub(self.degree.div_ceil(8));
                    self.patience = Duration(self.patience.0.saturating_sub(self.patience.0 / 8));
                }
                self.report = Some(Report {
                    psn: from,
                    overtaken: gap.overtaken,
                    late,
                });
            } else {
                self.widen(gap.overtaken, late);
            }
        }
        if self.awaits() && !self.has(to) {
            self.gap = Some(Gap {
                opened: now,
                overtaken: self.kept.count,
                reported: None,
                again: 0,
                refused: self.refused == Some(to),
            });
        }
        reported
    }

    /// Whether something has come whose turn has not.
    const fn awaits(&self) -> bool {
        self.kept.count > 0 || self.acknowledged.is_some() || self.refused.is_some()
    }

    /// A packet that was not lost was overtaken by so many, and so late: as much again may happen.
    fn widen(&mut self, overtaken: u32, late: Duration) {
        let degree = overtaken.saturating_mul(2).min(limits::MAX_DEGREE);
        let patience = Duration(late.0.saturating_mul(2)).max(limits::MIN_PATIENCE);
        self.degree = self.degree.max(degree);
        self.patience = self.patience.max(patience.min(limits::MAX_PATIENCE));
    }

    /// Whether the peer is told what is lost by who carries it, which may be several lanes at once: then what is
    /// missing is late, unless it has come and could not be kept.
    pub(crate) fn set_told(&mut self, told: bool) {
        self.told = told;
    }

    /// By how many packets and for how long one may be overtaken before it is reported.
    const fn bounds(&self) -> (u32, Duration) {
        match self.told {
            true => (u32::MAX, limits::LANE_LATE),
            false => (self.degree, self.patience),
        }
    }

    /// After what time the one missing in `gap` is reported without anything else that comes.
    fn wait_for(&self, gap: &Gap) -> Option<Duration> {
        let (degree, patience) = self.bounds();
        match gap.reported {
            Some(_) => None,
            None if gap.refused => Some(Duration(0)),
            None => (degree > 0).then_some(patience),
        }
    }

    /// When [`Arrivals::on_time`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let gap = self.gap?;
        let forgotten = self.awaits().then_some(limits::KEPT_FOR);
        Some(gap.opened.after(self.wait_for(&gap).or(forgotten)?))
    }

    /// Time has passed. Whether the missing packet is to be reported.
    pub(crate) fn on_time(&mut self, now: Instant, expected: Psn) -> bool {
        let Some(gap) = self.gap else { return false };
        let late = now.since(gap.opened);
        if self.wait_for(&gap).is_some_and(|wait| late >= wait) {
            // Whatever comes from now on may be what the peer sends again.
            self.gap = Some(Gap {
                reported: Some(expected),
                ..gap
            });
            return true;
        }
        if late >= limits::KEPT_FOR {
            // The peer is silent.
            self.forget();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const T: Instant = Instant(1_000);

    fn at(n: u32) -> Psn {
        Psn::new(0xff_fff0).plus(n)
    }

    /// Packets in the order in which they come; how often one is reported missing.
    fn reports(arrivals: &mut Arrivals, expected: &mut u32, order: &[u32]) -> usize {
        let mut count = 0;
        for n in order {
            if *n > *expected {
                count += usize::from(arrivals.on_ahead(T, at(*expected), at(*n), || true));
                continue;
            }
            if *n < *expected {
                arrivals.on_duplicate(at(*n));
                continue;
            }
            loop {
                arrivals.on_progress(T, at(*expected), at(*expected + 1));
                *expected += 1;
                if !arrivals.has(at(*expected)) {
                    break;
                }
                arrivals.take(at(*expected));
            }
        }
        count
    }

    #[test]
    fn where_the_peer_is_told_what_is_lost_a_train_may_be_very_late() {
        let mut arrivals = Arrivals::default();
        arrivals.set_told(true);
        for n in 1..limits::MAX_KEPT {
            assert!(!arrivals.on_ahead(T, at(0), at(n), || true));
        }
        let deadline = T.after(limits::LANE_LATE);
        assert_eq!(arrivals.deadline(), Some(deadline));
        assert!(!arrivals.on_time(Instant(deadline.0 - 1), at(0)));
        assert!(arrivals.on_time(deadline, at(0)));
        // One that has come and could not be kept is reported at once.
        let mut arrivals = Arrivals::default();
        arrivals.set_told(true);
        assert!(arrivals.on_ahead(T, at(0), at(1), || false));
    }

    #[test]
    fn the_first_packet_past_a_gap_reports_it_and_those_after_it_do_not() {
        let (mut arrivals, mut expected) = (Arrivals::default(), 0);
        assert_eq!(reports(&mut arrivals, &mut expected, &[1]), 1);
        assert_eq!(reports(&mut arrivals, &mut expected, &[2, 3, 4]), 0);
        // It is lost again, and so is the next.
        assert_eq!(reports(&mut arrivals, &mut expected, &[2]), 1);
        assert_eq!(reports(&mut arrivals, &mut expected, &[0, 1]), 0);
        assert_eq!(expected, 5);
        assert_eq!(arrivals.deadline(), None);
    }

    #[test]
    fn where_packets_overtake_each_other_one_useless_report_is_enough() {
        let (mut arrivals, mut expected) = (Arrivals::default(), 0);
        // The reported packet comes, and once more since it was asked for.
        assert_eq!(reports(&mut arrivals, &mut expected, &[1, 2, 3, 0, 0]), 1);
        for round in 1..1000 {
            let base = 4 * round;
            let order = [base + 2, base + 1, base + 3, base];
            assert_eq!(reports(&mut arrivals, &mut expected, &order), 0);
        }
        // A loss is reported after twice as many.
        let more: Vec<u32> = (4001..4010).collect();
        assert_eq!(reports(&mut arrivals, &mut expected, &more[..6]), 0);
        assert_eq!(reports(&mut arrivals, &mut expected, &more[6..]), 1);
    }

    #[test]
    fn experience_fades_with_reports_that_were_right() {
        let (mut arrivals, mut expected) = (Arrivals::default(), 0);
        reports(&mut arrivals, &mut expected, &[1, 2, 3, 0, 0]);
        for _ in 0..20 {
            let base = expected;
            let order: Vec<u32> = (base + 1..base + 20).chain([base]).collect();
            reports(&mut arrivals, &mut expected, &order);
        }
        let base = expected;
        assert_eq!(reports(&mut arrivals, &mut expected, &[base + 1]), 1);
    }

    #[test]
    fn a_late_packet_is_reported_by_time_and_what_nobody_completes_is_forgotten() {
        let mut arrivals = Arrivals::default();
        arrivals.widen(5, Duration(20_000));
        assert!(!arrivals.on_ahead(T, at(0), at(1), || true));
        assert_eq!(arrivals.deadline(), Some(T.after(Duration(40_000))));
        assert!(!arrivals.on_time(T.after(Duration(39_999)), at(0)));
        assert!(arrivals.on_time(T.after(Duration(40_000)), at(0)));
        let until = T.after(limits::KEPT_FOR);
        assert_eq!(arrivals.deadline(), Some(until));
        assert!(!arrivals.on_time(until, at(0)));
        assert!(!arrivals.has(at(1)) && arrivals.deadline().is_none());
    }

    #[test]
    fn what_the_host_does_not_keep_is_not_had() {
        let mut arrivals = Arrivals::default();
        arrivals.widen(5, limits::MIN_PATIENCE);
        assert!(arrivals.on_ahead(T, at(0), at(1), || false), "it has to be sent again");
        assert!(!arrivals.on_ahead(T, at(0), at(2), || false));
        arrivals = Arrivals::default();
        assert!(arrivals.on_ahead(T, at(0), at(1), || false));
        assert!(!arrivals.on_ahead(T, at(0), at(2), || false));
        assert!(arrivals.on_ahead(T, at(0), at(1), || false), "the peer went back");
        assert!(!arrivals.on_ahead(T, at(0), at(limits::MAX_AHEAD), || unreachable!()));
        assert_eq!(arrivals.first(at(0)), None);
        for n in 1..=limits::MAX_KEPT {
            arrivals.on_ahead(T, at(0), at(n), || true);
        }
        arrivals.on_ahead(T, at(0), at(limits::MAX_KEPT + 1), || unreachable!());
    }

    proptest! {
        #[test]
        fn the_map_is_a_set(start: u32, steps in proptest::collection::vec((0u8..4, 0u32..limits::MAX_AHEAD), 1..200)) {
            let mut base = Psn::new(start);
            let (mut map, mut model) = (Map::default(), BTreeSet::new());
            let mut passed = 0;
            for (what, n) in steps {
                let psn = base.plus(n);
                match what {
                    0 | 1 => {
                        map.insert(psn);
                        model.insert(passed + n);
                    }
                    2 => {
                        map.remove(psn);
                        model.remove(&(passed + n));
                    }
                    _ => {
                        map.remove_from(base, n);
                        (base, passed) = (psn, passed + n);
                        model = model.split_off(&passed);
                    }
                }
                prop_assert_eq!(map.count as usize, model.len());
                prop_assert_eq!(map.first(base).map(|psn| psn.distance(base)), model.first().map(|n| n - passed));
                prop_assert_eq!(map.has(base.plus(n)), model.contains(&(passed + n)));
            }
        }
    }
}
