// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Who calls whom, by names alone: `x.send()` may call any function of that name, `Batch::send()` those of that type,
//! if there is one. That is enough to see that one function does not lead to another.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};
use syn::visit::{self, Visit};

/// Calls between a step of a walk and the next, at most: the functions between them are not worth a step.
const BETWEEN: usize = 3;

/// Types of others, whose functions are not ours.
const FOREIGN: [&str; 5] = ["Arc", "KBox", "KVVec", "KVec", "Opaque"];

/// Names of methods that ours share with those of others: without a type they lead nowhere.
const COMMON: [&str; 12] = [
    "clear", "find", "get", "is_empty", "len", "lock", "new", "next", "push", "read", "take", "write",
];

/// What a body names: a function, and of which type if it says so.
type Name = (Option<String>, String);

/// A function: where it is, of which type, and what its body names.
struct Function {
    file: String,
    of: Option<String>,
    name: String,
    names: BTreeSet<Name>,
}

/// The functions of some files.
pub struct Calls {
    functions: Vec<Function>,
    /// The functions of a name.
    named: BTreeMap<String, Vec<usize>>,
}

impl Calls {
    /// Reads the functions of `files`, by path from the top of the checkout.
    ///
    /// # Panics
    ///
    /// If a file cannot be read or is not Rust.
    #[must_use]
    pub fn read<'a>(files: impl IntoIterator<Item = &'a String>) -> Self {
        let mut functions = vec![];
        for file in files {
            let text = fs::read_to_string(super::top().join(file)).expect("a file of the checkout");
            let tree = syn::parse_file(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
            let mut bodies = Bodies {
                file: file.clone(),
                of: None,
                found: vec![],
            };
            bodies.visit_file(&tree);
            functions.append(&mut bodies.found);
        }
        let mut named: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, function) in functions.iter().enumerate() {
            named.entry(function.name.clone()).or_default().push(index);
        }
        Self { functions, named }
    }

    /// Whether `file` has a function of that name.
    #[must_use]
    pub fn has(&self, file: &str, name: &str) -> bool {
        self.at(file, name).next().is_some()
    }

    fn at<'a>(&'a self, file: &'a str, name: &str) -> impl Iterator<Item = &'a Function> + 'a {
        let all = self.named.get(name).map_or(&[][..], Vec::as_slice);
        all.iter()
            .map(|index| &self.functions[*index])
            .filter(move |f| f.file == file)
    }

    /// Whether `from`, a function of `file`, leads to a function of the name `to`.
    #[must_use]
    pub fn lead(&self, file: &str, from: &str, to: &str) -> bool {
        let mut seen: BTreeSet<&Name> = BTreeSet::new();
        let mut next: Vec<&Function> = self.at(file, from).collect();
        for _ in 0..=BETWEEN {
            let names: Vec<&Name> = next
                .iter()
                .flat_map(|f| &f.names)
                .filter(|name| seen.insert(name))
                .collect();
            if names.iter().any(|(_, name)| name == to) {
                return true;
            }
            next = names.iter().flat_map(|name| self.meant(name)).collect();
        }
        false
    }

    /// The functions that a body may mean by `name`.
    fn meant(&self, (of, name): &Name) -> Vec<&Function> {
        let all = self.named.get(name).map_or(&[][..], Vec::as_slice);
        let all: Vec<_> = all.iter().map(|index| &self.functions[*index]).collect();
        match of {
            Some(of) if FOREIGN.contains(&of.as_str()) => vec![],
            None if COMMON.contains(&name.as_str()) => vec![],
            Some(_) if all.iter().any(|f| f.of == *of) => all.into_iter().filter(|f| f.of == *of).collect(),
            _ => all,
        }
    }
}

/// The functions of a file.
struct Bodies {
    file: String,
    /// The type whose functions are being read.
    of: Option<String>,
    found: Vec<Function>,
}

impl Bodies {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let mut names = BTreeSet::new();
        called(body.to_token_stream(), self.of.as_deref(), &mut names);
        self.found.push(Function {
            file: self.file.clone(),
            of: self.of.clone(),
            name: signature.ident.to_string(),
            names,
        });
    }
}

/// Adds what `tokens`, in a function of type `own`, call or name by a path: `name(..)`, `x::name`.
fn called(tokens: TokenStream, own: Option<&str>, names: &mut BTreeSet<Name>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut before: Option<String> = None;
    let mut in_path = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                called(group.stream(), own, names);
                (before, in_path) = (None, false);
            }
            TokenTree::Ident(ident) => {
                let name = ident.to_string();
                if in_path || matches!(tokens.peek(), Some(TokenTree::Group(_))) {
                    let of = match before.take().as_deref() {
                        Some("Self" | "self") => own.map(str::to_owned),
                        Some(of) if in_path && of.len() > 1 && of.starts_with(char::is_uppercase) => {
                            Some(of.to_owned())
                        }
                        _ => None,
                    };
                    names.insert((of, name.clone()));
                }
                (before, in_path) = (Some(name), false);
            }
            TokenTree::Punct(punct) => {
                in_path = punct.as_char() == ':';
                before = before.filter(|_| in_path || punct.as_char() == '.');
            }
            TokenTree::Literal(_) => (before, in_path) = (None, false),
        }
    }
}

impl<'ast> Visit<'ast> for Bodies {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !super::is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let outer = std::mem::replace(&mut self.of, of);
        visit::visit_item_impl(self, item);
        self.of = outer;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig, body);
        }
    }
}
