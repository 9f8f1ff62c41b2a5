// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Watching guests' kernel logs for signs of trouble.
//!
//! Each guest's console goes to a file. A [`Mark`] remembers a position; [`Mark::trouble`] gives the lines
//! after it that no healthy kernel prints.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What makes a line a sign of trouble.
const SIGNS: &[&str] = &[
    "BUG:",
    "Oops",
    "WARNING:",
    "Call Trace",
    "lockdep",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "KASAN",
    "UBSAN",
    "hung task",
    "blocked for more than",
    "refcount_t",
    "Kernel panic",
    "leaked",
    "soft lockup",
    "rcu_sched self-detected",
    "general protection fault",
    "Segfault with no mm",
    "kmemleak:",
    "DMA-API:",
    "Unknown rela relocation",
    "Unknown symbol",
];

/// Lines that carry one of the signs and mean nothing.
const HARMLESS: &[&str] = &[
    "device links to tunneled native ports are missing",
    "lockdep: fixing up",
    "Lock dependency validator",
    "kmemleak: Kernel memory leak detector initialized",
    "KernelAddressSanitizer initialized",
    "DMA-API: preallocated",
    "DMA-API: debugging enabled",
];

/// Lines of context shown after the first bad one.
const CONTEXT: usize = 30;

/// A position in a log file.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

impl Mark {
    /// The end of the log as it is now. A log that does not exist yet is empty.
    pub fn here(path: &Path) -> Mark {
        let offset = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        Mark {
            path: path.to_path_buf(),
            offset,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything written since the mark.
    pub fn since(&self) -> Result<String> {
        let mut file = File::open(&self.path).with_context(|| format!("log {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// The troubling part of what was written since the mark, with some context, or None.
    pub fn trouble(&self) -> Result<Option<String>> {
        Ok(trouble(&self.since()?))
    }
}

/// The first troubling line of `text` with what follows it, or None.
pub fn trouble(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| is_trouble(line))?;
    let end = lines.len().min(first + CONTEXT);
    Some(lines[first..end].join("\n"))
}

fn is_trouble(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign)) && !HARMLESS.iter().any(|fine| line.contains(fine))
}

/// The last `count` lines of a file, for error messages.
pub fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_found_with_its_trace() {
        let log = "[1.0] fine\n[2.0] WARNING: CPU: 0 PID: 1 at foo.c:1\n[2.1] Call Trace:\n[2.2]  foo\n";
        let shown = trouble(log).unwrap();
        assert!(shown.starts_with("[2.0] WARNING:") && shown.ends_with("foo"));
    }

    #[test]
    fn the_known_harmless_line_is_not_trouble() {
        assert_eq!(
            trouble("thunderbolt 0000:00:00.0: device links to tunneled native ports are missing!"),
            None
        );
    }

    #[test]
    fn marks_see_only_what_comes_later() {
        let path = std::env::temp_dir().join(format!("usb4lab-mark-{}", std::process::id()));
        std::fs::write(&path, "BUG: old\n").unwrap();
        let mark = Mark::here(&path);
        assert_eq!(mark.trouble().unwrap(), None);
        std::fs::write(&path, "BUG: old\nKASAN: new\n").unwrap();
        assert_eq!(mark.trouble().unwrap().unwrap(), "KASAN: new");
        std::fs::remove_file(&path).unwrap();
    }
}
