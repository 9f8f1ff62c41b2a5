// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Scenarios with direct lanes: long WRITEs to whole pages among everything else.

use super::{
    make_op, predict, schedule, Connection, EndPlan, Layout, LinkSpec, Op, Recv, Scenario, Twist, WindowSpec, ALL,
};
use crate::rng::Rng;
use roce::keys::Access;
use roce::limits;
use roce::qp::{Mtu, QpKind};
use roce::wqe::SendOp;

const PAGE: u64 = limits::WINDOW_PAGE as u64;

impl Scenario {
    /// The scenario of `seed` with direct lanes.
    pub fn with_windows(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x71_4d05);
        let mut rate = |most: f64| match rng.chance(0.5) {
            true => 0.0,
            false => most * (rng.below(1000) as f64) / 1000.0,
        };
        let (loss, corrupt) = (rate(0.02), rate(0.01));
        let windows = WindowSpec {
            loss: rate(0.004),
            spoil: rate(0.004),
            burst: rate(0.002),
            denial: rate(0.1),
            void: rate(0.1),
            busy: rate(0.05),
            unfit: rate(0.02),
            stall: rate(0.03),
        };
        let spec = LinkSpec {
            ns_per_kb: rng.pick(&[200, 800]),
            latency: rng.pick(&[500, 5_000, 30_000]),
            loss,
            corrupt,
            told: true,
            stripe: rng.pick(&[0, 0, 0, 0, 0, 0, 0, 40_000]),
            ..LinkSpec::default()
        };
        let quick = LinkSpec {
            ns_per_kb: 50,
            told: true,
            ..LinkSpec::default()
        };
        let count = rng.pick(&[1, 1, 2, 3]);
        Self {
            seed,
            hosts: 2,
            links: vec![quick, spec, spec, quick],
            connections: (0..count).map(|_| connection(&mut rng)).collect(),
            windows: Some(windows),
        }
    }
}

fn connection(rng: &mut Rng) -> Connection {
    let mtu = rng.pick(&[Mtu::B1024, Mtu::B4096, Mtu::B4096]);
    let mut layouts = [Layout::new(rng), Layout::new(rng)];
    let cells = [0, 1].map(|end: usize| layouts[end].take_eight(rng));
    let counts = [rng.range(1, 8) as usize, rng.below(6) as usize];
    let mut ops: [Vec<Op>; 2] = [Vec::new(), Vec::new()];
    let mut recvs: [Vec<Recv>; 2] = [Vec::new(), Vec::new()];
    for end in 0..2 {
        for _ in 0..counts[end] {
            let long = rng.chance(0.6);
            let choice: &[SendOp] = if long {
                &[SendOp::Write, SendOp::Write, SendOp::WriteImm]
            } else {
                &ALL
            };
            let (cell, fed) = (cells[1 - end], &mut recvs[1 - end]);
            let mut op = make_op(rng, (mtu, QpKind::Rc), None, choice, end, &mut layouts, cell, Some(fed));
            if long {
                // At times not whole pages, nor long enough.
                let tail = rng.pick(&[0, 0, 1, 8, PAGE - 1]);
                op.length = (PAGE * rng.range(24, 96) + tail) as u32;
                op.local = layouts[end].take(rng, op.length);
                let there = &mut layouts[1 - end];
                there.next = there.next.next_multiple_of(PAGE as usize) + rng.pick(&[0, 0, 0, 0, 8]);
                op.remote = there.take(rng, op.length);
            }
            ops[end].push(op);
        }
    }
    ops.iter_mut().for_each(|ops| predict(ops));
    let mut end_plan = |end: usize| EndPlan {
        memory: layouts[end].next + 64,
        base_va: rng.next() >> 1 & !(PAGE - 1),
        post_sends: schedule(rng, ops[end].len(), 100_000),
        post_recvs: schedule(rng, recvs[end].len(), 400_000),
        ops: std::mem::take(&mut ops[end]),
        recvs: std::mem::take(&mut recvs[end]),
        slots: rng.pick(&[2, 8, 64]),
        window: rng.pick(&[32, 128, 128]),
        read_window: rng.pick(&[16, 256]),
        reads: 4,
        psn: rng.pick(&[0, 0xff_ff80, 0x7f_ffc0, rng.clone().next() as u32]) & 0xff_ffff,
        rnr_timer: rng.pick(&[1, 12]),
        access: Access(0x30f),
        srq: rng.chance(0.2),
        cell: cells[end],
    };
    let ends = [end_plan(0), end_plan(1)];
    let end = rng.below(2) as usize;
    let at = rng.below(1_000_000);
    Connection {
        ends,
        hosts: rng.pick(&[[0, 1], [1, 0]]),
        kind: QpKind::Rc,
        v6: rng.chance(0.5),
        mtu,
        // 67 ms, as programs have it: a lane that begins anew takes longer than some.
        timeout: rng.pick(&[10, 12, 14]),
        retry: 7,
        rnr_retry: 7,
        twist: match rng.below(10) {
            0 => Twist::Death { end, at },
            1 => Twist::LocalError { end, at },
            2 => Twist::Drain {
                end,
                at,
                resume: at + rng.below(1_000_000),
            },
            _ => Twist::None,
        },
    }
}
