// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Figures, made up, and what is made of them.

use super::*;
use crate::schema::same_as_file;
use run::Figure;

fn row(test: Test, size: u64, values: &[f64]) -> Row {
    let figures: Vec<Figure> = values
        .iter()
        .map(|value| Figure {
            value: *value,
            p99: value * 2.0,
            busy_here: 0.5,
            busy_there: 0.25,
        })
        .collect();
    Row::of(test, size, &figures)
}

fn made() -> Bench {
    let machine = |host: &str| Machine {
        host: host.into(),
        kernel: "7.3.4".into(),
        module: "0123456789abcdef".into(),
        cores: 4,
        iommu: Some(false),
        device: "usb4r0".into(),
        netdev: "usb4net0".into(),
        mtu: 65522,
        gid_index: 1,
    };
    Bench {
        version: VERSION,
        here: machine("h0"),
        there: machine("h1"),
        link: Wire { cables: 1, gbps: 40.0 },
        seconds: 1,
        runs: 3,
        rows: vec![
            row(Test::RdmaWrite, 64, &[0.5, 0.4, 0.6]),
            row(Test::RdmaWrite, 65536, &[30.0, 31.0, 29.0]),
            row(Test::Tcp, 65536, &[10.0]),
            row(Test::RdmaWriteLatency, 64, &[7.0, 9.0, 8.0]),
        ],
        left_out: vec!["RDMA READ: <none>".into()],
    }
}

#[test]
fn the_schema_is_that_of_the_type() {
    same_as_file("bench.json", schemars::schema_for!(Bench));
}

#[test]
fn a_row_is_the_median_with_its_spread() {
    let row = row(Test::RdmaWriteLatency, 64, &[7.0, 9.0, 8.0]);
    assert_eq!((row.median, row.least, row.most, row.p99), (8.0, 7.0, 9.0, Some(16.0)));
}

#[test]
fn what_the_cables_cannot_carry_is_refused() {
    assert_eq!(above_the_wire(&row(Test::Tcp, 64, &[39.0]), 40.0), None);
    assert_eq!(
        above_the_wire(&row(Test::Tcp, 64, &[39.0, 57.0]), 40.0).as_deref(),
        Some("TCP, 64 bytes: 57.0 Gb/s is above the 40 Gb/s of the cables: refused")
    );
    assert_eq!(above_the_wire(&row(Test::TcpLatency, 64, &[57.0]), 40.0), None);
}

#[test]
fn the_table_says_where_it_comes_from() {
    let text = made().text();
    assert!(
        text.starts_with("h0 (kernel 7.3.4, module 0123456789ab, 4 cores, IOMMU protection off, usb4r0"),
        "{text}"
    );
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[3],
        ["RDMA", "WRITE", "64", "0.50", "Gb/s", "0.40", "0.60", "-", "0.50", "0.25"]
    );
}

#[test]
fn each_row_of_the_csv_describes_itself() {
    let csv = made().csv();
    let columns = |line: &str| line.matches(',').count();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 5);
    // The names of latencies have a comma, in quotes.
    assert_eq!(columns(lines[1]), columns(lines[0]));
    assert!(lines[1].starts_with("\"RDMA WRITE\",64,Gb/s,0.5,"), "{}", lines[1]);
}

#[test]
fn the_page_has_both_plots_with_axes_and_units() {
    let page = html(&made()).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    for words in [
        "bytes of a message",
        "Gb/s",
        "microseconds",
        "Bandwidth, one way",
        "Latency, one way",
        "RDMA WRITE",
        "64 KiB",
        "&lt;none&gt;",
    ] {
        assert!(page.contains(words), "{words} is not on the page");
    }
    assert!(!page.contains("src=") && !page.contains("href="), "it loads something");
}
