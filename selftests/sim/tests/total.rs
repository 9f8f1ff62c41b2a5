// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The engine cannot panic: compiled as the kernel compiles it, overflow checks on, its machine code
//! holds no way to a panic at all.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn no_panic_is_left_in_the_machine_code() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("total");
    std::fs::create_dir_all(&out).expect("a directory for the output");
    compile(&here.join("../../rdma/engine/roce.rs"), &out, &["--crate-name", "roce"]);
    let library = format!("roce={}", out.join("libroce.rlib").display());
    compile(&here.join("tests/total/instance.rs"), &out, &["--extern", &library]);
    for name in ["roce.s", "instance.s"] {
        let assembly = std::fs::read_to_string(out.join(name)).expect("assembly");
        let code = assembly.lines().filter(|line| !line.trim_start().starts_with('.'));
        let ways: Vec<&str> = code
            .filter(|line| line.contains("panic") || line.contains("_fail"))
            .collect();
        assert!(ways.is_empty(), "{name}: {ways:#?}");
    }
}

fn compile(source: &Path, out: &Path, more: &[&str]) {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition", "2021", "--crate-type", "rlib", "--emit", "link,asm"])
        .args([
            "-C",
            "opt-level=2",
            "-C",
            "overflow-checks=y",
            "-C",
            "panic=abort",
            "-C",
            "codegen-units=1",
        ])
        .args(more)
        .arg("--out-dir")
        .arg(out)
        .arg(source)
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
