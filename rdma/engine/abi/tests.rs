// SPDX-License-Identifier: GPL-2.0 OR MIT
use super::{Bind, Local, Place, Places, Sge, RECV_HEADER, SEND_HEADER};
use crate::fast::Registration;
use crate::fault::Fault;
use crate::keys::{Access, Key};
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
        let mut out = addr.to_ne_bytes().to_vec();
        out.extend(len.to_ne_bytes());
        out.extend(key.to_ne_bytes());
        out
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
