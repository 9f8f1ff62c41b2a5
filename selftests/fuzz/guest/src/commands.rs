// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Commands by `write()`: mostly as a library would write them, with a few bytes that no library writes.
//!
//! The forms are those of `rdma/ib_user_verbs.h`; the driver's parts those of `rdma/rdma_user_rxe.h`.

use crate::queues::Known;
use crate::rng::Rng;
use crate::sys::{self, Arena};
use crate::table::{Kind, Object, Table};
use crate::wire::Bytes;
use crate::{Error, Target};
use std::fs::{File, OpenOptions};
use std::sync::Mutex;

/// Memory that is registered and whose first part takes answers.
const MEMORY: usize = 4 << 20;
/// Room for an answer.
const ANSWER: usize = 1024;
/// Answers that may be on their way at once.
const ANSWERS: u64 = 64;
/// Command numbers.
pub mod number {
    pub const GET_CONTEXT: u32 = 0;
    pub const QUERY_DEVICE: u32 = 1;
    pub const QUERY_PORT: u32 = 2;
    pub const ALLOC_PD: u32 = 3;
    pub const DEALLOC_PD: u32 = 4;
    pub const CREATE_AH: u32 = 5;
    pub const DESTROY_AH: u32 = 8;
    pub const REG_MR: u32 = 9;
    pub const REREG_MR: u32 = 11;
    pub const DEREG_MR: u32 = 13;
    pub const ALLOC_MW: u32 = 14;
    pub const DEALLOC_MW: u32 = 16;
    pub const CREATE_CHANNEL: u32 = 17;
    pub const CREATE_CQ: u32 = 18;
    pub const RESIZE_CQ: u32 = 19;
    pub const DESTROY_CQ: u32 = 20;
    pub const POLL_CQ: u32 = 21;
    pub const NOTIFY_CQ: u32 = 23;
    pub const CREATE_QP: u32 = 24;
    pub const QUERY_QP: u32 = 25;
    pub const MODIFY_QP: u32 = 26;
    pub const DESTROY_QP: u32 = 27;
    pub const POST_SEND: u32 = 28;
    pub const POST_RECV: u32 = 29;
    pub const ATTACH_MCAST: u32 = 30;
    pub const DETACH_MCAST: u32 = 31;
    pub const CREATE_SRQ: u32 = 32;
    pub const MODIFY_SRQ: u32 = 33;
    pub const QUERY_SRQ: u32 = 34;
    pub const DESTROY_SRQ: u32 = 35;
    pub const POST_SRQ_RECV: u32 = 36;
    pub const CREATE_XSRQ: u32 = 39;
}
use number::*;

const ALL: [u32; 32] = [
    GET_CONTEXT,
    QUERY_DEVICE,
    QUERY_PORT,
    ALLOC_PD,
    DEALLOC_PD,
    CREATE_AH,
    DESTROY_AH,
    REG_MR,
    REREG_MR,
    DEREG_MR,
    ALLOC_MW,
    DEALLOC_MW,
    CREATE_CHANNEL,
    CREATE_CQ,
    RESIZE_CQ,
    DESTROY_CQ,
    POLL_CQ,
    NOTIFY_CQ,
    CREATE_QP,
    QUERY_QP,
    MODIFY_QP,
    DESTROY_QP,
    POST_SEND,
    POST_RECV,
    ATTACH_MCAST,
    DETACH_MCAST,
    CREATE_SRQ,
    MODIFY_SRQ,
    QUERY_SRQ,
    DESTROY_SRQ,
    POST_SRQ_RECV,
    CREATE_XSRQ,
];
/// Commands that make what others need, and those that make it work.
const OFTEN: [u32; 14] = [
    ALLOC_PD,
    CREATE_CQ,
    CREATE_QP,
    CREATE_QP,
    CREATE_SRQ,
    REG_MR,
    REG_MR,
    ALLOC_MW,
    CREATE_AH,
    CREATE_CHANNEL,
    MODIFY_QP,
    MODIFY_QP,
    POST_SEND,
    RESIZE_CQ,
];

/// An open device.
pub struct Context<'a> {
    pub file: File,
    pub memory: Arena,
    pub target: &'a Target,
    events: u32,
}

/// A command before it is written.
pub struct Command {
    pub number: u32,
    /// What follows the header, or what an ioctl passes as the core's part.
    pub core: Bytes,
    /// The driver's part.
    pub driver: Bytes,
    /// Whether the core's part begins with the place of the answer.
    pub answers: bool,
    /// Bytes of the core's and the driver's answer.
    pub answer: (usize, usize),
    /// What it makes.
    pub makes: Option<Kind>,
    /// What it ends.
    pub ends: Option<(Kind, u32)>,
}

impl<'a> Context<'a> {
    /// Opens the device and gets a context.
    pub fn open(target: &'a Target, rng: &mut Rng) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(&target.path)?;
        let mut context = Self {
            file,
            memory: Arena::new(MEMORY)?,
            target,
            events: 0,
        };
        let mut command = Command::new(GET_CONTEXT);
        command.core.u64(0);
        (command.answers, command.answer) = (true, (8, 0));
        context.events = context.write(&command, rng)?.word(&context, 0);
        Ok(context)
    }

    /// A place for an answer.
    fn place(&self, rng: &mut Rng) -> usize {
        rng.below(ANSWERS) as usize * ANSWER
    }

    /// Writes a command as it should be.
    pub fn write(&self, command: &Command, rng: &mut Rng) -> std::io::Result<Answer> {
        let at = self.place(rng);
        let bytes = command.bytes(self.memory.address() + at as u64);
        self.memory.write(at, &[0; 64]);
        sys::command(&self.file, &bytes.0)?;
        Ok(Answer(at))
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        sys::close(self.events as i32);
    }
}

/// Where an answer is.
#[derive(Clone, Copy)]
pub struct Answer(pub usize);

impl Answer {
    /// A word of it.
    pub fn word(self, context: &Context<'_>, at: usize) -> u32 {
        context.memory.word(self.0 + at)
    }

    /// Two words of it.
    pub fn double(self, context: &Context<'_>, at: usize) -> u64 {
        context.memory.double(self.0 + at)
    }
}

impl Command {
    /// An empty one.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            core: Bytes::default(),
            driver: Bytes::default(),
            answers: false,
            answer: (0, 0),
            makes: None,
            ends: None,
        }
    }

    /// As `write()` takes it.
    pub fn bytes(&self, answer: u64) -> Bytes {
        let mut body = self.core.clone();
        if self.answers {
            body.0[..8].copy_from_slice(&answer.to_ne_bytes());
        }
        body.put(&self.driver.0);
        let mut out = Bytes::default();
        out.u32(self.number)
            .u16(((8 + body.0.len()) / 4) as u16)
            .u16(((self.answer.0 + self.answer.1) / 4) as u16)
            .put(&body.0);
        out
    }
}

/// One command. True if the kernel accepted it.
pub fn any(context: &Context<'_>, table: &Mutex<Table>, rng: &mut Rng) -> bool {
    match rng.below(100) {
        0..=5 => scribble(table, rng),
        6 | 7 => connect(context, table, rng),
        _ => {}
    }
    let number = if rng.chance(60) {
        rng.pick(&OFTEN)
    } else {
        rng.pick(&ALL)
    };
    let command = {
        let Ok(table) = table.lock() else { return false };
        make(number, context, &table, rng)
    };
    let at = context.place(rng);
    let mut bytes = command.bytes(context.memory.address() + at as u64);
    if rng.chance(20) {
        spoil(&mut bytes, rng);
        spare(&mut bytes);
    }
    context.memory.write(at, &[0; 64]);
    if sys::command(&context.file, &bytes.0).is_err() {
        return false;
    }
    learn(&command, Answer(at), context, table, rng);
    true
}

/// Two queue pairs to RTS, towards each other, if they are of the right kind and in the right state.
fn connect(context: &Context<'_>, table: &Mutex<Table>, rng: &mut Rng) {
    let (one, two) = {
        let Ok(table) = table.lock() else { return };
        match (table.pick(Kind::Qp, rng), table.pick(Kind::Qp, rng)) {
            (Some(one), Some(two)) => (one, two),
            _ => return,
        }
    };
    let gid = rng.pick(&context.target.gids);
    for (state, mask) in [(1, RC_INIT), (2, RC_RTR), (3, RC_RTS)] {
        for (qp, peer) in [(one, two), (two, one)] {
            let mut command = Command::new(MODIFY_QP);
            Modify {
                mask,
                peer: peer.number,
                access: 0xf,
                timeout: 8,
                retries: 2,
                reads: 4,
                ..Modify::bare(qp.handle, state, gid)
            }
            .put(&mut command.core);
            let _ = context.write(&command, rng);
        }
    }
}

/// Books what a command has changed.
pub fn learn(command: &Command, answer: Answer, context: &Context<'_>, table: &Mutex<Table>, rng: &mut Rng) {
    let Ok(mut table) = table.lock() else { return };
    if let Some((kind, handle)) = command.ends {
        table.remove(kind, handle);
    }
    let Some(kind) = command.makes else { return };
    if matches!(kind, Kind::Mr | Kind::Mw) {
        // Where a region's memory begins stands in the command; a window's is not known yet.
        let place = command.core.0.get(24..32).and_then(|bytes| bytes.try_into().ok());
        table.note(Known {
            key: answer.word(context, 4),
            address: place.map_or(context.memory.address(), u64::from_ne_bytes),
        });
    }
    table.add(Object {
        kind,
        handle: answer.word(context, 0),
        number: answer.word(context, if kind == Kind::Srq { 12 } else { 4 }),
    });
    // The announcements of rings: offset and size.
    let announced: &[usize] = match kind {
        Kind::Cq => &[8],
        Kind::Qp => &[32, 48],
        Kind::Srq => &[16],
        _ => &[],
    };
    for at in announced {
        let (offset, len) = (answer.double(context, *at), answer.word(context, at + 8) as usize);
        if len > 0 && len < 1 << 26 && rng.chance(70) {
            let offset = if rng.chance(3) { rng.border() & !0xfff } else { offset };
            if let Ok(arena) = Arena::shared(&context.file, len, offset) {
                table.share(arena);
            }
        }
    }
}

/// Writes anything into a shared ring: an index, or bytes of requests.
fn scribble(table: &Mutex<Table>, rng: &mut Rng) {
    let Ok(table) = table.lock() else { return };
    if table.shared.is_empty() {
        return;
    }
    let arena = &table.shared[rng.below(table.shared.len() as u64) as usize];
    if rng.chance(60) {
        let at = rng.pick(&[128, 128, 128, 256, 0, 4]);
        let value = if rng.chance(70) { rng.below(64) } else { rng.border() };
        arena.write(at, &(value as u32).to_ne_bytes());
    } else {
        let at = 384 + rng.below(arena.len().max(385) as u64 - 384) as usize;
        for word in 0..rng.below(32) as usize {
            let value = if rng.chance(50) { rng.below(32) } else { rng.border() };
            arena.write((at & !3) + 4 * word, &(value as u32).to_ne_bytes());
        }
    }
}

/// Changes a command that was right.
fn spoil(bytes: &mut Bytes, rng: &mut Rng) {
    let bytes = &mut bytes.0;
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2..=4 => {
                let value = rng.border().to_ne_bytes();
                let at = at & !3;
                let width = if rng.chance(50) { 4 } else { 8 };
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            5 => bytes.truncate(at.max(8)),
            6 => bytes.resize(bytes.len() + 4 * rng.below(16) as usize, rng.next() as u8),
            // Lengths that do not fit.
            _ => bytes[4 + at % 4] = rng.next() as u8,
        }
    }
    if bytes.len() >= 8 && rng.chance(70) {
        let words = (bytes.len() / 4) as u16;
        bytes[4..6].copy_from_slice(&words.to_ne_bytes());
    }
}

/// An answer is not asked for where User-mode Linux has this program's libraries and heaps, which would break it and
/// say nothing: from 1 GiB on, below what [`Arena`] takes.
fn spare(bytes: &mut Bytes) {
    if let Some(place) = bytes.0.get_mut(8..16) {
        if place[4..] == [0; 4] {
            place[3] &= 0x3f;
        }
    }
}

/// A queue's depth: small as a rule, seldom large. Large ones take memory that the guest may not have.
fn depth(rng: &mut Rng) -> u32 {
    match rng.below(400) {
        0..=9 => match rng.border() as u32 {
            // Either refused, or bearable.
            most if most > 1 << 20 => most,
            other => other & 0x7ff,
        },
        10 => rng.pick(&[16_384, 32_767]),
        11..=20 => 0,
        _ => 1 + rng.below(64) as u32,
    }
}

fn few(rng: &mut Rng, usual: u64) -> u32 {
    match rng.below(20) {
        0 => rng.border() as u32,
        1 => 0,
        _ => 1 + rng.below(usual) as u32,
    }
}

/// A command of this number.
pub fn make(number: u32, context: &Context<'_>, table: &Table, rng: &mut Rng) -> Command {
    let mut command = Command::new(number);
    let handle = |kind, rng: &mut Rng| match table.pick(kind, rng) {
        Some(object) if !rng.chance(3) => object.handle,
        _ => rng.below(40) as u32,
    };
    let answering = |command: &mut Command, core: usize, driver: usize| {
        command.core.u64(0);
        (command.answers, command.answer) = (true, (core, driver));
    };
    match number {
        GET_CONTEXT => answering(&mut command, 8, 0),
        QUERY_DEVICE => answering(&mut command, 176, 0),
        QUERY_PORT => {
            answering(&mut command, 40, 0);
            command.core.u8(few(rng, 1) as u8).pad(16);
        }
        ALLOC_PD => {
            answering(&mut command, 4, 0);
            command.makes = Some(Kind::Pd);
        }
        DEALLOC_PD | DESTROY_AH | DEREG_MR | DEALLOC_MW => {
            let kind = match number {
                DEALLOC_PD => Kind::Pd,
                DESTROY_AH => Kind::Ah,
                DEREG_MR => Kind::Mr,
                _ => Kind::Mw,
            };
            let which = handle(kind, rng);
            command.core.u32(which);
            command.ends = Some((kind, which));
        }
        DESTROY_CQ | DESTROY_QP | DESTROY_SRQ => {
            let (kind, len) = match number {
                DESTROY_CQ => (Kind::Cq, 8),
                DESTROY_QP => (Kind::Qp, 4),
                _ => (Kind::Srq, 4),
            };
            answering(&mut command, len, 0);
            let which = handle(kind, rng);
            command.core.u32(which).u32(0);
            command.ends = Some((kind, which));
        }
        CREATE_AH => {
            answering(&mut command, 4, if rng.chance(80) { 8 } else { 0 });
            command.core.u64(rng.next()).u32(handle(Kind::Pd, rng)).u32(0);
            let (index, gid) = rng.pick(&context.target.gids);
            command
                .core
                .put(&gid)
                .u32(rng.next() as u32)
                .u8(index)
                .u8(64)
                .u8(0)
                .u8(0);
            command.core.u16(0).u8(0).u8(0).u8(0).u8(1).u8(few(rng, 1) as u8).u8(0);
            command.makes = Some(Kind::Ah);
        }
        REG_MR | REREG_MR => {
            let (start, len) = range(context, rng);
            let access = rights(rng);
            if number == REG_MR {
                answering(&mut command, 12, 0);
                let iova = match rng.below(10) {
                    0 => rng.border(),
                    1 => start & 0xfff,
                    _ => start,
                };
                command
                    .core
                    .u64(start)
                    .u64(len)
                    .u64(iova)
                    .u32(handle(Kind::Pd, rng))
                    .u32(access);
                command.makes = Some(Kind::Mr);
            } else {
                answering(&mut command, 8, 0);
                let which = handle(Kind::Mr, rng);
                command.core.u32(which).u32(few(rng, 7)).u64(start).u64(len).u64(start);
                command.core.u32(handle(Kind::Pd, rng)).u32(access);
            }
        }
        ALLOC_MW => {
            answering(&mut command, 8, 0);
            command.core.u32(handle(Kind::Pd, rng)).u8(few(rng, 2) as u8).pad(16);
            command.makes = Some(Kind::Mw);
        }
        CREATE_CHANNEL => {
            answering(&mut command, 4, 0);
            command.makes = Some(Kind::Channel);
        }
        CREATE_CQ => {
            answering(&mut command, 8, if rng.chance(95) { 16 } else { 0 });
            let channel = match table.pick(Kind::Channel, rng) {
                Some(channel) if rng.chance(60) => channel.handle,
                _ => u32::MAX,
            };
            command.core.u64(rng.next()).u32(depth(rng)).u32(0).u32(channel).u32(0);
            command.makes = Some(Kind::Cq);
        }
        RESIZE_CQ => {
            answering(&mut command, 8, 16);
            command.core.u32(handle(Kind::Cq, rng)).u32(depth(rng));
        }
        POLL_CQ => {
            answering(&mut command, 8 + 48 * 4, 0);
            command.core.u32(handle(Kind::Cq, rng)).u32(few(rng, 4));
        }
        NOTIFY_CQ => {
            command.core.u32(handle(Kind::Cq, rng)).u32(rng.below(2) as u32);
        }
        CREATE_QP => create_qp(&mut command, handle, table, rng),
        QUERY_QP => {
            answering(&mut command, 128, 0);
            command.core.u32(handle(Kind::Qp, rng)).u32(rng.border() as u32);
        }
        MODIFY_QP => modify_qp(&mut command, handle, context, table, rng),
        POST_SEND | POST_RECV | POST_SRQ_RECV => post(&mut command, handle, context, table, rng),
        ATTACH_MCAST | DETACH_MCAST => {
            let (_, mut gid) = rng.pick(&context.target.gids);
            if rng.chance(70) {
                gid = [0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, rng.below(6) as u8];
            }
            if rng.chance(40) {
                gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 239, 1, 1, rng.below(6) as u8];
            }
            command.core.put(&gid).u32(handle(Kind::Qp, rng)).u16(0).u16(0);
        }
        CREATE_SRQ => {
            answering(&mut command, 16, if rng.chance(95) { 24 } else { 0 });
            command.core.u64(rng.next()).u32(handle(Kind::Pd, rng));
            command.core.u32(depth(rng)).u32(few(rng, 8)).u32(rng.below(3) as u32);
            command.makes = Some(Kind::Srq);
        }
        CREATE_XSRQ => {
            answering(&mut command, 16, 24);
            command.core.u64(rng.next()).u32(few(rng, 2)).u32(handle(Kind::Pd, rng));
            command.core.u32(depth(rng)).u32(few(rng, 8)).u32(0).u32(0).u32(0);
            command.core.u32(handle(Kind::Cq, rng));
            command.makes = Some(Kind::Srq);
        }
        MODIFY_SRQ => {
            command
                .core
                .u32(handle(Kind::Srq, rng))
                .u32(few(rng, 3))
                .u32(depth(rng))
                .u32(depth(rng));
            let place = context.memory.address() + context.place(rng) as u64;
            command.driver.u64(if rng.chance(5) { rng.border() } else { place });
        }
        QUERY_SRQ => {
            answering(&mut command, 16, 0);
            command.core.u32(handle(Kind::Srq, rng)).u32(0);
        }
        _ => {
            let len = 4 * rng.below(24) as usize;
            for _ in 0..len / 4 {
                command.core.u32(rng.border() as u32);
            }
        }
    }
    if rng.chance(2) {
        command.driver.u64(rng.border());
    }
    if rng.chance(3) {
        command.answer.1 = 4 * rng.below(12) as usize;
    }
    command
}

/// Memory to register: ours, or what nobody has.
pub fn range(context: &Context<'_>, rng: &mut Rng) -> (u64, u64) {
    let base = context.memory.address();
    let len = MEMORY as u64;
    let at = ANSWERS * ANSWER as u64 + rng.below(len / 2);
    match rng.below(20) {
        0 => (base + at, rng.border()),
        1 => (rng.border(), rng.border()),
        2 => (rng.border(), 1 + rng.below(8192)),
        3 => (base + at, 0),
        _ => (base + at, 1 + rng.below(len / 2 - ANSWERS * ANSWER as u64)),
    }
}

/// Rights of a region.
pub fn rights(rng: &mut Rng) -> u32 {
    match rng.below(12) {
        0 => rng.border() as u32,
        1 => 0,
        // On demand, zero based, huge.
        2 => 1 << rng.below(21),
        _ => 0xf | rng.pick(&[0, 0x10, 0x10, 0x100, 1 << 20]),
    }
}

fn create_qp(command: &mut Command, handle: impl Fn(Kind, &mut Rng) -> u32, table: &Table, rng: &mut Rng) {
    command.core.u64(0);
    (command.answers, command.answer) = (true, (32, if rng.chance(95) { 32 } else { 0 }));
    let srq = table.count(Kind::Srq) > 0 && rng.chance(30);
    command.core.u64(rng.next());
    for kind in [Kind::Pd, Kind::Cq, Kind::Cq, Kind::Srq] {
        command.core.u32(handle(kind, rng));
    }
    command.core.u32(depth(rng)).u32(depth(rng));
    command.core.u32(few(rng, 8)).u32(few(rng, 8));
    command.core.u32(if rng.chance(70) { 0 } else { few(rng, 512) });
    let kind = if rng.chance(90) {
        rng.pick(&[2, 2, 2, 3, 4])
    } else {
        rng.below(16) as u8
    };
    command.core.u8(rng.below(2) as u8).u8(kind).u8(u8::from(srq)).u8(0);
    command.makes = Some(Kind::Qp);
}

/// A QP's way from RESET to RTS, or anywhere.
fn modify_qp(
    command: &mut Command,
    handle: impl Fn(Kind, &mut Rng) -> u32,
    context: &Context<'_>,
    table: &Table,
    rng: &mut Rng,
) {
    let peer = table.pick(Kind::Qp, rng).map_or(0x80_0001, |qp| qp.number);
    let qp = handle(Kind::Qp, rng);
    let (state, mask) = match rng.below(16) {
        0..=3 => (1, RC_INIT),
        4 => (1, UD_INIT),
        5..=7 => (2, RC_RTR),
        8 => (2, UC_RTR),
        9 => (2, STATE),
        10..=12 => (3, RC_RTS),
        13 => (3, UD_RTS),
        14 => (rng.below(8) as u8, STATE),
        _ => (rng.below(8) as u8, rng.border() as u32),
    };
    let gid = rng.pick(&context.target.gids);
    let mut modify = Modify {
        qp,
        state,
        mask,
        peer,
        gid,
        mtu: 1 + rng.below(5) as u8,
        access: 0xf,
        timeout: rng.below(16) as u8,
        retries: rng.below(8) as u8,
        reads: rng.below(17) as u8,
    };
    if rng.chance(5) {
        modify.reads = rng.next() as u8;
        modify.timeout = rng.next() as u8;
        modify.mtu = rng.next() as u8;
    }
    modify.put(&mut command.core);
}

const STATE: u32 = 1;
pub const RC_INIT: u32 = 1 | 1 << 3 | 1 << 4 | 1 << 5;
pub const UD_INIT: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6;
pub const UC_RTR: u32 = 1 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 20;
pub const RC_RTR: u32 = UC_RTR | 1 << 15 | 1 << 17;
pub const UD_RTS: u32 = 1 | 1 << 16;
pub const RC_RTS: u32 = 1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 16;

/// `struct ib_uverbs_modify_qp`, as far as we vary it.
pub struct Modify {
    pub qp: u32,
    pub state: u8,
    pub mask: u32,
    pub peer: u32,
    pub gid: (u8, [u8; 16]),
    pub mtu: u8,
    pub access: u32,
    pub timeout: u8,
    pub retries: u8,
    pub reads: u8,
}

impl Modify {
    /// A change of state alone.
    pub fn bare(qp: u32, state: u8, gid: (u8, [u8; 16])) -> Self {
        Self {
            qp,
            state,
            mask: STATE,
            peer: 0,
            gid,
            mtu: 1,
            access: 0,
            timeout: 0,
            retries: 0,
            reads: 0,
        }
    }

    /// Its bytes.
    pub fn put(&self, to: &mut Bytes) {
        let (index, gid) = self.gid;
        to.put(&gid)
            .u32(0)
            .u16(0)
            .u16(0)
            .u8(index)
            .u8(64)
            .u8(0)
            .u8(0)
            .u8(0)
            .u8(0)
            .u8(1)
            .u8(1);
        to.put(&[0; 32]);
        to.u32(self.qp)
            .u32(self.mask)
            .u32(0x11)
            .u32(0)
            .u32(0)
            .u32(self.peer)
            .u32(self.access);
        to.u16(0).u16(0).u8(self.state).u8(0).u8(self.mtu).u8(0).u8(0);
        to.u8(self.reads)
            .u8(self.reads)
            .u8(1)
            .u8(1)
            .u8(self.timeout)
            .u8(self.retries)
            .u8(self.retries);
        to.u8(0).u8(0).u8(0).u8(0);
    }
}

/// A doorbell, which has no requests, or requests that belong into the shared ring.
fn post(
    command: &mut Command,
    handle: impl Fn(Kind, &mut Rng) -> u32,
    context: &Context<'_>,
    table: &Table,
    rng: &mut Rng,
) {
    command.core.u64(0);
    (command.answers, command.answer) = (true, (4, 0));
    let kind = if command.number == POST_SRQ_RECV {
        Kind::Srq
    } else {
        Kind::Qp
    };
    let count = if rng.chance(70) { 0 } else { rng.below(3) as u32 };
    let size = if command.number == POST_SEND { 56 } else { 16 };
    command.core.u32(handle(kind, rng)).u32(count).u32(count).u32(size);
    let key = table.pick(Kind::Mr, rng).map_or(0, |region| region.number);
    for _ in 0..count {
        command
            .core
            .u64(rng.next())
            .u32(1)
            .u32(if size == 56 { rng.below(16) as u32 } else { 0 });
        if size == 56 {
            command.core.u32(rng.below(32) as u32).u32(key);
            command
                .core
                .u64(context.memory.address())
                .u32(key)
                .u32(handle(Kind::Ah, rng))
                .u64(0)
                .u64(0);
        }
    }
    for _ in 0..count {
        command
            .core
            .u64(context.memory.address())
            .u32(rng.below(8192) as u32)
            .u32(key);
    }
}
