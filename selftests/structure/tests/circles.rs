// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Circles of files in each crate, and who names what in the wrappers of the kernel. Limits are what the tree has, so
//! they only go down: whoever makes a circle smaller lowers its limit here.
//!
//! `cargo test -p structure --test circles -- --nocapture` prints the circles.

use structure::Crate;

/// The root of a crate, folders below it that are others', and files in its largest circle.
const CRATES: [(&str, &[&str], usize); 4] = [
    ("rdma/usb4_rdma.rs", &["rdma/engine"], 27),
    ("rdma/engine/roce.rs", &[], 14),
    ("net/tbnet.rs", &["net/proto", "net/sys"], 11),
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

/// Wrappers that still name the driver. What `rust/kernel` could take names a trait that the driver fulfils instead.
const NAME_THE_DRIVER: [&str; 15] = [
    "net/kapi/ethtool.rs",
    "net/kapi/links.rs",
    "net/kapi/netdev.rs",
    "net/kapi/service.rs",
    "rdma/kapi/ibdev.rs",
    "rdma/kapi/netdev.rs",
    "rdma/kapi/ops.rs",
    "rdma/kapi/ops/ah.rs",
    "rdma/kapi/ops/fast.rs",
    "rdma/kapi/ops/kernel_callers.rs",
    "rdma/kapi/ops/mcast.rs",
    "rdma/kapi/ops/mr.rs",
    "rdma/kapi/ops/mw.rs",
    "rdma/kapi/ops/resource.rs",
    "rdma/kapi/ops/srq.rs",
];

/// A wrapper is below the driver: it may name other wrappers and other crates.
#[test]
fn wrappers_name_nothing_of_the_driver() {
    let mut naming = vec![];
    for (root, apart, _) in CRATES {
        for (file, named) in &Crate::read(root, apart).arrows {
            let up: Vec<_> = named.iter().filter(|to| !to.contains("/kapi")).collect();
            if file.contains("/kapi") && !up.is_empty() {
                println!("{file} names {up:?}");
                naming.push(file.clone());
            }
        }
    }
    naming.sort();
    assert_eq!(
        naming, NAME_THE_DRIVER,
        "a file that names the driver no more comes off the list"
    );
}
