// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The vhost-user back-end for User-mode Linux's `virtio_uml` (QEMU's docs/interop/vhost-user.rst names the messages).
//!
//! One listener per NHI, one guest at a time, any number of them one after another. A guest that closes its socket is
//! gone: its queues stop, its memory is unmapped and the router is reset.
//!
//! ```text
//!   real time     message thread: sockets    command thread: queue 0    kick thread: queue 1
//!   virtual time  message thread does all: kicks are messages, and the guest waits for their answers
//! ```

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::mapping::{GuestMemory, Mapping, Region};
use crate::pcidev;
use crate::service::Service;
use crate::sink::{Call, Line};
use crate::socket;
use crate::vring::{Layout, Vring};

const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const SET_SLAVE_REQ_FD: u32 = 21;
const VRING_KICK: u32 = 35;
/// Request of the back-end to the guest: look at a queue.
const SLAVE_VRING_CALL: u32 = 4;

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// VIRTIO_F_VERSION_1 and the protocol features bit.
const FEATURES: u64 = 1 << 32 | 1 << 30;
const REPLY_ACK: u64 = 1 << 3;
const SLAVE_REQ: u64 = 1 << 5;
const INBAND_NOTIFICATIONS: u64 = 1 << 14;

const HEADER_LEN: usize = 12;
/// Longest payload that a guest may send.
const PAYLOAD_LEN: usize = 4096;
const QUEUES: usize = 2;
const COMMANDS: usize = 0;
const INTERRUPTS: usize = 1;
/// Commands carried out before interrupts are sent and others get at the fabric.
const BATCH: usize = 64;

/// Serves guests of one NHI, one after another, for ever.
pub fn serve(service: &Arc<Service>, nhi: usize, listener: &UnixListener) {
    // A guest that shuts down device by device goes wild when we close our ends of its pipes. So they stay open until
    // the next guest comes.
    let mut last = None;
    for stream in listener.incoming().flatten() {
        drop(last.take());
        let mut session = Session::new(service.clone(), nhi);
        if let Err(error) = session.run(stream) {
            eprintln!("nhi {nhi}: {error}");
        }
        session.end();
        last = Some(session);
    }
}

/// Tells a guest in virtual time to look at a queue, and waits until it has.
pub fn call_in_band(stream: &mut UnixStream, queue: u32) {
    let mut message = Vec::with_capacity(HEADER_LEN + 8);
    for word in [SLAVE_VRING_CALL, VERSION | NEED_REPLY, 8, queue, 0] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    let mut reply = [0; HEADER_LEN + 8];
    let done = stream.write_all(&message).and_then(|()| stream.read_exact(&mut reply));
    // A guest that dies meanwhile is noticed by its own socket.
    let _ = done;
}

/// A queue as it is being set up.
#[derive(Default)]
struct QueueSetup {
    layout: Layout,
    kick: Option<OwnedFd>,
    /// The command queue's is never used, but the guest complains without end if it is closed.
    call: Option<OwnedFd>,
    enabled: bool,
}

struct Session {
    service: Arc<Service>,
    nhi: usize,
    memory: GuestMemory,
    queues: [QueueSetup; QUEUES],
    slave: Option<UnixStream>,
    /// The command queue, if kicks are messages.
    commands: Option<Vring>,
    workers: Vec<Worker>,
    /// The interrupt queue's call after the end.
    last_call: Option<Call>,
}

/// A thread that sleeps on an eventfd.
struct Worker {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    wake: OwnedFd,
}

struct Message<'a> {
    request: u32,
    payload: &'a [u8],
    files: Vec<OwnedFd>,
}

impl Message<'_> {
    fn word(&self, offset: usize) -> u32 {
        let bytes = self
            .payload
            .get(offset..offset + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    fn long(&self, offset: usize) -> u64 {
        u64::from(self.word(offset)) | u64::from(self.word(offset + 4)) << 32
    }

    fn queue(&self) -> std::io::Result<usize> {
        let index = (self.word(0) & 0xff) as usize;
        if index < QUEUES {
            Ok(index)
        } else {
            Err(invalid("no such queue"))
        }
    }
}

fn invalid(what: &'static str) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, what)
}

impl Session {
    fn new(service: Arc<Service>, nhi: usize) -> Self {
        Session {
            service,
            nhi,
            memory: GuestMemory::default(),
            queues: Default::default(),
            slave: None,
            commands: None,
            workers: Vec::new(),
            last_call: None,
        }
    }

    /// Answers messages until the guest closes the socket.
    fn run(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut header = [0; HEADER_LEN];
        let mut payload = [0; PAYLOAD_LEN];
        loop {
            let (length, files) = socket::receive(&stream, &mut header)?;
            if length == 0 {
                return Ok(());
            }
            stream.read_exact(&mut header[length..])?;
            let word = |index: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| header[4 * index + byte]));
            let (request, flags, size) = (word(0), word(1), word(2) as usize);
            let payload = payload.get_mut(..size).ok_or_else(|| invalid("message too long"))?;
            stream.read_exact(payload)?;
            let reply = self.handle(Message {
                request,
                payload,
                files,
            })?;
            let mut answer = [0; HEADER_LEN + 8];
            let (value, wanted) = match reply {
                Some(value) => (value, true),
                None => (0, flags & NEED_REPLY != 0),
            };
            if wanted {
                for (slot, word) in answer.chunks_exact_mut(4).zip([request, VERSION | REPLY, 8]) {
                    slot.copy_from_slice(&word.to_ne_bytes());
                }
                answer[HEADER_LEN..].copy_from_slice(&value.to_ne_bytes());
                stream.write_all(&answer)?;
            }
        }
    }

    /// Carries out a message; the value is its answer if it has one.
    fn handle(&mut self, mut message: Message<'_>) -> std::io::Result<Option<u64>> {
        match message.request {
            VRING_KICK => self.on_kick(message.queue()?),
            GET_FEATURES => return Ok(Some(FEATURES)),
            GET_PROTOCOL_FEATURES => {
                let in_band = if self.service.schedule().is_some() {
                    INBAND_NOTIFICATIONS | SLAVE_REQ
                } else {
                    0
                };
                return Ok(Some(REPLY_ACK | in_band));
            }
            GET_QUEUE_NUM => return Ok(Some(QUEUES as u64)),
            SET_MEM_TABLE => self.set_memory(&message)?,
            SET_VRING_NUM => {
                self.queues[message.queue()?].layout.length = u16::try_from(message.word(4)).unwrap_or(0);
            }
            SET_VRING_BASE => self.queues[message.queue()?].layout.base = message.word(4) as u16,
            GET_VRING_BASE => return Ok(Some(u64::from(message.word(0)))),
            SET_VRING_ADDR => {
                let layout = &mut self.queues[message.queue()?].layout;
                layout.descriptors = message.long(8);
                layout.used = message.long(16);
                layout.available = message.long(24);
            }
            SET_VRING_KICK => self.queues[message.queue()?].kick = message.files.pop(),
            SET_VRING_CALL => self.queues[message.queue()?].call = message.files.pop(),
            SET_SLAVE_REQ_FD => self.slave = message.files.pop().map(UnixStream::from),
            SET_VRING_ENABLE => {
                let (queue, on) = (message.queue()?, message.word(4) != 0);
                if on && !self.queues[queue].enabled {
                    self.queues[queue].enabled = true;
                    self.start_queue(queue)?;
                } else if !on {
                    self.queues[queue].enabled = false;
                    self.stop_queue(queue);
                }
            }
            // Owner, features, error fd: nothing to do. Unknown requests are acknowledged if they ask for it.
            _ => {}
        }
        Ok(None)
    }

    /// The memory of UML: one region, guest address = DMA address = user address.
    fn set_memory(&mut self, message: &Message<'_>) -> std::io::Result<()> {
        const REGIONS: usize = 8;
        const REGION_LEN: usize = 32;
        let count = message.word(0) as usize;
        if count > REGIONS.min(message.files.len()) {
            return Err(invalid("memory table and its files do not match"));
        }
        let mut regions = Vec::new();
        for (index, file) in message.files.iter().take(count).enumerate() {
            let at = 8 + REGION_LEN * index;
            let (address, length, offset) = (message.long(at), message.long(at + 8), message.long(at + 24));
            let length = usize::try_from(length).map_err(|_| invalid("memory region too long"))?;
            let mapping = Arc::new(Mapping::new(file.as_fd(), offset, length, true)?);
            regions.push(Region { address, mapping });
        }
        self.memory = GuestMemory::new(regions);
        Ok(())
    }

    fn start_queue(&mut self, index: usize) -> std::io::Result<()> {
        let setup = &mut self.queues[index];
        let queue = Vring::new(self.memory.clone(), setup.layout).ok_or_else(|| invalid("queue not in memory"))?;
        let in_band = self.service.schedule().is_some();
        let kick = setup.kick.take();
        if index == COMMANDS {
            let (nhi, memory) = (self.nhi, self.memory.clone());
            self.service.with(|fabric, now| fabric.connect(now, nhi, memory));
            if in_band {
                self.commands = Some(queue);
            } else {
                let kick = kick.ok_or_else(|| invalid("command queue without kick"))?;
                self.spawn_commands(queue, kick)?;
            }
            return Ok(());
        }
        queue.ask_notify(false);
        let call = match (in_band, self.slave.take(), self.queues[index].call.take()) {
            (true, Some(slave), _) => Call::InBand(slave),
            (false, _, Some(call)) => Call::Stream(call),
            _ => return Err(invalid("interrupt queue without call")),
        };
        self.service.sinks[self.nhi].lock().line = Line::Queue {
            queue,
            call,
            waiting: 0,
        };
        match kick {
            Some(kick) if !in_band => self.spawn_kicks(kick),
            _ => Ok(()),
        }
    }

    fn stop_queue(&mut self, index: usize) {
        if index != INTERRUPTS {
            return;
        }
        if let Line::Queue { call, .. } = std::mem::take(&mut self.service.sinks[self.nhi].lock().line) {
            self.last_call = Some(call);
        }
    }

    /// A kick that came as a message.
    fn on_kick(&mut self, index: usize) {
        if index == INTERRUPTS {
            return self.service.sinks[self.nhi].lock().flush();
        }
        if let Some(queue) = &mut self.commands {
            let mut interrupts = Vec::new();
            while drain(&self.service, self.nhi, queue, &mut interrupts) {}
        }
    }

    fn spawn_commands(&mut self, mut queue: Vring, kick: OwnedFd) -> std::io::Result<()> {
        let (service, nhi) = (self.service.clone(), self.nhi);
        self.spawn(kick, move |kick, stop| {
            let mut interrupts = Vec::new();
            while !stop.load(Ordering::Acquire) {
                queue.ask_notify(false);
                while drain(&service, nhi, &mut queue, &mut interrupts) {}
                queue.ask_notify(true);
                if !queue.has_work() {
                    wait(kick);
                }
            }
        })
    }

    fn spawn_kicks(&mut self, kick: OwnedFd) -> std::io::Result<()> {
        let (service, nhi) = (self.service.clone(), self.nhi);
        self.spawn(kick, move |kick, stop| {
            while !stop.load(Ordering::Acquire) {
                wait(kick);
                service.sinks[nhi].lock().flush();
            }
        })
    }

    fn spawn(
        &mut self,
        kick: OwnedFd,
        body: impl FnOnce(&OwnedFd, &AtomicBool) + Send + 'static,
    ) -> std::io::Result<()> {
        let (stop, wake) = (Arc::new(AtomicBool::new(false)), kick.try_clone()?);
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("nhi{}", self.nhi))
            .spawn(move || body(&kick, &stopped))?;
        self.workers.push(Worker { thread, stop, wake });
        Ok(())
    }

    /// The guest is gone: everything of it goes too. Each step may find nothing to do.
    fn end(&mut self) {
        self.stop_queue(INTERRUPTS);
        for worker in self.workers.drain(..) {
            worker.stop.store(true, Ordering::Release);
            let _ = rustix::io::write(&worker.wake, &1_u64.to_ne_bytes());
            if worker.thread.join().is_err() {
                eprintln!("nhi {}: a thread panicked", self.nhi);
            }
        }
        self.commands = None;
        self.memory = GuestMemory::default();
        let nhi = self.nhi;
        if self.service.schedule().is_none() {
            drop(self.service.with(|fabric, now| fabric.disconnect(now, nhi)));
        } // else the calendar does it at a virtual time that does not depend on when sockets close
        self.service.sinks[nhi].reset();
    }
}

/// Sleeps until the eventfd is written.
fn wait(kick: &OwnedFd) {
    let mut count = [0; 8];
    // An interrupted or failed read only means looking at the queue once more.
    if rustix::io::read(kick, &mut count).is_err() {
        std::thread::yield_now();
    }
}

/// Carries out a batch of commands. False if there was none.
fn drain(service: &Service, nhi: usize, queue: &mut Vring, interrupts: &mut Vec<usb4_model::Interrupt>) -> bool {
    if !queue.has_work() {
        return false;
    }
    service.with_buffer(interrupts, |fabric, now| {
        for _ in 0..BATCH {
            let Some(head) = queue.take() else { break };
            let written = pcidev::handle(fabric, now, nhi, &service.sinks[nhi], queue, head);
            queue.give(head, written);
        }
    });
    true
}
