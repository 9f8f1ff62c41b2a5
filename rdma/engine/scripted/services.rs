// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Atomics, local operations, and the unreliable services.

use super::*;
use crate::attrs::QpKind;
use crate::wire::Deth;
use crate::wqe::{AtomicOp, Datagram, Route};

const ADD: SendOp = SendOp::Atomic(AtomicOp::FetchAdd { add: 3 });

fn of_kind(kind: QpKind) -> Rig {
    Rig::with(|config, all| {
        config.kind = kind;
        all.qkey = Some(0x1111);
    })
}

fn datagram(qkey: u32, len: u32) -> Packet {
    let bth = Bth {
        opcode: 0x64,
        solicited: false,
        migrated: false,
        run: false,
        pad: (len.wrapping_neg() & 3) as u8,
        pkey: 0xffff,
        dest: Qpn::new(0x11),
        ack_request: false,
        psn: Psn::new(5),
    };
    let mut header = HeaderBuf::new();
    header.push(&bth.bytes());
    let src = Qpn::new(0x33);
    header.push(&Deth { qkey, src }.bytes());
    let bytes = header.as_bytes();
    Packet::parse(bytes, bytes.len() + len as usize + usize::from(bth.pad)).unwrap()
}

fn unreliable(opcode: Opcode, psn: u32, len: u32) -> Packet {
    let mut packet = packet(opcode, psn, len, None, None);
    packet.class = crate::opcode::Class::Uc;
    packet
}

#[test]
fn an_atomic_is_carried_out_once_and_answered_as_often_as_asked() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.handle(&packet(Opcode::FetchAdd, RQ_PSN, 0, None, None));
        let (_, answer) = rig.poll().unwrap();
        assert_eq!(
            (answer.opcode, answer.bth.psn.value()),
            (Opcode::AtomicResponse, RQ_PSN)
        );
        assert_eq!(answer.original, Some(70));
        assert!(rig.poll().is_none());
    }
    assert_eq!(rig.user.number, 75);
}

#[test]
fn an_atomic_off_its_boundary_is_invalid() {
    let mut rig = Rig::new();
    let mut request = packet(Opcode::CompareSwap, RQ_PSN, 0, None, None);
    request.atomic.as_mut().unwrap().va += 4;
    rig.handle(&request);
    assert_eq!(rig.answers(), [(RQ_PSN, Syndrome::Nak(NakCode::InvalidRequest))]);
    assert_eq!(rig.user.number, 70);
}

#[test]
fn a_fence_waits_for_atomics_too() {
    let mut rig = Rig::new();
    rig.post(ADD, 8);
    rig.post(SendOp::Send, 1).fence = true;
    assert_eq!(rig.sent(), [(Opcode::FetchAdd, SQ_PSN, true)]);
    let aeth = Some(Aeth {
        syndrome: ACK,
        msn: Msn::new(1),
    });
    let mut answer = packet(Opcode::Acknowledge, SQ_PSN, 0, None, aeth);
    (answer.opcode, answer.original) = (Opcode::AtomicResponse, Some(9));
    rig.handle(&answer);
    assert_eq!(rig.user.result, Some((0, 9)));
    assert_eq!(rig.sent(), [(send(Place::Only), SQ_PSN + 1, true)]);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
}

#[test]
fn local_operations_run_in_order_and_an_invalidation_waits_for_all_before_it() {
    let mut rig = Rig::new();
    rig.post(SendOp::Register, 0);
    rig.post(SendOp::Send, 1);
    rig.post(SendOp::Register, 0);
    rig.post(SendOp::LocalInvalidate, 0);
    rig.post(SendOp::Send, 1);
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.user.locals, [0, 2]);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    rig.ack(SQ_PSN, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 1, OK), (Queue::Send, 2, OK)]);
    assert_eq!(rig.sent(), [(send(Place::Only), SQ_PSN + 1, true)]);
    assert_eq!(rig.user.locals, [0, 2, 3]);
    assert_eq!(rig.done(), [(Queue::Send, 3, OK)]);
}

#[test]
fn a_window_full_of_what_is_done_asks_to_be_looked_at_again() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig.post(SendOp::Register, 0);
    }
    assert!(rig.sent().is_empty());
    assert_eq!(rig.done().len(), 16);
    assert_eq!(rig.qp.poll_timeout(), Some(Instant(0)));
    rig.wait(Duration(0));
    assert!(rig.sent().is_empty());
    assert_eq!(rig.done().len(), 4);
    assert_eq!(rig.qp.poll_timeout(), None);
}

#[test]
fn an_invalidation_travels_with_the_end_of_a_send_and_reaches_its_completion() {
    let mut rig = Rig::new();
    rig.post(SendOp::SendInvalidate { key: Key(0x77) }, 300);
    assert_eq!(rig.poll().unwrap().1.opcode, send(Place::First));
    let (_, last) = rig.poll().unwrap();
    assert_eq!(last.opcode, Opcode::SendInvalidate { place: Place::Last });
    assert_eq!(last.invalidate, Some(Key(0x77)));
    rig.recv(10);
    let mut request = packet(send(Place::Only), RQ_PSN, 1, None, None);
    request.opcode = Opcode::SendInvalidate { place: Place::Only };
    request.invalidate = Some(Key(0x78));
    rig.handle(&request);
    let done = rig.qp.poll_completion(&mut rig.user).unwrap();
    assert_eq!(
        (done.invalidated, rig.user.invalidated),
        (Some(Key(0x78)), Some(Key(0x78)))
    );
}

#[test]
fn a_datagram_names_its_sender_and_leaves_room_for_the_grh() {
    let mut rig = of_kind(QpKind::Ud);
    rig.recv(50);
    rig.handle(&datagram(0x1112, 10));
    assert_eq!(rig.done(), []);
    rig.handle(&datagram(0x1111, 10));
    let done = rig.qp.poll_completion(&mut rig.user).unwrap();
    assert_eq!((done.byte_len, done.src_qpn), (50, Some(Qpn::new(0x33))));
    assert_eq!(rig.user.placed, [(Target::Recv { slot: 0, offset: 40 }, 10)]);
    // Nobody waits for this one.
    rig.handle(&datagram(0x1111, 10));
    rig.recv(49);
    rig.handle(&datagram(0x1111, 10));
    assert_eq!(rig.done(), [(Queue::Recv, 1, WcStatus::LocalLength)]);
    assert_eq!(rig.qp.state(), State::Err);
}

#[test]
fn a_datagram_carries_its_route_and_completes_when_sent() {
    let mut rig = of_kind(QpKind::Gsi);
    rig.post(SendOp::Send, 256).datagram = Datagram {
        dest: Qpn::GSI,
        qkey: 0x8000_0000,
        ah: 4,
    };
    rig.post(SendOp::Send, 257);
    let (transmit, packet) = rig.poll().unwrap();
    assert_eq!(transmit.route, Some(Route { slot: 0, ah: 4 }));
    let deth = Deth {
        qkey: limits::GSI_QKEY,
        src: Qpn::GSI,
    };
    assert_eq!((packet.bth.dest, packet.deth), (Qpn::GSI, Some(deth)));
    assert!(rig.poll().is_none());
    assert_eq!(rig.done(), [(Queue::Send, 0, OK), (Queue::Send, 1, OK)]);
}

#[test]
fn a_failed_datagram_stops_the_sends_only_and_a_modify_lets_them_go_on() {
    let mut rig = of_kind(QpKind::Ud);
    for _ in 0..3 {
        rig.post(SendOp::Send, 8);
    }
    rig.poll();
    let (second, _) = rig.poll().unwrap();
    rig.qp
        .handle_gather_fault(rig.now, &second, Fault::LocalProtection, &mut rig.user);
    let [first, second, third] = [OK, WcStatus::LocalProtection, WcStatus::Flushed];
    let statuses: Vec<WcStatus> = rig.done().into_iter().map(|d| d.2).collect();
    assert_eq!((statuses, rig.qp.state()), (vec![first, second, third], State::Sqe));
    rig.recv(60);
    rig.handle(&datagram(0x1111, 10));
    assert_eq!(rig.done(), [(Queue::Recv, 3, OK)]);
    let resume = Modify {
        state: Some(State::Rts),
        ..Modify::default()
    };
    rig.qp.modify(rig.now, &resume).unwrap();
    rig.post(SendOp::Send, 8);
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.done(), [(Queue::Send, 4, OK)]);
}

#[test]
fn an_unreliable_message_with_a_gap_leaves_its_receive_to_the_next() {
    let mut rig = of_kind(QpKind::Uc);
    rig.recv(600);
    rig.handle(&unreliable(send(Place::First), RQ_PSN, 256));
    rig.handle(&unreliable(send(Place::Last), RQ_PSN + 2, 10));
    rig.handle(&unreliable(send(Place::Only), RQ_PSN + 3, 20));
    let done = rig.qp.poll_completion(&mut rig.user).unwrap();
    assert_eq!((done.slot, done.byte_len, done.status), (0, 20, OK));
    // A copy of what was received, and one of what was lost.
    rig.recv(600);
    rig.handle(&unreliable(send(Place::Only), RQ_PSN + 3, 20));
    rig.handle(&unreliable(send(Place::First), RQ_PSN, 256));
    assert_eq!(rig.done(), []);
    assert!(rig.sent().is_empty());
}

#[test]
fn an_operation_of_another_service_is_refused_in_its_turn() {
    for kind in [QpKind::Uc, QpKind::Ud] {
        let mut rig = of_kind(kind);
        rig.post(ADD, 8);
        assert!(rig.sent().is_empty());
        assert_eq!(rig.done(), [(Queue::Send, 0, WcStatus::LocalQpOp)]);
    }
}
