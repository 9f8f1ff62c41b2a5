// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Two looks, a second apart, and what is told of them.

use super::sample::Cpu;
use super::*;
use crate::health::tests::healthy;
use crate::schema::same_as_file;
use ratatui::backend::TestBackend;
use ratatui::Terminal;

fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
}

/// A host with one cable and one queue pair, which has sent and received these bytes.
fn sample(at: f64, sent: u64, received: u64) -> Sample {
    let mut facts = healthy();
    facts.netdevs[0].counters = counts(&[
        ("tx_rdma_bytes", sent),
        ("rx_rdma_bytes", received),
        ("tx_bytes", 10),
        ("tx_frames", sent / 4096),
        ("rx_frames", received / 4096),
    ]);
    let details = [
        ("sent_bytes", sent),
        ("rcvd_bytes", received),
        ("sends_completed", sent / 65536),
        ("messages", 3),
    ];
    let qp = QueuePair {
        number: 0xa6003e,
        peer: Some(0xa400e9),
        kind: "RC".into(),
        state: "RTS".into(),
        pid: Some(179),
        details: counts(&details),
        ..QueuePair::default()
    };
    Sample {
        at,
        facts,
        cpu: Cpu {
            cores: 4,
            busy: at * 1.5,
            softirq: at * 0.25,
        },
        queue_pairs: vec![("usb4r0".into(), qp)],
        processes: [(179, ("ib_write_bw".to_string(), at * 0.5))].into(),
    }
}

#[test]
fn the_schema_is_that_of_the_type() {
    same_as_file("top.json", schemars::schema_for!(Top));
}

#[test]
fn rates_are_told_of_cable_and_queue_pair() {
    let top = Top::between(&sample(1.0, 0, 0), &sample(2.0, 1 << 30, 1 << 20));
    let text = top.text();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        text.lines().next(),
        Some("h0: over 1.0 s, 1.50 of 4 cores busy, 0.25 with packets and interrupts")
    );
    assert_eq!(
        lines[3],
        ["0-1", "usb4net0", "h1", "8.59", "0.01", "262400", "0", "0", "0", "-"]
    );
    assert_eq!(
        lines[6],
        [
            "usb4r0",
            "0xa6003e",
            "ib_write_bw",
            "0.50",
            "RC",
            "RTS",
            "8.59",
            "0.01",
            "16384",
            "3",
            "0",
            "0",
            "0",
            "0",
            "-"
        ]
    );
}

fn detail(sample: &mut Sample, name: &str, count: u64) {
    sample.queue_pairs[0].1.details.insert(name.into(), count);
}

#[test]
fn who_is_idle_says_why() {
    let before = sample(1.0, 5, 5);
    let why = |change: fn(&mut Sample)| {
        let mut after = sample(2.0, 5, 5);
        change(&mut after);
        let top = Top::between(&before, &after);
        let words = |idle: &Option<String>| idle.clone().unwrap_or_default();
        (words(&top.rails[0].idle), words(&top.queue_pairs[0].idle))
    };
    let told = |rail: &str, pair: &str| (rail.to_string(), pair.to_string());
    assert_eq!(
        why(|s| detail(s, "messages", 0)),
        told("nothing to send", "nothing posted")
    );
    assert_eq!(
        why(|s| detail(s, "unacked", 8)),
        told("nothing to send", "waits for the peer's acknowledgement")
    );
    assert_eq!(
        why(|s| detail(s, "peer_not_ready", 1)).1,
        "the peer has no receive posted"
    );
    assert_eq!(why(|_| ()), told("nothing to send", "waits for its turn"));
    assert_eq!(why(|s| s.queue_pairs[0].1.details.clear()).1, "only root is told");
    assert_eq!(why(|s| s.queue_pairs[0].1.state = "ERR".into()).1, "in state ERR");
    assert_eq!(why(|s| s.facts.netdevs[0].up = false).0, "the device is down");
    assert_eq!(
        why(|s| {
            s.facts.netdevs[0].carrier = false;
            s.facts.rdma[0].state = "down".into();
        }),
        told(
            "no carrier: the other host's device is down, or the link hangs",
            "the port is down"
        )
    );
}

#[test]
fn want_of_credit_is_told() {
    let (mut before, mut after) = (sample(1.0, 5, 5), sample(2.0, 5, 5));
    before.facts.netdevs[0].counters.insert("tx_no_credit".into(), 3);
    after.facts.netdevs[0].counters.insert("tx_no_credit".into(), 9);
    let top = Top::between(&before, &after);
    assert_eq!(top.rails[0].no_credit, 6);
    assert_eq!(top.rails[0].idle.as_deref(), Some("the peer gives no credit"));
    assert_eq!(top.queue_pairs[0].idle.as_deref(), Some("waits for the peer's credit"));
}

#[test]
fn counters_that_begin_anew_and_queue_pairs_that_are_new_have_no_rate() {
    let mut before = sample(1.0, 1 << 30, 0);
    assert_eq!(Top::between(&before, &sample(2.0, 4096, 0)).rails[0].out_gbps, 0.0);
    before.queue_pairs.clear();
    assert_eq!(
        Top::between(&before, &sample(2.0, 1 << 31, 0)).queue_pairs[0].out_gbps,
        0.0
    );
}

#[test]
fn the_terminal_shows_the_same() {
    let top = Top::between(&sample(1.0, 0, 0), &sample(2.0, 1 << 30, 0));
    let mut terminal = Terminal::new(TestBackend::new(140, 12)).unwrap();
    terminal.draw(|frame| draw(&top, false, frame)).unwrap();
    let screen = terminal.backend().to_string();
    for line in top.text().lines() {
        assert!(screen.contains(line.trim_end()), "{line} is not in\n{screen}");
    }
    assert!(screen.contains("blank pauses, q quits"), "{screen}");
}
