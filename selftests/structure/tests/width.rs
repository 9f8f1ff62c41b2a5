// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Text wraps at 120 columns: the prose of documents, and comments. Code is rustfmt's, and a shell line is as long as
//! it is; tables, pictures, code in documents and what has no blank to break at may be longer.

use std::fs;
use structure::{files, top};

const COLUMNS: usize = 120;

/// Whether `line` is too long, and there is a blank to break it at before that.
fn is_too_long(line: &str) -> bool {
    let text = line
        .trim_start()
        .trim_start_matches(['/', '!', '#', '*', '-'])
        .trim_start();
    line.chars().count() > COLUMNS && !text.starts_with('|') && breaks(text)
}

/// Whether there is a blank outside of backquotes, after the first word.
fn breaks(text: &str) -> bool {
    text.split('`').step_by(2).any(|plain| plain.trim().contains(' '))
}

/// The lines of a document that are prose.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence && !line.starts_with("    ") && !line.starts_with('<')
    })
}

fn comments<'a>(text: &'a str, mark: &'static str) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines()
        .enumerate()
        .filter(move |(_, line)| line.trim_start().starts_with(mark))
}

#[test]
fn prose_and_comments_wrap() {
    let mut long = vec![];
    for file in files() {
        let mark = match file.rsplit_once('.').map(|(_, end)| end) {
            Some("md") => None,
            Some("rs" | "c" | "h") => Some("//"),
            Some("sh" | "py" | "toml") => Some("#"),
            _ => match file.as_str() {
                "Makefile" | "Kbuild" | ".ci/run" => Some("#"),
                _ => continue,
            },
        };
        let text = fs::read_to_string(top().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let lines: Vec<_> = match mark {
            None => prose(&text).collect(),
            Some(mark) => comments(&text, mark).collect(),
        };
        long.extend(
            lines
                .into_iter()
                .filter(|(_, line)| is_too_long(line))
                .map(|(at, _)| format!("{file}:{}", at + 1)),
        );
    }
    assert!(long.is_empty(), "longer than {COLUMNS} columns:\n{}", long.join("\n"));
}

/// No file is so long that nobody reads it whole.
#[test]
fn no_source_has_more_than_900_lines() {
    let long: Vec<_> = files()
        .into_iter()
        .filter(|file| file.ends_with(".rs") || file.ends_with(".c") || file.ends_with(".py"))
        .filter(|file| fs::read_to_string(top().join(file)).is_ok_and(|text| text.lines().count() > 900))
        .collect();
    assert!(long.is_empty(), "more than 900 lines: {long:?}");
}
