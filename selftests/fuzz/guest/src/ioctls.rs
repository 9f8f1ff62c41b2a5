// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Methods by `ioctl()`: objects, methods and attributes of `rdma/ib_user_ioctl_cmds.h`, as a library would pass them
//! or nearly so.

use crate::commands::{self, Context};
use crate::rng::Rng;
use crate::sys;
use crate::table::{Kind, Object, Table};
use std::sync::Mutex;

/// What an attribute holds.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// An object of ours.
    Handle(Kind),
    /// The place of a new object's handle.
    New(Kind),
    /// A number, in the attribute itself.
    Number(u16, u64),
    /// A small number.
    Small(u16, u64),
    /// The address of room for an answer.
    Out(u16),
    /// The address of anything.
    In(u16),
    /// A descriptor.
    Channel,
}
use Value::{Channel, Handle, In, New, Number, Out, Small};

type Method = (u16, u16, &'static [(u16, Value)]);

const UHW_IN: u16 = 0x1000;
const UHW_OUT: u16 = 0x1001;

/// Device 0, PD 1, channel 2, CQ 3, QP 4, SRQ 5, AH 6, MR 7, MW 8.
const METHODS: [Method; 22] = [
    (0, 1, &[(0, Small(8, 17)), (1, Out(4)), (2, Out(64))]),
    (0, 2, &[(0, Small(1, 3)), (1, Out(48))]),
    (0, 4, &[(0, Out(4)), (1, Out(8))]),
    (
        0,
        5,
        &[(0, Number(8, 32)), (1, Number(4, 0)), (2, Out(512)), (3, Out(8))],
    ),
    (
        0,
        6,
        &[(0, Small(4, 3)), (1, Small(4, 20)), (2, Number(4, 0)), (3, Out(32))],
    ),
    (1, 0, &[(0, Handle(Kind::Pd))]),
    (
        3,
        0,
        &[
            (0, New(Kind::Cq)),
            (1, Small(4, 200)),
            (2, Number(8, 7)),
            (3, Channel),
            (4, Number(4, 0)),
            (5, Small(4, 4)),
            (6, Out(4)),
            (UHW_OUT, Out(16)),
        ],
    ),
    (
        3,
        0,
        &[
            (0, New(Kind::Cq)),
            (1, Small(4, 200)),
            (2, Number(8, 7)),
            (4, Number(4, 0)),
            (6, Out(4)),
            (UHW_OUT, Out(16)),
        ],
    ),
    (3, 1, &[(0, Handle(Kind::Cq)), (1, Out(8))]),
    (
        4,
        0,
        &[
            (0, New(Kind::Qp)),
            (2, Handle(Kind::Pd)),
            (4, Handle(Kind::Cq)),
            (5, Handle(Kind::Cq)),
            (7, Number(8, 9)),
            (8, In(20)),
            (9, Small(8, 5)),
            (10, Small(4, 3)),
            (13, Out(20)),
            (14, Out(4)),
            (UHW_OUT, Out(32)),
        ],
    ),
    (
        4,
        0,
        &[
            (0, New(Kind::Qp)),
            (2, Handle(Kind::Pd)),
            (3, Handle(Kind::Srq)),
            (4, Handle(Kind::Cq)),
            (5, Handle(Kind::Cq)),
            (7, Number(8, 9)),
            (8, In(20)),
            (9, Number(8, 2)),
            (13, Out(20)),
            (14, Out(4)),
            (UHW_OUT, Out(32)),
        ],
    ),
    (4, 1, &[(0, Handle(Kind::Qp)), (1, Out(4))]),
    (
        5,
        0,
        &[
            (0, New(Kind::Srq)),
            (1, Handle(Kind::Pd)),
            (4, Number(8, 1)),
            (5, Small(4, 100)),
            (6, Small(4, 8)),
            (7, Small(4, 4)),
            (9, Small(8, 3)),
            (11, Out(4)),
            (12, Out(4)),
            (13, Out(4)),
            (UHW_OUT, Out(24)),
        ],
    ),
    (5, 1, &[(0, Handle(Kind::Srq)), (1, Out(4))]),
    (6, 0, &[(0, Handle(Kind::Ah))]),
    (7, 1, &[(0, Handle(Kind::Mr))]),
    (
        7,
        2,
        &[(0, Handle(Kind::Pd)), (1, Small(8, 4)), (2, Small(4, 2)), (3, In(16))],
    ),
    (
        7,
        3,
        &[
            (0, Handle(Kind::Mr)),
            (1, Out(4)),
            (2, Out(4)),
            (3, Out(8)),
            (4, Out(8)),
        ],
    ),
    (
        7,
        4,
        &[
            (0, New(Kind::Mr)),
            (1, Handle(Kind::Pd)),
            (2, Small(8, 8192)),
            (3, Small(8, 65536)),
            (4, Number(8, 0)),
            (5, Channel),
            (6, Small(4, 16)),
            (7, Out(4)),
            (8, Out(4)),
        ],
    ),
    (8, 0, &[(0, Handle(Kind::Mw))]),
    (16, 0, &[(0, New(Kind::Channel))]),
    (15, 0, &[(0, New(Kind::Channel))]),
];

/// One method. True if the kernel accepted it.
pub fn any(context: &Context<'_>, table: &Mutex<Table>, rng: &mut Rng) -> bool {
    if rng.chance(30) {
        return invoke(context, table, rng);
    }
    let (mut object, mut method, attributes) = rng.pick(&METHODS);
    let mut list: Vec<[u64; 2]> = Vec::new();
    let mut made = None;
    let mut ended = None;
    {
        let Ok(table) = table.lock() else { return false };
        for (id, value) in attributes {
            if rng.chance(4) {
                continue;
            }
            let (len, data) = fill(*value, context, &table, rng);
            match value {
                New(kind) => made = Some((list.len(), *kind)),
                Handle(kind) if attributes.len() <= 2 && *id == 0 => ended = Some((*kind, data as u32)),
                _ => {}
            }
            list.push(attribute(*id, len, data));
        }
    }
    if rng.chance(10) {
        list.push(attribute(UHW_IN, 8, rng.border()));
    }
    let mut words = header(object, method, &list);
    if rng.chance(15) {
        spoil(&mut words, rng);
        (object, method) = (words[0] as u16, words[1] as u16);
        (made, ended) = (None, None);
    }
    let _ = (object, method);
    if sys::method(&context.file, &mut words).is_err() {
        return false;
    }
    let Ok(mut table) = table.lock() else { return true };
    if let Some((kind, handle)) = ended {
        table.remove(kind, handle);
    }
    if let Some((at, kind)) = made {
        let handle = words[3 + 2 * at + 1] as u32;
        table.add(Object {
            kind,
            handle,
            number: 0,
        });
    }
    true
}

/// A command of the other kind, wrapped.
fn invoke(context: &Context<'_>, table: &Mutex<Table>, rng: &mut Rng) -> bool {
    let number = rng.below(42) as u32;
    let command = {
        let Ok(table) = table.lock() else { return false };
        commands::make(number, context, &table, rng)
    };
    let base = context.memory.address();
    let at = rng.below(32) as usize * 2048;
    let core = if command.answers {
        &command.core.0[8..]
    } else {
        &command.core.0[..]
    };
    context.memory.write(at, core);
    context.memory.write(at + 512, &command.driver.0);
    context.memory.write(at + 1024, &[0; 64]);
    // The address of the answer is no part of it here.
    let mut list = vec![attribute(2, 4, u64::from(number))];
    if !core.is_empty() {
        list.push(pointer(0, core, base + at as u64));
    }
    if command.answer.0 > 0 {
        list.push(attribute(1, command.answer.0 as u16, base + at as u64 + 1024));
    }
    if !command.driver.0.is_empty() {
        list.push(pointer(UHW_IN, &command.driver.0, base + at as u64 + 512));
    }
    if command.answer.1 > 0 {
        list.push(attribute(
            UHW_OUT,
            command.answer.1 as u16,
            base + at as u64 + 1024 + command.answer.0 as u64,
        ));
    }
    let mut words = header(0, 0, &list);
    if rng.chance(10) {
        spoil(&mut words, rng);
    }
    if sys::method(&context.file, &mut words).is_err() {
        return false;
    }
    commands::learn(&command, commands::Answer(at + 1024), context, table, rng);
    true
}

fn attribute(id: u16, len: u16, data: u64) -> [u64; 2] {
    // Mandatory.
    [u64::from(id) | u64::from(len) << 16 | 1 << 32, data]
}

/// Bytes that come in: in the attribute itself if they fit.
fn pointer(id: u16, bytes: &[u8], address: u64) -> [u64; 2] {
    let mut inline = [0; 8];
    match inline.get_mut(..bytes.len()) {
        Some(to) => {
            to.copy_from_slice(bytes);
            attribute(id, bytes.len() as u16, u64::from_ne_bytes(inline))
        }
        None => attribute(id, bytes.len() as u16, address),
    }
}

fn header(object: u16, method: u16, list: &[[u64; 2]]) -> Vec<u64> {
    const RXE: u64 = 14;
    let len = 24 + 16 * list.len() as u64;
    let mut words = vec![
        len | u64::from(object) << 16 | u64::from(method) << 32 | (list.len() as u64) << 48,
        0,
        RXE,
    ];
    words.extend(list.iter().flatten());
    words
}

fn fill(value: Value, context: &Context<'_>, table: &Table, rng: &mut Rng) -> (u16, u64) {
    let base = context.memory.address();
    match value {
        Handle(kind) => match table.pick(kind, rng) {
            Some(object) if !rng.chance(3) => (0, object.handle.into()),
            _ => (0, rng.below(40)),
        },
        New(_) => (0, 0),
        Number(len, value) => (len, if rng.chance(5) { rng.border() } else { value }),
        Small(len, limit) => (len, if rng.chance(5) { rng.border() } else { rng.below(limit) }),
        Out(len) => (
            len,
            if rng.chance(3) {
                rng.border()
            } else {
                base + rng.below(32) * 1024
            },
        ),
        In(len) => {
            let at = rng.below(32) as usize * 1024;
            for word in 0..usize::from(len) / 4 {
                let value = if rng.chance(5) { rng.border() } else { 1 + rng.below(8) };
                context.memory.write(at + 4 * word, &(value as u32).to_ne_bytes());
            }
            (len, base + at as u64)
        }
        Channel => match table.pick(Kind::Channel, rng) {
            Some(channel) => (0, channel.handle.into()),
            None => (0, u64::from(u32::MAX)),
        },
    }
}

/// Changes words; the length stays what is there, or less.
fn spoil(words: &mut Vec<u64>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(words.len() as u64) as usize;
        match rng.below(5) {
            0 => words[at] ^= 1 << rng.below(64),
            1 => words[at] = rng.border(),
            2 => {
                let shift = 16 * rng.below(4);
                words[at] = words[at] & !(0xffff << shift) | rng.below(40) << shift;
            }
            3 => words.push(rng.border()),
            _ => words.truncate(at.max(3)),
        }
    }
    let len = 8 * words.len() as u64;
    if words[0] & 0xffff > len || rng.chance(70) {
        words[0] = words[0] & !0xffff | len;
    }
}
