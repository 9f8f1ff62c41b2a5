// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Runs: several packets of one message as one.

use super::*;

const TEN: Room = Room {
    packets: 10,
    bytes: 1 << 16,
    lanes: 0,
};

/// The next run of at most ten packets.
fn run(rig: &mut Rig) -> Option<(Transmit, Packet)> {
    let transmit = rig.qp.poll_transmit(rig.now, TEN, &mut rig.user)?;
    let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).unwrap();
    let packets = transmit.packets;
    Some((transmit, packet.run(packets)))
}

#[test]
fn a_message_is_cut_into_runs_that_end_with_it() {
    let mut rig = Rig::new();
    rig.post(SendOp::WriteImm, 256 * 13 + 1);
    rig.post(SendOp::Send, 5);
    let (first, packet) = run(&mut rig).unwrap();
    assert_eq!(
        (packet.opcode, packet.packets, packet.payload.len),
        (write(Place::First), 10, 2560)
    );
    assert!(first.pad == 0 && !packet.bth.ack_request);
    let (last, packet) = run(&mut rig).unwrap();
    assert_eq!(
        (packet.bth.psn.value(), packet.packets, packet.payload.len),
        (SQ_PSN + 10, 4, 769)
    );
    assert!(packet.imm.is_some() && last.pad == 3 && packet.bth.ack_request);
    let (_, packet) = run(&mut rig).unwrap();
    assert_eq!((packet.bth.psn.value(), packet.packets), (SQ_PSN + 14, 1));
    rig.ack(SQ_PSN + 14, ACK);
    assert_eq!(rig.done().len(), 2);
}

#[test]
fn room_is_counted_in_bytes_too_and_is_never_less_than_a_packet() {
    let mut rig = Rig::new();
    rig.post(SendOp::Write, 256 * 8);
    let room = |packets, bytes| Room { packets, bytes, ..TEN };
    for (room, packets) in [(room(8, 1000), 3), (room(0, 0), 1), (room(u32::MAX, u32::MAX), 4)] {
        let transmit = rig.qp.poll_transmit(rig.now, room, &mut rig.user).unwrap();
        assert_eq!(transmit.packets, packets);
    }
}

#[test]
fn a_run_is_carried_out_and_acknowledged_as_one() {
    let mut rig = Rig::new();
    let first = packet(write(Place::First), RQ_PSN, 2560, Some(reth(3000)), None);
    rig.handle(&first.run(10));
    rig.handle(&packet(write(Place::Last), rq(10), 440, None, None).run(2));
    assert_eq!(rig.answers(), [(rq(11), ACK)]);
    // A run whose length is not that of its packets.
    rig.handle(&packet(send(Place::Only), rq(12), 300, None, None));
    assert_eq!(rig.answers(), [(rq(12), Syndrome::Nak(NakCode::InvalidRequest))]);
}

#[test]
fn what_a_run_brings_again_is_left_out() {
    let mut rig = Rig::new();
    let start = |len, packets| packet(write(Place::First), RQ_PSN, len, Some(reth(3000)), None).run(packets);
    rig.handle(&start(1024, 4));
    rig.user.placed.clear();
    rig.handle(&start(2560, 10));
    let rest = Target::Region {
        rkey: Key(9),
        va: 0x2000 + 1024,
    };
    assert_eq!(rig.user.placed, [(rest, 1536)]);
    // All of it came before.
    rig.handle(&start(2560, 10));
    assert_eq!(rig.user.placed.len(), 1);
    assert_eq!(rig.answers(), [(rq(9), ACK)]);
}

#[test]
fn responses_go_in_runs_and_one_that_cannot_be_built_is_kept_whole() {
    let mut rig = Rig::new();
    rig.request(Opcode::ReadRequest, RQ_PSN, 256 * 13);
    let (first, head) = run(&mut rig).unwrap();
    assert_eq!((head.opcode, head.packets), (response(Place::First), 10));
    rig.qp
        .handle_gather_fault(rig.now, &first, Fault::Absent, &mut rig.user);
    let (again, head) = run(&mut rig).unwrap();
    assert_eq!((again.payload, head.opcode), (first.payload, response(Place::First)));
    let (_, head) = run(&mut rig).unwrap();
    assert_eq!(
        (head.opcode, head.bth.psn.value(), head.packets),
        (response(Place::Last), rq(10), 3)
    );
}

#[test]
fn a_run_of_responses_is_taken_from_where_the_last_one_ended() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 256 * 8);
    rig.poll().unwrap();
    let aeth = Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    };
    rig.handle(&packet(response(Place::First), SQ_PSN, 512, None, Some(aeth)).run(2));
    rig.user.placed.clear();
    rig.handle(&packet(response(Place::Only), SQ_PSN, 2048, None, Some(aeth)).run(8));
    let rest = Target::ReadResult { slot: 0, offset: 512 };
    assert_eq!(rig.user.placed, [(rest, 1536)]);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
}

#[test]
fn a_run_that_says_more_than_was_asked_for_is_a_bad_response() {
    let mut rig = Rig::new();
    rig.post(SendOp::Read, 256);
    rig.post(SendOp::Read, 256);
    rig.poll().unwrap();
    rig.poll().unwrap();
    let aeth = Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    };
    rig.handle(&packet(response(Place::Only), SQ_PSN, 256, None, Some(aeth)).run(2));
    assert_eq!(rig.done().first(), Some(&(Queue::Send, 0, WcStatus::BadResponse)));
}

#[test]
fn only_what_has_payload_goes_in_runs() {
    let mut rig = Rig::new();
    for packets in [0, 2, u32::MAX] {
        rig.handle(&packet(Opcode::ReadRequest, RQ_PSN, 0, Some(reth(100)), None).run(packets));
        rig.handle(&packet(send(Place::Only), RQ_PSN, 100, None, None).run(packets.wrapping_mul(300)));
    }
    assert!(rig.sent().is_empty() && rig.qp.state() == State::Rts);
}

/// The PSN of the n-th packet that comes.
const fn rq(n: u32) -> u32 {
    (RQ_PSN + n) & 0xff_ffff
}

fn reth(length: u32) -> Reth {
    Reth {
        va: 0x2000,
        rkey: Key(9),
        length,
    }
}
