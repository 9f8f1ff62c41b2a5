// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One engine against a scripted peer: what goes on the wire, packet by packet.

use crate::completion::{Event, Queue, WcOpcode, WcStatus};
use crate::keys::{Access, Key};
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::psn::{Msn, Psn, Qpn};
use crate::qp::{Modify, ModifyError, Mtu, Qp, QpConfig, ReadResource, SendMessage, Slots, State};
use crate::time::{Duration, Instant};
use crate::wire::{Aeth, Bth, HeaderBuf, NakCode, Packet, Reth, Syndrome};
use crate::wqe::{Fault, Host, RecvWqe, SendOp, SendWqe, Source, Span, Target, Transmit};
use std::collections::VecDeque;

const SQ_PSN: u32 = 100;
const RQ_PSN: u32 = 0xff_fffe;
const TIMEOUT: Duration = Duration(4096 << 8);

/// The user of the engine under test.
#[derive(Default)]
struct User {
    sends: VecDeque<SendWqe>,
    recvs: VecDeque<RecvWqe>,
    placed: Vec<(Target, u32)>,
    refuse: Option<Fault>,
}

impl Host for User {
    fn take_send(&mut self) -> Option<SendWqe> {
        self.sends.pop_front()
    }
    fn take_recv(&mut self) -> Option<RecvWqe> {
        self.recvs.pop_front()
    }
    fn check(&mut self, _: Key, _: u64, _: u32, _: Access) -> Result<(), Fault> {
        self.refuse.map_or(Ok(()), Err)
    }
    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        self.placed.push((to, payload.len));
        Ok(())
    }
}

struct Rig {
    qp: Qp<Slots<Vec<SendMessage>, Vec<ReadResource>>>,
    user: User,
    now: Instant,
    posted: u32,
}

type Done = (Queue, u64, WcStatus);

impl Rig {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut QpConfig, &mut Modify)) -> Self {
        let mut config = QpConfig::new(Qpn::new(0x11));
        let mut all = Modify {
            path_mtu: Some(Mtu::B256),
            dest_qpn: Some(Qpn::new(0x22)),
            rq_psn: Some(Psn::new(RQ_PSN)),
            sq_psn: Some(Psn::new(SQ_PSN)),
            max_rd_atomic: Some(2),
            max_dest_rd_atomic: Some(2),
            min_rnr_timer: Some(12),
            timeout: Some(8),
            retry_cnt: Some(7),
            rnr_retry: Some(2),
            access: Some(Access(15)),
            ..Modify::default()
        };
        change(&mut config, &mut all);
        let storage = Slots {
            sends: vec![SendMessage::EMPTY; 16],
            reads: vec![ReadResource::EMPTY; 4],
        };
        let mut qp = Qp::new(config, storage);
        for state in [State::Init, State::Rtr, State::Rts] {
            let step = Modify {
                state: Some(state),
                ..all
            };
            qp.modify(Instant(0), &step).unwrap();
        }
        Self {
            qp,
            user: User::default(),
            now: Instant(1000),
            posted: 0,
        }
    }

    fn post(&mut self, op: SendOp, length: u32) -> &mut SendWqe {
        let slot = self.posted;
        self.posted += 1;
        self.user.sends.push_back(SendWqe {
            wr_id: u64::from(slot),
            op,
            length,
            remote_va: 0x1000,
            rkey: Key(5),
            signalled: true,
            slot,
            ..SendWqe::EMPTY
        });
        self.qp.handle_doorbell(self.now, &mut self.user);
        self.user.sends.back_mut().unwrap()
    }

    fn recv(&mut self, length: u32) {
        let slot = self.posted;
        self.posted += 1;
        self.user.recvs.push_back(RecvWqe {
            wr_id: u64::from(slot),
            length,
            slot,
            fault: None,
        });
    }

    fn poll(&mut self) -> Option<(Transmit, Packet)> {
        let transmit = self.qp.poll_transmit(self.now, &mut self.user)?;
        let packet = Packet::parse(transmit.header.as_bytes(), transmit.transport_len()).unwrap();
        Some((transmit, packet))
    }

    /// Everything it sends now: opcode, PSN, acknowledge request.
    fn sent(&mut self) -> Vec<(Opcode, u32, bool)> {
        std::iter::from_fn(|| {
            self.poll()
                .map(|(_, p)| (p.opcode, p.bth.psn.value(), p.bth.ack_request))
        })
        .collect()
    }

    fn done(&mut self) -> Vec<Done> {
        std::iter::from_fn(|| self.qp.poll_completion(&mut self.user))
            .map(|c| (c.queue, c.wr_id, c.status))
            .collect()
    }

    fn handle(&mut self, packet: &Packet) {
        self.qp.handle_packet(self.now, packet, &mut self.user);
    }

    fn ack(&mut self, psn: u32, syndrome: Syndrome) {
        let aeth = Aeth {
            syndrome,
            msn: Msn::new(0),
        };
        self.handle(&packet(Opcode::Acknowledge, psn, 0, None, Some(aeth)));
    }

    fn request(&mut self, opcode: Opcode, psn: u32, len: u32) {
        let reth = opcode.has_reth().then_some(Reth {
            va: 0x2000,
            rkey: Key(9),
            length: len,
        });
        let len = if opcode == Opcode::ReadRequest { 0 } else { len };
        self.handle(&packet(opcode, psn, len, reth, None));
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.qp.handle_timeout(self.now, &mut self.user);
    }

    fn answers(&mut self) -> Vec<(u32, Syndrome)> {
        std::iter::from_fn(|| self.poll())
            .filter_map(|(_, p)| p.aeth.map(|a| (p.bth.psn.value(), a.syndrome)))
            .collect()
    }
}

fn packet(opcode: Opcode, psn: u32, len: u32, reth: Option<Reth>, aeth: Option<Aeth>) -> Packet {
    let bth = Bth {
        opcode: opcode.encode_rc(),
        solicited: false,
        migrated: false,
        pad: (len.wrapping_neg() & 3) as u8,
        pkey: 0xffff,
        dest: Qpn::new(0x11),
        ack_request: true,
        psn: Psn::new(psn),
    };
    let mut header = HeaderBuf::new();
    header.push(&bth.bytes());
    if let Some(reth) = reth {
        header.push(&reth.bytes());
    }
    if let Some(aeth) = aeth {
        header.push(&aeth.bytes());
    }
    if opcode.has_imm() {
        header.push(&[1, 2, 3, 4]);
    }
    let bytes = header.as_bytes();
    Packet::parse(bytes, bytes.len() + len as usize + usize::from(bth.pad)).unwrap()
}

const fn send(place: Place) -> Opcode {
    Opcode::Send { place, imm: false }
}
const fn write(place: Place) -> Opcode {
    Opcode::Write { place, imm: false }
}
const fn response(place: Place) -> Opcode {
    Opcode::ReadResponse { place }
}
const OK: WcStatus = WcStatus::Success;
const ACK: Syndrome = Syndrome::ACK;
const SEQUENCE: Syndrome = Syndrome::Nak(NakCode::Sequence);

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
    for _ in 0..7 {
        assert_eq!(rig.sent().len(), 2);
        assert_eq!(rig.qp.poll_timeout(), Some(rig.now.after(TIMEOUT)));
        rig.wait(TIMEOUT);
        assert_eq!(rig.qp.state(), State::Rts);
    }
    rig.sent();
    rig.wait(Duration(TIMEOUT.0 - 1));
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
    for _ in 0..2 {
        assert_eq!(rig.sent().len(), 2);
        rig.ack(SQ_PSN, Syndrome::Rnr(12));
        assert!(rig.sent().is_empty());
        rig.wait(Duration(limits::rnr_delay(12).0 - 1));
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
        rig.wait(Duration::from_micros(10));
    }
    rig.sent();
    rig.ack(SQ_PSN, ACK);
    assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
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
    rig.qp.modify(rig.now, &to(State::Sqd)).unwrap();
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
}

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
        ("fetch and add", Opcode::Unsupported(0x14), 0),
        ("flush", Opcode::Unsupported(0x1c), 0),
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
fn transitions_are_those_of_the_specification() {
    let mut rig = Rig::new();
    let to = |state| Modify {
        state: Some(state),
        ..Modify::default()
    };
    assert_eq!(rig.qp.modify(rig.now, &to(State::Init)), Err(ModifyError::Transition));
    let bad = Modify {
        max_dest_rd_atomic: Some(5),
        ..Modify::default()
    };
    assert_eq!(rig.qp.modify(rig.now, &bad), Err(ModifyError::Range));
    rig.qp.modify(rig.now, &to(State::Reset)).unwrap();
    assert_eq!(rig.qp.modify(rig.now, &to(State::Rts)), Err(ModifyError::Transition));
    rig.qp.modify(rig.now, &to(State::Init)).unwrap();
    assert_eq!(rig.qp.modify(rig.now, &to(State::Rtr)), Err(ModifyError::Missing));
    rig.qp.modify(rig.now, &to(State::Err)).unwrap();
    assert_eq!(rig.qp.modify(rig.now, &to(State::Rts)), Err(ModifyError::Transition));
}

#[test]
fn a_queue_pair_is_small_and_can_be_sent_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let rig = Rig::new();
    is_send(&rig.qp);
    assert!(size_of_val(&rig.qp) < 700, "{} bytes", size_of_val(&rig.qp));
    assert!(size_of::<SendMessage>() <= 72 && size_of::<ReadResource>() <= 72);
}
