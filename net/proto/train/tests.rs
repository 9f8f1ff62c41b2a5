// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Unit tests of train assembly, frame by frame.

use super::*;
use proptest::prelude::*;

/// A sender that writes frames down.
struct Sender {
    next: Seq,
}

#[derive(Clone, Debug)]
struct Sent {
    arrival: Arrival,
    bytes: Vec<u8>,
}

const FIRST: Seq = Seq(u32::MAX - 20);

impl Sender {
    fn train(&mut self, pages: u8) -> Vec<Sent> {
        let lens: Vec<usize> = (0..pages).map(|i| 4096 - usize::from(i)).collect();
        let sum = lens.iter().sum::<usize>() as u32;
        let train = Train::new(Kind::Eth, self.next, 30, pages, sum, Seq(7));
        self.next = self.next.plus(Train::frames(pages));
        let mut frames: Vec<Sent> = lens
            .iter()
            .zip(0..)
            .map(|(len, i)| Sent {
                arrival: Arrival {
                    sof: SOF,
                    eof: train.page_eof(i),
                    len: *len,
                    spoiled: false,
                },
                bytes: vec![],
            })
            .collect();
        frames.push(Sent {
            arrival: Arrival {
                sof: SOF,
                eof: EOF_HEAD,
                len: 46,
                spoiled: false,
            },
            bytes: train.header.bytes().to_vec(),
        });
        frames
    }
}

fn setup() -> (Sender, Inbound) {
    (Sender { next: FIRST }, Inbound::new(FIRST, 256))
}

fn feed(lane: &mut Inbound, frames: &[Sent]) -> Vec<Verdict> {
    frames.iter().map(|f| lane.handle_frame(&f.bytes, f.arrival)).collect()
}

/// Pages of the trains that came out.
fn trains(verdicts: &[Verdict]) -> Vec<u8> {
    verdicts
        .iter()
        .filter_map(|v| match v.frame {
            Frame::Train(h) => Some(h.pages),
            _ => None,
        })
        .collect()
}

#[test]
fn trains_come_out_as_they_went_in() {
    let (mut s, mut lane) = setup();
    for pages in [0, 1, 17, 0, 16, 3] {
        let v = feed(&mut lane, &s.train(pages));
        assert_eq!(trains(&v), [pages]);
        assert_eq!(v.last().unwrap().credit, Some(Seq(7)));
    }
    assert_eq!((lane.counters().lost, lane.counters().pages), (0, 37));
}

#[test]
fn a_lost_page_is_seen_at_the_next_frame_and_its_train_dropped_whole() {
    let (mut s, mut lane) = setup();
    let mut frames = s.train(5);
    frames.remove(2);
    let v = feed(&mut lane, &frames);
    assert_eq!(v[2].drop_held, Some(Drop::Gap));
    assert_eq!(trains(&v), [0; 0]);
    assert_eq!(trains(&feed(&mut lane, &s.train(5))), [5]);
    assert_eq!(lane.counters().lost, 1);
}

#[test]
fn a_lost_head_costs_its_own_train_only() {
    let (mut s, mut lane) = setup();
    let mut frames = s.train(3);
    frames.pop();
    frames.extend(s.train(4));
    let v = feed(&mut lane, &frames);
    assert_eq!(v[3].drop_held, Some(Drop::Gap));
    assert_eq!(trains(&v), [4]);
}

#[test]
fn a_loss_that_the_markers_cannot_show_is_seen_at_the_head() {
    // 13 frames are lost between the pages of one train and those of another of the same shape.
    let (mut s, mut lane) = setup();
    let mut frames = s.train(4);
    for _ in 0..9 {
        frames.extend(s.train(0));
    }
    frames.extend(s.train(4));
    frames.drain(2..15);
    // Two pages of the first, two pages and the head of the last; every marker is in order.
    assert_eq!(frames.len(), 6);
    let v = feed(&mut lane, &frames);
    assert!(v.iter().take(5).all(|v| v.drop_held.is_none()));
    assert_eq!(trains(&v), [0; 0]);
    assert_eq!(v[5].frame, Frame::Dropped(Drop::Gap));
    assert_eq!(lane.counters().lost, 13);
    assert_eq!(trains(&feed(&mut lane, &s.train(2))), [2]);
}

#[test]
fn a_spoiled_frame_takes_its_train_along() {
    for at in 0..4 {
        let (mut s, mut lane) = setup();
        let mut frames = s.train(3);
        frames[at].arrival.spoiled = true;
        frames.extend(s.train(0));
        frames.extend(s.train(2));
        assert_eq!(trains(&feed(&mut lane, &frames)), [0, 2]);
        assert_eq!(lane.counters().lost, 1);
    }
}

#[test]
fn a_frame_that_comes_twice_delivers_nothing_twice() {
    for at in 0..4 {
        let (mut s, mut lane) = setup();
        let mut frames = s.train(3);
        frames.insert(at, frames[at].clone());
        frames.extend(s.train(2));
        let v = feed(&mut lane, &frames);
        assert_eq!(trains(&v), if at == 3 { vec![3, 2] } else { vec![2] });
    }
}

#[test]
fn frames_out_of_order_deliver_nothing_wrong() {
    for at in 0..3 {
        let (mut s, mut lane) = setup();
        let mut frames = s.train(3);
        frames.swap(at, at + 1);
        let v = feed(&mut lane, &frames);
        assert_eq!(trains(&v), [0; 0]);
        assert_eq!(
            trains(&feed(&mut lane, &s.train(1))),
            if at == 2 { vec![] } else { vec![1] }
        );
        assert_eq!(trains(&feed(&mut lane, &s.train(1))), [1]);
    }
}

#[test]
fn a_frame_that_comes_twice_does_not_hide_a_loss_of_13() {
    let (mut s, mut lane) = setup();
    let mut frames = s.train(3);
    frames.pop();
    // The head is lost, a page has come twice, and 13 frames are lost further on: the sums agree, and
    // a page of the second train lies before three of the last.
    frames.insert(2, frames[1].clone());
    frames.extend(s.train(4));
    for _ in 0..8 {
        frames.extend(s.train(0));
    }
    frames.extend(s.train(4));
    frames.drain(5..18);
    assert_eq!(trains(&feed(&mut lane, &frames)), [0; 0]);
    assert_eq!(trains(&feed(&mut lane, &s.train(4))), [4]);
}

#[test]
fn a_head_without_pages_is_delivered_whatever_was_before_it() {
    let (mut s, mut lane) = setup();
    let mut frames = s.train(9);
    frames.truncate(4);
    frames.extend(s.train(0));
    let v = feed(&mut lane, &frames);
    assert_eq!(trains(&v), [0]);
    assert_eq!(v[4].drop_held, Some(Drop::Count));
}

#[test]
fn pages_of_other_sizes_than_the_head_says_are_dropped() {
    let (mut s, mut lane) = setup();
    let mut frames = s.train(3);
    frames[1].arrival.len -= 1;
    let v = feed(&mut lane, &frames);
    assert_eq!(v[3].frame, Frame::Dropped(Drop::Bytes));
}

#[test]
fn pages_without_end_are_not_held() {
    let (_, mut lane) = setup();
    for i in 0..1000 {
        let arrival = Arrival {
            sof: SOF,
            eof: FIRST.plus(i).page_eof(),
            len: 4096,
            spoiled: false,
        };
        lane.handle_frame(&[], arrival);
        assert!(lane.held() <= MAX_PAGES as u32);
    }
}

#[test]
fn a_head_of_another_life_is_stale() {
    let (mut s, mut lane) = setup();
    s.next = Seq(0x4000_0000);
    let v = feed(&mut lane, &s.train(0));
    assert_eq!(v[0].frame, Frame::Dropped(Drop::Stale));
    assert_eq!(v[0].credit, None);
}

#[test]
fn credit_is_due_when_a_quarter_is_not_known_or_the_sender_asks() {
    let (mut s, mut lane) = setup();
    assert!(!lane.credit_due());
    for _ in 0..64 {
        assert!(!lane.credit_due());
        feed(&mut lane, &s.train(0));
        lane.handle_posted(1);
    }
    assert!(lane.credit_due());
    assert_eq!(lane.credit(), FIRST.plus(64 + 252));
    assert!(!lane.credit_due());
    let mut probe = s.train(0);
    probe[0].bytes[1] = 1;
    feed(&mut lane, &probe);
    assert!(lane.credit_due());
}

#[test]
fn no_more_is_promised_than_is_posted() {
    let (mut s, mut lane) = setup();
    for _ in 0..256 {
        feed(&mut lane, &s.train(0));
    }
    assert_eq!(lane.credit(), FIRST.plus(252));
}

proptest! {
    #[test]
    fn any_frames_keep_the_books(
        frames in proptest::collection::vec(
            (
                0u8..3,
                0u8..16,
                0usize..5000,
                any::<bool>(),
                proptest::collection::vec(any::<u8>(), 0..20),
                0u32..40,
            ),
            0..200,
        ),
    ) {
        let mut lane = Inbound::new(FIRST, 64);
        let (mut held, mut taken, mut dropped) = (0u64, 0u64, 0u64);
        for (sof, eof, len, spoiled, mut bytes, near) in frames {
            if bytes.len() >= 16 {
                bytes[0] %= 5;
                bytes[4..8].copy_from_slice(&FIRST.plus(near).0.to_le_bytes());
                bytes[14] = 0;
                bytes[15] %= 4;
            }
            let v = lane.handle_frame(&bytes, Arrival { sof: sof.min(1), eof, len, spoiled });
            if v.drop_held.is_some() {
                dropped += held;
                held = 0;
            }
            match v.frame {
                Frame::Page => held += 1,
                Frame::Dropped(_) => {
                    prop_assert_eq!(held, 0);
                    dropped += 1;
                }
                Frame::Train(h) => {
                    prop_assert_eq!(u64::from(h.pages), held);
                    taken += held + 1;
                    held = 0;
                }
            }
            prop_assert_eq!(u64::from(lane.held()), held);
        }
        let c = lane.counters();
        prop_assert_eq!(c.frames, taken + dropped + held);
        prop_assert_eq!(c.dropped_frames + c.dropped_held, dropped);
        prop_assert_eq!(c.trains + c.pages, taken);
    }
}
