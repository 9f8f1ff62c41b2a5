// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4stress`: threads and processes that make, use, change and end all that an RDMA device has, at once and at
//! random, over the distribution's libibverbs; and attackers that try every key that is or was somebody's.
//!
//! Prints one line of JSON. Ends with 1 if something happened that must not: see docs/lab.md for what that is. A seed
//! gives each thread the same choices again; what they meet depends on timing.

mod attack;
mod broker;
mod conn;
mod connect;
mod ffi;
mod memory;
mod ring;
mod run;
mod tally;
mod verbs;
mod world;

use broker::Broker;
use clap::{Parser, ValueEnum};
use ring::Ring;
use run::{Beat, Hand, Run};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verbs::Context;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Starts threads and the other two.
    Main,
    /// One thread that works until it is killed.
    Victim,
    /// One thread that attacks.
    Attacker,
}

#[derive(Parser)]
struct Options {
    device: String,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that work; attackers come on top
    #[arg(long, default_value_t = 6)]
    threads: usize,
    #[arg(long, default_value_t = 2)]
    attackers: usize,
    /// IPv4 address of the other host, where this runs as well
    #[arg(long)]
    peer: Option<String>,
    /// Seconds that one call may take
    #[arg(long, default_value_t = 30.0)]
    stall: f64,
    #[arg(long, value_enum, default_value_t = Role::Main, hide = true)]
    role: Role,
    /// Also keep the report here while it runs
    #[arg(long)]
    report: Option<PathBuf>,
    #[arg(long, hide = true)]
    ring: Option<PathBuf>,
}

/// From look to look of the watchdog.
const LOOK: Duration = Duration::from_millis(100);
/// A look that comes later than this tells that the machine had no time for this program.
const LATE: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let options = Options::parse();
    let path = options
        .ring
        .clone()
        .unwrap_or_else(|| format!("/dev/shm/usb4stress.{}", std::process::id()).into());
    let ring = match Ring::open(&path) {
        Ok(ring) => ring,
        Err(error) => {
            eprintln!("usb4stress: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let broker = match options.peer.as_deref().map(Broker::new).transpose() {
        Ok(broker) => broker,
        Err(error) => {
            eprintln!("usb4stress: the port for offers: {error}");
            return ExitCode::from(2);
        }
    };
    let forks = options.role == Role::Victim;
    let run = Run::new(&options.device, options.seconds, ring, broker, forks);
    if options.role == Role::Main {
        run_all(&run, &options, &path);
        let _ = std::fs::remove_file(&path);
    } else {
        run_one(&run, &options);
    }
    keep(&run, &options);
    println!("{}", report(&run, &options));
    if run.violations().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(run: &Run, options: &Options) -> Value {
    json!({
        "seed": options.seed,
        "seconds": run.start.elapsed().as_secs_f64(),
        "starved_ms": run.starved.load(SeqCst),
        "counts": run.tally.lock().map(|tally| tally.report()).unwrap_or_default(),
        "violations": run.violations(),
    })
}

/// Writes the report where it is wanted, whole or not at all.
fn keep(run: &Run, options: &Options) {
    if let Some(path) = &options.report {
        let new = path.with_extension("new");
        if std::fs::write(&new, report(run, options).to_string()).is_ok() {
            let _ = std::fs::rename(&new, path);
        }
    }
}

/// A thread's own seed.
fn seed(options: &Options, index: usize) -> u64 {
    (options.seed << 16 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The only thread of a process that a `Main` has started. Nobody watches it but its parent.
fn run_one(run: &Run, options: &Options) {
    let beat = Beat::new("only".into());
    while run.goes_on() {
        run.begin_session();
        run.look_up_gids();
        let Ok(context) = Context::open(&options.device) else {
            std::thread::sleep(LOOK);
            continue;
        };
        let mut hand = Hand::new(run, &beat, seed(options, 0));
        if options.role == Role::Attacker {
            attack::attack(&mut hand, &context);
        } else {
            world::work(&mut hand, &context);
        }
    }
}

fn run_all(run: &Run, options: &Options, ring: &Path) {
    let mut children = Children::new(options, ring);
    let count = options.threads + options.attackers;
    let mut session = 0;
    std::thread::scope(|scope| {
        if let Some(broker) = &run.broker {
            scope.spawn(|| {
                while run.goes_on() {
                    broker.listen();
                }
            });
        }
        while run.goes_on() {
            run.begin_session();
            run.look_up_gids();
            let Ok(context) = Context::open(&options.device) else {
                children.look(run);
                std::thread::sleep(LOOK);
                continue;
            };
            session += 1;
            let beats: Vec<Beat> = (0..count)
                .map(|index| {
                    Beat::new(if index < options.threads {
                        format!("worker {index}")
                    } else {
                        format!("attacker {index}")
                    })
                })
                .collect();
            std::thread::scope(|threads| {
                let running: Vec<_> = (0..count)
                    .map(|index| {
                        let (beat, context) = (&beats[index], context.clone());
                        let seed = seed(options, session * 256 + index + 1);
                        threads.spawn(move || {
                            let mut hand = Hand::new(run, beat, seed);
                            if index < options.threads {
                                world::work(&mut hand, &context);
                            } else {
                                attack::attack(&mut hand, &context);
                            }
                        })
                    })
                    .collect();
                watch(run, options, &context, &beats, &mut children, || {
                    running.iter().all(|thread| thread.is_finished())
                });
            });
            // The session may have ended because of an error that is no removal.
            std::thread::sleep(Duration::from_millis(20));
            if let Ok(mut tally) = run.tally.lock() {
                tally.add("session", 0);
            }
            if Arc::strong_count(&context) > 1 {
                run.violation("something still has the device open".into());
            }
        }
    });
    children.end(run);
}

/// Looks after threads, events and children until all threads have ended.
fn watch(
    run: &Run,
    options: &Options,
    context: &Arc<Context>,
    beats: &[Beat],
    children: &mut Children<'_>,
    ended: impl Fn() -> bool,
) {
    let stall = Duration::from_secs_f64(options.stall);
    let (mut looked, mut looks) = (Instant::now(), 0u32);
    let mut steps = (Instant::now(), 0);
    let mut starved_before = run.starved();
    while !ended() {
        std::thread::sleep(LOOK);
        let gap = looked.elapsed();
        looked = Instant::now();
        if gap > LATE {
            run.starved.fetch_add(gap.as_millis() as u64, SeqCst);
        }
        looks += 1;
        if looks % 5 == 0 {
            run.look_up_gids();
        }
        if looks % 16 == 0 {
            keep(run, options);
        }
        while let Ok(kind) = context.event() {
            if let Ok(mut tally) = run.tally.lock() {
                tally.add("asynchronous event", kind);
            }
            const DEVICE_FATAL: i32 = 8;
            if kind == DEVICE_FATAL {
                run.end_session();
            }
        }
        children.look(run);
        let patience = stall + (run.starved() - starved_before);
        for beat in beats {
            match beat.doing(run) {
                Some((what, age)) if age > patience => {
                    stuck(
                        run,
                        &format!("{} has been in {what} for {:.1} s", beat.name, age.as_secs_f64()),
                    );
                }
                _ => {}
            }
        }
        let done = beats.iter().map(|beat| beat.steps.load(SeqCst)).sum();
        if done != steps.1 {
            steps = (Instant::now(), done);
            starved_before = run.starved();
        } else if steps.0.elapsed() > patience {
            stuck(
                run,
                &format!("nothing was done for {:.1} s", steps.0.elapsed().as_secs_f64()),
            );
        }
    }
}

/// Tells where every thread is, and ends: a thread in the kernel cannot be waited for.
fn stuck(run: &Run, text: &str) -> ! {
    run.violation(text.into());
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let stack = std::fs::read_to_string(task.path().join("stack")).unwrap_or_default();
        eprintln!("thread {}:\n{stack}", task.file_name().to_string_lossy());
    }
    println!(
        "{}",
        json!({"seconds": run.start.elapsed().as_secs_f64(), "violations": run.violations(), "stuck": true})
    );
    std::process::exit(1);
}

/// Processes that are killed in the middle of their work, and one that attacks.
struct Children<'a> {
    options: &'a Options,
    ring: &'a Path,
    rng: fastrand::Rng,
    victims: Vec<(Child, Instant)>,
    attacker: Option<Child>,
    started: u64,
}

impl<'a> Children<'a> {
    fn new(options: &'a Options, ring: &'a Path) -> Self {
        Self {
            options,
            ring,
            rng: fastrand::Rng::with_seed(seed(options, 255)),
            victims: Vec::new(),
            attacker: None,
            started: 0,
        }
    }

    fn start(&mut self, role: &str, seconds: f64) -> std::io::Result<Child> {
        self.started += 1;
        let mut command = Command::new("/proc/self/exe");
        verbs::end_with_parent(&mut command);
        command
            .arg(&self.options.device)
            .args(["--role", role, "--seconds", &seconds.to_string()])
            .args(["--seed", &(self.options.seed * 1_000_003 + self.started).to_string()])
            .arg("--ring")
            .arg(self.ring)
            .stdout(Stdio::null())
            .spawn()
    }

    fn look(&mut self, run: &Run) {
        let now = Instant::now();
        let count = |name, result| {
            if let Ok(mut tally) = run.tally.lock() {
                tally.add(name, result);
            }
        };
        let mut left = Vec::new();
        for (mut child, until) in self.victims.drain(..) {
            if let Ok(Some(status)) = child.try_wait() {
                // One that ends by itself before it is killed has found something.
                count("victim ended by itself", status.code().unwrap_or(-1));
                if status.code() == Some(1) {
                    run.violation("a victim found something: see above".into());
                }
            } else if now >= until {
                let _ = child.kill();
                let _ = child.wait();
                count("victim killed", 0);
            } else {
                left.push((child, until));
            }
        }
        self.victims = left;
        if let Some(Ok(Some(status))) = self.attacker.as_mut().map(|child| child.try_wait()) {
            count("attacking process ended", status.code().unwrap_or(-1));
            if status.code() == Some(1) {
                run.violation("an attacking process found something: see above".into());
            }
            self.attacker = None;
        }
        if !run.goes_on() {
            return;
        }
        if self.victims.len() < 2 && self.rng.u32(..4) == 0 {
            let life = Duration::from_millis(self.rng.u64(50..1500));
            if let Ok(child) = self.start("victim", 60.0) {
                self.victims.push((child, now + life));
            }
        }
        if self.attacker.is_none() && self.options.attackers > 0 {
            let seconds = self.rng.f64() * 4.0 + 1.0;
            self.attacker = self.start("attacker", seconds).ok();
        }
    }

    fn end(&mut self, run: &Run) {
        for (mut child, _) in self.victims.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(mut child) = self.attacker.take() {
            // It has no more than a few seconds left, and what it finds counts.
            let end = Instant::now() + Duration::from_secs(10);
            loop {
                match child.try_wait() {
                    Ok(Some(status)) => {
                        if status.code() == Some(1) {
                            run.violation("an attacking process found something: see above".into());
                        }
                        return;
                    }
                    _ if Instant::now() > end => break,
                    _ => std::thread::sleep(LOOK),
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
