// SPDX-License-Identifier: GPL-2.0 OR MIT
//! docs/walks.md names only files and functions that exist, and a step leads to the next.

use std::fs;
use structure::{calls::Calls, top, Crate};

/// The file that a step names, by path from the top of the checkout: `qp`, `kapi/timer`, `roce::retry` or `tbip::cut`,
/// in one of the two halves.
fn files(name: &str) -> Vec<String> {
    let places = match name.split_once("::") {
        Some(("roce", rest)) => vec![format!("rdma/engine/{}.rs", rest.replace("::", "/"))],
        Some(("tbip", rest)) => vec![format!("net/proto/{}.rs", rest.replace("::", "/"))],
        _ => ["rdma", "net"].map(|half| format!("{half}/{name}.rs")).to_vec(),
    };
    places.into_iter().filter(|place| top().join(place).exists()).collect()
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
        .map(|file| missing(&fs::read_to_string(top().join(file)).expect("a file that exists")))
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

/// The functions that `text` names as steps: files, of which one is meant, and a name.
fn steps(text: &str) -> Vec<(Vec<String>, String)> {
    let codes = text.split('`').skip(1).step_by(2);
    codes
        .filter_map(|code| code.split_once(": "))
        .filter(|(name, item)| is_name(name) && is_name(item))
        .filter_map(|(name, item)| Some((files(name), item.rsplit("::").next()?.to_owned())))
        .collect()
}

/// The walks whose arrows lead where the code does not, and the number of arrows between two functions. A sentence may
/// name several functions before an arrow: one of them has to lead to the first that it names after the arrow.
fn astray(calls: &Calls, text: &str) -> (Vec<String>, usize) {
    let mut faults = vec![];
    let mut arrows = 0;
    for walk in text.split("\n\n").filter(|walk| walk.starts_with("**")) {
        let name = walk.split("**").nth(1).unwrap_or_default();
        let parts: Vec<_> = walk.split("->").map(|part| part.replace('\n', " ")).collect();
        for pair in parts.windows(2) {
            let [before, after] = pair else { continue };
            let before = steps(before.rsplit(". ").next().unwrap_or_default());
            let after = steps(after.split(". ").next().unwrap_or_default());
            let is_function = |(files, name): &&(Vec<String>, String)| files.iter().any(|file| calls.has(file, name));
            let Some((_, to)) = after.first().filter(is_function) else {
                continue;
            };
            let from: Vec<_> = before.iter().filter(is_function).collect();
            if from.is_empty() {
                continue;
            }
            arrows += 1;
            let leads = |(files, from): &&(Vec<String>, String)| files.iter().any(|file| calls.lead(file, from, to));
            if !from.iter().any(leads) {
                let from: Vec<_> = from.iter().map(|(_, name)| name).collect();
                faults.push(format!("docs/walks.md: {name} {from:?} leads to no {to}"));
            }
        }
    }
    (faults, arrows)
}

#[test]
fn a_walk_goes_from_step_to_step_as_the_code_does() {
    let roots: [(&str, &[&str]); 4] = [
        ("rdma/engine/roce.rs", &[]),
        ("rdma/usb4_rdma.rs", &["rdma/engine"]),
        ("net/tbnet.rs", &["net/proto", "net/sys"]),
        ("net/proto/tbip.rs", &[]),
    ];
    let crates = roots.map(|(root, apart)| Crate::read(root, apart));
    let calls = Calls::read(crates.iter().flat_map(|krate| krate.arrows.keys()));
    let text = fs::read_to_string(top().join("docs/walks.md")).expect("docs/walks.md");
    let (faults, arrows) = astray(&calls, &text);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(arrows > 40, "only {arrows} arrows were read");
    // Names alone would prove nothing if each function led to every other: of the arrows turned round many lead
    // nowhere.
    let parts: Vec<&str> = text.split("->").collect();
    let turned = parts
        .windows(2)
        .map(|pair| format!("**Turned.** {} -> {}", pair[1], pair[0]));
    let turned: Vec<_> = turned.map(|walk| astray(&calls, &walk.replace("\n\n", " "))).collect();
    let read: usize = turned.iter().map(|(_, arrows)| arrows).sum();
    let found = turned.iter().filter(|(faults, _)| !faults.is_empty()).count();
    println!("{arrows} arrows; of {read} turned ones {found} are found");
    assert!(found * 3 > read, "of {read} arrows turned round only {found} are found");
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
