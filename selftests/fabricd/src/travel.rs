// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Virtual time: the calendar of UML's time travel (`linux/um_timetravel.h`), shared memory variant.
//!
//! Exactly one of the guests and the model runs at a time. A guest writes when it wants to run into the shared page,
//! sends WAIT and stops; the calendar picks whoever wants to run first, the model before guests and lower host numbers
//! before higher, sets the time, and lets it run until the next one's turn (`free_until`). So a run depends on nothing
//! but its inputs.
//!
//! ```text
//!   guest: START ---> (all are there) ---> ACK with id and page ---> runs ... WAIT ---> RUN ---> runs ... WAIT
//! ```

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use usb4_model::Instant;

use crate::mapping::Mapping;
use crate::service::Service;
use crate::socket;

const ACK: u32 = 0;
const START: u32 = 1;
const WAIT: u32 = 3;
const RUN: u32 = 6;
const GET_TOD: u32 = 8;
const MESSAGE_LEN: usize = 16;

/// Offsets in the page, and its clients.
const VERSION_AT: usize = 0;
const LENGTH_AT: usize = 4;
const FREE_UNTIL: usize = 8;
const CURRENT_TIME: usize = 16;
const RUNNING: usize = 24;
const MAX_CLIENTS: usize = 26;
const CLIENTS: usize = 4096;
const CLIENT_LEN: usize = 128;
const CLIENT_FLAGS: usize = 4;
const CLIENT_TIME: usize = 8;

const VERSION: u32 = 2;
/// A client works with the page.
const TIME_SHARE: u32 = 1;
/// A client wants to run at its time.
const WANTS_TO_RUN: u32 = 1;
/// The model's client number; host h has h + 1.
const MODEL: usize = 0;
/// What the guests' clocks say at the start: any constant.
const TIME_OF_DAY_NS: u64 = 1_700_000_000_000_000_000;

/// The page that guests and calendar share.
pub struct Schedule {
    page: Mapping,
    file: OwnedFd,
    hosts: usize,
}

impl Schedule {
    /// A page for a number of hosts.
    ///
    /// # Errors
    /// What memfd_create and mmap say.
    pub fn new(hosts: usize) -> std::io::Result<Self> {
        let length = CLIENTS + CLIENT_LEN * (hosts + 1);
        let file = rustix::fs::memfd_create("calendar", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, length as u64)?;
        let page = Mapping::new(file.as_fd(), 0, length, true)?;
        let schedule = Schedule { page, file, hosts };
        schedule.store_u32(VERSION_AT, VERSION);
        schedule.store_u32(LENGTH_AT, length as u32);
        schedule.store_u16(MAX_CLIENTS, hosts as u16 + 1);
        schedule.store_u32(CLIENTS, TIME_SHARE);
        Ok(schedule)
    }

    fn store_u16(&self, at: usize, value: u16) {
        if let Some(word) = self.page.atomic_u16(at) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn store_u32(&self, at: usize, value: u32) {
        if let Some(word) = self.page.atomic_u32(at) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn store_time(&self, at: usize, value: Instant) {
        if let Some(word) = self.page.atomic_u64(at) {
            word.store(value.0, Ordering::SeqCst);
        }
    }

    fn load_time(&self, at: usize) -> Instant {
        Instant(self.page.atomic_u64(at).map_or(0, |word| word.load(Ordering::SeqCst)))
    }

    pub fn now(&self) -> Instant {
        self.load_time(CURRENT_TIME)
    }

    /// Whoever runs must stop for the model's next event.
    pub fn limit(&self, next: Instant) {
        if let Some(free_until) = self.page.atomic_u64(FREE_UNTIL) {
            free_until.fetch_min(next.0, Ordering::SeqCst);
        }
    }

    fn begin(&self, client: usize, now: Instant, free_until: Instant) {
        self.store_time(CURRENT_TIME, now);
        self.store_time(FREE_UNTIL, free_until);
        self.store_u16(RUNNING, client as u16);
    }

    /// When a guest wants to run.
    fn request(&self, client: usize) -> Option<Instant> {
        let at = CLIENTS + CLIENT_LEN * client;
        let flags = self.page.atomic_u32(at + CLIENT_FLAGS)?.load(Ordering::SeqCst);
        (flags & WANTS_TO_RUN != 0).then(|| self.load_time(at + CLIENT_TIME))
    }

    /// A guest is gone: it wants nothing any more.
    fn forget(&self, client: usize) {
        self.store_u32(CLIENTS + CLIENT_LEN * client + CLIENT_FLAGS, 0);
    }
}

/// A connection to the calendar.
struct Client {
    stream: UnixStream,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connected,
    /// Waits to be let in.
    Starting {
        host: usize,
        sequence: u32,
    },
    /// Takes part; its own clock began at `offset`.
    Member {
        host: usize,
        offset: Instant,
    },
}

struct Calendar<'a> {
    service: &'a Service,
    schedule: &'a Schedule,
    null: OwnedFd,
    clients: Vec<Client>,
    /// Hosts that took part at some time: the first run waits for all of them.
    seen: Vec<bool>,
    /// The host that runs.
    running: Option<usize>,
    sequence: u32,
}

/// Runs the calendar, for ever.
///
/// # Errors
/// When the listener or /dev/null fail: nothing works then.
pub fn serve(service: &Arc<Service>, listener: &UnixListener) -> std::io::Result<()> {
    let Some(schedule) = service.schedule() else {
        return Ok(());
    };
    let null = OwnedFd::from(std::fs::File::options().write(true).open("/dev/null")?);
    let seen = vec![false; schedule.hosts];
    let mut calendar = Calendar {
        service,
        schedule,
        null,
        clients: Vec::new(),
        seen,
        running: None,
        sequence: 0,
    };
    loop {
        calendar.run();
        let mut waits: Vec<PollFd<'_>> = vec![PollFd::new(listener, PollFlags::IN)];
        waits.extend(
            calendar
                .clients
                .iter()
                .map(|client| PollFd::new(&client.stream, PollFlags::IN)),
        );
        match rustix::event::poll(&mut waits, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
        // From the last to the first, for a client that is gone is removed.
        for index in (0..calendar.clients.len()).rev() {
            if ready[index + 1] && calendar.receive(index).is_err() {
                calendar.remove(index);
            }
        }
        if ready[0] {
            let (stream, _) = listener.accept()?;
            calendar.clients.push(Client {
                stream,
                state: State::Connected,
            });
        }
    }
}

fn message(operation: u32, sequence: u32, time: Instant) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    bytes[..4].copy_from_slice(&operation.to_ne_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_ne_bytes());
    bytes[8..].copy_from_slice(&time.0.to_ne_bytes());
    bytes
}

impl Calendar<'_> {
    fn receive(&mut self, index: usize) -> std::io::Result<()> {
        let client = &mut self.clients[index];
        let mut bytes = [0; MESSAGE_LEN];
        client.stream.read_exact(&mut bytes)?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (operation, sequence) = (word(0), word(4));
        let time = u64::from(word(8)) | u64::from(word(12)) << 32;
        let now = self.schedule.now();
        match operation {
            ACK => {}
            START => {
                let host = usize::try_from(time).unwrap_or(usize::MAX);
                if host >= self.schedule.hosts {
                    eprintln!(
                        "time travel: a guest says it is host {host}, there are {}",
                        self.schedule.hosts
                    );
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                client.state = State::Starting { host, sequence };
                self.seen[host] = true;
                // Whoever runs must stop, for the newcomer's sake.
                self.schedule.limit(now);
            }
            WAIT => {
                if let State::Member { host, .. } = client.state {
                    if self.running == Some(host) {
                        self.running = None;
                    }
                }
            }
            GET_TOD => client
                .stream
                .write_all(&message(ACK, sequence, now.after_ns(TIME_OF_DAY_NS)))?,
            _ => client.stream.write_all(&message(ACK, sequence, now))?,
        }
        Ok(())
    }

    fn remove(&mut self, index: usize) {
        let client = self.clients.remove(index);
        if let State::Member { host, .. } = client.state {
            self.schedule.forget(host + 1);
            // Its device sockets close at any moment of real time; the virtual moment is this one.
            self.service.with(|fabric, now| {
                for nhi in 0..fabric.nhis().len() {
                    if fabric.place_of(nhi).0 == host {
                        fabric.disconnect(now, nhi);
                    }
                }
            });
            if self.running == Some(host) {
                self.running = None;
            }
        }
    }

    /// Lets the model and the guests run in turn, until a guest runs or none wants to.
    fn run(&mut self) {
        while self.running.is_none() && self.seen.iter().all(|&seen| seen) {
            if !self.admit() && !self.run_next() {
                return;
            }
        }
    }

    /// Lets in a guest that starts, lowest host first. It runs from there.
    fn admit(&mut self) -> bool {
        let starting = |client: &Client| match client.state {
            State::Starting { host, .. } => Some(host),
            _ => None,
        };
        let Some(host) = self.clients.iter().filter_map(starting).min() else {
            return false;
        };
        let Some(index) = self.clients.iter().position(|client| starting(client) == Some(host)) else {
            return false;
        };
        let State::Starting { sequence, .. } = self.clients[index].state else {
            return false;
        };
        let now = self.schedule.now();
        self.clients[index].state = State::Member { host, offset: now };
        self.schedule.begin(host + 1, now, self.next_but(Some(host)));
        self.running = Some(host);
        let answer = message(ACK, sequence, Instant(host as u64 + 1));
        let files: [BorrowedFd<'_>; 2] = [self.schedule.file.as_fd(), self.null.as_fd()];
        if socket::send(&self.clients[index].stream, &answer, &files).is_err() {
            self.remove(index);
        }
        true
    }

    /// When the next one but a host wants to run.
    fn next_but(&self, host: Option<usize>) -> Instant {
        if self
            .clients
            .iter()
            .any(|client| matches!(client.state, State::Starting { .. }))
        {
            // The next one is let in as soon as this one waits.
            return self.schedule.now();
        }
        let others = (0..self.schedule.hosts).filter(|&other| Some(other) != host);
        let guests = others.filter_map(|other| self.schedule.request(other + 1));
        let model = self.service.next_event();
        guests.chain(model).min().unwrap_or(Instant(u64::MAX))
    }

    /// Lets the first in time run. False if nobody wants to.
    fn run_next(&mut self) -> bool {
        let guests = (0..self.schedule.hosts).filter_map(|host| Some((self.schedule.request(host + 1)?, host)));
        let guest = guests.min();
        let model = self.service.next_event();
        let now = self.schedule.now();
        match (model, guest) {
            (Some(due), guest) if guest.is_none_or(|(at, _)| due <= at) => {
                let limit = guest.map_or(Instant(u64::MAX), |(at, _)| at);
                self.schedule.begin(MODEL, due.max(now), limit);
                self.service.with(|fabric, now| fabric.step(now));
                true
            }
            (_, Some((at, host))) => {
                let at = at.max(now);
                self.schedule.begin(host + 1, at, self.next_but(Some(host)));
                self.sequence = self.sequence.wrapping_add(1);
                self.start(host, at)
            }
            _ => false,
        }
    }

    fn start(&mut self, host: usize, at: Instant) -> bool {
        let sequence = self.sequence;
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let State::Member { host: member, offset } = client.state else {
                continue;
            };
            if member != host {
                continue;
            }
            // The kernel takes the time of RUN as its own clock's, which began when it was let in.
            self.running = Some(host);
            if client
                .stream
                .write_all(&message(RUN, sequence, Instant(at.ns_since(offset))))
                .is_err()
            {
                self.remove(index);
            }
            return true;
        }
        // A request that nobody stands behind.
        self.schedule.forget(host + 1);
        true
    }
}
