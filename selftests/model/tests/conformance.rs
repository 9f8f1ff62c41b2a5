// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the stock driver relies on: enumeration, discovery, plug events, paths and rings.

mod common;

use common::*;
use usb4_model::control::pdf;
use usb4_model::*;

fn plain() -> Topology {
    pair(Profile::Strix, 1, None, 0)
}

#[test]
fn a_router_enumerates_and_both_sides_are_told_of_the_link() {
    let mut world = World::new(&plain());
    for nhi in 0..2 {
        world.enumerate(nhi);
    }
    world.run_ms(250);
    assert!(
        world.take_control(0).is_empty(),
        "the first plug event waits for the port reset"
    );
    world.run_ms(100);
    for nhi in 0..2 {
        let packets = world.take_control(nhi);
        assert_eq!(packets.len(), 1);
        assert_eq!((packets[0].pdf, packets[0].words[2]), (pdf::PLUG, 1));
    }
}

#[test]
fn config_requests_are_answered_as_the_driver_checks_them() {
    let mut world = World::linked(&plain());
    let identity = world.config_read(0, 2, 0, 0, 5).unwrap();
    assert_eq!(identity[4] >> 24, 0x40);
    // Adapters: 0 has no space, 3 is the NHI, 4 is not there.
    assert_eq!(world.config_read(0, 1, 0, 0, 1), Err(2));
    assert_eq!(world.config_read(0, 1, 3, 2, 1), Ok(vec![2]));
    assert_eq!(world.config_read(0, 1, 4, 0, 1), Err(4));
    assert_eq!(world.config_read(0, 1, 1, 0x5f, 2), Err(2));
    // Behind the port there is another domain, which any error says.
    let answer = world.request(0, pdf::READ, &[0, 1, 1 << 13 | 2 << 25]);
    assert_eq!(
        (answer.pdf, answer.words[1], answer.words[2] & 0xff),
        (pdf::NOTIFY, 1, 9)
    );
    world.fabric.set_plugged(0, false);
    world.take_control(0);
    let answer = world.request(0, pdf::READ, &[0, 1, 1 << 13 | 2 << 25]);
    assert_eq!((answer.pdf, answer.words[2] & 0xff), (pdf::NOTIFY, 0));
}

#[test]
fn gen4_lanes_are_one_link_and_gen3_lanes_are_bonded_by_the_drivers() {
    let lane = |world: &mut World, nhi, adapter| world.config_read(nhi, 1, adapter, 0x11, 1).unwrap()[0];
    let mut world = World::linked(&plain());
    let state = lane(&mut world, 0, 1);
    assert_eq!((state >> 16 & 0xf, state >> 20 & 0x3f, state >> 26 & 0xf), (2, 2, 2));

    let topology = Topology {
        version: Usb4Version::V1,
        ..plain()
    };
    let mut world = World::linked(&topology);
    let state = lane(&mut world, 1, 1);
    assert_eq!((state >> 16 & 0xf, state >> 20 & 0x3f, state >> 26 & 0xf), (4, 1, 2));
    for (nhi, adapter) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        world.config_write(nhi, 1, adapter, 0x11, &[0xc | 3 << 4]);
    }
    assert_eq!(lane(&mut world, 0, 1) >> 20 & 0x3f, 1, "nobody asked yet");
    world.config_write(0, 1, 1, 0x11, &[0xc | 3 << 4 | 1 << 15]);
    for (nhi, adapter) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        let state = lane(&mut world, nhi, adapter);
        assert_eq!((state >> 20 & 0x3f, state & 1 << 15), (2, 0));
    }
}

#[test]
fn xdomain_packets_reach_the_peer_and_are_refused_on_a_dead_link() {
    let mut world = World::linked(&plain());
    let body = [0x8000_0000, 1, 0x1234_5678, 0x9abc_def0];
    world.send_control(0, pdf::XDOMAIN_REQUEST, &body);
    let packets = world.take_control(1);
    assert_eq!(packets.len(), 1);
    assert_eq!(
        (packets[0].pdf, &packets[0].words[..]),
        (6, &[1 << 31, 1, 0x1234_5678, 0x9abc_def0][..])
    );
    world.fabric.set_plugged(0, false);
    world.take_control(0);
    world.send_control(0, pdf::XDOMAIN_RESPONSE, &body);
    let packets = world.take_control(0);
    assert_eq!(
        (packets.len(), packets[0].pdf, packets[0].words[2] & 0xff),
        (1, pdf::NOTIFY, 0)
    );
}

#[test]
fn a_pulled_cable_is_told_of_and_comes_back() {
    let mut world = World::talking(&plain(), 0, 0);
    world.fabric.set_plugged(0, false);
    for nhi in 0..2 {
        let packets = world.take_control(nhi);
        assert_eq!((packets.len(), packets[0].words[2]), (1, 1 | 1 << 31));
    }
    // Frames on a dead cable are lost, but their descriptors complete.
    world.send(0, 1, &[7; 100]);
    assert_eq!(world.reap(0, 1), 1);
    assert!(world.receive(1, 1).is_empty());
    world.fabric.set_plugged(0, true);
    world.run_ms(150);
    assert_eq!(world.take_control(1)[0].words[2], 1);
    world.send(0, 1, &[8; 100]);
    assert_eq!(world.receive(1, 1).len(), 1);
}

#[test]
fn a_killed_guest_is_unplugged_and_its_successor_is_found() {
    let mut world = World::talking(&plain(), 0, 0);
    world.fabric.disconnect(world.now, 1);
    world.send(1, 1, b"a doorbell that was still on its way");
    assert_eq!(world.reap(1, 1), 0);
    world.restart(1);
    assert_eq!(world.take_control(0)[0].words[2], 1 | 1 << 31);
    world.enumerate(1);
    world.run_ms(500);
    assert_eq!(world.take_control(0)[0].words[2], 1);
    assert_eq!(world.take_control(1)[0].words[2], 1);
}

#[test]
fn frames_arrive_whole_with_their_markers() {
    for (profile, rate, latency) in [
        (Profile::Strix, None, 0),
        (Profile::Intel, None, 0),
        (Profile::Strix, Some(40_000_000_000), 500),
        (Profile::Intel, None, 10_000),
    ] {
        let mut world = World::talking(&pair(profile, 1, rate, latency), 0, 0);
        let frames: Vec<Vec<u8>> = [1, 255, 256, 4095, 4096]
            .iter()
            .map(|&n| (0..n).map(|i| i as u8).collect())
            .collect();
        for bytes in &frames {
            world.send(0, 1, bytes);
        }
        world.run_ns(20_000);
        assert_eq!(world.reap(0, 1), frames.len());
        let received = world.receive(1, 1);
        assert_eq!(received.len(), frames.len());
        for (frame, bytes) in received.iter().zip(&frames) {
            assert_eq!((frame.start, frame.end, frame.flags), (START, END, 2));
            assert_eq!(&frame.bytes, bytes);
        }
        assert!(world.interrupts_of(1, false, 1) >= 1);
        assert!(world.interrupts_of(0, true, 1) >= 1);
    }
}

#[test]
fn foreign_markers_are_refused() {
    let mut world = World::talking(&plain(), 0, 0);
    world.write(1, 0x29820 + 4, 0x0004_0004);
    world.send(0, 1, &[1; 10]);
    assert_eq!(world.reap(0, 1), 1);
    assert!(world.receive(1, 1).is_empty());
    assert_eq!(world.fabric.nhis()[1].rx[1].ring.counters.drops, 1);
}

#[test]
fn a_full_receiver_makes_the_sender_wait() {
    for rate in [None, Some(40_000_000_000)] {
        let mut world = World::talking(&pair(Profile::Strix, 1, rate, 100), 0, 0);
        let mut sent = 0;
        let mut reaped = 0;
        for round in 0..3 {
            for _ in 0..10 {
                world.send(0, 1, &[round; 64]);
                sent += 1;
            }
            world.run_ns(20_000);
            reaped += world.reap(0, 1);
            if round == 1 {
                assert_eq!(reaped, RING as usize - 1);
                let received = world.receive(1, 1).len() as u32;
                assert_eq!(received, RING - 1);
                world.fill(1, 1, received);
                world.run_ns(20_000);
                reaped += world.reap(0, 1);
            }
        }
        assert_eq!(sent, 30);
        world.run_ns(20_000);
        assert_eq!(reaped + world.reap(0, 1), sent);
        assert_eq!(world.receive(1, 1).len(), 15);
    }
}

#[test]
fn end_to_end_flow_control_waits_for_a_ring_that_is_not_started() {
    for rate in [None, Some(40_000_000_000)] {
        let mut world = World::linked(&pair(Profile::Strix, 1, rate, 0));
        world.connect_rings(0, 1, 1);
        for nhi in 0..2 {
            world.start_ring(nhi, true, 1, E2E, 0);
        }
        world.start_ring(0, false, 1, E2E | 1 << 12, 0);
        world.send(0, 1, b"early");
        world.run_ns(10_000);
        assert_eq!(world.reap(0, 1), 0);
        world.start_ring(1, false, 1, E2E | 1 << 12, 0);
        world.run_ns(10_000);
        assert_eq!(world.reap(0, 1), 0, "no descriptor, no credit");
        world.fill(1, 1, 4);
        world.run_ns(10_000);
        assert_eq!(world.reap(0, 1), 1);
        assert_eq!(world.receive(1, 1)[0].bytes, b"early");
    }
}

#[test]
fn end_to_end_credit_must_find_its_way_back() {
    let mut world = World::talking(&plain(), E2E, 0);
    // The receiver names a Tx hop without a path: credits would get lost.
    world.write(1, 0x29820, 1 << 31 | E2E | 2 << 12);
    world.send(0, 1, &[1; 10]);
    assert_eq!(world.reap(0, 1), 0);
    world.write(1, 0x29820, 1 << 31 | E2E | 1 << 12);
    assert_eq!(world.reap(0, 1), 1);
}

#[test]
fn two_nhis_of_a_host_work_side_by_side() {
    let mut world = World::talking(&pair(Profile::Strix, 2, None, 0), 0, 0);
    world.send(0, 1, b"first");
    world.send(1, 1, b"second");
    assert_eq!(world.receive(2, 1)[0].bytes, b"first");
    assert_eq!(world.receive(3, 1)[0].bytes, b"second");
    world.fabric.set_plugged(0, false);
    world.send(1, 1, b"third");
    assert_eq!(world.receive(3, 1)[0].bytes, b"third");
    let (a, b) = (world.config_read(0, 2, 0, 7, 2), world.config_read(1, 2, 0, 7, 2));
    assert_ne!(a, b, "routers must differ or XDomains are confused");
}

#[test]
fn interrupts_are_spaced_by_the_throttling_register() {
    let throttle = 500; // 128 us
    let mut world = World::talking(&plain(), 0, throttle);
    let mut interrupts = 0;
    for _ in 0..1000 {
        world.send(0, 1, &[1; 64]);
        world.reap(0, 1);
        world.run_ns(1_000);
        let count = world.interrupts_of(1, false, 1);
        interrupts += count;
        if count > 0 {
            world.acknowledge(1, false, 1);
        }
        let frames = world.receive(1, 1).len() as u32;
        world.fill(1, 1, frames);
    }
    assert_eq!(interrupts, 8, "1 ms of frames, one interrupt each 128 us");
}

#[test]
fn the_line_rate_is_kept() {
    let mut world = World::talking(&pair(Profile::Strix, 1, Some(10_000_000_000), 0), 0, 0);
    let start = world.now;
    let mut received = 0;
    while received < 1000 {
        while world.drivers[0].memory.load_u32(0).is_ok() && received < 1000 {
            world.send(0, 1, &[1; 4096]);
            world.run_ns(3_500);
            world.reap(0, 1);
            let frames = world.receive(1, 1).len();
            received += frames;
            world.fill(1, 1, frames as u32);
        }
    }
    // 4160 bytes with headers, coded 132/128: 3432 ns each.
    let elapsed = world.now.ns_since(start);
    assert!((3_432_000..3_600_000).contains(&elapsed), "{elapsed}");
}

#[test]
fn a_cable_pulled_under_a_backlog_completes_all_of_it() {
    let mut world = World::talking(&pair(Profile::Strix, 1, Some(1_000_000_000), 100_000), 0, 0);
    for _ in 0..15 {
        world.send(0, 1, &[1; 4096]);
    }
    world.run_ns(150_000);
    world.fabric.set_plugged(0, false);
    world.run_ms(1);
    assert_eq!(world.reap(0, 1), 15);
    assert!(world.receive(1, 1).len() < 15);
}

#[test]
fn slack_sends_early_and_keeps_the_rate_on_average() {
    let mut world = World::talking(&pair(Profile::Strix, 1, Some(10_000_000_000), 500), 0, 0);
    world.fabric.set_slack(50_000);
    for _ in 0..10 {
        world.send(0, 1, &[1; 4096]);
    }
    assert_eq!(
        (world.reap(0, 1), world.receive(1, 1).len()),
        (10, 10),
        "34 us of frames at once"
    );
    world.fill(1, 1, 10);
    let start = world.now;
    let mut received = 0;
    while received < 1000 {
        world.send(0, 1, &[1; 4096]);
        world.run_ns(3_000);
        world.reap(0, 1);
        while world.drivers[0].in_flight(1) == RING - 1 {
            world.run_ns(1_000);
            world.reap(0, 1);
        }
        let frames = world.receive(1, 1).len();
        received += frames;
        world.fill(1, 1, frames as u32);
    }
    let elapsed = world.now.ns_since(start);
    assert!((3_380_000..3_480_000).contains(&elapsed), "{elapsed}");
}

#[test]
fn rings_share_a_line_fairly() {
    let topology = pair(Profile::Intel, 1, Some(10_000_000_000), 0);
    let mut world = World::talking(&topology, 0, 0);
    for nhi in [0, 1] {
        world.start_ring(nhi, true, 2, 0, 0);
        world.start_ring(nhi, false, 2, 0, 0);
        world.fill(nhi, 2, RING - 1);
    }
    world.connect_rings(0, 1, 2);
    for _ in 0..10 {
        world.send(0, 1, &[1; 4096]);
    }
    for _ in 0..10 {
        world.send(0, 2, &[2; 4096]);
    }
    world.run_ns(10 * 3_432);
    let (first, second) = (world.receive(1, 1).len(), world.receive(1, 2).len());
    assert!(first.abs_diff(second) <= 1 && first + second == 10, "{first} {second}");
}

#[test]
fn a_downgraded_cable_retrains_and_tells() {
    let mut world = World::linked(&plain());
    world.fabric.set_downgraded(0, true);
    world.run_ms(200);
    let events: Vec<u32> = world.take_control(0).iter().map(|packet| packet.words[2]).collect();
    assert_eq!(events, [1 | 1 << 31, 1]);
    let state = world.config_read(0, 1, 1, 0x11, 1).unwrap()[0];
    assert_eq!((state >> 16 & 0xf, state >> 20 & 0x3f), (8, 1));
}

#[test]
fn a_stopped_ring_forgets_what_was_on_the_wire() {
    let mut world = World::talking(&pair(Profile::Strix, 1, Some(1_000_000_000), 1000), E2E, 0);
    for _ in 0..5 {
        world.send(0, 1, &[1; 4096]);
    }
    world.stop_ring(0, true, 1);
    world.run_ms(1);
    assert!(world.receive(1, 1).is_empty());
    world.start_ring(0, true, 1, E2E, 0);
    for _ in 0..15 {
        world.send(0, 1, &[2; 64]);
    }
    world.run_ms(1);
    assert_eq!(world.receive(1, 1).len(), 15, "promised descriptors came back");
}
