// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The test cases and what each needs.
//!
//! A case is a function over a running lab. Cases of the same [`Bench`] share one lab; between cases the runner
//! clears faults and removes links, and a case that fails costs its successors a fresh lab.

mod data;
mod errors;
mod faults;
mod kernel;
mod life;
mod net;
mod paging;
mod reach;
mod services;
mod stock;
mod virtual_time;

pub use data::{check_operations, devinfo};

use crate::lab::Lab;
use crate::spec::{Kernel, LabSpec, Profile, Tier, Topology};
use crate::verbs::Kind;
use anyhow::Result;

/// What kind of lab a case runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bench {
    /// Two hosts and this many cables.
    Pair(Profile, usize),
    /// The case makes its own labs.
    Own,
}

/// One test case.
pub struct Case {
    pub name: &'static str,
    /// What it shows, one line.
    pub about: &'static str,
    pub bench: Bench,
    pub tier: Tier,
    pub run: fn(&Context) -> Result<()>,
}

/// What a case is given.
pub struct Context {
    /// None for cases that make their own.
    pub lab: Option<Lab>,
    pub seed: u64,
    pub kernel: Kernel,
    /// What "ours" means: our driver, or rxe while checking the lab itself.
    pub ours: Kind,
}

/// A case that cannot run here returns this error.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Context {
    pub fn lab(&self) -> Result<&Lab> {
        self.lab
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("this case has no lab of its own"))
    }
}

impl Bench {
    /// The lab to start, None if the case makes its own.
    pub fn spec(self, tier: Tier, kernel: Kernel, seed: u64) -> Result<Option<LabSpec>> {
        let (profile, cables) = match self {
            Bench::Pair(profile, cables) => (profile, cables),
            Bench::Own => return Ok(None),
        };
        Ok(Some(LabSpec {
            tier,
            kernel,
            seed,
            ..LabSpec::wired(profile, Topology::Pair, 2, cables)?
        }))
    }
}

/// All cases, in the order they run.
pub fn all() -> Vec<Case> {
    [
        net::CASES,
        data::CASES,
        services::CASES,
        reach::CASES,
        kernel::CASES,
        errors::CASES,
        paging::CASES,
        faults::CASES,
        life::CASES,
        virtual_time::CASES,
        stock::CASES,
    ]
    .into_iter()
    .flatten()
    .map(|c| Case {
        name: c.name,
        about: c.about,
        bench: c.bench,
        tier: c.tier,
        run: c.run,
    })
    .collect()
}

/// Shorthand for the common kind of case.
const fn pair(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::Pair(Profile::Strix, 1),
        tier: Tier::Fast,
        run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = std::collections::HashSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} twice", case.name);
            assert!(case
                .name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        }
    }
}
