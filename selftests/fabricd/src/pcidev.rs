// SPDX-License-Identifier: GPL-2.0 OR MIT
//! PCI over virtio as User-mode Linux speaks it (`linux/virtio_pcidev.h`): a command queue and an interrupt queue.
//!
//! A command is `{u8 op, u8 bar, u16, u32 size, u64 addr, data}`; reads fill one writable buffer, writes are posted.
//! The guest polls for the answers, so the command queue is never interrupted for.

use usb4_model::pci::Message;
use usb4_model::{Fabric, Instant, Memory};

use crate::mapping::GuestMemory;
use crate::sink::SharedSink;
use crate::vring::{Buffer, Vring};

const CONFIG_READ: u8 = 1;
const CONFIG_WRITE: u8 = 2;
const MMIO_READ: u8 = 3;
const MMIO_WRITE: u8 = 4;
const MSI: u8 = 7;

const HEADER_LEN: usize = 16;
/// Longest data of a command that is looked at: two registers at once.
const DATA_LEN: usize = 64;
/// An interrupt message: header and four bytes.
const INTERRUPT_LEN: usize = HEADER_LEN + 4;

/// Carries out one command. Gives the number of bytes written to the guest.
pub fn handle(
    fabric: &mut Fabric<GuestMemory>,
    now: Instant,
    nhi: usize,
    sink: &SharedSink,
    queue: &Vring,
    head: u16,
) -> u32 {
    let mut command = [0; HEADER_LEN + DATA_LEN];
    let (mut length, mut answer) = (0, None);
    for buffer in queue.chain(head) {
        if buffer.writable {
            answer = Some(buffer);
            continue;
        }
        let part = (buffer.length as usize).min(command.len() - length);
        if queue
            .memory()
            .read(buffer.address, &mut command[length..length + part])
            .is_err()
        {
            return 0;
        }
        length += part;
    }
    if length < HEADER_LEN {
        return 0;
    }
    let (header, data) = command[..length].split_at(HEADER_LEN);
    let (op, bar) = (header[0], header[1]);
    let size = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let address = u64::from_ne_bytes(header[8..16].try_into().unwrap_or_default());
    let mut reply = [0; DATA_LEN];
    let reply = &mut reply[..size.min(DATA_LEN)];
    let data = &data[..size.min(data.len())];
    match op {
        CONFIG_READ => sink.config_read(address, reply),
        CONFIG_WRITE => {
            sink.config_write(address, data);
            return 0;
        }
        MMIO_READ => {
            for (word, at) in reply.chunks_mut(4).zip((address..).step_by(4)) {
                let value = match (bar, u32::try_from(at)) {
                    (0, Ok(at)) => fabric.mmio_read(now, nhi, at),
                    (2, Ok(_)) => sink.bar2_read(at),
                    _ => !0,
                };
                word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
            }
        }
        MMIO_WRITE => {
            // Registers are whole words; anything else is not for us.
            for (word, at) in data.chunks_exact(4).zip((address..).step_by(4)) {
                let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                match (bar, u32::try_from(at)) {
                    (0, Ok(at)) => fabric.mmio_write(now, nhi, at, value),
                    (2, Ok(_)) => sink.bar2_write(at, value),
                    _ => {}
                }
            }
            return 0;
        }
        _ => return 0,
    }
    write_answer(queue, answer, reply)
}

fn write_answer(queue: &Vring, answer: Option<Buffer>, bytes: &[u8]) -> u32 {
    let Some(buffer) = answer else { return 0 };
    let length = bytes.len().min(buffer.length as usize);
    match queue.memory().write(buffer.address, &bytes[..length]) {
        Ok(()) => length as u32,
        Err(_) => 0,
    }
}

/// Puts an interrupt message into the next buffer of the interrupt queue. False if the guest has posted none.
pub fn send_message(queue: &mut Vring, message: Message) -> bool {
    let Some(head) = queue.take() else { return false };
    let mut bytes = [0; INTERRUPT_LEN];
    bytes[0] = MSI;
    bytes[4..8].copy_from_slice(&4_u32.to_ne_bytes());
    bytes[8..16].copy_from_slice(&message.address.to_ne_bytes());
    bytes[16..].copy_from_slice(&message.data.to_le_bytes());
    let buffer = queue.chain(head).next();
    let written = buffer.filter(|buffer| buffer.writable && buffer.length as usize >= INTERRUPT_LEN);
    let length = written.is_some_and(|buffer| queue.memory().write(buffer.address, &bytes).is_ok());
    queue.give(head, if length { INTERRUPT_LEN as u32 } else { 0 });
    true
}
