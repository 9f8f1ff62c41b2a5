// SPDX-License-Identifier: GPL-2.0 OR MIT
use super::{
    cqe, cqe_tail, recv_header, Bind, Destination, KernelCqe, Local, Network, Place, Places, SendHeader, Sge, Vector,
    CQE_LEN, RECV_HEADER, SEND_HEADER, VECTOR,
};
use crate::completion::{Completion, Queue, WcOpcode, WcStatus};
use crate::fast::Registration;
use crate::fault::Fault;
use crate::keys::{Access, Key};
use crate::psn::Qpn;
use crate::wqe::{AtomicOp, SendOp};
use proptest::prelude::*;

type Held = Places<Vec<Place>, Vec<Sge>, Vec<u8>>;

const SGES: usize = 3;
const COUNT: usize = 4;

fn places() -> Held {
    let (sges, inline) = (COUNT * SGES, COUNT * SGES * 16);
    Places::new(
        vec![Place::default(); COUNT],
        vec![Sge::default(); sges],
        vec![0; inline],
        SGES,
        SGES * 16,
    )
}

/// A request in user space's form: words at offsets, and what follows the header.
fn raw<const N: usize>(words: &[(usize, u32)]) -> [u8; N] {
    let mut out = [0; N];
    for (at, word) in words {
        out[*at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    out
}

fn sges(list: &[(u64, u32, u32)]) -> Vec<u8> {
    let entry = |&(addr, len, key): &(u64, u32, u32)| {
        let lkey = Key(key);
        Sge { addr, len, lkey }.bytes()
    };
    list.iter().flat_map(entry).collect()
}

/// Reads `tail` as what follows a header of `header` bytes.
fn behind(tail: &[u8], header: usize) -> impl FnMut(usize, &mut [u8]) + '_ {
    move |at, to| {
        let from = at - header;
        to.copy_from_slice(&tail[from..from + to.len()]);
    }
}

#[test]
fn a_send_keeps_its_scatter_list() {
    let mut held = places();
    let tail = sges(&[(0x1000, 10, 7), (0x2000, 0, 8), (0x3000, 5, 9)]);
    let header = raw::<SEND_HEADER>(&[(0, 77), (12, 2), (16, 2), (196, 3)]);
    let wqe = held.take_send(&header, false, behind(&tail, SEND_HEADER));
    assert_eq!((wqe.wr_id, wqe.op, wqe.length), (77, SendOp::Send, 15));
    assert_eq!((wqe.signalled, wqe.fault), (true, None));
    let mut seen = Vec::new();
    let mut at = |key: Key, va, len| {
        seen.push((key.0, va, len));
        Ok(())
    };
    assert_eq!(held.parts(wqe.slot, 8, 4, &mut at), Ok(()));
    assert_eq!(held.parts(wqe.slot, 10, 5, &mut at), Ok(()));
    assert_eq!(held.parts(wqe.slot, 15, 0, &mut at), Ok(()));
    assert_eq!(seen, [(7, 0x1008, 2), (9, 0x3000, 2), (9, 0x3000, 5)]);
    assert_eq!(held.parts(wqe.slot, 11, 5, |_, _, _| Ok(())), Err(Fault::LocalLength));
}

#[test]
fn inline_data_is_copied_when_taken() {
    let mut held = places();
    let header = raw::<SEND_HEADER>(&[(12, 0), (16, 8), (184, 20)]);
    let tail: Vec<u8> = (0..48).collect();
    let wqe = held.take_send(&header, true, behind(&tail, SEND_HEADER));
    assert_eq!((wqe.length, wqe.signalled, wqe.fault), (20, true, None));
    let mut to = [0; 6];
    let none = |_: Key, _, _: &mut [u8]| Err(Fault::LocalProtection);
    assert_eq!(held.gather(wqe.slot, 14, &mut to, none), Ok(()));
    assert_eq!(to, [14, 15, 16, 17, 18, 19]);
    assert_eq!(held.gather(wqe.slot, 15, &mut to, none), Err(Fault::LocalLength));
}

#[test]
fn what_is_too_much_is_a_fault_and_leaves_nothing_of_the_request_before() {
    let mut held = places();
    let bind = raw::<SEND_HEADER>(&[(12, 8), (40, 5), (44, 6), (48, 7), (52, 2)]);
    for _ in 0..COUNT {
        let wqe = held.take_send(&bind, false, |_, _| {});
        let wanted = Bind {
            window: Key(6),
            new: Key(7),
            region: Key(5),
            base: 0,
            length: 0,
            access: 2,
        };
        assert_eq!(held.local(wqe.slot), Some(Local::Bind(wanted)));
    }
    assert!(held.is_full());
    held.clear();
    for (words, fault) in [
        ([(12, 2), (196, 4)], Fault::LocalQpOp),
        ([(16, 8), (184, 49)], Fault::LocalLength),
        ([(12, 4), (16, 8)], Fault::LocalQpOp),
        ([(12, 99), (196, 1)], Fault::LocalQpOp),
    ] {
        let wqe = held.take_send(&raw(&words), false, |_, _| {});
        assert_eq!((wqe.fault, held.local(wqe.slot)), (Some(fault), None));
        held.complete();
    }
}

#[test]
fn only_a_caller_in_the_kernel_may_register() {
    let header = raw::<SEND_HEADER>(&[(12, 0x20), (20, 0x1234_5601), (24, 0x1000), (32, 0x2000), (52, 5)]);
    let wqe = places().take_send(&header, false, |_, _| {});
    assert_eq!(wqe.fault, Some(Fault::LocalQpOp));
    let mut held = places().for_kernel();
    let wqe = held.take_send(&header, false, |_, _| {});
    assert_eq!((wqe.op, wqe.length, wqe.fault), (SendOp::Register, 0, None));
    let wanted = Registration {
        key: Key(0x1234_5601),
        base: 0x1000,
        length: 0x2000,
        access: Access(5),
    };
    assert_eq!(held.local(wqe.slot), Some(Local::Register(wanted)));
}

#[test]
fn an_atomic_needs_eight_bytes_and_takes_no_more() {
    let mut held = places();
    let header = raw::<SEND_HEADER>(&[(12, 6), (24, 0x100), (32, 3), (48, 0x55), (196, 1)]);
    let mut take = |len| {
        let tail = sges(&[(0, len, 1)]);
        held.take_send(&header, false, behind(&tail, SEND_HEADER))
    };
    let wqe = take(16);
    let add = SendOp::Atomic(AtomicOp::FetchAdd { add: 3 });
    assert_eq!((wqe.op, wqe.length, wqe.rkey, wqe.fault), (add, 8, Key(0x55), None));
    assert_eq!(take(7).fault, Some(Fault::LocalLength));
}

#[test]
fn a_receive_may_be_larger_than_any_message() {
    let mut held = places();
    let tail = sges(&[(0, u32::MAX, 1), (0, u32::MAX, 1), (0, 2, 1)]);
    let wqe = held.take_recv(&raw(&[(0, 9), (28, 3)]), behind(&tail, RECV_HEADER));
    assert_eq!((wqe.wr_id, wqe.length, wqe.fault), (9, u32::MAX, None));
    let wqe = held.take_recv(&raw(&[(28, 4)]), |_, _| {});
    assert_eq!(wqe.fault, Some(Fault::LocalQpOp));
}

#[test]
fn memory_that_is_too_short_makes_faults() {
    let mut held: Held = Places::new(vec![Place::default(); 2], Vec::new(), vec![0; 3], 1, 16);
    let list = raw::<SEND_HEADER>(&[(12, 2), (196, 1)]);
    let inline = raw::<SEND_HEADER>(&[(12, 2), (16, 8), (184, 4)]);
    for header in [list, inline] {
        let wqe = held.take_send(&header, false, |_, _| {});
        assert_eq!(wqe.fault, Some(Fault::LocalQpOp));
    }
    assert!(held.is_full());
}

/// The layouts by hand, as the C headers have them: what writes and reads could be wrong in the same way.
#[test]
fn layouts_are_those_of_the_headers() {
    let entry = Sge {
        addr: 0x0102_0304_0506_0708,
        len: 9,
        lkey: Key(0x0a0b_0c0d),
    };
    let words = raw::<16>(&[(0, 0x0506_0708), (4, 0x0102_0304), (8, 9), (12, 0x0a0b_0c0d)]);
    assert_eq!((entry.bytes(), Sge::parse(&words)), (words, entry));
    assert_eq!(recv_header(7, 2), raw(&[(0, 7), (28, 2)]));
    let completion = Completion {
        queue: Queue::Recv,
        wr_id: 7,
        slot: 0,
        status: WcStatus::Success,
        opcode: WcOpcode::Recv,
        byte_len: 9,
        imm: Some([1, 0, 0, 0]),
        invalidated: None,
        src_qpn: Some(Qpn::new(5)),
        solicited: false,
        signalled: true,
        qpn: Qpn::new(6),
    };
    let written = raw::<CQE_LEN>(&[
        (0, 7),
        (12, 128),
        (20, 9),
        (24, u32::from_ne_bytes([1, 0, 0, 0])),
        (28, 6),
        (32, 5),
        (36, 3),
        (44, u32::from_ne_bytes([9, 0, 1, 0])),
    ]);
    assert_eq!(cqe(&completion, true), written);
}

#[test]
fn a_vector_is_read_as_it_was_written() {
    let vector = Vector {
        network: Network::IPV6,
        dmac: [1, 2, 3, 4, 5, 6],
        dgid: *b"sixteen bytes of",
        flow_label: 7,
        sgid_index: 8,
        hop_limit: 9,
        traffic_class: 10,
    };
    let bytes = vector.bytes();
    assert_eq!(bytes[..8], [1, 2, 1, 2, 3, 4, 5, 6]);
    assert_eq!(bytes[24..31], [7, 0, 0, 0, 8, 9, 10]);
    assert_eq!(Vector::parse(&bytes), vector);
}

#[test]
fn a_send_is_taken_as_it_was_written() {
    let vector = Vector {
        sgid_index: 3,
        ..Vector::default()
    };
    let registration = Registration {
        key: Key(0x105),
        base: 1 << 40,
        length: 1 << 33,
        access: Access(7),
    };
    let (va, rkey) = (1 << 50, Key(0x77));
    for (opcode, to) in [
        (2, Destination::Peer),
        (0, Destination::Remote { va, rkey }),
        (
            5,
            Destination::Atomic {
                va,
                compare_add: 1,
                swap: 2,
                rkey,
            },
        ),
        (0x20, Destination::Register(registration)),
        (
            2,
            Destination::Datagram {
                qpn: Qpn::new(4),
                qkey: 6,
                vector,
            },
        ),
    ] {
        let header = SendHeader {
            wr_id: 1 << 60,
            opcode,
            flags: 2,
            ex: [9; 4],
            to,
            length: 8,
            sges: 1,
        };
        let bytes = header.bytes();
        let mut held = places().for_kernel();
        let tail = sges(&[(0, 8, 1)]);
        let wqe = held.take_send(&bytes, false, behind(&tail, SEND_HEADER));
        assert_eq!((wqe.wr_id, wqe.signalled, wqe.fault), (1 << 60, true, None));
        match to {
            Destination::Peer => assert_eq!((wqe.op, wqe.length, wqe.imm), (SendOp::Send, 8, [9; 4])),
            Destination::Remote { .. } => assert_eq!((wqe.op, wqe.remote_va, wqe.rkey), (SendOp::Write, va, rkey)),
            Destination::Atomic { .. } => {
                let op = SendOp::Atomic(AtomicOp::CompareSwap { compare: 1, swap: 2 });
                assert_eq!((wqe.op, wqe.remote_va, wqe.rkey), (op, va, rkey));
            }
            Destination::Register(_) => assert_eq!(held.local(wqe.slot), Some(Local::Register(registration))),
            Destination::Datagram { .. } => {
                assert_eq!((wqe.datagram.dest, wqe.datagram.qkey), (Qpn::new(4), 6));
                assert_eq!(Vector::parse(&super::bytes_at(&bytes, VECTOR)), vector);
            }
        }
    }
}

#[test]
fn a_kernel_callers_completion_is_read_as_it_was_written() {
    let mut completion = Completion {
        queue: Queue::Recv,
        wr_id: 1 << 60,
        slot: 0,
        status: WcStatus::Success,
        opcode: WcOpcode::RecvWithImm,
        byte_len: 10,
        imm: None,
        invalidated: Some(Key(0x55)),
        src_qpn: None,
        solicited: false,
        signalled: true,
        qpn: Qpn::new(6),
    };
    let read = |completion: &Completion, ipv6, tag| {
        let whole = [&cqe(completion, ipv6)[..], &cqe_tail(1 << 62, tag)[..]].concat();
        KernelCqe::parse(&whole.try_into().unwrap())
    };
    let connected = read(&completion, true, 0x8100_0005);
    assert_eq!((connected.wr_id, connected.mark), (1 << 60, 1 << 62));
    assert_eq!((connected.status, connected.opcode, connected.byte_len), (0, 129, 10));
    assert_eq!((connected.has_invalidated, connected.ex), (true, 0x55u32.to_ne_bytes()));
    assert!(!connected.has_imm && !connected.has_grh && !connected.ipv6 && connected.vlan.is_none());
    completion.src_qpn = Some(Qpn::new(3));
    let datagram = read(&completion, true, 0x8100_0005);
    assert_eq!((datagram.has_grh, datagram.ipv6, datagram.src_qp), (true, true, 3));
    assert_eq!(datagram.vlan, Some(5));
    let untagged = read(&completion, false, 0);
    assert_eq!((untagged.ipv6, untagged.vlan), (false, None));
}

proptest! {
    #[test]
    fn any_request_is_taken_within_its_memory(
        header in proptest::collection::vec(any::<u8>(), SEND_HEADER),
        op in 0u32..18, flags in 0u32..16, count in 0u32..5, len in 0u32..60,
        lens in proptest::array::uniform3(any::<u32>()),
        offset: u32, part in 0usize..5000,
    ) {
        let mut held = places();
        let mut raw: [u8; SEND_HEADER] = header.try_into().unwrap();
        for (at, word) in [(12, op), (16, flags), (196, count), (184, len)] {
            raw[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let tail = sges(&lens.map(|len| (0, len, 1)));
        let wqe = held.take_send(&raw, false, behind(&tail, SEND_HEADER));
        prop_assert!(wqe.length <= 1 << 31 || matches!(wqe.op, SendOp::Flush(_)));
        let mut to = vec![0; part];
        let mut seen = 0;
        let gathered = held.gather(wqe.slot, offset, &mut to, |_, _, to| {
            assert!(!to.is_empty());
            seen += to.len();
            Ok(())
        });
        if gathered.is_ok() && wqe.fault.is_none() && flags & 8 == 0 && seen > 0 {
            prop_assert_eq!(seen, part);
            prop_assert!(u64::from(offset) + part as u64 <= lens.iter().map(|len| u64::from(*len)).sum());
        }
    }
}
