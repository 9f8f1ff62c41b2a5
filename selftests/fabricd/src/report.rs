// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Counters of the fabric as JSON.

use serde_json::{json, Value};
use usb4_model::cable::{Cable, State};
use usb4_model::nhi::Nhi;
use usb4_model::ring::{Counters, Ring};
use usb4_model::Injected;

use crate::service::Service;

/// Everything that is counted: time, NHIs with their rings, cables with their faults.
pub fn stat(service: &Service) -> Value {
    let sinks: Vec<Value> = service
        .sinks
        .iter()
        .map(|sink| {
            let counters = sink.lock().counters;
            json!({"sent": counters.sent, "waited": counters.waited, "calls": counters.calls})
        })
        .collect();
    service.with(|fabric, now| {
        fabric.step(now);
        let nhis = fabric.nhis().iter().enumerate();
        let nhis: Vec<Value> = nhis
            .map(|(index, nhi)| report_nhi(fabric.place_of(index), nhi, &sinks[index]))
            .collect();
        let cables = fabric.cables().iter().enumerate();
        let end = |cable: &Cable, end: usize| {
            let port = cable.ends[end];
            let (host, nhi) = fabric.place_of(port.nhi);
            json!([host, nhi, port.adapter / 2])
        };
        let cables: Vec<Value> = cables
            .map(|(index, cable)| report_cable(index, cable, &[end(cable, 0), end(cable, 1)]))
            .collect();
        json!({"now_ns": now.0, "nhis": nhis, "cables": cables})
    })
}

fn report_nhi<M>((host, index): (usize, usize), nhi: &Nhi<M>, sink: &Value) -> Value {
    let rings = |transmit: bool| -> Vec<Value> {
        let rings: Vec<&Ring> = if transmit {
            nhi.tx.iter().map(|tx| &tx.ring).collect()
        } else {
            nhi.rx.iter().map(|rx| &rx.ring).collect()
        };
        let used = |ring: &Ring| ring.is_enabled() || ring.counters != Counters::default();
        rings
            .iter()
            .enumerate()
            .filter(|(_, ring)| used(ring))
            .map(|(hop, ring)| report_ring(hop, ring))
            .collect()
    };
    let counters = nhi.counters;
    json!({
        "host": host,
        "nhi": index,
        "guest": nhi.memory.is_some(),
        "mmio_reads": counters.mmio_reads,
        "mmio_writes": counters.mmio_writes,
        "control_packets": counters.control_packets,
        "control_dropped": counters.control_dropped,
        "bad_dma": counters.bad_dma,
        "interrupts": nhi.irq.signals().iter().sum::<u64>(),
        "vectors": nhi.irq.signals(),
        "interrupts_raised_again": nhi.irq.raised_again,
        "interrupts_lost": nhi.irq.lost,
        "messages": sink,
        "tx": rings(true),
        "rx": rings(false),
    })
}

fn report_ring(hop: usize, ring: &Ring) -> Value {
    let counters = ring.counters;
    json!({
        "ring": hop,
        "enabled": ring.is_enabled(),
        "size": ring.size(),
        "posted": ring.posted(),
        "frames": counters.frames,
        "bytes": counters.bytes,
        "doorbells": counters.doorbells,
        "interrupts": counters.interrupts,
        "drops": counters.drops,
        "stalls": counters.stalls,
    })
}

fn report_cable(index: usize, cable: &Cable, ends: &[Value; 2]) -> Value {
    let state = match cable.state {
        State::Down => "down",
        State::Training { .. } => "training",
        State::Up => "up",
    };
    let Injected {
        drop,
        corrupt,
        duplicate,
        delay,
        reorder,
        strand,
        lost_irq,
        overrun,
    } = cable.faults.injected;
    let rules = cable.faults.rules();
    let line = |end: usize| json!({"frames": cable.lines[end].frames, "bytes": cable.lines[end].bytes});
    json!({
        "cable": index,
        "a": ends[0],
        "b": ends[1],
        "state": state,
        "plugged": cable.plugged,
        "downgraded": cable.downgraded,
        "lane_bps": cable.speed().bits_per_second(),
        "rate_bps": cable.rate,
        "latency_ns": cable.latency_ns,
        "a_to_b": line(0),
        "b_to_a": line(1),
        "faults": {
            "drop": drop, "corrupt": corrupt, "dup": duplicate, "delay": delay, "reorder": reorder,
            "strand": strand, "lost_irq": lost_irq, "overrun": overrun,
        },
        "rules": {
            "drop": rules.drop, "corrupt": rules.corrupt, "dup": rules.duplicate, "delay": rules.delay,
            "delay_ns": rules.delay_ns, "reorder": rules.reorder, "strand": rules.strand,
            "lost_irq": rules.lost_irq, "overrun": rules.overrun,
        },
    })
}
