// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The user's side as the kernel module has it: rings of requests, the places they are kept in, registered memory.

use roce::abi::{Place, Places, Sge, RECV_HEADER, SEND_HEADER, SGE_LEN};
use roce::keys::{self, Access, Key, Pd, RegionView};
use roce::wqe::{AtomicOp, Fault, FlushKind, Host, RecvWqe, SendOp, SendWqe, Span, Target};
use std::collections::VecDeque;
use tbip::span;

/// Scatter entries of a request.
pub const SGES: usize = 3;
/// Slots of a ring.
pub const SLOTS: u32 = 8;
const SEND_SLOT: usize = 256;
const RECV_SLOT: usize = 128;
const RECV_PLACES: usize = 4;
/// The domain of the queue pair.
const PD: Pd = Pd(7);
/// Most calls of the host that one call of an engine may make.
pub const MAX_CALLS: u32 = 40;
/// As long as any train.
static ZEROES: [u8; 1 << 17] = [0; 1 << 17];

/// A ring in memory that the user writes at any time.
pub struct Ring {
    pub bytes: Vec<u8>,
    slot_len: usize,
    /// The user's index. Anything.
    pub producer: u32,
    taken: u32,
    consumer: u32,
    /// Applied after so many reads: the user writes while the kernel reads.
    pub late: Option<(u32, usize, u8)>,
}

impl Ring {
    fn new(slot_len: usize) -> Self {
        Self {
            bytes: vec![0; SLOTS as usize * slot_len],
            slot_len,
            producer: 0,
            taken: 0,
            consumer: 0,
            late: None,
        }
    }

    /// The slot that `index` means.
    pub fn slot(&mut self, index: u32) -> &mut [u8] {
        let at = (index % SLOTS) as usize * self.slot_len;
        &mut self.bytes[at..at + self.slot_len]
    }

    fn next(&mut self) -> Option<u32> {
        let at = self.taken;
        if at == self.producer % SLOTS {
            return None;
        }
        self.taken = (at + 1) % SLOTS;
        Some(at)
    }

    fn read(&mut self, slot: u32, at: usize, to: &mut [u8]) {
        match &mut self.late {
            Some((0, place, value)) => {
                let place = *place % self.bytes.len();
                self.bytes[place] = *value;
                self.late = None;
            }
            Some((left, ..)) => *left -= 1,
            None => {}
        }
        let from = &self.slot(slot)[at..at + to.len()];
        to.copy_from_slice(from);
    }

    fn complete(&mut self) {
        self.consumer = (self.consumer + 1) % SLOTS;
    }

    fn reset(&mut self) {
        self.taken = self.producer % SLOTS;
        self.consumer = self.taken;
    }
}

type Held = Places<Vec<Place>, Vec<Sge>, Vec<u8>>;

fn held(count: usize) -> Held {
    Places::new(
        vec![Place::default(); count],
        vec![Sge::default(); count * SGES],
        vec![0; count * SGES * SGE_LEN],
        SGES,
        SGES * SGE_LEN,
    )
}

/// A request that the engine has.
struct Taken {
    slot: u32,
    length: u32,
    op: SendOp,
    bad: bool,
    carried_out: bool,
}

/// The queues and memory of one end, and the books on what the engine has of them.
pub struct User {
    pub sends: Ring,
    pub recvs: Ring,
    pub regions: [RegionView; 4],
    signal_all: bool,
    held_sends: Held,
    held_recvs: Held,
    sends_out: VecDeque<Taken>,
    recvs_out: VecDeque<Taken>,
    /// What the peer may write, and read, as the engine has asked: key, address, length.
    may_write: Option<(Key, u64, u32)>,
    may_read: Vec<(Key, u64, u32)>,
    pub calls: u32,
    /// Nothing more is given out.
    pub dry: bool,
    /// Lengths of the pieces in which the packet being handled came.
    pub brought: Vec<usize>,
}

/// The region of all rights, one that is only the owner's, one at the end of the address space, one that may be dead.
fn regions() -> [RegionView; 4] {
    let all = Access(0x30f);
    let region = |key, base, length, access| RegionView {
        key: Key(key),
        pd: PD,
        base,
        length,
        access,
        valid: true,
    };
    [
        region(0x100, 0x1000, 0x1_0000, all),
        region(0x101, 0x2_0000, 0x200, Access::LOCAL_WRITE),
        region(0x102, u64::MAX - 0x1000, 0x1000, all),
        region(0x103, 0, u64::MAX, Access::LOCAL_WRITE.with(Access::REMOTE_READ)),
    ]
}

impl User {
    pub fn new(signal_all: bool) -> Self {
        Self {
            sends: Ring::new(SEND_SLOT),
            recvs: Ring::new(RECV_SLOT),
            regions: regions(),
            signal_all,
            held_sends: held(SLOTS as usize - 1),
            held_recvs: held(RECV_PLACES),
            sends_out: VecDeque::new(),
            recvs_out: VecDeque::new(),
            may_write: None,
            may_read: Vec::new(),
            calls: 0,
            dry: false,
            brought: Vec::new(),
        }
    }

    /// What the kernel does beside a queue pair's return to RESET.
    pub fn reset(&mut self) {
        self.sends.reset();
        self.recvs.reset();
        self.held_sends.clear();
        self.held_recvs.clear();
        self.sends_out.clear();
        self.recvs_out.clear();
        self.may_write = None;
        self.may_read.clear();
    }

    /// Whether the engine has nothing.
    pub fn is_idle(&self) -> bool {
        self.sends_out.is_empty() && self.recvs_out.is_empty()
    }

    /// The send in `slot` completes.
    pub fn complete_send(&mut self, slot: u32) {
        let taken = self.sends_out.pop_front().expect("a send completed that was not taken");
        assert_eq!(taken.slot, slot, "a send completed out of order");
        self.held_sends.complete();
        self.sends.complete();
    }

    /// The receive in `slot` completes.
    pub fn complete_recv(&mut self, slot: u32) {
        let taken = self
            .recvs_out
            .pop_front()
            .expect("a receive completed that was not taken");
        assert_eq!(taken.slot, slot, "a receive completed out of order");
        self.held_recvs.complete();
        self.recvs.complete();
    }

    /// Reads the payload of a packet to be sent.
    pub fn gather_send(&mut self, slot: u32, offset: u32, to: &mut [u8]) -> Result<(), Fault> {
        let taken = self.sends_out.iter().find(|taken| taken.slot == slot);
        let taken = taken.expect("payload of a send that is not in flight");
        assert!(
            !taken.bad && u64::from(offset) + to.len() as u64 <= u64::from(taken.length),
            "payload outside its message"
        );
        let regions = &self.regions;
        self.held_sends.gather(slot, offset, to, |key, va, part| {
            reach(regions, key, va, part.len(), Access::NONE)
        })
    }

    /// Reads the payload of a READ response.
    pub fn gather_region(&self, rkey: Key, va: u64, len: u32) -> Result<(), Fault> {
        let asked = self.may_read.iter().any(|range| contains(*range, rkey, va, len));
        assert!(asked, "a READ response of what was never checked");
        reach(&self.regions, rkey, va, len as usize, Access::REMOTE_READ)
    }

    fn send(&mut self, slot: u32) -> &mut Taken {
        let taken = self.sends_out.iter_mut().find(|taken| taken.slot == slot);
        taken.expect("a send that is not in flight")
    }

    fn recv(&self, slot: u32) -> &Taken {
        let taken = self.recvs_out.iter().find(|taken| taken.slot == slot);
        taken.expect("a receive that is not in flight")
    }

    /// Puts payload where the engine says.
    fn put(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        self.calls += 1;
        let bytes = &ZEROES[..payload.len as usize];
        assert!(!bytes.is_empty(), "nothing placed");
        let end = |offset: u32| u64::from(offset) + bytes.len() as u64;
        let (places, slot, offset) = match to {
            Target::Recv { slot, offset } => {
                let taken = self.recv(slot);
                assert!(
                    !taken.bad && end(offset) <= u64::from(taken.length),
                    "outside a receive"
                );
                (&self.held_recvs, slot, offset)
            }
            Target::ReadResult { slot, offset } => {
                let taken = self.send(slot);
                assert!(
                    taken.op == SendOp::Read && !taken.bad && end(offset) <= u64::from(taken.length),
                    "outside a READ"
                );
                (&self.held_sends, slot, offset)
            }
            Target::Region { rkey, va } => {
                let asked = self
                    .may_write
                    .is_some_and(|range| contains(range, rkey, va, payload.len));
                assert!(asked, "a write to what was never checked");
                return reach(&self.regions, rkey, va, bytes.len(), Access::REMOTE_WRITE);
            }
        };
        let regions = &self.regions;
        places.scatter(slot, offset, bytes, |key, va, part| {
            reach(regions, key, va, part.len(), Access::LOCAL_WRITE)
        })
    }

    fn word(&mut self, rkey: Key, va: u64, needed: Access) -> Result<u64, Fault> {
        self.calls += 1;
        assert_eq!(va % 8, 0, "an atomic that is not aligned");
        reach(&self.regions, rkey, va, 8, needed).map(|()| va)
    }
}

fn contains((key, from, size): (Key, u64, u32), rkey: Key, va: u64, len: u32) -> bool {
    let Some(offset) = va.checked_sub(from) else {
        return false;
    };
    key == rkey && offset + u64::from(len) <= u64::from(size)
}

fn reach(regions: &[RegionView], key: Key, va: u64, len: usize, needed: Access) -> Result<(), Fault> {
    let refused = if needed.is_remote() {
        Fault::RemoteAccess
    } else {
        Fault::LocalProtection
    };
    let len = u32::try_from(len).map_err(|_| Fault::LocalLength)?;
    let region = regions.iter().find(|region| region.key == key).ok_or(refused)?;
    let at = keys::check(region, key, PD, va, len, needed)?;
    assert!(at + u64::from(len) <= region.length, "outside a region");
    Ok(())
}

impl Host for User {
    fn take_send(&mut self) -> Option<SendWqe> {
        self.calls += 1;
        if self.dry || self.held_sends.is_full() {
            return None;
        }
        let from = self.sends.next()?;
        let mut raw = [0; SEND_HEADER];
        let ring = &mut self.sends;
        ring.read(from, 0, &mut raw);
        let wqe = self
            .held_sends
            .take_send(&raw, self.signal_all, |at, to| ring.read(from, at, to));
        let again = self.sends_out.iter().any(|taken| taken.slot == wqe.slot);
        assert!(!again, "a place given out twice");
        self.sends_out.push_back(Taken {
            slot: wqe.slot,
            length: wqe.length,
            op: wqe.op,
            bad: wqe.fault.is_some(),
            carried_out: false,
        });
        Some(wqe)
    }

    fn take_recv(&mut self) -> Option<RecvWqe> {
        self.calls += 1;
        if self.dry || self.held_recvs.is_full() {
            return None;
        }
        let from = self.recvs.next()?;
        let mut raw = [0; RECV_HEADER];
        let ring = &mut self.recvs;
        ring.read(from, 0, &mut raw);
        let wqe = self.held_recvs.take_recv(&raw, |at, to| ring.read(from, at, to));
        let again = self.recvs_out.iter().any(|taken| taken.slot == wqe.slot);
        assert!(!again, "a place given out twice");
        self.recvs_out.push_back(Taken {
            slot: wqe.slot,
            length: wqe.length,
            op: SendOp::Send,
            bad: wqe.fault.is_some(),
            carried_out: false,
        });
        Some(wqe)
    }

    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault> {
        self.calls += 1;
        assert!(length > 0, "a check of nothing");
        reach(&self.regions, rkey, va, length as usize, access)?;
        if access.allows(Access::REMOTE_WRITE) {
            self.may_write = Some((rkey, va, length));
        }
        if access.allows(Access::REMOTE_READ) {
            self.may_read.push((rkey, va, length));
        }
        Ok(())
    }

    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        let pieces = self.brought.iter().map(|len| &ZEROES[..*len]);
        let mut left = payload.len as usize;
        let there = span::pieces(pieces, payload.offset as usize, left, |piece| {
            left -= piece.len();
            true
        });
        assert!(there && left == 0, "placed what has not come");
        self.put(to, payload)
    }

    fn place_grh(&mut self, slot: u32) -> Result<(), Fault> {
        self.put(Target::Recv { slot, offset: 0 }, Span { offset: 0, len: 40 })
    }

    fn atomic(&mut self, _: AtomicOp, rkey: Key, va: u64) -> Result<u64, Fault> {
        self.word(rkey, va, Access::REMOTE_ATOMIC)
    }

    fn atomic_result(&mut self, slot: u32, _: u64) -> Result<(), Fault> {
        self.calls += 1;
        let taken = self.send(slot);
        assert!(matches!(taken.op, SendOp::Atomic(_)) && !taken.bad, "no atomic");
        let regions = &self.regions;
        self.held_sends.parts(slot, 0, 8, |key, va, len| {
            reach(regions, key, va, len, Access::LOCAL_WRITE)
        })
    }

    fn atomic_write(&mut self, rkey: Key, va: u64, payload: Span) -> Result<(), Fault> {
        assert_eq!(payload.len, 8);
        self.word(rkey, va, Access::REMOTE_WRITE).map(drop)
    }

    fn flush(&mut self, rkey: Key, va: u64, length: u32, _: FlushKind) -> Result<(), Fault> {
        self.calls += 1;
        reach(&self.regions, rkey, va, length as usize, Access::FLUSH_GLOBAL)
    }

    fn invalidate(&mut self, key: Key) -> Result<(), Fault> {
        self.calls += 1;
        let region = self.regions.iter_mut().find(|region| region.key == key);
        let region = region.filter(|region| region.valid).ok_or(Fault::RemoteInvalid)?;
        region.valid = false;
        Ok(())
    }

    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        self.calls += 1;
        let taken = self.send(slot);
        assert!(
            taken.op.is_local() && !taken.carried_out && !taken.bad,
            "carried out twice or not local"
        );
        taken.carried_out = true;
        self.held_sends.local(slot).map(drop).ok_or(Fault::LocalQpOp)
    }
}
