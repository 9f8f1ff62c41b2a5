// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The attributes of a queue pair: changed, asked for, and the path among them kept up to date.

use super::{Event, Qp};
use crate::{
    attr, caps,
    kapi::{
        hint::hint,
        revoke::Gate,
        timer::now,
        uverbs::{udp_sport, QpAttr},
    },
    watch,
    wire::Wire,
};
use kernel::{
    prelude::*,
    sync::{atomic::Full, Arc},
};
use roce::{
    ends::Ends,
    grants::Asks,
    limits,
    psn::Qpn,
    qp::{ModifyError, Mtu, ReadResource, State as QpState},
    time::Instant,
    wire::udp::Path,
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

impl Qp {
    /// Changes attributes and state.
    pub(crate) fn modify(this: &Arc<Self>, mut wanted: QpAttr<'_>, mask: i32) -> Result {
        let mask = u32::from_ne_bytes(mask.to_ne_bytes());
        let has = |bit: u32| mask & bit != 0;
        let unknown = has(c::ib_qp_attr_mask_IB_QP_ALT_PATH
            | c::ib_qp_attr_mask_IB_QP_PATH_MIG_STATE
            | c::ib_qp_attr_mask_IB_QP_RATE_LIMIT
            | c::ib_qp_attr_mask_IB_QP_CAP);
        if unknown || mask & !c::ib_qp_attr_mask_IB_QP_ATTR_STANDARD_BITS != 0 {
            hint!(
                this.device.ib(),
                "QP {:#x}: attributes {:#x}: no path migration, no rate limit",
                this.number,
                mask
            );
            return Err(not_supported());
        }
        let refuse = |why: &str| {
            hint!(this.device.ib(), "QP {:#x}: {}", this.number, why);
            EINVAL
        };
        let netdev = this.device.netdev().ok_or(ENODEV)?;
        Self::flush(this);
        // Memory for the peer's READs is as large as it was ever asked to be.
        let mut reads = KVVec::new();
        if has(c::ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC) {
            let wanted = usize::from(wanted.fields().max_dest_rd_atomic).min(limits::MAX_RD_ATOMIC);
            if wanted > this.state.lock().engine.read_capacity() {
                reads.resize(wanted, ReadResource::EMPTY, GFP_KERNEL)?;
            }
        }
        let mut parked = KVec::new();
        let mut ended = None;
        let mut loans = None;
        let resets = has(c::ib_qp_attr_mask_IB_QP_STATE) && wanted.fields().qp_state == c::ib_qp_state_IB_QPS_RESET;
        let mut fresh = resets.then(|| Arc::pin_init(Gate::new(), GFP_KERNEL)).transpose()?;
        {
            let mut guard = this.state.lock();
            let state = &mut *guard;
            state.engine.swap_reads(&mut reads);
            let dest = if has(c::ib_qp_attr_mask_IB_QP_DEST_QPN) {
                wanted.fields().dest_qp_num
            } else {
                state.kept.fields().dest_qp_num
            };
            let path = if has(c::ib_qp_attr_mask_IB_QP_AV) {
                let flat = wanted.path(&netdev).ok_or_else(|| refuse(attr::NO_PATH))?;
                let src_port = udp_sport(flat.flow_label, this.number, dest);
                Some(attr::path(&flat, src_port))
            } else {
                None
            };
            let out = netdev.tagged(path.map_or(0, |path| path.tag));
            let port_mtu = caps::active_mtu(out.ok_or_else(|| refuse("its VLAN is down"))?.mtu());
            let modify = attr::read_modify(state.engine.state(), this.kind, &wanted, mask, port_mtu).map_err(refuse)?;
            let before = watch::before(&state.engine);
            state.engine.modify(Instant(now()), &modify).map_err(|err| {
                refuse(match err {
                    ModifyError::Transition => "no such transition",
                    ModifyError::Missing => "an attribute that the new state needs was never given",
                    ModifyError::Range => "an attribute is out of range",
                })
            })?;
            if let Some(mtu) = modify.path_mtu.map(Mtu::bytes).filter(|mtu| *mtu > port_mtu) {
                // Both ends count packets by the MTU that they agreed on, so this one must not take a smaller one.
                hint!(
                    this.device.ib(),
                    "QP {:#x}: the path's MTU is {} and the port's {}: of longer messages than that none leave; give \
                     the netdevs one MTU",
                    this.number,
                    mtu,
                    port_mtu
                );
            }
            watch::after(before, &state.engine, this.device.ib(), this.number);
            if let Some(path) = path {
                let ends = Ends::new(&path.addresses, Qpn::new(this.number), Qpn::new(dest));
                state.wire = Some(Wire { path, ends });
                state.runs.handle_path();
                state.kept.keep_path(&wanted);
            }
            attr::keep(&mut state.kept, wanted.fields(), mask);
            if modify.state == Some(QpState::Reset) {
                state.own.sq.reset();
                state.own.rq.reset();
                state.wire = None;
                state.asks = Asks::default();
                state.kept.forget();
                parked = state.paging.renew();
                ended = this.life.renew(this.device.new_serial());
                loans = fresh.take().map(|fresh| core::mem::replace(&mut state.loans, fresh));
            }
        }
        drop(parked);
        if let Some(loans) = loans {
            loans.close();
        }
        if let Some(life) = ended {
            this.device.keyed.end_life(life);
        }
        Self::work(this, Event::Modified);
        Ok(())
    }

    /// Leads to where its next hop is now, in a pass over `all` paths or only over those whose peer was late.
    pub(crate) fn renew(&self, all: bool, look_up: &mut impl FnMut(&Path, bool) -> Option<[u8; 6]>) {
        let late = self.late.xchg(0, Full) != 0;
        let wire = self.state.lock().wire;
        let Some(old) = wire.filter(|_| all || late).map(|wire| wire.path) else {
            return;
        };
        let Some(hop) = look_up(&old, late) else {
            return;
        };
        let mut state = self.state.lock();
        // It may have been modified since.
        match &mut state.wire {
            Some(Wire { path, .. }) if path.leads_as(&old) => path.dst_mac = hop,
            _ => {}
        }
    }

    /// Answers `query_qp`.
    pub(crate) fn query(&self, attr: &mut c::ib_qp_attr) {
        let mut state = self.state.lock();
        let now = state.engine.query();
        let kept = state.kept.fields();
        kept.qp_state = u32::from(now.state as u8);
        kept.cur_qp_state = kept.qp_state;
        kept.path_mtu = u32::from(now.path_mtu as u8);
        kept.rq_psn = now.rq_psn.value();
        kept.sq_psn = now.sq_psn.value();
        kept.sq_draining = u8::from(now.sq_draining);
        kept.port_num = 1;
        state.kept.answer(attr);
    }
}
