// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The settings that are printed for a healthy host.

use super::*;
use crate::health::tests::{add_cable, healthy};
use crate::schema::same_as_file;
use clap::ValueEnum;

#[test]
fn the_schema_is_that_of_the_type() {
    same_as_file("app.json", schemars::schema_for!(AppReport));
}

#[test]
fn each_program_has_its_own_settings_with_no_place_left_open() {
    for app in App::value_variants() {
        let report = AppReport::of(&healthy(), *app, None).unwrap();
        let name = app.to_possible_value().unwrap();
        assert_eq!(report.app, name.get_name());
        let text = report.text(&healthy(), Paint::none());
        assert!(!text.contains('{') && !text.contains("ADDRESS-OF"), "{text}");
        let page = include_str!("../../../../docs/tool.md");
        assert!(
            page.contains(&format!("`{}`", report.app)),
            "docs/tool.md lacks {}",
            report.app
        );
    }
}

#[test]
fn settings_name_device_gid_and_addresses() {
    let report = AppReport::of(&healthy(), App::Ucx, Some("h1")).unwrap();
    let pair = &report.pairs[0];
    let variables: Vec<String> = pair
        .environment
        .iter()
        .map(|v| format!("{}={}", v.name, v.value))
        .collect();
    assert_eq!(
        variables,
        [
            "UCX_NET_DEVICES=usb4r0:1",
            "UCX_TLS=rc_verbs,ud_verbs:aux,self,sm",
            "UCX_IB_GID_INDEX=1"
        ]
    );
    assert_eq!(pair.here, ["ucx_perftest 10.85.15.178 -t tag_bw -s 1048576 -n 1000"]);
    let text = report.text(&healthy(), Paint::none());
    let first = "ucx to h1: usb4r0 port 1, GID 1, 10.85.15.177 over usb4net0, there 10.85.15.178";
    assert_eq!(text.lines().next(), Some(first));
}

#[test]
fn addresses_of_somebody_else_leave_the_peers_open() {
    let mut facts = healthy();
    facts.rdma[0].gids[0].address = "192.168.7.1".into();
    let report = AppReport::of(&facts, App::Perftest, None).unwrap();
    assert_eq!(report.pairs[0].peer_address, None);
    assert!(
        report.pairs[0].here[0].ends_with(" ADDRESS-OF-h1"),
        "{:?}",
        report.pairs[0].here
    );
}

#[test]
fn hosts_without_rdma_are_told_what_to_do() {
    let mut facts = healthy();
    add_cable(&mut facts, 1);
    let error = AppReport::of(&facts, App::Ucx, Some("h7")).unwrap_err().to_string();
    assert_eq!(error, "no cable leads to a host h7: there are h1");
    facts.rdma.clear();
    let error = AppReport::of(&facts, App::Ucx, None).unwrap_err().to_string();
    assert!(error.contains("`usb4rdma up`"), "{error}");
}

#[test]
fn values_are_quoted_for_the_shell_where_they_need_it() {
    assert_eq!(quoted("=usb4r0:1"), "=usb4r0:1");
    assert_eq!(quoted("verbs;ofi_rxm"), "'verbs;ofi_rxm'");
}

#[test]
fn what_is_not_installed_is_said() {
    let need = Need::Program("no-such-program", "nowhere");
    assert_eq!(
        missing(&need).as_deref(),
        Some("the program no-such-program is not installed here (nowhere)")
    );
    assert_eq!(missing(&Need::Program("sh", "everywhere")), None);
    assert!(missing(&Need::Library(&["libno-such"], "nowhere")).is_some());
}
