// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The largest of everything: messages of 2 GiB, 128 READs at once.

use super::*;

const ALL: u32 = limits::MAX_MESSAGE_LEN;

/// A rig with room for as many READs as there may be, at `mtu`.
fn rig(mtu: Mtu) -> Rig {
    let mut rig = Rig::with(|_, all| {
        all.path_mtu = Some(mtu);
        all.max_rd_atomic = Some(128);
    });
    let mut reads = vec![ReadResource::EMPTY; limits::MAX_RD_ATOMIC];
    rig.qp.swap_reads(&mut reads);
    assert_eq!((reads.len(), rig.qp.read_capacity()), (4, 128));
    rig
}

/// The payload of packet `index` of `count`, if each but the last is full.
fn is_full(index: u32, count: u32, mtu: Mtu, place: Place) -> bool {
    let expected = Place::of(index == 0, index + 1 == count);
    u64::from(count) * u64::from(mtu.bytes()) == u64::from(ALL) && place == expected
}

#[test]
fn two_gigabytes_are_sent_packet_by_packet_and_the_next_message_follows() {
    for mtu in [Mtu::B256, Mtu::B4096] {
        let mut rig = rig(mtu);
        let count = mtu.packets(ALL);
        rig.post(SendOp::Write, ALL);
        rig.post(SendOp::Write, 1);
        let mut sent = 0;
        while sent < count {
            let before = sent;
            while let Some(transmit) = rig.qp.poll_transmit(rig.now, Room::PACKET, &mut rig.user) {
                let (offset, len) = match transmit.payload {
                    Source::Send { offset, len, .. } => (offset, len),
                    _ => panic!("no payload"),
                };
                if sent == count {
                    // The message behind: only if the acknowledgement of all PSNs is unambiguous.
                    assert_eq!((offset, len), (0, 1));
                    sent += 1;
                    continue;
                }
                assert_eq!(transmit.psn, Psn::new(SQ_PSN).plus(sent));
                assert_eq!((offset, len), (sent << mtu.bytes().trailing_zeros(), mtu.bytes()));
                sent += 1;
            }
            assert!(sent > before, "stuck at packet {sent} of {count}");
            rig.ack(Psn::new(SQ_PSN).plus(sent - 1).value(), ACK);
        }
        rig.ack(Psn::new(SQ_PSN).plus(count - 1).value(), ACK);
        while rig.poll().is_some() {}
        rig.ack(Psn::new(SQ_PSN).plus(count).value(), ACK);
        assert_eq!(rig.done(), [(Queue::Send, 0, OK), (Queue::Send, 1, OK)]);
    }
}

#[test]
fn two_gigabytes_are_received_and_one_byte_more_is_refused() {
    for mtu in [Mtu::B256, Mtu::B4096] {
        let mut rig = rig(mtu);
        rig.recv(ALL);
        let count = mtu.packets(ALL);
        for index in 0..count {
            let place = Place::of(index == 0, index + 1 == count);
            rig.request(send(place), Psn::new(RQ_PSN).plus(index).value(), mtu.bytes());
            while rig.qp.poll_transmit(rig.now, Room::PACKET, &mut rig.user).is_some() {}
            let done = rig.user.placed.pop();
            let to = Target::Recv {
                slot: 0,
                offset: index << mtu.bytes().trailing_zeros(),
            };
            assert_eq!(done, Some((to, mtu.bytes())));
        }
        assert_eq!(rig.done(), [(Queue::Recv, 0, OK)]);
    }
    let mut rig = rig(Mtu::B4096);
    rig.request(write(Place::First), RQ_PSN, ALL + 1);
    assert_eq!(rig.qp.state(), State::Err);
}

#[test]
fn two_gigabytes_are_read() {
    for mtu in [Mtu::B256, Mtu::B4096] {
        let mut rig = rig(mtu);
        rig.post(SendOp::Read, ALL);
        let (_, request) = rig.poll().unwrap();
        assert_eq!(request.reth.map(|reth| reth.length), Some(ALL));
        let count = mtu.packets(ALL);
        let aeth = Aeth {
            syndrome: ACK,
            msn: Msn::new(0),
        };
        for index in 0..count {
            let place = Place::of(index == 0, index + 1 == count);
            let aeth = (place != Place::Middle).then_some(aeth);
            let psn = Psn::new(SQ_PSN).plus(index).value();
            rig.handle(&packet(response(place), psn, mtu.bytes(), None, aeth));
            let to = Target::ReadResult {
                slot: 0,
                offset: index << mtu.bytes().trailing_zeros(),
            };
            assert_eq!(rig.user.placed.pop(), Some((to, mtu.bytes())));
        }
        assert_eq!(rig.done(), [(Queue::Send, 0, OK)]);
    }
}

#[test]
fn two_gigabytes_are_served_to_a_reader_and_served_again_from_the_middle() {
    for mtu in [Mtu::B256, Mtu::B4096] {
        let mut rig = rig(mtu);
        let count = mtu.packets(ALL);
        rig.request(Opcode::ReadRequest, RQ_PSN, ALL);
        let served = |from: u32, rig: &mut Rig| {
            for index in from..count {
                let (transmit, packet) = rig.poll().unwrap();
                assert_eq!(packet.bth.psn, Psn::new(RQ_PSN).plus(index));
                let Opcode::ReadResponse { place } = packet.opcode else {
                    panic!("{:?}", packet.opcode)
                };
                assert!(is_full(index - from, count - from, mtu, place) || from > 0);
                let va = 0x2000 + (u64::from(index) << mtu.bytes().trailing_zeros());
                assert_eq!(
                    transmit.payload,
                    Source::Region {
                        rkey: Key(9),
                        va,
                        len: mtu.bytes()
                    }
                );
            }
            assert!(rig.poll().is_none());
        };
        served(0, &mut rig);
        let from = count - 3;
        let rest = Reth {
            va: 0x2000 + (u64::from(from) << mtu.bytes().trailing_zeros()),
            rkey: Key(9),
            length: 3 * mtu.bytes(),
        };
        let psn = Psn::new(RQ_PSN).plus(from).value();
        rig.handle(&packet(Opcode::ReadRequest, psn, 0, Some(rest), None));
        served(from, &mut rig);
    }
}

#[test]
fn a_hundred_and_twenty_eight_reads_are_on_their_way_at_once() {
    let mut rig = Rig::with(|config, all| {
        config.read_window_packets = 1000;
        all.max_rd_atomic = Some(128);
    });
    rig.qp.storage.sends = vec![SendMessage::EMPTY; 256];
    for _ in 0..130 {
        rig.post(SendOp::Read, 1);
    }
    assert_eq!(rig.sent().len(), 128);
    let aeth = Aeth {
        syndrome: ACK,
        msn: Msn::new(0),
    };
    rig.handle(&packet(response(Place::Only), SQ_PSN, 1, None, Some(aeth)));
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn what_a_peer_may_ask_for_again_survives_a_move_to_more_memory() {
    let mut rig = Rig::new();
    // Turns the ring, so that it is not in order in memory.
    for i in 0..3 {
        rig.request(Opcode::ReadRequest, Psn::new(RQ_PSN).plus(i).value(), 1);
        assert_eq!(rig.sent().len(), 1);
    }
    rig.request(Opcode::ReadRequest, Psn::new(RQ_PSN).plus(3).value(), 300);
    rig.poll();
    let mut fresh = vec![ReadResource::EMPTY; 9];
    rig.qp.swap_reads(&mut fresh);
    assert_eq!((fresh.len(), rig.qp.read_capacity()), (4, 9));
    assert_eq!(
        rig.sent(),
        [(response(Place::Last), Psn::new(RQ_PSN).plus(4).value(), false)]
    );
    rig.request(Opcode::ReadRequest, Psn::new(RQ_PSN).plus(2).value(), 1);
    assert_eq!(
        rig.sent(),
        [(response(Place::Only), Psn::new(RQ_PSN).plus(2).value(), false)]
    );
    rig.qp.swap_reads(&mut fresh);
    assert_eq!(rig.qp.read_capacity(), 9, "never less");
}
