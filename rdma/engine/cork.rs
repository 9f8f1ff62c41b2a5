// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Corking: short sends of a program that runs ahead leave together.
//!
//! A frame by itself costs a ring of the netdev's doorbell, an interrupt here and one at the peer; many in a row cost
//! little more. So once a program has posted a few sends without having learned anything in between, or while a burst
//! is under way, its next ones are held until there is a burst of them. What ends the wait, whichever comes first:
//! enough packets; the acknowledgement of everything before; the deadline, which follows the program's own pace. Who
//! waits for an answer before the next post is never held.
//!
//! A deadline that passes while nothing else is under way says that the program was waiting after all: the burst is
//! halved, down to one packet, which is no corking. It grows again with what goes well, and the more slowly the more
//! often the program had to wait.

use crate::time::{Duration, Instant};

/// Packets in a burst at most.
const MOST: u32 = 32;
/// Posts in a row that go at once.
const FIRST: u32 = 4;
/// After a pause of so many nanoseconds a new row begins.
const PAUSE: u64 = 500_000;
/// Nanoseconds from post to post, until it is known better.
const BRISK: u64 = 10_000;
/// The longest wait, whatever the pace.
pub const LONGEST: Duration = Duration::from_millis(2);
/// Packets that go well before a burst grows.
const TRUST: u32 = 16;
/// The same after many mistakes.
const DISTRUST: u32 = 4096;

/// What a program may have learned so far, in numbers that change with it: how far it has read its completion queues,
/// and what the peer has sent it.
pub(crate) type News = [u32; 3];

/// Sends that have been posted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Post {
    /// Packets of the last one.
    pub(crate) packets: u32,
    /// Sends that wait in the queue, those included.
    pub(crate) waiting: u32,
    /// Sends begun and not finished.
    pub(crate) under_way: u32,
    /// As of now.
    pub(crate) news: News,
}

/// Holds the posts of one send queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cork {
    /// Packets that make a burst now.
    burst: u32,
    /// When what is held goes at the latest.
    until: Option<Instant>,
    /// Posts since there was news, or a pause.
    row: u32,
    /// At the last post.
    news: News,
    /// The last post.
    last: Instant,
    /// Nanoseconds from post to post within a row, averaged.
    pace: u64,
    /// Packets that went well since the burst changed.
    well: u32,
    /// How many of them make it grow.
    needed: u32,
}

impl Default for Cork {
    fn default() -> Self {
        Self {
            burst: MOST,
            until: None,
            row: 0,
            news: [0; 3],
            last: Instant(0),
            pace: BRISK,
            well: 0,
            needed: TRUST,
        }
    }
}

impl Cork {
    /// Decides whether what is posted is held.
    pub(crate) fn on_post(&mut self, now: Instant, post: Post) {
        let gap = now.since(self.last).0.min(PAUSE);
        self.last = now;
        if gap == PAUSE || post.news != self.news {
            self.news = post.news;
            self.row = 0;
        } else {
            self.pace = self.pace.saturating_sub(self.pace >> 3).saturating_add(gap >> 3);
        }
        self.row = self.row.saturating_add(1);
        if self.row <= FIRST && post.under_way < MOST {
            return self.pull();
        }
        let waiting = post.waiting.saturating_mul(post.packets);
        if waiting >= self.burst {
            self.on_burst(waiting);
            return self.pull();
        }
        let wait = u64::from(self.burst).saturating_mul(self.pace).saturating_mul(2);
        self.until.get_or_insert(now.after(Duration(wait).min(LONGEST)));
    }

    /// A burst of `packets` has come together in time.
    fn on_burst(&mut self, packets: u32) {
        self.well = self.well.saturating_add(packets);
        if self.well < self.needed {
            return;
        }
        self.well = 0;
        match self.burst {
            MOST => self.needed = (self.needed >> 1).max(TRUST),
            smaller => self.burst = smaller.saturating_mul(2),
        }
    }

    /// There is nothing to wait for any more.
    pub(crate) fn pull(&mut self) {
        self.until = None;
    }

    /// Whether the next post may be held.
    pub(crate) const fn runs_ahead(&self) -> bool {
        self.row >= FIRST
    }

    /// Whether what waits in the queue is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.until.is_some()
    }

    /// Time has passed: whether what is held has waited for long enough, and goes. `idle`: the queue pair had nothing
    /// else under way, so that the wait was in vain.
    pub(crate) fn on_time(&mut self, now: Instant, idle: bool) -> bool {
        if self.until.is_none_or(|until| now < until) {
            return false;
        }
        self.pull();
        if idle {
            self.burst = (self.burst >> 1).max(1);
            self.needed = self.needed.saturating_mul(2).min(DISTRUST);
            self.well = 0;
        }
        true
    }

    /// When what is held goes at the latest.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(packets: u32, waiting: u32, news: u32) -> Post {
        Post {
            packets,
            waiting,
            under_way: 0,
            news: [news; 3],
        }
    }

    /// A program on a queue pair, in virtual time.
    struct Program {
        cork: Cork,
        now: u64,
        news: u32,
        held: u32,
        bursts: Vec<u32>,
        /// Time spent waiting for a deadline.
        in_vain: u64,
    }

    impl Program {
        fn new() -> Self {
            Self {
                cork: Cork::default(),
                now: 1_000_000_000,
                news: 0,
                held: 0,
                bursts: Vec::new(),
                in_vain: 0,
            }
        }

        /// What is not held leaves.
        fn leave(&mut self) {
            if !self.cork.is_holding() && self.held > 0 {
                self.bursts.push(std::mem::take(&mut self.held));
            }
        }

        /// Computes for a while, then posts.
        fn post(&mut self, gap: u64) {
            self.now += gap;
            let now = Instant(self.now);
            self.cork.on_time(now, true);
            self.leave();
            self.held += 1;
            self.cork.on_post(now, post(1, self.held, self.news));
            assert!(self.cork.until().is_none_or(|until| until.since(now) <= LONGEST));
            self.leave();
        }

        /// Waits until all has left and `flight` more.
        fn wait(&mut self, flight: u64) {
            if let Some(until) = self.cork.until() {
                self.in_vain += until.0.saturating_sub(self.now);
                self.now = self.now.max(until.0);
                assert!(self.cork.on_time(Instant(self.now), true));
                self.leave();
            }
            assert_eq!(self.held, 0);
            self.now += flight;
        }

        /// Waits, and reads what there is to read.
        fn wait_and_read(&mut self, flight: u64) {
            self.wait(flight);
            self.news += 1;
        }

        fn percent_in_vain(&self, start: u64) -> u64 {
            self.in_vain * 100 / (self.now - start)
        }
    }

    #[test]
    fn who_waits_for_each_answer_is_never_held() {
        let mut program = Program::new();
        for _ in 0..1000 {
            program.post(500);
            assert_eq!(program.held, 0);
            program.wait_and_read(7_000);
        }
        assert!(program.bursts.iter().all(|burst| *burst == 1));
    }

    #[test]
    fn a_stream_leaves_in_bursts() {
        for pace in [300, 5_000, 25_000] {
            let mut program = Program::new();
            for _ in 0..100 {
                // perftest has a completion for every hundred sends.
                for _ in 0..100 {
                    program.post(pace);
                }
                program.news += 1;
            }
            let mean = 10_000 / program.bursts.len();
            assert!(mean >= 9, "{mean} at {pace} ns");
        }
    }

    #[test]
    fn a_window_smaller_than_a_burst_soon_goes_at_once() {
        for window in 5..MOST {
            let mut program = Program::new();
            let start = program.now;
            for _ in 0..4000 {
                for _ in 0..window {
                    program.post(1_000);
                }
                program.wait_and_read(2_000);
            }
            let share = program.percent_in_vain(start);
            assert!(share <= 3, "window {window}: {share} %");
        }
    }

    #[test]
    fn messages_that_nobody_asked_for_soon_go_at_once() {
        let mut program = Program::new();
        let start = program.now;
        for _ in 0..20_000 {
            program.post(0);
            program.wait(100_000);
        }
        let share = program.percent_in_vain(start);
        assert!(share <= 3, "{share} %");
    }

    #[test]
    fn a_deadline_that_passes_while_others_are_under_way_is_no_mistake() {
        for (idle, burst) in [(true, MOST / 2), (false, MOST)] {
            let mut cork = Cork::default();
            for n in 0..=FIRST {
                cork.on_post(Instant(u64::from(n)), post(1, 1, 0));
            }
            let until = cork.until().unwrap();
            assert!(!cork.on_time(Instant(until.0 - 1), idle));
            assert!(cork.on_time(until, idle) && !cork.is_holding());
            assert_eq!(cork.burst, burst);
        }
    }

    #[test]
    fn a_pause_a_long_message_or_a_list_that_is_a_burst_is_not_held() {
        for (pause, packets, waiting) in [(PAUSE, 1, 1), (1_000, 256, 1), (1_000, 1, MOST)] {
            let mut cork = Cork::default();
            for n in 0..100 {
                cork.on_post(Instant(n * pause), post(packets, waiting, 0));
                assert!(!cork.is_holding(), "{n}: {pause} {packets} {waiting}");
            }
        }
    }

    #[test]
    fn behind_a_whole_burst_news_or_not_is_no_matter() {
        let mut cork = Cork::default();
        for n in 1..MOST {
            let post = Post {
                under_way: MOST,
                ..post(1, n, n)
            };
            cork.on_post(Instant(u64::from(n) * 1_000), post);
            assert!(cork.is_holding());
        }
        cork.on_post(Instant(1_000_000), post(1, MOST, MOST));
        assert!(!cork.is_holding());
    }

    #[test]
    fn any_times_and_counts_are_borne() {
        let mut cork = Cork::default();
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let now = Instant(x.rotate_left(17));
            match x % 8 {
                0 => {
                    cork.on_time(now, x & 64 == 0);
                }
                1 => cork.pull(),
                _ => {
                    let packets = (x >> 40) as u32 >> (x % 25);
                    cork.on_post(now, post(packets, (x >> 20) as u32 >> (x % 29), (x >> 60) as u32));
                }
            }
            assert!((1..=MOST).contains(&cork.burst));
        }
    }
}
