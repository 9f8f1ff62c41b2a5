// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Time that softirqs take from programs that have no part in them, kept within an allowance for each processor.
//!
//! C headers: `include/linux/sched.h`, `include/linux/sched/stat.h`.

use super::timer::now;
use kernel::sync::atomic::{Atomic, Relaxed};
use roce::{
    allowance::Allowance,
    time::{Duration, Instant},
};
use usb4_bindings as c;

/// Processors with an allowance of their own; more of them share.
const PROCESSORS: usize = 64;

/// A processor's allowance. Read and written with softirqs off there, so by one at a time; where processors share one,
/// what one of them spends may go unnoticed.
struct Purse {
    left: Atomic<i64>,
    at: Atomic<u64>,
    resting: Atomic<u32>,
}

static PURSES: [Purse; PROCESSORS] = [const {
    Purse {
        left: Atomic::new(0),
        at: Atomic::new(0),
        resting: Atomic::new(0),
    }
}; PROCESSORS];

/// A process that has posted so lately polls for what comes of it, and has the processor for that.
const LATELY: u64 = 20_000_000;

/// The process that a queue pair belongs to.
pub(crate) struct Owner {
    /// Its number; 0: a caller in the kernel.
    process: u32,
    /// When it last asked for something.
    asked: Atomic<u64>,
    /// It gets answers, so it sends no faster than they come, and polls for them meanwhile. Datagrams have none:
    /// whoever posts them goes on posting beside the softirqs that send them, and would have two shares of the
    /// processor.
    polls: bool,
}

/// Whom packets are for that belong to no queue pair of a process.
pub(crate) static KERNEL: Owner = Owner::kernel();

impl Owner {
    pub(crate) const fn kernel() -> Self {
        Self {
            process: 0,
            asked: Atomic::new(0),
            polls: false,
        }
    }

    /// The calling process, which polls for answers if there are any.
    pub(crate) fn caller(polls: bool) -> Self {
        Self {
            // SAFETY: No preconditions.
            process: unsafe { c::usb4_caller() },
            asked: Atomic::new(now()),
            polls,
        }
    }

    /// It asks for something at `now`.
    pub(crate) fn asks(&self, now: u64) {
        self.asked.store(now, Relaxed);
    }

    /// Whether what is done for it now takes the time from somebody else.
    fn robs(&self) -> bool {
        let runs = self.polls && now().saturating_sub(self.asked.load(Relaxed)) < LATELY;
        // SAFETY: No preconditions.
        unsafe { c::usb4_robs(self.process, runs) }
    }

    /// Nanoseconds of the clock at which work for it may go on; `None`: at once. With softirqs off.
    pub(crate) fn rest(&self) -> Option<u64> {
        if !self.robs() {
            return None;
        }
        with_purse(|allowance, now| allowance.rest(now))?.map(|until| until.0)
    }

    /// Does a softirq's work for it, and has it paid for.
    pub(crate) fn charge<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.robs() {
            return work();
        }
        let start = now();
        let done = work();
        with_purse(|allowance, now| allowance.spend(now, Duration(now.0.saturating_sub(start))));
        done
    }
}

/// Lets `act` work on this processor's allowance.
fn with_purse<T>(act: impl FnOnce(&mut Allowance, Instant) -> T) -> Option<T> {
    // SAFETY: No preconditions.
    let cpu = unsafe { c::usb4_cpu() } as usize % PROCESSORS;
    let purse = PURSES.get(cpu)?;
    let mut allowance = Allowance {
        left: purse.left.load(Relaxed),
        at: Instant(purse.at.load(Relaxed)),
        resting: purse.resting.load(Relaxed) != 0,
    };
    let done = act(&mut allowance, Instant(now()));
    purse.left.store(allowance.left, Relaxed);
    purse.at.store(allowance.at.0, Relaxed);
    purse.resting.store(u32::from(allowance.resting), Relaxed);
    Some(done)
}
