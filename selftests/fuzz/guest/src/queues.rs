// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queue pairs connected as they should be, whose shared queues hold what no library writes.

use crate::commands::{self, number, Command, Context, Modify};
use crate::rng::Rng;
use crate::sys::{self, Arena};
use crate::wire::Bytes;
use crate::{Error, Tally, Target};

/// Slots of a queue asked for.
const DEPTH: u32 = 31;
const SGES: usize = 8;
/// Where requests begin in a shared queue, and its indices.
const DATA: usize = 384;
const PRODUCER: usize = 128;
const CONSUMER: usize = 256;
/// What is registered: key, address, length.
type Region = (u32, u64, u64);

/// A queue pair and its queues.
struct Pair {
    handle: u32,
    number: u32,
    sends: Arena,
    recvs: Option<Arena>,
}

/// A run's world.
struct World<'a> {
    context: Context<'a>,
    regions: Vec<Region>,
    windows: Vec<u32>,
    vectors: Vec<u32>,
    pairs: Vec<Pair>,
    completions: Vec<Arena>,
    shared_recvs: Option<Arena>,
    kind: u8,
    calls: u64,
    accepted: u64,
}

/// One round.
pub fn round(target: &Target, rng: &mut Rng, tally: &mut Tally) -> Result<(), Error> {
    let kind = rng.pick(&[2, 2, 2, 3, 4]);
    let mut world = World::new(target, kind, rng)?;
    for _ in 0..100 + rng.below(300) {
        world.step(rng);
    }
    tally.calls += world.calls;
    tally.accepted += world.accepted;
    let known = world.known();
    // The kernel tidies up behind us, in its own order.
    drop(world);
    tally.attempts += attack(target, &known, rng)?;
    Ok(())
}

/// A key that is or was somebody's, and where its memory begins.
#[derive(Clone, Copy)]
pub struct Known {
    pub key: u32,
    pub address: u64,
}

/// Keys tried at the end of a round.
const TRIED: usize = 12;

/// A user with a domain of its own, in which no key gives what the others would: none of them may open anything. How
/// many were tried.
pub fn attack(target: &Target, known: &[Known], rng: &mut Rng) -> Result<u64, Error> {
    const RC: u8 = 2;
    if known.is_empty() {
        return Ok(0);
    }
    let mut attacker = World::new(target, RC, rng)?;
    let mut tried = 0;
    // Its own key opens its own memory, or a refusal of the others would mean nothing.
    let own = attacker.known()[0];
    if !attacker.opens(own, rng)? {
        return Err("the attacker's own key opens nothing".into());
    }
    for _ in 0..TRIED.min(known.len()) {
        let one = rng.pick(known);
        // Keys are random: one of the attacker's own may be the same.
        if attacker.known().iter().any(|own| own.key & !0xff == one.key & !0xff) {
            continue;
        }
        tried += 1;
        if attacker.opens(one, rng)? {
            return Err(format!(
                "key {:#x} opened memory at {:#x} for another domain",
                one.key, one.address
            )
            .into());
        }
    }
    Ok(tried)
}

impl<'a> World<'a> {
    fn new(target: &'a Target, kind: u8, rng: &mut Rng) -> Result<Self, Error> {
        let context = Context::open(target, rng)?;
        let mut world = Self {
            context,
            regions: Vec::new(),
            windows: Vec::new(),
            vectors: Vec::new(),
            pairs: Vec::new(),
            completions: Vec::new(),
            shared_recvs: None,
            kind,
            calls: 0,
            accepted: 0,
        };
        let pd = world
            .make(number::ALLOC_PD, (4, 0), &|_| {}, rng)?
            .word(&world.context, 0);
        let base = world.context.memory.address();
        for (at, len, access) in [(1 << 17, 1 << 20, 0x1f), (1 << 21, 5000, 0x10f), (3 << 20, 1 << 19, 1)] {
            let start = base + at;
            let body = move |to: &mut Bytes| {
                to.u64(start).u64(len).u64(start).u32(pd).u32(access);
            };
            let answer = world.make(number::REG_MR, (12, 0), &body, rng)?;
            let key = answer.word(&world.context, 4);
            world.regions.push((key, start, len));
        }
        for kind in [1, 2] {
            let body = move |to: &mut Bytes| {
                to.u32(pd).u8(kind).pad(16);
            };
            let answer = world.make(number::ALLOC_MW, (8, 0), &body, rng)?;
            world.windows.push(answer.word(&world.context, 4));
        }
        let cq = world.queue(rng)?;
        let other = if rng.chance(50) { cq } else { world.queue(rng)? };
        let srq = if rng.chance(30) {
            Some(world.shared_queue(pd, rng)?)
        } else {
            None
        };
        for _ in 0..2 {
            world.pair(pd, cq, other, srq, rng)?;
        }
        if world.kind == 4 {
            world.vector(pd, rng)?;
        }
        world.connect(rng)?;
        Ok(world)
    }

    /// Its keys.
    fn known(&self) -> Vec<Known> {
        let regions = self.regions.iter().map(|&(key, address, _)| Known { key, address });
        let (_, address, _) = self.regions[0];
        let windows = self.windows.iter().map(|&key| Known { key, address });
        regions.chain(windows).collect()
    }

    /// Whether a READ through a key of others brings anything.
    fn opens(&mut self, known: Known, rng: &mut Rng) -> Result<bool, Error> {
        const READ: u32 = 4;
        const SIGNALED: u32 = 2;
        const LEN: u32 = 32;
        /// What the place of the result is filled with, and how long an answer may take.
        const BLANK: u8 = 0xa5;
        const LOOKS: u32 = 200;
        for pair in 0..2 {
            self.move_to(self.pairs[pair].handle, 0, rng);
        }
        self.connect(rng)?;
        let (own, at, _) = self.regions[2];
        let place = (at - self.context.memory.address()) as usize;
        self.context.memory.write(place, &[BLANK; LEN as usize]);
        let mut wqe = Bytes::default();
        wqe.u64(1).u32(0).u32(READ).u32(SIGNALED).u32(0);
        wqe.u64(known.address).u32(known.key).u32(0).pad(184);
        wqe.u32(LEN).u32(LEN).u32(0).u32(1).u32(0).u32(0).pad(208);
        wqe.u64(at).u32(LEN).u32(own);
        let ring = &self.pairs[0].sends;
        let (slot, mask, producer) = (1usize << (ring.word(0) & 15), ring.word(4), ring.word(PRODUCER));
        ring.write(DATA + (producer & mask) as usize * slot, &wqe.0);
        ring.write(PRODUCER, &((producer.wrapping_add(1)) & mask).to_ne_bytes());
        let completed = |world: &Self| -> Vec<u32> { world.completions.iter().map(|cq| cq.word(PRODUCER)).collect() };
        let before = completed(self);
        self.doorbell(0, rng);
        for _ in 0..LOOKS {
            if completed(self) != before {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        self.poll_all();
        let blank = u32::from_ne_bytes([BLANK; 4]);
        Ok((0..LEN as usize / 4).any(|word| self.context.memory.word(place + 4 * word) != blank))
    }

    /// User space takes all completions.
    fn poll_all(&self) {
        for ring in &self.completions {
            ring.write(CONSUMER, &ring.word(PRODUCER).to_ne_bytes());
        }
    }

    /// A command that must succeed.
    fn make(
        &mut self,
        number: u32,
        answer: (usize, usize),
        body: &dyn Fn(&mut Bytes),
        rng: &mut Rng,
    ) -> Result<commands::Answer, Error> {
        let mut command = Command::new(number);
        if answer.0 > 0 {
            command.core.u64(0);
            command.answers = true;
        }
        command.answer = answer;
        body(&mut command.core);
        self.context
            .write(&command, rng)
            .map_err(|error| format!("command {number}: {error}").into())
    }

    fn map(&self, answer: commands::Answer, at: usize) -> Result<Arena, Error> {
        let offset = answer.double(&self.context, at);
        let len = answer.word(&self.context, at + 8) as usize;
        Ok(Arena::shared(&self.context.file, len, offset)?)
    }

    fn queue(&mut self, rng: &mut Rng) -> Result<u32, Error> {
        let depth = 8 + rng.below(100) as u32;
        let body = move |to: &mut Bytes| {
            to.u64(1).u32(depth).u32(0).u32(u32::MAX).u32(0);
        };
        let answer = self.make(number::CREATE_CQ, (8, 16), &body, rng)?;
        self.completions.push(self.map(answer, 8)?);
        Ok(answer.word(&self.context, 0))
    }

    fn shared_queue(&mut self, pd: u32, rng: &mut Rng) -> Result<u32, Error> {
        let body = move |to: &mut Bytes| {
            to.u64(1).u32(pd).u32(DEPTH).u32(SGES as u32).u32(2);
        };
        let answer = self.make(number::CREATE_SRQ, (16, 24), &body, rng)?;
        self.shared_recvs = Some(self.map(answer, 16)?);
        Ok(answer.word(&self.context, 0))
    }

    fn pair(&mut self, pd: u32, sends: u32, recvs: u32, srq: Option<u32>, rng: &mut Rng) -> Result<(), Error> {
        let kind = self.kind;
        let all = rng.below(2) as u8;
        let body = move |to: &mut Bytes| {
            to.u64(1).u32(pd).u32(sends).u32(recvs).u32(srq.unwrap_or(0));
            to.u32(DEPTH).u32(DEPTH).u32(SGES as u32).u32(SGES as u32).u32(64);
            to.u8(all).u8(kind).u8(u8::from(srq.is_some())).u8(0);
        };
        let answer = self.make(number::CREATE_QP, (32, 32), &body, rng)?;
        let recvs = if srq.is_none() {
            Some(self.map(answer, 32)?)
        } else {
            None
        };
        self.pairs.push(Pair {
            handle: answer.word(&self.context, 0),
            number: answer.word(&self.context, 4),
            sends: self.map(answer, 48)?,
            recvs,
        });
        Ok(())
    }

    fn vector(&mut self, pd: u32, rng: &mut Rng) -> Result<(), Error> {
        let (index, gid) = rng.pick(&self.context.target.gids);
        let body = move |to: &mut Bytes| {
            to.u64(1).u32(pd).u32(0);
            to.put(&gid).u32(0).u8(index).u8(64).u8(0).u8(0);
            to.u16(0).u8(0).u8(0).u8(0).u8(1).u8(1).u8(0);
        };
        let answer = self.make(number::CREATE_AH, (4, 8), &body, rng)?;
        self.vectors.push(answer.word(&self.context, 4));
        Ok(())
    }

    /// Both to RTS, towards each other.
    fn connect(&mut self, rng: &mut Rng) -> Result<(), Error> {
        let gid = rng.pick(&self.context.target.gids);
        let mtu = 1 + rng.below(3) as u8;
        let steps: [(u8, u32); 3] = match self.kind {
            2 => [(1, commands::RC_INIT), (2, commands::RC_RTR), (3, commands::RC_RTS)],
            3 => [(1, commands::RC_INIT), (2, commands::UC_RTR), (3, commands::UD_RTS)],
            _ => [(1, commands::UD_INIT), (2, 1), (3, commands::UD_RTS)],
        };
        let ends = [
            (self.pairs[0].handle, self.pairs[1].number),
            (self.pairs[1].handle, self.pairs[0].number),
        ];
        for (qp, peer) in ends {
            for (state, mask) in steps {
                let mut modify = Bytes::default();
                Modify {
                    qp,
                    state,
                    mask,
                    peer,
                    gid,
                    mtu,
                    access: 0x10f,
                    timeout: 8,
                    retries: 3,
                    reads: 4,
                }
                .put(&mut modify);
                self.make(number::MODIFY_QP, (0, 0), &move |to| to.0.clone_from(&modify.0), rng)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, rng: &mut Rng) {
        let which = rng.below(2) as usize;
        match rng.below(100) {
            0..=29 => self.post_send(which, rng),
            30..=49 => self.post_recv(which, rng),
            50..=84 => self.doorbell(which, rng),
            85..=89 => self.poll(rng),
            90..=92 => {
                // A new start, for most mistakes end in ERR.
                for pair in 0..2 {
                    self.move_to(self.pairs[pair].handle, 0, rng);
                }
                let _ = self.connect(rng);
            }
            93..=95 => self.scribble(which, rng),
            97 => {
                let state = rng.pick(&[6u8, 0]);
                self.move_to(self.pairs[which].handle, state, rng);
            }
            98 => {
                let _ = self.vectors.pop();
            }
            _ => self.doorbell(which, rng),
        }
    }

    /// To ERR or RESET, if that is allowed.
    fn move_to(&mut self, qp: u32, state: u8, rng: &mut Rng) {
        let mut body = Bytes::default();
        Modify::bare(qp, state, self.context.target.gids[0]).put(&mut body);
        let _ = self.make(number::MODIFY_QP, (0, 0), &move |to| to.0.clone_from(&body.0), rng);
    }

    fn doorbell(&mut self, which: usize, rng: &mut Rng) {
        let mut command = Command::new(number::POST_SEND);
        command.core.u64(0).u32(self.pairs[which].handle).u32(0).u32(0).u32(56);
        (command.answers, command.answer) = (true, (4, 0));
        self.calls += 1;
        self.accepted += u64::from(self.context.write(&command, rng).is_ok());
    }

    /// User space's polling: it takes what is there, or says so.
    fn poll(&mut self, rng: &mut Rng) {
        for ring in &self.completions {
            let producer = ring.word(PRODUCER);
            let value = if rng.chance(5) { rng.border() as u32 } else { producer };
            ring.write(CONSUMER, &value.to_ne_bytes());
        }
    }

    /// Anything anywhere in a shared queue.
    fn scribble(&mut self, which: usize, rng: &mut Rng) {
        let pair = &self.pairs[which];
        let mut rings: Vec<&Arena> = vec![&pair.sends];
        rings.extend(&pair.recvs);
        rings.extend(&self.shared_recvs);
        rings.extend(&self.completions);
        let ring = rings[rng.below(rings.len() as u64) as usize];
        for _ in 0..1 + rng.below(8) {
            let at = rng.below(ring.len() as u64) as usize;
            let at = if rng.chance(30) {
                rng.pick(&[0, 4, PRODUCER, CONSUMER])
            } else {
                at
            };
            let value = if rng.chance(50) { rng.below(40) } else { rng.border() };
            ring.write(at & !3, &(value as u32).to_ne_bytes());
        }
    }

    /// An address and its key: of ours as a rule.
    fn place(&self, rng: &mut Rng) -> (u32, u64) {
        let (key, start, len) = rng.pick(&self.regions);
        let va = match rng.below(30) {
            0 => start + len,
            1 => start.wrapping_sub(1),
            2 => rng.border(),
            _ => start + rng.below(len),
        };
        match rng.below(40) {
            0 => (rng.border() as u32, va),
            1 | 2 if !self.windows.is_empty() => (rng.pick(&self.windows), va),
            _ => (key, va),
        }
    }

    fn sges(&self, count: usize, rng: &mut Rng) -> Bytes {
        let mut out = Bytes::default();
        for _ in 0..count {
            let (key, va) = self.place(rng);
            out.u64(va).u32(size(rng)).u32(key);
        }
        out
    }

    fn post_send(&mut self, which: usize, rng: &mut Rng) {
        let op = if rng.chance(92) {
            rng.pick(&[0u32, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15])
        } else {
            rng.border() as u32
        };
        let flags = if rng.chance(95) {
            rng.below(16) as u32 & !rng.pick(&[0u32, 8, 8])
        } else {
            rng.border() as u32
        };
        let (key, va) = self.place(rng);
        let mut wqe = Bytes::default();
        wqe.u64(rng.next()).u32(0).u32(op).u32(flags);
        wqe.u32(if rng.chance(50) { key } else { rng.pick(&self.windows) });
        match op {
            5 | 6 => wqe.u64(va & !7).u64(rng.border()).u64(rng.border()).u32(key).u32(0),
            8 => {
                let window = rng.pick(&self.windows);
                wqe.u64(va).u64(size(rng).into()).u32(key).u32(window);
                wqe.u32(window & !0xff | rng.below(256) as u32)
                    .u32(rng.pick(&[0, 2, 4, 6, 0xf, 0x100, 0x11]))
            }
            14 => wqe
                .u64(va)
                .u32(size(rng))
                .u32(key)
                .u8(rng.below(4) as u8)
                .u8(rng.below(3) as u8),
            _ if self.kind == 4 => {
                let peer = self.pairs[1 - which].number;
                let vector = self.vectors.first().copied().unwrap_or(0);
                wqe.u32(peer)
                    .u32(0x11)
                    .u16(0)
                    .u16(0)
                    .u32(if rng.chance(80) { vector } else { 0 });
                wqe.pad(56);
                let (index, gid) = rng.pick(&self.context.target.gids);
                wqe.u8(1).u8(1 + rng.below(2) as u8).put(&[2, 0, 0, 0, 0, 1]);
                wqe.put(&gid).u32(0).u8(index).u8(64).u8(0)
            }
            _ => wqe.u64(va).u32(key).u32(0),
        };
        wqe.pad(184);
        let most = if rng.chance(90) { 129 } else { 600 };
        let len = rng.below(most) as u32;
        let count = if rng.chance(95) {
            rng.below(5) as u32
        } else {
            rng.border() as u32
        };
        wqe.u32(len).u32(len).u32(0).u32(count).u32(0).u32(0);
        wqe.pad(208);
        if matches!(op, 5 | 6) && rng.chance(80) {
            let (key, va) = self.place(rng);
            wqe.u64(va).u32(8).u32(key);
        }
        let list = self.sges(SGES, rng);
        wqe.put(&list.0);
        put(&self.pairs[which].sends, &wqe, rng);
    }

    fn post_recv(&mut self, which: usize, rng: &mut Rng) {
        let mut wqe = Bytes::default();
        let count = if rng.chance(95) {
            1 + rng.below(4) as u32
        } else {
            rng.border() as u32
        };
        wqe.u64(rng.next())
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(count)
            .u32(0)
            .u32(0);
        wqe.put(&self.sges(SGES, rng).0);
        match (&self.pairs[which].recvs, &self.shared_recvs) {
            (Some(ring), _) | (None, Some(ring)) => put(ring, &wqe, rng),
            (None, None) => {}
        }
    }
}

/// A length that is often a packet's border.
fn size(rng: &mut Rng) -> u32 {
    match rng.below(10) {
        0 => 0,
        1 => rng.pick(&[255, 256, 257, 1023, 1024, 1025, 4096, 4097, 65_536]),
        2 if rng.chance(20) => rng.border() as u32,
        2..=5 => rng.below(64) as u32,
        _ => rng.below(9000) as u32,
    }
}

/// Writes a request where the next one goes, some of its bytes wrong, and says that it is there.
fn put(ring: &Arena, wqe: &Bytes, rng: &mut Rng) {
    let slot = 1usize << (ring.word(0) & 15);
    let mask = ring.word(4);
    let producer = ring.word(PRODUCER);
    let at = DATA + (producer & mask) as usize * slot;
    let mut bytes = wqe.0.clone();
    bytes.truncate(slot);
    if rng.chance(15) {
        for _ in 0..1 + rng.below(6) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next() as u8;
        }
    }
    ring.write(at, &bytes);
    let next = match rng.below(60) {
        0 => rng.border() as u32,
        1 => producer.wrapping_add(rng.below(40) as u32),
        _ => producer.wrapping_add(1) & mask,
    };
    ring.write(PRODUCER, &next.to_ne_bytes());
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        // Sometimes the mappings go first, sometimes the context: both orders happen with programs.
        if self.calls % 2 == 0 {
            self.pairs.clear();
            self.completions.clear();
        }
        sys::close(-1);
    }
}
