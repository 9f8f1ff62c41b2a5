// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What one thread owns, and the steps it takes: everything is made, used, changed and ended at random.
//!
//! A thread's domain is its own, so it knows which keys of it live. What has died is kept as memory full of a pattern
//! that nothing may change, and as keys that nothing may open.

use crate::conn::{check_message, Bound, Conn, Parts, Peer, Window, MEMORY, RECEIVED, SLOT, SLOTS};
use crate::connect::{address, some_opcode, to_init, to_rts, Outcome, Probe, Way, QKEY};
use crate::ffi::Wc;
use crate::memory::Arena;
use crate::ring::Known;
use crate::run::{is_shortage, Hand};
use crate::verbs::{self, Ah, Channel, Context, Cq, Kind, Mr, Pd, Piece, Qp, Request, Result, Srq, SIGNALED};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNS: usize = 5;
const CQS: usize = 3;
const SRQS: usize = 2;
const LOOSE: usize = 4;
const GRAVES: usize = 24;
const WIDOWS: usize = 10;
const DEAD: usize = 48;
/// Longest that a request on a connection may take: seven tries of 70 ms, doubled twice, are 2 s.
const OVERDUE: Duration = Duration::from_secs(30);

/// Memory behind something that has ended, with what must stay in it.
struct Grave {
    memory: Arc<Arena>,
    pattern: u32,
    what: &'static str,
    /// A region that lives on over it while its queue pair does not.
    region: Option<Mr>,
}

/// A window of type 2 whose queue pair has ended.
struct Widow {
    window: Window,
    region: Arc<Mr>,
    known: Known,
    since: Instant,
}

struct Shared {
    srq: Arc<Srq>,
    mr: Mr,
    posted: u32,
    /// Tells its completions from those of one before it.
    id: u32,
}

/// A region that nobody uses.
struct Loose {
    mr: Mr,
    pattern: u32,
    /// Whether peers may READ it.
    open: bool,
}

struct Datagrams {
    qp: Qp,
    mr: Mr,
    ahs: Vec<Ah>,
    group: Option<[u64; 2]>,
    /// The numbers of what is under way; 0 where nothing is.
    under_way: [u64; 2 * SLOTS],
    count: u64,
}

pub struct World<'a, 'r> {
    hand: &'a mut Hand<'r>,
    context: Arc<Context>,
    pd: Arc<Pd>,
    cqs: Vec<Arc<Cq>>,
    srqs: Vec<Shared>,
    conns: Vec<Conn>,
    loose: Vec<Loose>,
    datagrams: Option<Datagrams>,
    probe: Option<Probe>,
    graves: VecDeque<Grave>,
    widows: VecDeque<Widow>,
    dead: VecDeque<Known>,
    next_id: u32,
}

/// Numbers of requests that are no connection's.
const DATAGRAM: u32 = 0;
const SHARED: u32 = u32::MAX;

/// Works until the session ends.
pub fn work(hand: &mut Hand<'_>, context: &Arc<Context>) {
    while hand.run.session_goes_on() {
        if let Err(errno) = life(hand, context) {
            hand.tally.add("worker begins anew", errno);
            std::thread::sleep(Duration::from_millis(20));
        }
        hand.hand_in();
    }
}

/// One world from its beginning to its end.
fn life(hand: &mut Hand<'_>, context: &Arc<Context>) -> Result<()> {
    let pd = hand.call("alloc_pd", || Pd::new(context))?;
    let steps = 200 + hand.rng.u32(..2000);
    let mut world = World {
        hand,
        context: context.clone(),
        pd,
        cqs: Vec::new(),
        srqs: Vec::new(),
        conns: Vec::new(),
        loose: Vec::new(),
        datagrams: None,
        probe: None,
        graves: VecDeque::new(),
        widows: VecDeque::new(),
        dead: VecDeque::new(),
        next_id: 1,
    };
    let mut ended = Ok(());
    for step in 0..steps {
        if !world.hand.run.session_goes_on() {
            break;
        }
        if step % 64 == 0 {
            world.hand.hand_in();
        }
        match world.step() {
            // A state that does not allow it, or no room: what a program has to expect here.
            Err(libc::EINVAL | libc::EMSGSIZE | libc::ENOTCONN | libc::EOPNOTSUPP | libc::ENETUNREACH) | Ok(()) => {}
            Err(errno) if is_shortage(errno) => {}
            Err(errno) => {
                ended = Err(errno);
                break;
            }
        }
    }
    world.check_graves();
    ended
}

impl World<'_, '_> {
    fn step(&mut self) -> Result<()> {
        self.poll()?;
        match self.hand.rng.u32(..100) {
            0..=39 => self.traffic(),
            40..=45 => self.connect(),
            46..=48 => self.disconnect(),
            49..=53 => self.shake(),
            54..=65 => self.windows(),
            66..=69 => self.queues(),
            70..=75 => self.regions(),
            76..=81 => self.datagrams(),
            82..=90 => self.probe(),
            91..=93 => {
                self.check_graves();
                Ok(())
            }
            94 | 95 => self.end_widow(),
            96 => self.refuse_domain(),
            97 if self.hand.run.forks => {
                self.fork();
                Ok(())
            }
            _ => {
                std::thread::sleep(Duration::from_micros(self.hand.rng.u64(..3000)));
                Ok(())
            }
        }
    }

    fn cq(&mut self) -> Result<Arc<Cq>> {
        if self.cqs.len() < CQS {
            let channel = if self.hand.chance(60) {
                Some(self.hand.call("create_comp_channel", || Channel::new(&self.context))?)
            } else {
                None
            };
            let depth = 512 + self.hand.rng.i32(0..512);
            let cq = self.hand.call("create_cq", || Cq::new(&self.context, depth, channel))?;
            self.cqs.push(cq);
        }
        Ok(self.cqs[self.hand.rng.usize(..self.cqs.len())].clone())
    }

    fn poll(&mut self) -> Result<()> {
        for index in 0..self.cqs.len() {
            let cq = self.cqs[index].clone();
            if let Some(channel) = &cq.channel {
                if channel.event().is_ok() {
                    self.hand.tally.add("completion event", 0);
                }
                if self.hand.chance(10) {
                    let solicited = self.hand.chance(30);
                    self.hand.call("req_notify_cq", || cq.arm(solicited))?;
                }
            }
            let mut got = [Wc::default(); 16];
            let count = cq.poll(&mut got)?;
            for wc in &got[..count] {
                self.complete(wc);
            }
        }
        Ok(())
    }

    fn complete(&mut self, wc: &Wc) {
        let (id, low) = ((wc.wr_id >> 32) as u32, wc.wr_id as usize);
        if id == SHARED {
            self.hand.tally.add("completion shared RECV", wc.status);
            let (id, slot) = ((low >> 8 & 0xff_ffff) as u32, low & 0xff);
            if let Some(shared) = self.srqs.iter_mut().find(|shared| shared.id == id && slot < SLOTS) {
                shared.posted &= !(1 << slot);
                if wc.status == 0 && wc.opcode == RECEIVED {
                    check_message(self.hand, &shared.mr.memory, slot * SLOT, wc.byte_len as usize);
                }
            }
        } else if id == DATAGRAM {
            if let Some(datagrams) = &mut self.datagrams {
                datagrams.complete(self.hand, wc);
            }
        } else if let Some(conn) = self.conns.iter_mut().find(|conn| conn.id == id) {
            if let Some((key, slot)) = conn.complete(self.hand, wc) {
                let known = known(conn, key, slot);
                self.bury_key(known);
            }
        }
    }

    fn traffic(&mut self) -> Result<()> {
        if self.conns.is_empty() {
            return self.connect();
        }
        let index = self.hand.rng.usize(..self.conns.len());
        let conn = &mut self.conns[index];
        if conn.look_for_answer(self.hand)? {
            self.hand.tally.add("nobody answered", 0);
            return self.end_conn(index);
        }
        if let Some(what) = conn.overdue(OVERDUE + self.hand.run.starved()) {
            if conn.one.qp.query() == Ok(verbs::state::RTS) {
                self.hand.run.violation(format!(
                    "{what} on queue pair {:#x} has not completed in {OVERDUE:?}",
                    conn.one.qp.number
                ));
            }
        }
        if conn.broken {
            if self.hand.chance(40) || conn.reconnect(self.hand).is_err() {
                return self.end_conn(index);
            }
            return Ok(());
        }
        conn.post_recvs(self.hand)?;
        for _ in 0..1 + self.hand.rng.u32(..6) {
            self.conns[index].post(self.hand)?;
        }
        self.post_shared()
    }

    fn connect(&mut self) -> Result<()> {
        if self.conns.len() >= CONNS {
            return Ok(());
        }
        let (send_cq, recv_cq) = (self.cq()?, self.cq()?);
        let srq = match self.hand.rng.u32(..4) {
            0 if !self.srqs.is_empty() => Some(self.srqs[self.hand.rng.usize(..self.srqs.len())].srq.clone()),
            _ => None,
        };
        let mut access = verbs::ALL | verbs::MW_BIND;
        if self.hand.chance(10) {
            access &= !(1 << self.hand.rng.u32(1..4));
        }
        if self.hand.chance(20) {
            // Windows cannot be bound to a paged region.
            access = access & !verbs::MW_BIND | verbs::ON_DEMAND;
        }
        let kind = if self.hand.chance(80) { Kind::Rc } else { Kind::Uc };
        let parts = Parts {
            pd: &self.pd,
            cqs: [&send_cq, &recv_cq],
            srq: srq.as_ref(),
            access,
        };
        let id = self.next_id;
        self.next_id += 1;
        let conn = if self.hand.run.broker.is_some() && self.hand.chance(50) {
            Conn::there(self.hand, id, kind, &parts)?
        } else {
            Conn::here(self.hand, id, kind, &parts)?
        };
        self.tell(&conn);
        self.conns.push(conn);
        Ok(())
    }

    /// Lets the attackers know a connection's keys.
    fn tell(&self, conn: &Conn) {
        let two = match &conn.peer {
            Peer::Here(two) => Some(two),
            _ => None,
        };
        for end in [Some(&conn.one), two].into_iter().flatten() {
            self.hand.run.ring.tell(Known {
                key: end.mr.rkey,
                number: end.qp.number,
                address: end.memory().address(),
            });
        }
    }

    fn disconnect(&mut self) -> Result<()> {
        if self.conns.is_empty() {
            return Ok(());
        }
        let index = self.hand.rng.usize(..self.conns.len());
        self.end_conn(index)
    }

    /// Ends a connection: regions under its requests, or queue pairs over their regions and windows.
    fn end_conn(&mut self, index: usize) -> Result<()> {
        let conn = self.conns.swap_remove(index);
        let regions_first = self.hand.chance(40);
        let Conn {
            one, peer, mut windows, ..
        } = conn;
        let two = match peer {
            Peer::Here(two) => Some(two),
            _ => None,
        };
        if regions_first {
            for window in windows.drain(..) {
                self.hand.call("dealloc_mw", || window.mw.close())?;
            }
        }
        for (end, windows) in [(Some(one), Vec::new()), (two, windows)] {
            let Some(end) = end else { continue };
            let known = Known {
                key: end.mr.rkey,
                number: end.qp.number,
                address: end.memory().address(),
            };
            if regions_first {
                self.hand.call("dereg_mr", || end.mr.close())?;
                self.bury(end.memory().clone(), "region was deregistered under its requests", None);
                self.bury_key(known);
                self.hand.call("destroy_qp", || end.qp.close())?;
                continue;
            }
            self.hand.call("destroy_qp", || end.qp.close())?;
            let memory = end.memory().clone();
            let region = Arc::new(end.mr);
            for window in windows {
                if window.kind == 2 && window.bound == Bound::Yes && self.hand.chance(80) {
                    let known = Known {
                        key: window.key,
                        address: memory.address() + (window.slot * SLOT) as u64,
                        ..known
                    };
                    self.hand.run.ring.tell_widow(known);
                    self.widows.push_back(Widow {
                        window,
                        region: region.clone(),
                        known,
                        since: Instant::now(),
                    });
                } else {
                    self.hand.call("dealloc_mw", || window.mw.close())?;
                }
            }
            // Nothing may write there any more, but through windows that live: those nobody may use.
            self.bury(memory, "queue pair was destroyed", Arc::into_inner(region));
        }
        while self.widows.len() > WIDOWS {
            self.end_widow()?;
        }
        Ok(())
    }

    fn end_widow(&mut self) -> Result<()> {
        let old = self
            .widows
            .front()
            .is_some_and(|w| w.since.elapsed() > Duration::from_secs(6));
        if self.widows.is_empty() || !(old || self.widows.len() > WIDOWS) {
            return Ok(());
        }
        let Some(widow) = self.widows.pop_front() else {
            return Ok(());
        };
        self.hand.run.ring.forget_widow(widow.known);
        self.hand.call("dealloc_mw", || widow.window.mw.close())?;
        self.bury_key(widow.known);
        if let Some(region) = Arc::into_inner(widow.region) {
            let known = Known {
                key: region.rkey,
                ..widow.known
            };
            self.hand.call("dereg_mr", || region.close())?;
            self.bury_key(known);
        }
        Ok(())
    }

    fn bury(&mut self, memory: Arc<Arena>, what: &'static str, region: Option<Mr>) {
        let pattern = self.hand.rng.u32(..);
        memory.fill(0, memory.len(), pattern);
        self.graves.push_back(Grave {
            memory,
            pattern,
            what,
            region,
        });
        while self.graves.len() > GRAVES {
            if let Some(grave) = self.graves.pop_front() {
                self.check(&grave);
                if let Some(region) = grave.region {
                    let key = region.rkey;
                    if self.hand.call("dereg_mr", || region.close()).is_ok() {
                        let address = grave.memory.address();
                        self.bury_key(Known {
                            key,
                            number: 0,
                            address,
                        });
                    }
                }
            }
        }
    }

    fn bury_key(&mut self, known: Known) {
        self.hand.run.ring.tell(known);
        self.dead.push_back(known);
        if self.dead.len() > DEAD {
            self.dead.pop_front();
        }
    }

    fn check(&self, grave: &Grave) {
        if let Some(wrong) = grave.memory.differs(0, grave.memory.len(), grave.pattern) {
            self.hand
                .run
                .violation(format!("memory changed after its {}: {wrong}", grave.what));
        }
    }

    fn check_graves(&mut self) {
        self.hand.tally.add("graves looked at", 0);
        for grave in &self.graves {
            self.check(grave);
        }
        for loose in &self.loose {
            if let Some(wrong) = loose.mr.memory.differs(0, loose.mr.memory.len(), loose.pattern) {
                self.hand
                    .run
                    .violation(format!("memory of a region that nobody uses changed: {wrong}"));
            }
        }
    }

    /// Whether a key is, or may be, one of this domain's.
    fn owns(&self, key: u32) -> bool {
        self.conns.iter().any(|conn| conn.owns(key))
            || self.loose.iter().any(|loose| loose.mr.rkey == key)
            || self
                .graves
                .iter()
                .any(|grave| grave.region.as_ref().is_some_and(|mr| mr.rkey == key))
            || self.widows.iter().any(|widow| widow.region.rkey == key)
            || self.srqs.iter().any(|shared| shared.mr.rkey == key)
            || self
                .datagrams
                .as_ref()
                .is_some_and(|datagrams| datagrams.mr.rkey == key)
    }

    /// Looks whether a dead key of this domain opens something for a queue pair of this domain.
    fn probe(&mut self) -> Result<()> {
        let widow = match self.widows.len() {
            0 => None,
            len => Some(self.widows[self.hand.rng.usize(..len)].known).filter(|_| self.hand.chance(30)),
        };
        let closed: Vec<Known> = self
            .loose
            .iter()
            .filter(|loose| !loose.open)
            .map(|loose| Known {
                key: loose.mr.rkey,
                number: 0,
                address: loose.mr.memory.address(),
            })
            .collect();
        let (what, known) = if let Some(known) = widow {
            ("window of a dead queue pair", known)
        } else if !closed.is_empty() && self.hand.chance(20) {
            ("region without rights", closed[self.hand.rng.usize(..closed.len())])
        } else if !self.dead.is_empty() {
            let known = self.dead[self.hand.rng.usize(..self.dead.len())];
            // The key may have been given to another region of this domain since.
            if self.owns(known.key) {
                return Ok(());
            }
            ("dead key", known)
        } else {
            return Ok(());
        };
        let mut probe = match self.probe.take() {
            Some(probe) => probe,
            None => Probe::new(self.hand, &self.pd)?,
        };
        let opcode = some_opcode(&mut self.hand.rng);
        match probe.attempt(self.hand, known, opcode)? {
            Outcome::Refused(status) => self.hand.tally.add("own attack", status),
            Outcome::Unknown => self.hand.tally.add("own attack", -1),
            Outcome::Opened => self.hand.run.violation(format!(
                "{what} {:#x} opened memory at {:#x} for its own domain",
                known.key, known.address
            )),
        }
        if !self.hand.chance(5) {
            self.probe = Some(probe);
        }
        Ok(())
    }

    fn shake(&mut self) -> Result<()> {
        if self.conns.is_empty() {
            return Ok(());
        }
        let index = self.hand.rng.usize(..self.conns.len());
        self.conns[index].shake(self.hand)
    }

    fn windows(&mut self) -> Result<()> {
        if self.conns.is_empty() {
            return Ok(());
        }
        let index = self.hand.rng.usize(..self.conns.len());
        let conn = &mut self.conns[index];
        if let Some((key, slot)) = conn.window(self.hand, &self.pd)? {
            let known = known(conn, key, slot);
            self.bury_key(known);
        }
        Ok(())
    }

    /// Completion queues and shared receive queues come, change and go.
    fn queues(&mut self) -> Result<()> {
        match self.hand.rng.u32(..6) {
            0 | 1 if !self.cqs.is_empty() => {
                let cq = self.cqs[self.hand.rng.usize(..self.cqs.len())].clone();
                let depth = 256 + self.hand.rng.i32(0..1024);
                self.hand.call("resize_cq", || cq.resize(depth))
            }
            2 if !self.cqs.is_empty() => {
                // Gone with the last queue pair that uses it; refused until then.
                let at = self.hand.rng.usize(..self.cqs.len());
                let cq = self.cqs[at].clone();
                if Arc::strong_count(&cq) <= 2 {
                    self.cqs.remove(at);
                    return self.hand.call("destroy_cq", || cq.close());
                }
                Ok(())
            }
            3 if self.srqs.len() < SRQS => {
                let srq = self.hand.call("create_srq", || Srq::new(&self.pd, 2 * SLOTS as u32))?;
                let memory = Arc::new(Arena::new(SLOTS * SLOT).map_err(|_| libc::ENOMEM)?);
                let mr = self
                    .hand
                    .call("reg_mr", || Mr::new(&self.pd, &memory, verbs::LOCAL_WRITE))?;
                self.next_id += 1;
                self.srqs.push(Shared {
                    srq,
                    mr,
                    posted: 0,
                    id: self.next_id & 0xff_ffff,
                });
                Ok(())
            }
            4 if !self.srqs.is_empty() => {
                let srq = self.srqs[self.hand.rng.usize(..self.srqs.len())].srq.clone();
                let limit = self.hand.chance(70).then(|| self.hand.rng.u32(..8));
                let depth = 2 * SLOTS as u32 + self.hand.rng.u32(..32);
                self.hand.call("modify_srq", || srq.modify(limit, depth))
            }
            5 if self.srqs.len() == SRQS && Arc::strong_count(&self.srqs[SRQS - 1].srq) == 1 => {
                let Some(shared) = self.srqs.pop() else { return Ok(()) };
                self.hand.call("destroy_srq", || shared.srq.close())?;
                self.bury(
                    shared.mr.memory.clone(),
                    "shared receive queue was destroyed",
                    Some(shared.mr),
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn post_shared(&mut self) -> Result<()> {
        for shared in &mut self.srqs {
            for slot in 0..SLOTS {
                if shared.posted & 1 << slot != 0 || self.hand.chance(50) {
                    continue;
                }
                let piece = Piece {
                    address: shared.mr.memory.address() + (slot * SLOT) as u64,
                    len: SLOT,
                    lkey: shared.mr.lkey,
                };
                let wr_id = u64::from(SHARED) << 32 | u64::from(shared.id) << 8 | slot as u64;
                self.hand.call("post_srq_recv", || shared.srq.post(wr_id, piece))?;
                shared.posted |= 1 << slot;
            }
        }
        Ok(())
    }

    /// Regions that nobody uses come, change and go.
    fn regions(&mut self) -> Result<()> {
        if self.loose.len() < LOOSE {
            let pages = 1 + self.hand.rng.usize(..MEMORY / 4096);
            let memory = Arc::new(Arena::new(pages * 4096).map_err(|_| libc::ENOMEM)?);
            let pattern = self.hand.rng.u32(..);
            let paged = self.hand.chance(40);
            let access = if paged {
                verbs::ALL | verbs::ON_DEMAND
            } else {
                verbs::ALL | verbs::MW_BIND
            };
            let mr = self.hand.call("reg_mr", || Mr::new(&self.pd, &memory, access))?;
            if paged && self.hand.chance(50) {
                memory.forget_pages();
            }
            memory.fill(0, memory.len(), pattern);
            self.hand.run.ring.tell(Known {
                key: mr.rkey,
                number: 0,
                address: memory.address(),
            });
            self.loose.push(Loose {
                mr,
                pattern,
                open: true,
            });
            return Ok(());
        }
        let index = self.hand.rng.usize(..self.loose.len());
        if self.hand.chance(40) {
            let loose = &mut self.loose[index];
            let open = self.hand.chance(50);
            let access = if open { verbs::ALL } else { verbs::LOCAL_WRITE };
            self.hand.call("rereg_mr", || loose.mr.rereg_access(access))?;
            loose.open = open;
            return Ok(());
        }
        let loose = self.loose.swap_remove(index);
        self.hand.call("dereg_mr", || loose.mr.close())?;
        let known = Known {
            key: loose.mr.rkey,
            number: 0,
            address: loose.mr.memory.address(),
        };
        self.bury(loose.mr.memory.clone(), "region was deregistered", None);
        self.bury_key(known);
        Ok(())
    }

    /// A datagram queue pair: address handles, groups, messages to itself and to the group.
    fn datagrams(&mut self) -> Result<()> {
        let Some(mut datagrams) = self.datagrams.take() else {
            let (send_cq, recv_cq) = (self.cq()?, self.cq()?);
            self.datagrams = Some(Datagrams::new(self.hand, &self.pd, [&send_cq, &recv_cq])?);
            return Ok(());
        };
        if self.hand.chance(8) {
            if let (Some(group), true) = (datagrams.group.take(), self.hand.chance(50)) {
                self.hand.call("detach_mcast", || datagrams.qp.detach(&group))?;
            }
            match self.hand.call("destroy_qp", || datagrams.qp.close()) {
                Ok(()) => {}
                // Refused while it is in a group.
                Err(libc::EBUSY) => {
                    self.datagrams = Some(datagrams);
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            }
            let memory = datagrams.mr.memory.clone();
            self.bury(memory, "datagram queue pair was destroyed", Some(datagrams.mr));
            return Ok(());
        }
        let done = datagrams.step(self.hand, &self.pd);
        self.datagrams = Some(datagrams);
        done
    }

    /// A domain with something in it is not given back.
    fn refuse_domain(&mut self) -> Result<()> {
        if self.loose.is_empty() {
            return Ok(());
        }
        if self.hand.call("dealloc_pd in use", || self.pd.close()).is_err() {
            return Ok(());
        }
        // Once the device is gone the kernel answers EIO to all, which the library takes for the end of what is
        // destroyed, and the thread that hears of events may hear of it later than this one.
        let there = Pd::new(&self.context).map(drop);
        if there.is_ok() {
            self.hand
                .run
                .violation("a domain was given back with regions in it".into());
        }
        there.and(Err(libc::EIO))
    }

    /// A child that has the device open, and all this process has mapped, and goes after a while.
    fn fork(&mut self) {
        let pause = self.hand.rng.u64(..200);
        // SAFETY: This process has one thread; the child only sleeps and ends.
        match unsafe { libc::fork() } {
            0 => {
                std::thread::sleep(Duration::from_millis(pause));
                // SAFETY: Ends the child at once, without what the parent would do at its end.
                unsafe { libc::_exit(0) };
            }
            -1 => self.hand.tally.add("fork", 1),
            _ => self.hand.tally.add("fork", 0),
        }
    }
}

impl Drop for World<'_, '_> {
    fn drop(&mut self) {
        // Whatever is left goes in the order in which it can: what is made from others keeps them alive.
        self.conns.clear();
        self.datagrams = None;
        for widow in self.widows.drain(..) {
            self.hand.run.ring.forget_widow(widow.known);
        }
    }
}

fn known(conn: &Conn, key: u32, slot: usize) -> Known {
    let end = match &conn.peer {
        Peer::Here(two) => two,
        _ => &conn.one,
    };
    Known {
        key,
        number: end.qp.number,
        address: end.memory().address() + (slot * SLOT) as u64,
    }
}

/// Bytes of the header that comes before a datagram.
const GRH: usize = 40;
const RECVS_AT: usize = SLOTS * SLOT;

impl Datagrams {
    fn new(hand: &mut Hand<'_>, pd: &Arc<Pd>, cqs: [&Arc<Cq>; 2]) -> Result<Self> {
        let memory = Arc::new(Arena::new(MEMORY).map_err(|_| libc::ENOMEM)?);
        let mr = hand.call("reg_mr", || Mr::new(pd, &memory, verbs::LOCAL_WRITE))?;
        let depth = [SLOTS as u32, SLOTS as u32];
        let qp = hand.call("create_qp", || Qp::new(pd, Kind::Ud, cqs, None, depth, 64))?;
        to_init(hand, &qp)?;
        let way = Way {
            from: (0, [0; 2]),
            to: [0; 2],
            number: 0,
            psns: [0, hand.rng.u32(..1 << 24)],
            mtu: 1,
            timeout: 0,
            rnr_timer: 0,
        };
        to_rts(hand, &qp, &way)?;
        Ok(Self {
            qp,
            mr,
            ahs: Vec::new(),
            group: None,
            under_way: Default::default(),
            count: 0,
        })
    }

    fn step(&mut self, hand: &mut Hand<'_>, pd: &Arc<Pd>) -> Result<()> {
        match hand.rng.u32(..10) {
            0 => {
                let gid = hand.run.gid(&mut hand.rng).ok_or(libc::EAGAIN)?;
                let to = if hand.chance(70) { gid.1 } else { group(hand) };
                let ah = hand.call("create_ah", || Ah::new(pd, &address(gid, to)))?;
                self.ahs.push(ah);
                if self.ahs.len() > 4 {
                    let ah = self.ahs.remove(0);
                    hand.call("destroy_ah", || ah.close())?;
                }
            }
            1 => match self.group.take() {
                Some(group) => hand.call("detach_mcast", || self.qp.detach(&group))?,
                None => {
                    let group = group(hand);
                    hand.call("attach_mcast", || self.qp.attach(&group))?;
                    self.group = Some(group);
                }
            },
            2 => {
                hand.call("modify ERR", || self.qp.to(verbs::state::ERR))?;
                hand.call("modify RESET", || self.qp.to(verbs::state::RESET))?;
                self.under_way = Default::default();
                to_init(hand, &self.qp)?;
                let way = Way {
                    from: (0, [0; 2]),
                    to: [0; 2],
                    number: 0,
                    psns: [0, 1],
                    mtu: 1,
                    timeout: 0,
                    rnr_timer: 0,
                };
                to_rts(hand, &self.qp, &way)?;
            }
            3..=5 => {
                for slot in 0..SLOTS {
                    if self.under_way[SLOTS + slot] == 0 {
                        let piece = self.piece(RECVS_AT + slot * SLOT, SLOT);
                        let wr_id = self.number(SLOTS + slot);
                        hand.call("post_recv", || self.qp.post_recv(wr_id, piece))?;
                        self.under_way[SLOTS + slot] = wr_id;
                    }
                }
            }
            _ if !self.ahs.is_empty() => {
                let slot = hand.rng.usize(..SLOTS);
                if self.under_way[slot] != 0 {
                    return Ok(());
                }
                let wr_id = self.number(slot);
                let len = 16 + 8 * hand.rng.usize(..24);
                self.mr.memory.fill(slot * SLOT, len, hand.rng.u32(..));
                let ah = &self.ahs[hand.rng.usize(..self.ahs.len())];
                let send = Request::Datagram {
                    piece: self.piece(slot * SLOT, len),
                    ah,
                    number: if hand.chance(80) { self.qp.number } else { 0xff_ffff },
                    qkey: QKEY,
                };
                hand.call("post_send", || self.qp.post(wr_id, &send, SIGNALED))?;
                self.under_way[slot] = wr_id;
            }
            _ => {}
        }
        Ok(())
    }

    fn piece(&self, at: usize, len: usize) -> Piece {
        Piece {
            address: self.mr.memory.address() + at as u64,
            len,
            lkey: self.mr.lkey,
        }
    }

    fn number(&mut self, slot: usize) -> u64 {
        self.count += 1;
        u64::from(DATAGRAM) << 32 | (self.count & 0xff_ffff) << 8 | slot as u64
    }

    fn complete(&mut self, hand: &mut Hand<'_>, wc: &Wc) {
        let slot = (wc.wr_id & 0xff) as usize;
        // Of one before this, or from before a reset.
        if slot >= 2 * SLOTS || self.under_way[slot] != wc.wr_id || wc.qp_num != self.qp.number {
            return;
        }
        self.under_way[slot] = 0;
        if slot < SLOTS {
            hand.tally.add("datagram", wc.status);
            return;
        }
        hand.tally.add("completion datagram RECV", wc.status);
        let len = wc.byte_len as usize;
        if wc.status == 0 && len > GRH {
            let at = RECVS_AT + (slot - SLOTS) * SLOT + GRH;
            check_message(hand, &self.mr.memory, at, len - GRH);
        }
    }
}

/// One of few groups, 239.9.9.x, so that members meet.
fn group(hand: &mut Hand<'_>) -> [u64; 2] {
    let mut low = [0, 0, 0xff, 0xff, 239, 9, 9, 0];
    low[7] = hand.rng.u8(1..4);
    [0, u64::from_ne_bytes(low)]
}
