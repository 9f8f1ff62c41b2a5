// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Reading what programs in guests print: perftest, the pingpong examples, iperf3, /proc.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// One row of a perftest bandwidth table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    pub bytes: u64,
    pub iterations: u64,
    /// Average, MiB/s.
    pub mib_s: f64,
    /// Million messages a second.
    pub mega_messages_s: f64,
}

/// One row of a perftest latency table, microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub bytes: u64,
    pub typical_us: f64,
    pub average_us: f64,
    pub p99_us: f64,
}

/// Result of `ibv_rc_pingpong`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PingPong {
    pub iterations: u64,
    pub us_per_iteration: f64,
}

/// All rows of a bandwidth table.
pub fn bandwidth(text: &str) -> Result<Vec<Bandwidth>> {
    let rows: Vec<Bandwidth> = rows(text)
        .filter_map(|n| {
            Some(Bandwidth {
                bytes: *n.first()? as u64,
                iterations: *n.get(1)? as u64,
                mib_s: *n.get(3)?,
                mega_messages_s: n.get(4).copied().unwrap_or(0.0),
            })
        })
        .collect();
    (!rows.is_empty())
        .then_some(rows)
        .with_context(|| format!("no bandwidth table in:\n{text}"))
}

/// The row of a latency table.
pub fn latency(text: &str) -> Result<Latency> {
    let row = rows(text).next().filter(|n| n.len() >= 8);
    let row = row.with_context(|| format!("no latency table in:\n{text}"))?;
    Ok(Latency {
        bytes: row[0] as u64,
        typical_us: row[4],
        average_us: row[5],
        p99_us: row[7],
    })
}

/// Numbers of the lines that follow a "#bytes" heading.
fn rows(text: &str) -> impl Iterator<Item = Vec<f64>> + '_ {
    text.lines()
        .skip_while(|line| !line.trim_start().starts_with("#bytes"))
        .skip(1)
        .take_while(|line| !line.starts_with("---"))
        .map(|line| {
            line.split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect::<Vec<f64>>()
        })
        .filter(|row| row.len() >= 4)
}

/// The result line of a pingpong example.
pub fn pingpong(text: &str) -> Result<PingPong> {
    let line = text.lines().find(|line| line.contains("iters in"));
    let words: Vec<&str> = line.map(|l| l.split_whitespace().collect()).unwrap_or_default();
    let parsed = match words.as_slice() {
        [iterations, "iters", "in", _, "seconds", "=", us, "usec/iter"] => iterations.parse().ok().zip(us.parse().ok()),
        _ => None,
    };
    let (iterations, us_per_iteration) = parsed.with_context(|| format!("no pingpong result in:\n{text}"))?;
    Ok(PingPong {
        iterations,
        us_per_iteration,
    })
}

/// Bits per second and bytes that the receiver of an `iperf3 -J` run counted.
pub fn iperf(text: &str) -> Result<(f64, f64)> {
    let report: Value = serde_json::from_str(text).with_context(|| format!("iperf3 printed:\n{text}"))?;
    let sum = &report["end"]["sum_received"];
    let error = || format!("iperf3: {}", report["error"].as_str().unwrap_or("no result"));
    Ok((
        sum["bits_per_second"].as_f64().with_context(error)?,
        sum["bytes"].as_f64().with_context(error)?,
    ))
}

/// Round trips that `ping` printed, microseconds.
pub fn ping_times_us(text: &str) -> Vec<f64> {
    let time = |line: &str| -> Option<f64> {
        let (_, rest) = line.split_once("time=")?;
        Some(rest.split_whitespace().next()?.parse::<f64>().ok()? * 1000.0)
    };
    text.lines().filter_map(time).collect()
}

/// Nanoseconds of the median round trip that `ethtool -t` printed.
pub fn round_trip(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with("round trip, median, ns"));
    let number = line.and_then(|line| line.split_whitespace().last());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no median round trip in\n{text}"))
}

/// Microseconds of a round, if the line is that one of the verbs examples.
pub fn round_us(line: &str) -> Option<f64> {
    line.strip_suffix(" usec/iter")?.split_whitespace().last()?.parse().ok()
}

/// Counters that `ethtool -S` printed.
pub fn ethtool_counters(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().rsplit_once(": ")?;
            Some((name.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Active objects of each slab cache, from /proc/slabinfo.
pub fn slabs(text: &str) -> BTreeMap<String, i64> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_string(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// Kibibytes that each slab cache has taken, from /proc/slabinfo.
pub fn slab_kib(text: &str) -> BTreeMap<String, i64> {
    const PAGE_KIB: i64 = 4;
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let pages: i64 = words.get(5)?.parse().ok()?;
            let data = words.iter().position(|word| *word == "slabdata")?;
            let slabs: i64 = words.get(data + 2)?.parse().ok()?;
            Some((words[0].to_string(), slabs * pages * PAGE_KIB))
        })
        .collect()
}

/// Kibibytes of each entry of /proc/meminfo.
pub fn meminfo(text: &str) -> BTreeMap<String, i64> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name.to_string(), rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANDWIDTH: &str = "\
---------------------------------------------------------------------------------------
                    Send BW Test
 Mtu             : 4096[B]
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]
 2          1000             0.05               0.04   \t\t     0.021
 65536      1000             24.75              19.28  \t\t     0.000309
---------------------------------------------------------------------------------------
";

    #[test]
    fn bandwidth_tables_give_all_rows() {
        let rows = bandwidth(BANDWIDTH).unwrap();
        assert_eq!(
            rows[0],
            Bandwidth {
                bytes: 2,
                iterations: 1000,
                mib_s: 0.04,
                mega_messages_s: 0.021
            }
        );
        assert_eq!(rows[1].mib_s, 19.28);
        assert!(bandwidth("Couldn't connect to 10.90.0.2:18515\n").is_err());
    }

    #[test]
    fn latency_tables_give_typical_average_and_tail() {
        let text = "---\n #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    \
                    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] \n \
                    8       1000          126.67         14006.45      1955.06  \t       2339.33     \t2322.69\t\t\
                    9999.93 \t\t14006.45\n---\n";
        let row = latency(text).unwrap();
        assert_eq!(
            (row.bytes, row.typical_us, row.average_us, row.p99_us),
            (8, 1955.06, 2339.33, 9999.93)
        );
    }

    #[test]
    fn pingpong_counts_iterations() {
        let text = "1638400 bytes in 1.42 seconds = 9.22 Mbit/sec\n200 iters in 1.42 seconds = 7108.30 usec/iter\n";
        assert_eq!(
            pingpong(text).unwrap(),
            PingPong {
                iterations: 200,
                us_per_iteration: 7108.30
            }
        );
        assert!(pingpong("Couldn't get local LID").is_err());
    }

    #[test]
    fn iperf_errors_are_told() {
        let good = r#"{"end": {"sum_received": {"bytes": 10, "bits_per_second": 80.0}}}"#;
        assert_eq!(iperf(good).unwrap(), (80.0, 10.0));
        let bad = r#"{"end": {}, "error": "unable to connect"}"#;
        assert!(format!("{:#}", iperf(bad).unwrap_err()).contains("unable to connect"));
    }

    #[test]
    fn proc_tables() {
        let text = "slabinfo - version: 2.1\n# name <active>\nkmalloc-64 120 128 64 : tunables\n";
        assert_eq!(slabs(text)["kmalloc-64"], 120);
        let text = "slabinfo - version: 2.1\n# name <active_objs>\n\
                    kmalloc-64 120 128 64 32 2 : tunables 0 0 0 : slabdata 4 5 0\n";
        assert_eq!(slab_kib(text)["kmalloc-64"], 40);
        assert_eq!(meminfo("MemTotal:  100 kB\nMemFree: 7 kB\n")["MemFree"], 7);
    }

    #[test]
    fn ping_and_ethtool_lines_are_read() {
        let test = "The test result is PASS\nThe test extra info:\nround trip, median, ns\t 33536\n";
        assert_eq!(round_trip(test).unwrap(), 33536.0);
        assert!(round_trip("The test result is FAIL\n").is_err());
        assert_eq!(round_us("1000 iters in 0.00 seconds = 2.64 usec/iter"), Some(2.64));
        assert_eq!(round_us("128000 bytes in 0.00 seconds = 388.32 Mbit/sec"), None);
        let ping =
            "64 bytes from 10.90.0.2: icmp_seq=1 ttl=64 time=1.26 ms\n64 bytes: time=0.519 ms\n2 packets, time 3ms\n";
        assert_eq!(ping_times_us(ping), [1260.0, 519.0]);
        let counters = ethtool_counters("NIC statistics:\n     tx_copied_bytes: 12\n     rx_zerocopy_bytes: 4096\n");
        assert_eq!((counters["tx_copied_bytes"], counters["rx_zerocopy_bytes"]), (12, 4096));
    }
}
