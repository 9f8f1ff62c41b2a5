// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The book (README.md, docs/): every link leads somewhere, every command is run by a test or says that it is not, no
//! page is left out, no known slip of the pen. `make docs` looks at what mdBook makes of it as well.
//!
//! A block of commands says on its fence who runs it:
//!
//! | fence | who |
//! |---|---|
//! | `sh both`, `sh each`, `sh first`, `sh second`, `sh third` | a case of the lab that types in the page, on that host |
//! | `sh by NAME` | the case of the lab, or the script of the tree, of that name runs these commands |
//! | `sh printed NAME` | that case of the lab takes these lines from what the tool prints, and the page is made of it |
//! | `sh not-run` | nobody: it takes hardware, hours, or what the lab has not |

use std::{fs, ops::Range, path::Path};
use structure::{
    pages::{self, mentions, Block, Page},
    top,
};

/// Hosts of a page that is typed in.
const HOSTS: [&str; 5] = ["both", "each", "first", "second", "third"];
/// What a line of commands begins with. A block without a fence's mark may not.
const PROGRAMS: [&str; 30] = [
    "usb4rdma",
    "usb4lab",
    "target/release/usb4lab",
    "make",
    "ip",
    "rdma",
    "modprobe",
    "insmod",
    "rmmod",
    "ethtool",
    "apt",
    "apt-get",
    "dnf",
    "pacman",
    "git",
    "cargo",
    "ib_write_bw",
    "ib_read_bw",
    "ib_send_bw",
    "ib_write_lat",
    "ibv_devinfo",
    "systemctl",
    "docker",
    "podman",
    "mount",
    "nvme",
    "curl",
    "ssh",
    "export",
    "mokutil",
];
/// Targets of the kernel's Makefile.
const KERNEL_TARGETS: [&str; 3] = ["olddefconfig", "prepare", "modules"];
/// Words of the field, and names, that the dictionary takes for a slip.
const OUR_WORDS: [&str; 2] = ["upto", "syndrom"];

#[test]
fn every_page_is_in_the_summary_once() {
    let pages = pages::pages();
    let summary = pages
        .iter()
        .find(|p| p.path == "docs/SUMMARY.md")
        .expect("docs/SUMMARY.md");
    let listed: Vec<&str> = summary.links.iter().map(|link| link.to.as_str()).collect();
    for page in &pages {
        let Some(name) = page.path.strip_prefix("docs/").filter(|name| *name != "SUMMARY.md") else {
            continue;
        };
        let times = listed.iter().filter(|to| **to == name).count();
        assert_eq!(times, 1, "docs/SUMMARY.md has {name} {times} times");
        let titles = page
            .headings
            .iter()
            .filter(|h| h.level == pulldown_cmark::HeadingLevel::H1)
            .count();
        assert_eq!(titles, 1, "{}: {titles} headings of the first level", page.path);
    }
}

/// What is wrong with where `to` leads, from a page; nothing if all is well.
fn astray(pages: &[Page], from: &Page, to: &str) -> Option<String> {
    if to.starts_with("https://") {
        return None;
    }
    let (file, anchor) = to
        .split_once('#')
        .map_or((to, None), |(file, anchor)| (file, Some(anchor)));
    let path = match (file, from.path.strip_prefix("docs/")) {
        ("", _) => from.path.clone(),
        (file, Some(_)) => format!("docs/{file}"),
        (file, None) => file.to_owned(),
    };
    if path.contains("..") || path.starts_with('/') || path.contains(':') {
        return Some(format!(
            "{to}: leads out of the book, where only https:// may: name the file instead"
        ));
    }
    if !top().join(&path).exists() {
        return Some(format!("{to}: there is no {path}"));
    }
    let anchor = anchor?;
    match pages.iter().find(|page| page.path == path) {
        Some(page) if page.has(anchor) => None,
        Some(page) => {
            let there: Vec<_> = page.headings.iter().map(|h| h.anchor.as_str()).collect();
            Some(format!("{to}: {path} has no such heading, but {}", there.join(", ")))
        }
        None => Some(format!("{to}: {path} is no page")),
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages::pages();
    let mut faults = vec![];
    let mut links = 0;
    for page in &pages {
        for link in &page.links {
            links += 1;
            faults.extend(astray(&pages, page, &link.to).map(|fault| format!("{}:{}: {fault}", page.path, link.line)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(links > 100, "only {links} links were read");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = |text: &str| Page::parse("docs/lab.md", text.to_owned());
    let pages = [page("# Lab\n\n## Two tiers\n\n## Two tiers\n")];
    let from = &pages[0];
    for good in ["#two-tiers", "lab.md#two-tiers-1", "lab.md", "https://example.org/"] {
        assert_eq!(astray(&pages, from, good), None);
    }
    for bad in [
        "#three",
        "lab.md#two",
        "nowhere.md",
        "../README.md",
        "http://example.org",
        "SUMMARY.md#x",
    ] {
        assert!(astray(&pages, from, bad).is_some(), "{bad}");
    }
}

/// All files below a folder of the checkout.
fn files(folder: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(top().join(folder)).expect("a folder of the checkout") {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        match entry.file_type().expect("a kind of file").is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn pages_that_pages_and_sources_name_exist() {
    let mut paths = vec!["README.md".to_owned(), "Makefile".to_owned()];
    for folder in ["docs", "net", "rdma", "userspace", "selftests"] {
        files(folder, &mut paths);
    }
    let mut faults = vec![];
    let mut count = 0;
    for path in paths {
        // What is no text names nothing; this file names pages that are none.
        let Ok(text) = fs::read_to_string(top().join(&path)) else {
            continue;
        };
        if path.starts_with("selftests/structure/") {
            continue;
        }
        for (Range { start, .. }, name) in mentions(&text) {
            count += 1;
            if !top().join(name).exists() {
                let line = text[..start].lines().count();
                faults.push(format!("{path}:{line}: there is no {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 100, "only {count} were read");
}

/// The folder of the lab's cases.
const CASES: &str = "selftests/lab/src/cases";

/// What is wrong with who is said to run a block; nothing if somebody does, or nobody is said to.
fn unrun(page: &str, block: &Block) -> Option<String> {
    let first = |text: &str| PROGRAMS.contains(&pages::bare(text).split(' ').next().unwrap_or_default());
    let words: Vec<&str> = block.info.as_deref().unwrap_or_default().split(' ').collect();
    match words.as_slice() {
        ["sh", "not-run"] => None,
        ["sh", host] if HOSTS.contains(host) => {
            let mut cases = vec![];
            files(CASES, &mut cases);
            let typed = cases.iter().any(|file| {
                let text = fs::read_to_string(top().join(file)).expect("a case of the lab");
                text.contains(&format!("\"{page}\""))
            });
            (!typed).then(|| format!("no case of {CASES} types {page} in"))
        }
        ["sh", "by", name] => by(name, block).err(),
        ["sh", "printed", name] => source(name).is_empty().then(|| format!("there is no case {name}")),
        ["sh", ..] => {
            Some("a fence of commands says `sh by NAME`, `sh not-run`, or on which host a case types it".into())
        }
        [""] | [] => {
            let command = block.text.lines().find(|line| first(line))?;
            Some(format!(
                "`{}` is a command: a fence with `sh` says who runs it",
                command.trim()
            ))
        }
        ["text" | "toml" | "c" | "rust" | "json" | "dockerfile"] => None,
        other => Some(format!(
            "a fence with {other:?}: sh, text, toml, c, rust, json or dockerfile"
        )),
    }
}

/// The text of a script, or of the files that name a case of the lab.
fn source(name: &str) -> String {
    let mut paths = vec![];
    if name.contains('/') {
        paths.push(name.to_owned());
    } else {
        files(CASES, &mut paths);
    }
    let texts = paths
        .iter()
        .filter_map(|path| fs::read_to_string(top().join(path)).ok());
    texts
        .filter(|text| name.contains('/') || text.contains(&format!("\"{name}\"")))
        .collect()
}

/// Whether the script, or the file of the case `name`, has the program, the verb and the options of each command.
fn by(name: &str, block: &Block) -> Result<(), String> {
    let text = source(name);
    if text.is_empty() {
        return Err(format!("there is no case or script {name}"));
    }
    for line in block.text.replace("\\\n", " ").lines() {
        let line = pages::bare(line);
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if program.is_empty() || program.starts_with('#') || program.contains('=') {
            continue;
        }
        let words: Vec<&str> = words.collect();
        let plain = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let verb = words.first().filter(plain).filter(|word| !word.starts_with('-'));
        let options = words.iter().filter(plain).filter(|word| word.starts_with("--"));
        for word in [&program].into_iter().chain(verb).chain(options) {
            if *word != "--" && !text.contains(word) {
                return Err(format!("`{line}`: {name} has no {word}"));
            }
        }
    }
    Ok(())
}

#[test]
fn every_command_is_run_by_a_test_or_marked() {
    let mut faults = vec![];
    let (mut run, mut marked) = (0, 0);
    for page in pages::pages() {
        for block in &page.blocks {
            let info = block.info.as_deref().unwrap_or_default();
            marked += usize::from(info == "sh not-run");
            run += usize::from(info.starts_with("sh ") && info != "sh not-run");
            faults.extend(unrun(&page.path, block).map(|fault| format!("{}:{}: {fault}", page.path, block.line)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{run} blocks of commands are run by tests, {marked} are marked as not run");
    assert!(run > 10, "only {run} blocks are run");
}

#[test]
fn a_command_that_nobody_runs_is_found() {
    let block = |info: Option<&str>, text: &str| Block {
        line: 1,
        info: info.map(str::to_owned),
        text: text.to_owned(),
    };
    let wrong = |info, text| unrun("docs/nowhere.md", &block(info, text)).is_some();
    assert!(!wrong(Some("sh not-run"), "usb4rdma up\n"));
    assert!(!wrong(Some("sh by tool_quickstart"), "usb4rdma status\n"));
    assert!(wrong(Some("sh by tool_quickstart"), "usb4rdma nonsense\n"));
    assert!(wrong(Some("sh by no_such_case"), "usb4rdma status\n"));
    assert!(wrong(Some("sh both"), "usb4rdma up\n"));
    assert!(unrun("docs/quickstart.md", &block(Some("sh both"), "usb4rdma up\n")).is_none());
    assert!(wrong(Some("sh"), "true\n"));
    assert!(wrong(None, "usb4rdma up\n"));
    assert!(wrong(None, "sudo make install\n"));
    assert!(!wrong(None, "a picture of words\n"));
}

#[test]
fn make_has_every_target_that_a_page_names() {
    let makefile = fs::read_to_string(top().join("Makefile")).expect("Makefile");
    let has = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    let mut faults = vec![];
    for page in pages::pages() {
        for (line, command) in page.commands(&["make"]) {
            let words = command.split_whitespace().skip(1);
            let targets = words.filter(|word| !word.contains('=') && !word.starts_with('-') && !word.contains('/'));
            let lost = targets.filter(|word| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !has(word) && !KERNEL_TARGETS.contains(word)
            });
            faults.extend(lost.map(|word| format!("{}:{line}: `{command}`: there is no target {word}", page.path)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What the dictionary has in place of a word that is a known slip.
fn slip(word: &str) -> Option<&'static [&'static str]> {
    if OUR_WORDS.contains(&word) {
        return None;
    }
    // An empty list is a word that is wrong and has no one word for it.
    typos_dict::WORD.find(&unicase::UniCase::new(word)).copied()
}

#[test]
fn no_word_is_a_known_slip() {
    let mut faults = vec![];
    let mut count = 0;
    for page in pages::pages() {
        for (line, text) in &page.prose {
            // What has a figure in it is no word.
            let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
            for word in words.filter(|word| word.chars().all(|c| c.is_alphabetic() || c == '\'')) {
                count += 1;
                let better = slip(word.trim_matches('\''));
                faults.extend(better.map(|better| format!("{}:{line}: {word}: {}", page.path, better.join(" or "))));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 10_000, "only {count} words were read");
    assert!(slip("recieve").is_some() && slip("receive").is_none());
}

#[test]
fn pictures_name_no_font_or_file_from_elsewhere() {
    let mut paths = vec![];
    files("docs", &mut paths);
    let pictures = paths
        .iter()
        .filter(|path| Path::new(path).extension().is_some_and(|end| end == "svg"));
    for path in pictures {
        let text = fs::read_to_string(top().join(path)).expect("a picture");
        let fetched = ["href=\"http", "url(http", "@import", "<script"];
        assert!(
            !fetched.iter().any(|part| text.contains(part)),
            "{path} fetches something"
        );
    }
}
