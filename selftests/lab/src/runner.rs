// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Runs test cases, sharing labs between them, and judges them by result and by kernel log.

use crate::cases::{self, Bench, Case, Context, Skip};
use crate::lab::{Lab, USUAL};
use crate::log::Mark;
use crate::paths;
use crate::spec::{Kernel, NetDriver, Tier};
use crate::tiers;
use crate::verbs::Kind;
use anyhow::{bail, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::time::Instant;

/// The name under which a lab's leaks are counted.
const LEAKS: &str = "(leaks of the cases above)";

/// What to run and how.
pub struct Plan {
    pub filter: Option<String>,
    pub seed: u64,
    pub tier: Tier,
    pub kernel: Kernel,
    pub ours: Kind,
    /// The network driver under test.
    pub net: NetDriver,
    /// Which of the cases that the filter lets through; one that is named in full runs whatever this says.
    pub which: Which,
}

/// A set of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All but the long ones.
    Usual,
    /// The long ones.
    Long,
    /// Those that every change has to pass on the kernel.
    Chosen,
    Every,
}

/// How the cases went.
#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Each case with its result, in the order they ran.
    pub results: Vec<(String, Verdict)>,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    /// With the reason.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl Tally {
    fn note(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
        self.results.push((name.to_string(), verdict));
    }

    /// The failed cases once more, with the beginning and the end of what each said: a reader of the last lines alone
    /// (CI keeps no more) learns what failed.
    fn failures(&self) -> String {
        let mut text = String::new();
        for (name, verdict) in &self.results {
            if let Verdict::Failed(said) = verdict {
                text += &format!("failed: {name}\n{}\n", indent(&ends(said, 8)));
            }
        }
        text
    }
}

/// The first and the last `count` lines of a text, with a line between that says how many were left out.
fn ends(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let left_out = lines.len().saturating_sub(2 * count);
    if left_out == 0 {
        return text.to_string();
    }
    let between = format!("... {left_out} lines ...");
    let (first, last) = (&lines[..count], &lines[lines.len() - count..]);
    [first, &[between.as_str()], last].concat().join("\n")
}

/// Prints the cases that the plan selects.
pub fn list(plan: &Plan) {
    for case in selected(plan) {
        println!("{:28} {}", case.name, case.about);
    }
}

/// Runs the selected cases.
pub fn run(plan: &Plan) -> Result<Tally> {
    let cases = selected(plan);
    if cases.is_empty() {
        bail!(
            "no case matches {:?}: see `usb4lab test --list`",
            plan.filter.as_deref().unwrap_or("")
        );
    }
    let mut tally = Tally::default();
    let mut shared: Option<(Bench, Context)> = None;
    for case in cases {
        if shared.as_ref().is_some_and(|(bench, _)| *bench != case.bench) {
            finish(shared.take(), &mut tally);
        }
        print!("{:28} ", case.name);
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let outcome = prepare(plan, &case, &mut shared).and_then(|context| judge(&case, context));
        let seconds = start.elapsed().as_secs_f64();
        let verdict = match outcome {
            Ok(()) => {
                println!("ok       {seconds:6.1} s");
                Verdict::Passed
            }
            Err(error) if error.is::<Skip>() => {
                println!("skipped  {error}");
                Verdict::Skipped(error.to_string())
            }
            Err(error) => {
                let said = format!("{error:#}");
                println!("FAILED   {seconds:6.1} s\n{}", indent(&said));
                println!("    replay: {}", replay(plan, &case));
                // Most warnings are printed once only: what follows gets a kernel that has not complained yet.
                keep_state(shared.take(), case.name);
                Verdict::Failed(said)
            }
        };
        tally.note(case.name, verdict);
    }
    finish(shared.take(), &mut tally);
    print!("{}", tally.failures());
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(tally)
}

fn selected(plan: &Plan) -> Vec<Case> {
    let here: Vec<Case> = cases::all().into_iter().filter(|c| c.tier == plan.tier).collect();
    let filter = plan.filter.as_deref().unwrap_or_default();
    let exact = here.iter().any(|c| c.name == filter);
    let wanted = |case: &Case| match (plan.which, tiers::chosen(plan.kernel)) {
        (Which::Usual, _) | (Which::Chosen, None) => !case.long,
        (Which::Long, _) => case.long,
        (Which::Chosen, Some(names)) => names.contains(&case.name),
        (Which::Every, _) => true,
    };
    here.into_iter()
        .filter(|c| {
            if exact {
                c.name == filter
            } else {
                c.name.contains(filter) && wanted(c)
            }
        })
        .collect()
}

/// The context a case runs in: the shared lab if it fits, a new one otherwise.
fn prepare<'a>(plan: &Plan, case: &Case, shared: &'a mut Option<(Bench, Context)>) -> Result<&'a Context> {
    if plan.tier == Tier::Fast {
        if let Some(reason) = tiers::missing(plan.kernel, case.name) {
            return Err(Skip(reason.into()).into());
        }
    }
    let tested = matches!(case.bench, Bench::Net(_)) && plan.net == NetDriver::Ours;
    if tested && !paths::has_net_half(plan.tier, plan.kernel)? {
        return Err(Skip("the module that is built has no network half".into()).into());
    }
    if shared.is_none() {
        let lab = match case.bench.spec(plan.tier, plan.kernel, plan.seed, plan.net)? {
            Some(spec) => Some(Lab::up(&format!("test-{}", std::process::id()), spec)?),
            None => None,
        };
        if let Some(lab) = &lab {
            let logs: Vec<Mark> = (0..lab.spec.hosts).map(|h| Mark::start(&lab.console(h))).collect();
            if let Some(trouble) = kernel_trouble(&logs)? {
                bail!("a kernel complained while the lab came up:\n{trouble}");
            }
        }
        *shared = Some((
            case.bench,
            Context {
                lab,
                seed: plan.seed,
                kernel: plan.kernel,
                ours: plan.ours,
                net: plan.net,
            },
        ));
    }
    match shared {
        Some((_, context)) => Ok(context),
        None => bail!("no lab"),
    }
}

/// Ends a lab in which a case has failed, and puts its state, logs included, where the next lab does not take its
/// place.
fn keep_state(shared: Option<(Bench, Context)>, case: &str) {
    let Some(lab) = shared.and_then(|(_, context)| context.lab) else {
        return;
    };
    let state = lab.state.clone();
    drop(lab);
    let mut name = state.file_name().unwrap_or_default().to_os_string();
    name.push(format!("-{case}"));
    let kept = state.with_file_name(name);
    let _ = std::fs::remove_dir_all(&kept);
    if std::fs::rename(&state, &kept).is_ok() {
        println!("    logs: {}", kept.display());
    }
}

/// Ends a lab in which nothing has failed. What its cases have leaked counts as a case of its own.
fn finish(shared: Option<(Bench, Context)>, tally: &mut Tally) {
    let Some(lab) = shared.and_then(|(_, context)| context.lab) else {
        return;
    };
    let found = clean(&lab).and_then(|()| tiers::leaks(&lab)).transpose();
    let verdict = match found {
        None if lab.spec.kernel != Kernel::Smp => None,
        None => Some(Verdict::Passed),
        Some(Ok(list)) => Some(Verdict::Failed(format!("kmemleak lists\n{list}"))),
        Some(Err(error)) => Some(Verdict::Failed(format!("{error:#}"))),
    };
    match &verdict {
        Some(Verdict::Failed(said)) => println!("{LEAKS:28} FAILED\n{}", indent(said)),
        Some(_) => println!("{LEAKS:28} ok"),
        None => {}
    }
    if let Some(verdict) = verdict {
        let failed = verdict != Verdict::Passed;
        tally.note(LEAKS, verdict);
        if failed {
            // Its state stays to be looked at.
            return;
        }
    }
    lab.discard();
}

/// Runs a case from a clean start; an error of the case or of a kernel fails it.
fn judge(case: &Case, context: &Context) -> Result<()> {
    let marks = match &context.lab {
        Some(lab) => {
            let marks = lab.marks();
            clean(lab)?;
            marks
        }
        None => Vec::new(),
    };
    let outcome = (case.run)(context);
    let checked = context.lab.as_ref().map_or(Ok(()), tiers::still_checking);
    let trouble = kernel_trouble(&marks)?;
    match (outcome, trouble) {
        (Ok(()), None) => checked,
        (Ok(()), Some(trouble)) => bail!("the case passed, but a kernel complained:\n{trouble}"),
        (Err(error), None) => Err(error),
        (Err(error), Some(trouble)) => bail!("{error:#}\n{trouble}"),
    }
}

/// What guests' kernels complained about since the marks, or None.
pub fn kernel_trouble(marks: &[Mark]) -> Result<Option<String>> {
    let mut found = Vec::new();
    for (host, mark) in marks.iter().enumerate() {
        if let Some(lines) = mark.trouble()? {
            found.push(format!(
                "kernel log of host {host} ({}):\n{lines}",
                mark.path().display()
            ));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

/// Removes what the case before may have left.
fn clean(lab: &Lab) -> Result<()> {
    if !lab.spec.cables.is_empty() {
        lab.clear_faults()?;
    }
    for host in 0..lab.spec.hosts {
        lab.run(host, &["/usb4lab/clean"], USUAL)?;
    }
    Ok(())
}

fn replay(plan: &Plan, case: &Case) -> String {
    let mut line = format!("target/release/usb4lab test {} --seed {}", case.name, plan.seed);
    if plan.tier == Tier::Stock {
        line += " --tier stock";
    }
    if plan.kernel != Kernel::Lab {
        line += &format!(" --kernel {}", plan.kernel.name());
    }
    if plan.ours == Kind::Rxe {
        line += " --ours rxe";
    }
    if plan.net == NetDriver::Stock {
        line += " --net stock";
    }
    line
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_in_its_middle_and_a_short_one_not_at_all() {
        assert_eq!(ends("1\n2\n3\n4", 2), "1\n2\n3\n4");
        assert_eq!(ends("1\n2\n3\n4\n5", 2), "1\n2\n... 1 lines ...\n4\n5");
    }

    #[test]
    fn the_closing_lines_name_what_failed() {
        let mut tally = Tally::default();
        tally.note("good", Verdict::Passed);
        tally.note("bad", Verdict::Failed("no answer\nin 3 s".into()));
        assert_eq!(tally.failures(), "failed: bad\n    no answer\n    in 3 s\n");
    }
}
