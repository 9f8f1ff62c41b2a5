// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Runs test cases, sharing labs between them, and judges them by result and by kernel log.

use crate::cases::{self, Bench, Case, Context, Skip};
use crate::lab::{Lab, USUAL};
use crate::log::Mark;
use crate::paths;
use crate::spec::{Kernel, NetDriver, Tier};
use crate::verbs::Kind;
use anyhow::{bail, Result};
use std::io::Write;
use std::time::Instant;

/// What to run and how.
pub struct Plan {
    pub filter: Option<String>,
    pub seed: u64,
    pub tier: Tier,
    pub kernel: Kernel,
    pub ours: Kind,
    /// The network driver under test.
    pub net: NetDriver,
    /// The long cases instead of the others.
    pub long: bool,
}

/// How the cases went.
#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
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
        print!("{:28} ", case.name);
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let outcome = prepare(plan, &case, &mut shared).and_then(|context| judge(&case, context));
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("ok       {seconds:6.1} s");
                tally.passed += 1;
            }
            Err(error) if error.is::<Skip>() => {
                println!("skipped  {error}");
                tally.skipped += 1;
            }
            Err(error) => {
                println!("FAILED   {seconds:6.1} s\n{}", indent(&format!("{error:#}")));
                println!("    replay: {}", replay(plan, &case));
                tally.failed += 1;
                shared = None;
            }
        }
    }
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
    here.into_iter()
        .filter(|c| {
            if exact {
                c.name == filter
            } else {
                c.name.contains(filter) && c.long == plan.long
            }
        })
        .collect()
}

/// The context a case runs in: the shared lab if it fits, a new one otherwise.
fn prepare<'a>(plan: &Plan, case: &Case, shared: &'a mut Option<(Bench, Context)>) -> Result<&'a Context> {
    let tested = matches!(case.bench, Bench::Net(_)) && plan.net == NetDriver::Ours;
    if tested && !paths::has_net_half(plan.tier, plan.kernel)? {
        return Err(Skip("the module that is built has no network half".into()).into());
    }
    if shared.as_ref().is_none_or(|(bench, _)| *bench != case.bench) {
        // The old lab ends before the next one starts; one without a failure leaves nothing to look at.
        discard(shared.take());
        let lab = match case.bench.spec(plan.tier, plan.kernel, plan.seed, plan.net)? {
            Some(spec) => Some(Lab::up(&format!("test-{}", std::process::id()), spec)?),
            None => None,
        };
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

fn discard(shared: Option<(Bench, Context)>) {
    if let Some(lab) = shared.and_then(|(_, context)| context.lab) {
        lab.discard();
    }
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
    let trouble = kernel_trouble(&marks)?;
    match (outcome, trouble) {
        (Ok(()), None) => Ok(()),
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
    if plan.kernel == Kernel::Debug {
        line += " --kernel debug";
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
