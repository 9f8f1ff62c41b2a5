// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One engine against a scripted peer: what goes on the wire, packet by packet.

use crate::attrs::{Modify, ModifyError, Mtu, QpConfig, State};
use crate::completion::{Event, Queue, WcOpcode};
use crate::fault::{Fault, WcStatus};
use crate::keys::{Access, Key};
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::psn::{Msn, Psn, Qpn};
use crate::qp::{Posted, Qp, ReadResource, SendMessage, Slots};
use crate::time::{Duration, Instant};
use crate::wire::{Aeth, AtomicEth, Bth, HeaderBuf, NakCode, Packet, Reth, Span, Syndrome};
use crate::wqe::{AtomicOp, Host, RecvWqe, Room, SendOp, SendWqe, Source, Target, Transmit};
use std::collections::VecDeque;

mod caps;
mod grants;
mod lost;
mod requester;
mod responder;
mod runs;
mod services;
mod states;

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
    /// What the peer's atomics act upon.
    number: u64,
    result: Option<(u32, u64)>,
    invalidated: Option<Key>,
    locals: Vec<u32>,
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
    fn place_grh(&mut self, _: u32) -> Result<(), Fault> {
        Ok(())
    }
    fn atomic(&mut self, op: AtomicOp, _: Key, _: u64) -> Result<u64, Fault> {
        let before = self.number;
        if let AtomicOp::FetchAdd { add } = op {
            self.number += add;
        }
        Ok(before)
    }
    fn atomic_result(&mut self, slot: u32, value: u64) -> Result<(), Fault> {
        self.result = Some((slot, value));
        Ok(())
    }
    fn invalidate(&mut self, key: Key) -> Result<(), Fault> {
        self.invalidated = Some(key);
        Ok(())
    }
    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        self.locals.push(slot);
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
            user: User {
                number: 70,
                ..User::default()
            },
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
        let transmit = self.qp.poll_transmit(self.now, Room::PACKET, &mut self.user)?;
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
        run: false,
        pad: (len.wrapping_neg() & 3) as u8,
        pkey: 0xffff,
        dest: Qpn::new(0x11),
        ack_request: true,
        psn: Psn::new(psn),
    };
    let mut header = HeaderBuf::new();
    header.push(&bth.bytes());
    if opcode == Opcode::Flush {
        header.push(&[0; 4]);
    }
    if let Some(reth) = reth {
        header.push(&reth.bytes());
    }
    if let Some(aeth) = aeth {
        header.push(&aeth.bytes());
    }
    if let Some(operands) = atomic_of(opcode) {
        header.push(&operands.bytes());
    }
    if opcode.has_imm() {
        header.push(&[1, 2, 3, 4]);
    }
    let bytes = header.as_bytes();
    Packet::parse(bytes, bytes.len() + len as usize + usize::from(bth.pad)).unwrap()
}

/// Operands of the atomics of a script.
fn atomic_of(opcode: Opcode) -> Option<AtomicEth> {
    opcode.has_atomic().then_some(AtomicEth {
        va: 0x2000,
        rkey: Key(9),
        swap_add: 5,
        compare: 7,
    })
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
    assert!(size_of_val(&rig.qp) < 1344, "{} bytes", size_of_val(&rig.qp));
    assert!(size_of::<SendMessage>() <= 112 && size_of::<ReadResource>() <= 80);
}
