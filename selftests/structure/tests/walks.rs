// SPDX-License-Identifier: GPL-2.0 OR MIT
//! docs/walks.md names only files and functions that exist.

use std::{fs, path::PathBuf};
use structure::top;

/// The file that a step names: `qp`, `kapi/timer`, `roce::retry` or `tbip::cut`, in one of the two halves.
fn files(name: &str) -> Vec<PathBuf> {
    let places = match name.split_once("::") {
        Some(("roce", rest)) => vec![format!("rdma/engine/{}.rs", rest.replace("::", "/"))],
        Some(("tbip", rest)) => vec![format!("net/proto/{}.rs", rest.replace("::", "/"))],
        _ => ["rdma", "net"].map(|half| format!("{half}/{name}.rs")).to_vec(),
    };
    places
        .into_iter()
        .map(|place| top().join(place))
        .filter(|place| place.exists())
        .collect()
}

/// Whether `text` defines `item`: a function, a type, a trait, a variant's type or a constant.
fn defines(text: &str, item: &str) -> bool {
    [
        "fn ",
        "struct ",
        "enum ",
        "trait ",
        "union ",
        "const ",
        "static ",
        "type ",
        "macro_rules! ",
    ]
    .iter()
    .any(|keyword| {
        text.match_indices(&format!("{keyword}{item}")).any(|(at, found)| {
            let next = text[at + found.len()..].chars().next();
            !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    })
}

fn is_name(s: &str) -> bool {
    !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "_:/".contains(c))
}

/// What is wrong with the step that `code`, the text between two backquotes, names; nothing if it names none.
fn fault(code: &str) -> Option<String> {
    let (name, item) = code.split_once(": ").unwrap_or((code, ""));
    let is_step = !item.is_empty()
        || ["kapi/", "ops/", "roce::", "tbip::"]
            .iter()
            .any(|start| name.starts_with(start));
    if code == "file: function" || !is_step || !is_name(name) || !(item.is_empty() || is_name(item)) {
        return None;
    }
    let files = files(name);
    if files.is_empty() {
        return Some(format!("`{code}`: there is no file {name}"));
    }
    let missing = |text: &str| {
        item.split("::")
            .find(|part| !part.is_empty() && !defines(text, part))
            .map(str::to_owned)
    };
    let missing: Vec<_> = files
        .iter()
        .map(|file| missing(&fs::read_to_string(file).expect("a file that exists")))
        .collect();
    if missing.iter().any(Option::is_none) {
        return None;
    }
    let part = missing
        .into_iter()
        .flatten()
        .next()
        .expect("one is missing in each file");
    Some(format!("`{code}`: {part} is not defined in {name}"))
}

#[test]
fn walks_name_only_files_and_functions_that_exist() {
    let text = fs::read_to_string(top().join("docs/walks.md")).expect("docs/walks.md");
    let mut steps = 0;
    let mut faults = vec![];
    for (number, line) in text.lines().enumerate() {
        for code in line.split('`').skip(1).step_by(2) {
            steps += usize::from(code.contains(": "));
            faults.extend(fault(code).map(|fault| format!("docs/walks.md:{}: {fault}", number + 1)));
        }
    }
    assert!(steps > 100, "only {steps} steps were read");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_step_that_names_nothing_is_found() {
    assert_eq!(fault("qp: work"), None);
    assert_eq!(fault("roce::retry: on_progress"), None);
    assert!(fault("qp: wor").is_some());
    assert!(fault("kapi/nowhere").is_some());
    assert!(fault("mr: Nothing::write").is_some());
    assert_eq!(fault("rdma link add usb4r0 type usb4 netdev thunderbolt0"), None);
}
