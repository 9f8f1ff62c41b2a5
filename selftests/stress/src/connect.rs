// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Bringing queue pairs up, and pairs of them that look for what should be shut.

use crate::ffi::{AhAttr, GlobalRoute, QpAttr, Wc};
use crate::memory::Arena;
use crate::ring::Known;
use crate::run::{Gid, Hand};
use crate::verbs::{op, state, Cq, Kind, Mr, Pd, Piece, Qp, Request, Result, ALL, LOCAL_WRITE, SIGNALED};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const QKEY: u32 = 0x1111_1111;
const READS: u8 = 8;

/// `enum ibv_qp_attr_mask`.
mod mask {
    pub const STATE: i32 = 1;
    pub const ACCESS: i32 = 8;
    pub const PKEY: i32 = 16;
    pub const PORT: i32 = 32;
    pub const QKEY: i32 = 64;
    pub const AV: i32 = 128;
    pub const MTU: i32 = 256;
    pub const TIMEOUT: i32 = 512;
    pub const RETRY: i32 = 1024;
    pub const RNR: i32 = 2048;
    pub const RQ_PSN: i32 = 4096;
    pub const MAX_RD: i32 = 8192;
    pub const MIN_RNR: i32 = 32768;
    pub const SQ_PSN: i32 = 65536;
    pub const MAX_DEST_RD: i32 = 131_072;
    pub const DEST: i32 = 1 << 20;
}

/// Whom a queue pair is connected to, and how.
#[derive(Clone, Copy)]
pub struct Way {
    pub from: Gid,
    pub to: [u64; 2],
    pub number: u32,
    /// Sequence numbers: of what is received first, and sent first.
    pub psns: [u32; 2],
    pub mtu: u8,
    pub timeout: u8,
    pub rnr_timer: u8,
}

pub fn address(from: Gid, to: [u64; 2]) -> AhAttr {
    AhAttr {
        grh: GlobalRoute {
            dgid: to,
            flow_label: 0,
            sgid_index: from.0,
            hop_limit: 64,
            traffic_class: 0,
        },
        is_global: 1,
        port_num: 1,
        ..Default::default()
    }
}

pub fn to_init(hand: &mut Hand<'_>, qp: &Qp) -> Result<()> {
    let attr = QpAttr {
        state: state::INIT,
        port_num: 1,
        access: ALL,
        qkey: QKEY,
        ..Default::default()
    };
    let third = if qp.kind == Kind::Ud { mask::QKEY } else { mask::ACCESS };
    hand.call("modify INIT", || {
        qp.modify(&attr, mask::STATE | mask::PKEY | mask::PORT | third)
    })
}

/// From INIT to RTS.
pub fn to_rts(hand: &mut Hand<'_>, qp: &Qp, way: &Way) -> Result<()> {
    let attr = QpAttr {
        state: state::RTR,
        path_mtu: way.mtu.into(),
        rq_psn: way.psns[0],
        dest_qp_num: way.number,
        ah: address(way.from, way.to),
        max_dest_rd_atomic: READS,
        min_rnr_timer: way.rnr_timer,
        ..Default::default()
    };
    let masks = match qp.kind {
        Kind::Ud => mask::STATE,
        Kind::Uc => mask::STATE | mask::AV | mask::MTU | mask::DEST | mask::RQ_PSN,
        Kind::Rc => mask::STATE | mask::AV | mask::MTU | mask::DEST | mask::RQ_PSN | mask::MAX_DEST_RD | mask::MIN_RNR,
    };
    hand.call("modify RTR", || qp.modify(&attr, masks))?;
    let attr = QpAttr {
        state: state::RTS,
        sq_psn: way.psns[1],
        timeout: way.timeout,
        retry_cnt: 6,
        // 7 is for ever.
        rnr_retry: 5,
        max_rd_atomic: READS,
        ..Default::default()
    };
    let masks = match qp.kind {
        Kind::Ud | Kind::Uc => mask::STATE | mask::SQ_PSN,
        Kind::Rc => mask::STATE | mask::SQ_PSN | mask::TIMEOUT | mask::RETRY | mask::RNR | mask::MAX_RD,
    };
    hand.call("modify RTS", || qp.modify(&attr, masks))
}

/// Connects two queue pairs of this device, whatever state they are in.
pub fn connect_loop(hand: &mut Hand<'_>, one: &Qp, two: &Qp, mtu: u8) -> Result<()> {
    let Some(gid) = hand.run.gid(&mut hand.rng) else {
        return Err(libc::EAGAIN);
    };
    let psns = [hand.rng.u32(..1 << 24), hand.rng.u32(..1 << 24)];
    let (timeout, rnr_timer) = (hand.rng.u8(10..15), hand.rng.u8(1..16));
    for qp in [one, two] {
        hand.call("modify RESET", || qp.to(state::RESET))?;
        to_init(hand, qp)?;
    }
    for (qp, peer, psns) in [(one, two, psns), (two, one, [psns[1], psns[0]])] {
        let way = Way {
            from: gid,
            to: gid.1,
            number: peer.number,
            psns,
            mtu,
            timeout,
            rnr_timer,
        };
        to_rts(hand, qp, &way)?;
    }
    Ok(())
}

/// What came of an attempt to use a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was refused, with this status.
    Refused(i32),
    /// It was carried out.
    Opened,
    /// Nothing is known: no connection, no answer in time.
    Unknown,
}

/// Bytes that an attempt asks for.
const ASKED: usize = 64;
/// What the place of a READ's result is filled with.
const BLANK: u32 = 0x0b1a_2c3d;
/// How long an attempt may take.
const PATIENCE: Duration = Duration::from_millis(400);

/// Two connected queue pairs of one domain that look whether a key opens something. Their own memory may not be
/// reached by any peer, so that whatever opens is somebody else's.
pub struct Probe {
    pub pd: Arc<Pd>,
    cq: Arc<Cq>,
    one: Qp,
    two: Qp,
    mr: Mr,
    connected: bool,
    next: u64,
}

impl Probe {
    pub fn new(hand: &mut Hand<'_>, pd: &Arc<Pd>) -> Result<Self> {
        let memory = Arc::new(Arena::new(4096).map_err(|_| libc::ENOMEM)?);
        let cq = hand.call("create_cq", || Cq::new(&pd.context, 64, None))?;
        let mut qp = || hand.call("create_qp", || Qp::new(pd, Kind::Rc, [&cq; 2], None, [4, 4], 0));
        let (one, two) = (qp()?, qp()?);
        let mr = hand.call("reg_mr", || Mr::new(pd, &memory, LOCAL_WRITE))?;
        Ok(Self {
            pd: pd.clone(),
            cq,
            one,
            two,
            mr,
            connected: false,
            next: 0,
        })
    }

    /// A queue pair as the probe's second one, for the hunt for a number.
    pub fn another(&self, hand: &mut Hand<'_>) -> Result<Qp> {
        hand.call("create_qp", || {
            Qp::new(&self.pd, Kind::Rc, [&self.cq; 2], None, [4, 4], 0)
        })
    }

    /// Uses a queue pair made by [`Self::another`] in place of the second one.
    pub fn adopt(&mut self, qp: Qp) {
        self.two = qp;
        self.connected = false;
    }

    /// Tries a key by READ, WRITE or an atomic.
    pub fn attempt(&mut self, hand: &mut Hand<'_>, target: Known, opcode: i32) -> Result<Outcome> {
        if !self.connected {
            connect_loop(hand, &self.one, &self.two, 3)?;
            self.connected = true;
        }
        self.fire(hand, target, opcode)
    }

    /// Tries a key through another's queue pair, by its number alone: as anybody may who can send to this host.
    pub fn attempt_at(&mut self, hand: &mut Hand<'_>, target: Known, opcode: i32) -> Result<Outcome> {
        let Some(gid) = hand.run.gid(&mut hand.rng) else {
            return Ok(Outcome::Unknown);
        };
        self.connected = false;
        hand.call("modify RESET", || self.one.to(state::RESET))?;
        to_init(hand, &self.one)?;
        let way = Way {
            from: gid,
            to: gid.1,
            number: target.number & 0xff_ffff,
            psns: [hand.rng.u32(..1 << 24), hand.rng.u32(..1 << 24)],
            mtu: 3,
            // 33 us, and little patience: most of these numbers are nobody's.
            timeout: 3,
            rnr_timer: 1,
        };
        to_rts(hand, &self.one, &way)?;
        self.fire(hand, target, opcode)
    }

    fn fire(&mut self, hand: &mut Hand<'_>, target: Known, opcode: i32) -> Result<Outcome> {
        let memory = self.mr.memory.clone();
        memory.fill(0, ASKED, BLANK);
        let atomic = matches!(opcode, op::FETCH_ADD | op::CMP_SWAP);
        let piece = Piece {
            address: memory.address(),
            len: if atomic { 8 } else { ASKED },
            lkey: self.mr.lkey,
        };
        let (remote, wr_id) = ((target.address, target.key), self.next);
        self.next += 1;
        let send = if atomic {
            Request::Atomic {
                opcode,
                piece,
                remote,
                operands: [1, 2],
            }
        } else {
            Request::Data {
                opcode,
                piece,
                remote,
                word: 0,
            }
        };
        if self.one.post(wr_id, &send, SIGNALED).is_err() {
            self.connected = false;
            return Ok(Outcome::Unknown);
        }
        let (end, mut got) = (Instant::now() + PATIENCE, [Wc::default(); 8]);
        let mut status = None;
        while status.is_none() && Instant::now() < end && hand.run.session_goes_on() {
            let count = self.cq.poll(&mut got)?;
            status = got[..count].iter().find(|wc| wc.wr_id == wr_id).map(|wc| wc.status);
            if status.is_none() {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        if status != Some(0) {
            self.connected = false;
        }
        // A READ that is refused brings not one byte.
        if opcode != op::WRITE && status != Some(0) && memory.differs(0, ASKED, BLANK).is_some() {
            return Ok(Outcome::Opened);
        }
        Ok(match status {
            Some(0) => Outcome::Opened,
            Some(status) => Outcome::Refused(status),
            None => Outcome::Unknown,
        })
    }
}

/// One of the ways to use a key.
pub fn some_opcode(rng: &mut fastrand::Rng) -> i32 {
    [op::READ, op::READ, op::WRITE, op::FETCH_ADD][rng.usize(..4)]
}
