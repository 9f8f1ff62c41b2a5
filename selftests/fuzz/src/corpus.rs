// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Inputs worth keeping: a text file for each target, an input a line, in hexadecimal, shortest first.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The file of a target's kept inputs.
pub fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(format!("{target}.hex"))
}

/// The inputs in `file`.
///
/// # Errors
///
/// The file cannot be read, or is not hexadecimal.
pub fn read(file: &Path) -> Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(file)?;
    let bad = |line: &str| Error::new(ErrorKind::InvalidData, format!("not hexadecimal: {line}"));
    text.lines()
        .map(|line| from_hex(line).ok_or_else(|| bad(line)))
        .collect()
}

/// Writes all files of `directory` as inputs to `file`.
///
/// # Errors
///
/// Something cannot be read or written.
pub fn pack(directory: &Path, file: &Path) -> Result<usize> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory)? {
        lines.push(to_hex(&fs::read(entry?.path())?));
    }
    lines.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    lines.dedup();
    fs::write(file, lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(lines.len())
}

/// Writes all inputs of `file` as files to `directory`.
///
/// # Errors
///
/// As [`read`] and [`pack`].
pub fn unpack(file: &Path, directory: &Path) -> Result<usize> {
    let inputs = read(file)?;
    fs::create_dir_all(directory)?;
    for (index, input) in inputs.iter().enumerate() {
        fs::write(directory.join(format!("kept-{index}")), input)?;
    }
    Ok(inputs.len())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(line: &str) -> Option<Vec<u8>> {
    if !line.is_ascii() || line.len() % 2 != 0 {
        return None;
    }
    (0..line.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&line[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_comes_back() {
        assert_eq!(from_hex(&to_hex(&[0, 0x1f, 0xff])), Some(vec![0, 0x1f, 0xff]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
