// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The tree as a graph: which file names what of which other file of its crate.
//!
//! An arrow leads from a file to another whose module a path in it names, in an import or anywhere else, outside of
//! tests. Declaring a module makes no arrow, nor does naming the crate's root, where only macros live. A file that
//! shows another's item as its own (`pub use`) is a signpost: who names the item there gets an arrow to the file that
//! has it. A *circle* is a set of files each of which leads to every other: a strongly connected component.

pub mod calls;
pub mod pages;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use syn::visit::{self, Visit};

/// The top of the checkout.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of the checkout that git knows, by path from its top.
///
/// # Panics
///
/// If there is no git, or no checkout.
#[must_use]
pub fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(top())
        .output()
        .expect("git");
    assert!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    String::from_utf8_lossy(&listed.stdout)
        .split_terminator('\0')
        .filter(|file| top().join(file).is_file())
        .map(str::to_owned)
        .collect()
}

/// The files of one crate and the arrows between them, by path from the top of the checkout.
pub struct Crate {
    pub arrows: BTreeMap<String, BTreeSet<String>>,
}

impl Crate {
    /// Reads the crate whose root is `root`, for example `net/tbnet.rs`; `apart` names folders below it that are crates
    /// of their own.
    ///
    /// # Panics
    ///
    /// If a file cannot be read or is not Rust.
    #[must_use]
    pub fn read(root: &str, apart: &[&str]) -> Self {
        let folder = Path::new(root)
            .parent()
            .expect("a root in a folder")
            .to_str()
            .expect("UTF-8");
        let mut files = vec![];
        list(&top(), Path::new(folder), apart, &mut files);
        let modules: BTreeMap<Vec<String>, String> = files
            .iter()
            .filter(|file| *file != root)
            .map(|file| (module(folder, file), file.clone()))
            .collect();
        let mut arrows = BTreeMap::new();
        let mut shown = BTreeMap::new();
        for file in files.iter().filter(|file| *file != root) {
            let text = fs::read_to_string(top().join(file)).expect("a file just listed");
            let tree = syn::parse_file(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
            let mut reader = Reader {
                here: module(folder, file),
                children: BTreeSet::new(),
                named: BTreeSet::new(),
                shown: BTreeMap::new(),
            };
            reader.declare(&tree.items);
            reader.visit_file(&tree);
            shown.extend(reader.shown);
            arrows.insert(file.clone(), reader.named);
        }
        let arrows = arrows
            .into_iter()
            .map(|(file, named)| {
                let mut to: BTreeSet<String> = named
                    .iter()
                    .filter_map(|path| resolve(&modules, &shown, path))
                    .collect();
                to.remove(&file);
                (file, to)
            })
            .collect();
        Self { arrows }
    }

    /// The circles of more than one file, largest first.
    #[must_use]
    pub fn circles(&self) -> Vec<BTreeSet<String>> {
        // The tree has some hundred files: who reaches whom is found by walking from each.
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.arrows.keys().map(|from| (from, self.reach(from))).collect();
        let mut circles: Vec<BTreeSet<String>> = vec![];
        for (from, to) in &reach {
            if circles.iter().any(|c| c.contains(*from)) {
                continue;
            }
            let mut circle: BTreeSet<String> = to
                .iter()
                .filter(|t| reach[**t].contains(*from))
                .map(|t| (*t).clone())
                .collect();
            circle.insert((*from).clone());
            if circle.len() > 1 {
                circles.push(circle);
            }
        }
        circles.sort_by_key(|c| std::cmp::Reverse(c.len()));
        circles
    }

    fn reach<'a>(&'a self, from: &'a String) -> BTreeSet<&'a String> {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for to in self.arrows.get(at).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    }
}

fn list(top: &Path, folder: &Path, apart: &[&str], files: &mut Vec<String>) {
    for entry in fs::read_dir(top.join(folder)).expect("a folder of the checkout") {
        let path = folder.join(entry.expect("an entry").file_name());
        let name = path.to_str().expect("UTF-8").to_owned();
        if top.join(&path).is_dir() {
            if !apart.contains(&name.as_str()) && !name.ends_with("/tests") {
                list(top, &path, apart, files);
            }
        } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
            files.push(name);
        }
    }
    files.sort();
}

/// The module of `file` in the crate whose root lies in `folder`.
fn module(folder: &str, file: &str) -> Vec<String> {
    let path = file.strip_prefix(folder).unwrap_or(file).trim_end_matches(".rs");
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The file that has what `path`, from the crate's root on, names: of its longest beginning that is a module, or of
/// what that module shows as its own.
fn resolve(
    modules: &BTreeMap<Vec<String>, String>,
    shown: &BTreeMap<Vec<String>, Vec<String>>,
    path: &[String],
) -> Option<String> {
    let mut path = path.to_vec();
    // A signpost may lead to another, but not round and round.
    for _ in 0..8 {
        let Some((end, to)) = (1..=path.len()).find_map(|end| Some((end, shown.get(&path[..end])?))) else {
            break;
        };
        path = [to, &path[end..]].concat();
    }
    (1..=path.len())
        .rev()
        .find_map(|end| modules.get(&path[..end]).cloned())
}

struct Reader {
    /// The module that the file is.
    here: Vec<String>,
    /// Modules that the file declares: a path may begin with one.
    children: BTreeSet<String>,
    /// Paths that the file names, from the crate's root on.
    named: BTreeSet<Vec<String>>,
    /// What the file shows as its own, and what that is.
    shown: BTreeMap<Vec<String>, Vec<String>>,
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

impl Reader {
    fn declare(&mut self, items: &[syn::Item]) {
        for item in items {
            if let syn::Item::Mod(m) = item {
                if m.content.is_none() && !is_for_tests(&m.attrs) {
                    self.children.insert(m.ident.to_string());
                }
            }
        }
    }

    /// `path` from the crate's root on, if it is of this crate.
    fn full(&self, path: &[String]) -> Option<Vec<String>> {
        let mut full = self.here.clone();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => {
                full.clear();
                rest = &rest[1..];
            }
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    full.pop();
                    rest = &rest[1..];
                }
            }
            Some(first) if self.children.contains(first) => {}
            _ => return None,
        }
        full.extend_from_slice(rest);
        Some(full)
    }

    /// Calls `each` with every path that `tree` imports, and the name that it gets here.
    fn leaves(path: &mut Vec<String>, tree: &syn::UseTree, each: &mut impl FnMut(&[String], Option<String>)) {
        match tree {
            syn::UseTree::Path(p) => {
                path.push(p.ident.to_string());
                Self::leaves(path, &p.tree, each);
                path.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| Self::leaves(path, tree, each)),
            syn::UseTree::Name(name) if name.ident == "self" => each(path, path.last().cloned()),
            syn::UseTree::Name(syn::UseName { ident }) => {
                path.push(ident.to_string());
                each(path, Some(ident.to_string()));
                path.pop();
            }
            syn::UseTree::Rename(syn::UseRename { ident, rename, .. }) => {
                path.push(ident.to_string());
                each(path, Some(rename.to_string()));
                path.pop();
            }
            syn::UseTree::Glob(_) => each(path, None),
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Mod(m) => &m.attrs,
            syn::Item::Fn(f) => &f.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Use(u) => &u.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let shows = !matches!(item.vis, syn::Visibility::Inherited);
        let mut found = vec![];
        Self::leaves(&mut vec![], &item.tree, &mut |path, name| {
            found.push((path.to_vec(), name))
        });
        for (path, name) in found {
            let Some(full) = self.full(&path) else { continue };
            match name {
                Some(name) if shows => {
                    let mut here = self.here.clone();
                    here.push(name);
                    self.shown.insert(here, full);
                }
                _ => {
                    self.named.insert(full);
                }
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.named.extend(self.full(&parts));
        visit::visit_path(self, path);
    }
}
