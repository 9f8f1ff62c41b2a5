// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The making of queue pairs, for user space and for callers in the kernel, and how the latter post.

use super::{
    phase::{Pace, Phase},
    Engine, Qp, State, QPN_FLAG,
};
use crate::{
    caps::MULTICAST,
    counters::Tally,
    cq::{Cq, Sender},
    device::{Device, Qps},
    early::Waiting,
    host::Own,
    kapi::{
        self,
        queue::Mapping,
        revoke::Gate,
        share::Owner,
        sync::{new_bh_lock, new_irq_lock},
        tasklet::new_tasklet,
        timer::new_timer,
        uverbs::{KeptAttr, QpHandle, Udata},
    },
    paging::Paging,
    post::Send,
    srq::Srq,
    window::Life,
    wire::udp::Flight,
    wq::{RecvQueue, SendQueue},
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use roce::{
    keys::Pd,
    lanes::Turn,
    psn::Qpn,
    qp::{QpConfig, QpKind, ReadResource, SendMessage, Slots},
    runs::Runs,
};
use usb4_bindings as c;

/// What a QP is made of.
pub(crate) struct NewQp {
    pub(crate) device: Arc<Device>,
    pub(crate) pd: Pd,
    pub(crate) send_cq: Arc<Cq>,
    pub(crate) recv_cq: Arc<Cq>,
    pub(crate) srq: Option<Arc<Srq>>,
    pub(crate) handle: QpHandle,
    pub(crate) kind: QpKind,
    pub(crate) signal_all: bool,
}

impl Qp {
    /// A QP in RESET. `cap` becomes what it really has.
    pub(crate) fn create(new: NewQp, cap: &mut c::ib_qp_cap, udata: Option<&Udata>) -> Result<Arc<Self>> {
        if udata.is_some_and(|udata| udata.in_len() != 0 || udata.out_len() < 32) {
            return Err(EINVAL);
        }
        let is_gsi = new.kind == QpKind::Gsi;
        if is_gsi && udata.is_some() {
            return Err(EPERM);
        }
        let slot = new.device.qps.reserve(kapi::pure::random())?;
        let mut number = Qps::number(slot, kapi::pure::random()) & 0x00ff_ffff | QPN_FLAG;
        if number == MULTICAST.value() {
            // One of the random bits.
            number ^= 1 << 17;
        }
        let device = new.device.clone();
        // Their memory comes first: while the kernel looks for it, nothing of the rest is on the stack (see `engine`).
        let made = queues(new.kind, new.signal_all, new.srq.clone(), cap, udata)
            .and_then(|queues| Self::build(new, number, queues, cap, udata));
        match &made {
            Ok(qp) => {
                device.qps.fill(number, qp.clone());
                if is_gsi {
                    device.set_gsi(number);
                }
            }
            Err(_) => drop(device.qps.release(number)),
        }
        made
    }

    #[inline(never)]
    fn build(
        new: NewQp,
        number: u32,
        (own, mappings): Queues,
        cap: &mut c::ib_qp_cap,
        udata: Option<&Udata>,
    ) -> Result<Arc<Self>> {
        let NewQp {
            device,
            pd,
            send_cq,
            recv_cq,
            srq,
            handle,
            kind,
            signal_all,
        } = new;
        let config = QpConfig {
            kind,
            srq: srq.is_some(),
            ..QpConfig::new(Qpn::new(number))
        };
        let (sends, recvs) = match udata {
            Some(udata) => {
                let mut answer = [0; 32];
                for (to, mapping) in answer.chunks_exact_mut(16).zip(&mappings) {
                    if let Some(mapping) = mapping {
                        to.copy_from_slice(&mapping.info.bytes());
                    }
                }
                udata.reply(&answer)?;
                (None, None)
            }
            None => (Some(own.sq.poster()), own.rq.poster()),
        };
        let state = state(config, own, handle, *cap)?;
        let life = Life::new(device.new_serial());
        let qp = Arc::pin_init(
            pin_init!(Self {
                number,
                device,
                pd,
                send_cq,
                recv_cq,
                kind,
                signal_all,
                life,
                errands <- Gate::new(),
                owner: udata.map_or(Owner::kernel(), |_| Owner::caller(!kind.is_datagram())),
                state <- new_bh_lock!(state, c"usb4_qp"),
                timer <- new_timer!(c"usb4_qp_timer"),
                after <- new_tasklet!(c"usb4_qp_tasklet"),
                flight: Flight::new(),
                late: Atomic::new(0),
                awaits: Atomic::new(0),
                flushes: Atomic::new(0),
                queued: Atomic::new(0),
                mappings <- new_mutex!(mappings, "usb4_qp_mappings"),
                sends <- new_irq_lock!(sends, c"usb4_sends"),
                recvs <- new_irq_lock!(recvs, c"usb4_recvs"),
            }),
            GFP_KERNEL,
        )?;
        qp.timer.own(&qp);
        qp.after.own(&qp);
        Ok(qp)
    }

    /// Posts a kernel caller's send; [`Self::kick`] makes it go. Any context.
    pub(crate) fn post_send(&self, send: &Send<'_>) -> Result {
        (*self.sends.lock()).as_mut().ok_or(EINVAL)?.send(send)
    }

    /// Posts a kernel caller's receive. Any context.
    pub(crate) fn post_recv(&self, wr_id: u64, sges: &[c::ib_sge]) -> Result {
        (*self.recvs.lock()).as_mut().ok_or(EINVAL)?.recv(wr_id, sges)?;
        if self.flushes.load(Relaxed) == 1 {
            // Who drains the queue waits for this one.
            self.kick();
        }
        Ok(())
    }

    /// Has a softirq look at what was posted. Any context.
    pub(crate) fn kick(&self) {
        self.timer.kick();
    }
}

/// The queues of a QP, and what user space may map of them.
type Queues = (Own, [Option<Mapping>; 2]);

/// The queues of a QP, and what user space may map of them: first the receives, then the sends.
///
/// Each part of a QP is made in a function of its own, for the sake of the stack: see [`engine`].
#[inline(never)]
fn queues(
    kind: QpKind,
    signal_all: bool,
    srq: Option<Arc<Srq>>,
    cap: &mut c::ib_qp_cap,
    udata: Option<&Udata>,
) -> Result<Queues> {
    let (rq, rq_mapping) = if let Some(srq) = srq {
        (cap.max_recv_wr, cap.max_recv_sge) = (0, 0);
        (RecvQueue::shared(srq)?, None)
    } else {
        RecvQueue::new(&mut cap.max_recv_wr, cap.max_recv_sge, udata)?
    };
    let (mut sq, sq_mapping) = SendQueue::new(
        &mut cap.max_send_wr,
        &mut cap.max_send_sge,
        &mut cap.max_inline_data,
        signal_all,
        udata,
    )?;
    if kind.is_datagram() {
        sq.keep_vectors()?;
    }
    let own = Own {
        sq,
        rq,
        sender: Sender::default(),
        early: Waiting::new(),
    };
    Ok((own, [rq_mapping, sq_mapping]))
}

/// What is behind the lock of a QP in RESET.
#[inline(never)]
fn state(config: QpConfig, own: Own, handle: QpHandle, cap: c::ib_qp_cap) -> Result<State> {
    let mut sends = KVVec::new();
    sends.resize(usize::try_from(own.sq.places())?, SendMessage::EMPTY, GFP_KERNEL)?;
    // Grows when it is known how many the peer may have.
    let reads = KVVec::new();
    let mut kept = KeptAttr::default();
    kept.fields().cap = cap;
    let loans = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
    Ok(State {
        engine: engine(config, Slots { sends, reads })?,
        own,
        wire: None,
        tally: Tally::default(),
        ip_id: 0,
        phase: Phase::Idle(handle),
        pace: Pace::new(),
        stuck: false,
        kept,
        paging: Paging::new(),
        runs: Runs::default(),
        turn: Turn::new(config.qpn.value() as usize, config.kind),
        asks: roce::grants::Asks::default(),
        loans,
    })
}

/// An engine on the heap. It is large, and the stack of whoever makes a queue pair is also that of the softirqs that
/// meet him there (arch/um has no other), so no frame below holds one.
#[inline(never)]
fn engine(config: QpConfig, slots: Slots<KVVec<SendMessage>, KVVec<ReadResource>>) -> Result<KBox<Engine>> {
    Ok(KBox::new(Engine::new(config, slots), GFP_KERNEL)?)
}
