// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The pages of the book: README.md and what is in docs/, read as markdown.

use crate::top;
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::{collections::BTreeMap, fs, path::Path};

/// One page.
pub struct Page {
    /// By path from the top of the checkout, as `docs/lab.md`.
    pub path: String,
    pub text: String,
    pub headings: Vec<Heading>,
    pub links: Vec<Link>,
    pub blocks: Vec<Block>,
    /// What stands between two backquotes, with its line.
    pub codes: Vec<(usize, String)>,
    /// What stands outside of code, with its line.
    pub prose: Vec<(usize, String)>,
}

/// A heading, and by what a link reaches it.
pub struct Heading {
    pub level: HeadingLevel,
    pub text: String,
    pub anchor: String,
}

/// A link or a picture.
pub struct Link {
    pub line: usize,
    pub to: String,
}

/// A block of code.
pub struct Block {
    pub line: usize,
    /// What stands behind the fence; None if the block is indented.
    pub info: Option<String>,
    pub text: String,
}

impl Page {
    /// # Panics
    ///
    /// If there is no such file.
    #[must_use]
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self::parse(path, text)
    }

    #[must_use]
    pub fn parse(path: &str, text: String) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            text: String::new(),
            headings: vec![],
            links: vec![],
            blocks: vec![],
            codes: vec![],
            prose: vec![],
        };
        let mut anchors = BTreeMap::new();
        let (mut heading, mut in_block) = (None, false);
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        for (event, range) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = ends.partition_point(|end| *end < range.start) + 1;
            match event {
                Event::Start(Tag::Heading { level, .. }) => heading = Some((level, String::new())),
                Event::End(TagEnd::Heading(_)) => {
                    if let Some((level, text)) = heading.take() {
                        let anchor = unique(&mut anchors, &anchor(&text));
                        page.headings.push(Heading { level, text, anchor });
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let to = dest_url.into_string();
                    page.links.push(Link { line, to });
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    in_block = true;
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => Some(info.into_string()),
                        CodeBlockKind::Indented => None,
                    };
                    let text = String::new();
                    page.blocks.push(Block { line, info, text });
                }
                Event::End(TagEnd::CodeBlock) => in_block = false,
                Event::Text(part) if in_block => {
                    if let Some(block) = page.blocks.last_mut() {
                        block.text += &part;
                    }
                }
                Event::Text(part) => {
                    if let Some((_, text)) = &mut heading {
                        *text += &part;
                    }
                    page.prose.push((line, part.into_string()));
                }
                Event::Code(code) => {
                    if let Some((_, text)) = &mut heading {
                        *text += &code;
                    }
                    page.codes.push((line, code.replace('\n', " ")));
                }
                _ => {}
            }
        }
        page.text = text;
        page
    }

    /// The heading of the first level.
    #[must_use]
    pub fn title(&self) -> &str {
        self.headings.first().map_or("", |heading| &heading.text)
    }

    /// Whether a link to `#anchor` leads somewhere.
    #[must_use]
    pub fn has(&self, anchor: &str) -> bool {
        self.headings.iter().any(|heading| heading.anchor == anchor)
    }

    /// The commands of the page that begin with one of `programs`: lines of its blocks, with what a backslash joins,
    /// and what stands between backquotes. `sudo` and comments are taken away.
    #[must_use]
    pub fn commands(&self, programs: &[&str]) -> Vec<(usize, String)> {
        let mut found = vec![];
        let mut add = |line: usize, text: &str| {
            let text = bare(text);
            if text.split(' ').next().is_some_and(|first| programs.contains(&first)) {
                found.push((line, text.to_owned()));
            }
        };
        for (line, code) in &self.codes {
            add(*line, code);
        }
        for block in &self.blocks {
            let joined = block.text.replace("\\\n", " ");
            for (n, text) in joined.lines().enumerate() {
                add(block.line + n + usize::from(block.info.is_some()), text);
            }
        }
        found
    }
}

/// A command without what is no part of it: blanks, `sudo`, a comment behind it.
#[must_use]
pub fn bare(line: &str) -> &str {
    let line = line.split(" #").next().unwrap_or_default().trim();
    line.strip_prefix("sudo ").unwrap_or(line)
}

/// The words of a command, as its program gets them: up to a pipe or the like, brackets around what may be left out
/// taken away.
pub fn typed(command: &str) -> impl Iterator<Item = &str> {
    let command = command.split(['|', '>', ';', '&']).next().unwrap_or_default();
    let words = command.split_whitespace();
    words
        .map(|word| word.trim_matches(['\'', '[', ']']))
        .filter(|word| *word != "...")
}

/// What mdBook, and GitHub too, make of a heading: small letters, figures, and dashes for blanks.
#[must_use]
pub fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_lowercase().next().unwrap_or(c)),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.collect()
}

/// The second of two like headings has `-1` behind it.
fn unique(seen: &mut BTreeMap<String, usize>, anchor: &str) -> String {
    let count = seen.entry(anchor.to_owned()).or_default();
    *count += 1;
    match *count {
        1 => anchor.to_owned(),
        n => format!("{anchor}-{}", n - 1),
    }
}

/// README.md and all pages of docs/.
///
/// # Panics
///
/// If the checkout cannot be read.
#[must_use]
pub fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned()];
    for entry in fs::read_dir(top().join("docs")).expect("docs/") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if Path::new(&name).extension().is_some_and(|end| end == "md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// The places where `text` names a page or picture of the book as `docs/NAME.md` or `docs/NAME.svg`.
#[must_use]
pub fn mentions(text: &str) -> Vec<(std::ops::Range<usize>, &str)> {
    let mut found = vec![];
    for (at, _) in text.match_indices("docs/") {
        // Not the end of a longer path.
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "/_.-".contains(c)) {
            continue;
        }
        let rest = &text[at..];
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "/_-.".contains(c)))
            .unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('.');
        if name.ends_with(".md") || name.ends_with(".svg") {
            found.push((at..at + name.len(), name));
        }
    }
    found
}
