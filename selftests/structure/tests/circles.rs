// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Circles of files in each crate, and who names what in the wrappers of the kernel. Limits are what the tree has, so
//! they only go down: whoever makes a circle smaller lowers its limit here.
//!
//! `cargo test -p structure --test circles -- --nocapture` prints the circles.

use std::fs;
use structure::{top, Crate};
use syn::visit::{self, Visit};

/// The root of a crate, folders below it that are others', and files in its largest circle.
const CRATES: [(&str, &[&str], usize); 4] = [
    ("rdma/engine/roce.rs", &[], 3),
    ("rdma/usb4_rdma.rs", &["rdma/engine"], 2),
    ("net/tbnet.rs", &["net/proto", "net/sys"], 0),
    ("net/proto/tbip.rs", &[], 2),
];

#[test]
fn no_circle_of_files_grows() {
    let mut larger = vec![];
    for (root, apart, limit) in CRATES {
        let krate = Crate::read(root, apart);
        let circles = krate.circles();
        println!("{root}: {} files", krate.arrows.len());
        for circle in &circles {
            println!("  a circle of {}: {circle:?}", circle.len());
        }
        let largest = circles.first().map_or(0, |circle| circle.len());
        if largest > limit {
            larger.push(format!(
                "{root}: {largest} files in a circle, {limit} allowed: {:?}",
                circles[0]
            ));
        }
    }
    assert!(larger.is_empty(), "{}", larger.join("\n"));
}

/// A wrapper is below the driver: it may name other wrappers and other crates. What `rust/kernel` could take names a
/// trait that the driver fulfils instead.
#[test]
fn wrappers_name_nothing_of_the_driver() {
    let mut naming: Vec<String> = vec![];
    for (root, apart, _) in CRATES {
        for (file, named) in &Crate::read(root, apart).arrows {
            let up: Vec<_> = named.iter().filter(|to| !to.contains("/kapi")).collect();
            if file.contains("/kapi") && !up.is_empty() {
                naming.push(format!("{file} names {up:?}"));
            }
        }
    }
    assert!(naming.is_empty(), "{}", naming.join("\n"));
}

/// Folders of the module whose files may be unsafe: wrappers of the kernel, and what the core calls with raw pointers.
const MAY_BE_UNSAFE: [&str; 4] = ["net/kapi", "net/sys", "rdma/kapi", "rdma/ops"];

/// Counts what is unsafe in a file, outside of macros: an `unsafe` there is the macro's own.
struct Unsafe(usize);

impl<'ast> Visit<'ast> for Unsafe {
    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.0 += 1;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.0 += usize::from(item.unsafety.is_some());
        visit::visit_item_impl(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0 += usize::from(signature.unsafety.is_some());
        visit::visit_signature(self, signature);
    }
}

#[test]
fn only_wrappers_and_ops_are_unsafe() {
    let mut faults = vec![];
    let mut blocks = 0;
    for (root, apart, _) in CRATES {
        for file in Crate::read(root, apart).arrows.keys() {
            let text = fs::read_to_string(top().join(file)).expect("a file just listed");
            let mut found = Unsafe(0);
            found.visit_file(&syn::parse_file(&text).expect("Rust"));
            blocks += found.0;
            if found.0 > 0 && !MAY_BE_UNSAFE.iter().any(|folder| file.starts_with(folder)) {
                faults.push(file.clone());
            }
        }
    }
    assert!(blocks > 100, "only {blocks} were found");
    assert!(faults.is_empty(), "unsafe in {faults:?}");
}
