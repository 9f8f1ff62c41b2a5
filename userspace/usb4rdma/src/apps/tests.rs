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
    }
}

/// Lines of at most 120 columns, the second and those after it behind two blanks.
fn item(text: &str) -> String {
    let mut lines = vec!["-".to_string()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 120 => *line += &format!(" {word}"),
            _ => lines.push(format!("  {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// The part of docs/recipes.md about one program.
fn on_the_page(app: App) -> String {
    let recipe = recipes::of(app);
    let report = AppReport::of(&healthy(), app, None).unwrap();
    let pair = &report.pairs[0];
    let tried = if recipe.tried {
        "Run and judged in the lab."
    } else {
        "Printed only, not tried here."
    };
    let mut text = format!("## {}\n\n", recipe.name);
    let first = format!("{}. {tried}", recipe.about);
    text += &item(&first)[2..].replace("\n  ", "\n");
    let fence = if recipe.tried {
        "sh printed tool_app"
    } else {
        "sh not-run"
    };
    let exports = pair.environment.iter();
    let exports: Vec<String> = exports
        .map(|v| format!("export {}={}", v.name, quoted(&v.value)))
        .collect();
    let on = |host: &str, line: &String| format!("{line:<60} # on {host}");
    let there = pair.on_peer.iter().map(|line| on(&pair.peer, line));
    let here = pair.here.iter().map(|line| on("this host", line));
    let lines: Vec<String> = exports.into_iter().chain(there).chain(here).collect();
    if !lines.is_empty() {
        text += &format!("\n```{fence}\n{}\n```\n", lines.join("\n"));
    }
    let needs = recipe.needs.iter().map(|need| match need {
        Need::Program(name, from) => format!("needs the program `{name}` ({from})"),
        Need::Library(names, from) => format!("needs the library `{}` ({from})", names.join("` or `")),
        Need::Python(name, from) => format!("needs the Python module `{name}` ({from})"),
        Need::Module(name, from) => format!("needs the kernel module `{name}` ({from})"),
    });
    let notes = pair.notes.iter().filter(|note| *note != recipes::UNTRIED).cloned();
    let items: String = needs.chain(notes).map(|text| item(&text)).collect();
    format!("{text}\n{items}")
}

#[test]
fn the_page_of_recipes_is_made_of_them() {
    const BEGIN: &str =
        "<!-- begin recipes: made by `USB4RDMA_BLESS=1 cargo test -p usb4rdma recipes`, edits are lost -->\n";
    const END: &str = "<!-- end recipes -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md");
    let kept = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = kept.split_once(BEGIN).expect("a place for the recipes");
    let (_, after) = rest.split_once(END).expect("an end of the recipes");
    let parts: Vec<String> = App::value_variants().iter().map(|app| on_the_page(*app)).collect();
    let made = format!("{before}{BEGIN}\n{}\n{END}{after}", parts.join("\n"));
    if std::env::var_os("USB4RDMA_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(
        made == kept,
        "docs/recipes.md: USB4RDMA_BLESS=1 cargo test -p usb4rdma recipes"
    );
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
