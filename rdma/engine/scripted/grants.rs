// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Payload that is in memory before its turn: what a window may overtake, and what may overtake it.

use super::*;
use crate::grants::Part;
use crate::limits;
use proptest::prelude::*;

impl Rig {
    fn may(&self, packet: &Packet) -> bool {
        self.qp.may_grant(packet)
    }

    fn grant(&mut self, packet: &Packet) {
        assert!(self.may(packet));
        self.qp.handle_granted(packet);
    }

    fn window(&mut self, packet: &Packet) -> bool {
        self.qp.handle_window(self.now, packet, &mut self.user)
    }

    fn expected(&self) -> u32 {
        self.qp.responder.expected().value()
    }
}

/// A WRITE of two packets at the `n`th place.
fn run(n: u32) -> Packet {
    let reth = Reth {
        va: 0x2000,
        rkey: Key(9),
        length: 512,
    };
    let psn = Psn::new(RQ_PSN).plus(2 * n);
    packet(write(Place::Only), psn.value(), 512, Some(reth), None).run(2)
}

fn at(n: u32) -> u32 {
    Psn::new(RQ_PSN).plus(2 * n).value()
}

/// What of a WRITE's first run of 64 KiB may go by a window.
fn part(op: SendOp, length: u32, va: u64, timeout: u8) -> Option<Part> {
    let mut rig = Rig::with(|_, all| (all.path_mtu, all.timeout) = (Some(Mtu::B4096), Some(timeout)));
    rig.user.sends.push_back(SendWqe {
        op,
        length,
        remote_va: va,
        rkey: Key(5),
        ..SendWqe::EMPTY
    });
    rig.qp.handle_doorbell(rig.now, &mut rig.user);
    let room = Room {
        packets: 16,
        bytes: 1 << 16,
        lanes: 1,
    };
    let transmit = rig.qp.poll_transmit(rig.now, room, &mut rig.user)?;
    rig.qp.window_of(&transmit)
}

#[test]
fn whole_pages_of_a_long_write_go_by_a_window_if_there_is_time_for_it() {
    const LONG: u32 = limits::MIN_WINDOW_MESSAGE;
    let part_of = |va, len| {
        Some(Part {
            key: Key(5),
            address: va,
            len,
        })
    };
    assert_eq!(part(SendOp::Write, LONG, 0x1000, 14), part_of(0x1000, 1 << 16));
    assert_eq!(part(SendOp::WriteImm, LONG, 0x1000, 0), part_of(0x1000, 1 << 16));
    // Too short, not at a page, no WRITE.
    assert_eq!(part(SendOp::Write, LONG - 1, 0x1000, 14), None);
    assert_eq!(part(SendOp::Write, LONG, 0x1008, 14), None);
    assert_eq!(part(SendOp::Send, LONG, 0x1000, 14), None);
    // Its retries are over before a lane has begun anew.
    assert_eq!(part(SendOp::Write, LONG, 0x1000, 8), None);
}

/// The lane carried it, so the peer does not send it again by itself.
#[test]
fn what_came_behind_a_window_and_was_not_kept_is_reported_when_the_window_is_over() {
    let mut rig = Rig::new();
    rig.grant(&run(0));
    rig.handle(&run(1));
    assert_eq!((rig.qp.poll_early(), rig.qp.counters().sent_seq_naks), (None, 0));
    assert!(rig.window(&run(0)));
    assert_eq!((rig.qp.poll_early(), rig.qp.counters().sent_seq_naks), (None, 1));
    assert_eq!((rig.qp.poll_early(), rig.qp.counters().sent_seq_naks), (None, 1));
    // And so it is when the window comes to nothing.
    rig.handle(&run(1));
    rig.grant(&run(2));
    rig.handle(&run(3));
    rig.qp.handle_void_window();
    rig.handle(&run(2));
    assert_eq!((rig.qp.poll_early(), rig.expected()), (None, at(3)));
    assert_eq!(rig.qp.counters().sent_seq_naks, 2);
}

#[test]
fn windows_follow_one_another_and_are_carried_out_in_order() {
    let mut rig = Rig::new();
    assert!(!rig.may(&run(1)), "what is before it has not come");
    rig.grant(&run(0));
    assert!(!rig.may(&run(0)) && !rig.may(&run(2)));
    rig.grant(&run(1));
    // The same packets by another way, a part of them, and what follows them.
    rig.handle(&run(0));
    rig.handle(&run(1));
    rig.handle(&packet(write(Place::Only), at(1), 200, run(1).reth, None));
    assert_eq!((rig.expected(), rig.qp.counters().dropped), (at(0), 3));
    assert!(rig.window(&run(0)));
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(1), 1));
    assert!(rig.window(&run(1)));
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(2), 2));
    rig.handle(&run(2));
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(3), 3));
    assert!(rig.may(&run(3)));
}

#[test]
fn one_that_comes_to_nothing_takes_those_behind_it_along() {
    let mut rig = Rig::new();
    (0..3).for_each(|n| rig.grant(&run(n)));
    rig.qp.handle_void_window();
    assert!(!rig.may(&run(3)) && !rig.may(&run(0)));
    rig.handle(&run(0));
    assert!(!rig.window(&run(1)));
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(0), 0));
    assert!(!rig.window(&run(2)));
    // None is open: all of it again, whichever way.
    rig.grant(&run(0));
    assert!(rig.window(&run(0)));
    rig.handle(&run(1));
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(2), 2));
}

#[test]
fn one_that_is_not_carried_out_in_its_turn_neither() {
    let mut rig = Rig::new();
    let imm = Opcode::Write {
        place: Place::Only,
        imm: true,
    };
    let first = packet(imm, RQ_PSN, 512, run(0).reth, None).run(2);
    rig.grant(&first);
    rig.grant(&run(1));
    // No receive is posted.
    assert!(!rig.window(&first));
    assert!(matches!(rig.answers()[..], [(RQ_PSN, Syndrome::Rnr(_))]));
    assert!(!rig.window(&run(1)));
    assert!(!rig.may(&first), "the peer waits");
    rig.recv(0);
    rig.handle(&first);
    assert_eq!((rig.expected(), rig.user.placed.len()), (at(1), 1));
    assert!(rig.may(&run(1)));
}

#[test]
fn what_does_not_write_or_may_not_has_no_window() {
    let mut rig = Rig::new();
    assert!(!rig.may(&packet(send(Place::Only), RQ_PSN, 512, None, None)));
    assert!(!rig.may(&packet(Opcode::ReadRequest, RQ_PSN, 0, run(0).reth, None)));
    assert!(!rig.may(&packet(write(Place::First), RQ_PSN, 300, run(0).reth, None)));
    assert!(rig.may(&packet(write(Place::First), RQ_PSN, 512, run(0).reth, None)));
    let mut closed = Rig::with(|_, all| all.access = Some(Access(1)));
    assert!(!closed.may(&run(0)));
    let to = |state| Modify {
        state: Some(state),
        ..Modify::default()
    };
    rig.grant(&run(0));
    rig.qp.modify(rig.now, &to(State::Err)).unwrap();
    assert!(!rig.may(&run(1)) && !rig.window(&run(0)));
    closed.qp.modify(rig.now, &to(State::Reset)).unwrap();
    assert!(!closed.may(&run(0)));
}

#[test]
fn a_window_outlives_the_life_that_granted_it_and_carries_nothing_out() {
    let mut rig = Rig::new();
    rig.grant(&run(0));
    let to = |state| Modify {
        state: Some(state),
        path_mtu: Some(Mtu::B256),
        dest_qpn: Some(Qpn::new(0x22)),
        rq_psn: Some(Psn::new(RQ_PSN)),
        access: Some(Access(15)),
        ..Modify::default()
    };
    for state in [State::Reset, State::Init, State::Rtr] {
        rig.qp.modify(rig.now, &to(state)).unwrap();
    }
    rig.handle(&run(0));
    assert!(!rig.window(&run(0)) && rig.user.placed.is_empty());
    rig.handle(&run(0));
    assert_eq!(rig.expected(), at(1));
}

/// Eight pages that WRITEs of a packet each go to, and how they get there: two each, the second of which never goes by
/// a window.
struct Pages {
    /// Which message wrote a page last.
    pages: [Option<u32>; 8],
    /// The message at hand, and whether it is there already, but for the second page.
    at_hand: (u32, [usize; 2], bool),
    recvs: u32,
}

impl Host for Pages {
    fn take_send(&mut self) -> Option<SendWqe> {
        None
    }
    fn take_recv(&mut self) -> Option<RecvWqe> {
        self.recvs = self.recvs.checked_sub(1)?;
        Some(RecvWqe {
            wr_id: 0,
            length: 0,
            slot: 0,
            fault: None,
        })
    }
    fn check(&mut self, _: Key, _: u64, _: u32, _: Access) -> Result<(), Fault> {
        Ok(())
    }
    fn place(&mut self, _: Target, _: Span) -> Result<(), Fault> {
        let (message, [page, tail], there) = self.at_hand;
        if !there {
            self.pages[page] = Some(message);
        }
        self.pages[tail] = Some(message);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Messages that write over each other's pages, by windows and otherwise, lost, again and again: memory has what
    /// the last message carried out has written, but where one that is not has had a window; nothing is written for a
    /// message that has been carried out.
    #[test]
    fn memory_is_as_if_all_had_come_in_order(
        plan in proptest::collection::vec((0usize..8, 0usize..8, any::<bool>()), 1..30),
        steps in proptest::collection::vec((0u8..10, 0u32..6), 1..300),
    ) {
        let mut rig = Rig::new();
        let mut host = Pages { pages: [None; 8], at_hand: (0, [0, 1], false), recvs: 0 };
        let count = plan.len() as u32;
        let message = |n: u32| {
            let (_, _, imm) = plan[n as usize];
            let reth = Reth { va: 0x2000, rkey: Key(9), length: 256 };
            packet(Opcode::Write { place: Place::Only, imm }, Psn::new(RQ_PSN).plus(n).value(), 256, Some(reth), None)
        };
        let pages = |n: u32| [plan[n as usize].0, plan[n as usize].1];
        let writes = |n: u32, page: usize| pages(n).contains(&page);
        // Windows in the order of the ring, and how many of them have their frames.
        let mut ring: VecDeque<u32> = VecDeque::new();
        let mut written = 0;
        let mut touched = [false; 30];
        let wild = steps.len();
        let settle = (0..40 * count).map(|n| ([7, 0, 4, 5][n as usize % 4], 0));
        for (step, (what, n)) in steps.into_iter().chain(settle).enumerate() {
            let done = rig.qp.responder.expected().distance(Psn::new(RQ_PSN));
            if done == count {
                break;
            }
            let n = (done + n).min(count - 1);
            match what {
                // Otherwise than by a window, be it again or too early.
                0 | 1 => {
                    host.at_hand = (n, pages(n), false);
                    rig.qp.handle_packet(rig.now, &message(n), &mut host);
                }
                // The caller's part: what is written in its turn is not written over by what is carried out before.
                2 | 3 if rig.may(&message(n)) && !ring.iter().any(|open| pages(*open)[1] == pages(n)[0]) => {
                    rig.qp.handle_granted(&message(n));
                    ring.push_back(n);
                }
                4 => if let Some(n) = ring.get(written) {
                    prop_assert!(*n >= done, "a write for a message that has been carried out");
                    host.pages[pages(*n)[0]] = Some(*n);
                    touched[*n as usize] = true;
                    written += 1;
                },
                5 => if let Some(n) = ring.pop_front() {
                    if written > 0 {
                        written -= 1;
                        host.at_hand = (n, pages(n), true);
                        rig.qp.handle_window(rig.now, &message(n), &mut host);
                    } else {
                        rig.qp.handle_void_window();
                    }
                },
                6 if !ring.is_empty() => {
                    // The lane begins anew.
                    written = 0;
                    ring.drain(..).for_each(|_| rig.qp.handle_void_window());
                },
                7 => host.recvs += 1,
                _ => {}
            }
            while rig.qp.poll_completion(&mut host).is_some() {}
            let done = rig.qp.responder.expected().distance(Psn::new(RQ_PSN));
            for (at, found) in host.pages.iter().enumerate() {
                let last = (0..done).rev().find(|n| writes(*n, at));
                let undefined = (done..count).any(|n| pages(n)[0] == at && touched[n as usize]);
                prop_assert!(undefined || *found == last, "step {step} of {wild}: page {at} has {found:?}, not {last:?}");
            }
        }
        let done = rig.qp.responder.expected().distance(Psn::new(RQ_PSN));
        prop_assert_eq!(done, count, "not all was carried out");
        for (at, found) in host.pages.iter().enumerate() {
            prop_assert_eq!(*found, (0..count).rev().find(|n| writes(*n, at)));
        }
    }
}
