// SPDX-License-Identifier: GPL-2.0 OR MIT
//! How long a stream takes in virtual time: what waiting and sending again cost.

use roce::counters::Counters;
use roce::keys::Access;
use roce::qp::{Mtu, QpKind};
use roce::wqe::SendOp;
use sim::link::LinkSpec;
use sim::oracle;
use sim::scenario::{Connection, EndPlan, Op, Recv, Region, Scenario, Twist};
use sim::world::World;

/// Messages of a stream.
const COUNT: usize = 200;

/// A stream of equal messages from end 0 to end 1.
struct Stream {
    seed: u64,
    op: SendOp,
    length: u32,
    /// Nanoseconds from one receive to the next; 0: all are there.
    every: u64,
    rnr_timer: u8,
    link: LinkSpec,
}

/// When it was over, and what the two ends have counted.
struct Run {
    ns: u64,
    lost: u64,
    counters: [Counters; 2],
}

impl Stream {
    fn new(op: SendOp, length: u32) -> Self {
        Self {
            seed: 1,
            op,
            length,
            every: 0,
            rnr_timer: 1,
            link: LinkSpec {
                ns_per_kb: 800,
                latency: 5_000,
                ..LinkSpec::default()
            },
        }
    }

    fn run(&self) -> Run {
        let place = |index: usize| 64 + index * (self.length as usize + 64);
        let consumes = matches!(self.op, SendOp::Send | SendOp::WriteImm);
        let op = |index| Op {
            op: self.op,
            length: self.length,
            local: place(index),
            remote: place(index),
            region: Region::Open,
            imm: [0; 4],
            signalled: true,
            solicited: false,
            fence: false,
            bad: None,
            before: 0,
            after: 0,
            recv: consumes.then_some(index),
        };
        let recv = |index| Recv {
            length: self.length,
            local: place(index),
            bad: None,
        };
        let end = |ops: Vec<Op>, recvs: Vec<Recv>| EndPlan {
            memory: place(COUNT) + 64,
            base_va: 0x1000,
            post_sends: vec![(0, ops.len())],
            post_recvs: match self.every {
                0 => vec![(0, recvs.len())],
                every => (0..recvs.len()).map(|n| (n as u64 * every, 1)).collect(),
            },
            ops,
            recvs,
            slots: 128,
            window: 128,
            read_window: 256,
            reads: 16,
            psn: 100,
            rnr_timer: self.rnr_timer,
            access: Access(0x30f),
            srq: false,
            cell: 0,
        };
        let recvs = if consumes { COUNT } else { 0 };
        let connection = Connection {
            ends: [
                end((0..COUNT).map(op).collect(), Vec::new()),
                end(Vec::new(), (0..recvs).map(recv).collect()),
            ],
            hosts: [0, 1],
            kind: QpKind::Rc,
            v6: false,
            mtu: Mtu::B4096,
            timeout: 14,
            retry: 7,
            rnr_retry: 7,
            twist: Twist::None,
        };
        let scenario = Scenario {
            seed: self.seed,
            hosts: 2,
            links: vec![self.link; 4],
            connections: vec![connection],
            windows: None,
        };
        let mut world = World::new(&scenario);
        let ran = world.run().and_then(|()| oracle::verdict(&mut world));
        assert!(ran.is_ok(), "{ran:?}");
        Run {
            ns: world.finished(),
            lost: world.links.iter().map(|link| link.lost).sum(),
            counters: [0, 1].map(|e| *world.endpoints[e].engine.counters()),
        }
    }
}

/// A receiver somewhat slower than its sender loses little by being asked less often the longer it takes.
#[test]
fn a_slow_receiver_is_not_made_slower() {
    for every in [12_000, 30_000, 100_000, 400_000] {
        let stream = Stream {
            every,
            ..Stream::new(SendOp::Send, 4096)
        };
        let run = stream.run();
        let least = every * (COUNT as u64 - 1);
        let share = run.ns * 100 / least;
        let [_, peer] = run.counters;
        println!("a receive every {every} ns: {share} %, {} RNR NAKs", peer.sent_rnr_naks);
        assert!(
            share <= 115,
            "a receive every {every} ns: {share} % of the time it needs"
        );
    }
}

/// One cable and one that is two in turn carry a stream about as fast, whatever the polls make of the order.
#[test]
fn packets_that_overtake_each_other_cost_little() {
    for (op, name) in [(SendOp::Write, "WRITE"), (SendOp::Send, "SEND"), (SendOp::Read, "READ")] {
        for stripe in [10_000, 50_000, 200_000] {
            let mut stream = Stream::new(op, 16 * 4096);
            // The round trip is as long as with polls, without them.
            stream.link.latency += stripe / 2;
            let plain = stream.run();
            stream.link.latency -= stripe / 2;
            stream.link.stripe = stripe;
            let run = stream.run();
            let share = run.ns * 100 / plain.ns;
            let [ours, peer] = run.counters;
            println!(
                "{name} striped every {stripe} ns: {share} % of the time of one cable, {} NAKs, {} gaps, {} retries",
                peer.sent_seq_naks, ours.response_gaps, ours.retries
            );
            assert!(share <= 130, "{name} striped every {stripe} ns: {share} %");
        }
    }
}

/// On a cable that keeps the order a loss is told at once, and costs no more where what follows is kept than where all
/// of it is sent again.
#[test]
fn a_loss_is_told_at_once() {
    for (op, name) in [(SendOp::Write, "WRITE"), (SendOp::Read, "READ")] {
        // The seed decides whether the receiver has room for what follows (`World::room`).
        let [kept, not_kept] = [0, 3].map(|rest| {
            let (mut ns, mut lost, mut timeouts) = (0, 0, 0);
            for seed in 0..4 {
                let mut stream = Stream {
                    seed: 12 * seed + rest,
                    ..Stream::new(op, 16 * 4096)
                };
                let clean = stream.run();
                stream.link.loss = 0.002;
                let run = stream.run();
                ns += run.ns.saturating_sub(clean.ns);
                lost += run.lost;
                timeouts += run.counters[0].timeouts;
            }
            println!(
                "{name}: {lost} packets lost, {} ns each, {timeouts} timeouts",
                ns / lost
            );
            ns / lost
        });
        assert!(
            kept <= not_kept + not_kept / 10,
            "{name}: {kept} and {not_kept} ns for a loss"
        );
    }
}
