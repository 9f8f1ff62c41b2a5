// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pages of docs/ with parts that commands make.

use crate::paths;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

/// Puts `text` into docs/`page` in place of the part of that name; at the end where the page has no such part yet.
pub fn write_part(page: &str, part: &str, command: &str, text: &str) -> Result<()> {
    let path = paths::project()?.join("docs").join(page);
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, with_part(&old, part, command, text)).with_context(|| format!("{}", path.display()))
}

fn with_part(old: &str, part: &str, command: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin {part}: "), format!("<!-- end {part} -->"));
    let new = format!(
        "{begin}made by `{command}`, edits are lost -->\n{}\n{end}",
        text.trim_end()
    );
    match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{new}{}", &old[..from], &old[to + end.len()..]),
        _ if old.is_empty() => new + "\n",
        _ => format!("{}\n\n{new}\n", old.trim_end()),
    }
}

/// A Markdown table.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(heading) + &line(&vec!["---"; heading.len()]);
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// Where and when something was measured: date, commit, machine and how busy it is.
pub fn provenance() -> String {
    let said = |program: &str, argv: &[&str]| -> String {
        let output = Command::new(program).args(argv).output();
        output
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
            .unwrap_or_default()
    };
    let project = paths::project().unwrap_or_default().display().to_string();
    let commit = said("git", &["-C", &project, "rev-parse", "--short", "HEAD"]);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim())
        .to_string();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{}, commit {commit}, {cores} x {model}, load {}",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        load()
    )
}

/// The machine's load average over a minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_where_it_stands() {
        let first = with_part("# Page\n\ntext\n", "t", "make x", "one\n");
        assert_eq!(
            first,
            "# Page\n\ntext\n\n<!-- begin t: made by `make x`, edits are lost -->\none\n<!-- end t -->\n"
        );
        let second = with_part(&(first + "after\n"), "t", "make x", "two");
        assert!(second.contains("-->\ntwo\n<!-- end t -->\nafter\n"), "{second}");
        assert!(!second.contains("one"));
    }

    #[test]
    fn tables_are_markdown() {
        assert_eq!(
            table(&["a", "b"], &[vec!["1".into(), "2".into()]]),
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
        );
    }
}
