// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What `make docs` needs beside mdBook.
//!
//! `book` is mdBook's preprocessor: where a page names another as `docs/lab.md`, which is what a reader of the file
//! wants, the book has a link. `book check DIR` looks at what mdBook has made: every link of every page leads to a file
//! that is there, and every `#anchor` to a place in it.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};
use structure::pages::mentions;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => preprocess()?,
        // mdBook asks so whether this is for what it makes: for any.
        ["supports", _] => {}
        ["check", dir] => return check(Path::new(dir)),
        _ => return Err("book | book supports RENDERER | book check DIR".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads context and book from mdBook, writes the book back.
fn preprocess() -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let read: Value = serde_json::from_str(&text)?;
    let mut book = read.get(1).ok_or("no book behind the context")?.clone();
    link_chapters(&mut book);
    serde_json::to_writer(io::stdout(), &book)?;
    Ok(())
}

/// Links in the chapter that `value` is, and in all that are in it.
fn link_chapters(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let path = fields.get("path").and_then(Value::as_str).map(str::to_owned);
            if let (Some(path), Some(Value::String(content))) = (path, fields.get_mut("content")) {
                *content = linked(content, &path);
            }
            fields.values_mut().for_each(link_chapters);
        }
        Value::Array(all) => all.iter_mut().for_each(link_chapters),
        _ => {}
    }
}

/// The text of the page `own` with a link wherever its prose names another page.
fn linked(text: &str, own: &str) -> String {
    let mut places = vec![];
    let mut inside = 0;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            // No link within a link, none in a block of code.
            Event::Start(Tag::Link { .. } | Tag::Image { .. } | Tag::CodeBlock(_)) => inside += 1,
            Event::End(TagEnd::Link | TagEnd::Image | TagEnd::CodeBlock) => inside -= 1,
            Event::Text(_) if inside == 0 => {
                for (at, name) in mentions(&text[range.clone()]) {
                    places.push((range.start + at.start..range.start + at.end, name.to_owned()));
                }
            }
            _ => {}
        }
    }
    let mut linked = text.to_owned();
    for (range, name) in places.into_iter().rev() {
        let to = name.trim_start_matches("docs/");
        if to != own {
            linked.replace_range(range, &format!("[{name}]({to})"));
        }
    }
    linked
}

/// The values of an attribute in HTML as mdBook writes it, always in double quotes.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    let values = html.split(start.as_str()).skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}

/// Looks at all pages below `dir`.
fn check(dir: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    read(dir, Path::new(""), &mut files)?;
    let anchors: BTreeMap<&PathBuf, BTreeSet<&str>> = files
        .iter()
        .filter_map(|(path, html)| Some((path, attributes(html.as_deref()?, "id").into_iter().collect())))
        .collect();
    let (mut links, mut faults) = (0, 0);
    for (path, html) in &files {
        // What a server shows for a page that is not there: its links go by the server.
        if path == Path::new("404.html") {
            continue;
        }
        let Some(html) = html else { continue };
        for to in attributes(html, "href").into_iter().chain(attributes(html, "src")) {
            if to.contains("://") || to.starts_with("mailto:") || to.starts_with("data:") || to.is_empty() {
                continue;
            }
            links += 1;
            let (file, anchor) = to.split_once('#').unwrap_or((to, ""));
            let target = match file {
                "" => path.clone(),
                file => plain(&path.parent().unwrap_or(Path::new("")).join(file)),
            };
            let fault = match (files.contains_key(&target), anchors.get(&target)) {
                (false, _) => "no such file",
                (true, Some(there)) if !anchor.is_empty() && !there.contains(anchor) => "no such anchor",
                _ => continue,
            };
            faults += 1;
            println!("{}: {to}: {fault}", path.display());
        }
    }
    println!("{} pages, {links} links, {faults} lead nowhere", anchors.len());
    Ok(ExitCode::from(u8::from(faults > 0 || links == 0)))
}

/// All files below `top/at`; of pages the text.
fn read(top: &Path, at: &Path, found: &mut BTreeMap<PathBuf, Option<String>>) -> io::Result<()> {
    for entry in fs::read_dir(top.join(at))? {
        let path = at.join(entry?.file_name());
        if top.join(&path).is_dir() {
            read(top, &path, found)?;
            continue;
        }
        let page = path.extension().is_some_and(|end| end == "html");
        let text = if page {
            Some(fs::read_to_string(top.join(&path))?)
        } else {
            None
        };
        found.insert(path, text);
    }
    Ok(())
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_that_names_a_page_becomes_a_link() {
        let text = "See docs/lab.md, `docs/lab.md`, [it](lab.md) and docs/verbs.md.\n\n    docs/lab.md\n";
        let made = "See [docs/lab.md](lab.md), `docs/lab.md`, [it](lab.md) and docs/verbs.md.\n\n    docs/lab.md\n";
        assert_eq!(linked(text, "verbs.md"), made);
    }

    #[test]
    fn attributes_are_read() {
        assert_eq!(attributes("<a class=\"x\" href=\"y#z\">", "href"), ["y#z"]);
        assert_eq!(plain(Path::new("a/../b/./c")), Path::new("b/c"));
    }
}
