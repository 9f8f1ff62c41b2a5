// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is wrong, judged from facts alone: each check is a pure function from [`Facts`] to findings.
//!
//! A finding's code is stable and documented in docs/doctor.md; scripts match it. The command in `fix` mends what was
//! found on this host; where only a person can, by a plug or on the other host, the text says what.

mod cables;
mod net;
mod rdma;

use crate::facts::Facts;
use serde::{Deserialize, Serialize};

/// How bad it is. The order is the exit status of `doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// It works, but not as well as it could.
    Warning,
    /// RDMA over a cable does not work.
    Error,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// Stable, such as `cable-slow`.
    pub code: String,
    pub severity: Severity,
    /// What is wrong and what to do about it.
    pub text: String,
    /// Where it was seen: the file or command and what it said.
    pub evidence: String,
    /// The command that mends it on this host, for root.
    pub fix: Option<String>,
}

/// A check and the codes that it can give.
pub struct Check {
    pub codes: &'static [&'static str],
    pub run: fn(&Facts) -> Vec<Finding>,
}

/// All checks, what is most basic first.
pub const CHECKS: [&[Check]; 3] = [cables::CHECKS, net::CHECKS, rdma::CHECKS];

/// What all checks find, the worst first; nothing about cables that are to be left alone.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let ours = facts.without_left();
    let mut found: Vec<Finding> = CHECKS
        .iter()
        .flat_map(|checks| checks.iter())
        .flat_map(|check| (check.run)(&ours))
        .collect();
    // There may be some, and all of them are to be left alone.
    found.retain(|finding| finding.code != "no-cable" || facts.cables.is_empty());
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

/// Counters of a cable's network device that stay 0 on a good cable.
pub fn cable_errors() -> [&'static str; 7] {
    net::ERRORS
}

/// Counters of an RDMA link that stay 0 while nothing fails.
pub fn link_errors() -> [&'static str; 5] {
    rdma::ERRORS
}

impl Finding {
    fn new(severity: Severity, code: &str, text: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding {
            code: code.into(),
            severity,
            text: text.into(),
            evidence: evidence.into(),
            fix: None,
        }
    }

    fn error(code: &str, text: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, code, text, evidence)
    }

    fn warning(code: &str, text: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, code, text, evidence)
    }

    fn info(code: &str, text: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding::new(Severity::Info, code, text, evidence)
    }

    fn fix(self, command: impl Into<String>) -> Finding {
        Finding {
            fix: Some(command.into()),
            ..self
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

#[cfg(test)]
pub mod tests;
