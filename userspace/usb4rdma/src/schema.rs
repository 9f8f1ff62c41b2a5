// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The schemas of what `--json` prints: made from the types, kept in schema/ for scripts and for the lab's cases.

use std::path::Path;

/// Fails unless schema/NAME is the schema of the type. `USB4RDMA_BLESS=1` in the environment writes the file.
pub fn same_as_file(name: &str, schema: schemars::Schema) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(name);
    let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("USB4RDMA_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{} is not the schema of the type: USB4RDMA_BLESS=1 cargo test -p usb4rdma schema",
        path.display()
    );
}
