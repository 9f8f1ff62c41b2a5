// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A hostile user of an RDMA device that speaks rxe's user ABI.
//!
//! ```text
//! usb4fuzz uverbs DEVICE SECONDS SEED     commands of /dev/infiniband: valid, almost valid, and not at all
//! usb4fuzz queues DEVICE SECONDS SEED     connected queue pairs whose shared queues hold anything
//! ```
//!
//! It works in rounds, each with a seed of its own, which it prints before. A round with one thread repeats
//! exactly: `usb4fuzz MODE DEVICE 0 SEED` runs the round of that seed alone. What breaks is the kernel, or nothing.

mod commands;
mod ioctls;
mod queues;
mod rng;
mod sys;
mod table;
mod wire;

use rng::Rng;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use table::Table;

type Error = Box<dyn std::error::Error>;

/// A device as a round sees it.
pub struct Target {
    /// `/dev/infiniband/uverbsN`.
    pub path: String,
    /// Index and bytes of source addresses.
    pub gids: Vec<(u8, [u8; 16])>,
}

/// What was done, for the last line.
#[derive(Default)]
pub struct Tally {
    pub rounds: u64,
    pub calls: u64,
    pub accepted: u64,
    /// Keys of others that were tried.
    pub attempts: u64,
}

fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, device, seconds, seed] = &words[..] else {
        return Err("usb4fuzz uverbs|queues DEVICE SECONDS SEED".into());
    };
    let (seconds, seed): (u64, u64) = (seconds.parse()?, seed.parse()?);
    let target = find(device)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tally = Tally::default();
    loop {
        let seed = seed + tally.rounds;
        println!("{mode}: seed {seed}");
        std::io::stdout().flush()?;
        match mode.as_str() {
            "uverbs" => uverbs(&target, seed, &mut tally)?,
            "queues" => queues::round(&target, &mut Rng::new(seed), &mut tally)?,
            _ => return Err("no such mode".into()),
        }
        tally.rounds += 1;
        sys::close_all()?;
        if Instant::now() >= until {
            break;
        }
    }
    println!(
        "{mode}: {} rounds, {} calls, {} accepted, {} keys of others tried",
        tally.rounds, tally.calls, tally.accepted, tally.attempts
    );
    Ok(())
}

/// The device's character device and addresses.
fn find(device: &str) -> Result<Target, Error> {
    let class = format!("/sys/class/infiniband/{device}");
    let nodes = std::fs::read_dir(format!("{class}/device/infiniband_verbs"));
    let mut node = None;
    for entry in nodes.into_iter().flatten().flatten() {
        node = Some(entry.file_name().to_string_lossy().into_owned());
    }
    for entry in std::fs::read_dir("/sys/class/infiniband_verbs")?.flatten() {
        let is = std::fs::read_to_string(entry.path().join("ibdev")).unwrap_or_default();
        if is.trim() == device {
            node = Some(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let node = node.ok_or("the device has no uverbs node")?;
    let mut gids = Vec::new();
    for index in 0..16u8 {
        let Ok(text) = std::fs::read_to_string(format!("{class}/ports/1/gids/{index}")) else {
            continue;
        };
        let hex: String = text.trim().replace(':', "");
        if hex.len() != 32 || hex.bytes().all(|b| b == b'0') {
            continue;
        }
        let mut gid = [0; 16];
        for (at, byte) in gid.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16)?;
        }
        gids.push((index, gid));
    }
    if gids.is_empty() {
        return Err("the device has no address".into());
    }
    Ok(Target {
        path: format!("/dev/infiniband/{node}"),
        gids,
    })
}

/// A context, and commands out of one to three threads.
fn uverbs(target: &Target, seed: u64, tally: &mut Tally) -> Result<(), Error> {
    let mut rng = Rng::new(seed);
    let context = commands::Context::open(target, &mut rng)?;
    let table = Mutex::new(Table::default());
    let threads = if rng.chance(50) { 1 } else { 1 + rng.below(3) };
    let calls = 100 + rng.below(400);
    let results: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let run = |mut rng: Rng| {
            let (context, table) = (&context, &table);
            scope.spawn(move || {
                let mut accepted = 0;
                for _ in 0..calls {
                    let done = if rng.chance(70) {
                        commands::any(context, table, &mut rng)
                    } else {
                        ioctls::any(context, table, &mut rng)
                    };
                    accepted += u64::from(done);
                }
                (calls, accepted)
            })
        };
        let handles: Vec<_> = (0..threads).map(|n| run(Rng::new(seed ^ (n + 1) << 40))).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    });
    for (calls, accepted) in results {
        tally.calls += calls;
        tally.accepted += accepted;
    }
    // What lives is another domain's, and what has ended is nobody's; then all has ended, mappings and context.
    let known = table.lock().map(|table| table.known.clone()).unwrap_or_default();
    tally.attempts += queues::attack(target, &known, &mut rng)?;
    drop((table, context));
    tally.attempts += queues::attack(target, &known, &mut rng)?;
    Ok(())
}
