// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Programs of the distribution over our device, as they come: rdma_cm's tools, qperf, UCX, libfabric, rdma-core's
//! tests.

use super::{pair, Case, Context};
use crate::duo::{Played, Run};
use crate::suite;
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Context as _, Result};

pub const CASES: &[Case] = &[
    pair(
        "tools_rdma_cm",
        "rping, ucmatose, udaddy, rdma_xserver, rdma_server: ours with ours, and with rxe both ways",
        rdma_cm,
    ),
    pair(
        "tools_qperf",
        "qperf over RC: bandwidth, latency, atomics with their results checked",
        qperf,
    ),
    pair(
        "tools_ucx",
        "ucx_perftest with its default settings, and over rc_verbs and ud_verbs alone",
        ucx,
    ),
    pair(
        "tools_libfabric",
        "fi_pingpong over verbs: messages, datagrams, and ofi_rxm",
        libfabric,
    ),
    pair(
        "tools_pyverbs",
        "rdma-core's own tests of queue pairs, completions, regions and rdma_cm: no failure",
        pyverbs,
    ),
];

/// Modules of rdma-core's suite that `make check` runs; `usb4lab pyverbs` runs all.
const QUICK: [&str; 10] = [
    "test_addr",
    "test_atomic",
    "test_cq",
    "test_cq_events",
    "test_cqex",
    "test_pd",
    "test_qp",
    "test_rdmacm",
    "test_relaxed_ordering",
    "test_srq",
];

fn run(id: &str, server: String, client: String, listen: &str) -> Run {
    Run {
        id: id.into(),
        server,
        client,
        listen: listen.into(),
        limit: 60,
    }
}

fn rdma_cm(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.play_all(lab, &cm_tools(&pair))?;
    pair.delete(lab)?;
    let mixed = Pair::add(lab, context.ours, Kind::Rxe)?;
    mixed.play_all(lab, &cm_tools(&mixed))?;
    mixed.turned().play_all(lab, &cm_tools(&mixed.turned()))?;
    mixed.delete(lab)
}

fn cm_tools(pair: &Pair) -> Vec<Run> {
    let (four, six) = (
        &pair.server.ipv4,
        crate::spec::ipv6(pair.server.cable, pair.server.host),
    );
    let both = |id: &str, server: &str, client: String, port: &str| run(id, server.into(), client, port);
    vec![
        both(
            "rping",
            "rping -s -V -C 20",
            format!("rping -c -a {four} -V -C 20"),
            "cm:7174",
        ),
        both(
            "rping, 60000 bytes",
            "rping -s -V -S 60000 -C 5",
            format!("rping -c -a {four} -V -S 60000 -C 5"),
            "cm:7174",
        ),
        both(
            "rping, IPv6",
            "rping -s -a :: -V -C 20",
            format!("rping -c -a {six} -V -C 20"),
            "cm:7174",
        ),
        both(
            "ucmatose",
            "ucmatose -C 50 -S 4096 -c 4",
            format!("ucmatose -s {four} -C 50 -S 4096 -c 4"),
            "cm:7471",
        ),
        both(
            "udaddy",
            "udaddy -C 50 -S 1000 -c 2",
            format!("udaddy -s {four} -C 50 -S 1000 -c 2"),
            "cm:7174",
        ),
        both(
            "rdma_xserver",
            "rdma_xserver -c r -p 7471",
            format!("rdma_xclient -s {four} -c r -p 7471"),
            "cm:7471",
        ),
        both(
            "rdma_server",
            "rdma_server -p 7471",
            format!("rdma_client -s {four} -p 7471"),
            "cm:7471",
        ),
    ]
}

fn qperf(context: &Context) -> Result<()> {
    const TESTS: [&str; 7] = [
        "rc_bw",
        "rc_lat",
        "rc_rdma_read_bw",
        "rc_rdma_write_bw",
        "rc_rdma_write_lat",
        "ver_rc_compare_swap",
        "ver_rc_fetch_add",
    ];
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let to = &pair.server.ipv4;
    // Its server tells the rdma_cm port before it listens there: a call that was refused is made again.
    let line = format!(
        "for t in {}; do n=0; until qperf -t 1 -cm 1 {to} $t; do n=$((n+1)); [ $n -lt 5 ] || exit 1; done; done; qperf {to} quit",
        TESTS.join(" ")
    );
    let played = pair.play_all(lab, &[run("qperf", "qperf".into(), line, "tcp:19765")])?;
    for test in TESTS {
        ensure!(
            played[0].client.out.contains(&format!("{test}:\n")),
            "qperf shows no result of {test}:\n{}",
            played[0].client.out
        );
    }
    pair.delete(lab)
}

/// A run of `ucx_perftest` over a pair's devices, with settings of UCX, and arguments of both sides, in which DEVICE
/// stands for their own.
pub fn ucx_run(pair: &Pair, id: &str, settings: &str, server: &str, client: &str) -> Run {
    let to = &pair.server.ipv4;
    // Without a terminal it waits for mpirun.
    let line = |device: &str, arguments: &str| {
        format!("UCX_NET_DEVICES={device}:1 {settings} script -qec 'ucx_perftest {arguments}' /dev/null")
    };
    let on = |arguments: &str, device: &str| arguments.replace("DEVICE", &format!("{device}:1"));
    run(
        id,
        line(&pair.server.name, &on(server, &pair.server.name)),
        line(&pair.client.name, &format!("{to} {}", on(client, &pair.client.name))),
        "tcp:13337",
    )
}

fn ucx(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let both = |id: &str, tls: &str, server: &str, client: &str| ucx_run(&pair, id, tls, server, client);
    let mut runs = Vec::new();
    for test in ["tag_lat", "tag_bw", "ucp_put_bw", "ucp_get", "ucp_am_lat", "ucp_fadd"] {
        runs.push(both(
            &format!("defaults, {test}"),
            "",
            "-n 100",
            &format!("-t {test} -n 100"),
        ));
    }
    runs.push(both(
        "defaults, tag_bw 1 MiB",
        "",
        "-n 20",
        "-t tag_bw -n 20 -s 1048576",
    ));
    for tls in ["rc_verbs", "ud_verbs"] {
        // Connections of rc_verbs are made over ud_verbs.
        let chosen = format!("UCX_TLS={tls},ud_verbs:aux");
        runs.push(both(
            &format!("{tls}, tag_bw 64 KiB"),
            &chosen,
            "-n 50",
            "-t tag_bw -n 50 -s 65536",
        ));
        let test = if tls == "rc_verbs" { "put_bw" } else { "am_bw" };
        let arguments = format!("-d DEVICE -x {tls} -n 100");
        runs.push(both(
            &format!("{tls}, {test}"),
            "",
            &arguments,
            &format!("-t {test} {arguments}"),
        ));
    }
    for played in pair.play_all(lab, &runs)? {
        ensure!(
            played.client.out.contains("Final:"),
            "{} came to no figure:\n{}{}",
            played.id,
            played.client.out,
            played.client.err
        );
    }
    pair.delete(lab)
}

fn libfabric(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let to = &pair.server.ipv4;
    let runs: Vec<Run> = [
        ("messages", "-p verbs -e msg"),
        ("datagrams", "-p verbs -e dgram"),
        ("ofi_rxm", "-p 'verbs;ofi_rxm' -e rdm"),
    ]
    .into_iter()
    .map(|(id, arguments)| {
        let line = format!("fi_pingpong {arguments} -I 20 -c");
        run(id, line.clone(), format!("{line} {to}"), "tcp:47592")
    })
    .collect();
    let (rxm, others) = runs.split_last().context("no runs")?;
    pair.play_all(lab, others)?;
    // libfabric 2.1's passive side was seen to read through a null pointer when the peer disconnects, believed to be
    // its own doing, and the data have been compared by then.
    for attempt in 1..=3 {
        let played = pair.play(lab, std::slice::from_ref(rxm))?;
        let left = played
            .first()
            .filter(|p| p.client.status == 0 && p.server.status == 139);
        if let Some(trouble) = played.iter().find_map(Played::trouble) {
            ensure!(left.is_some() && attempt < 3, "{trouble}");
            continue;
        }
        break;
    }
    pair.delete(lab)
}

fn pyverbs(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let report = suite::suite(lab, &pair.client, &QUICK)?;
    let failed = suite::failures(&report);
    ensure!(failed.is_empty(), "{failed:#?}");
    pair.delete(lab)
}
