// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What happens in a run: all of it drawn from the seed before the run starts.

mod windows;

use crate::direct::WindowSpec;
use crate::link::LinkSpec;
use crate::rng::Rng;
use roce::completion::{Event, WcStatus};
use roce::keys::{Access, Key, Pd, RegionView};
use roce::limits;
use roce::qp::{Mtu, QpKind};
use roce::wqe::{AtomicOp, Fault, FlushKind, SendOp};

/// Protection domain of every queue pair; [`Region::Foreign`] belongs to another.
pub const PD: Pd = Pd(7);

/// Key of [`Region::Shared`].
pub const SHARED: u32 = 0x504;

/// Key nobody may invalidate.
pub const STALE: u32 = 0xbad;

/// Q_Key of the datagrams.
pub const QKEY: u32 = 0x1111;

/// The regions every end registers over its whole memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// All rights.
    Open,
    /// Another protection domain.
    Foreign,
    /// Local rights only.
    Private,
    /// Deregistered the moment its data is gathered.
    Vanishing,
    /// One number of the host, shared by all of its queue pairs.
    Shared,
}

/// The one thing that goes wrong with a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A key nobody has.
    Key,
    /// One byte past the region.
    Bounds,
    /// A region of another protection domain.
    Domain,
    /// A region without remote rights.
    Right,
    /// The queue pair itself grants no remote right.
    QpRight,
    /// The sender's buffers fail at the snapshot.
    Snapshot(Fault),
    /// The sender's buffers fail when gathered.
    Gather,
    /// The READ's buffers fail when its data is placed.
    Result,
    /// The peer's region vanishes while a READ is answered.
    Vanish,
    /// An atomic on an address that is not a multiple of 8.
    Misaligned,
    /// The local operation fails.
    Local,
    /// The peer has no such key to invalidate.
    Stale,
    /// The peer's receive is one byte too small.
    SmallRecv,
    /// The peer's receive is bad at its snapshot.
    BadRecv,
    /// The peer's receive fails when its data is placed.
    Recv,
    /// The peer posts no receive, and the RNR retries are finite.
    NoRecv,
}

/// A work request to be posted.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub op: SendOp,
    pub length: u32,
    /// Offset of the local buffer in the poster's memory.
    pub local: usize,
    /// Offset of the remote buffer in the peer's memory; of the receive for SENDs.
    pub remote: usize,
    pub region: Region,
    pub imm: [u8; 4],
    pub signalled: bool,
    pub solicited: bool,
    pub fence: bool,
    pub bad: Option<Bad>,
    /// What an atomic finds, and what the number is after this work request.
    pub before: u64,
    pub after: u64,
    /// Which of the peer's receives it consumes.
    pub recv: Option<usize>,
}

/// A receive to be posted.
#[derive(Clone, Copy, Debug)]
pub struct Recv {
    pub length: u32,
    pub local: usize,
    pub bad: Option<Bad>,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct EndPlan {
    pub memory: usize,
    pub base_va: u64,
    pub ops: Vec<Op>,
    pub recvs: Vec<Recv>,
    /// When how many more sends (and a doorbell) come.
    pub post_sends: Vec<(u64, usize)>,
    /// When how many more receives come, without a doorbell.
    pub post_recvs: Vec<(u64, usize)>,
    pub slots: usize,
    pub window: u32,
    pub read_window: u32,
    pub reads: u8,
    pub psn: u32,
    pub rnr_timer: u8,
    pub access: Access,
    /// Receives come from a shared queue.
    pub srq: bool,
    /// Offset of the number the peer's atomics act upon.
    pub cell: usize,
}

/// What else happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// Nothing.
    None,
    /// `ops[index]` of `end` is bad.
    BadOp { end: usize, index: usize, bad: Bad },
    /// `end` vanishes without a word.
    Death { end: usize, at: u64 },
    /// The user of `end` moves it to ERR.
    LocalError { end: usize, at: u64 },
    /// The user of `end` destroys its queue pair the moment its own work is complete, `abruptly` before
    /// it has sent the last answer.
    Leave { end: usize, abruptly: bool },
    /// The user of `end` drains its send queue and resumes.
    Drain { end: usize, at: u64, resume: u64 },
}

/// Two queue pairs and how they are joined.
#[derive(Clone, Debug)]
pub struct Connection {
    pub ends: [EndPlan; 2],
    pub hosts: [usize; 2],
    pub kind: QpKind,
    pub v6: bool,
    pub mtu: Mtu,
    pub timeout: u8,
    pub retry: u8,
    pub rnr_retry: u8,
    pub twist: Twist,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub hosts: usize,
    /// One link for every ordered pair of hosts.
    pub links: Vec<LinkSpec>,
    pub connections: Vec<Connection>,
    /// Whether the links have direct lanes, and what goes wrong with them.
    pub windows: Option<WindowSpec>,
}

impl Scenario {
    /// The scenario of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let hosts = if rng.chance(0.2) { 3 } else { 2 };
        let mut spec = link_spec(&mut rng);
        let mut stripes = Rng::new(seed ^ 0x57_21fe);
        if stripes.chance(0.1) {
            spec.stripe = stripes.pick(&[5_000, 40_000, 150_000]);
        }
        if Rng::new(seed ^ 0x1ed_6e4).chance(0.25) {
            (spec.duplicate, spec.reorder, spec.told) = (0.0, 0.0, true);
        }
        let links = (0..hosts * hosts)
            .map(|i| {
                if i / hosts == i % hosts {
                    LinkSpec {
                        ns_per_kb: 50,
                        ..Default::default()
                    }
                } else {
                    spec
                }
            })
            .collect();
        let count = if rng.chance(0.3) { rng.range(2, 3) } else { 1 };
        let connections = (0..count).map(|_| connection(&mut rng, hosts)).collect();
        Self {
            seed,
            hosts,
            links,
            connections,
            windows: None,
        }
    }
}

impl Bad {
    /// Status at the requester.
    pub fn requester(self) -> WcStatus {
        match self {
            Self::Key | Self::Bounds | Self::Domain | Self::Right | Self::Vanish => WcStatus::RemoteAccess,
            Self::QpRight | Self::SmallRecv | Self::Misaligned | Self::Stale => WcStatus::RemoteInvalidRequest,
            Self::Snapshot(fault) => fault.status(),
            Self::Gather | Self::Result | Self::Local => WcStatus::LocalProtection,
            Self::BadRecv | Self::Recv => WcStatus::RemoteOperation,
            Self::NoRecv => WcStatus::RnrRetryExceeded,
        }
    }

    /// Status of the receive it hits at the responder.
    pub fn receive(self) -> Option<WcStatus> {
        match self {
            Self::SmallRecv => Some(WcStatus::LocalLength),
            Self::BadRecv => Some(WcStatus::LocalQpOp),
            Self::Recv => Some(WcStatus::LocalProtection),
            Self::Stale => Some(WcStatus::RemoteInvalidRequest),
            _ => None,
        }
    }

    /// Event at the responder.
    pub fn event(self) -> Option<Event> {
        match self {
            Self::Key | Self::Bounds | Self::Domain | Self::Right | Self::Vanish => Some(Event::AccessError),
            Self::QpRight | Self::Misaligned => Some(Event::RequestError),
            _ => None,
        }
    }

    /// Whether the responder goes to ERR too.
    pub fn kills_responder(self) -> bool {
        self.receive().is_some() || self.event().is_some()
    }
}

impl EndPlan {
    /// The key and view of a region.
    pub fn region(&self, region: Region) -> RegionView {
        let all = Access(0x30f);
        let (key, pd, access) = match region {
            Region::Open => (0x100, PD, all),
            Region::Foreign => (0x201, Pd(PD.0 + 1), all),
            Region::Private => (0x302, PD, Access::LOCAL_WRITE),
            Region::Vanishing => (0x403, PD, all),
            Region::Shared => (SHARED, PD, Access::NONE),
        };
        RegionView {
            key: Key(key),
            pd,
            base: self.base_va,
            length: self.memory as u64,
            access,
            valid: true,
        }
    }

    /// All regions.
    pub fn regions(&self) -> [RegionView; 4] {
        [Region::Open, Region::Foreign, Region::Private, Region::Vanishing].map(|r| self.region(r))
    }
}

fn link_spec(rng: &mut Rng) -> LinkSpec {
    let mut rate = |most: f64| {
        if rng.chance(0.5) {
            0.0
        } else {
            most * (rng.below(1000) as f64) / 1000.0
        }
    };
    let (loss, corrupt, duplicate, reorder) = (rate(0.06), rate(0.03), rate(0.08), rate(0.12));
    if rng.chance(0.1) {
        // Nothing is lost, and little comes in order, as behind a jitter that is longer than a packet.
        return LinkSpec {
            ns_per_kb: rng.pick(&[200, 800]),
            latency: rng.pick(&[1_000, 50_000]),
            reorder: rng.pick(&[0.2, 0.5, 1.0]),
            delay: rng.pick(&[10_000, 50_000, 100_000]),
            ..LinkSpec::default()
        };
    }
    let calm = rng.chance(0.25);
    let or_calm = |p: f64| if calm { 0.0 } else { p };
    LinkSpec {
        ns_per_kb: rng.pick(&[200, 800, 3000]),
        latency: rng.pick(&[100, 1_000, 10_000, 30_000]),
        loss: or_calm(loss),
        corrupt: or_calm(corrupt),
        duplicate: or_calm(duplicate),
        reorder: or_calm(reorder),
        delay: rng.pick(&[500, 5_000, 50_000]),
        stripe: 0,
        told: false,
    }
}

fn connection(rng: &mut Rng, hosts: usize) -> Connection {
    let a = rng.below(hosts as u64) as usize;
    let b = if rng.chance(0.05) {
        a
    } else {
        (a + 1 + rng.below(hosts as u64 - 1) as usize) % hosts
    };
    let mtu = rng.pick(&[Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096]);
    let reads = rng.pick(&[1u8, 2, 4, 16]);
    let kind = rng.pick(&[
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Uc,
        QpKind::Ud,
    ]);
    let mut layouts = [Layout::new(rng), Layout::new(rng)];
    let cells = [0, 1].map(|end: usize| layouts[end].take_eight(rng));
    let counts = [rng.range(0, 30) as usize, rng.range(1, 30) as usize];
    let twist = match kind {
        QpKind::Rc => twist(rng, counts),
        _ => unreliable_twist(rng, counts),
    };
    let mut ops: [Vec<Op>; 2] = [Vec::new(), Vec::new()];
    let mut recvs: [Vec<Recv>; 2] = [Vec::new(), Vec::new()];
    for end in 0..2 {
        for index in 0..counts[end] {
            let bad = match twist {
                Twist::BadOp { end: e, index: i, bad } if e == end && i == index => Some(bad),
                _ => None,
            };
            // From the starved request on, nobody posts receives.
            let fed = !matches!(twist, Twist::BadOp { end: e, index: i, bad: Bad::NoRecv } if e == end && i <= index);
            let choice: &[SendOp] = match twist {
                // A queue pair without remote rights takes nothing but SENDs, and who leaves knows of
                // nothing but receives. The data of a READ leaves with it.
                Twist::BadOp {
                    end: e,
                    bad: Bad::QpRight,
                    ..
                } if e == end => &[SendOp::Send, SendOp::SendImm],
                Twist::Leave { end: e, .. } if e != end && index + 1 == counts[end] => {
                    &[SendOp::Send, SendOp::SendImm, SendOp::WriteImm]
                }
                Twist::Leave { end: e, .. } if e != end => {
                    &[SendOp::Send, SendOp::SendImm, SendOp::Write, SendOp::WriteImm]
                }
                _ if kind == QpKind::Uc => &UNRELIABLE,
                _ if kind == QpKind::Ud => &UNRELIABLE[..2],
                _ => &ALL,
            };
            let op = make_op(
                rng,
                (mtu, kind),
                bad,
                choice,
                end,
                &mut layouts,
                cells[1 - end],
                fed.then_some(&mut recvs[1 - end]),
            );
            ops[end].push(op);
        }
    }
    ops.iter_mut().for_each(|ops| predict(ops));
    let exact = |end: usize| match twist {
        Twist::BadOp {
            end: e,
            bad: Bad::NoRecv,
            ..
        } => e != end,
        Twist::Leave { end: e, .. } => e == end,
        _ => false,
    };
    // Receives nobody will use, to be flushed; not where a starved sender would find them, nor where
    // somebody waits for all of them.
    for end in 0..2 {
        for _ in 0..if exact(end) { 0 } else { rng.below(4) } {
            let length = if kind == QpKind::Rc {
                64
            } else {
                16 * mtu.bytes() + limits::GRH_LEN
            };
            let local = layouts[end].take(rng, length);
            recvs[end].push(Recv {
                length,
                local,
                bad: None,
            });
        }
    }
    let mut end_plan = |end: usize| EndPlan {
        memory: layouts[end].next + 64,
        base_va: rng.next() >> 1 & !7,
        post_sends: schedule(rng, ops[end].len(), 100_000),
        post_recvs: schedule(rng, recvs[end].len(), 400_000),
        ops: std::mem::take(&mut ops[end]),
        recvs: std::mem::take(&mut recvs[end]),
        slots: rng.pick(&[1, 2, 8, 64]),
        window: rng.pick(&[1, 2, 7, 32, 128]),
        read_window: rng.pick(&[1, 16, 256]),
        reads,
        psn: rng.pick(&[0, 1, 0xff_fff0, 0x7f_fff8, rng.clone().next() as u32]) & 0xff_ffff,
        rnr_timer: rng.pick(&[1, 4, 12, 14]),
        access: Access(0x30f),
        srq: rng.chance(0.2),
        cell: cells[end],
    };
    let mut ends = [end_plan(0), end_plan(1)];
    if let Twist::BadOp {
        end, bad: Bad::QpRight, ..
    } = twist
    {
        ends[1 - end].access = Access::LOCAL_WRITE;
    }
    let no_recv = matches!(twist, Twist::BadOp { bad: Bad::NoRecv, .. });
    if no_recv {
        // Only the starved request may find no receive.
        for end in &mut ends {
            end.post_recvs = vec![(0, end.recvs.len())];
        }
    }
    Connection {
        ends,
        hosts: [a, b],
        kind,
        v6: rng.chance(0.5),
        mtu,
        timeout: rng.pick(&[8, 9, 10]),
        retry: 7,
        rnr_retry: if no_recv { rng.below(4) as u8 } else { 7 },
        twist,
    }
}

fn twist(rng: &mut Rng, counts: [usize; 2]) -> Twist {
    let end = if counts[0] == 0 { 1 } else { rng.below(2) as usize };
    let at = rng.below(300_000);
    match rng.below(20) {
        0..=4 => Twist::BadOp {
            end,
            index: rng.below(counts[end] as u64) as usize,
            bad: rng.pick(&[
                Bad::Key,
                Bad::Bounds,
                Bad::Domain,
                Bad::Right,
                Bad::QpRight,
                Bad::Snapshot(Fault::LocalProtection),
                Bad::Snapshot(Fault::LocalQpOp),
                Bad::Gather,
                Bad::Result,
                Bad::Vanish,
                Bad::Misaligned,
                Bad::Local,
                Bad::Stale,
                Bad::SmallRecv,
                Bad::BadRecv,
                Bad::Recv,
                Bad::NoRecv,
            ]),
        },
        5 => Twist::Death { end, at },
        6 => Twist::LocalError { end, at },
        7 | 8 => Twist::Drain {
            end,
            at,
            resume: at + rng.below(300_000),
        },
        9 | 10 => Twist::Leave {
            end,
            abruptly: rng.chance(0.3),
        },
        _ => Twist::None,
    }
}

/// As [`twist`], of a connection that answers nothing.
fn unreliable_twist(rng: &mut Rng, counts: [usize; 2]) -> Twist {
    let end = if counts[0] == 0 { 1 } else { rng.below(2) as usize };
    let at = rng.below(300_000);
    match rng.below(10) {
        0 | 1 => Twist::BadOp {
            end,
            index: rng.below(counts[end] as u64) as usize,
            bad: rng.pick(&[Bad::Gather, Bad::Snapshot(Fault::LocalProtection)]),
        },
        2 => Twist::Drain {
            end,
            at,
            resume: at + rng.below(300_000),
        },
        _ => Twist::None,
    }
}

/// What the number of every end is at the start.
pub const CELL: u64 = 1_000;

/// Tells every atomic of one end what it will find: what those before it, in order and each once, have left.
fn predict(ops: &mut [Op]) {
    let mut value = CELL;
    for op in ops
        .iter_mut()
        .filter(|op| op.region == Region::Open && op.bad.is_none())
    {
        op.before = value;
        match &mut op.op {
            SendOp::Atomic(AtomicOp::FetchAdd { add }) => value = value.wrapping_add(*add),
            SendOp::Atomic(AtomicOp::CompareSwap { compare, swap }) => {
                // Every third misses.
                let hits = *swap % 3 != 0;
                *compare = if hits { value } else { value ^ 1 };
                value = if hits { *swap } else { value };
            }
            _ => {}
        }
        op.after = value;
    }
}

/// Hands out disjoint ranges of one end's memory, with gaps that must stay as they are.
struct Layout {
    next: usize,
}

impl Layout {
    fn new(rng: &mut Rng) -> Self {
        Self {
            next: rng.range(1, 64) as usize,
        }
    }

    /// Eight bytes whose address is a multiple of eight.
    fn take_eight(&mut self, rng: &mut Rng) -> usize {
        self.next = self.next.next_multiple_of(8);
        self.take(rng, 8)
    }

    fn take(&mut self, rng: &mut Rng, len: u32) -> usize {
        let at = self.next;
        self.next += len as usize + rng.range(1, 40) as usize;
        at
    }
}

/// Every operation of a connection.
const ALL: [SendOp; 16] = [
    SendOp::Send,
    SendOp::Send,
    SendOp::SendImm,
    SendOp::Write,
    SendOp::Write,
    SendOp::WriteImm,
    SendOp::Read,
    SendOp::Read,
    ADD,
    ADD,
    SWAP,
    SendOp::SendInvalidate { key: Key(0) },
    SendOp::AtomicWrite,
    SendOp::Flush(FlushKind { placement: 3, level: 0 }),
    SendOp::LocalInvalidate,
    SendOp::Register,
];

const ADD: SendOp = SendOp::Atomic(AtomicOp::FetchAdd { add: 0 });
const SWAP: SendOp = SendOp::Atomic(AtomicOp::CompareSwap { compare: 0, swap: 0 });

/// Every operation of an unreliable connection; of datagrams the first two.
const UNRELIABLE: [SendOp; 5] = [
    SendOp::Send,
    SendOp::SendImm,
    SendOp::Write,
    SendOp::WriteImm,
    SendOp::Register,
];

#[allow(clippy::too_many_arguments)]
fn make_op(
    rng: &mut Rng,
    (mtu, kind): (Mtu, QpKind),
    bad: Option<Bad>,
    choice: &[SendOp],
    end: usize,
    layouts: &mut [Layout; 2],
    cell: usize,
    peer_recvs: Option<&mut Vec<Recv>>,
) -> Op {
    use SendOp::{Read, Send, SendImm, Write, WriteImm};
    let op = rng.pick(match bad {
        None => choice,
        Some(Bad::Snapshot(_) | Bad::Gather) if kind == QpKind::Ud => &[Send, SendImm],
        Some(Bad::Snapshot(_)) if kind == QpKind::Uc => &UNRELIABLE,
        Some(Bad::Snapshot(_)) => &ALL,
        Some(Bad::Misaligned) => &[ADD, SWAP],
        Some(Bad::Local) => &[SendOp::LocalInvalidate, SendOp::Register, SendOp::BindWindow],
        Some(Bad::Stale) => &[SendOp::SendInvalidate { key: Key(STALE) }],
        Some(Bad::Key | Bad::Bounds | Bad::Domain | Bad::Right | Bad::QpRight) => &[Write, WriteImm, Read],
        Some(Bad::Gather) => &[Send, SendImm, Write, WriteImm],
        Some(Bad::Result | Bad::Vanish) => &[Read],
        Some(Bad::SmallRecv | Bad::Recv) => &[Send, SendImm],
        Some(Bad::BadRecv | Bad::NoRecv) => &[Send, SendImm, WriteImm],
    });
    let m = u64::from(mtu.bytes());
    let length = match rng.below(10) {
        0 => 0,
        1 => 1,
        2 => m - 1,
        3 => m,
        4 => m + 1,
        5 => m * rng.range(2, 12),
        6 => rng.below(16 * m),
        _ => rng.below(2 * m + 2),
    };
    let length = if bad.is_some() { length.max(1) } else { length } as u32;
    let length = match op {
        _ if kind == QpKind::Ud => match bad {
            // Rarely too long.
            None if length > mtu.bytes() && rng.chance(0.9) => length % mtu.bytes(),
            None => length,
            Some(_) => length.min(mtu.bytes()),
        },
        op if op.is_local() => 0,
        SendOp::Atomic(_) | SendOp::AtomicWrite => 8,
        _ => length,
    };
    let op = match op {
        SendOp::SendInvalidate { key: Key(0) } => SendOp::SendInvalidate {
            key: Key(rng.next() as u32 | 1 << 31),
        },
        SendOp::Atomic(AtomicOp::FetchAdd { .. }) => SendOp::Atomic(AtomicOp::FetchAdd { add: rng.next() }),
        SendOp::Atomic(AtomicOp::CompareSwap { .. }) => SendOp::Atomic(AtomicOp::CompareSwap {
            compare: 0,
            swap: rng.next(),
        }),
        op => op,
    };
    let shared = matches!(op, SendOp::Atomic(AtomicOp::FetchAdd { .. })) && bad.is_none() && rng.chance(0.5);
    let local = layouts[end].take(rng, length);
    let remote = match op {
        SendOp::Atomic(_) => cell,
        SendOp::AtomicWrite => layouts[1 - end].take_eight(rng),
        _ => layouts[1 - end].take(rng, length),
    };
    let mut recv = None;
    if let (Some(peer_recvs), Send | SendImm | WriteImm | SendOp::SendInvalidate { .. }) = (peer_recvs, op) {
        recv = Some(peer_recvs.len());
        let plain = match kind {
            QpKind::Rc if op == WriteImm => 0,
            QpKind::Rc => length,
            // Whatever comes.
            QpKind::Uc => 16 * mtu.bytes(),
            _ => mtu.bytes() + limits::GRH_LEN,
        };
        let slack = rng.pick(&[0, 0, 1, 100]);
        let at = if kind != QpKind::Rc {
            layouts[1 - end].take(rng, plain + slack)
        } else if op == WriteImm {
            layouts[1 - end].take(rng, slack)
        } else {
            remote
        };
        let (len, bad) = match bad {
            Some(Bad::SmallRecv) => (plain - 1, None),
            Some(Bad::BadRecv) => (plain, Some(Bad::BadRecv)),
            Some(Bad::Recv) => (plain, Some(Bad::Recv)),
            _ => (plain + slack, None),
        };
        // The slack of a SEND's receive is real memory, and must stay untouched.
        layouts[1 - end].take(rng, slack);
        peer_recvs.push(Recv {
            length: len,
            local: at,
            bad,
        });
    }
    Op {
        op,
        length,
        local,
        remote,
        region: match bad {
            Some(Bad::Domain) => Region::Foreign,
            Some(Bad::Right) => Region::Private,
            Some(Bad::Vanish) => Region::Vanishing,
            _ if shared => Region::Shared,
            _ => Region::Open,
        },
        imm: (rng.next() as u32).to_le_bytes(),
        signalled: rng.chance(0.6),
        solicited: rng.chance(0.3),
        fence: rng.chance(0.15),
        bad,
        before: 0,
        after: 0,
        recv,
    }
}

/// Post `total` work requests in batches within about `span` nanoseconds.
fn schedule(rng: &mut Rng, total: usize, span: u64) -> Vec<(u64, usize)> {
    let mut batches = Vec::new();
    let (mut at, mut left) = (0, total);
    if rng.chance(0.4) {
        return vec![(0, total)];
    }
    while left > 0 {
        let n = (rng.range(1, 12) as usize).min(left);
        batches.push((at, n));
        left -= n;
        at += rng.below(span / 2 + 1);
    }
    batches
}
