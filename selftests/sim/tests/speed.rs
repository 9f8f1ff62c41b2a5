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
const COUNT: usize = 400;

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
        };
        let mut world = World::new(&scenario);
        let ran = world.run().and_then(|()| oracle::verdict(&mut world));
        assert!(ran.is_ok(), "{ran:?}");
        Run {
            ns: world.finished(),
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
