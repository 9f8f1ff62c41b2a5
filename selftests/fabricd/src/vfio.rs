// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The vfio-user server for QEMU's `vfio-user-pci` (QEMU's docs/interop/vfio-user.rst).
//!
//! One thread per socket: a receive takes as many messages as there are, register accesses among them are carried out
//! together under one lock, answers go out in one send. Guest memory comes as files to map, interrupts go to eventfds.
//! BAR registers and the MSI-X table are QEMU's own affair. A client that closes its socket is gone; another may
//! connect.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use usb4_model::pci::BAR2_LEN;
use usb4_model::regs::{BAR0_LEN, VECTORS};
use usb4_model::{Fabric, Instant, Interrupt};

use crate::mapping::{GuestMemory, Mapping, Region};
use crate::service::Service;
use crate::socket;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;
const WRITE_MULTI: u16 = 15;

const HEADER_LEN: usize = 16;
/// Longest message: the version's capabilities and register accesses are all there is.
const MESSAGE_LEN: usize = 16 * 1024;
const BUFFER_LEN: usize = 64 * 1024;

const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;
const EINVAL: u32 = 22;

/// Regions of a VFIO PCI device: BARs 0 to 5, ROM, configuration space, VGA.
const REGIONS: u32 = 9;
const BAR0: u32 = 0;
const BAR2: u32 = 2;
const CONFIG: u32 = 7;
const CONFIG_LEN: u64 = 256;
const READ_WRITE: u32 = 3;
/// Interrupt types: INTx, MSI, MSI-X, error, request.
const IRQ_TYPES: u32 = 5;
const MSIX: u32 = 2;
/// Device flags: can be reset, is a PCI device.
const DEVICE_FLAGS: u32 = 3;
const IRQ_EVENTFD: u32 = 1;
const DATA_NONE_TRIGGER: u32 = 0x21;
const DATA_EVENTFD_TRIGGER: u32 = 0x24;
const CAPABILITIES: &str = r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":4096}}"#;
/// Longest access to a region.
const ACCESS_LEN: usize = 4096;

/// Serves clients of one NHI, one after another, for ever.
pub fn serve(service: &Arc<Service>, nhi: usize, listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        service.with(|fabric, now| fabric.connect(now, nhi, GuestMemory::default()));
        let mut session = Session {
            service,
            nhi,
            buffer: Vec::new(),
            files: VecDeque::new(),
            answers: Vec::new(),
        };
        if let Err(error) = session.run(stream) {
            eprintln!("nhi {nhi}: {error}");
        }
        drop(service.with(|fabric, now| fabric.disconnect(now, nhi)));
        service.sinks[nhi].reset();
    }
}

struct Session<'a> {
    service: &'a Service,
    nhi: usize,
    /// Bytes received and not yet consumed.
    buffer: Vec<u8>,
    /// Descriptors, each with the offset in `buffer` of the message they came with.
    files: VecDeque<(usize, OwnedFd)>,
    answers: Vec<u8>,
}

/// A message in the buffer.
#[derive(Clone, Copy)]
struct Message<'a> {
    id: u16,
    command: u16,
    flags: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of some bytes and its length, if it is complete.
    fn parse(bytes: &'a [u8]) -> std::io::Result<Option<(Message<'a>, usize)>> {
        if bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let length = word(bytes, 4) as usize;
        if !(HEADER_LEN..=MESSAGE_LEN).contains(&length) {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "message length"));
        }
        let Some(message) = bytes.get(..length) else {
            return Ok(None);
        };
        let (first, flags) = (word(message, 0), word(message, 8));
        let payload = &message[HEADER_LEN..];
        Ok(Some((
            Message {
                id: first as u16,
                command: (first >> 16) as u16,
                flags,
                payload,
            },
            length,
        )))
    }

    fn is_access(&self) -> bool {
        matches!(self.command, REGION_READ | REGION_WRITE | WRITE_MULTI)
    }
}

/// The word at an offset, 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes
        .get(at..at.saturating_add(4))
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// Appends an answer, unless none is wanted.
fn answer(answers: &mut Vec<u8>, message: &Message<'_>, result: Result<&[&[u8]], u32>) {
    if message.flags & NO_REPLY != 0 {
        return;
    }
    let (parts, flags, error) = match result {
        Ok(parts) => (parts, TYPE_REPLY, 0),
        Err(error) => (&[][..], TYPE_REPLY | ERROR, error),
    };
    let length = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
    answers.extend_from_slice(&message.id.to_le_bytes());
    answers.extend_from_slice(&message.command.to_le_bytes());
    for word in [length as u32, flags, error] {
        answers.extend_from_slice(&word.to_le_bytes());
    }
    for part in parts {
        answers.extend_from_slice(part);
    }
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Session<'_> {
    fn run(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut interrupts = Vec::new();
        let mut chunk = vec![0; BUFFER_LEN];
        loop {
            let (length, files) = socket::receive(&stream, &mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            self.buffer.extend_from_slice(&chunk[..length]);
            if !files.is_empty() {
                let owner = self.last_start()?;
                self.files.extend(files.into_iter().map(|file| (owner, file)));
            }
            let mut consumed = 0;
            while let Some(length) = self.handle_some(consumed, &mut interrupts)? {
                consumed += length;
            }
            self.buffer.drain(..consumed);
            self.files.retain(|&(owner, _)| owner >= consumed);
            for (owner, _) in &mut self.files {
                *owner -= consumed;
            }
            if !self.answers.is_empty() {
                stream.write_all(&self.answers)?;
                self.answers.clear();
            }
        }
    }

    /// Start of the last message in the buffer: descriptors end a receive, so they came with that one.
    fn last_start(&self) -> std::io::Result<usize> {
        let (mut at, mut last) = (0, 0);
        while at < self.buffer.len() {
            last = at;
            match Message::parse(&self.buffer[at..])? {
                Some((_, length)) => at += length,
                None => break,
            }
        }
        Ok(last)
    }

    /// Handles the message at `start` and, if it is a register access, those that follow it. Gives the bytes consumed.
    fn handle_some(&mut self, start: usize, interrupts: &mut Vec<Interrupt>) -> std::io::Result<Option<usize>> {
        let bytes = &self.buffer[start..];
        let Some((message, length)) = Message::parse(bytes)? else {
            return Ok(None);
        };
        if !message.is_access() {
            let mut answers = std::mem::take(&mut self.answers);
            self.handle(start, &mut answers);
            self.answers = answers;
            return Ok(Some(length));
        }
        let (service, nhi, answers) = (self.service, self.nhi, &mut self.answers);
        service.with_buffer(interrupts, |fabric, now| {
            let mut consumed = 0;
            while let Some((message, length)) = Message::parse(&bytes[consumed..])? {
                if !message.is_access() {
                    break;
                }
                let mut access = Access {
                    service,
                    fabric,
                    now,
                    nhi,
                };
                access.handle(&message, answers);
                consumed += length;
            }
            Ok(Some(consumed))
        })
    }

    /// Everything but register accesses: set-up, seldom.
    fn handle(&mut self, start: usize, answers: &mut Vec<u8>) {
        let mut files = VecDeque::new();
        while self.files.front().is_some_and(|&(owner, _)| owner == start) {
            files.extend(self.files.pop_front().map(|(_, file)| file));
        }
        let Ok(Some((message, _))) = Message::parse(&self.buffer[start..]) else {
            return;
        };
        let payload = message.payload;
        let index = word(payload, 8);
        match message.command {
            VERSION => {
                let version = words([0]);
                let parts: [&[u8]; 3] = [&version, CAPABILITIES.as_bytes(), &[0]];
                answer(answers, &message, Ok(&parts));
            }
            DMA_MAP => {
                let mapped = self.map(payload, files.pop_front());
                answer(answers, &message, mapped.map(|()| &[][..]).map_err(|_| EINVAL));
            }
            DMA_UNMAP => {
                let (address, length) = (long(payload, 8), long(payload, 16));
                self.service.with(|fabric, _| {
                    if let Some(memory) = fabric.memory(self.nhi) {
                        memory.remove(address, length);
                    }
                });
                answer(answers, &message, Ok(&[payload.get(..24).unwrap_or(payload)]));
            }
            GET_INFO => answer(answers, &message, Ok(&[&words([16, DEVICE_FLAGS, REGIONS, IRQ_TYPES])])),
            GET_REGION_INFO => {
                let length = match index {
                    BAR0 => BAR0_LEN,
                    BAR2 => BAR2_LEN,
                    CONFIG => CONFIG_LEN,
                    _ => 0,
                };
                let flags = if length > 0 { READ_WRITE } else { 0 };
                let low = words([32, flags, index, 0, length as u32, 0, 0, 0]);
                answer(answers, &message, Ok(&[&low]));
            }
            GET_IRQ_INFO => {
                let vectors = self.service.with(|fabric, _| fabric.nhis()[self.nhi].profile().vectors);
                let (flags, count) = if index == MSIX {
                    (IRQ_EVENTFD, vectors as u32)
                } else {
                    (0, 0)
                };
                answer(answers, &message, Ok(&[&words([16, flags, index, count])]));
            }
            SET_IRQS => {
                self.set_irqs(payload, files);
                answer(answers, &message, Ok(&[]));
            }
            RESET => {
                let nhi = self.nhi;
                self.service.with(|fabric, now| {
                    let memory = fabric.disconnect(now, nhi).unwrap_or_default();
                    fabric.connect(now, nhi, memory);
                });
                self.service.sinks[nhi].reset_function();
                answer(answers, &message, Ok(&[]));
            }
            _ => answer(answers, &message, Err(EINVAL)),
        }
    }

    fn map(&self, payload: &[u8], file: Option<OwnedFd>) -> std::io::Result<()> {
        const WRITABLE: u32 = 2;
        // ROMs and the like come without a file. No frame will ever be there.
        let Some(file) = file else { return Ok(()) };
        let (flags, offset, address) = (word(payload, 4), long(payload, 8), long(payload, 16));
        let length = usize::try_from(long(payload, 24)).map_err(|_| ErrorKind::InvalidInput)?;
        let mapping = Arc::new(Mapping::new(file.as_fd(), offset, length, flags & WRITABLE != 0)?);
        self.service.with(|fabric, _| {
            if let Some(memory) = fabric.memory(self.nhi) {
                memory.insert(Region { address, mapping });
            }
        });
        Ok(())
    }

    fn set_irqs(&self, payload: &[u8], files: VecDeque<OwnedFd>) {
        let (flags, index) = (word(payload, 4), word(payload, 8));
        let (start, count) = (word(payload, 12) as usize, word(payload, 16) as usize);
        if index != MSIX || start > VECTORS || count > VECTORS {
            return;
        }
        let mut sink = self.service.sinks[self.nhi].lock();
        match flags {
            DATA_EVENTFD_TRIGGER => {
                let files = files.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
                sink.set_events(start, files.take(count));
            }
            DATA_NONE_TRIGGER if count == 0 => {
                sink.set_events(0, std::iter::repeat_with(|| None).take(VECTORS));
            }
            _ => {}
        }
    }
}

/// Access to the regions, with the fabric locked.
struct Access<'a> {
    service: &'a Service,
    fabric: &'a mut Fabric<GuestMemory>,
    now: Instant,
    nhi: usize,
}

impl Access<'_> {
    fn handle(&mut self, message: &Message<'_>, answers: &mut Vec<u8>) {
        let payload = message.payload;
        let (offset, region, count) = (long(payload, 0), word(payload, 8), word(payload, 12) as usize);
        match message.command {
            REGION_READ if count <= ACCESS_LEN => {
                let mut bytes = vec![0; count];
                self.read(region, offset, &mut bytes);
                answer(answers, message, Ok(&[&payload[..16.min(payload.len())], &bytes]));
            }
            REGION_WRITE => match payload.get(16..16 + count.min(ACCESS_LEN)) {
                Some(bytes) => {
                    self.write(region, offset, bytes);
                    answer(answers, message, Ok(&[&payload[..16]]));
                }
                None => answer(answers, message, Err(EINVAL)),
            },
            WRITE_MULTI => {
                for write in payload.get(8..).unwrap_or(&[]).chunks_exact(24) {
                    let count = (word(write, 12) as usize).min(8);
                    self.write(word(write, 8), long(write, 0), &write[16..16 + count]);
                }
                answer(answers, message, Ok(&[payload.get(..8).unwrap_or(&[])]));
            }
            _ => answer(answers, message, Err(EINVAL)),
        }
    }

    fn read(&mut self, region: u32, offset: u64, bytes: &mut [u8]) {
        let sink = &self.service.sinks[self.nhi];
        if region == CONFIG {
            return sink.config_read(offset, bytes);
        }
        for (part, at) in bytes.chunks_mut(4).zip((offset..).step_by(4)) {
            let value = match (region, u32::try_from(at)) {
                (BAR0, Ok(at)) => self.fabric.mmio_read(self.now, self.nhi, at),
                (BAR2, _) => sink.bar2_read(at),
                _ => !0,
            };
            part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
        }
    }

    fn write(&mut self, region: u32, offset: u64, bytes: &[u8]) {
        let sink = &self.service.sinks[self.nhi];
        if region == CONFIG {
            return sink.config_write(offset, bytes);
        }
        // Registers are whole words; anything else is not for us.
        for (part, at) in bytes.chunks_exact(4).zip((offset..).step_by(4)) {
            match (region, u32::try_from(at)) {
                (BAR0, Ok(at)) => self.fabric.mmio_write(self.now, self.nhi, at, word(part, 0)),
                (BAR2, _) => sink.bar2_write(at, word(part, 0)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_apart_and_lengths_are_checked() {
        let mut bytes = vec![7, 0, 10, 0, 18, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        let (message, length) = Message::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            (message.id, message.command, message.flags, message.payload, length),
            (7, 10, 16, &[1, 2][..], 18)
        );
        assert!(Message::parse(&bytes[..17]).unwrap().is_none());
        let mut answers = Vec::new();
        answer(&mut answers, &message, Ok(&[]));
        assert!(answers.is_empty(), "no reply was wanted");
        answer(&mut answers, &Message { flags: 0, ..message }, Err(EINVAL));
        assert_eq!(answers, [7, 0, 10, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]);
        bytes[4] = 15;
        assert!(Message::parse(&bytes).is_err());
    }
}
