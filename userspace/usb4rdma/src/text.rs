// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Output for a person: tables, and colour where there is a terminal.

use crate::health::Severity;
use std::io::IsTerminal;

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Colours if standard output is a terminal and `NO_COLOR` is not set.
    pub fn for_stdout() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint(wanted && std::io::stdout().is_terminal())
    }

    /// No colour.
    pub fn none() -> Paint {
        Paint(false)
    }

    pub fn severity(self, severity: Severity) -> String {
        let colour = match severity {
            Severity::Info => 36,
            Severity::Warning => 33,
            Severity::Error => 31,
        };
        if self.0 {
            format!("\x1b[{colour}m{severity}\x1b[0m")
        } else {
            severity.to_string()
        }
    }
}

/// Rows with their columns aligned, the first row the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|n| {
            rows.iter()
                .filter_map(|row| row.get(n))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
