// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the requester sends, and what it makes of the answers.

use super::*;

#[test]
fn a_message_is_cut_at_the_mtu_and_its_end_asks_for_an_acknowledgement() {
    let mut rig = Rig::new();
    rig.post(SendOp::WriteImm, 256 * 2 + 1).imm = [9, 8, 7, 6];
    let (first, packet) = rig.poll().unwrap();
    assert_eq!(packet.opcode, write(Place::First));
    assert_eq!(
        packet.reth,
        Some(Reth {
            va: 0x1000,
            rkey: Key(5),
            length: 513
        })
    );
    assert_eq!(
        first.payload,
        Source::Send {
            slot: 0,
            offset: 0,
            len: 256
        }
    );
    let (_, packet) = rig.poll().unwrap();
    assert_eq!((packet.opcode, packet.bth.ack_request), (write(Place::Middle), false));
    let (last, packet) = rig.poll().unwrap();
    assert_eq!(
        packet.opcode,
        Opcode::Write {
            place: Place::Last,
            imm: true
        }
    );
    assert_eq!(packet.imm, Some([9, 8, 7, 6]));
    assert!(packet.bth.ack_request && last.pad == 3);
    assert_eq!(
        last.payload,
        Source::Send {
            slot: 0,
            offset: 512,
            len: 1
        }
    );
    assert!(rig.poll().is_none());
}

#[test]
fn long_messages_ask_for_an_acknowledgement_every_half_window() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 256 * 300);
    let asked: Vec<u32> = rig.sent().into_iter().filter(|p| p.2).map(|p| p.1 - SQ_PSN).collect();
    assert_eq!(asked, [63, 127]);
    rig.ack(SQ_PSN + 63, ACK);
    assert_eq!(rig.sent().len(), 64);
}

#[test]
fn one_acknowledgement_completes_all_before_it_and_a_second_completes_nothing() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.post(SendOp::Send, 10);
    }
    assert_eq!(rig.sent().len(), 3);
    rig.ack(SQ_PSN + 1, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK), (Queue::Send, 1, OK)]);
    rig.ack(SQ_PSN + 1, ACK);
    rig.ack(SQ_PSN + 3, ACK);
    rig.ack(SQ_PSN - 1, ACK);
    assert_eq!(rig.done(), []);
    assert_eq!(rig.qp.counters().dropped, 3);
}

#[test]
fn a_sequence_nak_sends_again_from_the_gap_and_its_echo_does_not() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.post(SendOp::Write, 1);
    }
    rig.sent();
    rig.ack(SQ_PSN + 1, SEQUENCE);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    rig.ack(SQ_PSN + 1, SEQUENCE);
    let psns: Vec<u32> = rig.sent().into_iter().map(|p| p.1 - SQ_PSN).collect();
    assert_eq!(psns, [1, 2, 3]);
    // The packet was lost once more, as the one behind it has shown.
    rig.ack(SQ_PSN + 1, SEQUENCE);
    assert_eq!(rig.sent().len(), 3);
    assert_eq!(rig.qp.counters().received_seq_naks, 2);
}

#[test]
fn a_silent_peer_exhausts_a_finite_retry_budget() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 1);
    rig.post(SendOp::Send, 1);
    for (times, packets) in [(1, 2), (2, 1), (4, 1), (4, 1), (4, 1), (4, 1), (4, 1)] {
        let span = Duration(times * TIMEOUT.0);
        assert_eq!(rig.sent().len(), packets);
        assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(span)));
        rig.wait(span);
        assert_eq!(rig.qp.state(), State::Rts);
    }
    rig.sent();
    rig.wait(Duration(4 * TIMEOUT.0 - 1));
    assert_eq!(rig.qp.state(), State::Rts);
    rig.recv(5);
    rig.wait(Duration(1));
    assert_eq!(rig.qp.state(), State::Err);
    assert_eq!(rig.qp.poll_timeout(), None);
    let (gone, flushed) = (WcStatus::RetryExceeded, WcStatus::Flushed);
    assert_eq!(
        rig.done(),
        [
            (Queue::Send, 0, gone),
            (Queue::Send, 1, flushed),
            (Queue::Recv, 2, flushed)
        ]
    );
}

#[test]
fn a_receiver_not_ready_is_given_its_time_and_a_finite_number_of_times() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 1);
    rig.post(SendOp::Send, 1);
    for times in [1, 2] {
        assert_eq!(rig.sent().len(), 2);
        rig.ack(SQ_PSN, Syndrome::Rnr(12));
        assert!(rig.sent().is_empty());
        rig.wait(Duration(times * limits::rnr_delay(12).0 - 1));
        assert!(rig.sent().is_empty());
        rig.wait(Duration(1));
    }
    rig.sent();
    rig.ack(SQ_PSN, Syndrome::Rnr(12));
    assert_eq!(rig.done()[0], (Queue::Send, 0, WcStatus::RnrRetryExceeded));
}

#[test]
fn rnr_retry_seven_is_for_ever() {
    let mut rig = Rig::with(|_, all| all.rnr_retry = Some(7));
    rig.post(SendOp::Send, 1);
    for _ in 0..100 {
        assert_eq!(rig.sent().len(), 1);
        rig.ack(SQ_PSN, Syndrome::Rnr(1));
        rig.wait(limits::LONGEST_WAIT);
    }
    rig.sent();
    rig.ack(SQ_PSN, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
}

/// Refuses what is sent for a second with an RNR timer of 10 us; how often.
fn refuse_for_a_second(rig: &mut Rig) -> usize {
    let end = rig.now.after(Duration::from_millis(1000));
    let mut times = 0;
    while rig.now < end {
        times += rig.sent().len();
        rig.ack(SQ_PSN, Syndrome::Rnr(1));
        let due = rig.qp.poll_timeout().unwrap();
        assert!(due > rig.now);
        rig.wait(due.since(rig.now));
    }
    times
}

#[test]
fn a_receiver_that_stays_not_ready_is_asked_ever_less_often() {
    let mut rig = Rig::with(|_, all| all.rnr_retry = Some(7));
    rig.post(SendOp::Send, 1);
    let times = refuse_for_a_second(&mut rig);
    assert!((500..520).contains(&times), "{times}");
    assert!(rig.qp.is_stuck());
    // Nor in a host full of them.
    rig.qp.handle_company(1000);
    rig.wait(limits::LONGEST_WAIT);
    let times = refuse_for_a_second(&mut rig);
    assert!((2..16).contains(&times), "{times}");
    // With progress the time is the given one again.
    rig.sent();
    rig.ack(SQ_PSN, ACK);
    assert!(!rig.qp.is_stuck());
    rig.post(SendOp::Send, 1);
    rig.sent();
    rig.ack(SQ_PSN + 1, Syndrome::Rnr(1));
    assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(Duration::from_micros(10))));
}

#[test]
fn a_queue_that_stays_full_is_tried_ever_less_often() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(0));
    rig.post(SendOp::Send, 1);
    let start = rig.now;
    for _ in 0..100 {
        assert_eq!(rig.sent().len(), 1);
        rig.qp.handle_unsent(rig.now, Psn::new(SQ_PSN));
        let due = rig.qp.poll_timeout().unwrap();
        rig.wait(due.since(rig.now));
    }
    assert!(rig.now.since(start) > Duration::from_millis(190));
    assert_eq!(rig.qp.state(), State::Rts, "no retry is spent");
}

#[test]
fn each_receiver_not_ready_halves_what_is_sent_behind_it() {
    let mut rig = Rig::with(|_, all| all.rnr_retry = Some(7));
    for _ in 0..16 {
        rig.post(SendOp::Send, 1);
    }
    // Of a window of 128.
    for expected in [16, 16, 16, 16, 8, 4, 2, 1, 1] {
        assert_eq!(rig.sent().len(), expected);
        rig.ack(SQ_PSN, Syndrome::Rnr(12));
        rig.wait(limits::LONGEST_WAIT);
    }
    for expected in [1, 1, 2, 4] {
        let sent = rig.sent();
        assert_eq!(sent.len(), expected);
        rig.ack(sent[expected - 1].1, ACK);
    }
}

#[test]
fn each_error_nak_has_its_status() {
    let table = [
        (NakCode::InvalidRequest, WcStatus::RemoteInvalidRequest),
        (NakCode::RemoteAccess, WcStatus::RemoteAccess),
        (NakCode::RemoteOperation, WcStatus::RemoteOperation),
    ];
    for (code, status) in table {
        let mut rig = Rig::new();
        for _ in 0..3 {
            rig.post(SendOp::Write, 1);
        }
        rig.sent();
        rig.ack(SQ_PSN + 1, Syndrome::Nak(code));
        let expected = [
            (Queue::Send, 0, OK),
            (Queue::Send, 1, status),
            (Queue::Send, 2, WcStatus::Flushed),
        ];
        assert_eq!(rig.done(), expected);
    }
}

#[test]
fn lost_read_data_is_asked_for_again_from_where_it_is_missing() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 256 * 4 + 10);
    assert_eq!(rig.sent(), [(Opcode::ReadRequest, SQ_PSN, true)]);
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::First), SQ_PSN, 256, None, aeth));
    rig.handle(&packet(response(Place::Middle), SQ_PSN + 2, 256, None, None));
    rig.handle(&packet(response(Place::Middle), SQ_PSN + 3, 256, None, None));
    let (_, again) = rig.poll().unwrap();
    assert_eq!(again.bth.psn, Psn::new(SQ_PSN + 1));
    assert_eq!(
        again.reth,
        Some(Reth {
            va: 0x1000 + 256,
            rkey: Key(5),
            length: 256 * 3 + 10
        })
    );
    assert!(rig.poll().is_none());
    rig.handle(&packet(response(Place::First), SQ_PSN + 1, 256, None, aeth));
    rig.handle(&packet(response(Place::Middle), SQ_PSN + 2, 256, None, None));
    rig.handle(&packet(response(Place::Middle), SQ_PSN + 3, 256, None, None));
    assert_eq!(rig.done(), []);
    rig.handle(&packet(response(Place::Last), SQ_PSN + 4, 10, None, aeth));
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    let offsets: Vec<Target> = rig.user.placed.iter().map(|p| p.0).collect();
    let at = |offset| Target::ReadResult { slot: 0, offset };
    assert_eq!(offsets, [at(0), at(256), at(512), at(768), at(1024)]);
}

#[test]
fn an_acknowledgement_that_skips_a_read_asks_for_the_read_again() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 1);
    rig.post(SendOp::Send, 1);
    rig.sent();
    rig.ack(SQ_PSN + 1, ACK);
    assert_eq!(rig.done(), []);
    let again = rig.sent();
    assert_eq!(again[0], (Opcode::ReadRequest, SQ_PSN, true));
    assert_eq!(again.len(), 2);
}

#[test]
fn a_read_response_of_the_wrong_length_is_a_bad_response() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 100);
    rig.sent();
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::Only), SQ_PSN, 99, None, aeth));
    assert_eq!(rig.done(), [(Queue::Send, 0, WcStatus::BadResponse)]);
}

#[test]
fn reads_are_limited_and_a_fence_waits_for_them() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.post(SendOp::Read, 0);
    }
    rig.post(SendOp::Send, 0).fence = true;
    assert_eq!(rig.sent().len(), 2);
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::Only), SQ_PSN, 0, None, aeth));
    assert_eq!(rig.sent(), [(Opcode::ReadRequest, SQ_PSN + 2, true)]);
    rig.handle(&packet(response(Place::Only), SQ_PSN + 1, 0, None, aeth));
    assert!(rig.sent().is_empty());
    rig.handle(&packet(response(Place::Only), SQ_PSN + 2, 0, None, aeth));
    assert_eq!(rig.sent(), [(send(Place::Only), SQ_PSN + 3, true)]);
    assert_eq!(rig.done().len(), 3);
}

#[test]
fn outstanding_psns_never_exceed_half_the_sequence_space() {
    let mut rig = Rig::with(|config, _| config.read_window_packets = u32::MAX);
    rig.post(SendOp::Read, 1 << 31);
    rig.post(SendOp::Send, 1);
    assert_eq!(rig.sent(), [(Opcode::ReadRequest, SQ_PSN, true)]);
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    rig.handle(&packet(response(Place::First), SQ_PSN, 256, None, aeth));
    assert_eq!(
        rig.sent(),
        [(send(Place::Only), (SQ_PSN + (1 << 23)) & 0xff_ffff, true)]
    );
    rig.post(SendOp::Send, 1);
    assert!(rig.sent().is_empty());
}

#[test]
fn a_local_fault_fails_in_its_turn() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 1);
    rig.post(SendOp::Send, 1).fault = Some(Fault::LocalProtection);
    rig.post(SendOp::Send, 1);
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.done(), []);
    rig.ack(SQ_PSN, ACK);
    let expected = [OK, WcStatus::LocalProtection, WcStatus::Flushed];
    let statuses: Vec<WcStatus> = rig.done().into_iter().map(|d| d.2).collect();
    assert_eq!(statuses, expected);
}

#[test]
fn a_payload_that_cannot_be_read_fails_in_its_turn() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 1);
    rig.post(SendOp::Send, 600);
    rig.poll();
    rig.poll();
    let (second, _) = rig.poll().unwrap();
    rig.qp
        .handle_gather_fault(rig.now, &second, Fault::LocalProtection, &mut rig.user);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.done(), []);
    rig.ack(SQ_PSN, ACK);
    assert_eq!(
        rig.done(),
        [(Queue::Send, 0, OK), (Queue::Send, 1, WcStatus::LocalProtection)]
    );
    assert_eq!(rig.qp.state(), State::Err);
}

#[test]
fn draining_finishes_what_has_started_and_says_so_once() {
    let mut rig = Rig::new();
    rig.post(SendOp::Send, 600);
    rig.poll();
    let to = |state| Modify {
        state: Some(state),
        ..Modify::default()
    };
    let notify = Modify {
        sqd_event: true,
        ..to(State::Sqd)
    };
    rig.qp.modify(rig.now, &notify).unwrap();
    rig.post(SendOp::Send, 1);
    assert_eq!(rig.sent().len(), 2);
    assert_eq!(rig.qp.poll_event(), None);
    rig.ack(SQ_PSN + 2, ACK);
    assert_eq!(rig.done().len(), 1);
    assert_eq!(rig.qp.poll_event(), Some(Event::SqDrained));
    assert_eq!(rig.qp.poll_event(), None);
    assert!(rig.sent().is_empty());
    rig.qp.modify(rig.now, &to(State::Rts)).unwrap();
    assert_eq!(rig.sent(), [(send(Place::Only), SQ_PSN + 3, true)]);
    rig.ack(SQ_PSN + 3, ACK);
    rig.qp.modify(rig.now, &to(State::Sqd)).unwrap();
    assert_eq!(rig.qp.poll_event(), None, "nobody asked");
    assert!(!rig.qp.query().sq_draining);
}

#[test]
fn only_the_end_of_a_message_that_consumes_a_receive_is_solicited() {
    for (op, expected) in [(SendOp::Send, true), (SendOp::WriteImm, true), (SendOp::Write, false)] {
        let mut rig = Rig::new();
        rig.post(op, 300).solicited = true;
        let solicited: Vec<bool> = std::iter::from_fn(|| rig.poll().map(|(_, p)| p.bth.solicited)).collect();
        assert_eq!(solicited, [false, expected], "{op:?}");
    }
}

/// One more send of a program that looks at nothing; what leaves at once.
fn stream(rig: &mut Rig) -> usize {
    rig.post(SendOp::Send, 1);
    let waiting = rig.user.sends.len() as u32;
    rig.qp.handle_post(
        rig.now,
        Posted {
            length: 1,
            waiting,
            read: [0; 2],
        },
    );
    rig.sent().len()
}

#[test]
fn a_stream_is_held_until_everything_before_is_acknowledged() {
    let mut rig = Rig::new();
    assert_eq!([(); 7].map(|()| stream(&mut rig)), [1, 1, 1, 1, 0, 0, 0]);
    rig.ack(SQ_PSN + 2, ACK);
    assert_eq!(rig.sent().len(), 0);
    rig.ack(SQ_PSN + 3, ACK);
    assert_eq!(rig.sent().len(), 3);
}

#[test]
fn what_is_held_goes_when_its_time_is_up() {
    let mut rig = Rig::with(|_, all| all.timeout = Some(0));
    for _ in 0..5 {
        stream(&mut rig);
    }
    let until = rig.qp.poll_timeout().unwrap();
    assert!(until.since(rig.now) <= crate::cork::LONGEST);
    // A doorbell is no reason.
    rig.qp.handle_doorbell(rig.now, &mut rig.user);
    assert_eq!(rig.sent().len(), 0);
    rig.wait(Duration(until.since(rig.now).0 - 1));
    assert_eq!(rig.sent().len(), 0);
    rig.wait(Duration(1));
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.qp.poll_timeout(), None);
    assert_eq!(rig.qp.counters().cork_deadlines, 1);
}

#[test]
fn what_is_held_is_flushed_in_err_and_forgotten_in_reset() {
    for state in [State::Err, State::Reset] {
        let mut rig = Rig::new();
        for _ in 0..5 {
            stream(&mut rig);
        }
        let modify = Modify {
            state: Some(state),
            ..Modify::default()
        };
        rig.qp.modify(rig.now, &modify).unwrap();
        assert_eq!(rig.qp.poll_timeout(), None);
        assert_eq!(rig.done().len(), if state == State::Err { 5 } else { 0 });
    }
}

#[test]
fn requests_that_cannot_be_built_are_kept_and_fail_by_their_timer() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 1 << 31);
    let mut polled = 0;
    while rig.qp.state() == State::Rts {
        while let Some((transmit, packet)) = rig.poll() {
            assert_eq!(packet.bth.psn.value(), SQ_PSN);
            rig.qp.handle_unbuilt(rig.now, &transmit);
            polled += 1;
        }
        let due = rig.qp.poll_timeout().unwrap();
        rig.wait(due.since(rig.now));
        rig.done();
    }
    assert!(polled < 32, "{polled}");
}

#[test]
fn an_unreliable_message_that_cannot_be_built_costs_one_packet() {
    let mut rig = Rig::with(|config, _| config.kind = crate::qp::QpKind::Uc);
    for _ in 0..3 {
        rig.post(SendOp::Write, 1 << 31);
    }
    rig.post(SendOp::Write, 1);
    let mut polled = 0;
    while let Some((transmit, _)) = rig.poll() {
        rig.qp.handle_unbuilt(rig.now, &transmit);
        polled += 1;
    }
    assert_eq!(polled, 4);
    assert_eq!(rig.done().len(), 4);
}
