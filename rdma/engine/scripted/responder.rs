// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the responder carries out, and what it answers.

use super::*;

#[test]
fn acknowledgements_coalesce_into_the_newest() {
    let mut rig = Rig::new();
    for i in 0..3 {
        rig.request(write(Place::Only), RQ_PSN + i, 8);
    }
    assert_eq!(rig.answers(), [((RQ_PSN + 2) & 0xff_ffff, ACK)]);
    assert_eq!(rig.qp.query().rq_psn, Psn::new(1));
}

#[test]
fn short_answers_may_wait_but_not_for_a_whole_window() {
    let mut rig = Rig::new();
    assert!(!rig.qp.may_wait());
    for i in 0..limits::MAX_HELD_PACKETS - 1 {
        rig.request(write(Place::Only), (RQ_PSN + i) & 0xff_ffff, 8);
        assert!(rig.qp.may_wait());
    }
    let last = (RQ_PSN + limits::MAX_HELD_PACKETS - 1) & 0xff_ffff;
    rig.request(write(Place::Only), last, 8);
    assert!(!rig.qp.may_wait());
    assert_eq!(rig.answers(), [(last, ACK)]);
    rig.request(write(Place::Only), last + 1, 8);
    assert!(rig.qp.may_wait());
    rig.request(Opcode::ReadRequest, last + 2, 8);
    assert!(rig.qp.may_wait());
    rig.request(Opcode::ReadRequest, last + 3, limits::MAX_HELD_RESPONSES * 4096);
    assert!(!rig.qp.may_wait(), "a long READ is answered at once");
    rig.sent();
    rig.request(write(Place::Only), last + 1000, 8);
    assert!(!rig.qp.may_wait(), "a gap is reported at once");
}

#[test]
fn a_gap_is_reported_once_and_again_only_if_the_peer_went_back() {
    let mut rig = Rig::new();
    rig.request(write(Place::Only), RQ_PSN + 1, 8);
    assert_eq!(rig.answers(), [(RQ_PSN, SEQUENCE)]);
    rig.request(write(Place::Only), RQ_PSN + 2, 8);
    assert_eq!(rig.answers(), []);
    rig.request(write(Place::Only), RQ_PSN + 1, 8);
    assert_eq!(rig.answers(), [(RQ_PSN, SEQUENCE)]);
    assert!(rig.user.placed.is_empty());
}

#[test]
fn a_duplicate_is_acknowledged_and_not_carried_out() {
    let mut rig = Rig::new();
    rig.recv(100);
    rig.request(send(Place::Only), RQ_PSN, 100);
    assert_eq!(rig.done().len(), 1);
    rig.request(write(Place::Only), RQ_PSN + 1, 4);
    rig.answers();
    let placed = rig.user.placed.len();
    rig.request(send(Place::Only), RQ_PSN, 100);
    assert_eq!(rig.answers(), [(RQ_PSN + 1, ACK)]);
    assert_eq!(rig.user.placed.len(), placed);
    assert_eq!(rig.done(), []);
}

#[test]
fn a_missing_receive_is_a_receiver_not_ready_and_what_follows_is_ignored() {
    let mut rig = Rig::new();
    rig.request(send(Place::Only), RQ_PSN, 10);
    assert_eq!(rig.answers(), [(RQ_PSN, Syndrome::Rnr(12))]);
    rig.request(send(Place::Only), RQ_PSN + 1, 10);
    assert_eq!(rig.answers(), []);
    rig.recv(10);
    rig.request(send(Place::Only), RQ_PSN, 10);
    assert_eq!(rig.answers(), [(RQ_PSN, ACK)]);
    assert_eq!(rig.done(), [(Queue::Recv, 0, OK)]);
}

#[test]
fn immediate_data_of_a_write_consumes_a_receive_and_reports_the_length() {
    let mut rig = Rig::new();
    let last = Opcode::Write {
        place: Place::Last,
        imm: true,
    };
    rig.handle(&packet(
        write(Place::First),
        RQ_PSN,
        256,
        Some(Reth {
            va: 0,
            rkey: Key(9),
            length: 300,
        }),
        None,
    ));
    rig.handle(&packet(last, RQ_PSN + 1, 44, None, None));
    assert_eq!(rig.answers(), [(RQ_PSN + 1, Syndrome::Rnr(12))]);
    assert_eq!(rig.user.placed.len(), 1);
    rig.recv(0);
    rig.handle(&packet(last, RQ_PSN + 1, 44, None, None));
    let done = rig.qp.poll_completion(&mut rig.user).unwrap();
    assert_eq!(
        (done.opcode, done.byte_len, done.imm),
        (WcOpcode::RecvWithImm, 300, Some([1, 2, 3, 4]))
    );
    assert_eq!(rig.user.placed[1], (Target::Region { rkey: Key(9), va: 256 }, 44));
}

#[test]
fn a_receive_too_small_is_a_length_error_here_and_an_invalid_request_there() {
    let mut rig = Rig::new();
    rig.recv(9);
    rig.request(send(Place::Only), RQ_PSN, 10);
    assert_eq!(rig.answers(), [(RQ_PSN, Syndrome::Nak(NakCode::InvalidRequest))]);
    assert_eq!(rig.done(), [(Queue::Recv, 0, WcStatus::LocalLength)]);
    assert_eq!((rig.qp.state(), rig.qp.poll_event()), (State::Err, None));
}

#[test]
fn a_refused_access_is_an_event_here_and_the_last_word_is_repeated() {
    let mut rig = Rig::new();
    rig.user.refuse = Some(Fault::RemoteAccess);
    rig.request(write(Place::Only), RQ_PSN, 10);
    let word = (RQ_PSN, Syndrome::Nak(NakCode::RemoteAccess));
    assert_eq!(rig.answers(), [word]);
    assert_eq!(
        (rig.qp.state(), rig.qp.poll_event()),
        (State::Err, Some(Event::AccessError))
    );
    rig.request(write(Place::Only), RQ_PSN, 10);
    assert_eq!(rig.answers(), [word]);
    rig.qp
        .modify(
            rig.now,
            &Modify {
                state: Some(State::Reset),
                ..Modify::default()
            },
        )
        .unwrap();
    rig.request(write(Place::Only), RQ_PSN, 10);
    assert_eq!(rig.answers(), []);
}

#[test]
fn requests_that_make_no_sense_are_invalid() {
    let bad: [(&str, Opcode, u32); 7] = [
        ("a number nobody has", Opcode::Unsupported(0x15), 0),
        ("flush of nothing", Opcode::Flush, 0),
        ("middle without first", send(Place::Middle), 256),
        ("last without first", write(Place::Last), 1),
        ("first shorter than the MTU", send(Place::First), 255),
        ("only longer than the MTU", write(Place::Only), 257),
        ("longer than a message may be", Opcode::ReadRequest, (1 << 31) + 1),
    ];
    for (name, opcode, len) in bad {
        let mut rig = Rig::new();
        rig.request(opcode, RQ_PSN, len);
        assert_eq!(
            rig.answers(),
            [(RQ_PSN, Syndrome::Nak(NakCode::InvalidRequest))],
            "{name}"
        );
        assert_eq!(
            (rig.qp.state(), rig.qp.poll_event()),
            (State::Err, Some(Event::RequestError)),
            "{name}"
        );
    }
}

#[test]
fn a_message_interrupted_by_another_fails_its_receive() {
    let mut rig = Rig::new();
    rig.recv(1000);
    rig.request(send(Place::First), RQ_PSN, 256);
    rig.request(write(Place::Only), RQ_PSN + 1, 1);
    assert_eq!(rig.done(), [(Queue::Recv, 0, WcStatus::RemoteInvalidRequest)]);
    assert_eq!(rig.qp.poll_event(), None);
}

#[test]
fn a_read_is_answered_in_packets_and_again_in_part() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 600);
    let (first, head) = rig.poll().unwrap();
    assert_eq!((head.opcode, head.bth.psn.value()), (response(Place::First), RQ_PSN));
    assert_eq!(
        first.payload,
        Source::Region {
            rkey: Key(9),
            va: 0x2000,
            len: 256
        }
    );
    assert_eq!(rig.sent()[1], (response(Place::Last), 0, false));
    let part = Reth {
        va: 0x2000 + 256,
        rkey: Key(9),
        length: 344,
    };
    rig.handle(&packet(Opcode::ReadRequest, RQ_PSN + 1, 0, Some(part), None));
    let (again, head) = rig.poll().unwrap();
    assert_eq!(
        (head.opcode, head.bth.psn.value()),
        (response(Place::First), RQ_PSN + 1)
    );
    assert_eq!(
        again.payload,
        Source::Region {
            rkey: Key(9),
            va: 0x2100,
            len: 256
        }
    );
    assert_eq!(rig.sent().len(), 1);
    // More than was asked for the first time is not given.
    let more = Reth { length: 345, ..part };
    rig.handle(&packet(Opcode::ReadRequest, RQ_PSN + 1, 0, Some(more), None));
    assert!(rig.sent().is_empty());
}

#[test]
fn an_acknowledgement_waits_for_the_read_before_it() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 300);
    rig.request(write(Place::Only), RQ_PSN + 2, 1);
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|p| p.1).collect::<Vec<_>>(), [RQ_PSN, RQ_PSN + 1, 0]);
    assert_eq!(sent[2].0, Opcode::Acknowledge);
}

#[test]
fn a_peer_with_too_many_reads_is_refused() {
    let mut rig = Rig::new();
    for i in 0..3 {
        rig.request(Opcode::ReadRequest, RQ_PSN + i, 1);
    }
    assert_eq!(rig.qp.state(), State::Err);
    let answers = rig.answers();
    assert_eq!(answers[2], (0, Syndrome::Nak(NakCode::InvalidRequest)));
    assert_eq!(answers.len(), 3);
}

#[test]
fn a_read_whose_region_vanishes_is_refused() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 300);
    rig.poll();
    let (second, _) = rig.poll().unwrap();
    rig.qp
        .handle_gather_fault(rig.now, &second, Fault::RemoteAccess, &mut rig.user);
    assert_eq!(rig.answers(), [(RQ_PSN + 1, Syndrome::Nak(NakCode::RemoteAccess))]);
    assert_eq!(rig.qp.poll_event(), Some(Event::AccessError));
}

#[test]
fn a_shared_receive_queue_is_not_flushed() {
    let mut rig = Rig::with(|config, _| config.srq = true);
    rig.recv(1000);
    rig.recv(1000);
    rig.request(send(Place::First), RQ_PSN, 256);
    rig.qp
        .modify(
            rig.now,
            &Modify {
                state: Some(State::Err),
                ..Modify::default()
            },
        )
        .unwrap();
    assert_eq!(rig.done(), [(Queue::Recv, 0, WcStatus::Flushed)]);
    assert_eq!(rig.user.recvs.len(), 1);
    assert_eq!(rig.qp.poll_event(), Some(Event::LastWqeReached));
}

#[test]
fn a_destroyed_queue_pair_acknowledges_what_it_had_carried_out_and_nothing_else() {
    let mut rig = Rig::new();
    assert!(rig.qp.tombstone().is_none());
    rig.recv(10);
    rig.request(send(Place::Only), RQ_PSN, 10);
    rig.done();
    rig.request(write(Place::Only), RQ_PSN + 1, 4);
    rig.qp
        .modify(
            rig.now,
            &Modify {
                state: Some(State::Err),
                ..Modify::default()
            },
        )
        .unwrap();
    let tombstone = rig.qp.tombstone().unwrap();
    assert_eq!(tombstone.dest(), Qpn::new(0x22));
    let answer = |opcode: Opcode, psn| {
        let reth = opcode.has_reth().then_some(Reth {
            va: 0,
            rkey: Key(9),
            length: 4,
        });
        let transmit = tombstone.answer(&packet(opcode, psn, 0, reth, None))?;
        let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).unwrap();
        Some((packet.bth.dest, packet.bth.psn, packet.aeth.unwrap()))
    };
    let aeth = Aeth {
        syndrome: ACK,
        msn: Msn::new(2),
    };
    let acked = Some((Qpn::new(0x22), Psn::new(RQ_PSN + 1), aeth));
    assert_eq!(answer(send(Place::Only), RQ_PSN), acked);
    assert_eq!(answer(write(Place::Only), RQ_PSN + 1), acked);
    assert_eq!(answer(send(Place::Only), RQ_PSN + 2), None);
    assert_eq!(answer(Opcode::ReadRequest, RQ_PSN), None);
}

#[test]
fn a_destroyed_queue_pair_repeats_its_last_word() {
    let mut rig = Rig::new();
    rig.user.refuse = Some(Fault::RemoteAccess);
    rig.request(write(Place::Only), RQ_PSN, 10);
    let tombstone = rig.qp.tombstone().unwrap();
    let again = tombstone
        .answer(&packet(send(Place::Only), RQ_PSN, 1, None, None))
        .unwrap();
    let packet = Packet::parse(again.header.as_bytes(), again.transport_len()).unwrap();
    assert_eq!(packet.aeth.unwrap().syndrome, Syndrome::Nak(NakCode::RemoteAccess));
}

#[test]
fn a_response_that_cannot_be_built_is_kept_and_the_rest_is_not_burnt_through() {
    let mut rig = Rig::new();
    for n in 0..2 {
        rig.request(Opcode::ReadRequest, (RQ_PSN + (n << 22)) & 0xff_ffff, 1 << 30);
    }
    let (first, head) = rig.poll().unwrap();
    assert_eq!((head.opcode, head.bth.psn.value()), (response(Place::First), RQ_PSN));
    rig.qp.handle_unbuilt(rig.now, &first);
    assert!(rig.poll().is_none(), "nothing is polled until it can be built");
    let due = rig.qp.poll_timeout().unwrap();
    assert_eq!(due, rig.now.after(limits::UNSENT_WAIT));
    rig.wait(limits::UNSENT_WAIT);
    let (again, head) = rig.poll().unwrap();
    assert_eq!((head.opcode, again.payload), (response(Place::First), first.payload));
    let (second, head) = rig.poll().unwrap();
    assert_eq!(head.opcode, response(Place::Middle));
    rig.qp.handle_unbuilt(rig.now, &second);
    // While nothing can be built, each wait costs one packet, and there are only so many.
    let mut polled = 0;
    while let Some(due) = rig.qp.poll_timeout() {
        rig.wait(due.since(rig.now));
        let (transmit, _) = rig.poll().unwrap();
        assert_eq!(transmit.payload, second.payload);
        rig.qp.handle_unbuilt(rig.now, &transmit);
        polled += 1;
        assert!(rig.poll().is_none());
    }
    assert_eq!(polled, u32::from(limits::MAX_UNBUILT) - 1);
    // The peer asks again.
    rig.request(Opcode::ReadRequest, RQ_PSN, 1 << 30);
    assert_eq!(rig.poll().unwrap().0.payload, first.payload);
}

#[test]
fn an_acknowledgement_or_an_atomics_answer_that_cannot_be_built_is_kept() {
    let mut rig = Rig::new();
    rig.request(Opcode::FetchAdd, RQ_PSN, 0);
    let (answer, _) = rig.poll().unwrap();
    rig.qp.handle_unbuilt(rig.now, &answer);
    rig.request(write(Place::Only), RQ_PSN + 1, 8);
    assert!(rig.poll().is_none());
    rig.wait(limits::UNSENT_WAIT);
    let (_, again) = rig.poll().unwrap();
    assert_eq!((again.bth.psn.value(), again.original), (RQ_PSN, Some(70)));
    let (ack, head) = rig.poll().unwrap();
    assert_eq!((head.opcode, head.bth.psn.value()), (Opcode::Acknowledge, RQ_PSN + 1));
    rig.qp.handle_unbuilt(rig.now, &ack);
    assert!(rig.poll().is_none());
    rig.wait(limits::UNSENT_WAIT);
    assert_eq!(rig.answers(), [(RQ_PSN + 1, ACK)]);
    assert_eq!(rig.qp.poll_timeout(), None);
}

#[test]
fn a_response_whose_page_is_absent_is_polled_again() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 300);
    let (first, _) = rig.poll().unwrap();
    rig.qp
        .handle_gather_fault(rig.now, &first, Fault::Absent, &mut rig.user);
    assert_eq!(rig.poll().unwrap().0.payload, first.payload);
    assert_eq!(rig.sent().len(), 1);
}
