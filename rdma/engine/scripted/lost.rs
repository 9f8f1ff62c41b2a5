// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the lane has lost goes again, alone.

use super::*;
use crate::lost::Sent;

const LANE: Room = Room {
    packets: 4,
    bytes: 1 << 16,
    lanes: 1,
};

impl Rig {
    /// The next run on the lane: what it is for the lane, its opcode, whether it asks.
    fn run(&mut self) -> Option<(Sent, Opcode, bool)> {
        let transmit = self.qp.poll_transmit(self.now, LANE, &mut self.user)?;
        let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).unwrap();
        let sent = Sent::new(Qpn::new(0x11), &transmit)?;
        Some((sent, packet.opcode, packet.bth.ack_request))
    }

    fn runs(&mut self) -> Vec<(Sent, Opcode, bool)> {
        std::iter::from_fn(|| self.run()).collect()
    }
}

#[test]
fn a_lost_run_goes_again_alone_and_asks() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 256 * 16);
    let runs = rig.runs();
    assert_eq!(runs.len(), 4);
    let (second, opcode, asks) = runs[1];
    assert!(!asks);
    rig.qp.handle_lost(&second);
    // The peer says the same, in its own way.
    rig.ack(SQ_PSN + 4, SEQUENCE);
    assert_eq!(rig.runs(), [(second, opcode, true)]);
    assert_eq!(rig.qp.counters().retries, 0);
    rig.ack(SQ_PSN + 15, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    // What is told after that is of no interest.
    rig.qp.handle_lost(&second);
    assert!(rig.runs().is_empty() && rig.qp.poll_timeout().is_none());
}

#[test]
fn of_a_run_of_which_the_beginning_was_acknowledged_the_rest_goes_again() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 256 * 4);
    let (all, ..) = rig.run().unwrap();
    rig.ack(SQ_PSN + 2, ACK);
    rig.qp.handle_lost(&all);
    let (rest, opcode, _) = rig.run().unwrap();
    assert_eq!(
        (rest.psn.value(), rest.packets, opcode),
        (SQ_PSN + 3, 1, write(Place::Last))
    );
}

#[test]
fn what_the_lane_has_carried_and_the_peer_has_not_taken_goes_again_after_a_while() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(14));
    rig.post(SendOp::Write, 256 * 8);
    rig.runs();
    rig.ack(SQ_PSN, SEQUENCE);
    assert!(rig.runs().is_empty());
    let deadline = rig.qp.poll_timeout().unwrap();
    assert_eq!(deadline, rig.now.after(limits::LANE_WORD));
    rig.wait(limits::LANE_WORD);
    assert_eq!(rig.run().unwrap().0.psn.value(), SQ_PSN);
    assert_eq!((rig.qp.counters().retries, rig.qp.counters().timeouts), (1, 0));
}

#[test]
fn more_holes_than_have_a_place_and_all_goes_again() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 256 * 64);
    let runs = rig.runs();
    assert_eq!(runs.len(), 16);
    for (lost, ..) in runs.iter().skip(1).step_by(2) {
        rig.qp.handle_lost(lost);
    }
    assert_eq!(rig.runs().len(), limits::MAX_HOLES);
    for (lost, ..) in runs.iter().skip(1) {
        rig.qp.handle_lost(lost);
    }
    assert_eq!(rig.runs().len(), 16);
    assert_eq!(rig.qp.counters().retries, 1);
}

#[test]
fn a_lost_read_is_asked_again_from_where_it_is() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 256 * 8);
    let (read, ..) = rig.run().unwrap();
    rig.qp.handle_lost(&read);
    assert_eq!(rig.run().unwrap().0, read);
    let aeth = Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    };
    rig.handle(&packet(response(Place::First), SQ_PSN, 512, None, Some(aeth)).run(2));
    // Late news: it has begun to be answered.
    rig.qp.handle_lost(&read);
    assert!(rig.runs().is_empty());
}

#[test]
fn who_owes_answers_to_reads_does_not_rest() {
    let mut rig = Rig::new();
    assert!(rig.qp.is_at_rest().is_some());
    rig.request(Opcode::ReadRequest, RQ_PSN, 256);
    assert!(rig.qp.is_at_rest().is_none());
    rig.runs();
    assert!(rig.qp.is_at_rest().is_some());
    rig.post(SendOp::Write, 256);
    assert!(rig.qp.is_at_rest().is_some());
    rig.runs();
    assert!(rig.qp.is_at_rest().is_none());
    rig.ack(SQ_PSN, ACK);
    assert!(rig.qp.is_at_rest().is_some());
}

#[test]
fn lost_responses_go_again_alone_from_whoever_has_them() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 256 * 12);
    rig.request(Opcode::ReadRequest, (RQ_PSN + 12) & 0xff_ffff, 256);
    let runs = rig.runs();
    assert_eq!(runs.len(), 4);
    rig.qp.handle_lost(&runs[1].0);
    rig.qp.handle_lost(&runs[3].0);
    assert_eq!(rig.runs(), [runs[1], runs[3]]);
    // One that could not leave waits for the next turn.
    rig.qp.handle_lost(&runs[2].0);
    let transmit = rig.qp.poll_transmit(rig.now, LANE, &mut rig.user).unwrap();
    rig.qp
        .handle_gather_fault(rig.now, &transmit, Fault::Absent, &mut rig.user);
    assert_eq!(rig.runs(), [runs[2]]);
    // Nobody has such a one.
    let stranger = Sent {
        psn: Psn::new(500),
        ..runs[2].0
    };
    rig.qp.handle_lost(&stranger);
    assert!(rig.runs().is_empty());
}

#[test]
fn a_lost_acknowledgement_is_said_again_if_it_is_the_newest() {
    let mut rig = Rig::new();
    rig.request(write(Place::Only), RQ_PSN, 10);
    let (first, ..) = rig.run().unwrap();
    rig.request(write(Place::Only), (RQ_PSN + 1) & 0xff_ffff, 10);
    let (second, ..) = rig.run().unwrap();
    rig.qp.handle_lost(&first);
    assert!(rig.runs().is_empty());
    rig.qp.handle_lost(&second);
    assert_eq!(rig.run().unwrap().0, second);
    // So is one that tells the peer to wait.
    rig.request(send(Place::Only), (RQ_PSN + 2) & 0xff_ffff, 10);
    let (wait, ..) = rig.run().unwrap();
    rig.qp.handle_lost(&wait);
    assert_eq!(rig.answers(), [((RQ_PSN + 2) & 0xff_ffff, Syndrome::Rnr(12))]);
    // And the last word.
    rig.request(Opcode::ReadRequest, (RQ_PSN + 2) & 0xff_ffff, u32::MAX);
    let (word, ..) = rig.run().unwrap();
    assert_eq!(rig.qp.state(), State::Err);
    rig.qp.handle_lost(&word);
    assert_eq!(rig.run().unwrap().0, word);
}

impl Rig {
    /// Posts a send without a visible completion.
    fn post_silent(&mut self, op: SendOp, length: u32) {
        self.post(op, length);
        if let Some(last) = self.user.sends.back_mut() {
            last.signalled = false;
        }
    }
}

#[test]
fn nobody_is_asked_for_what_nobody_waits_for() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(14));
    for n in 1..=limits::MAX_UNASKED {
        rig.post_silent(SendOp::Send, 100);
        let (_, _, asks) = rig.run().unwrap();
        assert_eq!(asks, n == limits::MAX_UNASKED, "{n}");
        if n == 8 {
            // Fewer than fill the window.
            rig.ack(SQ_PSN + 7, ACK);
            assert_eq!(rig.done().len(), 8);
        }
    }
    rig.ack(SQ_PSN + limits::MAX_UNASKED - 1, ACK);
    rig.done();
    rig.post_silent(SendOp::Send, 100);
    assert!(!rig.run().unwrap().2);
    rig.post(SendOp::Send, 100);
    assert!(rig.run().unwrap().2);
    // By a carrier that does not tell what it loses every message asks.
    rig.post_silent(SendOp::Send, 100);
    let transmit = rig.qp.poll_transmit(rig.now, Room::PACKET, &mut rig.user).unwrap();
    let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).unwrap();
    assert!(packet.bth.ack_request);
}

#[test]
fn the_message_that_fills_the_window_asks() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 10);
    for _ in 0..20 {
        rig.post_silent(SendOp::Write, 10);
    }
    let asks: Vec<_> = rig.runs().iter().map(|run| run.2).collect();
    assert_eq!(asks.len(), 16);
    assert!(asks[0] && asks[15] && !asks[1..15].contains(&true));
}

#[test]
fn the_last_message_asks_after_all_and_that_is_no_timeout() {
    for timeout in [14, 1] {
        let mut rig = Rig::with(|_, all| all.timeout = Some(timeout));
        rig.post_silent(SendOp::Write, 256 * 3);
        let (sent, ..) = rig.run().unwrap();
        assert_eq!(sent.packets, 3);
        let first = limits::ASK_AFTER.min(limits::ack_timeout(timeout).unwrap());
        assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(first)));
        rig.wait(first);
        let (asks, opcode, asked) = rig.run().unwrap();
        assert_eq!(
            (asks.psn, asks.packets, opcode, asked),
            (sent.psn.plus(2), 1, write(Place::Last), true)
        );
        assert!(rig.runs().is_empty());
        assert_eq!((rig.qp.counters().timeouts, rig.qp.counters().asked_again), (0, 1));
        // Now an answer is due.
        let again = limits::ack_timeout(timeout).unwrap();
        assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(again)));
        rig.ack(SQ_PSN + 2, ACK);
        assert!(rig.qp.poll_timeout().is_none());
        assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    }
}

#[test]
fn what_waits_for_all_before_it_asks_at_once() {
    let mut rig = Rig::new();
    rig.post_silent(SendOp::Send, 10);
    let (sent, ..) = rig.run().unwrap();
    rig.post(SendOp::LocalInvalidate, 0);
    assert_eq!(rig.runs(), [(sent, send(Place::Only), true)]);
    rig.ack(SQ_PSN, ACK);
    assert!(rig.runs().is_empty());
    assert_eq!(rig.done().len(), 2);
    // So does one that cannot be carried out, and fails then.
    rig.post_silent(SendOp::Send, 10);
    rig.post(SendOp::Send, limits::MAX_MESSAGE_LEN + 1);
    assert_eq!(rig.runs().iter().map(|run| run.2).collect::<Vec<_>>(), [false, true]);
    rig.ack(SQ_PSN + 1, ACK);
    assert_eq!(rig.done().last(), Some(&(Queue::Send, 3, WcStatus::LocalLength)));
}

#[test]
fn a_queue_pair_that_is_to_drain_asks_at_once() {
    let mut rig = Rig::new();
    rig.post_silent(SendOp::Send, 10);
    assert!(!rig.run().unwrap().2);
    let drain = Modify {
        state: Some(State::Sqd),
        ..Modify::default()
    };
    rig.qp.modify(rig.now, &drain).unwrap();
    assert!(rig.run().unwrap().2);
    assert!(rig.runs().is_empty());
}

#[test]
fn what_comes_after_the_one_that_asked_asks_in_its_turn() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(14));
    rig.post(SendOp::Send, 10);
    rig.post_silent(SendOp::Send, 10);
    assert_eq!(rig.runs().iter().map(|run| run.2).collect::<Vec<_>>(), [true, false]);
    rig.wait(limits::ASK_AFTER);
    // An answer is due that may tell of both.
    assert!(rig.runs().is_empty());
    rig.ack(SQ_PSN, ACK);
    assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(limits::ASK_AFTER)));
    rig.wait(limits::ASK_AFTER);
    assert!(rig.run().unwrap().2);
}

#[test]
fn what_a_peer_that_comes_up_later_has_dropped_goes_again_before_the_timer_and_costs_no_retry() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(20));
    rig.post(SendOp::Write, 256 * 8);
    rig.runs();
    rig.qp.handle_port_up();
    let runs = rig.runs();
    for left in (1..=limits::BACK_TRIES).rev() {
        let wait = limits::back_again(left).unwrap();
        rig.wait(Duration(wait.0 - 1));
        assert!(rig.runs().is_empty(), "{wait:?}");
        rig.wait(Duration(1));
        assert_eq!(rig.runs(), runs, "{wait:?}");
    }
    assert_eq!(rig.qp.counters().timeouts, 0);
    // Then the timer tells, as ever.
    rig.wait(Duration(limits::ack_timeout(20).unwrap().0 - 1));
    assert!(rig.runs().is_empty());
    rig.wait(Duration(1));
    assert_eq!((rig.runs().len(), rig.qp.counters().timeouts), (1, 1));
    // What is heard ends it.
    rig.ack(SQ_PSN, ACK);
    rig.runs();
    rig.qp.handle_port_up();
    assert!(!rig.runs().is_empty());
    rig.ack(SQ_PSN + 3, ACK);
    rig.runs();
    rig.wait(limits::BACK_AGAIN);
    assert!(rig.runs().is_empty());
}

#[test]
fn a_port_that_is_up_again_is_no_reason_to_wait() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(20));
    rig.qp.handle_port_up();
    assert!(rig.runs().is_empty());
    rig.post(SendOp::Write, 256 * 8);
    rig.post(SendOp::Read, 256);
    let runs = rig.runs();
    rig.ack(SQ_PSN + 3, ACK);
    rig.qp.handle_port_up();
    assert_eq!(rig.runs(), runs[1..]);
    assert_eq!(rig.qp.counters().timeouts, 0);
    rig.qp.handle_port_up();
    rig.ack(SQ_PSN + 7, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
}

/// A READ that is answered by `packets`, and a SEND behind it, both sent on the lanes.
fn read_and_send(packets: u32) -> Rig {
    let mut rig = Rig::with(|_, all| all.timeout = Some(21));
    rig.post(SendOp::Read, 256 * (packets - 1) + 1);
    rig.post(SendOp::Send, 1);
    assert_eq!(rig.runs().len(), 2);
    rig
}

/// The responses `from` to `to` of a READ that `packets` answer.
fn respond(rig: &mut Rig, from: u32, to: u32, packets: u32) {
    for n in from..to {
        let (place, len) = match n {
            0 => (Place::First, 256),
            _ if n + 1 == packets => (Place::Last, 1),
            _ => (Place::Middle, 256),
        };
        let aeth = (place != Place::Middle).then_some(Aeth {
            syndrome: ACK,
            msn: Msn::new(1),
        });
        rig.handle(&packet(response(place), SQ_PSN + n, len, None, aeth));
        assert!(rig.qp.poll_early().is_none(), "the host of this script keeps nothing");
    }
}

#[test]
fn an_acknowledgement_that_overtakes_responses_counts_once_they_have_come() {
    let packets = limits::MAX_AHEAD + 2;
    let mut rig = read_and_send(packets);
    rig.ack(SQ_PSN + packets, ACK);
    respond(&mut rig, 0, packets, packets);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK), (Queue::Send, 1, OK)]);
    assert!(rig.runs().is_empty() && rig.qp.poll_timeout().is_none());
    assert_eq!(rig.qp.counters().retries, 0);
}

#[test]
fn the_last_response_that_came_too_early_to_be_kept_is_asked_for_again_when_its_turn_comes() {
    let packets = limits::MAX_AHEAD + 1;
    let mut rig = read_and_send(packets);
    respond(&mut rig, packets - 1, packets, packets);
    rig.ack(SQ_PSN + packets, ACK);
    respond(&mut rig, 0, packets - 1, packets);
    assert_eq!(rig.done(), []);
    assert_eq!(rig.qp.poll_timeout(), Some(rig.now));
    rig.wait(Duration(0));
    rig.wait(limits::LANE_WORD);
    let (again, opcode, _) = rig.run().unwrap();
    assert_eq!((again.psn.value(), opcode), (SQ_PSN + packets - 1, Opcode::ReadRequest));
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::Only), again.psn.value(), 1, None, aeth));
    assert_eq!(rig.done(), [(Queue::Send, 0, OK), (Queue::Send, 1, OK)]);
}

#[test]
fn the_last_request_that_came_early_and_was_not_kept_is_reported_when_its_turn_comes() {
    let mut rig = read_and_send(1);
    rig.recv(1000);
    rig.request(send(Place::Last), RQ_PSN + 2, 10);
    assert_eq!(rig.answers(), [(RQ_PSN, SEQUENCE)], "it has to come again");
    rig.request(send(Place::First), RQ_PSN, 256);
    rig.request(send(Place::Middle), RQ_PSN + 1, 256);
    assert_eq!(rig.qp.poll_timeout(), Some(rig.now));
    rig.wait(Duration(0));
    assert_eq!(rig.answers().last(), Some(&(Psn::new(RQ_PSN + 2).value(), SEQUENCE)));
}

#[test]
fn an_early_acknowledgement_completes_nothing_of_a_queue_pair_that_has_failed() {
    let mut rig = read_and_send(2);
    rig.ack(SQ_PSN + 2, ACK);
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::First), SQ_PSN, 8, None, aeth));
    let done = rig.done();
    assert_eq!(done[0], (Queue::Send, 0, WcStatus::BadResponse));
    assert_eq!(done[1], (Queue::Send, 1, WcStatus::Flushed));
}
