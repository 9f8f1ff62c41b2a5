// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where a guest's interrupts go: the PCI function's MSI-X state and the way to the guest.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::SendFlags;
use usb4_model::regs::VECTORS;
use usb4_model::Function;

use crate::pcidev;
use crate::vhost;
use crate::vring::Vring;

/// One NHI's way to its guest, and the function as it is after reset. Locked after the fabric, never before it.
#[derive(Debug)]
pub struct SharedSink(Mutex<Sink>, Function);

/// State of a guest's interrupts.
#[derive(Debug)]
pub struct Sink {
    /// MSI-X as the guest programmed it; of no use for a front-end that has its own.
    pub function: Function,
    pub line: Line,
    pub counters: Counters,
}

/// The way to the guest.
#[derive(Debug, Default)]
pub enum Line {
    /// There is no guest, or it is not ready for interrupts.
    #[default]
    None,
    /// Messages in a virtio queue. `waiting` are vectors that no buffer was there for.
    Queue { queue: Vring, call: Call, waiting: u16 },
    /// An eventfd for each vector. `waiting` are vectors that had none when they were to be sent.
    Events {
        events: [Option<OwnedFd>; VECTORS],
        waiting: u16,
    },
}

/// How a guest is told of used buffers.
#[derive(Debug)]
pub enum Call {
    /// A byte stream; what is written does not matter.
    Stream(OwnedFd),
    /// A message that the guest answers before it goes on (virtual time).
    InBand(UnixStream),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub sent: u64,
    /// Messages that had to wait for a buffer.
    pub waited: u64,
    /// Times the guest was told.
    pub calls: u64,
}

impl SharedSink {
    pub fn new(function: Function) -> Self {
        let sink = Sink {
            function: function.clone(),
            line: Line::None,
            counters: Counters::default(),
        };
        SharedSink(Mutex::new(sink), function)
    }

    pub fn lock(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest is gone: the next one finds the function as after reset.
    pub fn reset(&self) {
        let mut sink = self.lock();
        sink.line = Line::None;
        sink.function = self.1.clone();
    }

    /// The function alone is reset, the guest stays.
    pub fn reset_function(&self) {
        self.lock().function = self.1.clone();
    }

    /// Sends the vectors of a mask.
    pub fn send(&self, vectors: u16) {
        self.lock().send(vectors);
    }

    pub fn config_read(&self, offset: u64, bytes: &mut [u8]) {
        self.lock()
            .function
            .config_read(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
    }

    pub fn config_write(&self, offset: u64, bytes: &[u8]) {
        let mut sink = self.lock();
        let unmasked = sink
            .function
            .config_write(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
        sink.send(mask(&unmasked));
    }

    pub fn bar2_read(&self, offset: u64) -> u32 {
        self.lock().function.bar2_read(offset)
    }

    pub fn bar2_write(&self, offset: u64, value: u32) {
        let mut sink = self.lock();
        let unmasked = sink.function.bar2_write(offset, value);
        sink.send(mask(&unmasked));
    }
}

fn mask(vectors: &[usize]) -> u16 {
    vectors.iter().fold(0, |mask, vector| mask | 1 << vector)
}

impl Sink {
    fn send(&mut self, vectors: u16) {
        match &mut self.line {
            Line::None => {}
            Line::Queue { waiting, .. } => {
                *waiting |= vectors;
                self.flush();
            }
            Line::Events { events, waiting } => {
                let vectors = vectors | std::mem::take(waiting);
                for (vector, event) in events.iter().enumerate() {
                    match event {
                        _ if vectors >> vector & 1 == 0 => {}
                        None => *waiting |= 1 << vector,
                        Some(event) => {
                            self.counters.sent += 1;
                            // Fails only if the counter is full, and then the guest has an event to see anyway.
                            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
                        }
                    }
                }
            }
        }
    }

    /// Sets or removes the eventfds of vectors from `first` on.
    pub fn set_events(&mut self, first: usize, new: impl IntoIterator<Item = Option<OwnedFd>>) {
        if !matches!(self.line, Line::Events { .. }) {
            self.line = Line::Events {
                events: Default::default(),
                waiting: 0,
            };
        }
        let Line::Events { events, .. } = &mut self.line else {
            return;
        };
        for (slot, event) in events.iter_mut().skip(first).zip(new) {
            *slot = event;
        }
        self.send(0);
    }

    /// Sends the messages that wait, as far as there are buffers.
    pub fn flush(&mut self) {
        let Line::Queue { queue, call, waiting } = &mut self.line else {
            return;
        };
        let mut sent = false;
        while *waiting != 0 {
            let vector = waiting.trailing_zeros() as usize;
            if !queue.has_work() {
                // Ask for a kick when buffers come, and look once more.
                queue.ask_notify(true);
                if !queue.has_work() {
                    self.counters.waited += 1;
                    break;
                }
                queue.ask_notify(false);
            }
            *waiting &= !(1 << vector);
            if let Some(message) = self.function.message(vector) {
                sent |= pcidev::send_message(queue, message);
                self.counters.sent += 1;
            }
        }
        if *waiting == 0 {
            queue.ask_notify(false);
        }
        if sent && queue.wants_interrupt() {
            self.counters.calls += 1;
            match call {
                // A full stream means that the guest has calls to see already.
                Call::Stream(stream) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    let _ = rustix::net::send(stream, &1_u64.to_ne_bytes(), flags);
                }
                Call::InBand(stream) => vhost::call_in_band(stream, 1),
            }
        }
    }
}
