// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What all threads share: the fabric, the ways to the guests, the clock and the timer.
//!
//! Locks: fabric, then a sink, then the timer; interrupts are sent after the fabric is unlocked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use usb4_model::{Fabric, Function, Instant, Interrupt};

use crate::change::{Change, Timed};
use crate::mapping::GuestMemory;
use crate::sink::SharedSink;
use crate::travel::Schedule;

/// The fabric at work.
pub struct Service {
    state: Mutex<State>,
    pub sinks: Vec<SharedSink>,
    clock: Clock,
    timer: Timer,
}

struct State {
    fabric: Fabric<GuestMemory>,
    /// Changes to make later, the next one last.
    script: Vec<(Instant, Change)>,
}

impl State {
    fn next_event(&self) -> Option<Instant> {
        let script = self.script.last().map(|&(at, _)| at);
        self.fabric.next_event().into_iter().chain(script).min()
    }

    /// Makes the changes that are due.
    fn play(&mut self, now: Instant) {
        while let Some(&(at, change)) = self.script.last().filter(|(at, _)| *at <= now) {
            self.script.pop();
            self.fabric.step(at);
            change.apply(&mut self.fabric);
        }
    }
}

/// Where the time comes from.
pub enum Clock {
    /// This machine, from when the program started.
    Real(std::time::Instant),
    /// The guests' shared calendar.
    Virtual(Schedule),
}

impl Clock {
    pub fn now(&self) -> Instant {
        match self {
            Clock::Real(start) => Instant(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Clock::Virtual(schedule) => schedule.now(),
        }
    }
}

/// Wakes the fabric when something is due (real time).
struct Timer {
    /// Deadline in nanoseconds of the clock, `u64::MAX` for none. Written under `lock` only.
    deadline: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Service {
    pub fn new(fabric: Fabric<GuestMemory>, clock: Clock) -> Self {
        let sinks = fabric
            .nhis()
            .iter()
            .map(|nhi| SharedSink::new(Function::new(&nhi.profile())))
            .collect();
        let timer = Timer {
            deadline: AtomicU64::new(u64::MAX),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        };
        Service {
            state: Mutex::new(State {
                fabric,
                script: Vec::new(),
            }),
            sinks,
            clock,
            timer,
        }
    }

    pub fn schedule(&self) -> Option<&Schedule> {
        match &self.clock {
            Clock::Real(_) => None,
            Clock::Virtual(schedule) => Some(schedule),
        }
    }

    /// When the fabric next has something to do.
    pub fn next_event(&self) -> Option<Instant> {
        self.lock().next_event()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, now or at its time.
    ///
    /// # Errors
    /// What is wrong with the change, in words.
    pub fn change(&self, timed: Timed) -> Result<(), String> {
        let cables = self.lock().fabric.cables().len();
        timed.change.check(cables)?;
        match timed.at {
            None => self.with(|fabric, now| {
                fabric.step(now);
                timed.change.apply(fabric);
            }),
            Some(at) => {
                let mut state = self.lock();
                let index = state.script.partition_point(|&(other, _)| other > at);
                state.script.insert(index, (at, timed.change));
                drop(state);
                self.arm(Some(at));
            }
        }
        Ok(())
    }

    /// Does something with the fabric at the present time, then sends the interrupts that came of it.
    pub fn with<R>(&self, work: impl FnOnce(&mut Fabric<GuestMemory>, Instant) -> R) -> R {
        self.with_buffer(&mut Vec::new(), work)
    }

    /// As [`Service::with`], with a buffer that the caller keeps for the next time.
    pub fn with_buffer<R>(
        &self,
        interrupts: &mut Vec<Interrupt>,
        work: impl FnOnce(&mut Fabric<GuestMemory>, Instant) -> R,
    ) -> R {
        let (result, next, notices) = {
            let mut state = self.lock();
            let now = self.clock.now();
            state.play(now);
            let result = work(&mut state.fabric, now);
            state.fabric.take_interrupts(interrupts);
            let notices = if state.fabric.has_notices() {
                state.fabric.take_notices()
            } else {
                Vec::new()
            };
            (result, state.next_event(), notices)
        };
        for notice in notices {
            eprintln!("{notice}");
        }
        self.send(interrupts);
        self.arm(next);
        result
    }

    /// Sends interrupts, those of one guest together.
    fn send(&self, interrupts: &mut Vec<Interrupt>) {
        while let Some(&Interrupt { nhi, .. }) = interrupts.first() {
            let mut vectors = 0;
            interrupts.retain(|interrupt| {
                let mine = interrupt.nhi == nhi;
                if mine {
                    vectors |= 1 << interrupt.vector;
                }
                !mine
            });
            self.sinks[nhi].send(vectors);
        }
    }

    fn arm(&self, next: Option<Instant>) {
        let next = next.map_or(u64::MAX, |next| next.0);
        match &self.clock {
            Clock::Virtual(schedule) => schedule.limit(Instant(next)),
            Clock::Real(_) => {
                if next < self.timer.deadline.load(Ordering::Acquire) {
                    let _guard = self.timer.lock.lock().unwrap_or_else(PoisonError::into_inner);
                    self.timer.deadline.fetch_min(next, Ordering::AcqRel);
                    self.timer.changed.notify_one();
                }
            }
        }
    }

    /// Wakes the fabric at its deadlines, for ever. The body of the timer thread.
    pub fn run_timer(&self) {
        let mut interrupts = Vec::new();
        loop {
            let mut guard = self.timer.lock.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let deadline = self.timer.deadline.load(Ordering::Acquire);
                let left = deadline.saturating_sub(self.clock.now().0);
                if left == 0 {
                    break;
                }
                // The longest wait is arbitrary: an early wake-up only looks at the deadline again.
                let wait = Duration::from_nanos(left.min(3_600_000_000_000));
                guard = self
                    .timer
                    .changed
                    .wait_timeout(guard, wait)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            self.timer.deadline.store(u64::MAX, Ordering::Release);
            drop(guard);
            self.with_buffer(&mut interrupts, |fabric, now| fabric.step(now));
        }
    }
}
