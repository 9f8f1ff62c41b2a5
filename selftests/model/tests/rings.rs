// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Rings whose DMA has a rate of its own, whatever the cable's.

mod common;

use common::*;
use usb4_model::*;

const RING_RATE: u64 = 12_000_000_000;
/// What 4096 bytes take at that rate: 2730.67 ns.
const FRAME_NS: u64 = 2731;
/// Frames that a ring of the test's driver holds.
const FULL: usize = RING as usize - 1;

/// A cable of a rate, and rings of [`RING_RATE`].
fn paced(rate: Option<u64>) -> Topology {
    Topology {
        ring_rate: Some(RING_RATE),
        ..pair(Profile::Intel, 1, rate, 0)
    }
}

/// The world with `count` rings of each host started and joined.
fn with_rings(topology: &Topology, count: u32) -> World {
    let mut world = World::talking(topology, 0, 0);
    for ring in 2..=count {
        for nhi in [0, 1] {
            world.start_ring(nhi, true, ring, 0, 0);
            world.start_ring(nhi, false, ring, 0, 0);
            world.fill(nhi, ring, RING - 1);
        }
        world.connect_rings(0, 1, ring);
    }
    world
}

/// Posts all that each of the rings holds; frames that each has delivered after `nanoseconds`.
fn delivered(world: &mut World, rings: u32, nanoseconds: u64) -> Vec<usize> {
    for ring in 1..=rings {
        for _ in 0..FULL {
            world.send(0, ring, &[ring as u8; 4096]);
        }
    }
    world.run_ns(nanoseconds);
    (1..=rings).map(|ring| world.receive(1, ring).len()).collect()
}

#[test]
fn a_ring_keeps_its_rate_on_a_faster_cable_and_on_one_without_a_rate() {
    for rate in [Some(36_000_000_000), None] {
        let mut world = with_rings(&paced(rate), 1);
        // Frame n is given to the line after n times what one takes; on the line it takes 953 ns, or none.
        assert_eq!(delivered(&mut world, 1, 9 * FRAME_NS + 1000), [10], "{rate:?}");
        world.run_ns(5 * FRAME_NS);
        assert_eq!(world.receive(1, 1).len(), FULL - 10);
        assert_eq!(world.reap(0, 1), FULL);
    }
}

#[test]
fn rings_of_one_cable_have_their_rates_side_by_side_until_the_cable_is_full() {
    let mut world = with_rings(&paced(Some(36_000_000_000)), 2);
    assert_eq!(delivered(&mut world, 2, 9 * FRAME_NS + 2000), [10, 10]);
    // Four of 12G want 48G of a cable that carries 34.4G of frames: 0.72 of what the rings could.
    let mut world = with_rings(&paced(Some(36_000_000_000)), 4);
    let each = delivered(&mut world, 4, 10 * FRAME_NS);
    let all: usize = each.iter().sum();
    assert!((27..=29).contains(&all), "{each:?}");
    assert!(each.iter().all(|&one| one.abs_diff(all / 4) <= 1), "{each:?}");
}

#[test]
fn a_cable_slower_than_its_rings_is_what_limits() {
    let mut world = with_rings(&paced(Some(10_000_000_000)), 1);
    // 3432 ns each.
    assert_eq!(delivered(&mut world, 1, 10 * 3_432), [10]);
}

#[test]
fn short_frames_take_a_ring_as_much_less_time() {
    let mut world = with_rings(&paced(None), 1);
    for _ in 0..FULL {
        world.send(0, 1, &[1; 256]);
    }
    // 171 ns each.
    world.run_ns(9 * 171);
    assert_eq!(world.receive(1, 1).len(), 10);
}

#[test]
fn each_direction_has_rings_of_its_own() {
    let mut world = with_rings(&paced(None), 1);
    for nhi in [0, 1] {
        for _ in 0..FULL {
            world.send(nhi, 1, &[nhi as u8; 4096]);
        }
    }
    world.run_ns(9 * FRAME_NS);
    assert_eq!((world.receive(0, 1).len(), world.receive(1, 1).len()), (10, 10));
}

#[test]
fn a_cable_pulled_while_a_ring_waits_for_its_dma_completes_all_of_it() {
    for rate in [Some(36_000_000_000), None] {
        let mut world = with_rings(&paced(rate), 1);
        for _ in 0..FULL {
            world.send(0, 1, &[1; 4096]);
        }
        // Nothing is on the wire at this moment.
        world.run_ns(2 * FRAME_NS - 500);
        world.fabric.set_plugged(0, false);
        world.run_ms(1);
        assert_eq!(world.reap(0, 1), FULL, "{rate:?}");
        assert_eq!(world.receive(1, 1).len(), 2);
    }
}

#[test]
fn a_ring_that_is_started_anew_does_not_wait_for_what_it_forgot() {
    let mut world = with_rings(&paced(None), 1);
    for _ in 0..FULL {
        world.send(0, 1, &[1; 4096]);
    }
    world.stop_ring(0, true, 1);
    world.start_ring(0, true, 1, 0, 0);
    let before = world.receive(1, 1).len() as u32;
    world.fill(1, 1, before);
    world.send(0, 1, &[2; 4096]);
    assert_eq!(world.receive(1, 1).len(), 1, "at once");
    // And the wake-up of the time before does no harm.
    world.send(0, 1, &[2; 4096]);
    world.run_ns(FRAME_NS);
    assert_eq!(world.receive(1, 1).len(), 1);
}
